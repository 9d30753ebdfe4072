"""An estimate with its error, and what may be concluded from it.

"Yes" rejects ``|theta| <= delta``; "no" rejects ``|theta| >= delta`` (two one-sided tests, Schuirmann 1987). Neither is
ever concluded from a failure to reject.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Effect:
    """An estimate on the scale of the concept.

    Attributes:
        value: oriented a1 - a0; NaN where it cannot be estimated.
        se: patient-clustered standard error, the reader's slope included.
        dof: degrees of freedom, Satterthwaite's: patients - 1 where all weigh the same, else fewer.
        n: images used.
        patients: patients used.
        relative: standard error of the slope over the slope, where it was divided by one; ``se`` has it too.
        flips: changes may come as a concept that appears or goes, which is a change of 1.
    """

    value: float
    se: float
    dof: float
    n: int
    patients: int
    relative: float = 0.0
    flips: bool = False

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided t interval; Fieller's (1954) where it was divided by a slope, the whole line where that may be 0."""
        t = float(stats.t.ppf(0.5 + level / 2, self.dof))
        kept = 1 - (t * self.relative) ** 2
        if kept <= 0:
            return -float("inf"), float("inf")
        half = t * float(np.sqrt(self._alone**2 * kept + (self.value * self.relative) ** 2))
        return float((self.value - half) / kept), float((self.value + half) / kept)

    def p_yes(self, delta: float) -> float:
        """p of ``|theta| <= delta``, at its least favourable point.

        >>> Effect(0.5, 0.1, 1e6, 100, 100).p_yes(0.1) < 1e-4
        True
        """
        if not self.se > 0:
            return float("nan")
        distance, error = abs(self.value), self._error_at(delta)
        upper = stats.t.sf((distance - delta) / error, self.dof)
        return float(min(1.0, upper + stats.t.sf((distance + delta) / error, self.dof)))

    def p_no(self, delta: float) -> float:
        """p of ``|theta| >= delta``: the larger of two one-sided tests; where changes may be flips, no less than that so few flips
        are seen (binomial, one trial a patient), as few of them say little of how much they vary.

        >>> seen_in_none = Effect(0.0, 1e-12, 255, 256, 256).unsettled()
        >>> round(seen_in_none.p_no(0.02), 4), round(0.98**256, 4)
        (0.0057, 0.0057)
        """
        if not self.se > 0:
            return float("nan")
        p = float(stats.t.sf((delta - abs(self.value)) / self._error_at(delta), self.dof))
        if not self.flips or not 0 < delta < 1 or not self.patients:
            return p
        seen = min(abs(self.value), 1.0) * self.patients
        few = 1.0 if seen >= self.patients else float(stats.beta.sf(delta, seen + 1, self.patients - seen))
        return max(p, few)

    @property
    def _alone(self) -> float:
        """The standard error, were the slope known."""
        return float(np.sqrt(max(self.se**2 - (self.value * self.relative) ** 2, 0.0)))

    def _error_at(self, theta: float) -> float:
        """The standard error of the estimate if the effect is ``theta``: a slope's error counts by what it is multiplied by."""
        return float(np.hypot(self._alone, theta * self.relative)) if self.relative else self.se

    def scaled(self, slope: float, slope_se: float) -> "Effect":
        """Divided by the reader's slope J, or by another number that was estimated apart. ``se`` is the delta method's; tests and
        intervals are linear in the slope, and exact (Fieller); after several by their product, to the first order.
        """
        value, relative = self.value / slope, abs(slope_se / slope)
        se = np.hypot(self.se / abs(slope), value * relative)
        return replace(self, value=value, se=float(se), relative=float(np.hypot(self.relative, relative)))

    def less(self, shift: float, shift_se: float) -> "Effect":
        """Without a shift that is known from elsewhere, such as what a reader sees of the attribute itself; before it is scaled."""
        return replace(self, value=self.value - shift, se=float(np.hypot(self.se, shift_se)))

    def unsettled(self) -> "Effect":
        """With an error no smaller than if one patient more had gone the other way, and tested as what may come as flips.

        Where nothing varies (no image of so many shows a change) the estimated error is zero, which proves nothing: "no" needs a
        delta that so many patients can tell from zero.
        """
        least = 1 / self.patients if self.patients else 0.0
        return replace(self, se=max(self.se, least), flips=True)

    def patients_needed(self, delta: float, alpha: float = 0.05) -> float:
        """Patients who would decide with a power of 0.8, if the estimate stood still; infinite where the slope's error alone is too
        large, which only more labelled images make smaller. Not corrected for other cells.
        """
        gap = abs(abs(self.value) - delta)
        if not gap > 0 or not self.se > 0:
            return float("inf")
        alone = self._alone**2
        if self.flips and abs(self.value) < delta:
            alone = max(alone, delta * (1 - delta) / self.patients)
        left = (gap / (stats.norm.ppf(1 - alpha) + 0.84)) ** 2 - (delta * self.relative) ** 2
        return float(np.ceil(self.patients * alone / left)) if left > 0 else float("inf")


NOTHING = Effect(float("nan"), float("nan"), float("nan"), 0, 0)


@dataclass(frozen=True)
class IntervalEstimate:
    """An estimate whose interval need not be symmetric: it has no single standard error.

    Attributes:
        value: the estimate; NaN where there is none.
        low, high: closed interval; NaN where it cannot be told, infinite where nothing bounds it.
        level: of confidence, two-sided.
        n: images used.
        patients: patients used.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    patients: int

    def covers(self, truth: float) -> bool:
        """Whether the closed interval holds ``truth``; an interval that cannot be told holds nothing."""
        return bool(self.low <= truth <= self.high)
