"""From a reader's scores to the concept: what an effect on them is once the reader's slope and leaning are taken out."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_cxr.audits.effects import Effect
from causal_cxr.audits.following import NOT_KNOWN, Following, following
from causal_cxr.graphs import Attribute, Contrast
from causal_cxr.readers.quality import ReaderQuality, Shift

RARE = 0.2  #: below this prevalence delta is half the prevalence


def smallest_that_counts(prevalence: float, smallest_effect: float) -> float:
    """Delta: the risk difference that was asked for, or half the prevalence of a rare concept."""
    return smallest_effect if not prevalence < RARE else max(prevalence / 2, 0.01)


@dataclass(frozen=True)
class Scale:
    """How one reader's scores of one concept become the concept, along one contrast.

    Attributes:
        slope, slope_se: of the reader; NaN where it was never judged.
        readable: whether the slope is known to be above 0. If not, effects stay in scores.
        following: what the reader sees of the attribute itself.
        delta: smallest effect that matters.
    """

    slope: float
    slope_se: float
    readable: bool
    following: Following
    delta: float

    @classmethod
    def of(
        cls, quality: ReaderQuality, concept: str, contrast: Contrast, attribute: Attribute, delta: float
    ) -> "Scale":
        """What is known of a reader.

        Args:
            quality: of the reader.
            concept: its name.
            contrast, attribute: asked about.
            delta: smallest effect that matters (:func:`smallest_that_counts`).
        """
        q: Any = quality.concepts.loc[concept]
        readable = float(q["slope_low"]) > 0
        seen = (
            following(quality, concept, contrast, attribute, delta) if readable else Following(NOT_KNOWN, False, False)
        )
        return cls(float(q["slope"]), float(q["slope_se"]), readable, seen, delta)

    @property
    def shift(self) -> Shift:
        """What the reader sees of the attribute, in scores, along the contrast."""
        return self.following.shift

    def effect(self, in_scores: Effect) -> Effect:
        """On the concept, with the errors of slope and shift; in scores as it was where the slope is not known."""
        if not self.readable:
            return in_scores
        return in_scores.less(self.shift.value, self.shift.se).scaled(self.slope, self.slope_se)

    def outcomes(self, scores: np.ndarray, treatment: np.ndarray) -> np.ndarray:
        """``(n, k)`` scores of which any linear estimate is the value of :meth:`effect`.

        Args:
            scores: ``(n, k)``.
            treatment: ``(n,)`` 0 or 1, or in units of the contrast's shift.
        """
        return (scores - self.shift.value * treatment[:, None]) / self.slope if self.readable else scores
