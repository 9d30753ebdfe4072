"""The chest by a documented rule: where the lungs' edges are, and what follows from them.

Edges are found from row to row as smooth paths of most contrast, each with its sign: chest wall to lung is bright to dark,
lung to mediastinum dark to bright. Air outside the patient, dark too, has the other sign on the way in and is not mistaken
for lung. Rules of this kind are the oldest computer measurements of the heart (Meyers et al., Radiology 83, 1964).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from causal_cxr.readers.features import resized

SIDE = 128  #: pixels a side at which the rule looks
TOP, BOTTOM = 32, 96  #: rows: from below the clavicles to the lung bases
RIGHT_LUNG, LEFT_LUNG = (0.12, 0.44), (0.56, 0.88)  #: share of the width within which a lung's axis runs
MIDLINE = (0.44, 0.56)  #: that the heart's borders reach over at most
WALL, HEART = 30, 40  #: pixels from a lung's axis to its outer and inner edge at most
DOME = (0.55, 0.92)  #: share of the height within which the right dome of the diaphragm lies
UPPER = 12  #: rows over which the midline is taken, above the heart
LUNG_WIDTH, EDGE_WIDTH = 6.0, 1.5  #: pixels, scales at which lungs and edges are sought
FLAT = 1e-3  #: grey levels; less contrast than that is no chest


@dataclass(frozen=True)
class Outline:
    """The lungs' edges in ``n`` images, as seen: the patient's right lung is on the image's left.

    Attributes:
        right_outer, right_inner, left_inner, left_outer: ``(n, 64)`` columns of 128, in rows 32 to 95 of 128.
        dome: ``(n,)`` row of the right dome of the diaphragm.
        above: ``(n, 64)`` whether a row is not below it.
        found: ``(n,)`` False where an image has no contrast, and its edges mean nothing.
    """

    right_outer: np.ndarray
    right_inner: np.ndarray
    left_inner: np.ndarray
    left_outer: np.ndarray
    dome: np.ndarray
    above: np.ndarray
    found: np.ndarray


def outline(images: np.ndarray) -> Outline:
    """Find the lungs' edges.

    1. Each lung's axis: the path of most darkness at the scale of a lung's width, in its half.
    2. Inner and outer edges: the paths of most horizontal contrast of the right sign, on either side of the axis.
    3. The right dome: the row of most contrast, dark to bright, going down the right lung's axis; the left one is often
       hidden by the stomach's air.

    Args:
        images: ``(n, 128, 128)`` in [0, 1].
    """
    n, m, rows = len(images), BOTTOM - TOP, slice(TOP, BOTTOM)
    dark = ndimage.gaussian_filter1d(ndimage.gaussian_filter1d(images, 3, axis=1), LUNG_WIDTH, axis=2, order=2)[:, rows]
    rise = ndimage.gaussian_filter1d(ndimage.gaussian_filter1d(images, 2, axis=1), EDGE_WIDTH, axis=2, order=1)[:, rows]

    def column(share: float) -> np.ndarray:
        return np.full((n, m), round(share * SIDE))

    right, left = (best_path(dark, column(low), column(high)) for low, high in (RIGHT_LUNG, LEFT_LUNG))
    right_outer = best_path(-rise, np.maximum(right - WALL, 2), right - 2)
    right_inner = best_path(rise, right + 2, np.minimum(right + HEART, column(MIDLINE[1])))
    left_inner = best_path(-rise, np.maximum(left - HEART, column(MIDLINE[0])), left - 2)
    left_outer = best_path(rise, left + 2, np.minimum(left + WALL, SIDE - 3))
    below = np.arange(round(DOME[0] * SIDE), round(DOME[1] * SIDE))
    fall = ndimage.gaussian_filter(images, (0, 2, 3), order=(0, 1, 0))
    axis = right[:, np.minimum(below - TOP, m - 1)]
    dome = below[fall[np.arange(n)[:, None], below, axis].argmax(axis=1)] if n else np.empty(0, dtype=int)
    above = np.arange(TOP, BOTTOM) <= dome[:, None]
    found = np.ptp(images, axis=(1, 2)) >= FLAT if n else np.empty(0, dtype=bool)
    return Outline(right_outer, right_inner, left_inner, left_outer, dome, above, found)


def best_path(gain: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Columns of the path from top to bottom that gathers most, at most one column aside from row to row.

    Dynamic programming, for all images at once (scikit-image's ``MCP`` takes them one by one, ten times slower).

    Args:
        gain: ``(n, m, w)``.
        low: ``(n, m)`` least column allowed.
        high: ``(n, m)`` largest; where limits leave no path, it goes past them for as few rows as it can.

    Returns:
        ``(n, m)`` integers.
    """
    n, m, w = gain.shape
    columns = np.arange(w)
    outside = (columns < low[..., None]) | (columns > high[..., None])
    # Being outside costs more than any path can gather inside.
    worth = np.where(outside, gain - (np.ptp(gain) + 1) * m if gain.size else gain, gain)
    total, steps = worth[:, 0], np.empty((n, m, w), dtype=np.int8)
    for row in range(1, m):
        beside = np.pad(total, ((0, 0), (1, 1)), constant_values=-np.inf)
        came = np.stack([beside[:, :-2], beside[:, 1:-1], beside[:, 2:]])
        steps[:, row] = came.argmax(axis=0) - 1
        total = came.max(axis=0) + worth[:, row]
    path = np.empty((n, m), dtype=np.intp)
    path[:, -1] = total.argmax(axis=1)
    for row in range(m - 1, 0, -1):
        path[:, row - 1] = path[:, row] + steps[np.arange(n), row, path[:, row]]
    return path


