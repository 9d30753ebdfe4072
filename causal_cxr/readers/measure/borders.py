"""Straight borders: where a collimator, a cassette or an inverted margin ends the image."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from causal_cxr.readers.features import resized

SIDE = 256  #: pixels a side at which the rule looks
NEAREST, FARTHEST = 0.01, 0.22  #: share of the side between which a border's inner edge lies
TILT = np.deg2rad(np.arange(-8, 8.5, 0.5))  #: off the side's own direction
STEP = 0.03  #: grey levels from pixel to pixel that count as an edge


def border_straightness(images: Tensor) -> Tensor:
    """Length of straight border, summed over the four sides, as a fraction of one side, [0, 4].

    On each side, the longest straight edge (Hough transform; Duda & Hart, CACM 15, 1972; scikit-image) that runs within 8
    degrees along it, between 1% and 22% of the side from it: borders narrower than 1% do not count.

    Args:
        images: ``(n, 1, h, w)`` in [0, 1]; brought to 256 pixels a side.

    Returns:
        ``(n,)``; 0 where no edge is straight, 1 for one whole side.
    """
    return torch.tensor([_length(image) for image in resized(images, SIDE)[:, 0].double().numpy()], dtype=torch.float32)


def _length(image: np.ndarray) -> float:
    """Of one ``(256, 256)`` image: each side in turn is brought to the left."""
    return sum(_longest(np.rot90(image, turns)) for turns in range(4))


def _longest(image: np.ndarray) -> float:
    from skimage.transform import hough_line

    low, high = round(NEAREST * SIDE), round(FARTHEST * SIDE)
    strip = image[:, low - 1 : high + 1]
    steps = np.abs(ndimage.gaussian_filter1d(np.diff(strip, axis=1), 1.0, axis=0))
    thin = (steps > STEP) & (steps >= ndimage.maximum_filter1d(steps, 5, axis=1))
    votes, _, _ = hough_line(thin, theta=TILT)
    # Distances are rounded to pixels: the votes of a tilted line fall on two neighbouring ones.
    return min(1.0, float((votes[1:].astype(np.int64) + votes[:-1]).max()) / SIDE)
