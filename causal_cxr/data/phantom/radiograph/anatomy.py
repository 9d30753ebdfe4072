"""The patient: soft tissue, lungs, heart, bones, in the order in which rays meet none of them twice.

Line integrals are in units of attenuation: path in cm times linear attenuation in 1/cm, at about 110 kV.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .scene import Scene, magnification
from .solids import ellipsoid, half_chord, ramp, slices, tube
from .texture import tissue_bank, vessel_bank

SOFT = 0.17  #: soft tissue, 1/cm
AERATED = 0.145  #: soft tissue less aerated lung, 1/cm
LUNG = SOFT - AERATED  #: aerated lung, 1/cm
HEART_DEPTH, CAGE_DEPTH, SPINE_DEPTH = 7.0, 10.0, 16.0  #: cm behind the front of the chest


@dataclass
class Chest:
    """What rays pass through; findings and devices change it in place.

    Attributes:
        soft: ``(n, h, w)`` line integral of all but the lungs' air.
        air: ``(n, h, w)`` path in aerated lung, cm.
        vessels: ``(n, h, w)`` path in the lungs' vessels, cm.
    """

    soft: Tensor
    air: Tensor
    vessels: Tensor

    def line_integral(self) -> Tensor:
        """``(n, h, w)`` of everything; the tensors inside are used up."""
        # vessels weigh by the lung around them: where fluid or heart has taken its place, they are gone
        return self.soft.sub_(self.vessels.mul_(-SOFT / 7).add_(AERATED).mul_(self.air)).clamp_min_(0)


def cage_width(scene: Scene) -> Tensor:
    """``(n, 1, 1)`` half the widest inner width of the thorax, cm."""
    return 12.7 + 0.55 * scene.z("thorax_width") - 0.9 * scene.value("sex")


def cage(scene: Scene, y: Tensor) -> tuple[Tensor, Tensor]:
    """Half width and half depth ``(n, h, 1)`` of the inner thorax at every height, cm."""
    height = 18.3 + 0.7 * scene.z("thorax_height") - 0.6 * scene.value("sex") - 1.2 * scene.old
    rest = (1 - ((4.0 - y) / height).clamp(0, 1) ** 2.4).clamp_min_(1e-5)
    return cage_width(scene) * rest**0.5 - 0.03 * (y - 6.0).clamp_min(0) ** 1.5, 8.2 * rest.sqrt() * (rest > 2e-5)


def dome(scene: Scene, x: Tensor) -> Tensor:
    """``(n, 1, w)`` height of the diaphragm, cm; in AP the patient is supine and it stands higher."""
    right = 7.0 + 0.7 * scene.z("dome_right")
    left = 7.9 + 0.7 * scene.z("dome_left")
    top = torch.where(x < 0, right, left) - 2.2 * scene.ap + 0.5 * scene.old  # air trapped in old lungs pushes it down
    return top + (0.085 - 0.03 * scene.old) * (x.abs() - 6.3) ** 2


def _torso(scene: Scene) -> Tensor:
    x, y = scene.patient(CAGE_DEPTH)
    fat = scene.value("bmi") - 26
    neck = 5.6 + 0.35 * scene.z("neck_width") + 0.05 * fat
    shoulder = -18.2 + 0.8 * scene.z("shoulder_height") - 1.2 * scene.ap
    flank = cage_width(scene) + 2.9 + (0.17 * fat).clamp_min(-1.2)
    slope = neck + 12.5 * ((y - shoulder) / 5.0).clamp_min(0) ** 1.4
    upper = flank + 7.5 * torch.sigmoid(-(y + 2.0) / 1.6)
    wide = torch.minimum(slope, upper)
    deep = 10.2 + 0.16 * fat + 1.6 * ((y - 5.0) / 6.0).clamp(0, 1)  # the belly
    down = ((y - shoulder + 3.0) / 17.0).clamp(0, 1) ** 0.8
    return slices(x, torch.zeros_like(wide), wide, 5.2 + (deep - 5.2) * down).mul_(SOFT)


def _heart(scene: Scene) -> Tensor:
    """Chord of the heart, cm; its widest width is the cardiothoracic ratio's share of the thorax as projected in PA."""
    x, y = scene.patient(HEART_DEPTH)
    # the ratio is one of shadows: the thorax lies deeper than the heart, and PA magnifies it a little more
    pa = torch.zeros(1)
    shadow = float(magnification(pa, CAGE_DEPTH) / magnification(pa, HEART_DEPTH))
    width = scene.value("cardiothoracic_ratio") * 2 * cage_width(scene) * shadow
    right_share = 0.33 + 0.025 * scene.z("heart_shift")
    y = y - 0.4 * scene.z("heart_height") + 0.8 * scene.ap
    peak = 4.6
    away = torch.where(y > peak, (y - peak) / 7.0, (peak - y) / (10.0 + 0.6 * scene.z("heart_shape")))
    left = torch.where(y > peak, (1 - away.square()).clamp_min(1e-4).sqrt(), (1 - away**1.7).clamp_min(1e-4))
    right = (1 - ((y - 2.3) / 8.0).square()).clamp_min_(1e-4).sqrt()
    left, right = left * width * (1 - right_share), right * width * right_share
    depth = torch.minimum(left * 0.8, 0.53 * width)
    depth = depth * (left > 0.02 * width)
    return slices(x, (left - right) / 2, (left + right) / 2, depth)


