from .editor import PathEffects, SCMEditor
from .fine_tune import fine_tune
from .fit import fit_image_model
from .hvae import HierarchicalVAE
from .image_model import ImageModel
from .vae import ConditionalVAE

__all__ = [
    "ConditionalVAE",
    "HierarchicalVAE",
    "ImageModel",
    "PathEffects",
    "SCMEditor",
    "fine_tune",
    "fit_image_model",
]
