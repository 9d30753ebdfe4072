"""Effects, intervals and tests: pure functions of arrays, every one patient-clustered.

Few patients, and patients of unequally many images, make the usual clustered error too small. So the error here is the
bias-reduced CR2 (Bell & McCaffrey 2002), and t has the Satterthwaite degrees of freedom that go with it (Pustejovsky &
Tipton 2018); ``benchmarks/results/calibration.md`` shows how often that is right.

"Yes" rejects ``|theta| <= delta``; "no" rejects ``|theta| >= delta`` (two one-sided tests, Schuirmann 1987). Neither is
ever concluded from a failure to reject.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

SPLINE_POWERS = (1, 2, 3)  #: a continuous covariate enters as a cubic


@dataclass(frozen=True)
class Effect:
    """An estimate on the scale of the concept.

    Attributes:
        value: oriented a1 - a0; NaN where it cannot be estimated.
        se: patient-clustered standard error, the reader's slope included.
        dof: degrees of freedom, Satterthwaite's: patients - 1 where all weigh the same, else fewer.
        n: images used.
        patients: patients used.
    """

    value: float
    se: float
    dof: float
    n: int
    patients: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided t interval."""
        half = stats.t.ppf(0.5 + level / 2, self.dof) * self.se
        return self.value - half, self.value + half

    def p_yes(self, delta: float) -> float:
        """p of ``|theta| <= delta``, at its least favourable point.

        >>> Effect(0.5, 0.1, 1e6, 100, 100).p_yes(0.1) < 1e-4
        True
        """
        if not self.se > 0:
            return float("nan")
        distance = abs(self.value)
        upper = stats.t.sf((distance - delta) / self.se, self.dof)
        return float(min(1.0, upper + stats.t.sf((distance + delta) / self.se, self.dof)))

    def p_no(self, delta: float) -> float:
        """p of ``|theta| >= delta``: the larger of two one-sided tests."""
        if not self.se > 0:
            return float("nan")
        return float(stats.t.sf((delta - abs(self.value)) / self.se, self.dof))

    def scaled(self, slope: float, slope_se: float) -> "Effect":
        """Divided by the reader's slope J, J's uncertainty carried along (delta method)."""
        value = self.value / slope
        se = np.hypot(self.se / slope, value * slope_se / slope)
        return Effect(value, float(se), self.dof, self.n, self.patients)

    def unsettled(self) -> "Effect":
        """With an error no smaller than if one patient more had gone the other way.

        Where nothing varies (no image of so many shows a change) the estimated error is zero, which proves nothing: with
        the error of one patient in all, "no" needs a delta that so many patients can tell from zero.
        """
        least = 1 / self.patients if self.patients else 0.0
        return Effect(self.value, max(self.se, least), self.dof, self.n, self.patients)

    def patients_needed(self, delta: float, alpha: float = 0.05) -> float:
        """Patients at which the interval's half width would decide, if the estimate stood still."""
        gap = abs(abs(self.value) - delta)
        if not gap > 0 or not self.se > 0:
            return float("inf")
        return float(np.ceil(self.patients * ((stats.norm.ppf(1 - alpha) + 0.84) * self.se / gap) ** 2))


NOTHING = Effect(float("nan"), float("nan"), float("nan"), 0, 0)


def paired_effect(difference: np.ndarray, patients: np.ndarray) -> Effect:
    """Mean of oriented paired differences (edited minus matched null), patients as clusters.

    Args:
        difference: ``(n,)``.
        patients: ``(n,)`` ids.

    With one image a patient it is the one-sample t test. With ``n_g`` of ``n`` images in patient g, the variance is
    ``sum_g (sum_i in g (d_i - mean))^2 / (1 - n_g / n) / n^2``.
    """
    n = len(difference)
    groups = np.unique(patients, return_inverse=True)[1]
    count = int(groups.max()) + 1 if n else 0
    if count < 3:
        return NOTHING
    mean = float(np.mean(difference))
    influence, dof = _mean_influence((difference - mean)[:, None], groups, count)
    se = float(np.sqrt(np.sum(influence**2)))
    return Effect(mean, max(se, 1e-12), dof, n, count)


