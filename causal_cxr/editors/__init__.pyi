from .diffusion import DiffusionEditor
from .editor import Abduction, Edit, Editor
from .oracle import OracleEditor
from .scm import SCMEditor

__all__ = ["Abduction", "DiffusionEditor", "Edit", "Editor", "OracleEditor", "SCMEditor"]
