"""BELM: a two-step method that runs both ways (Wang et al., NeurIPS 2024)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Field
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory
from causal_cxr.editors.diffusion.process import Process


@dataclass(frozen=True)
class BELM:
    """Exact in float32, with one evaluation a step.

    Three neighbouring points and the slope at the middle one are tied by one linear equation, which either end solves.
    Its coefficients are O-BELM's, of the least local error: exact for parabolas of ``x / a`` over ``sigma = s / a``. There
    steps shorten towards the image, which damps the error that alternates from step to step; over other variables it
    grows, so that flows, whose ``sigma`` is infinite at pure noise, are refused.

    The way there begins with a step of Euler's; the way back begins at the last two points.

    Attributes:
        steps: of the solver, two or more.
    """

    steps: int = 50
    name: ClassVar[str] = "belm"
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"A two-step method needs two steps or more, got {self.steps}.")

    def invert(self, source: Field, image: Tensor, noise: Callable[[], Tensor]) -> Trajectory:
        """See :class:`~causal_cxr.editors.diffusion.inversion.Inversion`; draws no noise.

        Raises:
            ValueError: the process ends without any signal, as flows do.
        """
        process = source.denoiser.process
        times, latents = process.times(self.steps), [image]
        if process.coefficients(times[-1])[0] == 0:
            raise ValueError(
                f"belm needs some signal at every time, and at {times[-1]:g} of this {process.predicts} process there is "
                "none; invert by coupled, offsets, edict or heun, or in fewer steps where the schedule is discrete."
            )
        a, s = process.coefficients(times[1])
        # As DDIM does, the field is asked at the noisier end, where the network was fitted.
        latents.append(a * image + s * source(image, times[1]).noise)
        for i in range(1, self.steps):
            latents.append(_across(process, source, latents[i - 1], latents[i], times[i - 1], times[i], times[i + 1]))
        return Trajectory(tuple(times), tuple(latents))

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """Back along the target's field, from the last two points."""
        process, times = target.denoiser.process, trajectory.times
        behind, x = trajectory.latents[-1], trajectory.latents[-2]
        for i in range(len(times) - 2, 0, -1):
            behind, x = x, _across(process, target, behind, x, times[i + 1], times[i], times[i - 1])
        return x


def _across(process: Process, field: Field, behind: Tensor, x: Tensor, before: float, t: float, after: float) -> Tensor:
    """The point at ``after``, of those at ``before`` and ``t``; in either direction."""
    (a_past, s_past), (a, s), (a_then, s_then) = (process.coefficients(moment) for moment in (before, t, after))
    back, on = s / a - s_past / a_past, s_then / a_then - s / a
    ratio = on / back
    mixed = (ratio**2 / a_past) * behind + ((1 - ratio**2) / a) * x + (on * (1 + ratio)) * field(x, t).noise
    return a_then * mixed
