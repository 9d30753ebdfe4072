"""Edit-friendly DDPM noise (Huberman-Spiegelglas et al., CVPR 2024)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Field
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory
from causal_cxr.editors.diffusion.inversion.offsets import backwards, hold
from causal_cxr.editors.diffusion.process import Prediction, Process


@dataclass(frozen=True)
class DDPM:
    """The noise with which DDPM's sampler would have drawn the image; exact with one evaluation a step.

    The image is noised to each time anew, and the noise of each step is what its mean misses of the next point. The last
    step draws none in the sampler; here what it misses is kept too, without which the image would not come back.

    Attributes:
        steps: of DDPM's sampler.
        skip: share of the noisiest steps that are left out, in [0, 1): how far the edit keeps to the image (in the paper
            36 of 100).
    """

    steps: int = 50
    skip: float = 0.36
    name: ClassVar[str] = "ddpm"
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.skip < 1:
            raise ValueError(f"A share of the steps in [0, 1) is left out, got skip={self.skip}.")

    def invert(self, source: Field, image: Tensor, noise: Callable[[], Tensor]) -> Trajectory:
        """See :class:`~causal_cxr.editors.diffusion.inversion.Inversion`; keeps the noise of each step."""
        process = source.denoiser.process
        if process.predicts == "flow":
            raise ValueError(
                "Edit-friendly noise is that of DDPM's sampler, which flows lack; invert flows by coupled, offsets, heun, "
                "belm or edict."
            )
        times = process.times(self.steps)[: self.steps - int(self.skip * self.steps) + 1]
        latents = [image]
        for t in times[1:]:
            a, s = process.coefficients(t)
            latents.append(a * image + s * noise())
        path = Trajectory(tuple(times), tuple(latents))
        return hold(path, lambda x, t, t_next: _mean(process, source(x, t), t, t_next))

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """DDPM's sampler along the target's field, with the noise that was kept."""
        process, x = target.denoiser.process, trajectory.latents[-1]
        for t, t_next, offset in backwards(trajectory):
            x = _mean(process, target(x, t), t, t_next) + offset
        return x


def _mean(process: Process, said: Prediction, t: float, t_next: float) -> Tensor:
    """Of DDPM's step: DDIM's with all the variance that the posterior has (Song et al., ICLR 2021, equation 16)."""
    (a, s), (a_next, s_next) = process.coefficients(t), process.coefficients(t_next)
    variance = (s_next / s) ** 2 * (1 - (a / a_next) ** 2)
    return a_next * said.clean + max(s_next**2 - variance, 0.0) ** 0.5 * said.noise
