from .exemplars import Exemplars, choose_exemplars
from .eye import Eye
from .fit import fit_flamingo_reader
from .fit_language import fit_language
from .fit_vision import fit_vision
from .groups import Pool
from .measure import measured
from .prompt import Template
from .reader import FlamingoReader, nameless
from .signs import HELD_OUT, training_world

__all__ = [
    "HELD_OUT",
    "Exemplars",
    "Eye",
    "FlamingoReader",
    "Pool",
    "Template",
    "choose_exemplars",
    "fit_flamingo_reader",
    "fit_language",
    "fit_vision",
    "measured",
    "nameless",
    "training_world",
]
