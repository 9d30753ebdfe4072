from .log import Log
from .resumable import ResumableFit, cosine

__all__ = ["Log", "ResumableFit", "cosine"]
