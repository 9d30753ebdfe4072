from .analyse import Analysis, analyse
from .audit import Audit
from .measure import ManifestMismatch
from .report import Report

__all__ = ["Analysis", "Audit", "ManifestMismatch", "Report", "analyse"]
