"""Does a classifier rely on what it should not? Counterfactual gains of its score, by attribute, and what carries them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
