from .borders import border_straightness
from .chest import Outline, best_path, cardiothoracic_ratio, lung_lucency, outline
from .grey import blur, corner_brightness, mean_exposure, noise_level
from .lettering import text_likeness
from .measures import MEASURES, Measure
from .reader import MeasureReader

__all__ = [
    "MEASURES",
    "Measure",
    "MeasureReader",
    "Outline",
    "best_path",
    "blur",
    "border_straightness",
    "cardiothoracic_ratio",
    "corner_brightness",
    "lung_lucency",
    "mean_exposure",
    "noise_level",
    "outline",
    "text_likeness",
]
