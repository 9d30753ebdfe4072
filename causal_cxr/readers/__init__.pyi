from .clip import CLIPReader
from .concepts import Concept, load_concepts
from .features import Features, OrientedGradients, Pixels
from .fit_clip import train_clip
from .probe import ProbeReader
from .quality import ReaderQuality, assess
from .reader import Reader

__all__ = [
    "CLIPReader",
    "Concept",
    "Features",
    "OrientedGradients",
    "Pixels",
    "ProbeReader",
    "Reader",
    "ReaderQuality",
    "assess",
    "load_concepts",
    "train_clip",
]
