"""Marks: attributes made up for training, so that reading exemplars is learnt rather than the attributes at hand.

A mark is a soft ellipse, bar or ring, drawn over an image near a place of its own. Whoever has seen enough of them pasted
into images and exemplars alike can follow exemplars of an attribute that was in no episode.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Marks:
    """``n`` kinds of mark; lengths in units of half the image's side.

    Attributes:
        place: ``(n, 2)`` centre, in [-1, 1].
        size: ``(n, 2)`` half axes.
        angle: ``(n,)`` radians.
        shape: ``(n, 3)`` one-hot: ellipse, bar, ring.
        value: ``(n,)`` brightness, in latent units.
        opacity: ``(n,)`` in [0, 1].
        jitter: ``(n,)`` standard deviation of an image's mark about the place.
    """

    place: Tensor
    size: Tensor
    angle: Tensor
    shape: Tensor
    value: Tensor
    opacity: Tensor
    jitter: Tensor


def draw_marks(n: int, generator: torch.Generator) -> Marks:
    """All chance of ``n`` kinds but the jitter of each image."""
    device = generator.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator, device=device)

    kind = torch.randint(3, (n,), generator=generator, device=device)
    return Marks(
        place=uniform(-0.85, 0.85, 2),
        size=uniform(0.05, 0.22, 2),
        angle=uniform(0, torch.pi),
        shape=functional.one_hot(kind, 3).float(),
        value=uniform(-1.5, 1.7),
        opacity=uniform(0.4, 1.0),
        jitter=uniform(0.0, 0.06),
    )


def apply_marks(latents: Tensor, marks: Marks, worn: Tensor, reduction: int, generator: torch.Generator) -> Tensor:
    """Draw marks over images in unshuffled latents.

    Args:
        latents: ``(n, k, channels, h, w)``: ``k`` images for each kind of mark.
        marks: ``n`` kinds.
        worn: ``(n, k)`` bool: which images wear it.
        reduction: pixels a side of a latent position.
        generator: of the jitter.
    """
    n, k, _, h, w = latents.shape
    moved = marks.jitter[:, None, None] * torch.randn(n, k, 2, generator=generator, device=latents.device)
    centre = (marks.place[:, None] + moved)[:, :, None, None]
    rows, columns = (torch.linspace(-1, 1, side * reduction, device=latents.device) for side in (h, w))
    pixels = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1) - centre  # (n, k, H, W, 2)
    cos, sin = marks.angle.cos()[:, None, None, None], marks.angle.sin()[:, None, None, None]
    along, across = (
        (cos * pixels[..., 0] + sin * pixels[..., 1]) / marks.size[:, 0, None, None, None],
        (cos * pixels[..., 1] - sin * pixels[..., 0]) / marks.size[:, 1, None, None, None],
    )
    radius = (along**2 + across**2).sqrt()
    outside = torch.stack([radius - 1, torch.maximum(along.abs(), across.abs()) - 1, (radius - 0.8).abs() - 0.2], -1)
    inside = torch.sigmoid(-12 * (outside * marks.shape[:, None, None, None, :]).sum(-1))
    alpha = inside * (marks.opacity[:, None] * worn)[:, :, None, None]
    alpha = functional.pixel_unshuffle(alpha.flatten(0, 1)[:, None], reduction).unflatten(0, (n, k))
    return torch.lerp(latents, marks.value[:, None, None, None, None].expand_as(latents), alpha)
