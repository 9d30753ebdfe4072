from .exemplars import Exemplars, choose_exemplars
from .fit import fit_flamingo_reader
from .measure import measured
from .prompt import Template
from .reader import FlamingoReader, nameless
from .tasks import HELD_OUT, Tasks, training_world

__all__ = [
    "HELD_OUT",
    "Exemplars",
    "FlamingoReader",
    "Tasks",
    "Template",
    "choose_exemplars",
    "fit_flamingo_reader",
    "measured",
    "nameless",
    "training_world",
]
