"""EDICT: two coupled copies, each moved by what the network says of the other (Wallace et al., CVPR 2023)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Field
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory
from causal_cxr.editors.diffusion.inversion.ode import affine, slope


@dataclass(frozen=True)
class EDICT:
    """Exact with two evaluations a step.

    A step of one copy by the other's slope can be undone, as the other is still there. Mixing draws the copies together on
    the way to the image; on the way to noise it is undone and drives their difference apart, by ``mixing**-2`` a step.

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
        """See :class:`~causal_cxr.editors.diffusion.inversion.Inversion`; draws no noise, keeps the second copy."""
        process, p = source.denoiser.process, self.mixing
        times = process.times(self.steps)
        x, y, latents = image, image, [image]
        for i in range(1, self.steps + 1):
            t, (A, B) = times[i], affine(process, times[i], times[i - 1])
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            first, second = (x, y) if i % 2 else (y, x)
            second = (second - B * slope(process, source(first, t), t)) / A
            first = (first - B * slope(process, source(second, t), t)) / A
            x, y = (first, second) if i % 2 else (second, first)
            latents.append(x)
        return Trajectory(tuple(times), tuple(latents), {"copy": y})

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """Both copies back along the target's field; the first is the image."""
        process, p, times = target.denoiser.process, self.mixing, trajectory.times
        x, y = trajectory.latents[-1], trajectory.kept["copy"]
        for i in range(len(times) - 1, 0, -1):
            t, (A, B) = times[i], affine(process, times[i], times[i - 1])
            first, second = (x, y) if i % 2 else (y, x)  # who goes first alternates, so that neither runs ahead
            first = A * first + B * slope(process, target(second, t), t)
            second = A * second + B * slope(process, target(first, t), t)
            x, y = (first, second) if i % 2 else (second, first)
            x = p * x + (1 - p) * y
            y = p * y + (1 - p) * x
        return x
