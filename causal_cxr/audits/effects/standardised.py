"""The data's side: g-computation over covariates in unedited images, patients as clusters."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from causal_cxr.audits.effects.effect import NOTHING, Effect
from causal_cxr.statistics.clustered import cluster_sums, cr2_weights, mean_influence, rests_on_one, satterthwaite

SPLINE_POWERS = (1, 2, 3)  #: a continuous covariate enters as a cubic


def design_matrix(treatment: np.ndarray, covariates: Mapping[str, np.ndarray], continuous: bool) -> np.ndarray:
    """``(n, p)``: intercept, treatment, covariates, and their products.

    Args:
        treatment: ``(n,)`` 0/1 or, if ``continuous``, in units of the declared shift.
        covariates: centred columns (dummies or powers).
        continuous: whether the treatment enters as a cubic.
    """
    treated = [treatment**k for k in (SPLINE_POWERS if continuous else (1,))]
    columns = [np.ones(len(treatment)), *treated, *covariates.values()]
    columns += [treatment * column for column in covariates.values()]
    return np.column_stack(columns)


def covariate_columns(values: pd.Series, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Centred columns of one covariate: a cubic for numbers, dummies for levels."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        levels = range(1, len(values.cat.categories))
        columns = {f"{values.name}={k}": (codes == k).astype(float) for k in levels if (codes == k).any()}
    else:
        spread = codes.std() or 1.0
        columns = {f"{values.name}^{k}": ((codes - codes.mean()) / spread) ** k for k in SPLINE_POWERS}
    return {name: column - column.mean() for name, column in columns.items()}


def g_computation(
    scores: np.ndarray,
    patients: np.ndarray,
    design: np.ndarray,
    design_low: np.ndarray,
    design_high: np.ndarray,
    standard_patients: np.ndarray | None = None,
) -> list[Effect]:
    """Standardised effect on each score by least squares, patients as clusters (Robins 1986).

    Args:
        scores: ``(n, k)`` of unedited images.
        patients: ``(n,)`` ids.
        design: ``(n, p)``.
        design_low, design_high: ``(m, p)`` of the standardisation sample with the treatment set to a0 and a1.
        standard_patients: ``(m,)`` ids of that sample. With them the error is that of the effect in the population the
            patients came from; without, of the effect in just these ``m`` images.

    Returns:
        one effect a score: mean prediction at a1 less at a0. No effect where most of its variance could not be seen,
        as where only one patient has a level of the treatment: no residual tells how much such patients vary.

    The variance has two parts: that of the coefficients (CR2), and, given ``standard_patients``, that of which patients
    were averaged over. The second is the spread of the patients' predicted effects less the coefficients' noise in it,
    no less than 0; with that noise, intervals from few patients would be too wide.
    """
    n, count = len(scores), len(np.unique(patients))
    groups = np.unique(patients, return_inverse=True)[1]
    change = design_high - design_low

    U, S, Vt = np.linalg.svd(design, full_matrices=False)
    rank = int(np.count_nonzero(S / S[0] > max(design.shape) * np.finfo(float).eps))
    U, change = U[:, :rank], change @ Vt[:rank].T / S[:rank]  # from here on the design's columns are orthonormal
    contrast = change.mean(axis=0)
    coefficients = U.T @ scores
    values, residuals = contrast @ coefficients, scores - U @ coefficients

    reduced, lone = cr2_weights(U, groups)
    if rests_on_one(contrast, lone):
        return [NOTHING] * scores.shape[1]
    weights = (reduced @ contrast)[:, None]
    variance = np.maximum((cluster_sums(weights * residuals, groups, count) ** 2).sum(axis=0), 1e-24)
    own, shared = (cluster_sums(weights * x, groups, count) for x in (weights, U))
    dof = np.full(len(values), satterthwaite(own[:, 0], shared))
    if standard_patients is not None and len(np.unique(standard_patients)) > 1:
        standard = np.unique(standard_patients, return_inverse=True)[1]
        spread, dof_spread = mean_influence(change - contrast, standard, int(standard.max()) + 1)
        lengths, directions = np.linalg.eigh(spread.T @ spread)
        kept = lengths > 1e-12 * lengths.max()
        noise = np.zeros(len(values))
        for direction in (directions[:, kept] * np.sqrt(lengths[kept])).T:
            noise += (cluster_sums((reduced @ direction)[:, None] * residuals, groups, count) ** 2).sum(axis=0)
        between = np.maximum(((spread @ coefficients) ** 2).sum(axis=0) - noise, 0.0)
        total = variance + between
        dof = total**2 / (variance**2 / dof + between**2 / dof_spread)
        variance = total
    errors = np.sqrt(variance)
    return [Effect(float(v), float(s), float(d), n, count) for v, s, d in zip(values, errors, dof, strict=True)]
