"""``ConditionalVAE``: the image mechanism of a deep SCM, in Pyro (Pawlowski et al., NeurIPS 2020).

Convolutional throughout, so that any image whose sides are multiples of 16 goes through the same weights. The latent
is a small map, ``(latent, h / 16, w / 16)``; its prior does not know the attributes, so that putting them into the
latent costs divergence and the decoder learns them from the condition instead.
"""

from itertools import pairwise
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.nn import functional as F

REDUCTION = 16  #: image sides must be multiples of this
UNSHUFFLE = 4  #: the first reduction loses nothing: blocks of 4 x 4 pixels become channels


class _Block(nn.Module):
    """Residual block; the condition scales and shifts its channels."""

    def __init__(self, channels: int, n_conditions: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.film = nn.Linear(n_conditions, 2 * channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.silu(self.norm(x) * (1 + scale) + shift))
        return x + self.second(F.silu(h))


class ConditionalVAE(nn.Module):
    """p(image | attributes, latent), with the posterior of the latent given image and attributes.

    Args:
        n_conditions: numbers that describe the attributes of an image.
        width: channels at a quarter of the resolution, a multiple of 16; 1.5 and 2 times as many below it.
        latent: channels of the latent map.
        scale: standard deviation of a pixel about the decoder's mean, in (0, 1). It sets how much the latent may
            tell: a smaller scale gives sharper images and a latent that knows more of what the attributes cause.
    """

    def __init__(self, n_conditions: int, width: int = 32, latent: int = 2, scale: float = 0.1) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"n_conditions": n_conditions, "width": width, "latent": latent, "scale": scale}
        self.scale = scale
        sizes = (width, 3 * width // 2, 2 * width)
        pixels = UNSHUFFLE**2
        self.enter = nn.Conv2d(pixels + 2, sizes[0], 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(sizes)])
        self.encoding = nn.ModuleList([_Block(c, n_conditions) for c in sizes])
        self.posterior = nn.Conv2d(sizes[-1], 2 * latent, 1)
        self.expand = nn.Conv2d(latent + 2, sizes[-1], 3, padding=1)
        self.decoding = nn.ModuleList([_Block(c, n_conditions) for c in reversed(sizes)])
        self.up = nn.ModuleList([nn.Conv2d(b, a, 3, padding=1) for a, b in reversed(list(pairwise(sizes)))])
        self.leave = nn.Conv2d(sizes[0], pixels, 3, padding=1)

    def encode(self, images: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent's posterior, each ``(n, latent, h / 16, w / 16)``.

        Args:
            images: ``(n, 1, h, w)`` in [0, 1].
            condition: ``(n, n_conditions)``.

        Raises:
            ValueError: sides that are no multiples of 16.
        """
        if images.shape[-1] % REDUCTION or images.shape[-2] % REDUCTION:
            raise ValueError(
                f"Image sides must be multiples of {REDUCTION}, got {tuple(images.shape[-2:])}; resize them."
            )
        x = self.enter(_placed(F.pixel_unshuffle(images - 0.5, UNSHUFFLE)))
        for i, block in enumerate(self.encoding):
            x = block(self.down[i - 1](x) if i else x, condition)
        mean, raw = self.posterior(x).chunk(2, dim=1)
        return mean, F.softplus(raw) + 1e-4

    def decode(self, latent: Tensor, condition: Tensor) -> Tensor:
        """``(n, 1, h, w)``, the mean image; may leave [0, 1] slightly."""
        x = self.expand(_placed(latent))
        for i, block in enumerate(self.decoding):
            x = block(self.up[i - 1](F.interpolate(x, scale_factor=2.0)) if i else x, condition)
        return F.pixel_shuffle(self.leave(x), UNSHUFFLE) + 0.5

    def model(self, images: Tensor, condition: Tensor) -> None:
        """The Pyro program: sites ``latent`` and ``image``."""
        n, _, h, w = images.shape
        with pyro.plate("images", n):
            shape = (n, self.settings["latent"], h // REDUCTION, w // REDUCTION)
            latent = pyro.sample("latent", dist.Normal(images.new_zeros(shape), 1.0).to_event(3))
            pyro.sample("image", dist.Normal(self.decode(latent, condition), self.scale).to_event(3), obs=images)

    def guide(self, images: Tensor, condition: Tensor) -> None:
        """The posterior of ``latent``, amortised."""
        with pyro.plate("images", len(images)):
            pyro.sample("latent", dist.Normal(*self.encode(images, condition)).to_event(3))

    def loss(self, images: Tensor, condition: Tensor) -> Tensor:
        """``()``, the negative evidence bound a pixel, in nats; the divergence in closed form, one latent draw."""
        bound = pyro.infer.TraceMeanField_ELBO().differentiable_loss(self.model, self.guide, images, condition)
        return bound / images.numel()


def _placed(x: Tensor) -> Tensor:
    """Two more channels that say where a pixel is: marks have places, which convolutions alone cannot know."""
    n, _, h, w = x.shape
    rows = torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype)[:, None].expand(n, 1, h, w)
    columns = torch.linspace(-1, 1, w, device=x.device, dtype=x.dtype).expand(n, 1, h, w)
    return torch.cat([x, rows, columns], dim=1)