def rejection_bounds(
    edited: np.ndarray, null: np.ndarray, orientation: np.ndarray, edited_known: np.ndarray, null_known: np.ndarray,
    patients: np.ndarray,
) -> tuple[Effect, Effect]:  # fmt: skip
    """The least and the largest paired effect, whatever the rejected edits would have shown (Manski, 1990).

    Nothing is assumed of a rejected image but that its score lies in [0, 1].

    Args:
        edited, null: ``(n,)`` scores; those that are not known are not looked at.
        orientation: ``(n,)`` +1 where the edit goes from a0 to a1, -1 where it goes back.
        edited_known, null_known: ``(n,)`` bool, accepted.
        patients: ``(n,)`` ids.

    Returns:
        effects of all ``n`` edits. An interval that holds whatever lies between goes from the lower end of the first's to
        the upper end of the second's (Horowitz and Manski, 2000). Where all is accepted both are :func:`paired_effect`.

    >>> low, high = rejection_bounds(
    ...     np.array([0.9, 0.8, 0.0, 0.7]), np.array([0.1, 0.2, 0.3, 0.1]), np.ones(4), np.arange(4) != 2, np.ones(4, bool),
    ...     np.arange(4))
    >>> round(low.value, 3), round(high.value, 3)
    (0.425, 0.675)
    """
    forward = orientation > 0
    edited_low, edited_high = (np.where(edited_known, edited, end) for end in (0.0, 1.0))
    null_low, null_high = (np.where(null_known, null, end) for end in (0.0, 1.0))
    low = np.where(forward, edited_low - null_high, null_low - edited_high)
    high = np.where(forward, edited_high - null_low, null_high - edited_low)
    return paired_effect(low, patients), paired_effect(high, patients)


