"""Made-up signs: marks drawn over images, each time others, so that reading exemplars is what is learnt.

A fit that met only the signs of a renderer would learn those. Here a kind of mark is drawn at random (a solid, hollow or
speckled shape, long or round, straight or bent, once or in a row, at a place of its own), and a question is which images
wear it, or which of two variants they wear. Shapes are generic on purpose: none is modelled on a sign that is held
out.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional

SPECKLES = 6  #: a side of the random pattern in speckled marks


@dataclass(frozen=True)
class Marks:
    """``n`` kinds of mark; lengths in units of half the image's side.

    Attributes:
        place: ``(n, 2)`` centre (down, right), in [-1, 1].
        size: ``(n, 2)`` half axes, along and across.
        angle: ``(n,)`` radians.
        bend: ``(n,)`` how far the ends are bent across, per squared length along.
        power: ``(n,)`` exponent of the superellipse: 2 is an ellipse, 8 nearly a rectangle.
        hollow: ``(n,)`` 0 or 1: only the rim.
        repeats: ``(n,)`` how many in a row along the mark.
        pattern: ``(n, SPECKLES, SPECKLES)`` in [0, 1]: ones, or a random pattern.
        value: ``(n,)`` brightness of the ink, in [0, 1].
        opacity: ``(n,)`` in [0, 1]; 0 = nothing to see.
        soft: ``(n,)`` width of the edge.
        jitter: ``(n,)`` standard deviation of an image's mark about angle and size.
        scatter: ``(n,)`` standard deviation of an image's mark about the place.
        mirror: ``(n,)`` probability that an image wears it on the other side, mirrored.
    """

    place: Tensor
    size: Tensor
    angle: Tensor
    bend: Tensor
    power: Tensor
    hollow: Tensor
    repeats: Tensor
    pattern: Tensor
    value: Tensor
    opacity: Tensor
    soft: Tensor
    jitter: Tensor
    scatter: Tensor
    mirror: Tensor

    def of(self, kind: int) -> "Marks":
        """One kind alone."""
        return Marks(**{f.name: getattr(self, f.name)[kind : kind + 1] for f in fields(self)})

    def with_fields(self, other: "Marks", names: tuple[str, ...]) -> "Marks":
        """With the fields ``names`` of ``other``."""
        return replace(self, **{name: getattr(other, name) for name in names})


def draw_marks(n: int, generator: torch.Generator) -> Marks:
    """All chance of ``n`` kinds, but the jitter of each image."""
    device = generator.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator, device=device)

    length = torch.exp(uniform(-2.5, -0.4))  # 0.08 to 0.67
    breadth = torch.maximum(length * torch.exp(uniform(-2.3, 0.0)), torch.full_like(length, 0.04))
    speckled = uniform(0, 1, SPECKLES, SPECKLES).round().maximum((uniform(0, 1) > 0.3)[:, None, None].float())
    repeats = torch.where(uniform(0, 1) < 0.75, 1.0, uniform(2, 7).floor())
    return Marks(
        place=uniform(-0.92, 0.92, 2),
        size=torch.stack([length, breadth], 1),
        angle=uniform(0, torch.pi),
        bend=uniform(-1.5, 1.5) * (uniform(0, 1) < 0.5) * (breadth < 0.5 * length),
        power=torch.exp(uniform(0.4, 2.2)),
        hollow=(uniform(0, 1) < 0.3).float(),
        repeats=repeats,
        pattern=speckled,
        value=torch.where(uniform(0, 1) < 0.7, uniform(0.75, 1.0), uniform(0.0, 0.3)),
        opacity=uniform(0.5, 1.0),
        soft=torch.exp(uniform(-4.0, -1.6)),  # 0.02 to 0.2: from a stamp to a cloud
        jitter=uniform(0.0, 0.08),
        scatter=torch.where(uniform(0, 1) < 0.8, uniform(0.0, 0.08), uniform(0.08, 0.4)),
        mirror=torch.where(uniform(0, 1) < 0.7, 0.0, 0.5),
    )


def apply_marks(images: Tensor, marks: Marks, worn: Tensor, generator: torch.Generator) -> Tensor:
    """Draw marks over images.

    Args:
        images: ``(n, k, h, w)`` in [0, 1]: ``k`` images for each of ``n`` kinds.
        marks: ``n`` kinds.
        worn: ``(n, k)`` in [0, 1]: which images wear it.
        generator: of the jitter.
    """
    n, k, h, w = images.shape
    chance = torch.randn(n, k, 4, generator=generator, device=images.device)
    side = torch.rand(n, k, generator=generator, device=images.device)
    side = 1.0 - 2.0 * (side < marks.mirror[:, None])
    centre = marks.place[:, None] + marks.scatter[:, None, None] * chance[..., :2]
    angle = marks.angle[:, None] + 2 * marks.jitter[:, None] * chance[..., 2]
    size = marks.size[:, None] * (1 + 2 * marks.jitter[:, None, None] * chance[..., 3:]).clamp(0.6, 1.5)
    rows, columns = (torch.linspace(-1 + 1 / s, 1 - 1 / s, s, device=images.device) for s in (h, w))
    down = rows[:, None] - centre[..., 0, None, None]
    right = columns * side[..., None, None] - centre[..., 1, None, None]
    cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
    along = cos * right + sin * down
    across = cos * down - sin * right - marks.bend[:, None, None, None] * along.square()
    along, across = along / size[..., 0, None, None], across / size[..., 1, None, None]
    repeats = marks.repeats[:, None, None, None]
    inside_row = along.abs() < 1
    cell = torch.where(repeats > 1, (along * repeats + repeats).remainder(2.0) - 1, along)
    # The parts of a row are as long as they are broad, if there is room.
    stretch = torch.where(
        repeats > 1, (size[..., 0] / size[..., 1] / marks.repeats[:, None]).clamp(1.0)[..., None, None], 1.0
    )
    power = marks.power[:, None, None, None]
    radius = ((cell * stretch).abs().clamp(1e-4) ** power + across.abs().clamp(1e-4) ** power) ** (1 / power)
    hollow = marks.hollow[:, None, None, None]
    outside = torch.lerp(radius - 1, (radius - 0.8).abs() - 0.25, hollow)
    thin = size.amin(-1)[..., None, None]
    ink = torch.sigmoid(-4 * outside * thin / marks.soft.clamp(min=1.0 / w)[:, None, None, None])
    ink = ink * torch.where(repeats > 1, inside_row.float(), 1.0)
    where = torch.stack([cell, across], -1).flatten(1, 2)
    speckle = functional.grid_sample(
        marks.pattern[:, None], where, mode="bilinear", padding_mode="border", align_corners=False
    )
    ink = ink * speckle.reshape(n, k, h, w) * (marks.opacity[:, None] * worn)[..., None, None]
    return torch.lerp(images, marks.value[:, None, None, None].expand_as(images), ink)
