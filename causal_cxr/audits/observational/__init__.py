"""What unedited images alone say: identification, estimates side by side, refutations, sensitivity, in plain words."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
