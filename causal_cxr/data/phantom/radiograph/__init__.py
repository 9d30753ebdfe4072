"""A chest radiograph from first principles: rays, solids with closed-form chords, a detector, and who stood before it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
