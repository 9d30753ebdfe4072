"""What unedited images say of a contrast: the adjusted and the marginal association, standardised to the edited images.

Of a concept that a reader reads they are on the scale of its scores, and are yet to be corrected for what it is known to
get wrong. Where some of the audited images have a label of the concept itself they are on the label's scale, prediction-powered:
the labels correct the reader on these very images (:mod:`causal_cxr.audits.effects.prediction_powered`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from causal_cxr.audits.effects import (
    NOTHING,
    Effect,
    covariate_columns,
    design_matrix,
    g_computation,
    prediction_powered_effect,
)
from causal_cxr.graphs import CausalGraph, Continuous, Contrast

LABEL = "label of the concept"  #: column of labels beside the scores
OVERLAP_SHARE, OVERLAP_LOW = 0.05, 0.02  #: at most this share of edited images may have a propensity beyond


@dataclass(frozen=True)
class Association:
    """Estimates from unedited images for one contrast and one column of scores; or why there is none.

    Attributes:
        adjustment: the set that was adjusted for; ``None``: none identifies the effect.
        overlap: whether the images allow it.
        fewest: images at the rarer of the two levels; all images for a continuous attribute.
        adjusted, marginal: on the scale of the scores; of the labels, if ``labelled``.
        labelled: labels of the concept that both rest on; 0 = on scores alone.
        unused: why labels that were given serve no estimate; empty if they do, or if there are none.
    """

    adjustment: frozenset[str] | None
    overlap: bool
    fewest: int
    adjusted: Effect
    marginal: Effect
    labelled: int = 0
    unused: str = ""


def associations(
    graph: CausalGraph,
    table: pd.DataFrame,
    factual: pd.DataFrame,
    outcomes: Mapping[str, str | None],
    contrast: Contrast,
    edited: np.ndarray,
    labels: Mapping[str, pd.Series] | None = None,
) -> dict[str, Association]:
    """Adjusted and marginal effects in unedited images, standardised to the edited ones, by column.

    Args:
        outcomes: column of scores, ``reader/concept`` -> the labelled attribute that it reads; ``None``: what the graph does not have.
        labels: column of scores -> labels of its concept, called like it, in [0, 1], NaN where there is none; index = rows of
            the dataset.
    """
    by_set: dict[frozenset[str] | None, list[str]] = {}
    for column, outcome in outcomes.items():
        own = (
            outcome == contrast.attribute
        )  # its own reader tells how far real images differ; there is nothing to adjust
        adjustment = graph.adjustment_set(contrast.attribute, None if own else outcome)
        by_set.setdefault(adjustment, []).append(column)
    found: dict[str, Association] = {}
    for adjustment, columns in by_set.items():
        known = adjustment or frozenset()  # both sides of the same images
        marginal, _, fewest = _standardised(graph, table, factual, columns, contrast, edited, known, frozenset())
        adjusted, overlap, _ = (
            (dict.fromkeys(columns, NOTHING), False, 0) if adjustment is None
            else _standardised(graph, table, factual, columns, contrast, edited, known, adjustment)
        )  # fmt: skip
        found |= {c: Association(adjustment, overlap, fewest, adjusted[c], marginal[c]) for c in columns}
        if labels is not None and overlap and adjustment is not None:
            for column in (c for c in columns if c in labels):
                found[column] = _powered(
                    found[column], graph, table, factual, column, labels[column], contrast, edited, adjustment
                )
    return found


def _powered(
    by_scores: Association, graph: CausalGraph, table: pd.DataFrame, factual: pd.DataFrame, column: str,
    labels: pd.Series, contrast: Contrast, edited: np.ndarray, adjustment: frozenset[str],
) -> Association:  # fmt: skip
    """The same, prediction-powered by labels of the concept; as it was, with the reason, where these cannot tell."""
    sides, factual = [], factual.assign(**{LABEL: labels.reindex(factual.index)})
    for adjusted_for in (adjustment, frozenset[str]()):
        drawn, _ = _drawn(graph, table, factual, contrast, edited, adjustment, adjusted_for)
        assert drawn is not None  # the scores' own estimate stands on the same images
        label, scores = (drawn.outcomes(factual, [name])[:, 0] for name in (LABEL, column))
        try:
            found = prediction_powered_effect(
                label, scores, drawn.patients, drawn.design, drawn.low, drawn.high, drawn.standard
            )
        except ValueError as problem:
            return replace(by_scores, unused=f"labels of {labels.name} not used: {problem}")
        if not found.effect.n:
            return replace(by_scores, unused="labels of fewer than three patients are not used")
        sides.append(found)
    return replace(by_scores, adjusted=sides[0].effect, marginal=sides[1].effect, labelled=sides[0].labelled)


def marginal_association(
    graph: CausalGraph, table: pd.DataFrame, factual: pd.DataFrame, column: str, contrast: Contrast, edited: np.ndarray
) -> Effect:
    """The association of one column of scores with the contrast, adjusted for nothing, standardised to the edited images."""
    effects, _, _ = _standardised(graph, table, factual, [column], contrast, edited, frozenset(), frozenset())
    return effects[column]


@dataclass(frozen=True)
class _Drawn:
    """What a standardised effect is worked out from: the images kept, and designs of theirs and of the edited ones."""

    keep: np.ndarray
    patients: np.ndarray
    design: np.ndarray
    low: np.ndarray
    high: np.ndarray
    standard: np.ndarray

    def outcomes(self, factual: pd.DataFrame, columns: list[str]) -> np.ndarray:
        """``(kept, columns)``."""
        return factual.loc[self.keep, columns].to_numpy(dtype=float)


def _standardised(
    graph: CausalGraph, table: pd.DataFrame, factual: pd.DataFrame, columns: list[str], contrast: Contrast,
    edited: np.ndarray, complete: frozenset[str], adjustment: frozenset[str],
) -> tuple[Mapping[str, Effect], bool, int]:  # fmt: skip
    """Effect on each column by g-computation over ``adjustment``, whether the images allow one, and the rarer level's images.

    Images that miss one of ``complete`` are left out.
    """
    drawn, fewest = _drawn(graph, table, factual, contrast, edited, complete, adjustment)
    if drawn is None:
        return dict.fromkeys(columns, NOTHING), False, fewest
    effects = g_computation(
        drawn.outcomes(factual, columns), drawn.patients, drawn.design, drawn.low, drawn.high, drawn.standard
    )
    return dict(zip(columns, effects, strict=True)), all(effect.n for effect in effects), fewest


def _drawn(
    graph: CausalGraph, table: pd.DataFrame, factual: pd.DataFrame, contrast: Contrast, edited: np.ndarray,
    complete: frozenset[str], adjustment: frozenset[str],
) -> tuple[_Drawn | None, int]:  # fmt: skip
    """The images and designs, ``None`` where they do not overlap; and the number of images at the rarer level."""
    attribute = graph.attributes[contrast.attribute]
    known = table.loc[factual.index]
    codes = attribute.encode(known[contrast.attribute])
    continuous = isinstance(attribute, Continuous)
    treatment = contrast.treatment(attribute, codes)
    keep = ~np.isnan(treatment)
    if continuous:
        treatment = treatment - np.nanmean(treatment)
    for name in complete:
        keep &= known[name].notna().to_numpy()
    patients = factual.loc[keep, "patient"].to_numpy()
    treatment, known = treatment[keep], known[keep]
    standard = known.index.isin(edited)
    fewest = len(treatment) if continuous else int(min((treatment == 1).sum(), (treatment == 0).sum()))
    if not standard.any() or len(np.unique(treatment)) < 2:
        return None, fewest
    if not overlaps(graph, known, treatment, adjustment, standard, continuous):
        return None, fewest
    covariates: dict[str, np.ndarray] = {}
    for name in sorted(adjustment):
        covariates |= covariate_columns(known[name], graph.attributes[name].encode(known[name]))
    design = design_matrix(treatment, covariates, continuous)
    at = {name: column[standard] for name, column in covariates.items()}
    if continuous:
        high, low = shifted(treatment)
        low, high = low[standard], high[standard]
    else:
        low, high = np.zeros(int(standard.sum())), np.ones(int(standard.sum()))
    design_low, design_high = (design_matrix(values, at, continuous) for values in (low, high))
    return _Drawn(keep, patients, design, design_low, design_high, patients[standard]), fewest


def shifted(treatment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a1 and a0 of a unit shift inside the observed support: up where that stays inside, else from below."""
    up = treatment + 1 <= treatment.max()
    return np.where(up, treatment + 1, treatment), np.where(up, treatment, treatment - 1)


