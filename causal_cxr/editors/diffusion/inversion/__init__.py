"""Inversion: from an image to what redraws it, under its own caption or another."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
