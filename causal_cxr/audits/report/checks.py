"""What makes one wary of an audit's findings, from its frames: the editor's null, and a list to look at first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from causal_cxr.audits.agreement import AGREE, DIFFER
from causal_cxr.audits.cells import BLIND_SLOPE
from causal_cxr.audits.obedience import EFFECTIVE_RATIO
from causal_cxr.graphs import CausalGraph

if TYPE_CHECKING:
    from causal_cxr.audits.report.report import Report

REJECTED_SHARE = 0.05  #: of edits; beyond it one should look at whom the editor could not edit

Kind = Literal["negative controls", "placebo"]


@dataclass(frozen=True)
class NullEffects:
    """Editor effects of cells where every effect is the editor's own doing.

    Attributes:
        editor: its name.
        kind: ``negative controls`` (concepts that nothing should move) or ``placebo`` (attributes that show nowhere).
        effects: of all such cells.
        largest: the cell whose effect is largest in size, as a row of ``edges``; None without cells.
        counting: how many effects are of a size that counts in an audit.
        excluding_zero: how many of the 95% intervals exclude 0.
    """

    editor: str
    kind: Kind
    effects: tuple[float, ...]
    largest: dict[str, Any] | None
    counting: int
    excluding_zero: int


@dataclass(frozen=True)
class Check:
    """One thing to look at: ``look`` asks for attention, ``fine`` does not.

    Attributes:
        about: the question.
        answer: in words.
        where: the page's section.
    """

    state: Literal["fine", "look"]
    about: str
    answer: str
    where: str


def placebo_attributes(graph: CausalGraph) -> tuple[str, ...]:
    """Labelled attributes that show in no image and that the graph relates to nothing.

    >>> from causal_cxr.graphs import Binary
    >>> placebo_attributes(CausalGraph([Binary("view"), Binary("age")], [("age", "view")]).with_placebo(Binary("coin")))
    ('coin',)
    """
    related = {name for pair in (*graph.edges, *graph.confounded) for name in pair}
    related |= {*graph.image_parents, *graph.selected_on}
    return tuple(name for name in graph.labelled if name not in related)


def editor_null(report: "Report") -> list[NullEffects]:
    """Per editor: its effects on negative controls, and those of setting placebo attributes."""
    edges = report.edges[np.isfinite(report.edges["editor_effect"].astype(float))]
    placebo = edges["attribute"].isin(placebo_attributes(report.graph))
    kinds: tuple[tuple[Kind, Any], ...] = (("negative controls", edges["control"].astype(bool)), ("placebo", placebo))
    found = []
    for editor in sorted(report.edges["editor"].unique()):
        for kind, member in kinds:
            cells = edges[member & (edges["editor"] == editor)]
            sizes = cells["editor_effect"].abs()
            largest: Any = cells.loc[sizes.idxmax()].to_dict() if len(cells) else None
            outside = (cells["editor_low"] > 0) | (cells["editor_high"] < 0)
            effects = tuple(cells["editor_effect"])
            found.append(
                NullEffects(editor, kind, effects, largest, int((sizes >= cells["delta"]).sum()), int(outside.sum()))
            )
    return found


def checks(report: "Report") -> list[Check]:
    """What to look at before a finding is believed."""
    alpha = float(report.provenance["specification"]["alpha"])
    said = [_graph(report.falsification), *_fused(report), *_editors(report), *_limits(report.limits), *_rival(report.edges, alpha), *_readers(report.edges),
            *_selection(report.edges), *_labels(report.edges), *_left_out(report)]  # fmt: skip
    return [Check("look" if look else "fine", about, answer, where) for look, about, answer, where in said]


Said = tuple[bool, str, str, str]  # look?, about, answer, where


def _graph(falsification: pd.DataFrame) -> Said:
    about, where = "The declared graph", "falsification"
    tested, rejected = int(falsification["p"].notna().sum()), int(falsification["rejected"].sum())
    if not tested:
        return True, about, "could not be tested: it implies no independence that the table could refute", where
    if rejected:
        return True, about, f"is contradicted by the table: {rejected} of {tested} implied independences fail", where
    return False, about, f"is not contradicted by the table in {tested} tests", where


def _fused(report: "Report") -> Iterator[Said]:
    if report.fused is None:
        return
    about, where, tests = "Declaration, table and edits", "fused", report.fused.falsification
    rejected, conflicts = int(tests["rejected"].sum()), len(report.fused.graph.conflicts)
    if rejected or conflicts:
        answer = f"disagree in {conflicts} places; {rejected} of {len(tests)} independences of their joint graph fail"
        yield True, about, answer, where
    else:
        yield False, about, f"make one graph, which is not contradicted in {len(tests)} tests", where


def _editors(report: "Report") -> Iterator[Said]:
    nulls = editor_null(report)
    for editor in sorted(report.edges["editor"].unique()):
        about = f"Editor {editor}"
        mine = report.effectiveness[report.effectiveness["editor"] == editor]
        best = mine.groupby("contrast", sort=False)["ratio"].max() if len(mine) else pd.Series(dtype=float)
        weak = [str(contrast) for contrast in best.index[~(best >= EFFECTIVE_RATIO)]]
        if not len(best):
            yield True, about, "cannot be judged: no reader reads what it sets", "limits"
        elif weak:
            yield True, about, f"does too little where asked for {_some(weak)}", "limits"
        else:
            yield False, about, "does what it is asked, by the readers of the attributes themselves", "limits"
        known = [n for n in nulls if n.editor == editor and n.effects]
        if known:
            size = max(0.01, max(abs(effect) for n in known for effect in n.effects))
            yield any(n.counting for n in known), about, f"moves controls and placebos by {size:.2f} at most", "null"
        else:
            yield True, about, "has no known null: there is no negative control and no placebo", "null"
    edits = int((report.measurements["kind"] != "factual").sum())
    rejected = int(report.provenance.get("rejected", 0))
    yield rejected > REJECTED_SHARE * edits, "Edits", f"{rejected:,} of {edits:,} were rejected", "limits"


def _limits(limits: pd.DataFrame) -> Iterator[Said]:
    """For which interventions an editor is not to be used, over all patients or in a group of them."""
    for editor, mine in limits.groupby("editor", sort=True):
        found = list(dict.fromkeys(mine.loc[mine["state"] == "limit", "contrast"].replace("", "null edits")))
        about = f"Editor {editor}"
        if found:
            yield True, about, f"is not to be used, in all or some patients, for {_some(found)}", "limits"
        elif len(mine):
            yield False, about, f"shows no limit in {len(mine):,} questions asked", "limits"


def _rival(edges: pd.DataFrame, alpha: float) -> Iterator[Said]:
    """What editors add to the adjusted association alone, which needs none and cannot tell hidden from mediated."""
    for editor, mine in edges[~edges["declared_path"].astype(bool)].groupby("editor"):
        claimed, revealed = mine["rival_q"] <= alpha, mine["verdict"] == "hidden"
        about, where = f"Beside no editor at all, {editor}", "edges"
        if claimed.any() and (claimed == revealed).all():
            yield True, about, f"adds nothing: the adjusted association alone claims the same {claimed.sum()}", where
        elif claimed.any():
            counts = mine.loc[claimed, "verdict"].value_counts()
            told = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
            yield (
                False,
                about,
                f"tells apart what the adjusted association alone claims {claimed.sum()} times: {told}",
                where,
            )


def _readers(edges: pd.DataFrame) -> Iterator[Said]:
    blind = sorted(edges.loc[~(edges["slope_low"] >= BLIND_SLOPE), "concept"].unique())
    if blind:
        yield True, "Readers", f"may be blind to {_some(blind)}: no “no” is said there", "readers"
    else:
        yield False, "Readers", f"see all {edges['concept'].nunique()} concepts", "readers"
    said = edges["agreement"].value_counts()
    heard, differ, agree = int(said.drop("", errors="ignore").sum()), int(said.get(DIFFER, 0)), int(said.get(AGREE, 0))
    if heard:
        answer = f"agree in {agree} of {heard} cells and contradict {differ or 'none'}"
        yield differ > 0, "Second readers", answer, "edges"
    else:
        yield True, "Second readers", "are wanting: everything rests on one reader", "edges"


def _selection(edges: pd.DataFrame) -> Iterator[Said]:
    through = edges.loc[edges["selected_through"] != ""].groupby("attribute", sort=False)["selected_through"].first()
    if len(through):
        ways = _some([f"{attribute} by way of {names}" for attribute, names in through.items()])
        yield (
            True,
            "Selection",
            f"is on effects: what these do shows only as it is left among the collected: {ways}",
            "edges",
        )


def _labels(edges: pd.DataFrame) -> Iterator[Said]:
    unused = sorted(edges.loc[edges["labels_unused"] != "", "concept"].unique())
    if unused:
        yield (
            True,
            "Labels of concepts",
            f"could not serve everywhere for {_some(unused)}: readings stand there",
            "edges",
        )


def _left_out(report: "Report") -> Iterator[Said]:
    unreadable, left = len(report.provenance.get("unreadable") or {}), len(report.provenance.get("left_out") or {})
    parts = [
        f"{n:,} {what}" for n, what in ((unreadable, "unreadable images"), (left, "files or concepts left out")) if n
    ]
    if parts:
        yield True, "Took no part", " and ".join(parts), "left-out"


def _some(names: Sequence[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
