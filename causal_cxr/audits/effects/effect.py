"""An estimate with its error, and what may be concluded from it.

"Yes" rejects ``|theta| <= delta``; "no" rejects ``|theta| >= delta`` (two one-sided tests, Schuirmann 1987). Neither is
ever concluded from a failure to reject.
"""

from dataclasses import dataclass

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

    def less(self, shift: float, shift_se: float) -> "Effect":
        """Without a shift that is known from elsewhere, such as what a reader sees of the attribute itself."""
        return Effect(self.value - shift, float(np.hypot(self.se, shift_se)), self.dof, self.n, self.patients)

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
