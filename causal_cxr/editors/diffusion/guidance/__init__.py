"""Guidance: how a request for an edit becomes the field of predictions that redraws the image."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
