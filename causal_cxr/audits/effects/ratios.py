"""Ratios with Fieller's interval: an effect over the reader's slope where that is imprecise, and means of the same images.

:meth:`~causal_cxr.audits.effects.Effect.scaled` is the delta method, which is right to first order: it is near this one
while the slope is ten or more of its errors away from 0. Nearer, its interval is too short on the far side.
"""

import numpy as np
from scipy import stats

from causal_cxr.audits.effects.effect import Effect, IntervalEstimate
from causal_cxr.statistics.clustered import mean_influence


def fieller_interval(effect: Effect, slope: float, slope_se: float, *, level: float = 0.95) -> IntervalEstimate:
    """All theta for which ``effect - theta slope`` is not told from 0 (Fieller 1954).

    Args:
        effect: on the scale of the scores, of other images than the slope.
        slope: J of the reader, estimated; not 0.
        slope_se: its patient-clustered error.
        level: two-sided; the t quantile has the effect's degrees of freedom.

    Returns:
        limits ``-inf, inf`` where the slope itself is not told from 0: then no ratio is excluded with confidence, or only
        some between two rays, which are not shown.

    Raises:
        ValueError: a slope of 0 or no number.

    >>> found = fieller_interval(Effect(0.2, 0.02, 200, 100, 100), 0.5, 0.1)
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (0.4, 0.268, 0.679)
    """
    if not np.isfinite(slope) or slope == 0 or not slope_se >= 0:
        raise ValueError(
            f"Cannot divide by a slope of {slope} +- {slope_se}; judge the reader on labelled images first."
        )
    found = effect.scaled(slope, slope_se)
    low, high = found.interval(level) if np.isfinite(found.value) else (np.nan, np.nan)
    return IntervalEstimate(found.value, low, high, level, effect.n, effect.patients)


def paired_ratio(
    above: np.ndarray, below: np.ndarray, patients: np.ndarray, *, level: float = 0.95
) -> IntervalEstimate:
    """Ratio of two means of the same images, with Fieller's interval from patient-clustered (co)variances (CR2).

    Args:
        above, below: ``(n,)``; images that miss one are left out.
        patients: ``(n,)`` ids.
        level: two-sided.

    Returns:
        NaN for fewer than three patients; limits ``-inf, inf`` where the mean below is not told from 0, but for a mean of exactly 0 under
        one that is surely above 0: an infinite ratio for sure.

    >>> found = paired_ratio(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 4.1, 5.9, 8.0]), np.arange(4))
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
    (0.5, 0.47, 0.52)
    """
    pair = np.column_stack([above, below]).astype(float)
    known = ~np.isnan(pair).any(axis=1)
    pair, who = pair[known], np.unique(np.asarray(patients)[known], return_inverse=True)[1]
    count = int(who.max()) + 1 if len(who) else 0
    if count < 3:
        return IntervalEstimate(np.nan, np.nan, np.nan, level, 0, 0)
    a, b = mean = pair.mean(axis=0)
    influence, dof = mean_influence(pair - mean, who, count)
    (vaa, vab), (_, vbb) = influence.T @ influence * stats.t.ppf(0.5 + level / 2, dof) ** 2
    if b:
        value, (low, high) = a / b, _fieller(a, b, vaa, vab, vbb)
    else:
        value = float(np.copysign(np.inf, a)) if a else float("nan")
        low, high = (np.inf, np.inf) if a**2 > vaa and a > 0 else (-np.inf, np.inf)
    return IntervalEstimate(float(value), low, high, level, len(pair), count)


def _fieller(a: float, b: float, vaa: float, vab: float, vbb: float) -> tuple[float, float]:
    """All theta with ``(a - theta b)^2 <= vaa - 2 theta vab + theta^2 vbb``, variances times the squared quantile."""
    steep, middle, flat = b**2 - vbb, a * b - vab, a**2 - vaa
    if not steep > 0:
        return -np.inf, np.inf
    half = np.sqrt(max(middle**2 - steep * flat, 0.0))
    return float((middle - half) / steep), float((middle + half) / steep)