def _mean_influence(deviations: np.ndarray, groups: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """``(count, k)`` what each patient adds to means, CR2; its squares sum to the variance. And the dof of that sum.

    Args:
        deviations: ``(n, k)`` from the means.
        groups: ``(n,)`` patient numbers below ``count``; a patient without rows adds nothing.
        count: patients.
    """
    n = len(deviations)
    share = np.bincount(groups, minlength=count) / n
    influence = _sums(deviations, groups, count) / (n * np.sqrt(1 - share))[:, None]
    weight = share / (1 - share)  # a'a of each patient, times n
    return influence, _satterthwaite(weight, (np.sqrt(share * weight))[:, None])


def _satterthwaite(own: np.ndarray, shared: np.ndarray) -> float:
    """Degrees of freedom ``tr(P)^2 / tr(P^2)`` of a CR2 variance, with ``P = diag(own) - shared shared'``.

    ``P`` is the variance's quadratic form in independent errors, a row a patient: ``own`` is ``(G,)``, ``shared``
    ``(G, p)``. It is never built.
    """
    square = (shared**2).sum(axis=1)
    trace = (own - square).sum()
    norm = (own**2 - 2 * own * square).sum() + ((shared.T @ shared) ** 2).sum()
    return float(trace**2 / norm) if norm > 0 else float(len(own) - 1)


def _sums(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """``(count, k)`` sums of ``(n, k)`` values within groups."""
    return np.column_stack([np.bincount(groups, weights=column, minlength=count) for column in values.T])


def signflip_max_t(differences: np.ndarray, patients: np.ndarray, *, draws: int = 2_000, seed: int = 0) -> np.ndarray:
    """Family-wise p of ``theta = 0`` for many cells: one sign a patient, shared by all cells, max-T.

    Args:
        differences: ``(n, k)`` oriented paired differences.
        patients: ``(n,)`` ids.
        draws: sign vectors.
        seed: of the signs.

    Returns:
        ``(k,)`` p-values ``(1 + b) / (1 + draws)``.
    """
    groups = np.unique(patients, return_inverse=True)[1]
    count = int(groups.max()) + 1
    sums = np.zeros((count, differences.shape[1]))
    np.add.at(sums, groups, differences)
    scale = np.sqrt((sums**2).sum(axis=0))
    scale[scale == 0] = np.inf
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, count))
    null = np.abs(signs @ (sums / scale)).max(axis=1)
    observed = np.abs((sums / scale).sum(axis=0))
    return (1 + (null[:, None] >= observed - 1e-12).sum(axis=0)) / (1 + draws)


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
        one effect a score: mean prediction at a1 less at a0.

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

    reduced = _cr2_weights(U, groups)
    weights = (reduced @ contrast)[:, None]
    variance = np.maximum((_sums(weights * residuals, groups, count) ** 2).sum(axis=0), 1e-24)
    own, shared = (_sums(weights * x, groups, count) for x in (weights, U))
    dof = np.full(len(values), _satterthwaite(own[:, 0], shared))
    if standard_patients is not None and len(np.unique(standard_patients)) > 1:
        standard = np.unique(standard_patients, return_inverse=True)[1]
        spread, dof_spread = _mean_influence(change - contrast, standard, int(standard.max()) + 1)
        lengths, directions = np.linalg.eigh(spread.T @ spread)
        kept = lengths > 1e-12 * lengths.max()
        noise = np.zeros(len(values))
        for direction in (directions[:, kept] * np.sqrt(lengths[kept])).T:
            noise += (_sums((reduced @ direction)[:, None] * residuals, groups, count) ** 2).sum(axis=0)
        between = np.maximum(((spread @ coefficients) ** 2).sum(axis=0) - noise, 0.0)
        total = variance + between
        dof = total**2 / (variance**2 / dof + between**2 / dof_spread)
        variance = total
    errors = np.sqrt(variance)
    return [Effect(float(v), float(s), float(d), n, count) for v, s, d in zip(values, errors, dof, strict=True)]


def _cr2_weights(basis: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """``(n, r)`` weights of the residuals: ``(I - H_g)^(-1/2) Q_g``, by batches of patients with equally many images.

    Args:
        basis: ``(n, r)`` orthonormal columns Q; ``H_g = Q_g Q_g'`` is a patient's leverage.
        groups: ``(n,)``.
    """
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)[groups[order]]
    weights = np.empty_like(basis)
    for size in np.unique(sizes):
        rows = order[sizes == size].reshape(-1, size)
        left, S, right = np.linalg.svd(basis[rows], full_matrices=False)
        room = 1 - S**2  # none along a direction that this patient alone decides, where the residual is 0 too
        grown = np.where(room > 1e-10, S / np.sqrt(np.maximum(room, 1e-10)), 0.0)
        weights[rows] = (left * grown[:, None]) @ right
    return weights


def benjamini_yekutieli(p: np.ndarray) -> np.ndarray:
    """q-values under any dependence (Benjamini & Yekutieli 2001); NaN stays NaN and is no member of the family."""
    from statsmodels.stats.multitest import multipletests

    q = np.full(len(p), np.nan)
    known = ~np.isnan(p)
    if known.any():
        q[known] = multipletests(p[known], method="fdr_by")[1]
    return q


def covariate_columns(values: pd.Series, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Centred columns of one covariate: a cubic for numbers, dummies for levels."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        levels = range(1, len(values.cat.categories))
        columns = {f"{values.name}={k}": (codes == k).astype(float) for k in levels if (codes == k).any()}
    else:
        spread = codes.std() or 1.0
        columns = {f"{values.name}^{k}": ((codes - codes.mean()) / spread) ** k for k in SPLINE_POWERS}
    return {name: column - column.mean() for name, column in columns.items()}
