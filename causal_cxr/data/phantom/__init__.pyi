from .phantom import Phantom
from .renderer import VERSION, Noise, render
from .worlds import CONTROLS, HIDDEN, HIDDEN_NAMES, LABELLED, WORLDS, Mechanism, World

__all__ = [
    "CONTROLS",
    "HIDDEN",
    "HIDDEN_NAMES",
    "LABELLED",
    "VERSION",
    "WORLDS",
    "Mechanism",
    "Noise",
    "Phantom",
    "World",
    "render",
]
