"""Direct inversion: what DDIM's way back misses is stored and added (Ju et al., ICLR 2024)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Field
from causal_cxr.editors.diffusion.inversion.ddim import DDIM, step
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory


@dataclass(frozen=True)
class Offsets:
    """The guard: under the field of the inversion it returns the image in any precision of the network.

    DDIM's path is taken there; then, from noise to image, what each step back misses of the path is stored. Two
    evaluations a step there, one back.

    Attributes:
        steps: of DDIM's method; Euler's, for flows.
        replay: add the offsets on the way back. Without them it is DDIM's edit, as in the paper, where only the branch of
            the factual caption is corrected, for attention control to read.
    """

    steps: int = 50
    replay: bool = True
    name: ClassVar[str] = "offsets"
    exact: ClassVar[bool] = True

    def invert(self, source: Field, image: Tensor, noise: Callable[[], Tensor]) -> Trajectory:
        """See :class:`~causal_cxr.editors.diffusion.inversion.Inversion`; draws no noise, keeps the offsets."""
        path = DDIM(self.steps).invert(source, image, noise)
        return hold(path, lambda x, t, t_next: step(source.denoiser.process, source(x, t), t_next))

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """Back along the target's field, each step shifted by its offset."""
        process, x = target.denoiser.process, trajectory.latents[-1]
        for t, t_next, offset in backwards(trajectory):
            x = step(process, target(x, t), t_next)
            x = x + offset if self.replay else x
        return x


def hold(path: Trajectory, advance: Callable[[Tensor, float, float], Tensor]) -> Trajectory:
    """The path with the offsets that hold ``advance(x, t, t_next)`` to it, ``(steps, n, channels, h, w)``.

    Each step starts where the replay will be, rounding included, so that a replay meets the same bits at every network
    evaluation: a bfloat16 network would magnify a difference in the last one.
    """
    latents, offsets = [path.latents[-1]], []
    for (t_next, t), there in zip(reversed(list(pairwise(path.times))), reversed(path.latents[:-1]), strict=True):
        arrived = advance(latents[-1], t, t_next)
        offsets.append(there - arrived)
        latents.append(arrived + offsets[-1])
    latents[-1] = path.image
    return Trajectory(path.times, tuple(reversed(latents)), {"offsets": torch.stack(offsets[::-1])})


def backwards(trajectory: Trajectory) -> Iterator[tuple[float, float, Tensor]]:
    """``t, t_next, offset`` of every step from noise to image."""
    steps = zip(pairwise(trajectory.times), trajectory.kept["offsets"], strict=True)
    for (t_next, t), offset in reversed(list(steps)):
        yield t, t_next, offset
