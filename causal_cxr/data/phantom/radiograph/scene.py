"""Where things are: the detector's grid, the X-ray source, and the numbers of the patients in one small batch.

Units are cm. On the detector x runs to the image's right (the patient's left) and y down, from the centre. In the
patient they run alike, and depth runs from the front of the chest to its back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .drawables import ANATOMY, DRAWABLES, PLACEMENT_COLUMNS

FIELD_CM = 40.0  #: side of the square detector
SOURCE_CM = (183.0, 102.0)  #: from source to detector, in PA and in AP
GAP_CM = (1.5, 3.0)  #: from the patient to the detector, in PA and in AP
CHEST_DEPTH_CM = 21.0
Where = tuple[slice, slice, slice]  #: a part of ``(n, h, w)`` pictures


def magnification(ap: Tensor, depth: float) -> Tensor:
    """How much larger than life the shadow of something ``depth`` cm behind the front of the chest is.

    A thing ``h`` cm before the detector is magnified by ``D / (D - h)``, with ``D`` from source to detector: in PA the
    chest's front faces the detector, in AP its back.

    Args:
        ap: 0 for PA, 1 for AP, any shape.
        depth: in cm.

    >>> magnification(torch.tensor([0.0, 1.0]), depth=7.0)
    tensor([1.0487, 1.2000])
    """
    pa, back = (
        source / (source - gap - height)
        for source, gap, height in zip(SOURCE_CM, GAP_CM, (depth, CHEST_DEPTH_CM - depth), strict=True)
    )
    return pa + (back - pa) * ap


@dataclass(frozen=True)
class Scene:
    """``n`` patients before a detector, or the part of it that one thing can be drawn on.

    Attributes:
        x: ``(1, 1, w)`` cm across the detector.
        y: ``(1, h, 1)`` cm down the detector.
        pixel: side of a picture element in cm.
        size: picture elements a side of the whole detector.
        numbers: ``(n, columns, 1, 1)``: the values of all drawables, anatomy clamped to ±2.5, and placement, side by
            side, so that to take some patients is one operation.
    """

    x: Tensor
    y: Tensor
    pixel: float
    size: int
    numbers: Tensor

    @classmethod
    def build(cls, values: Mapping[str, np.ndarray], anatomy: np.ndarray, placement: np.ndarray, size: int) -> "Scene":
        """The whole detector, of ``size`` picture elements a side."""
        axis = ((torch.arange(size, dtype=torch.float32) + 0.5) / size - 0.5) * FIELD_CM

        numbers = np.concatenate(
            [np.stack([values[name] for name in DRAWABLES], 1), anatomy.clip(-2.5, 2.5), placement], 1, dtype=np.float32
        )
        return cls(
            x=axis[None, None, :],
            y=axis[None, :, None],
            pixel=FIELD_CM / size,
            size=size,
            numbers=torch.from_numpy(numbers)[:, :, None, None],
        )

    def z(self, name: str) -> Tensor:
        """``(n, 1, 1)`` anatomy noise."""
        return self.numbers[:, _ANATOMY[name]]

    def weights(self, prefix: str) -> Tensor:
        """``(n, k)`` anatomy noise of all names ``prefix_0``, ``prefix_1``, ..."""
        columns = [column for name, column in _ANATOMY.items() if name.startswith(f"{prefix}_")]
        return self.numbers[:, columns[0] : columns[-1] + 1, 0, 0]

    def value(self, name: str) -> Tensor:
        """``(n, 1, 1)`` value of a drawable."""
        return self.numbers[:, _VALUES[name]]

    def u(self, name: str) -> Tensor:
        """``(n, 1, 1)`` placement noise."""
        return self.numbers[:, _PLACEMENT[name]]

    @property
    def ap(self) -> Tensor:
        """``(n, 1, 1)`` 1 where the view is AP."""
        return self.value("view")

    @property
    def old(self) -> Tensor:
        """``(n, 1, 1)`` age: 0 at 55 years, 1 at 90."""
        return (self.value("age") - 55) / 35

    def patient(self, depth: float) -> tuple[Tensor, Tensor]:
        """``(n, 1, w)`` x and ``(n, h, 1)`` y in the patient, of what lies at ``depth``."""
        scale = magnification(self.ap, depth).reciprocal()
        return (self.x - 0.5 * self.z("shift_x")) * scale, (self.y - 0.6 * self.z("shift_y")) * scale

    def take(self, rows: Tensor) -> "Scene":
        """Some of the patients."""
        return replace(self, numbers=self.numbers[rows])

    def crop(self, region: tuple[float, float, float, float]) -> tuple["Scene", Where]:
        """The part of the detector inside ``(top, left, bottom, right)``, and where it lies in a picture."""
        top, left, bottom, right = (round(edge * self.size) for edge in region)
        part = replace(self, x=self.x[:, :, left:right], y=self.y[:, top:bottom])
        return part, (slice(None), slice(top, bottom), slice(left, right))

    def with_thing(self, name: str) -> tuple["Scene", Tensor, Where] | None:
        """The patients that have a thing, their rows, and where it can be; ``None`` where nobody has it."""
        rows = self.value(name).flatten().nonzero().flatten()
        if not len(rows):
            return None
        part, where = self.crop(DRAWABLES[name].region or (0, 0, 1, 1))
        return part.take(rows), rows, where


_VALUES = {name: i for i, name in enumerate(DRAWABLES)}
_ANATOMY = {name: i for i, name in enumerate(ANATOMY, start=len(_VALUES))}
_PLACEMENT = {name: i for i, name in enumerate(PLACEMENT_COLUMNS, start=len(_VALUES) + len(_ANATOMY))}
