from .audits import Audit, Report
from .graphs import Binary, Categorical, CausalGraph, Continuous

__all__ = ["Audit", "Binary", "Categorical", "CausalGraph", "Continuous", "Report"]
