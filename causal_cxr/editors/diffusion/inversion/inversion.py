"""The Inversion protocol: an image is inverted once, and redrawn for any number of interventions.

An inversion follows the *source* field, that of the factual caption, away from the image, and keeps what it needs to come
back. ``redraw`` comes back along a *target* field. With the source field as target a method that is ``exact`` returns the
image within rounding, whatever the network; one that asks the field elsewhere than at the trajectory's latents says where the
way there asked (``own``), so that fields that hold on to the image's own way can do so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Field


@dataclass(frozen=True)
class Trajectory:
    """An image's way to noise.

    Attributes:
        times: ``S + 1`` increasing times, the image's first.
        latents: ``S + 1`` latents ``(n, channels, h, w)`` at these times, the image's first. Attention control and masks
            hold on to them.
        kept: what else the method needs to come back, by name: tensors of ``n`` rows, or stacks of them along a first
            axis of steps, as the method says.
    """

    times: tuple[float, ...]
    latents: tuple[Tensor, ...]
    kept: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def image(self) -> Tensor:
        """The latent of the image itself."""
        return self.latents[0]

    def at(self, t: float) -> Tensor:
        """The latent at one of ``times``."""
        return self.latents[self.times.index(t)]


class Inversion(Protocol):
    """A way to noise and back.

    Its ``repr`` goes into the editor's fingerprint: it must tell all that the result depends on.

    Attributes:
        name: as tables and configurations call it.
        exact: returns the image within float32's rounding under the field that it was inverted with, if that computes in float32.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]

    def invert(self, source: Field, image: Tensor, noise: Callable[[], Tensor]) -> Trajectory:
        """Follow the field away from the image.

        Args:
            source: of the factual caption; its denoiser's process says which times there are.
            image: ``(n, channels, h, w)`` latents.
            noise: draws standard normal numbers, shaped as ``image``, anew at every call, from one seed a row: all the
                chance that a method may use.

        Raises:
            ValueError: the method does not work for what the network predicts.
        """
        ...

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """The latents of the images along another field, ``(n, channels, h, w)``."""
        ...