def _mediastinum(scene: Scene) -> Tensor:
    """Chord of vessels and fat between the lungs, cm; the aortic knob unfolds with age."""
    x, y = scene.patient(CAGE_DEPTH)
    base = 2.3 + 0.2 * scene.z("mediastinum_width") + 0.03 * (scene.value("bmi") - 26) + 0.25 * scene.ap
    wide = (-(y + 9.5) / 4).clamp(0, 1)  # the great vessels spread towards the neck
    right = base + 0.5 * wide + 0.45 * torch.sin(y / 3.2 + 0.8)
    knob = torch.exp(-(((y + 6.3) / (1.5 + 0.3 * scene.old)) ** 2)) * (1.25 + 1.15 * scene.old).clamp_min(0.2)
    trunk = torch.exp(-(((y + 2.8) / 1.4) ** 2)) * 0.9
    aorta = (0.4 + 0.8 * scene.old).clamp_min(0) * ((y + 6) / 3).clamp(0, 1)
    left = base + 0.3 * wide + knob + trunk + aorta
    return slices(x, (left - right) / 2, (left + right) / 2, 6.4 - 1.6 * ((y + 1) / 4).clamp(0, 1))


def _ribs(scene: Scene, root: Tensor, q: Tensor) -> Tensor:
    """Line integral of the ribs: twelve tilted hoops in one periodic expression, their back halves and their front.

    A hoop around a cage of half width ``a`` that falls by ``drop`` from back to front stands at
    ``y = start + drop (1 -+ root) / 2``, with ``root = sqrt(1 - (x / a)^2)``.
    """
    x, y = scene.patient(CAGE_DEPTH)
    spacing = 2.25 + 0.06 * scene.z("rib_spacing")
    drop = 8.2 + 0.6 * scene.z("rib_drop") - 1.4 * scene.ap
    start = -13.3 + 0.9 * scene.z("rib_phase")
    half = drop / 2 / spacing
    lean = (drop / 2 / cage_width(scene)) ** 2
    upright = q / (q * (1 - lean) + lean)  # squared cosine of the hoop's lean across the rays
    upright.mul_(spacing**2)
    middle = (y - start) / spacing - half
    density = bone_density(scene)
    blur = 0.4 * scene.pixel**2
    outside = 0.48**2 + blur
    out: Tensor | None = None
    for sign, weight in ((1.0, 1.0), (-1.0, 0.55)):
        at = torch.addcmul(middle, root, half, value=sign)
        at.sub_(at.round().clamp_(0, 9)).square_().mul_(upright)  # now the squared distance to the nearest hoop
        marrow = half_chord(0.33**2 + blur - at)
        bone = half_chord(at.neg_().add_(outside)).sub_(marrow, alpha=0.72).mul_(2 * weight)
        if sign < 0:  # in front, ribs end in cartilage, which calcifies with age
            cartilage = (0.12 + 0.45 * (scene.old + 0.2).clamp_min(0)).clamp_max(0.75)
            bone.mul_(cartilage + (1 - cartilage) * ((x.abs() - 5.5) / 2.5).clamp(0, 1))
        out = bone if out is None else out.add_(bone)
    assert out is not None
    # rays that graze the cage run along the hoops, and at its very edge past them
    return out.mul_(torch.rsqrt(q + 0.25).mul_((q * 12).clamp_max_(1))).mul_(0.33 * density * ramp(11.5 - y, 3.0))


