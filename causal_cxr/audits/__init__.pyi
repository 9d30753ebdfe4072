from .analyse import Analysis, analyse
from .audit import Audit
from .drift import Drift, reader_drift
from .falsification import GraphTest, falsify_graph
from .fusion import Fused, fuse
from .measure import ManifestMismatch
from .observational import ObservationalSide, observational_side
from .report import Report
from .unnamed import UnnamedSearch

__all__ = [
    "Analysis",
    "Audit",
    "Drift",
    "Fused",
    "GraphTest",
    "ManifestMismatch",
    "ObservationalSide",
    "Report",
    "UnnamedSearch",
    "analyse",
    "falsify_graph",
    "fuse",
    "observational_side",
    "reader_drift",
]
