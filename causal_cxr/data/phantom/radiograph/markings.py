"""What is burnt into the picture after it was taken: it hides what is below, and patients' positions do not move it."""

from collections.abc import Callable

import torch
from torch import Tensor

from .glyphs import ARROW, PORTABLE
from .scene import Scene
from .solids import bitmap, ramp

Stamp = tuple[Tensor, Tensor | float]  #: share of each picture element covered, and the brightness of the ink


def collimation_border(scene: Scene) -> Stamp:
    """Straight edges beyond which no ray passed (black, or bright where the picture was inverted there)."""
    size = scene.pixel * scene.size / 2
    width = 1.3 + 1.1 * scene.u("collimation_border_width")
    sides = scene.u(
        "collimation_border_sides"
    )  # always top and one side; with chance also the bottom or the other side
    right = torch.where(sides < 0.7, 1.0, 0.0)
    left = torch.where(sides > 0.35, 1.0, 0.0)
    across = torch.maximum(
        ramp(scene.x - size + width, scene.pixel) * right, ramp(-scene.x - size + width, scene.pixel) * left
    )
    down = torch.maximum(
        ramp(-scene.y - size + width, scene.pixel), ramp(scene.y - size + width, scene.pixel) * (1 - right * left)
    )
    bright = torch.where(scene.u("collimation_border_style") < 0.3, 0.97, 0.01)
    return torch.maximum(across, down), bright


def circled_stamp(scene: Scene) -> Stamp:
    """A bright disc with a dark L in it."""
    x = scene.x - (13.0 + 2.2 * scene.u("laterality_marker_x"))
    y = scene.y - (-15.4 + 2.2 * scene.u("laterality_marker_y"))
    disc = ramp(1.55 - (x.square() + y.square()).sqrt(), scene.pixel)
    upright = ramp(0.22 - (x + 0.4).abs(), scene.pixel) * ramp(0.9 - y.abs(), scene.pixel)
    foot = ramp(0.55 - (x - 0.05).abs(), scene.pixel) * ramp(0.2 - (y - 0.7).abs(), scene.pixel)
    bright = 0.98 - 0.9 * torch.maximum(upright, foot)
    return disc * (scene.value("laterality_marker") == 2).float(), bright


def portable_marker(scene: Scene) -> Stamp:
    """The words PORTABLE and AP."""
    x = scene.x + 17.3 - 3.6 * scene.u("portable_marker_x")
    y = (scene.y + 17.4 - 1.6 * scene.u("portable_marker_y")).expand(len(x), -1, -1)
    return bitmap(x, y, PORTABLE, 11.5, scene.pixel), 0.95


def arrow_stamp(scene: Scene) -> Stamp:
    """An arrow that points up: the picture was taken upright."""
    x = scene.x - 13.8 - 1.2 * scene.u("arrow_stamp_x")
    y = (scene.y + 8.8 - 3.2 * scene.u("arrow_stamp_y")).expand(len(x), -1, -1)
    return bitmap(x, y, ARROW, 2.8, scene.pixel), 0.97


def control_dot(scene: Scene) -> Stamp:
    """A disc at the lower left."""
    away = ((scene.x + 16.0 - 2.6 * scene.u("control_dot_x")).square() + (scene.y - 16.2).square()).sqrt()
    return ramp(1.1 - away, scene.pixel), 0.9


def control_bar(scene: Scene) -> Stamp:
    """A bar at the lower right."""
    x = scene.x - 12.4 - 2.8 * scene.u("control_bar_x")
    return ramp(2.0 - x.abs(), scene.pixel) * ramp(0.7 - (scene.y - 16.4).abs(), scene.pixel), 0.9


def control_ring(scene: Scene) -> Stamp:
    """A ring at the left."""
    away = ((scene.x + 15.8).square() + (scene.y - 5.0 - 2.6 * scene.u("control_ring_y")).square()).sqrt()
    return ramp(0.5 - (away - 1.15).abs(), scene.pixel), 0.9


#: In the order in which they are burnt in, by drawable.
MARKINGS: dict[str, Callable[[Scene], Stamp]] = {
    "collimation_border": collimation_border,
    "laterality_marker": circled_stamp,
    "portable_marker": portable_marker,
    "arrow_stamp": arrow_stamp,
    "control_dot": control_dot,
    "control_bar": control_bar,
    "control_ring": control_ring,
}
