"""Lettering: rows of small bright strokes of one height, as words burnt into an image are."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from causal_cxr.readers.features import resized

SIDE = 256  #: pixels a side at which the rule looks
STROKE = 5  #: pixels; what is wider is no stroke
CONTRAST = 0.2  #: grey levels of a stroke over what surrounds it
GAP = 3  #: pixels between letters, at most
HEIGHT = (3, 14)  #: pixels of a line of letters
LONG = 1.8  #: times its height that a line of letters is long at least
FILLED = 0.6  #: share of its box that a line of letters, gaps closed, fills


def text_likeness(images: Tensor) -> Tensor:
    """Length of what looks like lines of letters, as a fraction of the image's side, 0 or more.

    Strokes are what a white top-hat leaves (brighter by 0.2 than what surrounds them, at most 5 of 256 pixels wide). Strokes
    beside each other are joined; those joined that are 3 to 14 pixels high, 1.8 times as long and fill their box are lines.

    Args:
        images: ``(n, 1, h, w)`` in [0, 1]; brought to 256 pixels a side, below which letters do not survive.

    Returns:
        ``(n,)``; 0.1 = lines of letters a tenth of the side long in all. Other fine bright things (catheters' ends, teeth,
        necklaces) can look alike.
    """
    return torch.tensor([_length(image) for image in resized(images, SIDE)[:, 0].numpy()], dtype=torch.float32)


def _length(image: np.ndarray) -> float:
    strokes = ndimage.white_tophat(image, size=(STROKE, STROKE)) > CONTRAST
    joined = ndimage.binary_closing(np.pad(strokes, ((0, 0), (GAP, GAP))), np.ones((1, GAP + 1)))[:, GAP:-GAP]
    labels, _ = ndimage.label(joined, np.ones((3, 3)))
    length = 0
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        filled = (labels[rows, columns] == label).mean()
        if HEIGHT[0] <= height <= HEIGHT[1] and width >= LONG * height and filled >= FILLED:
            length += width
    return length / SIDE
