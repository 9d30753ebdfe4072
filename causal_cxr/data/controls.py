"""Negative controls of a dataset's own: marks burnt into a random half of its patients, and a placebo attribute.

They are visible (the marks), named in captions (the placebo), vary, and are independent of everything. So whatever an
editor or reader that was fitted on the dataset makes of them is its own doing.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.dataset import Dataset
from causal_cxr.graphs import Binary

#: Declare it with ``graph.with_placebo(PLACEBO)``.
PLACEBO = Binary(
    "placebo", levels=("heads", "tails"), phrases={"heads": ("heads", "heads up"), "tails": ("tails", "tails up")}
)
#: Marks by name: what they look like, and the centre (down, right) as fractions of the image.
MARKS: Mapping[str, tuple[str, float, float]] = {
    "control_dot": ("disc", 0.94, 0.06),
    "control_bar": ("bar", 0.96, 0.90),
    "control_ring": ("ring", 0.34, 0.95),
}
CONTRAST = 0.35  #: of a mark against what lies under it, as a share of the intensity range


class WithControls:
    """A dataset with the marks of :data:`MARKS` burnt in and a column ``placebo``; images are still read when asked for.

    Args:
        dataset: the whole dataset, before any split: the coins are tossed once, patient by patient.
        seed: of the coins; a patient's do not depend on which others there are.

    Attributes:
        marks: 0/1 table of the marks, the truth that readers of the controls are fitted on and judged by.
    """

    def __init__(self, dataset: Dataset, seed: int = 0) -> None:
        self.dataset, self.seed = dataset, seed
        coins = {name: self._coins(name) for name in (*MARKS, PLACEBO.name)}
        self.marks = pd.DataFrame({name: coins[name] for name in MARKS})
        placebo = PLACEBO.decode(coins[PLACEBO.name].astype(float))
        self.attributes: pd.DataFrame = dataset.attributes.assign(**{PLACEBO.name: placebo})
        self.patients, self.texts = dataset.patients, dataset.texts

    def _coins(self, name: str) -> np.ndarray:
        """``(n,)`` 0/1, one toss a patient."""
        patients = self.dataset.patients.astype(str)
        tossed = {p: hashlib.sha256(f"{self.seed}|{name}|{p}".encode()).digest()[0] & 1 for p in patients.unique()}
        return patients.map(tossed).to_numpy()

    @property
    def fingerprint(self) -> str:
        """See :class:`~causal_cxr.data.dataset.Dataset`."""
        return hashlib.sha256(f"{self.dataset.fingerprint}|controls {self.seed}".encode()).hexdigest()[:16]

    def images(self, rows: np.ndarray) -> Tensor:
        """See :meth:`causal_cxr.data.dataset.Dataset.images`."""
        images = self.dataset.images(rows)
        for name, (shape, down, right) in MARKS.items():
            ink = _ink(shape, down, right, images.shape[-2], images.shape[-1])
            under = (images * ink).sum(dim=(2, 3), keepdim=True) / ink.sum()
            towards = torch.where(under < 0.5, 1.0, -1.0)  # bright on dark and dark on bright: visible on both
            present = torch.as_tensor(self.marks[name].to_numpy()[rows], dtype=images.dtype)[:, None, None, None]
            images = (images + present * CONTRAST * towards * ink).clamp(0, 1)
        return images


def _ink(shape: str, down: float, right: float, height: int, width: int) -> Tensor:
    """``(height, width)`` in [0, 1]: how much of a mark covers each pixel."""
    y = (torch.arange(height)[:, None] + 0.5) / height - down
    x = (torch.arange(width)[None, :] + 0.5) / width - right
    soft = 0.5 / min(height, width)
    radius = (x**2 + y**2).sqrt()
    inside = {
        "disc": 0.035 - radius,
        "bar": torch.minimum(0.05 - x.abs(), 0.016 - y.abs()),
        "ring": 0.012 - (radius - 0.033).abs(),
    }[shape]
    return torch.sigmoid(inside / soft)
