"""Reading by image-text similarity: open_clip models of any architecture, calibrated, by region, fine-tuned."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
