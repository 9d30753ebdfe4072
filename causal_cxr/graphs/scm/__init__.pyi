from .scm import SCM

__all__ = ["SCM"]
