"""EDICT: two coupled copies, each moved by what the network says of the other (Wallace et al., CVPR 2023)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Field
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory
from causal_cxr.editors.diffusion.inversion.ode import affine, slope


@dataclass(frozen=True)
class EDICT:
    """Exact in float32, with two evaluations a step.

    A step of one copy by the other's slope can be undone, as the other is still there. Mixing draws the copies together on
    the way to the image; on the way to noise it is undone and drives their difference apart, by ``mixing**-2`` a step. Both ways
    ask the field at either copy, so both are kept, for fields that hold on to the image's own way.

    Attributes:
        steps: of DDIM's method.
        mixing: the share ``p`` that a copy keeps of itself, in (0, 1]; 1 does not mix.
    """

    steps: int = 50
    mixing: float = 0.93
    name: ClassVar[str] = "edict"
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.mixing <= 1:
            raise ValueError(f"A copy keeps a share of itself in (0, 1], got mixing={self.mixing}.")

    def invert(self, source: Field, image: Tensor, noise: Callable[[], Tensor]) -> Trajectory:
        """See :class:`~causal_cxr.editors.diffusion.inversion.Inversion`; draws no noise, keeps the second copy's
        latents, ``(steps + 1, n, channels, h, w)``.
        """
        process, times = source.denoiser.process, source.denoiser.process.times(self.steps)
        x, y, latents, copies = image, image, [image], [image]
        for i in range(1, self.steps + 1):
            t, (A, B) = times[i], affine(process, times[i], times[i - 1])
            first, second = _in_turn(i, *self._unmixed(x, y))
            second = (second - B * slope(process, source(first, t), t)) / A
            first = (first - B * slope(process, source(second, t), t)) / A
            x, y = _in_turn(i, first, second)
            latents.append(x)
            copies.append(y)
        return Trajectory(tuple(times), tuple(latents), {"copies": torch.stack(copies)})

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """Both copies back along the target's field; the first is the image."""
        process, p, times = target.denoiser.process, self.mixing, trajectory.times
        latents, copies = trajectory.latents, trajectory.kept["copies"]
        x, y = latents[-1], copies[-1]
        for i in range(len(times) - 1, 0, -1):
            t, (A, B) = times[i], affine(process, times[i], times[i - 1])
            first, second = _in_turn(i, x, y)
            _, own_second = _in_turn(i, latents[i], copies[i])
            own_first, _ = _in_turn(i, *self._unmixed(latents[i - 1], copies[i - 1]))
            first = A * first + B * slope(process, target(second, t, own_second), t)
            second = A * second + B * slope(process, target(first, t, own_first), t)
            x, y = _in_turn(i, first, second)
            x = p * x + (1 - p) * y
            y = p * y + (1 - p) * x
        return x

    def _unmixed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        p = self.mixing
        y = (y - (1 - p) * x) / p
        return (x - (1 - p) * y) / p, y


def _in_turn(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Who goes first in step ``i``, and who second, and back: it alternates, so that neither runs ahead."""
    return (x, y) if i % 2 else (y, x)
