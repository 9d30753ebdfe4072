from .finetune import FineTuned, HeldOut, finetune_clip
from .losses import contrastive_loss, sigmoid_loss
from .preprocess import Preprocess
from .reader import CLIPReader
from .towers import Towers, build_clip, load_towers, tokenise

__all__ = [
    "CLIPReader",
    "FineTuned",
    "HeldOut",
    "Preprocess",
    "Towers",
    "build_clip",
    "contrastive_loss",
    "finetune_clip",
    "load_towers",
    "sigmoid_loss",
    "tokenise",
]
