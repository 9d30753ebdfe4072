"""An analytic chest, rendered in batched torch: Beer-Lambert attenuation through solids with closed-form chords.

The pixel value is the absorbed fraction ``1 - exp(-k mu)``, where ``mu`` is the line integral of attenuation through
thorax, lungs, heart, great vessels, ribs, clavicles, spine, diaphragm and what is attached to the patient, and ``k``
stands for tube voltage and exposure. Coordinates: x to the image's right, y down, both in [-1, 1].

Rendering is a pure function of attributes and exogenous noise, so the same noise with another attribute is the true
counterfactual image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

VERSION = 1  # weights fitted on one version are refused by another

#: The noise that every image reveals; one standard normal each.
ANATOMY = (
    "thorax_width", "lung_height", "lung_width", "heart_size", "heart_shift", "heart_height", "dome_left",
    "dome_right", "rib_phase", "rib_slope", "rib_contrast", "spine_width", "shift_x", "shift_y", "exposure", "lucency",
)  # fmt: skip

#: The noise that an image reveals only where the object is there; uniform on [0, 1] each.
PLACEMENT: Mapping[str, tuple[str, ...]] = {
    "effusion": ("effusion_side", "effusion_height"),
    "pacemaker": ("pacemaker_x", "pacemaker_y", "pacemaker_lead"),
    "chest_drain": ("drain_y", "drain_angle", "drain_length"),
    "ecg_leads": ("leads_x", "leads_y", "leads_wire"),
    "laterality_marker": ("laterality_x", "laterality_y"),
    "portable_marker": ("portable_x", "portable_y"),
    "control_dot": ("dot_x",),
    "control_bar": ("bar_x",),
    "control_ring": ("ring_x",),
}

#: Everything :func:`render` draws, besides the continuous age.
DRAWN = ("age", "sex", "view", "cardiomegaly", *PLACEMENT)


@dataclass(frozen=True)
class Noise:
    """The exogenous noise of ``n`` phantoms: keep it, and any counterfactual can be drawn.

    Attributes:
        anatomy: ``(n, len(ANATOMY))`` standard normal.
        placement: ``(n, number of placement names)`` uniform on [0, 1].
        speckle: ``(n,)`` int64, seed of the detector's noise.
    """

    anatomy: np.ndarray
    placement: np.ndarray
    speckle: np.ndarray

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> "Noise":
        """Draw the noise of ``n`` phantoms."""
        return cls(
            anatomy=rng.standard_normal((n, len(ANATOMY))),
            placement=rng.uniform(size=(n, len(PLACEMENT_COLUMNS))),
            speckle=rng.integers(0, 2**62, size=n),
        )

    def take(self, rows: np.ndarray) -> "Noise":
        """The noise of some rows, in the order asked for."""
        return Noise(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def __len__(self) -> int:
        return len(self.speckle)


PLACEMENT_COLUMNS = tuple(name for names in PLACEMENT.values() for name in names)


def _chord(
    x: Tensor, y: Tensor, cx: Tensor | float, cy: Tensor | float, a: Tensor | float, b: Tensor | float
) -> Tensor:
    """Chord of an ellipsoid of unit depth: ``2 sqrt(1 - ((x-cx)/a)^2 - ((y-cy)/b)^2)`` inside, 0 outside."""
    return 2 * (1 - ((x - cx) / a) ** 2 - ((y - cy) / b) ** 2).clamp_min(0).sqrt()


def _tube(distance: Tensor, radius: Tensor | float) -> Tensor:
    """Chord through a tube of ``radius`` at ``distance`` from its axis, over its diameter."""
    return (1 - (distance / radius) ** 2).clamp_min(0).sqrt()


def _box(x: Tensor, y: Tensor, cx: Tensor, cy: Tensor, half_w: float, half_h: float, soft: float) -> Tensor:
    """Unit-depth box with edges softened over ``soft`` (detector blur)."""
    return torch.sigmoid((half_w - (x - cx).abs()) / soft) * torch.sigmoid((half_h - (y - cy).abs()) / soft)


def _segment(x: Tensor, y: Tensor, x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor) -> Tensor:
    """Distance of each pixel to a line segment."""
    dx, dy = x1 - x0, y1 - y0
    t = (((x - x0) * dx + (y - y0) * dy) / (dx**2 + dy**2 + 1e-9)).clamp(0, 1)
    return ((x - x0 - t * dx) ** 2 + (y - y0 - t * dy) ** 2 + 1e-12).sqrt()


@torch.no_grad()
def render(values: Mapping[str, np.ndarray], noise: Noise, size: int = 64) -> Tensor:
    """Draw phantoms.

    Args:
        values: ``(n,)`` arrays for every name in :data:`DRAWN`: age in years; the others 0 or 1 (sex: 1 = female;
            view: 1 = AP).
        noise: of the ``n`` phantoms.
        size: pixels a side.

    Returns:
        ``(n, 1, size, size)`` float32 in [0, 1]; bright = attenuating, as a radiograph is shown.

    Raises:
        ValueError: a drawn attribute is missing.
    """
    missing = [name for name in DRAWN if name not in values]
    if missing:
        raise ValueError(f"Cannot render without {missing}; give an array for each of {list(DRAWN)}.")

    def column(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(array, dtype=np.float32))[:, None, None]

    v = {name: column(values[name]) for name in DRAWN}
    z = {name: column(noise.anatomy[:, i]).clamp(-2.5, 2.5) for i, name in enumerate(ANATOMY)}
    p = {name: column(noise.placement[:, i]) for i, name in enumerate(PLACEMENT_COLUMNS)}
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) / size * 2 - 1
    yy, xx = axis[None, :, None], axis[None, None, :]
    pixel = 2.0 / size
    soft = 0.35 * max(pixel, 2.0 / 64)  # one detector blur, whatever the sampling

    ap, female, old = v["view"], v["sex"], (v["age"] - 55.0) / 35.0
    x = xx - 0.03 * z["shift_x"]
    y = yy - 0.03 * z["shift_y"]

    # Thorax, lungs, diaphragm. AP: supine, so the diaphragm stands higher.
    width = 0.88 + 0.03 * z["thorax_width"] - 0.05 * female
    mu = 0.62 * _chord(x, y, 0.0, 0.25, width, 1.6)
    lung_a = 0.33 + 0.012 * z["lung_width"]
    lung_b = 0.66 + 0.03 * z["lung_height"]
    lung = torch.zeros_like(mu)
    dome_y = []
    for side, key in ((-1.0, "dome_right"), (1.0, "dome_left")):  # the patient's right is on the image's left
        top = 0.44 + 0.035 * z[key] - (0.05 if side < 0 else 0.0) - 0.13 * ap
        dome = top + 0.9 * (x - side * 0.40) ** 2
        dome_y.append(dome)
        above = torch.sigmoid((dome - y) / soft)
        lung = lung + _chord(x, y, side * 0.42, -0.05, lung_a, lung_b) * above
    mu = mu - (0.44 + 0.02 * z["lucency"] + 0.05 * old) * lung * 0.95  # lungs are more lucent with age

    # Heart (AP: magnified), aortic knob (unfolds with age), spine, clavicles and ribs (paler with age).
    heart_a = (0.235 + 0.012 * z["heart_size"] + 0.115 * v["cardiomegaly"]) * (1 + 0.12 * ap)
    heart_x = 0.10 + 0.02 * z["heart_shift"] + 0.05 * v["cardiomegaly"]
    heart_y = 0.22 + 0.025 * z["heart_height"] - 0.06 * ap
    mu = mu + 0.42 * _chord(x, y, heart_x, heart_y, heart_a, 0.30 + 0.04 * v["cardiomegaly"])
    mu = mu + (0.16 + 0.16 * (old + 0.6).clamp_min(0)) * _chord(x, y, 0.13, -0.28, 0.09 + 0.05 * old, 0.13)
    mu = mu + 0.45 * _tube(x, 0.13 + 0.01 * z["spine_width"])
    bone = (0.15 + 0.015 * z["rib_contrast"] - 0.075 * old).clamp_min(0.02)
    for k in range(7):
        line = -0.72 + 0.19 * k + 0.025 * z["rib_phase"] + (0.42 + 0.04 * z["rib_slope"]) * (x.abs() - 0.1) ** 2
        mu = mu + bone * _tube(y - line, 0.045) * torch.sigmoid((width - 0.06 - x.abs()) / 0.03)
    clavicle = -0.70 - 0.10 * ap - 0.22 * (x.abs() - 0.1)
    mu = mu + 1.7 * bone * _tube(y - clavicle, 0.045) * torch.sigmoid((0.75 - x.abs()) / 0.03)
    # Scapulae lie over the lungs in AP.
    for side in (-1.0, 1.0):
        mu = mu + 0.16 * ap * _chord(x, y, side * 0.68, -0.30, 0.13, 0.36)
        mu = mu + 0.17 * female * _chord(x, y, side * 0.43, 0.36, 0.27, 0.24)

    # Effusion: fluid at one base, with a meniscus.
    right = (p["effusion_side"] < 0.5).float()
    side_x = 0.42 * (1 - 2 * right)
    level = 0.16 - 0.16 * p["effusion_height"] - 1.1 * (x - side_x) ** 2
    in_lung = torch.sigmoid((1 - ((x - side_x) / 0.36) ** 2 - ((y + 0.05) / 0.75) ** 2) / 0.08)
    mu = mu + v["effusion"] * 0.55 * torch.sigmoid((y - level) / (2 * soft)) * in_lung

    mu = mu.clamp_min(0.02)
    # Pacemaker: generator below a clavicle, lead to the right ventricle.
    px = 0.50 + 0.12 * p["pacemaker_x"]
    py = -0.50 + 0.12 * p["pacemaker_y"]
    mu = mu + v["pacemaker"] * 1.3 * _box(x, y, px, py, 0.10, 0.085, soft)
    bend = 0.12 + 0.08 * p["pacemaker_lead"]
    for x0, y0, x1, y1 in ((px, py, bend, py + 0.12), (bend, py + 0.12, bend, heart_y + 0.1)):
        lead = _tube(_segment(x, y, x0, y0, x1, y1), 0.035)
        mu = mu + v["pacemaker"] * 0.5 * lead
    # Chest drain: enters laterally on the image's left, points to the apex.
    dy = 0.25 - 0.25 * p["drain_y"]
    reach = 0.35 + 0.20 * p["drain_length"]
    angle = 0.6 + 0.6 * p["drain_angle"]
    dx1, dy1 = -0.80 + reach * angle.cos(), dy - reach * angle.sin()
    mu = mu + v["chest_drain"] * 0.55 * _tube(_segment(x, y, torch.full_like(dy, -0.85), dy, dx1, dy1), 0.05)
    # ECG: three electrodes and their wires.
    lx, ly = 0.06 * (p["leads_x"] - 0.5), 0.10 * (p["leads_y"] - 0.5)
    exit_x = -0.1 + 0.2 * p["leads_wire"]
    for ex, ey in ((-0.55, -0.48), (0.30, -0.62), (0.62, 0.30)):
        disc = ((x - ex - lx) ** 2 + (y - ey - ly) ** 2 + 1e-12).sqrt()
        mu = mu + v["ecg_leads"] * 1.0 * torch.sigmoid((0.055 - disc) / soft)
        wire = _segment(x, y, ex + lx, ey + ly, exit_x, torch.full_like(ly, 1.0))
        mu = mu + v["ecg_leads"] * 0.30 * _tube(wire, 0.025)

    exposure = 1.15 * (1 + 0.05 * z["exposure"]) * (1 + 0.16 * ap)
    image = 1 - torch.exp(-exposure * mu)

    # Stamps are burnt into the picture, not shone through. Their corners are the image's, not the patient's.
    def stamp(image: Tensor, ink: Tensor, present: Tensor, brightness: float) -> Tensor:
        return image + present * ink.clamp(0, 1) * (brightness - image)

    mx, my = 0.72 + 0.10 * p["laterality_x"], -0.86 + 0.08 * p["laterality_y"]
    letter = _box(xx, yy, mx - 0.05, my, 0.025, 0.10, soft) + _box(xx, yy, mx, my + 0.08, 0.07, 0.025, soft)
    image = stamp(image, letter, v["laterality_marker"], 1.0)
    tx, ty = -0.68 + 0.06 * p["portable_x"], -0.88 + 0.05 * p["portable_y"]
    text = _box(xx, yy, tx, ty, 0.20, 0.055, soft) * (0.55 + 0.45 * torch.cos((xx - tx) * 45.0))
    image = stamp(image, text, v["portable_marker"], 1.0)
    dot = ((xx + 0.84 - 0.06 * p["dot_x"]) ** 2 + (yy - 0.86) ** 2 + 1e-12).sqrt()
    image = stamp(image, 0.8 * torch.sigmoid((0.06 - dot) / soft), v["control_dot"], 1.0)
    image = stamp(image, 0.8 * _box(xx, yy, 0.80 - 0.08 * p["bar_x"], torch.full_like(mx, 0.90), 0.10, 0.03, soft),
                  v["control_bar"], 1.0)  # fmt: skip
    ring = ((xx - 0.86) ** 2 + (yy + 0.35 - 0.10 * p["ring_x"]) ** 2 + 1e-12).sqrt()
    image = stamp(image, 0.8 * torch.sigmoid((0.03 - (ring - 0.065).abs()) / (0.7 * soft)), v["control_ring"], 1.0)

    speckle = torch.stack(
        [torch.randn(size, size, generator=torch.Generator().manual_seed(int(s))) for s in noise.speckle]
    ) if len(noise) else torch.zeros(0, size, size)  # fmt: skip
    return (image + 0.008 * speckle).clamp(0, 1).float()[:, None]
