"""``ConditionalVAE``: the image mechanism of a deep SCM, in Pyro (Pawlowski et al., NeurIPS 2020).

The latent is a small map, ``(latent, h / 16, w / 16)``: convolutional throughout, so that images of any size go through
the same weights. Or, for images of one size, a vector, from and to which layers are dense: where an attribute changes a shape
as a whole, as a digit its strokes, each place of a map would have to know it by itself. Either way its prior does not know
the attributes, so that putting them into the latent costs divergence and the decoder learns them from the condition instead.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.nn import functional as F

from causal_cxr.editors.scm.image_model import Bound, ImageModel, divergence, in_full, padded, placed
from causal_cxr.editors.scm.likelihood import LIKELIHOODS, pixel_distribution

REDUCTION = 16  #: of the sides, from image to latent map
HIDDEN = 4  #: width of the dense layers, in channels of the coarsest convolution
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


class ConditionalVAE(ImageModel):
    """p(image | attributes, noise), with the posterior of the noise given image and attributes.

    Args:
        n_conditions: numbers that describe the attributes of an image.
        width: channels at a quarter of the resolution, a multiple of 16; 1.5 and 2 times as many below it.
        latent: channels of the latent map, or numbers in the latent vector.
        scale: of a pixel about the decoder's location, in (0, 1). It sets how much the latent may tell: a smaller scale
            gives sharper images and a latent that knows more of what the attributes cause. Fixed for a ``"gaussian"``
            likelihood; where the fit begins for the discretised ones, whose scale is learnt pixel by pixel.
        likelihood: of a pixel: ``"gaussian"``, ``"discretised_gaussian"`` or ``"discretised_logistic"``.
        size: ``(h, w)`` of all images, where the latent is to be a vector; ``None`` for a map.

    Raises:
        ValueError: an unknown likelihood; later, images of another ``size``.
    """

    def __init__(
        self,
        n_conditions: int,
        width: int = 32,
        latent: int = 2,
        scale: float = 0.1,
        likelihood: str = "gaussian",
        size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if likelihood not in ("gaussian", *LIKELIHOODS):
            raise ValueError(f"likelihood is {likelihood!r}; choose from {['gaussian', *LIKELIHOODS]}.")
        self.settings: dict[str, Any] = {"n_conditions": n_conditions, "width": width, "latent": latent, "scale": scale}
        self.settings |= {"likelihood": likelihood}
        if size is not None:  # fingerprints see the settings: those of maps stay as they are
            self.settings["size"] = list(size)
        self.fixed = likelihood == "gaussian"
        self.size = None if size is None else (int(size[0]), int(size[1]))
        sizes = (width, 3 * width // 2, 2 * width)
        pixels = UNSHUFFLE**2
        self.enter = nn.Conv2d(pixels + 2, sizes[0], 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(sizes)])
        self.encoding = nn.ModuleList([_Block(c, n_conditions) for c in sizes])
        if size is None:
            self.posterior: nn.Module = nn.Conv2d(sizes[-1], 2 * latent, 1)
            self.expand: nn.Module = nn.Conv2d(latent + 2, sizes[-1], 3, padding=1)
        else:
            coarse = (sizes[-1], *(-(-side // REDUCTION) for side in size))
            numbers, hidden = math.prod(coarse), HIDDEN * sizes[-1]
            self.posterior = nn.Sequential(
                nn.Flatten(),
                nn.Linear(numbers, hidden),
                nn.SiLU(),
                nn.Linear(hidden, 2 * latent),
                nn.Unflatten(1, (-1, 1, 1)),
            )
            self.expand = nn.Sequential(
                nn.Linear(latent + n_conditions, hidden), nn.SiLU(), nn.Linear(hidden, numbers), nn.Unflatten(1, coarse)
            )
        self.decoding = nn.ModuleList([_Block(c, n_conditions) for c in reversed(sizes)])
        self.up = nn.ModuleList([nn.Conv2d(b, a, 3, padding=1) for a, b in reversed(list(pairwise(sizes)))])
        self.leave = nn.Conv2d(sizes[0], pixels if self.fixed else 2 * pixels, 3, padding=1)

    def noise_shapes(self, shape: tuple[int, int]) -> list[tuple[int, ...]]:
        """See :meth:`ImageModel.noise_shapes`; one map, or one vector as a map of a single position."""
        if self.size is None:
            return [(self.settings["latent"], *(-(-side // REDUCTION) for side in shape))]
        if tuple(shape) != self.size:
            raise ValueError(
                f"Images are of {tuple(shape)} pixels, this model's of {self.size}; leave size out to fit a map."
            )
        return [(self.settings["latent"], 1, 1)]

    def abduct(
        self, images: Tensor, condition: Tensor, *, standard: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """See :meth:`ImageModel.abduct`."""
        mean, std = self._encode(images, condition)
        return (mean if standard is None else mean + std * standard[0],)

    def decode(
        self, noise: Sequence[Tensor], condition: Tensor, shape: tuple[int, int], *, mediator: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`ImageModel.decode`; the latent is exogenous, so that ``mediator`` changes nothing."""
        x = self.expand(placed(noise[0]) if self.size is None else torch.cat([noise[0].flatten(1), condition], 1))
        for i, block in enumerate(self.decoding):
            x = block(self.up[i - 1](F.interpolate(x, scale_factor=2.0)) if i else x, condition)
        x = F.pixel_shuffle(in_full(self.leave, x), UNSHUFFLE)[..., : shape[0], : shape[1]]
        if self.fixed:
            return x + 0.5, torch.full_like(x, math.log(self.settings["scale"]))
        return x[:, :1] + 0.5, x[:, 1:] + math.log(self.settings["scale"])

    def bound(self, images: Tensor, condition: Tensor, beta: float = 1.0) -> Bound:
        """See :meth:`ImageModel.bound`."""
        mean, std = self._encode(images, condition)
        noise = (mean + std * torch.randn_like(std),)
        location, log_scale = self.decode(noise, condition, (images.shape[-2], images.shape[-1]))
        evidence = pixel_distribution(self.settings["likelihood"], location, log_scale).log_prob(images).sum()
        value = (beta * divergence(mean, std).sum() - evidence) / images.numel()
        return Bound(value, noise, location, log_scale)

    def model(self, images: Tensor, condition: Tensor) -> None:
        """The Pyro program: sites ``noise_0`` and ``image``."""
        shape = (images.shape[-2], images.shape[-1])
        with pyro.plate("images", len(images)):
            zeros = images.new_zeros(len(images), *self.noise_shapes(shape)[0])
            noise = pyro.sample("noise_0", dist.Normal(zeros, 1.0).to_event(3))
            location, log_scale = self.decode((noise,), condition, shape)
            pyro.sample("image", pixel_distribution(self.settings["likelihood"], location, log_scale), obs=images)

    def guide(self, images: Tensor, condition: Tensor) -> None:
        """The posterior of ``noise_0``, amortised."""
        with pyro.plate("images", len(images)):
            pyro.sample("noise_0", dist.Normal(*self._encode(images, condition)).to_event(3))

    def _encode(self, images: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the noise's posterior."""
        self.noise_shapes((images.shape[-2], images.shape[-1]))  # refuses images that the dense layers cannot take
        x = self.enter(placed(F.pixel_unshuffle(padded(images - 0.5, REDUCTION), UNSHUFFLE)))
        for i, block in enumerate(self.encoding):
            x = block(self.down[i - 1](x) if i else x, condition)
        mean, raw = self.posterior(x).to(self.leave.weight.dtype).chunk(2, dim=1)
        return mean, F.softplus(raw) + 1e-4
