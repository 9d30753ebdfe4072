from .drawables import ANATOMY, DRAWABLES, NUMBERS, PLACEMENT, PLACEMENT_COLUMNS, VERSION, Drawable
from .noise import Noise
from .render import expected, render

__all__ = [
    "ANATOMY",
    "DRAWABLES",
    "NUMBERS",
    "PLACEMENT",
    "PLACEMENT_COLUMNS",
    "VERSION",
    "Drawable",
    "Noise",
    "expected",
    "render",
]
