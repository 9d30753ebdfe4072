"""Lengths of rays inside simple solids, in closed form.

Rays run along the depth axis. Every function takes coordinates in cm that broadcast against one another and returns the
length in cm that a ray through ``(x, y)`` spends inside the solid; times a linear attenuation in 1/cm this is a line
integral of Beer-Lambert's law. ``blur`` is the side of the pixel: solids thinner than it are widened and thinned out so
that what they absorb in all stays the same.
"""

import torch
from torch import Tensor

Number = Tensor | float


def half_chord(q: Tensor) -> Tensor:
    """``sqrt(max(q, 0))``, in place: with ``q = 1 - (distance / radius)^2``, the half chord over the half depth."""
    return q.clamp_min_(0).sqrt_()


def slices(x: Tensor, centre: Tensor, half_width: Tensor, half_depth: Tensor) -> Tensor:
    """Chord of a body whose slice at each height is an ellipse.

    Args:
        x: across.
        centre: ``(n, h, 1)`` of the slice at each height.
        half_width: ``(n, h, 1)``, above 0.
        half_depth: ``(n, h, 1)``; 0 where there is no slice.
    """
    inverse = half_width.reciprocal()
    q = torch.addcmul(-centre * inverse, x, inverse)
    return half_chord(q.square_().neg_().add_(1)).mul_(2 * half_depth)


def ellipsoid(x: Tensor, y: Tensor, a: Number, b: Number, c: Number) -> Tensor:
    """Chord of the ellipsoid at the origin with half axes ``a`` (across), ``b`` (down) and ``c`` (depth)."""
    return half_chord(1 - (x / a) ** 2 - (y / b) ** 2).mul_(2 * c)


def sphere(x: Tensor, y: Tensor, radius: Tensor, blur: float = 0.0) -> Tensor:
    """Chord of a ball at the origin; its volume is kept where it is smaller than ``blur``."""
    wide = radius**2 + 0.4 * blur**2
    return half_chord(wide - x**2 - y**2).mul_(2 * (radius**2 / wide) ** 1.5)


def shell(x: Tensor, y: Tensor, a: Number, b: Number, c: Number, wall: float) -> Tensor:
    """Path inside the wall of a hollow ellipsoid; half axes are those of the outside, ``wall`` its thickness."""
    return ellipsoid(x, y, a, b, c) - ellipsoid(x, y, a - wall, b - wall, c - wall)


def tube(distance: Tensor, radius: Number, blur: float = 0.0) -> Tensor:
    """Chord of a long round rod at ``distance`` from its axis, which lies across the rays."""
    wide = radius**2 + 0.5 * blur**2
    return half_chord(wide - distance**2).mul_(2 * radius**2 / wide)


def box(x: Tensor, y: Tensor, half_w: Number, half_h: Number, depth: Number, blur: float = 0.0) -> Tensor:
    """Path through an upright box at the origin."""
    return ramp(half_w - x.abs(), blur) * ramp(half_h - y.abs(), blur) * depth


def ramp(inside: Tensor, blur: float) -> Tensor:
    """Share of a pixel of side ``blur`` that lies inside an edge ``inside`` cm away; a step where ``blur`` is 0."""
    return (inside / blur + 0.5).clamp_(0, 1) if blur else (inside >= 0).to(inside.dtype)


def bitmap(x: Tensor, y: Tensor, pixels: Tensor, width: float, blur: float) -> Tensor:
    """Share of each picture element covered by a drawing, exact by area.

    Args:
        x: ``(n, 1, w)`` from the drawing's left edge.
        y: ``(n, h, 1)`` from its top edge.
        pixels: ``(rows, columns)`` of the drawing, 0 or 1.
        width: of the drawing in cm.
        blur: side of a picture element in cm.
    """
    rows, columns = pixels.shape
    cell = width / columns

    def cover(at: Tensor, count: int) -> Tensor:
        edge = torch.arange(count, dtype=at.dtype) * cell
        low = torch.maximum(at - blur / 2, edge)
        return (torch.minimum(at + blur / 2, edge + cell) - low).clamp_min_(0) / blur

    down, across = cover(y, rows), cover(x.transpose(1, 2), columns)
    return down @ pixels @ across.transpose(1, 2)
