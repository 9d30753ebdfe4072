"""``ExemplarEncoder``: sets of images with and without a value, resampled to a few visual tokens."""

from typing import Any

import torch
from torch import Tensor, nn


class ExemplarEncoder(nn.Module):
    """Convolutional features of each exemplar, seen against those without the value, through a perceiver resampler.

    What the images with a value have in common is mostly anatomy; what sets them apart is the value. So each exemplar's
    features are taken relative to the mean of those without the value, place by place, before the perceiver (transformers'
    ``IdeficsPerceiverResampler``) gathers those of all exemplars and places into a fixed number of tokens.

    Args:
        channels: of the latents.
        width: of features and tokens; a multiple of 16.
        tokens: how many.
        depth: of the perceiver.
    """

    def __init__(self, channels: int, *, width: int = 64, tokens: int = 16, depth: int = 2) -> None:
        super().__init__()
        from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

        self.width = width
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, stride=2),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.perceiver = IdeficsPerceiverResampler(idefics(width), width, depth, width // 16, 16, tokens)

    def forward(self, having: Tensor, lacking: Tensor) -> Tensor:
        """Tokens of ``n`` values.

        Args:
            having: ``(n, k, channels, h, w)`` latents of images with the value.
            lacking: ``(n, m, channels, h, w)`` of images without it.

        Returns:
            ``(n, tokens, width)``.
        """
        n, k = having.shape[:2]
        # The sets are normalised apart (group norm is per image), so a value's tokens do not depend on other values'.
        seen = self.features(having.flatten(0, 1)).unflatten(0, (n, k))
        against = self.features(lacking.flatten(0, 1)).unflatten(0, (n, lacking.shape[1])).mean(1, keepdim=True)
        places = (seen - against).flatten(3).transpose(2, 3)  # (n, k, places, width)
        where = positions(seen.shape[-2], seen.shape[-1], self.width).to(places)
        return self.perceiver((places + where).flatten(1, 2))


def idefics(width: int, **options: Any) -> Any:
    """Settings of transformers' Idefics, by whose parts exemplars are read.

    Args:
        width: of the visual tokens.
        **options: more of ``IdeficsConfig``.
    """
    from transformers import IdeficsConfig

    config: Any = IdeficsConfig
    return config(
        vision_config={"embed_dim": width}, perceiver_config={"qk_layer_norms_perceiver": True}, qk_layer_norms=True,
        attn_implementation="sdpa", **options,
    )  # fmt: skip


def positions(height: int, width: int, channels: int) -> Tensor:
    """``(height * width, channels)`` sines and cosines of the place (Vaswani et al., 2017), half the channels an axis."""
    quarter = channels // 4
    rates = 0.01 ** (torch.arange(quarter) / quarter)
    axes = []
    for place in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"):
        angle = place.flatten()[:, None] * rates
        axes += [angle.sin(), angle.cos()]
    return torch.cat(axes, dim=1)
