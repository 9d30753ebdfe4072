"""Effects, intervals and tests: pure functions of arrays, every one patient-clustered. No model, no file, no device."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
