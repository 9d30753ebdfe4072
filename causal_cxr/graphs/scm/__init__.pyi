from .scm import SCM, posterior_gumbels

__all__ = ["SCM", "posterior_gumbels"]
