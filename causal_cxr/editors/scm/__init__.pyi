from .editor import SCMEditor
from .fit import fit_image_model
from .vae import ConditionalVAE

__all__ = ["ConditionalVAE", "SCMEditor", "fit_image_model"]
