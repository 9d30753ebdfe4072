"""Tests of a bounded mean by betting, which may be looked at, and stopped, at any time.

A gambler bets against "the mean is at most m" on one patient after another. Were that true, no bet would pay on average,
so the wealth is a nonnegative supermartingale that starts at 1: an e-process. By Ville's inequality it ever reaches
``1 / alpha`` with probability at most ``alpha``, whenever one looks and why ever one stops (Waudby-Smith & Ramdas, Estimating
means of bounded random variables by betting, JRSS B 2024).

Here the gambler divides the first coin between fixed bets and lets each ride, Cover's universal portfolio (Orabona & Jun,
Tight concentrations and confidence sequences from the regret of universal portfolio, IEEE TIT 2024). So nothing is
tuned to the data, and the wealth depends on which patients were seen, not on their order.

A patient's images are one bet. Patient g brings the sum ``S_g`` of ``n_g`` values in [-1, 1] and pays
``(S_g - n_g m) / (L (1 + m))``, at least -1 if nobody has more than ``L`` images; the mean of that is no more than 0 exactly
if the mean over images is at most m. ``L`` belongs to the design, like the order of patients: it is known before the first
value.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

HALVINGS = 30  #: of a confidence bound's bracket, which is 2 wide
#: Shares of the wealth that are put at risk, and how the first coin is divided between them. The whole is what pays where
#: nothing ever changes, the rule of a good editor; the small ones are for changes to and fro.
FRACTIONS = np.array([1.0, 0.75, *(0.5 ** (np.arange(2, 13) / 2))])
WEIGHTS = np.array([0.3, 0.1, *np.full(11, 0.6 / 11)])


@dataclass(frozen=True)
class ClusteredSums:
    """Values in [-1, 1], added up by patient, of several columns at once.

    Attributes:
        sums: ``(g, k)``, patient by column.
        sizes: ``(g,)`` images of each patient.
        largest: images a patient at most, of all that may be seen: fixed before the first value.
    """

    sums: np.ndarray
    sizes: np.ndarray
    largest: int

    def __post_init__(self) -> None:
        if len(self.sizes) and self.sizes.max() > self.largest:
            raise ValueError(
                f"A patient has {int(self.sizes.max())} images, but largest={self.largest}; give the most that any patient of "
                "the design has."
            )
        excess = np.abs(self.sums) - self.sizes[:, None]
        if excess.size and excess.max() > 1e-9 * self.largest:
            raise ValueError(
                f"A patient's {self.largest} or fewer values sum to {self.sums.flat[excess.argmax()]:.4g}, so some lie outside "
                "[-1, 1]; divide them by their range."
            )

    @classmethod
    def of(cls, values: np.ndarray, patients: np.ndarray, largest: int) -> "ClusteredSums":
        """Add up.

        Args:
            values: ``(n, k)`` in [-1, 1].
            patients: ``(n,)`` ids.
            largest: images a patient at most.

        Raises:
            ValueError: a value is out of range, or a patient has more images.
        """
        names, groups = np.unique(patients, return_inverse=True)
        sums = np.zeros((len(names), values.shape[1]))
        np.add.at(sums, groups, values)
        return cls(sums, np.bincount(groups, minlength=len(names)).astype(float), largest)

    def turned(self) -> "ClusteredSums":
        """Of the values with the opposite sign."""
        return ClusteredSums(-self.sums, self.sizes, self.largest)


def log_e_above(seen: ClusteredSums, border: np.ndarray) -> np.ndarray:
    """Log e-value against "the mean is at most the border".

    Args:
        seen: of the patients so far.
        border: ``(k,)``, one a column. Where it is 1 or more the claim is true, and the e-value 0; at -1 or less it is
            tested at the least border that values can reach.

    Returns:
        ``(k,)``.

    >>> ones = ClusteredSums(np.ones((20, 1)), np.ones(20), 1)
    >>> bool(log_e_above(ones, np.array([0.0]))[0] > np.log(1e4))
    True
    """
    possible = border < 1
    edge = np.clip(border, -1 + 1e-9, 1)
    payoff = (seen.sums - seen.sizes[:, None] * edge) / (seen.largest * (1 + edge))
    payoff = np.maximum(payoff, -1.0)  # rounding alone can fall below
    with np.errstate(divide="ignore"):
        wealth = np.stack([np.log1p(fraction * payoff).sum(axis=0) for fraction in FRACTIONS])
        found = logsumexp(wealth, axis=0, b=WEIGHTS[:, None])
    return np.where(possible, found, -np.inf)


Above = Callable[[ClusteredSums, np.ndarray], np.ndarray]  #: as :func:`log_e_above`


def log_e_yes(
    seen: ClusteredSums, border: np.ndarray, shift: float | np.ndarray = 0.0, above: Above = log_e_above
) -> tuple[np.ndarray, np.ndarray]:
    """Log e-values against ``|mean - shift| <= border``, and which sign speaks louder.

    The average of two one-sided e-values, one of which is against an even larger hypothesis.

    Args:
        seen: of the patients so far.
        border: ``(k,)``, at least 0.
        shift: of the mean, that is known from elsewhere.
        above: of one side; another where the border is not known.

    Returns:
        two of ``(k,)``; the second +1 or -1.
    """
    up, down = above(seen, border + shift), above(seen.turned(), border - shift)
    return np.logaddexp(up, down) - np.log(2), np.where(up >= down, 1, -1)


def log_e_no(
    seen: ClusteredSums, border: np.ndarray, shift: float | np.ndarray = 0.0, above: Above = log_e_above
) -> np.ndarray:
    """Log e-value against ``|mean - shift| >= border``: the smaller of two one-sided ones, whichever side the mean is on.

    Args:
        seen: of the patients so far.
        border: ``(k,)``, more than 0.
        shift, above: as for :func:`log_e_yes`.

    Returns:
        ``(k,)``; where the border is 1 or more, the e-value is that of a border just below.
    """
    border = np.minimum(border, 1 - 1e-9)
    return np.minimum(above(seen, shift - border), above(seen.turned(), -shift - border))


def confidence_sequence(seen: ClusteredSums, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the mean that hold at all times at once, so also when one stops because of them.

    Every mean that neither one-sided e-process refutes, each at half of the error (Waudby-Smith & Ramdas 2024, theorem 3).

    Args:
        seen: of the patients so far.
        level: of both bounds together, at all times together.

    Returns:
        ``(k,)`` lower and upper bounds in [-1, 1]; all of it before the first patient.
    """
    threshold = np.log(2 / (1 - level))
    return _lower(seen, threshold), -_lower(seen.turned(), threshold)


def _lower(seen: ClusteredSums, threshold: float) -> np.ndarray:
    """The largest border that is refuted, by bisection: the e-value falls as the border rises."""
    low, high = np.full(seen.sums.shape[1], -1.0), np.full(seen.sums.shape[1], 1.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        refuted = log_e_above(seen, middle) >= threshold
        low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
    return low
