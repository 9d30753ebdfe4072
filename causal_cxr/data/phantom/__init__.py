"""The phantom laboratory: worlds whose causes are known, and their radiographs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
