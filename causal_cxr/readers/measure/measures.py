"""The table of measures: what each is called, its unit and range, and the words for much and little of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .borders import border_straightness
from .chest import cardiothoracic_ratio, lung_lucency
from .grey import blur, corner_brightness, mean_exposure, noise_level
from .lettering import text_likeness


@dataclass(frozen=True)
class Measure:
    """One measurement.

    Attributes:
        function: ``(n, 1, h, w)`` in [0, 1] -> ``(n,)``, NaN where it cannot be taken.
        unit: of the number; empty where it has none.
        low, high: of its range.
        much, little: phrases for a high and a low value.
    """

    function: Callable[[Tensor], Tensor]
    unit: str
    low: float
    high: float
    much: str
    little: str


_GREY, _SIDE = "grey levels of the full range", "fraction of the side"

#: By name, in the order of the columns.
MEASURES: Mapping[str, Measure] = {
    "cardiothoracic_ratio": Measure(cardiothoracic_ratio, "", 0, 1, "wide heart", "narrow heart"),
    "lung_lucency": Measure(lung_lucency, _GREY, -1, 1, "dark lungs", "white lungs"),
    "corner_brightness": Measure(corner_brightness, _GREY, 0, 1, "bright corners", "dark corners"),
    "border_straightness": Measure(border_straightness, _SIDE, 0, 4, "straight border", "no straight border"),
    "text_likeness": Measure(text_likeness, _SIDE, 0, float("inf"), "lines of letters", "no letters"),
    "mean_exposure": Measure(mean_exposure, _GREY, 0, 1, "bright image", "dark image"),
    "noise_level": Measure(noise_level, _GREY, 0, 1, "noisy image", "image without noise"),
    "blur": Measure(blur, "", 0, 1, "blurred image", "sharp image"),
}
