from .grammar import Grammar, Mention
from .phantom import Phantom
from .radiograph import DRAWABLES, VERSION, Noise, render
from .truth import truth_of
from .world import Sign, World, WorldError

__all__ = [
    "DRAWABLES",
    "VERSION",
    "Grammar",
    "Mention",
    "Noise",
    "Phantom",
    "Sign",
    "World",
    "WorldError",
    "render",
    "truth_of",
]
