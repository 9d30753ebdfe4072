"""What unedited images say of a contrast: the adjusted and the marginal association, standardised to the edited images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from causal_cxr.audits.effects import NOTHING, Effect, covariate_columns, design_matrix, g_computation
from causal_cxr.graphs import CausalGraph, Continuous, Contrast

OVERLAP_SHARE, OVERLAP_LOW = 0.05, 0.02  #: at most this share of edited images may have a propensity beyond


@dataclass(frozen=True)
class Association:
    """Estimates from unedited images for one contrast and one column of scores; or why there is none."""

    adjustment: frozenset[str] | None
    overlap: bool
    fewest: int  #: images at the rarer of the two levels; all images for a continuous attribute
    adjusted: Effect
    marginal: Effect


def associations(
    graph: CausalGraph,
    table: pd.DataFrame,
    factual: pd.DataFrame,
    outcomes: Mapping[str, str | None],
    contrast: Contrast,
    edited: np.ndarray,
) -> dict[str, Association]:
    """Adjusted and marginal effects in unedited images, standardised to the edited ones, by column.

    Args:
        outcomes: column of scores -> the labelled attribute that it reads; ``None``: what the graph does not have.
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
    return found


def marginal_association(
    graph: CausalGraph, table: pd.DataFrame, factual: pd.DataFrame, column: str, contrast: Contrast, edited: np.ndarray
) -> Effect:
    """The association of one column of scores with the contrast, adjusted for nothing, standardised to the edited images."""
    effects, _, _ = _standardised(graph, table, factual, [column], contrast, edited, frozenset(), frozenset())
    return effects[column]


def _standardised(
    graph: CausalGraph, table: pd.DataFrame, factual: pd.DataFrame, columns: list[str], contrast: Contrast,
    edited: np.ndarray, complete: frozenset[str], adjustment: frozenset[str],
) -> tuple[Mapping[str, Effect], bool, int]:  # fmt: skip
    """Effect on each column by g-computation over ``adjustment``, whether the overlap allows one, and the rarer level's images.

    Images that miss one of ``complete`` are left out.
    """
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
    scores, patients = factual.loc[keep, columns].to_numpy(dtype=float), factual.loc[keep, "patient"].to_numpy()
    treatment, known = treatment[keep], known[keep]
    standard = known.index.isin(edited)
    fewest = len(treatment) if continuous else int(min((treatment == 1).sum(), (treatment == 0).sum()))
    if not standard.any() or len(np.unique(treatment)) < 2:
        return dict.fromkeys(columns, NOTHING), False, fewest
    if not overlaps(graph, known, treatment, adjustment, standard, continuous):
        return dict.fromkeys(columns, NOTHING), False, fewest
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
    effects = g_computation(scores, patients, design, design_low, design_high, patients[standard])
    return dict(zip(columns, effects, strict=True)), True, fewest


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
