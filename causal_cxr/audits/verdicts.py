"""Verdicts: the design's table as data. Yes and no each need a rejection; everything else is undecided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Call = Literal["yes", "no", "undecided"]

#: What each verdict tells the user.
MEANING = {
    "declared": "the graph is right and the editor knows it",
    "hidden": "an unlabelled image-attribute edge: an adjacency, whose direction edits cannot tell",
    "mediated": "an unlabelled relation that runs through labelled attributes only",
    "contradicted": "data and editor disagree in sign: look at the gallery",
    "confounded": "a spurious correlation that the editor has learnt",
    "artifact": "not in these data: invented by the editor, or learnt elsewhere",
    "missed": "survives adjustment, but the editor does not move it: a limit of the editor, or not an effect",
    "unsupported": "declared, but shown neither by the data nor by the editor",
    "spurious": "in the data, not causal by the graph, not learnt by the editor",
    "none": "shown absent in editor and data alike",
    "undecided": "the data do not decide, and the reason is given; never read as 'none'",
}


@dataclass(frozen=True)
class Rule:
    """One row of the table; ``None`` = any.

    Attributes:
        sign: relation of the adjusted (or, if that is "no", the marginal) effect's sign to the editor's.
    """

    verdict: str
    editor: Call
    adjusted: Call | None
    marginal: Call | None
    sign: Literal["same", "opposite"] | None = None
    path: bool | None = None


TABLE: tuple[Rule, ...] = (
    Rule("declared", "yes", "yes", None, "same", True),
    Rule("hidden", "yes", "yes", None, "same", False),
    Rule("contradicted", "yes", "yes", None, "opposite"),
    Rule("confounded", "yes", "no", "yes", "same"),
    Rule("artifact", "yes", "no", "no"),
    Rule("missed", "no", "yes", None),
    Rule("unsupported", "no", "no", None, None, True),
    Rule("spurious", "no", "no", "yes", None, False),
    Rule("none", "no", "no", "no", None, False),
)


def conjunction_p(
    rule: Rule, p_yes: Mapping[str, float], p_no: Mapping[str, float], signs: Mapping[str, float | None], path: bool
) -> float:
    """p of a verdict: the largest of its conjuncts' p-values; 1 where sign or declared path do not fit.

    Args:
        p_yes, p_no: by side (``editor``, ``adjusted``, ``marginal``).
        signs: of the three estimates; None, of the editor's, is not known yet and fits any.
        path: whether the graph declares a directed path.
    """
    if rule.path is not None and rule.path != path:
        return 1.0
    if rule.sign is not None and signs["editor"] is not None:
        other = "marginal" if rule.adjusted == "no" else "adjusted"
        if (signs["editor"] == signs[other]) != (rule.sign == "same"):
            return 1.0
    calls = {"editor": rule.editor, "adjusted": rule.adjusted, "marginal": rule.marginal}
    return max((p_yes if call == "yes" else p_no)[side] for side, call in calls.items() if call is not None)


@dataclass(frozen=True)
class Evidence:
    """What one cell has to say for and against each verdict.

    Attributes:
        p_yes, p_no: by side, ``direct`` among them; of e-values their inverses, which are p-values too.
        signs: as in :func:`conjunction_p`.
        path: whether the graph declares a directed path.
        has_direct: whether labelled mediators exist, so that the direct effect is asked for.
        refused: whether a gate failed: no verdict then.
    """

    p_yes: Mapping[str, float]
    p_no: Mapping[str, float]
    signs: Mapping[str, float | None]
    path: bool
    has_direct: bool
    refused: bool


def families(cells: Sequence[Evidence]) -> dict[str, np.ndarray]:
    """Verdict -> ``(n,)`` p of its conjunction in each cell: one family a verdict kind.

    Where labelled mediators exist, the direct effect must be shown too, there (``hidden``) or absent (``mediated``): "hidden" for
    want of a "no" would be a verdict made from a failure to reject.
    """
    found: dict[str, np.ndarray] = {}
    for rule in TABLE:
        p = np.array([1.0 if c.refused else conjunction_p(rule, c.p_yes, c.p_no, c.signs, c.path) for c in cells])
        found[rule.verdict] = p
        if rule.verdict == "hidden":
            found["hidden"] = np.maximum(p, [c.p_yes["direct"] if c.has_direct else 0.0 for c in cells])
            found["mediated"] = np.maximum(p, [c.p_no["direct"] if c.has_direct else 1.0 for c in cells])
    return found


def verdict_of(calls: dict[str, Call], signs: dict[str, float], path: bool) -> str:
    """The table's verdict for three calls; ``undecided`` where no row fits."""
    for rule in TABLE:
        p_yes = {side: 0.0 if call == "yes" else 1.0 for side, call in calls.items()}
        p_no = {side: 0.0 if call == "no" else 1.0 for side, call in calls.items()}
        if conjunction_p(rule, p_yes, p_no, signs, path) == 0.0:
            return rule.verdict
    return "undecided"