def cardiothoracic_ratio(images: Tensor) -> Tensor:
    """Widest heart over widest inner thorax, as projected, no unit, (0, 1]; over 0.5 in PA is called enlarged.

    The heart's width is the farthest reach of its border to the right of the midline and to the left, above the right dome
    (the radiologist's two perpendiculars); the midline is that of the mediastinum above the heart.

    Args:
        images: ``(n, 1, h, w)`` in [0, 1]; brought to 128 pixels a side.

    Returns:
        ``(n,)``; NaN for an image without contrast, and where the edges that were found are no chest's, as in noise or an image
        on its side: a heart of no width, or wider than the thorax. Where effusion, consolidation or breast shadow hide an edge,
        what is measured is what shows in its place.
    """
    edges = outline(_small(images))
    middle = np.median((edges.right_inner + edges.left_inner)[:, :UPPER], axis=1)[:, None] / 2
    rightwards, leftwards, thorax = (
        np.where(edges.above, width, -np.inf).max(axis=1)
        for width in (middle - edges.right_inner, edges.left_inner - middle, edges.left_outer - edges.right_outer)
    )
    heart = rightwards + leftwards
    chest = (heart > 0) & (heart <= thorax)
    return _where_found(edges, np.divide(heart, thorax, out=np.full(len(heart), np.nan), where=chest))


def lung_lucency(images: Tensor) -> Tensor:
    """Mean grey of the mediastinum less that of the lungs, in grey levels of the full range, [-1, 1]; 0 = white lungs.

    Args:
        images: ``(n, 1, h, w)`` in [0, 1]; brought to 128 pixels a side.

    Returns:
        ``(n,)``; NaN for an image without contrast, or where no mediastinum is found between the lungs.
    """
    small = _small(images)
    edges, columns = outline(small), np.arange(SIDE)

    def between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return (columns > low[..., None]) & (columns < high[..., None]) & edges.above[..., None]

    def mean(where: np.ndarray) -> np.ndarray:
        count = where.sum(axis=(1, 2))
        grey = (small[:, TOP:BOTTOM] * where).sum(axis=(1, 2))
        return np.divide(grey, count, out=np.full(len(small), np.nan), where=count > 0)

    mediastinum = between(edges.right_inner, edges.left_inner)
    lungs = between(edges.right_outer, edges.right_inner) | between(edges.left_inner, edges.left_outer)
    return _where_found(edges, mean(mediastinum) - mean(lungs))


def _small(images: Tensor) -> np.ndarray:
    return resized(images, SIDE)[:, 0].double().numpy()


def _where_found(edges: Outline, values: np.ndarray) -> Tensor:
    return torch.as_tensor(np.where(edges.found, values, np.nan), dtype=torch.float32)
