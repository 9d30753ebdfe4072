"""Causal discovery over a table of attributes and reader scores: causal-learn searches, the declaration orients."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
