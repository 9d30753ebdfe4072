"""Coupled paths: the image is carried along by the difference of two predictions (FlowEdit; Kulikov et al., ICCV 2025).

The image is noised to each time ``x_t`` anew, as an average over noises holds it better than any one. The edited image starts
as the image; its noised version is ``x_t`` plus the change so far, and from noise to image the change is made up anew of what
the target's field sees there less what the source's field sees in ``x_t``. Nothing is inverted: where both fields agree nothing
moves, so an edit that asks for nothing returns the image, bit for bit, under any network and precision. The source's
predictions are made once an image.

How much of the change so far each step carries on decides what an edit lets go of. All that the solver's step leaves of it
(FlowEdit) makes the change an average over noises: what stays is held best, devices that the target would not draw among it. With
none the change is what the fields disagree on at the last noise, seen in the image as changed until then: devices come and go
more, and so do details that nobody asked for. ``benchmarks/editors.py`` measures FlowEdit beside the default, half.

What one noise moves by chance its opposite moves back, to first order: noises of two steps that follow each other, ``e`` and
``-e`` (antithetic variates; Hammersley & Morton, 1956), leave the edit fewer details that nobody asked for, at no cost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Field
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory
from causal_cxr.editors.diffusion.process import Process

SHIFT = 2.0  #: of flows' times towards noise (Esser et al., ICML 2024, equation 23), where it is decided what is there


@dataclass(frozen=True)
class Coupled:
    """For every process; one evaluation a step, once an image and once an edit.

    Written by the predicted images ``D`` and ``sigma = s / a``, in which the probability-flow ODE reads
    ``d(x / a) / d sigma = e`` (Song et al., ICLR 2021), the same for flows and for processes that preserve the variance: from
    ``sigma`` to ``sigma'`` the change keeps a share ``carry sigma' / sigma``, and the rest becomes the change of ``D``;
    where no signal is left ``sigma`` is infinite, and nothing is kept.

    Attributes:
        steps: evaluations.
        carry: share of what Euler's step keeps of the change so far, in [0, 1]; a step's, so that of more steps less is carried.
        antithetic: each second noise is the one before with the other sign; else all are drawn apart.
    """

    steps: int = 12
    carry: float = 0.5
    antithetic: bool = True
    name: ClassVar[str] = "coupled"
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.carry <= 1:
            raise ValueError(f"A share in [0, 1] of the change is carried on, got carry={self.carry}.")

    def invert(self, source: Field, image: Tensor, noise: Callable[[], Tensor]) -> Trajectory:
        """See :class:`~causal_cxr.editors.diffusion.inversion.Inversion`; keeps the source's predictions."""
        process = source.denoiser.process
        times, latents, drawn = _times(process, self.steps), [image], image
        for k, t in enumerate(times[1:]):
            a, s = process.coefficients(t)
            drawn = -drawn if self.antithetic and k % 2 else noise()
            latents.append(a * image + s * drawn)
        said = [source(x, t).clean for t, x in zip(times[1:], latents[1:], strict=True)]
        return Trajectory(tuple(times), tuple(latents), {"source": torch.stack(said)})

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """The image, and what the fields disagree on from noise to it."""
        process, change = target.denoiser.process, torch.zeros_like(trajectory.image)
        steps = list(zip(pairwise(trajectory.times), trajectory.latents[1:], trajectory.kept["source"], strict=True))
        for (t_next, t), x, before in reversed(steps):
            a, s = process.coefficients(t)
            a_next, s_next = process.coefficients(t_next)
            kept = self.carry * s_next * a / (s * a_next)
            change = kept * change + (1 - kept) * (target(x + a * change, t).clean - before)
        return trajectory.image + change


@dataclass(frozen=True)
class FlowEdit(Coupled):
    """Coupled paths as published: each step carries on all that Euler's step does, under a noise of its own."""

    steps: int = 20
    carry: float = 1.0
    antithetic: bool = False
    name: ClassVar[str] = "flowedit"


def _times(process: Process, steps: int) -> list[float]:
    """From the image on. Those of flows are the middles of even parts, shifted: at either end nothing moves."""
    times = process.times(steps)
    if process.predicts != "flow":
        return times
    middles = ((k + 0.5) / steps for k in range(steps))
    return [0.0, *(SHIFT * u / (1 + (SHIFT - 1) * u) for u in middles)]
