"""Counterfactual prediction gain: how far a model's score moves when one attribute is set, beyond the null edit."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from causal_cxr.audits.effects import NOTHING, Effect, covariate_columns, design_matrix, g_computation, paired_effect
from causal_cxr.audits.shortcuts.decisions import share_interval, turned
from causal_cxr.audits.shortcuts.predictors import NAME
from causal_cxr.graphs import Attribute, Continuous, Contrast

PROBABILITY = "probability"


def logit_column(model: str) -> str:
    """Of a model's log odds in the measurement table."""
    return f"{NAME}/{model}"


def score_column(model: str) -> str:
    """Of its probability, beside it."""
    return f"{PROBABILITY}/{model}"


def with_probabilities(measurements: pd.DataFrame, models: Mapping[str, Any]) -> pd.DataFrame:
    """Measured log odds, and probabilities beside them."""
    return measurements.assign(
        **{score_column(model): expit(measurements[logit_column(model)].to_numpy(dtype=float)) for model in models}
    )


def effect_of(paired: pd.DataFrame | None, column: str, orientation: int | None = None) -> Effect:
    """Mean paired difference; of one direction only, if ``orientation`` is +1 or -1."""
    if paired is None:
        return NOTHING
    frame = paired if orientation is None else paired[paired["orientation"] == orientation]
    return paired_effect(frame[column].to_numpy(), frame["patient"].to_numpy()) if len(frame) else NOTHING


def gain_of(
    paired: pd.DataFrame | None, total: pd.DataFrame | None, model: str, threshold: float, delta: float
) -> tuple[Effect, dict[str, Any]]:
    """The gain on the probability scale, and all else that is told of a model and a contrast.

    Args:
        paired: differences with all other labelled attributes held.
        total: differences with the labelled descendants following.
        model: its name.
        threshold: of its decision, a probability.
        delta: a change of the probability that counts.

    Returns:
        the gain, with an error of one patient at least (:meth:`Effect.unsettled`); and by name, each with ``_low`` and
        ``_high``: ``gain``; ``gain_logit``; ``total_gain``; ``flips_up`` and ``flips_down``, shares of images whose decision
        becomes positive, and ceases to be, when the attribute goes from a0 to a1; ``absolute``, the mean size of the change,
        whatever its sign (an editor's noise is in it); ``moved``, the share of images whose score changes by delta or more.
        ``gain_up`` and ``gain_down``: of the images that went from a0 to a1, and of those that went back.
    """
    column = score_column(model)
    gain = effect_of(paired, column).unsettled()
    numbers: dict[str, Any] = {
        **told("gain", gain),
        **told("gain_logit", effect_of(paired, logit_column(model))),
        **told("total_gain", effect_of(total, column)),
        "gain_up": effect_of(paired, column, 1).value, "gain_down": effect_of(paired, column, -1).value,
    }  # fmt: skip
    if paired is None:
        shares: dict[str, Any] = dict.fromkeys(("flips_up", "flips_down", "moved"), (np.nan, np.nan, np.nan))
        return gain, numbers | told("absolute", NOTHING) | _spread(shares)
    patients = paired["patient"].to_numpy()
    null, sign = paired[f"{column}@null"].to_numpy(), paired["orientation"].to_numpy()
    change = paired[column].to_numpy()
    edited = null + sign * change
    up, down = turned(np.where(sign > 0, null, edited), np.where(sign > 0, edited, null), threshold)
    shares = {
        "flips_up": share_interval(up, patients), "flips_down": share_interval(down, patients),
        "moved": share_interval(np.abs(change) >= delta, patients),
    }  # fmt: skip
    return gain, numbers | told("absolute", paired_effect(np.abs(change), patients)) | _spread(shares)


def association_given_target(
    factual: pd.DataFrame, attribute: Attribute, contrast: Contrast, values: pd.Series, target: pd.Series, columns: list[str]
) -> list[Effect]:  # fmt: skip
    """What needs no editor: how unedited scores differ with an attribute among images of the same target label.

    The strongest rival of a counterfactual gain. It is confounded by whatever else goes with the attribute.

    Args:
        factual: unedited scores and ``patient``, ``n`` rows.
        attribute, contrast: in question.
        values: ``(n,)`` of the attribute.
        target: ``(n,)`` typed labels of the target.
        columns: of scores.

    Returns:
        standardised differences (g-computation; a continuous attribute enters as a line), one a column.
    """
    treatment = contrast.treatment(attribute, attribute.encode(values))
    if isinstance(attribute, Continuous):
        treatment = treatment - np.nanmean(treatment)
    keep = target.notna().to_numpy() & ~np.isnan(treatment)
    if not keep.any() or len(np.unique(treatment[keep])) < 2 or factual.loc[keep, "patient"].nunique() < 3:
        return [NOTHING] * len(columns)
    label = target[keep]
    given = covariate_columns(label, label.cat.codes.to_numpy().astype(float))
    zeros = np.zeros(int(keep.sum()))
    design, low, high = (design_matrix(t, given, continuous=False) for t in (treatment[keep], zeros, zeros + 1))
    patients = factual.loc[keep, "patient"].to_numpy()
    return g_computation(factual.loc[keep, columns].to_numpy(dtype=float), patients, design, low, high, patients)


def told(name: str, effect: Effect) -> dict[str, float]:
    """An effect with its 95% interval, under a name."""
    low, high = effect.interval() if effect.n else (np.nan, np.nan)
    return {name: effect.value, f"{name}_low": low, f"{name}_high": high}


def _spread(shares: Mapping[str, tuple[float, float, float]]) -> dict[str, float]:
    return {f"{name}{end}": value for name, three in shares.items() for end, value in zip(("", "_low", "_high"), three, strict=True)}  # fmt: skip
