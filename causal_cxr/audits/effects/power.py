"""What a design can find: power of "yes" and of "no", the smallest effects they can tell, and the patients they need.

"Yes" rejects ``|theta| <= delta`` and "no" rejects ``|theta| >= delta``, as :class:`~causal_cxr.audits.effects.Effect` does
it: t tests with the effect's standard error and degrees of freedom. Both powers are exact for a normal estimate whose
error is an independent scaled chi: the estimate is integrated over in closed form, its error by quadrature.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Literal

import numpy as np
from scipy import optimize, special, stats

from causal_cxr.audits.effects.effect import Effect

Claim = Literal["yes", "no"]
NODES = 200  #: of Gauss-Legendre over the error's distribution function
MOST = 10_000_000  #: patients; beyond that a design is called endless


def planned_effect(patients: int, images_each: float, sd: float, icc: float = 0.0) -> Effect:
    """The effect that a design would estimate, at 0: its error and degrees of freedom.

    Args:
        patients: at least 3.
        images_each: of a patient, as many of each.
        sd: of a single paired difference, on the scale of delta (divide by the reader's slope).
        icc: correlation of two differences of one patient, in [0, 1].

    Raises:
        ValueError: a number is outside its range.

    >>> round(planned_effect(100, 2, 0.5, icc=1.0).se, 6), round(planned_effect(100, 2, 0.5).se, 6)
    (0.05, 0.035355)
    """
    if patients < 3 or images_each < 1 or not sd > 0 or not 0 <= icc <= 1:
        raise ValueError(
            f"Need patients >= 3, images_each >= 1, sd > 0, icc in [0, 1]; got {patients}, {images_each}, {sd}, {icc}."
        )
    variance = sd**2 * (1 + (images_each - 1) * icc) / (patients * images_each)
    return Effect(0.0, float(np.sqrt(variance)), patients - 1, round(patients * images_each), patients)


def power_of(claim: Claim, plan: Effect, theta: float, delta: float, *, alpha: float = 0.05) -> float:
    """P(the claim is made | theta).

    Args:
        claim: ``yes`` or ``no``.
        plan: whose error and degrees of freedom count, from :func:`planned_effect` or a pilot; its value does not.
        theta: the true effect.
        delta: the smallest effect that counts, >= 0.
        alpha: of the test.

    Raises:
        ValueError: the claim is unknown, or the plan has no error.
    """
    if claim not in ("yes", "no"):
        raise ValueError(f"Unknown claim {claim!r}; it is 'yes' or 'no'.")
    if not plan.se > 0 or not delta >= 0 or not 0 < alpha < 1:
        raise ValueError(f"Need an error > 0, delta >= 0 and alpha in (0, 1); got {plan.se}, {delta}, {alpha}.")
    return _powers(claim, plan, delta, alpha)(theta)


def _powers(claim: Claim, plan: Effect, delta: float, alpha: float) -> Callable[[float], float]:
    """Power by theta; from which estimate the claim is made hangs on the estimated error alone, and is worked out once."""
    node, weight = _quadrature()
    error = plan.se * np.sqrt(stats.chi2.ppf((node + 1) / 2, plan.dof) / plan.dof)  # what the estimated error may be
    if claim == "no":
        border = np.maximum(delta - stats.t.ppf(1 - alpha, plan.dof) * error, 0.0)
    else:
        border = _yes_border(error, plan.dof, delta, alpha)

    def power(theta: float) -> float:
        below, above = special.ndtr((border - theta) / plan.se), special.ndtr((-border - theta) / plan.se)
        return float(
            weight @ (below - above if claim == "no" else special.ndtr((theta - border) / plan.se) + above) / 2
        )

    return power


@cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(NODES)


def minimum_detectable_effect(plan: Effect, delta: float, *, alpha: float = 0.05, target: float = 0.8) -> float:
    """The smallest ``|theta|`` that is called "yes" with probability ``target``.

    >>> round(minimum_detectable_effect(planned_effect(34, 1, 1.0), 0.0), 3)  # the textbook's n = 34 for 0.5 sd
    0.495
    """

    power = _powers("yes", plan, delta, alpha)
    return _rising(lambda theta: power(theta) - target, delta, plan.se)


def smallest_margin(plan: Effect, theta: float = 0.0, *, alpha: float = 0.05, target: float = 0.8) -> float:
    """The smallest delta at which an effect of ``theta`` is called "no" with probability ``target``."""

    def short(delta: float) -> float:
        return power_of("no", plan, theta, delta, alpha=alpha) - target

    return _rising(short, abs(theta), plan.se)


def patients_needed(
    claim: Claim, plan: Effect, theta: float, delta: float, *, alpha: float = 0.05, target: float = 0.8
) -> float:
    """The fewest patients like the plan's with whom the claim is made with probability ``target``; inf if none are enough.

    Args:
        claim, plan, theta, delta, alpha: as for :func:`power_of`; the plan's ``patients`` say what its error is from.
        target: in (alpha, 1).

    :meth:`Effect.patients_needed` is the quick normal answer for whatever claim the estimate itself leans to.

    >>> patients_needed("yes", planned_effect(10, 1, 1.0), 0.5, 0.0)
    34.0
    """
    if (abs(theta) <= delta) if claim == "yes" else (abs(theta) >= delta):
        return float("inf")

    def enough(patients: int) -> bool:
        share = patients / plan.patients
        grown = replace(plan, se=plan.se / np.sqrt(share), dof=max((plan.dof + 1) * share - 1, 1.0), patients=patients)
        return power_of(claim, grown, theta, delta, alpha=alpha) >= target

    low, high = 2, 4
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST:
            return float("inf")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return float(high)


def _yes_border(error: np.ndarray, dof: float, delta: float, alpha: float) -> np.ndarray:
    """``(m,)`` the estimate from which "yes" is said, for each estimated error: where ``Effect.p_yes`` is ``alpha``."""
    low = delta + stats.t.ppf(1 - alpha, dof) * error
    if delta == 0:
        return stats.t.ppf(1 - alpha / 2, dof) * error
    high = delta + stats.t.ppf(1 - alpha / 2, dof) * error
    for _ in range(50):
        middle = (low + high) / 2
        p = special.stdtr(dof, (delta - middle) / error) + special.stdtr(dof, -(middle + delta) / error)
        low, high = np.where(p > alpha, middle, low), np.where(p > alpha, high, middle)
    return high


def _rising(short: Callable[[float], float], start: float, step: float) -> float:
    """Where a rising function that is below 0 at ``start`` meets 0."""
    end = start + step
    while short(end) < 0:
        end += end - start
    return float(optimize.brentq(short, start, end, xtol=1e-10 * max(end, step)))
