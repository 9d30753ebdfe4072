"""Plain measurements of radiographs in known units: no training, no labels, no network's bias to share."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
