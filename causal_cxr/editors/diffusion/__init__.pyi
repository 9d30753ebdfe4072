from .captions import build_tokenizer, captions
from .editor import DiffusionEditor
from .fit import fit_diffusion

__all__ = ["DiffusionEditor", "build_tokenizer", "captions", "fit_diffusion"]
