from .analyse import Analysis, analyse
from .anytime import Anytime
from .audit import Audit
from .doses import dose_curves, dose_responses
from .drift import Drift, reader_drift
from .falsification import GraphTest, falsify_graph
from .fusion import Fused, fuse
from .limits import limits, statement
from .looks import Looks
from .observational import ObservationalSide, observational_side
from .report import Report
from .robustness import robustness
from .shortcuts import ShortcutAudit, ShortcutReport, as_predictor
from .store import ManifestMismatch
from .table_search import Fusion, TableSearch
from .trials import Trials
from .unnamed import UnnamedSearch

__all__ = [
    "Analysis",
    "Anytime",
    "Audit",
    "Drift",
    "Fused",
    "Fusion",
    "GraphTest",
    "Looks",
    "ManifestMismatch",
    "ObservationalSide",
    "Report",
    "ShortcutAudit",
    "ShortcutReport",
    "TableSearch",
    "Trials",
    "UnnamedSearch",
    "analyse",
    "as_predictor",
    "dose_curves",
    "dose_responses",
    "falsify_graph",
    "fuse",
    "limits",
    "observational_side",
    "reader_drift",
    "robustness",
    "statement",
]
