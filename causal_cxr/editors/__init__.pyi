from .acceptance import Acceptance, CLIPAcceptance
from .clip_guided import CLIPGuidance, CLIPGuidedEditor
from .diffusion import DiffusionEditor
from .editor import Abduction, Described, Edit, Editor
from .flamingo import Exemplars, FlamingoEditor, fit_flamingo
from .oracle import OracleEditor
from .scm import SCMEditor

__all__ = [
    "Abduction",
    "Acceptance",
    "CLIPAcceptance",
    "CLIPGuidance",
    "CLIPGuidedEditor",
    "Described",
    "DiffusionEditor",
    "Edit",
    "Editor",
    "Exemplars",
    "FlamingoEditor",
    "OracleEditor",
    "SCMEditor",
    "fit_flamingo",
]