def bone_density(scene: Scene) -> Tensor:
    """``(n, 1, 1)`` of bone mineral, 1 at 55 years; softer rays (see acquisition) show more of it."""
    kilovolt = (
        1 - 0.2 * (scene.value("exposure_style") == 1).float() + 0.2 * (scene.value("exposure_style") == 2).float()
    )
    return (1 + 0.07 * scene.z("bone_density") - 0.42 * scene.old).clamp_min(0.3) * kilovolt


def _spine_and_airway(scene: Scene, soft: Tensor) -> None:
    part, where = scene.crop((0, 0.36, 1, 0.64))
    x, y = part.patient(SPINE_DEPTH)
    x = x - 0.3 * scene.z("spine_curve") * torch.sin(y / 6.0)
    discs = 0.82 + 0.18 * torch.cos(y * (2 * torch.pi / 2.5) + 2 * scene.z("rib_phase"))
    column = slices(x, torch.zeros_like(y), 1.55 + 0.15 * discs, discs * 1.5)
    pedicles = torch.exp(-(((x.abs() - 1.15) / 0.3) ** 2)) * (1 - discs) * 1.2
    soft[where] += column.add_(pedicles).mul_(0.13 * bone_density(scene))
    x, y = part.patient(12.0)
    x = x - 0.25 * scene.z("trachea_shift")
    wind = ramp(-6.0 - y, 1.0)
    trachea = tube(x, 0.85, scene.pixel) * wind
    for side, angle in ((-1.0, 1.15), (1.0, 0.75)):  # the right main bronchus is the steeper
        off = (x - side * (y + 6.2) / angle) * (angle / (1 + angle**2) ** 0.5)
        trachea.add_(tube(off, 0.6, scene.pixel).mul_(ramp(y + 6.0, 1.0) * ramp(-2.8 - y, 1.0)))
    soft[where] -= trachea.mul_(SOFT * 1.25)


def _shoulders(scene: Scene, soft: Tensor) -> None:
    """Clavicles and shoulder blades; in AP the blades lie over the lungs and the clavicles higher."""
    part, where = scene.crop((0.0, 0.05, 0.29, 0.95))
    x, y = part.patient(3.0)
    density = bone_density(scene)
    reach = (x.abs() - 1.6).clamp_min(0)
    tilt = 0.15 + 0.04 * scene.z("clavicle_height") + 0.06 * scene.ap
    axis = -11.0 - 0.5 * scene.z("clavicle_height") - 1.1 * scene.ap - tilt * reach + 0.55 * torch.sin(reach * 0.45)
    distance = (y - axis) * (1 + tilt**2).rsqrt()
    thick = 0.58 + 0.12 * ((reach - 8) / 6).clamp(0, 1) + 0.2 * (1 - reach / 2).clamp_min(0)
    bone = tube(distance, thick, scene.pixel).sub_(tube(distance, thick * 0.62, scene.pixel), alpha=0.6)
    inside = (soft[where] * 1.2).clamp_max_(1)  # a raised shoulder takes its clavicle along
    soft[where] += bone.mul_(ramp(x.abs() - 1.6, 0.5) * ramp(14.5 - x.abs(), 0.5)).mul_(inside).mul_(0.42 * density)
    apart = 14.3 + 0.5 * scene.z("scapula_place") - 3.4 * scene.ap
    for region, side in (((0.10, 0.02, 0.56, 0.38), -1.0), ((0.10, 0.62, 0.56, 0.98), 1.0)):
        part, where = scene.crop(region)
        x, y = part.patient(19.0)
        x = x * side
        across = x - apart + 0.24 * (y + 5.0)
        blade = ellipsoid(across, y + 5.8, 2.9, 6.6, 1.0)
        rim = blade - ellipsoid(across - 0.15, y + 5.8, 2.45, 6.1, 1.0)
        inside = (soft[where] * 1.2).clamp_max_(1)
        soft[where] += inside.mul_(blade.mul_(0.05).add_(rim.clamp_min_(0), alpha=0.22).mul_(density))
    for region, side in (((0.13, 0.0, 0.56, 0.16), -1.0), ((0.13, 0.84, 0.56, 1.0), 1.0)):
        part, where = scene.crop(region)
        x, y = part.patient(10.0)
        x = x * side
        head = ellipsoid(x - 17.6, y + 9.6, 2.4, 2.5, 2.2)
        shaft = tube(x - 18.3 - 0.12 * (y + 8), 1.15, scene.pixel).mul_(ramp(y + 9.0, 2.0) * ramp(-1.0 - y, 4.0))
        inside = (soft[where] * 1.2).clamp_max_(1)
        soft[where] += torch.maximum(head, shaft).mul_(0.13 * density * (1 - 0.4 * scene.ap)).mul_(inside)


