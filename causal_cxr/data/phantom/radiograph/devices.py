"""What is in, on or beside the patient and stops rays: implants, tubes, wires, jewellery, arms, lead letters.

A wire that runs mostly down the picture is a function of height, ``x = f(y)``, so that its distance from a pixel costs
one subtraction; one that runs across is a function of ``x``.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .anatomy import SOFT
from .glyphs import LETTER_L
from .scene import Scene
from .solids import Number, bitmap, box, ellipsoid, half_chord, ramp, shell, tube

METAL = 4.0  #: steel or titanium of a device, 1/cm
CATHETER = 2.2  #: barium-filled plastic, 1/cm


def _wire(
    at: Tensor, along: Tensor, line: Tensor, lean: Number, radius: Number, low: Number, high: Number, px: float
) -> Tensor:
    """Chord of a wire ``at = line(along)`` that leans by ``lean`` cm per cm, between two ends."""
    upright = (1 + torch.as_tensor(lean) ** 2).rsqrt()
    return tube((at - line) * upright, radius, px).mul_(ramp(along - low, px) * ramp(high - along, px))


def pacemaker(scene: Scene) -> Tensor:
    """Generator below the left clavicle; the lead runs to the midline and down to the right ventricle."""
    x, y = scene.patient(1.0)
    at_x, at_y = 8.6 + 2.0 * scene.u("pacemaker_x"), -7.6 + 2.0 * scene.u("pacemaker_y")
    dx, dy = x - at_x, y - at_y
    dx, dy = dx + 0.5 * (scene.u("pacemaker_tilt") - 0.5) * dy, dy
    can = half_chord(1 - (dx / 2.1).square().square() - (dy / 1.9).square().square()).mul_(0.75 * 2.0)
    can.add_(box(dx + 0.6, dy + 1.1, 0.9, 0.45, 0.5, scene.pixel).mul_(1.2))
    turn = -9.4 + 0.5 * scene.u("pacemaker_lead")
    rise = turn + 0.05 * (x - 1.0).clamp_min(0) ** 2 * (at_y + 0.8 - turn) / (0.05 * (at_x - 2.0) ** 2)
    lead = _wire(y, x, rise, 0.3, 0.16, 0.6, at_x - 1.2, scene.pixel)
    tip = 5.0 + 1.2 * scene.u("pacemaker_lead")
    bend = (
        0.6
        - 1.9 * torch.sin(((y - turn) / (tip - turn)).clamp(0, 1) * torch.pi * 0.8)
        + 4.6 * ((y + 1.0) / (tip + 1.0)).clamp(0, 1) ** 2
    )
    lead.add_(_wire(x, y, bend, 0.35, 0.16, turn, tip, scene.pixel))
    return can.add_(lead.mul_(METAL))


def icd(scene: Scene) -> Tensor:
    """Subcutaneous defibrillator: a can in the left flank and a coil beside the breastbone."""
    x, y = scene.patient(1.0)
    at_x, at_y = 12.2 + 1.4 * scene.u("icd_x"), 4.0 + 2.0 * scene.u("icd_y")
    dx, dy = (x - at_x) / 2.5, (y - at_y) / 3.0
    can = half_chord(1 - dx.square().square() - dy.square().square()).mul_(1.7)
    beside = 2.0 + 0.8 * scene.u("icd_coil") + 0 * y
    coil = _wire(x, y, beside, 0.0, 0.3, -6.5, 2.5, scene.pixel).mul_(2.2)
    level = at_y - (at_y - 3.2) * ((at_x - x) / (at_x - 2.4)).clamp(0, 1).sqrt()
    lead = _wire(y, x, level, 0.15, 0.17, beside[:, :1], at_x - 1.6, scene.pixel)
    lead.add_(_wire(x, y, beside, 0.0, 0.17, 2.5, 3.2, scene.pixel)).mul_(METAL)
    return can.add_(coil).add_(lead)


def chest_drain(scene: Scene) -> Tensor:
    """A wide tube from a flank towards the apex, with its opaque stripe."""
    x, y = scene.patient(9.0)
    x = x * torch.where(scene.u("chest_drain_side") < 0.5, -1.0, 1.0)
    low, high = 3.0 + 3.0 * scene.u("chest_drain_entry"), -8.5 - 2.5 * scene.u("chest_drain_reach")
    along = ((low - y) / (low - high)).clamp(0, 1)
    line = 14.8 - (6.8 + 1.6 * scene.u("chest_drain_bow")) * along**0.7 - 1.5 * along**2
    lean = 0.55
    wall = tube((x - line) * (1 + lean**2) ** -0.5, 0.5, scene.pixel)
    wall.sub_(tube((x - line) * (1 + lean**2) ** -0.5, 0.34, scene.pixel), alpha=0.9).mul_(1.3)
    stripe = tube((x - line - 0.25) * (1 + lean**2) ** -0.5, 0.13, scene.pixel).mul_(9.0)
    return wall.add_(stripe).mul_(ramp(y - high, scene.pixel) * ramp(low - y, scene.pixel))


def central_line(scene: Scene) -> Tensor:
    """A catheter from the right jugular vein to the superior vena cava."""
    x, y = scene.patient(9.0)
    tip = -1.5 + 3.0 * scene.u("central_line_tip")
    line = -2.2 - (2.4 + 1.2 * scene.u("central_line_x")) * ((-6.0 - y) / 13).clamp(0, 1) ** 1.2
    return _wire(x, y, line, 0.15, 0.2, -40.0, tip, scene.pixel).mul_(CATHETER * 1.6)


def endotracheal_tube(scene: Scene) -> Tensor:
    """A tube in the trachea: two walls and an opaque stripe."""
    x, y = scene.patient(12.0)
    line = 0.25 * scene.z("trachea_shift") + 0.5 * (scene.u("endotracheal_tube_x") - 0.5) + 0 * y
    tip = -9.2 + 2.2 * scene.u("endotracheal_tube_tip")
    wall = _wire(x, y, line, 0.0, 0.5, -40.0, tip, scene.pixel)
    wall.sub_(_wire(x, y, line, 0.0, 0.36, -40.0, tip, scene.pixel))
    return wall.add_(_wire(x, y, line + 0.38, 0.0, 0.15, -40.0, tip, scene.pixel).mul_(2.0)).mul_(1.6)


def nasogastric_tube(scene: Scene) -> Tensor:
    """A tube through the gullet into the stomach."""
    x, y = scene.patient(12.0)
    tip = 12.5 + 3.0 * scene.u("nasogastric_tube_tip")
    down = ((y - 5.0) / (tip - 5.0)).clamp(0, 1)
    line = -0.7 + 0.9 * scene.u("nasogastric_tube_x") + 0.6 * torch.sin(y / 6.0) + 4.2 * down**2
    return _wire(x, y, line, 0.25, 0.22, -40.0, tip, scene.pixel).mul_(CATHETER * 2.0)


def ecg_leads(scene: Scene) -> Tensor:
    """Four electrodes on the skin, and a wire from each to the lower edge."""
    x, y = scene.patient(0.0)
    off_x, off_y = 1.6 * (scene.u("ecg_leads_x") - 0.5), 1.6 * (scene.u("ecg_leads_y") - 0.5)
    bow = 2.0 * (scene.u("ecg_leads_wire") - 0.5)
    halves = []
    middle = x.shape[2] // 2
    for across, pair in (
        (x[:, :, :middle], ((-10.4, -7.2, -6.0), (-11.6, 9.4, -8.0))),
        (x[:, :, middle:], ((12.6, -4.6, 7.0), (11.4, 10.2, 8.5))),
    ):
        parts = []
        for at_x, at_y, end in pair:
            cx, cy = at_x + off_x, at_y + off_y
            down = ((y - cy) / (19.0 - cy)).clamp(0, 1)
            line = cx + (end - cx) * down**1.5 + bow * torch.sin(down * torch.pi)
            parts.append(_wire(across, y, line, 0.25, 0.16, cy, 40.0, scene.pixel).mul_(3.4))
            disc = (across - cx).square() + (y - cy).square()
            parts.append(disc)
        nearest = torch.minimum(parts[1], parts[3])
        wires = parts[0].add_(parts[2])
        wires.add_(half_chord(0.45**2 - nearest), alpha=2.0).add_(half_chord(nearest.neg_().add_(1.15**2)), alpha=0.75)
        halves.append(wires)
    return torch.cat(halves, 2)


def sternal_wires(scene: Scene) -> Tensor:
    """Seven loops of steel along the breastbone."""
    x, y = scene.patient(2.0)
    start, gap = -7.2 + 1.0 * scene.u("sternal_wires_y"), 1.95
    turn = (y - start) / gap
    down = (turn - turn.round().clamp(0, 6)) * gap
    ring = ((x - 0.8 * (scene.u("sternal_wires_x") - 0.5)).square() * 0.55 + down.square() * 1.8).sqrt_()
    return tube(ring - 0.62, 0.16, scene.pixel).mul_(1.7 * METAL)


def breast_implant(scene: Scene) -> Tensor:
    """A pair of silicone gel implants in their capsules."""
    x, y = scene.patient(0.5)
    large = 3.7 + 0.6 * scene.u("breast_implant_size")
    x = x.abs() - 8.0 - 0.4 * scene.ap
    y = y - 5.4 - 1.2 * scene.u("breast_implant_y") + 1.0 * scene.ap
    gel = ellipsoid(x, y, large, large * 0.95, 1.9).mul_(1.35 * SOFT)
    return gel.add_(shell(x, y, large, large * 0.95, 1.9, 0.12).mul_(0.8))


def jewellery(scene: Scene) -> Tensor:
    """A necklace of beads with a pendant, and a pair of earrings."""
    x, y = scene.patient(0.0)
    lowest = -10.2 + 2.4 * scene.u("jewellery_drop")
    hang = lowest - 0.17 * x.abs() ** 1.9
    beads = (1 + 0.35 * torch.cos(x * 7.0)) * ramp(6.2 - x.abs(), scene.pixel)
    chain = tube((y - hang) * (1 + (0.32 * x).square()).rsqrt(), 0.2, scene.pixel).mul_(beads * 5.0)
    away = x.square() + (y - lowest - 0.8).square()
    chain.add_(half_chord((0.6 + 0.25 * scene.u("jewellery_pendant")) ** 2 - away).mul_(1.8))
    ears = (x.abs() - 7.4).square() + (y + 17.6).square()
    return chain.add_(half_chord(0.5**2 + 0.2 * scene.pixel**2 - ears).mul_(3.0))


def arms(scene: Scene) -> Tensor:
    """Both arms beside the body: flesh around a bone."""
    x, y = scene.patient(12.0)
    axis = 17.6 + 0.9 * scene.u("arms_x") + (0.02 + 0.07 * scene.u("arms_angle")) * y
    off = x.abs() - axis
    start = ramp(y + 3.0, 4.0)
    flesh = tube(off, 2.9, scene.pixel).mul_(SOFT)
    bone = tube(off, 0.95, scene.pixel).sub_(tube(off, 0.55, scene.pixel), alpha=0.7).mul_(0.42)
    return flesh.add_(bone).mul_(start)


def lead_letter(scene: Scene) -> Tensor:
    """A letter L of lead on the detector, at the patient's left."""
    lead = (scene.value("laterality_marker") == 1).float() * 6.0
    x = scene.x - (12.2 + 2.4 * scene.u("laterality_marker_x"))
    y = scene.y - (-16.6 + 2.4 * scene.u("laterality_marker_y"))
    return bitmap(x, y.expand(len(lead), -1, -1), LETTER_L, 2.4, scene.pixel).mul_(lead)


#: What adds to the line integral, by drawable.
DEVICES: dict[str, Callable[[Scene], Tensor]] = {
    "pacemaker": pacemaker,
    "icd": icd,
    "chest_drain": chest_drain,
    "central_line": central_line,
    "endotracheal_tube": endotracheal_tube,
    "nasogastric_tube": nasogastric_tube,
    "ecg_leads": ecg_leads,
    "sternal_wires": sternal_wires,
    "breast_implant": breast_implant,
    "jewellery": jewellery,
    "arms": arms,
    "laterality_marker": lead_letter,
}
