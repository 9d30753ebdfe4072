from .calibrate import Validate, calibrated
from .captions import captions
from .editor import DiffusionEditor
from .fit import fit_diffusion

__all__ = ["DiffusionEditor", "Validate", "calibrated", "captions", "fit_diffusion"]
