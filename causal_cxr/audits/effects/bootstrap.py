"""Patient-cluster bootstrap of statistics that are functions of sums over patients: BCa and studentised.

A mean over images, a ratio, a reader's slope: each is a smooth function of totals, and totals of a resample of patients
are counts times patients' sums. So a statistic is told as a function of totals, and no image is touched again.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from causal_cxr.audits.effects.effect import IntervalEstimate
from causal_cxr.statistics.clustered import cluster_sums

Statistic = Callable[[np.ndarray], np.ndarray]  #: (..., q) totals over images -> (...) values
BLOCK = 2_000_000  #: leave-one-out statistics that are held at once


def mean_ratio(totals: np.ndarray) -> np.ndarray:
    """First total over the second; a mean over images: columns ``(d, 1)``."""
    return totals[..., 0] / totals[..., 1]


def mean_difference(totals: np.ndarray) -> np.ndarray:
    """Difference of two means; a reader's slope J: columns ``(s u, u, s (1 - u), 1 - u)``."""
    return totals[..., 0] / totals[..., 1] - totals[..., 2] / totals[..., 3]


def bootstrap_interval(
    columns: np.ndarray,
    patients: np.ndarray,
    statistic: Statistic = mean_ratio,
    *,
    method: Literal["bca", "studentised"] = "bca",
    level: float = 0.95,
    draws: int = 9_999,
    seed: int = 0,
) -> IntervalEstimate:
    """Interval from resampled patients.

    Args:
        columns: ``(n, q)``, a row an image.
        patients: ``(n,)`` ids.
        statistic: of the columns' totals, vectorised over leading axes.
        method: ``bca`` corrects for bias and for an error that hangs on the value (Efron 1987), by scipy. ``studentised``
            (bootstrap-t, Hall 1988) resamples ``(value - estimate) / error``, the error by the jackknife over patients in
            every resample: second-order right too, better where few patients are skewed, but it does not follow a
            transformation and may leave the range of the statistic.
        level: two-sided.
        draws: resamples.
        seed: of the resamples.

    Returns:
        NaN limits for fewer than 3 patients, or where nothing varies. Resamples in which the statistic is not defined (no
        image of one group) are left out of ``studentised`` and make ``bca`` NaN.

    Raises:
        ValueError: ``columns`` is no table of finite numbers, or the method is unknown.

    >>> flips = np.column_stack([[1, 0, 0, 1, 0, 1, 0, 0, 0, 0], np.ones(10)])
    >>> found = bootstrap_interval(flips, np.arange(10) // 2, seed=1)
    >>> found.value, bool(found.low < 0.3 < found.high)
    (0.3, True)
    """
    if columns.ndim != 2 or len(columns) != len(patients) or not np.isfinite(columns).all():
        raise ValueError(
            f"Need (n, q) finite columns and (n,) patients, got {columns.shape} and {np.shape(patients)}; "
            "leave images whose edit was rejected out."
        )
    if method not in ("bca", "studentised"):
        raise ValueError(f"Unknown method {method!r}; use 'bca' or 'studentised'.")
    ids, groups = np.unique(patients, return_inverse=True)
    sums = cluster_sums(columns.astype(float), groups, len(ids))
    value = float(statistic(sums.sum(axis=0)))
    if len(ids) < 3 or not _jackknife_error(sums, statistic, np.ones((1, len(ids))))[0] > 1e-12:
        return IntervalEstimate(value, np.nan, np.nan, level, len(columns), len(ids))
    interval = _bca if method == "bca" else _studentised
    low, high = interval(sums, statistic, value, level, draws, np.random.default_rng(seed))
    return IntervalEstimate(value, low, high, level, len(columns), len(ids))


def _bca(
    sums: np.ndarray, statistic: Statistic, value: float, level: float, draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    from scipy import stats

    found = stats.bootstrap(
        tuple(sums.T),
        lambda *columns, axis: statistic(np.stack([column.sum(axis=axis) for column in columns], axis=-1)),
        paired=True,
        vectorized=True,
        confidence_level=level,
        n_resamples=draws,
        batch=max(1, BLOCK // sums.size),
        method="BCa",
        random_state=rng,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _studentised(
    sums: np.ndarray, statistic: Statistic, value: float, level: float, draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    error = _jackknife_error(sums, statistic, np.ones((1, len(sums))))[0]
    counts = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = (statistic(counts @ sums) - value) / _jackknife_error(sums, statistic, counts)
    defined = moved[~np.isnan(moved)]  # infinite where a resample does not vary: then the interval may have no end
    least, most = np.quantile(defined, [0.5 - level / 2, 0.5 + level / 2], method="inverted_cdf")
    return float(value - most * error), float(value - least * error)


def _jackknife_error(sums: np.ndarray, statistic: Statistic, counts: np.ndarray) -> np.ndarray:
    """``(B,)`` errors of the statistic in resamples that hold each patient ``counts`` ``(B, G)`` times.

    ``(G - 1) / G sum_g count_g (value without one g - their mean)^2``; where nothing but one patient is left it is not
    defined.
    """
    size = len(sums)
    errors = np.empty(len(counts))
    step = max(1, BLOCK // sums.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, len(counts), step):
            weight = counts[start : start + step]
            left = statistic((weight @ sums)[:, None] - sums)  # (b, G)
            left = np.where(weight > 0, left, 0.0)
            deviation = left - ((weight * left).sum(axis=1) / size)[:, None]
            errors[start : start + step] = np.sqrt((size - 1) / size * (weight * deviation**2).sum(axis=1))
    return errors