def overlaps(
    graph: CausalGraph,
    known: pd.DataFrame,
    treatment: np.ndarray,
    adjustment: frozenset[str],
    standard: np.ndarray,
    continuous: bool,
) -> bool:
    """Whether nearly every edited image could have had either value, given the adjustment set.

    Levels: by a logistic propensity. Numbers: both ends of the shift lie among the residuals that are seen.
    """
    covariates: dict[str, np.ndarray] = {}
    for name in sorted(adjustment):
        covariates |= covariate_columns(known[name], graph.attributes[name].encode(known[name]))
    if not covariates:
        return True
    X = np.column_stack(list(covariates.values()))
    if continuous:
        expected = treatment.mean() + X @ np.linalg.lstsq(X, treatment - treatment.mean(), rcond=None)[0]
        lowest, highest = np.quantile(treatment - expected, [OVERLAP_LOW / 2, 1 - OVERLAP_LOW / 2])
        high, low = shifted(treatment)
        outside = (high - expected > highest) | (low - expected < lowest)
        return bool(outside[standard].mean() <= OVERLAP_SHARE)

    from sklearn.linear_model import LogisticRegression

    propensity = LogisticRegression(C=10.0, max_iter=1000).fit(X, treatment).predict_proba(X)[standard, 1]
    beyond = (propensity < OVERLAP_LOW) | (propensity > 1 - OVERLAP_LOW)
    return bool(beyond.mean() <= OVERLAP_SHARE)
