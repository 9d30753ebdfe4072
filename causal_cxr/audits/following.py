"""What a reader may see of the attribute that is set, in the place of the concept that it is to read."""

from typing import NamedTuple

import numpy as np

from causal_cxr.graphs import Attribute, Contrast
from causal_cxr.readers.quality import ReaderQuality, Shift

FOLLOW_SHARE = 0.5  #: a reader may follow A by this share of delta


NOT_KNOWN = Shift(0.0, 0.0, False)


class Following(NamedTuple):
    """What is known of it.

    Attributes:
        shift: along the contrast, in scores, to be taken off with its error; nothing where it cannot be told.
        unknown: whether it cannot be told.
        far: whether a reader is shown to follow the attribute by more than :data:`FOLLOW_SHARE` of delta. What less than that it
            sees is taken off, known or not; more makes one doubt what is read at all.
    """

    shift: Shift
    unknown: bool
    far: bool


def following(
    quality: ReaderQuality, concept: str, contrast: Contrast, attribute: Attribute, delta: float
) -> Following:
    """Of a reader whose slope is known to be above 0. Of an attribute with several levels one that is followed far is enough."""
    shift = quality.shift_along(concept, contrast, attribute)
    if np.isnan(shift.value):
        return Following(NOT_KNOWN, True, False)
    slope = float(np.asarray(quality.concepts.loc[concept, "slope"]))
    low, high = (quality.follow_bounds(concept, contrast.attribute) / slope / delta).T
    return Following(shift, False, bool(((low > FOLLOW_SHARE) | (high < -FOLLOW_SHARE)).any()))
