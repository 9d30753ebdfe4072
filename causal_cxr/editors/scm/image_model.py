"""``ImageModel``: what an ``SCMEditor`` asks of the image mechanism of a deep SCM."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Bound(NamedTuple):
    """What one pass from images to noise and back gives a fit.

    Attributes:
        value: the negative evidence bound a pixel, in nats, ``()``.
        noise: drawn from the posterior for it, one tensor a latent, coarsest first.
        location, log_scale: of the pixels, decoded from that noise, each ``(n, 1, h, w)``.
    """

    value: Tensor
    noise: tuple[Tensor, ...]
    location: Tensor
    log_scale: Tensor


class ImageModel(nn.Module, ABC):
    """p(image | attributes, noise), the noise standard normal and exogenous.

    Attributes:
        settings: the arguments it was built with, plain data; the same class built with them has the same weights' names.
    """

    settings: dict[str, Any]

    @abstractmethod
    def noise_shapes(self, shape: tuple[int, int]) -> list[tuple[int, ...]]:
        """Shape of each latent of one image of ``(h, w)``, coarsest first."""

    @abstractmethod
    def abduct(
        self, images: Tensor, condition: Tensor, *, standard: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """The noise that gave these images: its posterior's mean, or a draw.

        Args:
            images: ``(n, 1, h, w)`` in [0, 1].
            condition: ``(n, n_conditions)``, their attributes.
            standard: standard normal numbers, ``(n, *shape)`` for each of :meth:`noise_shapes`, that make the draw.

        Returns:
            one tensor a latent, coarsest first, each ``(n, *shape)``.
        """

    @abstractmethod
    def decode(
        self, noise: Sequence[Tensor], condition: Tensor, shape: tuple[int, int], *, mediator: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Location and log scale of the pixels, each ``(n, 1, h, w)``; the location may leave [0, 1] slightly.

        Args:
            noise: as :meth:`abduct` gives it.
            condition: ``(n, n_conditions)``, the attributes to draw.
            shape: ``(h, w)``.
            mediator: the attributes that the latents are told, where they mediate; ``condition`` unless given.
        """

    @abstractmethod
    def bound(self, images: Tensor, condition: Tensor, beta: float = 1.0) -> Bound:
        """The negative evidence bound.

        The divergence is in closed form, weighted by ``beta`` in (0, 1]: less than 1 while a fit warms up.
        """

    def detail(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of what draws the detail: trained alone, they leave all but the finest latents as they were.

        Empty where the latents are no ladder.
        """
        return {}


def pixel_noise(images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """What images have beyond the decoder's location, in units of its scale; all ``(n, 1, h, w)``."""
    return (images - location) * (-log_scale).exp()


def with_pixel_noise(location: Tensor, log_scale: Tensor, noise: Tensor, residual: float) -> Tensor:
    """Images in [0, 1] whose pixel noise is ``noise`` times ``residual``; all ``(n, 1, h, w)``."""
    return (location + residual * log_scale.exp() * noise).clamp(0, 1)


def divergence(mean: Tensor, std: Tensor) -> Tensor:
    """``(n,)``, nats from a normal to the standard normal, summed over all but the first axis."""
    return (0.5 * (mean.square() + std.square() - 1) - std.log()).flatten(1).sum(1)


def in_full(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The layer in its weights' precision even under autocast: of pixels, eight bits are a grey level's own width."""
    with torch.autocast(x.device.type, enabled=False):
        return cast(Tensor, layer(x.to(layer.weight.dtype)))


def padded(images: Tensor, multiple: int) -> Tensor:
    """Their border repeated below and to the right until the sides are multiples of ``multiple``."""
    below, right = -images.shape[-2] % multiple, -images.shape[-1] % multiple
    return F.pad(images, (0, right, 0, below), mode="replicate") if below or right else images


def placed(x: Tensor) -> Tensor:
    """Two more channels that say where a pixel is: marks have places, which convolutions alone cannot know."""
    n, _, h, w = x.shape
    rows = torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype)[:, None].expand(n, 1, h, w)
    columns = torch.linspace(-1, 1, w, device=x.device, dtype=x.dtype).expand(n, 1, h, w)
    return torch.cat([x, rows, columns], dim=1)
