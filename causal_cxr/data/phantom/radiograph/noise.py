"""The noise of phantoms: all that chance decides, drawn once and kept."""

from dataclasses import dataclass, fields

import numpy as np

from .drawables import ANATOMY, NUMBERS, PLACEMENT_COLUMNS


@dataclass(frozen=True)
class Noise:
    """The exogenous noise of ``n`` phantoms: keep it, and any counterfactual can be drawn.

    Attributes:
        anatomy: ``(n, len(ANATOMY))`` standard normal; clamped to ±2.5 where drawn.
        placement: ``(n, len(PLACEMENT_COLUMNS))`` uniform on [0, 1].
        amounts: ``(n, len(NUMBERS))`` standard normal, one for each number that can be drawn. The picture does not
            depend on it: a world spreads the values of its numbers with it.
        speckle: ``(n,)`` int64, not negative, seed of the detector's noise.
    """

    anatomy: np.ndarray
    placement: np.ndarray
    amounts: np.ndarray
    speckle: np.ndarray

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> "Noise":
        """Draw the noise of ``n`` phantoms."""
        return cls(
            anatomy=rng.standard_normal((n, len(ANATOMY))),
            placement=rng.uniform(size=(n, len(PLACEMENT_COLUMNS))),
            amounts=rng.standard_normal((n, len(NUMBERS))),
            speckle=rng.integers(0, 2**62, size=n),
        )

    def take(self, rows: np.ndarray) -> "Noise":
        """The noise of some rows, in the order asked for."""
        return Noise(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def __len__(self) -> int:
        return len(self.speckle)


def quanta(seeds: np.ndarray, size: int) -> np.ndarray:
    """``(n, size, size)`` float32 standard normal, each image from its own seed alone."""
    field = np.empty((len(seeds), size, size), dtype=np.float32)
    for image, seed in zip(field, seeds, strict=True):
        np.random.Generator(np.random.SFC64(int(seed))).standard_normal(dtype=np.float32, out=image)
    return field
