from .captions import captions
from .editor import DiffusionEditor
from .fit import fit_diffusion

__all__ = ["DiffusionEditor", "captions", "fit_diffusion"]
