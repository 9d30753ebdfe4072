"""DDIM inversion (Song et al., ICLR 2021; Dhariwal and Nichol, NeurIPS 2021): the field at the point that one comes from."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Field
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory
from causal_cxr.editors.diffusion.inversion.ode import affine, slope
from causal_cxr.editors.diffusion.process import Prediction, Process


@dataclass(frozen=True)
class DDIM:
    """One evaluation a step each way; inexact: the way there asks the field where the way back does not.

    Attributes:
        steps: of the solver.
    """

    steps: int = 50
    name: ClassVar[str] = "ddim"
    exact: ClassVar[bool] = False

    def invert(self, source: Field, image: Tensor, noise: Callable[[], Tensor]) -> Trajectory:
        """See :class:`~causal_cxr.editors.diffusion.inversion.Inversion`; draws no noise."""
        process = source.denoiser.process
        times, latents = process.times(self.steps), [image]
        for t, t_next in pairwise(times):
            A, B = affine(process, t, t_next)
            # The way back asks the field at the noisier end of the step; so does this, of the point it has.
            latents.append(A * latents[-1] + B * slope(process, source(latents[-1], t_next), t_next))
        return Trajectory(tuple(times), tuple(latents))

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """Back along the target's field."""
        process, x = target.denoiser.process, trajectory.latents[-1]
        for t_next, t in reversed(list(pairwise(trajectory.times))):
            x = step(process, target(x, t), t_next)
        return x


def step(process: Process, said: Prediction, t: float) -> Tensor:
    """The deterministic latent at ``t`` of a predicted image and noise."""
    a, s = process.coefficients(t)
    return a * said.clean + s * said.noise
