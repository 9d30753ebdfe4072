"""The Reader protocol: attribute inversion, images in, concept scores out."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.splits import batches
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality


@runtime_checkable
class Reader(Protocol):
    """Says how strongly each concept shows in an image.

    Attributes:
        name: short, unique within an audit.
        fingerprint: of weights, prompts and calibration; a resumed run never mixes two.
        concepts: what it reads, in the order of the columns of :meth:`read`.
        fitted_on: patients it was fitted or calibrated on and cannot leave out when it reads them; ``None`` when
            unknown, :class:`~causal_cxr.data.patients.AtLeast` when these are not all, which reports say.
        quality: how well it reads, on patients it was not fitted on; NaN = unknown.
    """

    name: str
    fingerprint: str
    concepts: tuple[Concept, ...]
    fitted_on: frozenset[str] | None
    quality: ReaderQuality

    def read(self, images: Tensor, patients: Sequence[str] | None = None) -> Tensor:
        """Score images.

        Args:
            images: ``(n, 1, h, w)`` float32 in [0, 1], any h and w.
            patients: ``n`` ids, for readers that are cross-fitted: each image is read by a part that has not seen its
                patient. Others ignore them.

        Returns:
            ``(n, k)`` float32 scores in [0, 1], one column a concept.
        """
        ...


def image_batches(
    dataset: Dataset, rows: np.ndarray | None = None, *, batch_size: int = 256
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Images of a dataset, a batch at a time, so that memory does not grow with their number.

    Args:
        dataset: to read.
        rows: which, in this order; all unless given.
        batch_size: images at a time.

    Yields:
        rows of the batch, ``(n, 1, h, w)``.

    Raises:
        UnreadableImages: some of a batch cannot be read.
    """
    rows = np.arange(len(dataset.attributes)) if rows is None else np.asarray(rows)
    for part in batches(rows, batch_size):
        yield part, dataset.images(part)


def read_dataset(
    reader: Reader, dataset: Dataset, rows: np.ndarray | None = None, *, batch_size: int = 256
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Scores of a dataset, a batch at a time: see :func:`image_batches`.

    Yields:
        rows of the batch, ``(n, k)`` scores.
    """
    for part, images in image_batches(dataset, rows, batch_size=batch_size):
        yield part, reader.read(images, dataset.patients.iloc[part].astype(str).tolist())
