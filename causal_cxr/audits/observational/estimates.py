"""Estimates of an effect from unedited images, side by side: every estimand that the graph gives, every estimator."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from causal_cxr.audits.effects import Effect
from causal_cxr.audits.falsification import attribute_columns
from causal_cxr.audits.observational.backdoor import BACKDOOR, DEFAULT, Estimates, Estimator, regression
from causal_cxr.audits.observational.pathways import front_door, instrumental
from causal_cxr.audits.observational.question import UnanswerableError, pose, several_levels
from causal_cxr.audits.scales import Scale
from causal_cxr.graphs import CausalGraph, Contrast
from causal_cxr.graphs.identification import Estimand, identify

COLUMNS = (
    "contrast", "attribute", "concept", "estimand", "variables", "estimator", "effect", "se", "low", "high", "dof", "n",
    "patients", "ess", "truncated", "scale", "reason",
)  # fmt: skip


def estimate(
    graph: CausalGraph,
    table: pd.DataFrame,
    patients: np.ndarray,
    scores: pd.DataFrame,
    contrasts: Iterable[Contrast],
    *,
    reads: Mapping[str, str] | None = None,
    scales: Mapping[tuple[str, str], Scale] | None = None,
    estimators: Sequence[str] | Mapping[str, Estimator] = DEFAULT,
    seed: int = 0,
) -> pd.DataFrame:
    """What every identified formula and every estimator say of each contrast's effect on each score.

    Estimators that agree are no proof that nothing was left out: they share the graph. Estimators that differ are a sign
    that one of their models is wrong, or the overlap is poor.

    Args:
        graph: declared.
        table: ``n`` rows, typed by the graph.
        patients: ``(n,)`` ids.
        scores: ``n`` rows; one column a concept, in [0, 1], or a labelled outcome as numbers.
        contrasts: on labelled attributes.
        reads: column of ``scores`` -> the labelled attribute that it reads or is; columns left out are concepts outside the
            graph. A contrast on that very attribute is left out.
        scales: (name of a contrast, column of ``scores``) -> what turns an effect on the scores into one on the concept
            (:class:`causal_cxr.audits.scales.Scale`); without one an effect is told as it is on the scores.
        estimators: names in :data:`~causal_cxr.audits.observational.BACKDOOR`, or name -> your own function of a
            question and a seed. They apply to the back door; front door and instrument have one estimator each.
        seed: given to estimators.

    Returns:
        One row a contrast x concept x estimand x estimator: ``effect`` (oriented a1 - a0) with its patient-clustered ``se``,
        95% interval (``low``, ``high``) and ``dof``; ``n`` images and ``patients`` used; ``ess`` and ``truncated``
        (see :class:`Estimates`); ``scale``: ``concept``, or ``scores`` where the reader's slope is not known; ``reason``: why there is no number, empty if there is one. ``estimand``: ``backdoor``,
        ``backdoor (minimal)`` and ``backdoor (maximal)`` (other sets than the chosen one, by regression only), ``frontdoor``,
        ``iv``, or empty where nothing identifies the effect.

    Raises:
        ValueError: an unknown estimator or attribute, tables of different length.
        ImportError: ``econml`` is asked for and not installed.
    """
    if not len(table) == len(patients) == len(scores):
        raise ValueError(
            f"table, patients and scores have {len(table)}, {len(patients)} and {len(scores)} rows; give one each an image."
        )
    chosen, reads, table, scales = _named(estimators), dict(reads or {}), graph.coerce(table), scales or {}
    unknown = [column for column in reads if column not in scores.columns]
    if unknown:
        raise ValueError(f"reads names {unknown}; the scores are {list(scores.columns)}.")
    rows: list[list] = []
    for contrast in contrasts:
        by_outcome: dict[str | None, list[str]] = {}
        for column in scores.columns:
            by_outcome.setdefault(reads.get(column), []).append(column)
        for outcome, columns in by_outcome.items():
            if outcome == contrast.attribute:
                continue
            answer = identify(graph, contrast.attribute, outcome)
            if not answer.estimands:
                rows += [_row(contrast, c, "", "", "", None, answer.sentence) for c in columns]
            for name, estimand, how in _ways(answer.estimands, chosen):
                said = ", ".join(sorted(estimand.variables))
                kind = estimand.kind + (f" ({estimand.role})" if estimand.role in ("minimal", "maximal") else "")
                try:
                    found = _answer(graph, table, patients, scores[columns], contrast, estimand, how, seed)
                except UnanswerableError as why:
                    rows += [_row(contrast, c, kind, said, name, None, str(why)) for c in columns]
                    continue
                rows += [
                    _row(contrast, c, kind, said, name, effect, "" if effect.n else "too few patients",
                         found.ess, found.truncated, scales.get((contrast.name, c)))
                    for c, effect in zip(columns, found.effects, strict=True)
                ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _named(estimators: Sequence[str] | Mapping[str, Estimator]) -> dict[str, Estimator]:
    if isinstance(estimators, Mapping):
        return dict(estimators)
    unknown = [name for name in estimators if name not in BACKDOOR]
    if isinstance(estimators, str) or unknown:
        raise ValueError(
            f"Unknown estimators {unknown or estimators!r}; choose a list of {list(BACKDOOR)}, or give functions by name."
        )
    return {name: BACKDOOR[name] for name in estimators}


def _ways(
    estimands: Sequence[Estimand], estimators: Mapping[str, Estimator]
) -> Iterable[tuple[str, Estimand, Estimator | None]]:
    seen: set[frozenset[str]] = set()
    for estimand in estimands:
        if estimand.kind != "backdoor":
            yield {"frontdoor": "two stages", "iv": "two-stage least squares"}[estimand.kind], estimand, None
        elif estimand.role == "chosen":
            seen.add(estimand.variables)
            yield from ((name, estimand, how) for name, how in estimators.items())
        elif estimand.variables not in seen:
            seen.add(estimand.variables)
            yield "regression", estimand, regression


def _answer(
    graph: CausalGraph, table: pd.DataFrame, patients: np.ndarray, scores: pd.DataFrame, contrast: Contrast,
    estimand: Estimand, how: Estimator | None, seed: int,
) -> Estimates:  # fmt: skip
    outcomes = scores.to_numpy(dtype=float)
    if how is not None:
        return how(pose(graph, table, patients, outcomes, contrast, estimand.variables), seed)
    if several_levels(graph, contrast.attribute):
        raise UnanswerableError(
            f"{contrast.attribute} has more than two levels, and leaving some out would select on it"
        )
    if len(estimand.variables) > 1:
        raise UnanswerableError(
            f"several mediators ({', '.join(sorted(estimand.variables))}) at once are not estimated"
        )
    question = pose(graph, table, patients, outcomes, contrast, frozenset(), needed=estimand.variables)
    (name,) = estimand.variables
    columns = attribute_columns(graph, table.iloc[question.rows], name, flexible=False).values()
    arrays = np.column_stack([np.empty((len(question.rows), 0)), *columns])
    return Estimates((front_door if estimand.kind == "frontdoor" else instrumental)(question, arrays))


def _row(
    contrast: Contrast, concept: str, estimand: str, variables: str, estimator: str, effect: Effect | None, reason: str,
    ess: float = np.nan, truncated: float = np.nan, scale: Scale | None = None,
) -> list:  # fmt: skip
    head = [contrast.name, contrast.attribute, concept, estimand, variables, estimator]
    if effect is None or not effect.n:
        return [*head, *[np.nan] * 5, 0, 0, np.nan, np.nan, "", reason]
    readable = scale is not None and scale.readable
    effect = effect if scale is None else scale.effect(effect)
    return [
        *head,
        effect.value,
        effect.se,
        *effect.interval(),
        effect.dof,
        effect.n,
        effect.patients,
        ess,
        truncated,
        "concept" if readable else "scores",
        reason,
    ]
