"""Frozen features for probes: what a few labels can be read from."""

import hashlib
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


class Features(Protocol):
    """Turns images into numbers, by a rule or by a network that is not fitted any more.

    Attributes:
        fingerprint: of the rule or the weights.
        fitted_on: patients it was fitted on; ``None`` when unknown.
    """

    fingerprint: str
    fitted_on: frozenset[str] | None

    def features(self, images: Tensor) -> Tensor:
        """``(n, 1, h, w)`` in [0, 1], any h and w -> ``(n, d)``."""
        ...


class Pixels:
    """The intensities themselves.

    Args:
        size: pixels a side that images are brought to.
    """

    kind = "pixels"
    fitted_on: frozenset[str] | None = frozenset()

    def __init__(self, size: int = 64) -> None:
        self.settings: dict[str, Any] = {"size": size}
        self.size, self.fingerprint = size, _fingerprint(self.kind, self.settings)

    def features(self, images: Tensor) -> Tensor:
        """``(n, size * size)``."""
        return resized(images, self.size).flatten(1)


class OrientedGradients:
    """Histograms of oriented gradients (Dalal & Triggs, CVPR 2005; scikit-image) beside a thumbnail of the intensities.

    Edges by place and direction: borders, wires, contours, letters. On small labelled sets of real radiographs they read
    better than the pixels.

    Args:
        size: pixels a side that images are brought to.
        cell: pixels a side of a histogram's cell; blocks of 2 x 2 cells are normalised together.
    """

    kind = "oriented gradients"
    fitted_on: frozenset[str] | None = frozenset()

    def __init__(self, size: int = 64, cell: int = 8) -> None:
        self.settings: dict[str, Any] = {"size": size, "cell": cell}
        self.size, self.cell, self.fingerprint = size, cell, _fingerprint(self.kind, self.settings)

    def features(self, images: Tensor) -> Tensor:
        """``(n, d)``: 9 directions a cell, and every fourth pixel's neighbourhood mean."""
        from skimage.feature import hog

        images = resized(images, self.size)
        cell = (self.cell, self.cell)
        edges = [hog(image[0].numpy(), pixels_per_cell=cell, cells_per_block=(2, 2)) for image in images]
        thumbnail = functional.avg_pool2d(images, 4).flatten(1)
        if not edges:
            return thumbnail
        return torch.cat([torch.as_tensor(np.stack(edges), dtype=torch.float32), thumbnail], dim=1)


def resized(images: Tensor, size: int) -> Tensor:
    """``(n, c, size, size)``, area-weighted bilinear where the size differs."""
    if images.shape[-2:] == (size, size):
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


def _fingerprint(kind: str, settings: dict[str, Any]) -> str:
    return hashlib.sha256(f"{kind}|{settings}".encode()).hexdigest()[:16]
