"""Heun's method there and back: two evaluations a step, an error of second order."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Field
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory
from causal_cxr.editors.diffusion.inversion.ode import clock, slope


@dataclass(frozen=True)
class Heun:
    """The customary solver of flows (Liu et al., ICLR 2023), and of noise predictions over ``s / a`` (Karras et al.,
    NeurIPS 2022). Inexact: there and back leave an error of fourth order a step.

    Attributes:
        steps: of the solver.
    """

    steps: int = 10
    name: ClassVar[str] = "heun"
    exact: ClassVar[bool] = False

    def invert(self, source: Field, image: Tensor, noise: Callable[[], Tensor]) -> Trajectory:
        """See :class:`~causal_cxr.editors.diffusion.inversion.Inversion`; draws no noise."""
        times, latents = source.denoiser.process.times(self.steps), [image]
        for t, t_next in pairwise(times):
            latents.append(advance(source, latents[-1], t, t_next))
        return Trajectory(tuple(times), tuple(latents))

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """Back along the target's field."""
        x = trajectory.latents[-1]
        for t, t_next in pairwise(reversed(trajectory.times)):
            x = advance(target, x, t, t_next)
        return x


def advance(field: Field, x: Tensor, t: float, t_next: float) -> Tensor:
    """One step of Heun's method along a field."""
    process = field.denoiser.process
    (now, scale), (then, then_scale) = clock(process, t), clock(process, t_next)
    h, here = then - now, slope(process, field(x, t), t)
    there = slope(process, field(then_scale * (x / scale + h * here), t_next), t_next)
    return then_scale * (x / scale + (0.5 * h) * (here + there))
