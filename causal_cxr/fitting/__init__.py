"""What every fit needs, whatever is fitted: a state that survives a kill, a precision, and a log that does not repeat itself."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
