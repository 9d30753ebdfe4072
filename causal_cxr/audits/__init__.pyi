from .analyse import Analysis, analyse
from .audit import Audit
from .drift import Drift, reader_drift
from .measure import ManifestMismatch
from .report import Report

__all__ = ["Analysis", "Audit", "Drift", "ManifestMismatch", "Report", "analyse", "reader_drift"]
