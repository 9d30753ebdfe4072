from .log import Log
from .precision import Precision, autocast
from .resumable import ResumableFit, cosine

__all__ = ["Log", "Precision", "ResumableFit", "autocast", "cosine"]
