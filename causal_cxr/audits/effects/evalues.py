"""E-values: evidence that may be averaged, that survives optional stopping, and that needs no assumption of dependence.

An e-value is a nonnegative statistic whose mean is at most 1 if the hypothesis is true. The least of several e-values is one
against the union of their hypotheses, so a conjunction of claims has the least of theirs (Vovk & Wang, E-values:
calibration, combination and applications, Annals of Statistics 2021).
"""

from collections.abc import Callable

import numpy as np
from scipy import stats

SPARE = 0.05  #: how much the mean of an e-value may grow by a nuisance that is known with error; it is divided by that


def e_bh(e: np.ndarray, alpha: float) -> np.ndarray:
    """Which claims to make: false-discovery rate at most ``alpha`` under any dependence (Wang & Ramdas, JRSS B 2022).

    The k largest e-values are claimed, for the largest k of which the smallest is at least ``K / (alpha k)``.

    Args:
        e: ``(K,)``; NaN counts as 0, and as a member of the family.
        alpha: of the false-discovery rate.

    Returns:
        ``(K,)`` bool.

    >>> e_bh(np.array([70.0, 25.0, 1.0]), alpha=0.05)
    array([ True, False, False])
    >>> e_bh(np.array([70.0, 30.0, 1.0]), alpha=0.05)
    array([ True,  True, False])
    """
    known = np.nan_to_num(e, nan=0.0, posinf=np.inf)
    sorted_e = np.sort(known)[::-1]
    enough = np.flatnonzero(sorted_e >= e_needed(len(e), np.arange(1, len(e) + 1), alpha))
    return known >= sorted_e[enough[-1]] if len(enough) else np.zeros(len(e), dtype=bool)


def e_needed(tests: int, claims: np.ndarray | int, alpha: float) -> np.ndarray:
    """What each of so many claims must reach in :func:`e_bh`: ``K / (alpha k)``."""
    return np.asarray(tests / (alpha * np.asarray(claims)))


def benjamini_yekutieli_calibrator(p: np.ndarray, tests: int, alpha: float) -> np.ndarray:
    """E-values of p-values, by the calibrator under which e-BH is the Benjamini-Yekutieli procedure.

    ``f(p) = K / (alpha ceil(p K c / alpha))`` up to ``p = alpha / c``, then 0, with ``c = 1 + 1/2 + ... + 1/K``. It falls in p
    and its integral over [0, 1] is exactly 1, so it is an admissible calibrator (Vovk & Wang 2021, section 2); it depends
    on what is fixed before any data: ``K`` and ``alpha``. No other gives e-BH more, where BY would be used on the p-values.

    Args:
        p: any shape; NaN gives 0.
        tests: K, claims in the family.
        alpha: of the family's false-discovery rate.

    >>> benjamini_yekutieli_calibrator(np.array([0.01, 0.04, np.nan]), tests=2, alpha=0.06)
    array([33.33333333, 16.66666667,  0.        ])
    """
    harmonic = (1 / np.arange(1, tests + 1)).sum()
    rank = np.maximum(np.ceil(np.nan_to_num(p, nan=1.0) * tests * harmonic / alpha), 1)
    return np.where((rank <= tests) & ~np.isnan(p), e_needed(tests, rank, alpha), 0.0)


def spared(log_e: np.ndarray, most: float, spare: float = SPARE) -> np.ndarray:
    """E-values that hold although a nuisance was bounded at :func:`spared_error`, not known.

    Where the bound holds, the mean of e is at most 1. Where it does not, with probability ``spare / M``, e is cut at
    ``M = (1 + spare) most``. So the mean of the cut e is at most ``1 + spare``, by which it is divided. What is cut off no family
    needs, if ``most`` is what a single claim must reach.

    Args:
        log_e: of e-values given that the nuisance is in its bound.
        most: what e-values are cut at, after division.
        spare: in (0, 1).
    """
    return np.minimum(np.exp(np.minimum(log_e - np.log1p(spare), 700.0)), most)


def spared_error(most: float, spare: float = SPARE) -> float:
    """How often a bound of a nuisance may fail for :func:`spared` to be right: ``spare / ((1 + spare) most)``."""
    return spare / ((1 + spare) * most)


HEDGE = 0.5  #: variance of the mixture that speaks against values of a nuisance, in its estimate's own
STEPS = 16  #: of golden sections, which find the least over what a nuisance may be to 0.01 of its error
GOLDEN = (np.sqrt(5) - 1) / 2


def hedged(
    log_e: Callable[[np.ndarray], np.ndarray], error: np.ndarray, most: float, *, cost: np.ndarray, sides: int = 1
) -> np.ndarray:
    """Log e-values of a claim about a border whose estimate has a normal error; before they are :func:`spared`.

    Whatever the border is, evidence against the claim's hypothesis given that border times evidence against that border, from its
    own estimate, is an e-value if the two are independent; so the least of these products is one whatever it is. As evidence
    against a border z errors further away serves the ratio of a normal mixture of mean ``cost`` and variance :data:`HEDGE` to the
    normal density: it gains with z what ``log_e`` is expected to lose. Borders further away than :func:`spared_error` allows are
    not looked at. To bound the border alone would ask of every claim that it holds at the far end.

    Args:
        log_e: of a border's distance from its estimate to the far side, ``(k,)``; convex in it, and not rising, as
            :func:`~causal_cxr.audits.effects.log_e_above` is.
        error: ``(k,)`` of the estimates; where it is 0 the border is known.
        most: as for :func:`spared`.
        cost: ``(k,)``, what ``log_e`` is expected to lose an error of the border, where it decides; known before its data. A guess
            that is off costs evidence, not level.
        sides: of how many borders the bounds must hold at once.

    Returns:
        ``(k,)``.

    >>> float(hedged(lambda far: 5.0 - far, np.array([0.0]), 1000, cost=np.array([1.0]))[0])
    5.0
    """

    def product(z: np.ndarray) -> np.ndarray:
        return log_e(z * error) + (z**2 - (z - cost) ** 2 / (1 + HEDGE) - np.log1p(HEDGE)) / 2

    edge = np.full_like(error, stats.norm.isf(spared_error(most) / sides))
    low, high = -edge, edge
    for _ in range(STEPS):
        width = GOLDEN * (high - low)
        falls = product(high - width) > product(low + width)
        low, high = np.where(falls, high - width, low), np.where(falls, high, low + width)
    return np.where(error > 0, np.minimum(product((low + high) / 2), product(edge)), log_e(np.zeros_like(error)))
