"""Exemplars: images that show what an attribute's values look like, where there is no word for it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor


@dataclass(frozen=True)
class Exemplars:
    """Images of two or more values of an attribute.

    Attributes:
        images: ``(k, 1, h, w)`` in [0, 1], sized as the images that are edited.
        values: ``k`` values of the attribute.
        patients: whose images they are, so that an audit leaves them out; ``None`` = unknown.

    Raises:
        ValueError: images and values are not equally many, a value is missing, or all are the same.
    """

    images: Tensor
    values: Sequence[Any]
    patients: frozenset[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(v.item() if isinstance(v, np.generic) else v for v in self.values))
        if self.images.ndim != 4 or len(self.images) != len(self.values):
            raise ValueError(
                f"Exemplars are (k, 1, h, w) images with k values, got {tuple(self.images.shape)} and "
                f"{len(self.values)} values."
            )
        if any(pd.isna(value) for value in self.values):
            raise ValueError("An exemplar's value is missing; leave that image out.")
        if len(self.levels) < 2:
            raise ValueError(
                f"All exemplars have the value {self.levels[0] if self.levels else None!r}: what a value looks like is "
                "seen against images without it; add some."
            )

    @property
    def levels(self) -> tuple[Any, ...]:
        """The distinct values, in the order in which they come."""
        return tuple(dict.fromkeys(self.values))

    def contrast(self, value: Any) -> tuple[Tensor, Tensor]:
        """The images that have the value, and those that do not.

        Raises:
            ValueError: none has it.
        """
        has = np.array([v == value for v in self.values])
        if not has.any():
            raise ValueError(f"No exemplar shows {value!r}; they show {list(self.levels)}. Add images that have it.")
        return self.images[has], self.images[~has]

    @property
    def fingerprint(self) -> str:
        """Of images and values."""
        digest = hashlib.sha256(repr(self.values).encode())
        digest.update(self.images.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]
