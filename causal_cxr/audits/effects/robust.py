"""Effects that a few patients cannot move: Hodges-Lehmann's location and the probability of improvement."""

from functools import cache

import numpy as np
from scipy import stats

from causal_cxr.audits.effects.effect import IntervalEstimate
from causal_cxr.audits.effects.paired import paired_effect

EXACT = 50  #: up to so many patients the signed-rank statistic's law is counted, as in scipy; beyond it is normal


def hodges_lehmann(difference: np.ndarray, patients: np.ndarray, *, level: float = 0.95) -> IntervalEstimate:
    """Median of the Walsh averages ``(m_g + m_h) / 2, g <= h`` of patients' mean differences (Hodges & Lehmann 1963).

    Each patient counts once, however many its images. The interval holds the shifts that the signed-rank test does not
    reject (Tukey): its ends are Walsh averages. It is closed, so ties only make it hold more often (Noether 1967); its
    truth is the centre of symmetry of the patients' means, or else their pseudomedian.

    Args:
        difference: ``(n,)`` oriented paired differences.
        patients: ``(n,)`` ids.
        level: two-sided.

    Returns:
        NaN limits where so few patients can never reject: fewer than 6 at level 0.95.

    Raises:
        ValueError: a difference is not finite.

    >>> hodges_lehmann(np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 99.0]), np.arange(7)).value
    3.0
    """
    _check(difference, patients)
    ids, groups = np.unique(patients, return_inverse=True)
    count = len(ids)
    if not count:
        return IntervalEstimate(np.nan, np.nan, np.nan, level, 0, 0)
    means = np.bincount(groups, weights=difference) / np.bincount(groups)
    averages = count * (count + 1) // 2
    middle = {(averages - 1) // 2, averages // 2}
    value = float(np.mean([walsh_average(means, rank) for rank in middle]))
    outside = signed_rank_border(count, (1 - level) / 2)  # so many averages beyond a shift, or fewer: rejected
    if outside < 0:
        return IntervalEstimate(value, np.nan, np.nan, level, len(difference), count)
    low, high = (walsh_average(means, rank) for rank in (outside, averages - 1 - outside))
    return IntervalEstimate(value, low, high, level, len(difference), count)


def walsh_average(values: np.ndarray, rank: int) -> float:
    """The Walsh average of 0-based ``rank`` among all ``G (G + 1) / 2`` of ``(G,)`` values.

    They are counted, not listed (``O(G log G)`` in each of some tens of halvings), so that 100,000 patients are no trouble.
    """
    value, times = np.unique(values, return_counts=True)
    below, index = np.concatenate([[0], np.cumsum(times)]), np.arange(len(value))

    def first_above(total: float) -> np.ndarray:
        """For each g the first h >= g whose ``value[g] + value[h]`` is over ``total``."""
        return np.maximum(np.searchsorted(value, total - value, side="right"), index)

    def pairs(end: np.ndarray) -> np.ndarray:
        """For each g the pairs of values whose other member is one of g, ..., end - 1."""
        own = times * (times + 1) // 2
        return np.where(end > index, own + times * (below[end] - below[index + 1]), 0)

    low, high = np.nextafter(2 * value[0], -np.inf), 2 * value[-1]  # at most rank sums are <= low, more are <= high
    begin, end = first_above(low), first_above(high)
    while (end - begin).sum() > 4 * len(value):  # no more than one h a g has the same sum, so this ends
        middle = low + (high - low) / 2
        tried = first_above(middle)
        if pairs(tried).sum() > rank:
            high, end = middle, tried
        else:
            low, begin = middle, tried
    left = np.repeat(index, end - begin)
    right = np.arange(len(left)) - np.repeat(np.cumsum(end - begin) - end, end - begin)
    weight = np.where(left == right, times[left] * (times[left] + 1) // 2, times[left] * times[right])
    sums = value[left] + value[right]
    order = np.argsort(sums, kind="stable")
    place = np.searchsorted(np.cumsum(weight[order]), rank - pairs(begin).sum(), side="right")
    return float(sums[order][place] / 2)


@cache
def signed_rank_border(count: int, tail: float) -> int:
    """The largest t with ``P(T <= t) <= tail`` for the signed-rank statistic of ``count`` values; -1 if there is none.

    >>> signed_rank_border(10, 0.025), signed_rank_border(5, 0.025)
    (8, -1)
    """
    if count > EXACT:
        mean, sd = count * (count + 1) / 4, np.sqrt(count * (count + 1) * (2 * count + 1) / 24)
        return int(np.floor(mean + stats.norm.ppf(tail) * sd - 0.5))
    chance = np.ones(1)
    for rank in range(1, count + 1):
        chance = (np.pad(chance, (0, rank)) + np.pad(chance, (rank, 0))) / 2
    return int(np.searchsorted(np.cumsum(chance), tail, side="right")) - 1


def probability_of_improvement(
    difference: np.ndarray, patients: np.ndarray, *, level: float = 0.95, tie: float = 0.0
) -> IntervalEstimate:
    """``P(d > 0) + P(d = 0) / 2`` over images: 0.5 where up and down are as likely.

    Wilson's (1927) score interval with the t quantile of the patient-clustered error and as many independent images as
    would have that error (Korn & Graubard 1998): it stays within [0, 1] and says something where all went one way, and
    then one patient counts as one image.

    Args:
        difference: ``(n,)`` oriented paired differences.
        patients: ``(n,)`` ids.
        level: two-sided.
        tie: ``|d| <= tie`` is no change.

    Returns:
        NaN limits for fewer than 3 patients.

    Raises:
        ValueError: a difference is not finite.

    >>> found = probability_of_improvement(np.array([1.0, 2.0, 0.0, -1.0, 3.0, 1.0]), np.arange(6))
    >>> found.value
    0.75
    """
    _check(difference, patients)
    return clustered_share(np.where(np.abs(difference) <= tie, 0.5, difference > 0), patients, level=level)


def clustered_share(values: np.ndarray, patients: np.ndarray, *, level: float = 0.95) -> IntervalEstimate:
    """Mean over images of values in [0, 1], a share where they are 0 and 1, with the interval of
    :func:`probability_of_improvement`.

    Args:
        values: ``(n,)`` in [0, 1], or bool.
        patients: ``(n,)`` ids.
        level: two-sided.

    Returns:
        NaN limits for fewer than 3 patients.

    >>> found = clustered_share(np.array([True, False, False, False]), np.arange(4))
    >>> found.value, found.low > 0, found.high < 1
    (0.25, True, True)
    """
    effect = paired_effect(values, patients)
    if not effect.patients:
        value = float(np.mean(values)) if len(values) else float("nan")
        count = len(np.unique(patients))
        return IntervalEstimate(value, np.nan, np.nan, level, len(values), count)
    from statsmodels.stats.proportion import proportion_confint

    settled = effect.se > 1e-9  # what paired_effect calls 1e-12 is none
    images = effect.value * (1 - effect.value) / effect.se**2 + 1 if settled else effect.patients
    tail = 2 * stats.norm.sf(stats.t.ppf(0.5 + level / 2, effect.dof))  # statsmodels asks for a level, and is normal
    low, high = proportion_confint(effect.value * images, images, alpha=tail, method="wilson")
    # Wilson's interval holds the share; a share of 0 or 1 can miss its end by a rounding.
    low, high = min(float(low), effect.value), max(float(high), effect.value)
    return IntervalEstimate(effect.value, low, high, level, effect.n, effect.patients)


def _check(difference: np.ndarray, patients: np.ndarray) -> None:
    if np.ndim(difference) != 1 or len(difference) != len(patients):
        raise ValueError(f"Need (n,) differences and patients, got {np.shape(difference)} and {np.shape(patients)}.")
    if not np.isfinite(difference).all():
        raise ValueError("Some differences are not finite; leave images whose edit was rejected out.")
