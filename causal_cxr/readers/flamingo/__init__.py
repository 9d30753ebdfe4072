"""Attribute inversion by example, after Flamingo (Alayrac et al., NeurIPS 2022)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
