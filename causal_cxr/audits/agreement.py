"""Do other witnesses say the same? Which reader of several is heard, and whether the others contradict it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

AGREE, DIFFER, OPEN = "agree", "differ", "open"


def best_reader(cells: pd.DataFrame) -> np.ndarray:
    """``(n,)`` bool: of an edge's readers the one with the highest lower bound of its slope; ones that follow A come last.

    Only what was known before any edit was read decides, so that choosing biases nothing.
    """
    merit = cells["slope_low"].fillna(-np.inf) - 10.0 * cells["follows"]
    order = cells.assign(merit=merit).sort_values("merit", ascending=False, kind="stable")
    best = order.drop_duplicates(["editor", "contrast", "concept"]).index
    return cells.index.isin(best)


def reader_agreement(edges: pd.DataFrame, others: pd.DataFrame) -> list[str]:
    """Of each edge, whether the other readers that are neither blind nor following A make the same calls.

    ``differ``: one says yes where another says no, or yes with the other sign. ``agree``: all share every call that the
    chosen reader makes on the editor's and the adjusted side. ``open``: neither. Empty: no other reader.
    """
    able = others[~others["blind"] & ~others["follows"]].groupby(["editor", "contrast", "concept"])
    groups = {key: group.to_dict("records") for key, group in able}
    said = []
    for edge in edges.to_dict("records"):
        seconds = groups.get((edge["editor"], edge["contrast"], edge["concept"]), [])
        pairs: list[tuple[Any, Any, str]] = [
            (edge, second, side) for second in seconds for side in ("editor", "adjusted")
        ]
        if any(_opposed(*pair) for pair in pairs):
            said.append(DIFFER)
        elif not pairs:
            said.append("")
        else:
            shared = all(a[f"{s}_call"] in (b[f"{s}_call"], "undecided", "") for a, b, s in pairs)
            said.append(AGREE if shared else OPEN)
    return said


def _opposed(a: Mapping[str, Any], b: Mapping[str, Any], side: str) -> bool:
    calls = {a[f"{side}_call"], b[f"{side}_call"]}
    return calls == {"yes", "no"} or (calls == {"yes"} and a[f"{side}_effect"] * b[f"{side}_effect"] < 0)
