"""The observational side of an audit: what unedited images alone say, and how far that may be believed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from causal_cxr.audits.falsification import GraphTest, falsify_graph
from causal_cxr.audits.observational.backdoor import BACKDOOR, DEFAULT, Estimator
from causal_cxr.audits.observational.estimates import estimate
from causal_cxr.audits.observational.question import UnanswerableError, pose
from causal_cxr.audits.observational.refute import refutations, unobserved_confounder
from causal_cxr.audits.scales import Scale
from causal_cxr.graphs import CausalGraph, Contrast
from causal_cxr.graphs.identification import identify

ESTIMAND_COLUMNS = ("attribute", "outcome", "estimand", "role", "variables", "statement")


@dataclass(frozen=True)
class ObservationalSide:
    """Frames for a report; each row explains itself in its ``statement``, ``reason`` or ``sentence``.

    Attributes:
        identification: one row a contrasted attribute x outcome x estimand, or why there is none.
        estimates: see :func:`estimate`.
        refutations: see :func:`refutations`, with ``contrast`` and ``concept``.
        sensitivity: see :func:`unobserved_confounder`, with ``contrast`` and ``concept``.
        graph_test: see :func:`falsify_graph`.
        unrefuted: estimates that no refuter was tried on, as there were too many.
    """

    identification: pd.DataFrame
    estimates: pd.DataFrame
    refutations: pd.DataFrame
    sensitivity: pd.DataFrame
    graph_test: GraphTest
    unrefuted: int


def observational_side(
    graph: CausalGraph,
    table: pd.DataFrame,
    patients: np.ndarray,
    scores: pd.DataFrame,
    contrasts: Iterable[Contrast],
    *,
    reads: Mapping[str, str] | None = None,
    scales: Mapping[tuple[str, str], Scale] | None = None,
    estimators: Sequence[str] | Mapping[str, Estimator] = DEFAULT,
    delta: float = 0.10,
    alpha: float = 0.05,
    most_refuted: int = 12,
    seed: int = 0,
) -> ObservationalSide:
    """Identification, estimates, refutations, sensitivity and the test of the graph, from unedited images.

    Args:
        graph, table, patients, scores, contrasts, reads, scales, estimators: as in :func:`estimate`. Refuters and sensitivity
            speak of the same scale, and take slope and shift for known.
        delta: smallest effect that matters, of what has no scale with a delta of its own.
        alpha: of every test.
        most_refuted: refuters (a few seconds a pair) are tried on so many pairs of contrast and concept, the largest
            effects in standard errors first; sensitivity is told of all.
        seed: of every draw.

    Raises:
        ValueError: as :func:`estimate`.
    """
    contrasts, reads, scales = tuple(contrasts), dict(reads or {}), scales or {}
    table = graph.coerce(table)
    estimates = estimate(
        graph, table, patients, scores, contrasts, reads=reads, scales=scales, estimators=estimators, seed=seed
    )
    by_name = {contrast.name: contrast for contrast in contrasts}
    shown = estimates[(estimates["estimand"] == "backdoor") & (estimates["n"] > 0)]
    shown = shown.assign(size=(shown["effect"] / shown["se"]).abs()).drop_duplicates(["contrast", "concept"])
    shown = shown.sort_values("size", ascending=False, kind="stable")
    tried, hidden = [], []
    for rank, (name, concept) in enumerate(shown[["contrast", "concept"]].to_numpy()):
        contrast = by_name[name]
        held = graph.adjustment_set(contrast.attribute, reads.get(concept)) or frozenset()
        about = {"contrast": name, "concept": concept}
        try:
            question = pose(graph, table, patients, scores[[concept]].to_numpy(dtype=float), contrast, held)
        except UnanswerableError as why:  # an estimator of the user's own answered where ours do not
            hidden.append({**about, **_not_told(why)})
            continue
        scale, matters = scales.get((name, concept)), delta
        if scale is not None:
            question = replace(question, outcomes=scale.outcomes(question.outcomes, question.treatment))
            matters = scale.delta if scale.readable else delta
        try:
            told = unobserved_confounder(question, contrast.attribute, alpha=alpha, seed=seed)
        except UnanswerableError as why:
            told = _not_told(why)
        hidden.append({**about, **told})
        if rank < most_refuted and np.ptp(question.outcomes) > 0:
            found = refutations(
                graph,
                table,
                question,
                contrast.attribute,
                estimator=BACKDOOR["regression"],
                delta=matters,
                alpha=alpha,
                seed=seed,
            )
            tried.append(found.assign(**about))
    return ObservationalSide(
        _identification(graph, contrasts, scores, reads), estimates,
        pd.concat(tried, ignore_index=True) if tried else pd.DataFrame(), pd.DataFrame(hidden),
        falsify_graph(graph, table, patients, alpha=alpha, seed=seed), max(0, len(shown) - most_refuted),
    )  # fmt: skip


def _not_told(why: UnanswerableError) -> dict[str, str]:
    return {"passes": "undecided", "sentence": f"How strong a hidden confounder would have to be is not known: {why}."}


def _identification(
    graph: CausalGraph, contrasts: Sequence[Contrast], scores: pd.DataFrame, reads: Mapping[str, str]
) -> pd.DataFrame:
    rows: list[list[str]] = []
    outcomes = dict.fromkeys(reads.get(column) for column in scores.columns)
    for attribute in dict.fromkeys(contrast.attribute for contrast in contrasts):
        for outcome in outcomes:
            if outcome == attribute:
                continue
            answer = identify(graph, attribute, outcome)
            said = outcome or "a concept outside the graph"
            roles: dict[tuple[str, str, str], list[str]] = {}
            for e in answer.estimands:
                roles.setdefault((e.kind, ", ".join(sorted(e.variables)), e.statement), []).append(e.role)
            rows += [[attribute, said, kind, ", ".join(filter(None, role)), names, statement]
                     for (kind, names, statement), role in roles.items()]  # fmt: skip
            if not answer.estimands:
                rows.append([attribute, said, "", "", "", answer.sentence])
    return pd.DataFrame(rows, columns=list(ESTIMAND_COLUMNS))
