"""Coupled paths: the image is carried along by the difference of two predictions (FlowEdit; Kulikov et al., ICCV 2025).

The image is noised to each time ``x_t`` anew, as an average over noises holds it better than any one. The edited image
``z`` starts as the image; its noised version is ``x_t`` shifted by ``z - x_0``, and from noise to image ``z`` moves by what
the target's field says there less what the source's field says of ``x_t``. Nothing is inverted: where both fields agree
nothing moves, so an edit that asks for nothing returns the image, bit for bit, under any network and precision. The
source's predictions are made once an image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Field
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory


@dataclass(frozen=True)
class Coupled:
    """FlowEdit, for every process; one evaluation a step, once an image and once an edit.

    Flows are followed in ``t`` as published. Variance-preserving processes are followed in ``sigma = s / a``, where the
    probability-flow ODE reads ``d(x / a) / d sigma = e`` (Song et al., ICLR 2021): the same construction there. Both are
    written by the predicted images ``D``: ``z`` moves a share ``1 - tau' / tau`` of its way to ``x_0`` plus the change of
    ``D``, which holds where no signal is left and ``sigma`` is infinite.

    Attributes:
        steps: of Euler's method.
    """

    steps: int = 20
    name: ClassVar[str] = "coupled"
    exact: ClassVar[bool] = True

    def invert(self, source: Field, image: Tensor, noise: Callable[[], Tensor]) -> Trajectory:
        """See :class:`~causal_cxr.editors.diffusion.inversion.Inversion`; keeps the source's predictions."""
        times = source.denoiser.process.times(self.steps)
        latents, said = noised(source, image, times[1:], noise)
        return Trajectory(tuple(times), (image, *latents), {"source": said})

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """Carry the image from noise back to itself, pushed by what the fields disagree on."""
        change = carried(target, trajectory.times, trajectory.latents[1:], trajectory.kept["source"])
        return trajectory.image + change


def noised(
    source: Field, image: Tensor, times: Sequence[float], noise: Callable[[], Tensor]
) -> tuple[list[Tensor], Tensor]:
    """The image noised to each time anew, and ``(times, n, channels, h, w)`` the images that the source's field sees there."""
    latents = []
    for t in times:
        a, s = source.denoiser.process.coefficients(t)
        latents.append(a * image + s * noise())
    return latents, torch.stack([source(x, t).clean for t, x in zip(times, latents, strict=True)])


def carried(target: Field, times: Sequence[float], latents: Sequence[Tensor], said: Tensor) -> Tensor:
    """The change of the image, from the last of the times to the first.

    Args:
        target: of the edit.
        times: increasing.
        latents: at all times but the first.
        said: what the source's field sees in them.
    """
    process = target.denoiser.process
    flows, moved = process.predicts == "flow", torch.zeros_like(latents[0])
    steps = list(zip(pairwise(times), latents, said, strict=True))
    for (t_next, t), x, before in reversed(steps):
        a, s = process.coefficients(t)
        a_next, s_next = process.coefficients(t_next)
        share = 1 - (t_next / t if flows else s_next * a / (s * a_next))
        asked = target(x + moved if flows else x + a * moved, t).clean
        moved = moved + share * (asked - before - moved)
    return moved
