from .editor import FlamingoEditor as FlamingoEditor
from .exemplars import Exemplars as Exemplars
from .fit import fit_flamingo as fit_flamingo
