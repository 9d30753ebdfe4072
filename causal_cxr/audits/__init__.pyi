from .analyse import Analysis, analyse
from .audit import Audit
from .drift import Drift, reader_drift
from .measure import ManifestMismatch
from .report import Report
from .unnamed import UnnamedSearch

__all__ = ["Analysis", "Audit", "Drift", "ManifestMismatch", "Report", "UnnamedSearch", "analyse", "reader_drift"]
