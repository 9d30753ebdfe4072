"""Fine-tuning of diffusion editors: what is fitted, on what captions, with what weights, judged by what."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
