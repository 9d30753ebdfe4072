from .balanced import Balanced, RowWeights, effective_sample_size
from .finetune import finetune
from .per_attribute import PerAttributeEditor
from .publish import publish
from .telling import Telling
from .trainable import Denoiser, Joint, LoRA, Tokens, Trainable
from .watch import Watch

__all__ = [
    "Balanced",
    "Denoiser",
    "Joint",
    "LoRA",
    "PerAttributeEditor",
    "RowWeights",
    "Telling",
    "Tokens",
    "Trainable",
    "Watch",
    "effective_sample_size",
    "finetune",
    "publish",
]
