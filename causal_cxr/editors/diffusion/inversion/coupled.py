"""Coupled paths: the image is carried along by the difference of two predictions (FlowEdit; Kulikov et al., ICCV 2025).

The image is noised to each time ``x_t`` anew, as an average over noises holds it better than any one. The edited image
``z`` starts as the image; its noised version is ``x_t`` shifted by ``z - x_0``, and from noise to image ``z`` moves by what
the target's field says there less what the source's field says of ``x_t``. Nothing is inverted: where both fields agree
nothing moves, so an edit that asks for nothing returns the image, bit for bit, under any network and precision. The
source's predictions are made once an image.
"""

from collections.abc import Callable
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
        process = source.denoiser.process
        times = process.times(self.steps)
        latents = [image]
        for t in times[1:]:
            a, s = process.coefficients(t)
            latents.append(a * image + s * noise())
        said = torch.stack([source(x, t).clean for t, x in zip(times[1:], latents[1:], strict=True)])
        return Trajectory(tuple(times), tuple(latents), {"source": said})

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """Carry the image from noise back to itself, pushed by what the fields disagree on."""
        process = target.denoiser.process
        moved, image = torch.zeros_like(trajectory.image), trajectory.image
        steps = list(zip(pairwise(trajectory.times), trajectory.latents[1:], trajectory.kept["source"], strict=True))
        for (t_next, t), x, said in reversed(steps):
            a, s = process.coefficients(t)
            a_next, s_next = process.coefficients(t_next)
            flows = process.predicts == "flow"
            share = 1 - (t_next / t if flows else s_next * a / (s * a_next))
            asked = target(x + moved if flows else x + a * moved, t).clean
            moved = moved + share * (asked - said - moved)
        return image + moved
