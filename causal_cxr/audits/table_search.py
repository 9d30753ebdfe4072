"""The table's part in an audit: search the unedited images, join what is found with declaration and edits, test the whole."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.falsification import SMALLEST_CORRELATION
from causal_cxr.audits.fusion import Fused, fuse
from causal_cxr.audits.unedited import Unedited
from causal_cxr.graphs import Binary, CausalGraph
from causal_cxr.graphs.discovery.discovered import Discovered, Method, Note

CALLED = 0.5  #: a reader calls a concept present from this score on
#: That must differ from the most frequent value of a column: else a resample may lack the other values.
FEWEST_PATIENTS = 20
#: That must know both of two columns: else the half of them that a resample draws may lack the rows of a test.
FEWEST_TOGETHER = 60
#: Refusals of an audit that say that a reader's scores are not, or not only, the concept.
DOUBTED = ("reader unknown", "reader inseparable", "reader follows", "reader blind")


@dataclass(frozen=True)
class TableSearch:
    """How an audit searches the unedited images' table (:func:`causal_cxr.graphs.discovery.discover`).

    The labelled columns of 4,000 images of the world ``portable`` (six attributes, 2,000 patients) take 5 seconds on one
    core; with the calls of eight concepts 40 seconds, nearly all of it for the resamples, to which it is proportional.

    Calls are not searched unless asked for, as readers err. In five tables of that world (``benchmarks/calls.py``) right
    calls gave all 25 hidden edges, no other, and no wrong mark. Where 10% of calls were wrong, all 25, but 2 false edges and
    3 marks that deny the cause; where calls also followed the view in 20% of images without the sign, 13 and 7. Scores
    themselves are never searched: tests see the traces that an attribute leaves in them far from the threshold. By a
    shipped reader's scores a negative control was tied to the view in 95% of resamples, by its calls to anything in 5%.

    Attributes:
        method: ``fci`` allows latent causes and selection, ``pc`` and ``ges`` do not.
        resamples: searches of a random half of the patients, which tell how often an edge is found again.
        least_frequency: an edge enters the graph if it is found in this share of them, a mark likewise.
        alpha: two are parted where p is above it.
        depth: most variables in a set that parts two; None is no limit.
        calls: search what readers call, too: for each concept that no column has, whether its best reader's score is
            :data:`CALLED` or more. Concepts are left out where the audit doubts that reader (:data:`DOUBTED`).

    Raises:
        ValueError: no such method, a share, level or depth out of range, or no resample.
    """

    method: Method = "fci"
    resamples: int = 20
    least_frequency: float = 0.5
    alpha: float = 0.01
    depth: int | None = 3
    calls: bool = False

    def __post_init__(self) -> None:
        if self.method not in ("fci", "pc", "ges"):
            raise ValueError(f"There is no method {self.method!r}; choose from fci, pc, ges.")
        if self.resamples < 1:
            raise ValueError(f"resamples is {self.resamples}; an edge counts by how often it is found: give 1 or more.")
        if not 0 <= self.least_frequency <= 1:
            raise ValueError(f"least_frequency is {self.least_frequency}; give a share, 0 to 1.")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}; give a level between 0 and 1.")
        if self.depth is not None and self.depth < 0:
            raise ValueError(f"depth is {self.depth}; give 0 or more, or None for no limit.")


@dataclass(frozen=True)
class Fusion:
    """What was declared, what the table shows and what edits revealed, in one graph, and whether the images bear it out.

    Attributes:
        graph: with who says what of every edge, and who disagrees.
        discovered: what was found in one image of each patient, with notes on what was left out.
        frequencies: see :func:`causal_cxr.graphs.discovery.edge_frequencies`.
        falsification: see :meth:`Fused.falsify`; over the scores of all concepts whose reader the audit does not doubt.
        untested: concepts with scores that took no part in it -> why.
    """

    graph: Fused
    discovered: Discovered
    frequencies: pd.DataFrame
    falsification: pd.DataFrame
    untested: dict[str, str]

    @property
    def words(self) -> str:
        """What the falsification says, in plain words."""
        tested = self.falsification[self.falsification["p"].notna()]
        wrong = int(tested["rejected"].sum())
        if tested.empty:
            return (
                "No image could contradict this graph: for every pair that it leaves apart, some way to decide the open "
                "ends would tie the two, or too few images know both."
            )
        if wrong:
            return (
                f"The unedited images contradict this graph in {wrong} of {len(tested)} independences that it implies, "
                "however its open ends are decided. An edge is missing there, a mark is wrong, or a reader sees something "
                "else in the concept’s place."
            )
        return (
            f"The unedited images do not contradict this graph in {len(tested)} tests of what it implies, however its open "
            f"ends are decided. That is no proof: correlations up to {SMALLEST_CORRELATION} contradict nothing, and what "
            "hangs on an open end is not tested."
        )

    def said_of(self, a: str, b: str) -> str:
        """What edits say of a pair, whether they join it or not: ``missed by diffusion``; empty where nobody asked."""
        evidence = self.graph.evidence_of(a, b)
        revealed = evidence[evidence["source"] == "revealed"]
        said = [f"{verdict} by {editor}" for verdict, editor in zip(revealed["verdict"], revealed["by"], strict=True)]
        return ", ".join(dict.fromkeys(said))


def refuse_unsearchable(graph: CausalGraph, concepts: Iterable[str], search: TableSearch) -> None:
    """Say before anything is measured what could not be searched or joined afterwards.

    Args:
        graph: declared.
        concepts: names of all that are decided about and that no column has.
        search: asked for.

    Raises:
        ValueError: fewer than two columns to search, or a concept that cannot be a node of a graph.
    """
    names = sorted(set(concepts) - set(graph.attributes))
    if len(graph.labelled) + (len(names) if search.calls else 0) < 2:
        raise ValueError(
            f"There is only {list(graph.labelled)} to search; label another attribute, ask for calls=True, or leave out "
            "discovery=."
        )
    for name in names:
        graph = graph.with_hidden(Binary(name))


def search_and_fuse(
    graph: CausalGraph,
    unedited: Unedited,
    edges: pd.DataFrame,
    search: TableSearch,
    *,
    alpha: float = 0.05,
    seed: int = 0,
) -> Fusion:
    """Search the unedited images, one of each patient, join, and falsify the whole.

    A column in which too few patients differ (:data:`FEWEST_PATIENTS`), or that too few share with another one
    (:data:`FEWEST_TOGETHER`), is not searched; the notes of ``discovered`` name it.

    Args:
        graph: declared.
        unedited: images.
        edges: an audit's (:attr:`causal_cxr.audits.Report.edges`), of one editor or several.
        search: how.
        alpha: family-wise, of the falsification.
        seed: of the row of each patient, and of the resamples.
    """
    table, patients = graph.coerce(unedited.table), unedited.patients.to_numpy()
    hidden = [str(name) for name in unedited.scores if name not in unedited.reads and name not in graph.labelled]
    refused = edges[edges["refusal"].isin(DOUBTED)].drop_duplicates("concept").set_index("concept")["reason"]
    doubted = {name: str(refused[name]) for name in hidden if name in refused}
    scores = unedited.scores[[name for name in hidden if name not in doubted]]
    calls = (scores >= CALLED).astype(float) if search.calls else scores[[]]
    notes = [
        Note("rows", f"{name!r} was not searched, as its scores may be something else: {why}.", (name,))
        for name, why in (doubted.items() if search.calls else ())
    ]
    wanted = pd.concat([table[list(graph.labelled)], calls], axis=1)
    differing = {str(name): _differing(wanted[name], patients) for name in wanted}
    left_out = [name for name, n in differing.items() if n < FEWEST_PATIENTS]
    notes += [
        Note("rows", f"{name!r} was not searched: it is the same in all but {differing[name]:.0f} patients.", (name,))
        for name in left_out
    ]
    for name, other, n in _apart(wanted.drop(columns=left_out), patients):
        text = f"{name!r} was not searched: only {n} patients are known in both it and {other!r}; {FEWEST_TOGETHER} are needed."
        notes.append(Note("rows", text, (name, other)))
        left_out.append(name)
    found, frequencies = _searched(
        table, graph, patients, [name for name in graph.labelled if name not in left_out],
        calls.drop(columns=[name for name in left_out if name in calls]), search, seed,
    )  # fmt: skip
    found = replace(found, notes=(*notes, *found.notes))
    fused = fuse(
        graph, edges=edges, reads=unedited.reads, discovered=found, frequencies=frequencies,
        least_frequency=search.least_frequency,
    )  # fmt: skip
    falsification = fused.falsify(table, patients, scores=scores, alpha=alpha)
    return Fusion(fused, found, frequencies, falsification, doubted)


def _searched(
    table: pd.DataFrame, graph: CausalGraph, patients: np.ndarray, variables: list[str], calls: pd.DataFrame,
    search: TableSearch, seed: int,
) -> tuple[Discovered, pd.DataFrame]:  # fmt: skip
    """What is found, and in what share of the resamples; nothing where fewer than two columns are left."""
    from causal_cxr.graphs.discovery import discover, edge_frequencies

    if len(variables) + calls.shape[1] < 2:
        note = Note("rows", "Fewer than two columns are left: nothing was searched.")
        return Discovered((*variables, *calls), (), (), search.method, (note,), {}), pd.DataFrame()
    options: dict[str, Any] = {
        "variables": variables, "scores": calls, "patients": patients, "method": search.method, "alpha": search.alpha,
        "depth": search.depth, "seed": seed,
    }  # fmt: skip
    found = discover(table, graph, **options)
    return found, edge_frequencies(table, graph, resamples=search.resamples, **options)


def _differing(column: pd.Series, patients: np.ndarray) -> float:
    """How many patients, drawn with one image each, are expected to differ from the most frequent value."""
    known = column.notna().to_numpy()
    values, ids = column[known], pd.Series(patients[known])
    if values.empty:
        return 0.0
    share = 1 / ids.map(ids.value_counts())
    return float(share[(values != values.mode()[0]).to_numpy()].sum())


def _apart(wanted: pd.DataFrame, patients: np.ndarray) -> list[tuple[str, str, int]]:
    """Columns to leave out so that enough patients know both of any two that stay: name, a column that it lacks, patients.

    Of the two that fewest know both of, the one that fewer know goes first.
    """
    out: list[tuple[str, str, int]] = []
    known = wanted.notna().groupby(patients).max()  # patients x columns
    while known.shape[1] > 1:
        n, one, other = min((int((known[a] & known[b]).sum()), a, b) for a, b in combinations(map(str, known), 2))
        if n >= FEWEST_TOGETHER:
            break
        if known[one].sum() > known[other].sum():
            one, other = other, one
        out.append((one, other, n))
        known = known.drop(columns=one)
    return out
