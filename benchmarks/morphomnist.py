"""Morpho-MNIST as deep-SCM work uses it: digits whose stroke thickness moves their intensity.

Castro et al., JMLR 2019 (measures); Pawlowski et al., NeurIPS 2020 (intensity = 64 + 191 sigmoid(2 thickness - 5 + e / 2), e normal).
"""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt
from skimage.morphology import skeletonize
from skimage.transform import rescale
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import extract_archive

from causal_cxr.graphs import Categorical, CausalGraph, Continuous

FIT_ROWS, TEST_ROWS = np.arange(8_000), np.arange(8_000, 10_000)
PADDING = 2  #: zeros on each side: 28 + 2 * 2 = 32 pixels, as published
IMAGES, LABELS, TABLE = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "t10k-morpho.csv"
UPSCALE = 4  #: of an image before its thickness is measured

GRAPH = CausalGraph(
    [
        Continuous("thickness", unit="pixels", low=0.5, high=7.0),
        Continuous("intensity", unit="grey levels", low=64.0, high=255.0),
        Categorical("digit", levels=tuple(range(10))),
    ],
    [("thickness", "intensity"), ("thickness", "image"), ("intensity", "image"), ("digit", "image")],
)


class MorphoMNIST:
    """The 10,000 test images of Morpho-MNIST, padded to 32x32; one patient an image.

    Args:
        folder: with ``t10k-images-idx3-ubyte.gz``, ``t10k-labels-idx1-ubyte.gz`` and ``t10k-morpho.csv``.

    Raises:
        FileNotFoundError: one of the three is missing.
        ValueError: they do not belong together: different numbers of rows.
    """

    texts: pd.Series | None = None

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        missing = [name for name in (IMAGES, LABELS, TABLE) if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder} has no {', '.join(missing)}; point --data at the folder that holds the three files of "
                "Morpho-MNIST (the test set with thickness and intensity)."
            )
        with tempfile.TemporaryDirectory() as scratch:  # torchvision reads plain IDX files only
            for name in (IMAGES, LABELS):
                extract_archive(str(folder / name), scratch)
            pixels = read_image_file(str(Path(scratch, IMAGES).with_suffix("")))
            digits = read_label_file(str(Path(scratch, LABELS).with_suffix("")))
        table = pd.read_csv(folder / TABLE, index_col="index").sort_index()
        if not len(pixels) == len(digits) == len(table):
            raise ValueError(
                f"{folder} has {len(pixels)} images, {len(digits)} labels and {len(table)} rows of measures; "
                "take all three files from one release."
            )
        self._pixels = torch.nn.functional.pad(pixels, (PADDING,) * 4)[:, None]
        self.attributes = GRAPH.coerce(table.assign(digit=digits.numpy()).reset_index(drop=True))
        self.patients = pd.Series([str(row) for row in range(len(table))], name="patient")
        digest = hashlib.sha256(pixels.numpy().tobytes())
        digest.update(pd.util.hash_pandas_object(self.attributes.astype(float)).to_numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def images(self, rows: np.ndarray) -> Tensor:
        """``(n, 1, 32, 32)`` float32 in [0, 1]."""
        return self._pixels[torch.as_tensor(np.asarray(rows), dtype=torch.long)].float() / 255


def measured_intensity(images: Tensor) -> np.ndarray:
    """Median of the pixels that reach half of the maximum, as Morpho-MNIST measures it.

    Args:
        images: ``(n, 1, h, w)`` in [0, 1].

    Returns:
        ``(n,)`` in grey levels, 0..255.
    """
    pixels = 255 * images.flatten(1)
    bright = pixels >= pixels.amax(1, keepdim=True) / 2
    return np.nanmedian(pixels.masked_fill(~bright, torch.nan).numpy().astype(float), axis=1)


def measured_thickness(images: Tensor) -> np.ndarray:
    """Twice the mean distance to the background along the skeleton of the image, upscaled and cut at half its maximum.

    Args:
        images: ``(n, 1, h, w)`` in [0, 1].

    Returns:
        ``(n,)`` in pixels; 0 for an empty image.
    """
    return np.array([_thickness(image) for image in images[:, 0].numpy().astype(float)])


def _thickness(image: np.ndarray) -> float:
    if image.max() <= 0:
        return 0.0
    large = rescale(image, UPSCALE, order=3)
    stroke = large >= large.max() / 2
    return 2 / UPSCALE * float(distance_transform_edt(stroke)[skeletonize(stroke)].mean())
