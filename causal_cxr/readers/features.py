"""Frozen features for probes: what a few labels can be read from."""

import hashlib
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from causal_cxr.data.patients import fitted_on_all
from causal_cxr.readers.images import check_images

ORIENTATIONS = 9  #: of edges, in a cell
THUMBNAIL = 4  #: pixels a side that one of the thumbnail stands for


class Features(Protocol):
    """Turns images into numbers, by a rule or by a network that is not fitted any more.

    Attributes:
        fingerprint: of the rule or the weights.
        fitted_on: patients it was fitted on; ``None`` when unknown.

    What reads by fixed rules may name them in ``rules``: whoever reads by the same one, in whatever size, is no second witness
    (:func:`~causal_cxr.readers.redundancy.kinship`).
    """

    fingerprint: str
    fitted_on: frozenset[str] | None

    def features(self, images: Tensor) -> Tensor:
        """``(n, 1, h, w)`` in [0, 1], any h and w -> ``(n, d)``; the package's own refuse other images."""
        ...


class Pixels:
    """The intensities themselves.

    Args:
        size: pixels a side that images are brought to.
    """

    kind = "pixels"
    rules = (kind,)
    fitted_on: frozenset[str] | None = frozenset()

    def __init__(self, size: int = 64) -> None:
        self.settings: dict[str, Any] = {"size": size}
        self.size, self.fingerprint = size, _fingerprint(self.kind, self.settings)

    def features(self, images: Tensor) -> Tensor:
        """``(n, size * size)``."""
        check_images(images)
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
    rules = (kind,)
    fitted_on: frozenset[str] | None = frozenset()

    def __init__(self, size: int = 64, cell: int = 8) -> None:
        self.settings: dict[str, Any] = {"size": size, "cell": cell}
        self.size, self.cell, self.fingerprint = size, cell, _fingerprint(self.kind, self.settings)

    def features(self, images: Tensor) -> Tensor:
        """``(n, d)``: 9 directions a cell, and every fourth pixel's neighbourhood mean."""
        from skimage.feature import hog

        check_images(images)
        images = resized(images, self.size)
        cell = (self.cell, self.cell)
        edges = [hog(image[0].numpy(), ORIENTATIONS, cell, (2, 2)) for image in images]
        thumbnail = functional.avg_pool2d(images, THUMBNAIL).flatten(1)
        if not edges:
            return thumbnail
        return torch.cat([torch.as_tensor(np.stack(edges), dtype=torch.float32), thumbnail], dim=1)

    def places(self) -> list[np.ndarray]:
        """Columns of each place: a block of 2 x 2 cells and the thumbnail of the same pixels; neighbours overlap by half.

        >>> [len(columns) for columns in OrientedGradients(32, cell=8).places()][:2], len(OrientedGradients().places())
        ([52, 52], 49)

        Raises:
            ValueError: cells that the thumbnail's pixels do not divide.
        """
        if self.cell % THUMBNAIL:
            raise ValueError(f"Places need cells of a multiple of {THUMBNAIL} pixels, not {self.cell}.")
        blocks, thumbnails, step = self.size // self.cell - 1, self.size // THUMBNAIL, self.cell // THUMBNAIL
        edges = np.arange(blocks * blocks * 4 * ORIENTATIONS).reshape(blocks, blocks, -1)
        means = edges.size + np.arange(thumbnails * thumbnails).reshape(thumbnails, thumbnails)
        return [
            np.concatenate([edges[i, j], means[i * step : (i + 2) * step, j * step : (j + 2) * step].ravel()])
            for i in range(blocks)
            for j in range(blocks)
        ]


class Joined:
    """Features side by side.

    Args:
        parts: in this order.
    """

    kind = "joined"

    def __init__(self, *parts: Features) -> None:
        self.parts = parts
        self.fingerprint = _fingerprint(self.kind, {"parts": [part.fingerprint for part in parts]})
        self.fitted_on = fitted_on_all(part.fitted_on for part in parts)

    def features(self, images: Tensor) -> Tensor:
        """``(n, d)`` of all parts."""
        return torch.cat([part.features(images) for part in self.parts], dim=1)


def resized(images: Tensor, size: int) -> Tensor:
    """``(n, c, size, size)``, area-weighted bilinear where the size differs."""
    if images.shape[-2:] == (size, size):
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


def _fingerprint(kind: str, settings: dict[str, Any]) -> str:
    return hashlib.sha256(f"{kind}|{settings}".encode()).hexdigest()[:16]
