"""Do other witnesses say the same? Which reader of several is heard, and whether the others contradict it.

A reader that follows the attribute is heard all the same where another one that shares neither backbone nor patients with it
says the same, both with what they see of the attribute itself taken off.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.cells import FOLLOWS, SIDES

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
    able = _by_edge(others[~others["blind"] & ~others["follows"]])
    said = []
    for edge in edges.to_dict("records"):
        seconds = able.get(_key(edge), [])
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


def _key(cell: Mapping[Any, Any]) -> tuple[str, str, str]:
    return cell["editor"], cell["contrast"], cell["concept"]


def _by_edge(cells: pd.DataFrame) -> dict[tuple[str, str, str], list[dict[Any, Any]]]:
    """What several readers say of each edge. Grouped as plain rows: a frame an edge costs more than all the rest."""
    found: dict[tuple[str, str, str], list[dict[Any, Any]]] = {}
    for cell in cells.to_dict("records"):
        found.setdefault(_key(cell), []).append(cell)
    return found


def _opposed(a: Mapping[str, Any], b: Mapping[str, Any], side: str) -> bool:
    calls = {a[f"{side}_call"], b[f"{side}_call"]}
    return calls == {"yes", "no"} or (calls == {"yes"} and a[f"{side}_effect"] * b[f"{side}_effect"] < 0)


def heard_with_a_witness(edges: pd.DataFrame, others: pd.DataFrame, apart: Collection[frozenset[str]]) -> pd.DataFrame:
    """Cells of readers that follow the attribute, where a second reader of the same concept makes the same calls.

    Args:
        edges: cells of the chosen readers.
        others: cells of the others.
        apart: pairs of readers' names that share neither backbone nor patients (:func:`causal_cxr.readers.kinship`).

    Returns:
        ``edges`` with a column ``witness`` (empty: none needed or none found); with one, the gate is open, and every p is the larger of both
        readers'.
    """
    rows = []
    seconds = _by_edge(others)
    for edge in edges.to_dict("records"):
        candidates = seconds.get(_key(edge), [])
        follows = any(gate.kind == FOLLOWS for gate in edge["gates"])
        found = next((second for second in candidates if follows and _bears_out(edge, second, apart)), None)
        edge["witness"] = ""
        if found is not None:
            edge["witness"] = found["reader"]
            edge["gates"] = tuple(gate for gate in edge["gates"] if gate.kind != FOLLOWS)
            edge |= {key: max(edge[key], found[key]) for s in (*SIDES, "direct") for key in (f"{s}_p_yes", f"{s}_p_no")}
        rows.append(edge)
    return pd.DataFrame(rows, columns=[*edges.columns, "witness"])


def _bears_out(edge: Mapping[Any, Any], second: Mapping[Any, Any], apart: Collection[frozenset[str]]) -> bool:
    """Whether a second reader, apart from the first and not blind, makes both of its calls, with the same signs.

    Not where it is unknown what either sees of the attribute: then two readers with one bias would bear each other out.
    """
    able = not second["blind"] and all(gate.kind == FOLLOWS for gate in second["gates"])
    able = able and all(one["shift_known"] or not one["follows"] for one in (edge, second))
    if not able or frozenset((edge["reader"], second["reader"])) not in apart:
        return False
    return all(
        edge[f"{side}_call"] == second[f"{side}_call"] in ("yes", "no") and not _opposed(edge, second, side)
        for side in ("editor", "adjusted")
    )
