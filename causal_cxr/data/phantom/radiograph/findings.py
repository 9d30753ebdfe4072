"""Diseases of the lungs: each takes the place of air, so that its shadow is what the air was not."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .anatomy import LUNG, SOFT, Chest, cage, cage_width
from .scene import Scene, Where
from .solids import ramp, sphere, tube


def _side(scene: Scene, chosen_by: str, placed_by: str) -> Tensor:
    """``(n, 1, 1)`` -1 for the right lung (on the image's left), 1 for the left one."""
    chosen = scene.value(chosen_by)
    chance = torch.where(scene.u(placed_by) < 0.5, -1.0, 1.0)
    return torch.where(chosen == 0, chance, torch.where(chosen == 1, -1.0, 1.0))


def _scale(field: Tensor, rows: Tensor, where: Where, factor: Tensor) -> None:
    """Multiply some images of ``field``, in one place."""
    part = field[where]
    part[rows] = part[rows].mul_(factor)


def effusion(part: Scene, rows: Tensor, where: Where, chest: Chest) -> None:
    """Pleural fluid: in PA a level that climbs along the chest wall, in AP (supine) a veil that thins upwards.

    The level stands about 3 cm above the costophrenic angle at 200 ml, where films begin to show it (Blackmore et al.,
    Academic Radiology 1996), and at the apex at 2,500 ml.
    """
    x, y = part.patient(10.0)
    side = _side(part, "effusion_side", "effusion_ml_side")
    height = 3.2 * (part.value("effusion_ml") / 200) ** 0.8
    angle = 10.4 - 2.2 * part.ap + 0.7 * torch.where(side < 0, part.z("dome_right"), part.z("dome_left"))
    wall = (cage_width(part) - (x * side)).clamp_min(0)
    level = angle - height - (1.2 + 1.6 * part.u("effusion_ml_rise")) * torch.exp(-wall / 2.2)
    share = (y - level).mul_(1 / (1.3 + 1.5 * part.ap)).clamp_(0, 1)
    share.mul_(ramp(x * side - 0.5, part.pixel))
    _scale(chest.air, rows, where, share.neg_().add_(1))


_LOBES = torch.tensor(  # centre and half axes in cm, of the right lung; the left one mirrors it
    [[-7.0, -8.0, 4.2, 4.2], [-6.6, 1.6, 4.4, 3.0], [-8.2, 5.0, 4.6, 4.0], [7.0, -7.0, 4.2, 4.8], [8.2, 4.4, 4.4, 4.4]]
)


def consolidation(part: Scene, rows: Tensor, where: Where, chest: Chest) -> None:
    """Airspace filled with fluid in one lobe, with a soft edge."""
    x, y = part.patient(10.0)
    chosen = part.value("consolidation_lobe")
    chance = (part.u("consolidation_lobe") * 5).floor().clamp_max(4)
    lobe = _LOBES[torch.where(chosen == 0, chance, chosen - 1).long().flatten()][:, :, None, None].unbind(1)
    extent = part.value("consolidation")
    grow = 0.45 + 0.65 * extent.sqrt()
    shape = 0.85 + 0.3 * part.u("consolidation_shape")
    across = (x - lobe[0] - 1.6 * (part.u("consolidation_x") - 0.5)) / (lobe[2] * grow * shape)
    down = (y - lobe[1] - 1.6 * (part.u("consolidation_y") - 0.5)) / (lobe[3] * grow / shape)
    share = (1.25 - across.square() - down.square()).clamp_(0, 1)
    _scale(chest.air, rows, where, share.mul_(0.35 + 0.5 * extent).neg_().add_(1))


def pneumothorax(part: Scene, rows: Tensor, where: Where, chest: Chest) -> None:
    """Air around a lung that has shrunk towards its hilum: a visceral line, and beyond it neither lung nor vessels."""
    x, y = part.patient(10.0)
    side = _side(part, "pneumothorax_side", "pneumothorax_side")
    wide, _ = cage(part, y)
    left = (1 - part.value("pneumothorax")) ** 0.6  # what is left of each radius; more is lost than the line shows
    across = (x * side - 3.5) / ((wide - 3.5).clamp_min(0.5) * left)
    down = ((y - 2.0) / (15.5 * (0.25 + 0.75 * left))).clamp_max(0)
    root = (across.clamp_min(0).square() + down.square()).sqrt_()
    own = ramp(x * side - 0.5, part.pixel)
    outside = ramp((root - 1) * 5.0, part.pixel).mul_(own)
    _scale(chest.vessels, rows, where, 1 - outside)
    air = chest.air[where][rows]
    line = tube((root - 1) * 6.0, 0.13, part.pixel).mul_(own).mul_(1.2 * (air / 4).clamp(0, 1))
    chest.soft[where].index_add_(0, rows, line.sub_(LUNG * outside * air))
    # the lung inside has lost air
    _scale(chest.air, rows, where, 1 - 0.45 * part.value("pneumothorax") * (1 - outside) * own)


def oedema(part: Scene, rows: Tensor, where: Where, chest: Chest) -> None:
    """Fluid in the lungs: wings around the hila, and short septal lines at the bases' walls."""
    x, y = part.patient(10.0)
    severity = part.value("oedema")
    reach = 3.0 + 1.6 * part.u("oedema_spread")
    wings = torch.exp(-(((x.abs() - 5.4) / reach) ** 2)) * torch.exp(-(((y + 0.5) / (1.45 * reach)) ** 2))
    phase = (y + 1.2 * part.u("oedema_lines")) / 1.3
    septa = tube((phase - phase.round()) * 1.3, 0.16, part.pixel) * ramp(y + 1.0, 2.0)
    at_wall = ramp(part.x.new_tensor(2.0) - (x.abs() - cage_width(part) + 1.4).abs(), 1.0)
    share = (wings * 0.62).add_(septa * at_wall * 0.7).add_(0.08).mul_(severity)
    _scale(chest.air, rows, where, share.neg_().add_(1))


def nodule(part: Scene, rows: Tensor, where: Where, chest: Chest) -> None:
    """A ball of soft tissue in a lung, away from heart and wall."""
    x, y = part.patient(10.0)
    side = torch.where(part.u("nodule_mm_side") < 0.5, -1.0, 1.0)
    x = x - side * (7.2 + 3.0 * part.u("nodule_mm_x"))
    y = y - (-8.0 + 8.5 * part.u("nodule_mm_y")) - 0.8 * side.clamp_min(0)
    chord = sphere(x, y, part.value("nodule_mm") / 20, part.pixel)
    chest.soft[where].index_add_(0, rows, chord.mul_(1.25 * SOFT))  # denser than the lung it displaces by this much


#: Drawable -> what changes the chest of those who have it: their part of the scene, their rows, where it can be, the chest.
FINDINGS: Mapping[str, Callable[[Scene, Tensor, Where, Chest], None]] = {
    "effusion_ml": effusion, "consolidation": consolidation, "pneumothorax": pneumothorax, "oedema": oedema,
    "nodule_mm": nodule,
}  # fmt: skip
