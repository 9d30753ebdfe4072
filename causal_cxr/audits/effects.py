"""Effects, intervals and tests: pure functions of arrays, every one patient-clustered.

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
        dof: degrees of freedom, patients - 1.
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

    The cluster-robust variance is ``G / (G - 1) * sum_g (sum_i in g (d_i - mean))^2 / n^2`` with ``G - 1`` degrees of
    freedom; with one image a patient it is the one-sample t test.
    """
    n = len(difference)
    groups = np.unique(patients, return_inverse=True)[1]
    count = int(groups.max()) + 1 if n else 0
    if count < 3:
        return NOTHING
    mean = float(np.mean(difference))
    sums = np.bincount(groups, weights=difference - mean)
    se = float(np.sqrt(count / (count - 1) * np.sum(sums**2)) / n)
    return Effect(mean, max(se, 1e-12), count - 1, n, count)


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
) -> list[Effect]:
    """Standardised effect on each score by least squares, patients as clusters (Robins 1986; statsmodels OLS).

    Args:
        scores: ``(n, k)`` of unedited images.
        patients: ``(n,)`` ids.
        design: ``(n, p)``.
        design_low, design_high: ``(m, p)`` of the standardisation sample with the treatment set to a0 and a1.

    Returns:
        one effect a score: mean prediction at a1 less at a0, its standard error by the delta method from the
        cluster-robust covariance.
    """
    import statsmodels.api as sm

    groups = np.unique(patients, return_inverse=True)[1]
    count = int(groups.max()) + 1
    contrast = (design_high - design_low).mean(axis=0)
    effects = []
    for column in scores.T:
        fit = sm.OLS(column, design).fit(cov_type="cluster", cov_kwds={"groups": groups})
        covariance = fit.cov_params()
        se = float(np.sqrt(max(contrast @ covariance @ contrast, 0.0)))
        effects.append(Effect(float(contrast @ fit.params), max(se, 1e-12), count - 1, len(column), count))
    return effects


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
