"""Verdicts: the design's table as data. Yes and no each need a rejection; everything else is undecided."""

from dataclasses import dataclass
from typing import Literal

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
    rule: Rule, p_yes: dict[str, float], p_no: dict[str, float], signs: dict[str, float], path: bool
) -> float:
    """p of a verdict: the largest of its conjuncts' p-values; 1 where sign or declared path do not fit.

    Args:
        p_yes, p_no: by side (``editor``, ``adjusted``, ``marginal``).
        signs: of the three estimates.
        path: whether the graph declares a directed path.
    """
    if rule.path is not None and rule.path != path:
        return 1.0
    if rule.sign is not None:
        other = "marginal" if rule.adjusted == "no" else "adjusted"
        if (signs["editor"] == signs[other]) != (rule.sign == "same"):
            return 1.0
    calls = {"editor": rule.editor, "adjusted": rule.adjusted, "marginal": rule.marginal}
    return max((p_yes if call == "yes" else p_no)[side] for side, call in calls.items() if call is not None)


def verdict_of(calls: dict[str, Call], signs: dict[str, float], path: bool) -> str:
    """The table's verdict for three calls; ``undecided`` where no row fits."""
    for rule in TABLE:
        p_yes = {side: 0.0 if call == "yes" else 1.0 for side, call in calls.items()}
        p_no = {side: 0.0 if call == "no" else 1.0 for side, call in calls.items()}
        if conjunction_p(rule, p_yes, p_no, signs, path) == 0.0:
            return rule.verdict
    return "undecided"
