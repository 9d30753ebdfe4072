"""Coupled where noise is strong, followed where it is weak: layout is kept as coupled paths keep it, things come and go.

Coupled paths hold on to an object that the image has, such as a device or a marker, even where the target would not draw it:
its noised versions all show it. The ODE lets go of it, at the cost of an error all over the image. Here the change is
coupled from noise down to a time, then handed over to the ODE, which starts where the image's own ODE path is at that time,
shifted by the change. FlowEdit's last steps (``n_min`` in Kulikov et al., ICCV 2025) do alike from random noise. What
following itself gets wrong is known, as the source's path is redrawn too, and is taken off.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Field
from causal_cxr.editors.diffusion.inversion.coupled import carried, noised
from causal_cxr.editors.diffusion.inversion.heun import advance
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory


@dataclass(frozen=True)
class Handover:
    """Of flows: ``coupled`` evaluations and ``2 followed`` an edit, ``coupled + 4 followed`` once an image.

    Attributes:
        coupled: steps of Euler's method from noise to ``at``.
        followed: steps of Heun's method from ``at`` to the image, and there.
        at: time of the handover; 0 is :class:`Coupled` throughout, 1 is :class:`Heun` with its error taken off.
    """

    coupled: int = 4
    followed: int = 2
    at: float = 0.8
    name: ClassVar[str] = "handover"
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.at < 1:
            raise ValueError(
                f"The handover is at a time between 0 and 1, got {self.at}; use Coupled or Heun for the ends."
            )

    def invert(self, source: Field, image: Tensor, noise: Callable[[], Tensor]) -> Trajectory:
        """See :class:`~causal_cxr.editors.diffusion.inversion.Inversion`; keeps the source's predictions and its way back.

        Raises:
            ValueError: the network predicts no flow.
        """
        if source.denoiser.process.predicts != "flow":
            raise ValueError("handover works for flows; use coupled, or an exact inversion such as belm.")
        low, high = _between(0.0, self.at, self.followed), _between(self.at, 1.0, self.coupled)
        path = [image]
        for t, t_next in pairwise(low):
            path.append(advance(source, path[-1], t, t_next))
        back = path[-1]
        for t, t_next in pairwise(reversed(low)):
            back = advance(source, back, t, t_next)
        above, said = noised(source, image, high[1:], noise)
        return Trajectory((*low, *high[1:]), (*path, *above), {"source": said, "back": back})

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """The change of coupled paths at the handover, then along the target's field."""
        low, high = trajectory.times[: self.followed + 1], trajectory.times[self.followed :]
        x = trajectory.at(low[-1])
        x = x + carried(target, high, trajectory.latents[self.followed + 1 :], trajectory.kept["source"])
        for t, t_next in pairwise(reversed(low)):
            x = advance(target, x, t, t_next)
        return trajectory.image + (x - trajectory.kept["back"])


def _between(start: float, end: float, steps: int) -> list[float]:
    """Times of a part of the way, spaced as :meth:`Process.times` spaces the whole."""
    first, last = (math.acos(1 - 2 * t) for t in (start, end))
    inner = ((1 - math.cos(first + (last - first) * k / steps)) / 2 for k in range(1, steps))
    return [start, *inner, end]
