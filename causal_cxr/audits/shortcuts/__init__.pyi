from .audit import ShortcutAudit
from .predictors import Predictor, as_predictor
from .report import ShortcutReport

__all__ = ["Predictor", "ShortcutAudit", "ShortcutReport", "as_predictor"]