def _breasts(scene: Scene, soft: Tensor) -> None:
    rows = scene.value("sex").flatten().nonzero().flatten()
    if not len(rows):
        return
    for region, side in (((0.27, 0.0, 1.0, 0.49), -1.0), ((0.27, 0.51, 1.0, 1.0), 1.0)):
        part, where = scene.crop(region)
        women = part.take(rows)
        x, y = women.patient(0.5)
        large = 1 + 0.1 * women.z("breast_size") + 0.012 * (women.value("bmi") - 26)
        # hanging in PA, spread to the side and flat in AP
        x = (x * side - 8.3 - 0.9 * women.ap) / (large * (1 + 0.08 * women.ap))
        y = (y - 6.6 - 0.7 * women.z("breast_height") + 1.0 * women.ap) / large
        y = torch.where(y > 0, y, y * 0.72)
        chord = ellipsoid(x, y, 6.4, 5.6, 2.6).mul_(SOFT * large * (1 - 0.25 * women.ap))
        soft[where].index_add_(0, rows, chord)


def _abdomen(scene: Scene, soft: Tensor) -> None:
    """The stomach's gas bubble below the left dome."""
    part, where = scene.crop((0.52, 0.49, 0.92, 0.85))
    x, y = part.patient(9.0)
    size = (0.9 + 0.4 * scene.z("stomach_bubble")).clamp(0.05, 1.5)
    top = 9.6 + 0.7 * scene.z("dome_left") - 2.2 * scene.ap
    bubble = ellipsoid(x - 5.6 - 0.4 * scene.z("stomach_place"), (y - top - size), 2.6 * size, 1.15 * size, 2.4 * size)
    soft[where] -= bubble.mul_(SOFT)


def _calcified_knob(scene: Scene, soft: Tensor) -> None:
    """A rim of calcium in the wall of an old aorta."""
    part, where = scene.crop((0.22, 0.48, 0.46, 0.68))
    x, y = part.patient(CAGE_DEPTH)
    radius = 1.7 + 0.5 * scene.old
    distance = ((x - 2.0 - 0.7 * scene.old).square() + (y + 6.2).square()).sqrt_().sub_(radius)
    rim = tube(distance, 0.16, scene.pixel).mul_(ramp(x - 2.0, 1.0))
    soft[where] += rim.mul_(1.4 * scene.old.clamp_min(0))


def chest(scene: Scene) -> Chest:
    """The patient as rays see them, without findings and without anything attached."""
    n, size = len(scene.numbers), scene.size
    soft = _torso(scene)
    texture = (scene.weights("texture") @ tissue_bank(size)).reshape(n, size, size)
    soft.addcmul_(soft, texture, value=0.016)

    x, y = scene.patient(CAGE_DEPTH)
    wide, deep = cage(scene, y)
    inverse = wide.clamp_min(0.2).reciprocal()
    q = (x * inverse).square_().neg_().add_(1).clamp_min_(0)
    root = q.sqrt()
    soft.add_(_ribs(scene, root, q))
    air = root.mul_(2 * deep)
    air.sub_(_heart(scene))
    part, where = scene.crop((0, 0.25, 1, 0.8))
    air[where] -= _mediastinum(part)
    air.clamp_min_(0)
    behind = (y - dome(scene, x)).mul_(1 / 3.0).clamp_(0, 1).sqrt_()  # lung lies behind the dome's slope as well
    air.mul_(behind.neg_().add_(1))
    air.mul_(1 + 0.05 * scene.z("lucency") + 0.14 * scene.old)

    trees = 0.15 + 0.85 * torch.sigmoid(1.8 * scene.weights("vessels"))
    ap = scene.ap[:, 0]
    vessels = (torch.cat([trees * (1 - ap), trees * ap], 1) @ vessel_bank(size)).reshape(n, size, size)
    part, where = scene.crop((0.30, 0.25, 0.68, 0.75))
    x, y = part.patient(CAGE_DEPTH)
    y = y + 1.2 - 0.5 * x.sign()  # the left hilum is the higher
    hila = torch.exp(-(((x.abs() - 3.7) / 1.3) ** 2)) * torch.exp(-((y / 2.2) ** 2))
    vessels[where] += hila.mul_(1.1 + 0.35 * scene.z("hilum"))

    _spine_and_airway(scene, soft)
    _shoulders(scene, soft)
    _breasts(scene, soft)
    _abdomen(scene, soft)
    _calcified_knob(scene, soft)
    return Chest(soft, air, vessels)
