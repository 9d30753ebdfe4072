"""An effect over the reader's slope where the slope is imprecise: Fieller's interval.

:meth:`~causal_cxr.audits.effects.Effect.scaled` is the delta method, which is right to first order: it is near this one
while the slope is ten or more of its errors away from 0. Nearer, its interval is too short on the far side.
"""

import numpy as np
from scipy import stats

from causal_cxr.audits.effects.effect import Effect, IntervalEstimate


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
    value = effect.value / slope
    t = stats.t.ppf(0.5 + level / 2, effect.dof)
    lead = slope**2 - (t * slope_se) ** 2
    if not lead > 0:
        ends = (-np.inf, np.inf) if np.isfinite(value) else (np.nan, np.nan)
        return IntervalEstimate(value, *ends, level, effect.n, effect.patients)
    root = t * np.sqrt(effect.se**2 * lead + (effect.value * slope_se) ** 2)
    low, high = sorted(float((effect.value * slope + sign * root) / lead) for sign in (-1, 1))
    return IntervalEstimate(value, low, high, level, effect.n, effect.patients)
