from .ancestral import ancestral_edges
from .discover import discover
from .discovered import Discovered, Note, Separation
from .frequencies import edge_frequencies
from .marks import Mark, MarkedEdge
from .possible import possibly_connected, separator
from .sampling import one_per_patient

__all__ = [
    "Discovered",
    "Mark",
    "MarkedEdge",
    "Note",
    "Separation",
    "ancestral_edges",
    "discover",
    "edge_frequencies",
    "one_per_patient",
    "possibly_connected",
    "separator",
]
