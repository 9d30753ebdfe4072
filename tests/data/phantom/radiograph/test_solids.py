"""Closed forms against numbers: the ray is cut into short steps, and those inside the solid are counted."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from causal_cxr.data.phantom.radiograph.solids import bitmap, box, ellipsoid, ramp, shell, slices, sphere, tube

DEPTHS = torch.linspace(-4, 4, 400_001, dtype=torch.float64)
STEP = 8 / 400_000
AT = torch.tensor([-2.7, -1.9, -1.1, -0.3, 0.0, 0.4, 0.9, 1.6, 2.2, 3.5])


def counted(inside: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """``(10, 10)`` length of the steps inside a solid, along rays at every pair of :data:`AT`."""
    at = AT.double()
    return torch.stack([torch.stack([inside(x, y, DEPTHS).sum().double() * STEP for x in at]) for y in at])


def in_ellipsoid(a: float, b: float, c: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda x, y, z: (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 <= 1


X, Y = AT[None, :], AT[:, None]

SOLIDS = {
    "ellipsoid": (lambda: ellipsoid(X, Y, 2.0, 3.0, 1.5), in_ellipsoid(2.0, 3.0, 1.5)),
    "ball": (lambda: sphere(X, Y, torch.tensor(1.7)), in_ellipsoid(1.7, 1.7, 1.7)),
    "shell": (
        lambda: shell(X, Y, 2.0, 3.0, 1.5, 0.2),
        lambda x, y, z: in_ellipsoid(2.0, 3.0, 1.5)(x, y, z) & ~in_ellipsoid(1.8, 2.8, 1.3)(x, y, z),
    ),
    "tube": (lambda: tube(X, 1.2).expand(10, 10), lambda x, y, z: x**2 + z**2 <= 1.2**2),
    "box": (
        lambda: box(X, Y, 1.0, 2.0, 3.0),
        lambda x, y, z: (x.abs() <= 1) & (y.abs() <= 2) & (z.abs() <= 1.5),
    ),
    "stack of elliptical slices": (
        lambda: slices(X[None], (0.1 * Y)[None], (2 - 0.1 * Y)[None], (1 + 0.2 * Y)[None])[0],
        lambda x, y, z: ((x - 0.1 * y) / (2 - 0.1 * y)) ** 2 + (z / (1 + 0.2 * y)) ** 2 <= 1,
    ),
}


@pytest.mark.parametrize("solid", SOLIDS)
def test_a_lone_solid_absorbs_its_attenuation_times_the_length_of_the_ray_inside_it(solid):
    closed_form, inside = SOLIDS[solid]
    attenuation = 0.17
    torch.testing.assert_close(attenuation * closed_form().double(), attenuation * counted(inside), atol=1e-4, rtol=0)


@pytest.mark.parametrize("radius", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("pixel", [0.0, 0.15, 0.6])
def test_a_pixel_wider_than_a_wire_spreads_what_the_wire_absorbs_and_loses_none_of_it(radius, pixel):
    across = torch.linspace(-4, 4, 80_001)
    area = float(tube(across, radius, pixel).double().sum()) * 8 / 80_000
    assert area == pytest.approx(torch.pi * radius**2, rel=1e-3)


@pytest.mark.parametrize("radius", [0.2, 1.0])
def test_a_small_ball_keeps_its_volume(radius):
    at = torch.linspace(-2, 2, 1001)
    volume = float(sphere(at[None, :], at[:, None], torch.tensor(radius), 0.6).sum()) * (4 / 1000) ** 2
    assert volume == pytest.approx(4 / 3 * torch.pi * radius**3, rel=1e-3)


def test_a_ramp_is_the_share_of_a_pixel_inside_an_edge():
    at = torch.tensor([-1.0, -0.25, 0.0, 0.25, 1.0])
    torch.testing.assert_close(ramp(at, 1.0), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(ramp(at, 0.0), torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]))


@pytest.mark.parametrize("pixel", [0.1, 0.37, 1.0])
def test_a_drawing_covers_the_same_area_at_every_sampling(pixel):
    points = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    at = torch.arange(-3, 6, pixel) + 0.123
    cover = bitmap(at[None, None, :], at[None, :, None], points, 1.5, pixel)
    assert float(cover.sum()) * pixel**2 == pytest.approx(4 * 0.5**2, rel=1e-4)
    assert float(cover.max()) <= 1 + 1e-6
