"""The table of what can be drawn: every thing and every property, its values, and the noise that places it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

VERSION = 2  #: weights fitted on one version are refused by another


@dataclass(frozen=True)
class Drawable:
    """One thing or property that :func:`~causal_cxr.data.phantom.radiograph.render` can draw.

    Attributes:
        name: as in the values handed to ``render``.
        kind: ``"level"``: the value is an integer code into ``levels``; ``"number"``: a float in [``low``, ``high``].
        levels: what the codes 0, 1, ... of a level stand for.
        unit: of a number; empty where it has none.
        low: the smallest number that can be drawn.
        high: the largest.
        default: the value drawn where nobody asks.
        thing: True where 0 means "not there", so that its placement shows only where the value is above 0.
        placement: names of the uniforms on [0, 1] that place or vary it.
        region: ``(top, left, bottom, right)`` as fractions of the picture, outside which it changes no pixel;
            ``None`` where it may change all.
        description: one line for people.
    """

    name: str
    kind: Literal["level", "number"]
    levels: tuple[str, ...] = ()
    unit: str = ""
    low: float = 0.0
    high: float = 1.0
    default: float = 0.0
    thing: bool = False
    placement: tuple[str, ...] = ()
    region: tuple[float, float, float, float] | None = None
    description: str = ""


def _number(name: str, low: float, high: float, default: float, unit: str, description: str) -> Drawable:
    return Drawable(name, "number", unit=unit, low=low, high=high, default=default, description=description)


def _finding(
    name: str, high: float, unit: str, placement: str, region: tuple[float, float, float, float], description: str
) -> Drawable:
    columns = tuple(f"{name}_{p}" for p in placement.split())
    return Drawable(name, "number", (), unit, 0.0, high, 0.0, True, columns, region, description)


def _property(name: str, levels: tuple[str, ...], description: str) -> Drawable:
    return Drawable(name, "level", levels, description=description)


def _thing(
    name: str,
    placement: str,
    region: tuple[float, float, float, float],
    description: str,
    levels: tuple[str, ...] = ("absent", "present"),
) -> Drawable:
    columns = tuple(f"{name}_{p}" for p in placement.split())
    return Drawable(name, "level", levels, thing=True, placement=columns, region=region, description=description)


_SIDES = ("by chance", "right", "left")
_LOBES = ("by chance", "right upper", "right middle", "right lower", "left upper", "left lower")

_TABLE = (
    _number("age", 0, 100, 55, "years", "bone density falls, aorta unfolds and calcifies, kyphosis, costal calcification"),
    _number("bmi", 15, 50, 26, "kg/m2", "thicker soft tissue, wider mediastinum, more scatter"),
    _number("cardiothoracic_ratio", 0.35, 0.75, 0.45, "", "widest heart over widest inner thorax, as projected in PA"),
    _number("exposure", -2, 2, 0, "log2 relative mAs", "more of it: less noise and a darker film"),
    _property("sex", ("male", "female"), "breast shadows and a smaller thorax in women"),
    _property("view", ("PA", "AP"), "AP: short source distance, supine, scapulae over the lungs, no grid"),
    _property("exposure_style", ("standard", "hard", "soft"), "a site's tube voltage, window and processing"),
    _finding("effusion_ml", 2500, "ml", "side rise", (0.10, 0.05, 0.88, 0.95), "pleural fluid with its meniscus"),
    _property("effusion_side", _SIDES, "where the fluid is"),
    _finding("consolidation", 1, "extent", "lobe x y shape", (0.05, 0.05, 0.85, 0.95), "airspace filled in a lobe"),
    _property("consolidation_lobe", _LOBES, "where the consolidation is"),
    _finding("pneumothorax", 0.8, "collapsed fraction", "side", (0.05, 0.05, 0.85, 0.95), "visceral line, no vessels beyond"),
    _property("pneumothorax_side", _SIDES, "where the air is"),
    _finding("oedema", 1, "severity", "spread lines", (0.15, 0.05, 0.85, 0.95), "perihilar bat wings and septal lines"),
    _finding("nodule_mm", 40, "mm", "side x y", (0.10, 0.10, 0.75, 0.90), "a round solid nodule in a lung"),
    _thing("pacemaker", "x y tilt lead", (0.12, 0.40, 0.80, 0.92), "generator below the left clavicle, lead to the right ventricle"),
    _thing("icd", "x y coil", (0.28, 0.45, 0.80, 1.0), "subcutaneous defibrillator: large can in the left flank, thick parasternal coil"),
    _thing("chest_drain", "side entry reach bow", (0.10, 0.0, 0.80, 1.0), "wide tube from the flank towards the apex"),
    _thing("central_line", "x tip", (0.0, 0.30, 0.62, 0.55), "right jugular catheter to the superior vena cava"),
    _thing("endotracheal_tube", "tip x", (0.0, 0.40, 0.42, 0.60), "tube in the trachea"),
    _thing("nasogastric_tube", "x tip", (0.0, 0.40, 1.0, 0.75), "tube through the gullet into the stomach"),
    _thing("ecg_leads", "x y wire", (0.12, 0.05, 1.0, 0.97), "four electrodes and their wires"),
    _thing("sternal_wires", "y x", (0.20, 0.40, 0.80, 0.60), "seven wire loops along the sternum"),
    _thing("breast_implant", "size y", (0.45, 0.08, 0.98, 0.92), "a pair of gel implants with their capsules"),
    _thing("jewellery", "drop pendant", (0.0, 0.20, 0.45, 0.80), "necklace with a pendant, and earrings"),
    _thing("arms", "x angle", (0.30, 0.0, 1.0, 1.0), "arms hanging in the field"),
    _thing("laterality_marker", "x y", (0.06, 0.78, 0.25, 0.95), "L at the patient's left: of lead, or a circled stamp",
           ("absent", "lead letter", "circled stamp")),
    _thing("arrow_stamp", "x y", (0.27, 0.84, 0.48, 0.95), "burnt-in arrow: upright"),
    _thing("portable_marker", "x y", (0.06, 0.06, 0.20, 0.46), "burnt-in words PORTABLE, AP"),
    _thing("collimation_border", "style width sides", (0.0, 0.0, 1.0, 1.0), "straight border, black or bright"),
    _thing("control_dot", "x", (0.86, 0.06, 0.95, 0.20), "burnt-in dot, a control"),
    _thing("control_bar", "x", (0.87, 0.74, 0.95, 0.95), "burnt-in bar, a control"),
    _thing("control_ring", "y", (0.55, 0.05, 0.76, 0.16), "burnt-in ring, a control"),
)  # fmt: skip

#: Everything that can be drawn, by name.
DRAWABLES: Mapping[str, Drawable] = {d.name: d for d in _TABLE}

#: The noise that every image reveals; one standard normal each.
ANATOMY: tuple[str, ...] = (
    "thorax_width", "thorax_height", "shoulder_height", "neck_width", "heart_shift", "heart_height", "heart_shape",
    "mediastinum_width", "dome_right", "dome_left", "stomach_bubble", "stomach_place", "rib_phase", "rib_spacing",
    "rib_drop", "bone_density", "spine_curve", "clavicle_height", "scapula_place", "trachea_shift", "breast_size",
    "breast_height", "hilum", "lucency", "shift_x", "shift_y", "window_level", "window_width",
    "vessels_0", "vessels_1", "vessels_2", "vessels_3",
    "texture_0", "texture_1", "texture_2", "texture_3", "texture_4", "texture_5",
)  # fmt: skip

#: The noise that an image reveals only where the thing is there; uniform on [0, 1] each.
PLACEMENT: Mapping[str, tuple[str, ...]] = {d.name: d.placement for d in _TABLE if d.thing}
PLACEMENT_COLUMNS: tuple[str, ...] = tuple(name for names in PLACEMENT.values() for name in names)

#: Every drawable that is a number; the columns of ``Noise.amounts``.
NUMBERS: tuple[str, ...] = tuple(d.name for d in _TABLE if d.kind == "number")
