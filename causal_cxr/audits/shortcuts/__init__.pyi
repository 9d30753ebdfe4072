from .audit import ShortcutAudit
from .predictors import Predictor, as_predictor
from .report import ShortcutReport
from .spec import ShortcutSpec

__all__ = ["Predictor", "ShortcutAudit", "ShortcutReport", "ShortcutSpec", "as_predictor"]
