"""Which edits an editor stood by, in whom: a rejection that is commoner in one group biases what is learnt of it."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.effects import clustered_share
from causal_cxr.graphs import CausalGraph, Continuous

ROUNDING = 0.02  #: share of the images that a cut may move to another band by being rounded
COLUMNS = (
    "editor",
    "contrast",
    "attribute",
    "kind",
    "group",
    "level",
    "n",
    "accepted",
    "rate",
    "low",
    "high",
    "reasons",
)


def acceptance_rates(measurements: pd.DataFrame, attributes: pd.DataFrame, graph: CausalGraph) -> pd.DataFrame:
    """Acceptance by editor, contrast and group of patients.

    Args:
        measurements: as :mod:`causal_cxr.audits.measure` writes them.
        attributes: the dataset's labelled table, index = its rows.
        graph: whose labelled attributes the groups are the levels of; numbers are halved at the edited images' median.

    Returns:
        One row an editor x contrast x kind x group: ``contrast`` is empty for null edits; ``group`` and ``level`` are an attribute
        and its value before the edit, both empty for all edits. ``n`` edits that apply, of which ``accepted``; ``rate`` with its
        95% interval, ``low`` to ``high``, patients as clusters (:func:`causal_cxr.audits.effects.clustered_share`), 0 to 1 of
        fewer than three patients, who tell nothing of others; ``reasons`` for the rejected, the commonest first: a reason is
        told up to its first number, so that "similarity 0.41 < 0.60" and "similarity 0.52 < 0.60" are one.
    """
    edits = measurements[(measurements["kind"] == "null") | (measurements["orientation"] != 0)]
    edits = edits[edits["kind"] != "factual"]
    everyone = np.sort(edits["row"].unique())
    groups = [("", "", everyone), *patient_groups(attributes.loc[everyone], graph)]
    rows: list[tuple[Any, ...]] = []
    for key, mine in edits.groupby(["editor", "contrast", "attribute", "kind"], sort=False):
        of, kept, reasons = mine["row"].to_numpy(), mine["accepted"].to_numpy(dtype=bool), mine["reason"].to_numpy()
        patients = pd.factorize(mine["patient"])[0]
        for group, level, members in groups:
            here = np.isin(of, members)
            if here.any():
                share = clustered_share(kept[here], patients[here])
                low, high = (share.low, share.high) if share.patients >= 3 else (0.0, 1.0)
                rows.append((*key, group, level, share.n, int(kept[here].sum()), share.value, low, high,
                             _summary(reasons[here & ~kept])))  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def patient_groups(table: pd.DataFrame, graph: CausalGraph, bands: int = 2) -> Iterator[tuple[str, str, np.ndarray]]:
    """Groups of images whose patients share a labelled attribute.

    Args:
        table: the labelled attributes, index = row.
        graph: whose labelled attributes the groups are the levels of.
        bands: of a number, with about equally many images each.

    Yields:
        the attribute, its level or band in words, and the rows. Missing values are in no group.

    >>> from causal_cxr.graphs import Continuous
    >>> graph = CausalGraph([Continuous("age", unit="years", low=0, high=100)])
    >>> [level for _, level, _ in patient_groups(pd.DataFrame({"age": [20.0, 40.0, 60.0, 80.0]}), graph)]
    ['up to 50', 'over 50']
    """
    for name in graph.labelled:
        attribute = graph.attributes[name]
        if name not in table.columns or table[name].isna().all():
            continue
        values, rows = table[name], table.index.to_numpy()
        if isinstance(attribute, Continuous):
            cuts = np.nanquantile(values.to_numpy(dtype=float), np.arange(1, bands) / bands)
            edges, digits = _told(np.unique(cuts), values.dropna().to_numpy(dtype=float))
            band = np.where(values.isna(), -1, np.searchsorted(edges, values.to_numpy(dtype=float), side="left"))
            words = [f"{edge:.{digits}g}" for edge in edges]
            between = [f"{low} to {high}" for low, high in pairwise(words)]
            for k, level in enumerate([f"up to {words[0]}", *between, f"over {words[-1]}"]):
                yield name, level, rows[band == k]
        else:
            for value in attribute.levels:
                yield name, str(value), rows[(values == value).fillna(False).to_numpy(dtype=bool)]


def _told(cuts: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, int]:
    """Cuts rounded as they are told, and to how many significant digits: three, or as many as leave the bands what they are.

    Years or large numbers would else fall into one band, or be told by a cut that parts nothing.
    """
    below = (values[:, None] <= cuts).mean(axis=0)
    for digits in range(3, 18):
        edges = np.array([float(f"{cut:.{digits}g}") for cut in cuts])
        if np.abs((values[:, None] <= edges).mean(axis=0) - below).max() <= ROUNDING:
            break
    return edges, digits


def _summary(reasons: Iterable[str]) -> str:
    kinds = Counter(
        kind for reason in reasons for kind in {re.split(r"\s*-?\d", part)[0] for part in str(reason).split("; ")}
    )
    return "; ".join(f"{kind} ({n})" for kind, n in sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
