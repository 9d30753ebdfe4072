"""Tiny CLIP models of every architecture, in the folders that open_clip and the hub would write."""

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

from causal_cxr.data.phantom import Phantom
from causal_cxr.readers import CLIPReader, load_concepts
from causal_cxr.readers.clip.fit_phantom import small_reader

TINY = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
CONCEPTS = load_concepts(["pacemaker", "control_dot", "AP view"])
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *["a", "no", "there", "is", "pacemaker", "seen", "dot", "corner", "cardiac"],
]
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic", "resize_mode": "squash"}


def phantoms(n: int = 96, seed: int = 5) -> Phantom:
    return Phantom(n, "independent", seed=seed, size=16)


def tiny_reader(phantom: Phantom, **options) -> CLIPReader:
    return small_reader(phantom.texts.tolist(), CONCEPTS, vision=TINY, **options)


VIT = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
BERT = {"hf_model_name": "some-lab/radiology-bert", "hf_tokenizer_name": "some-lab/radiology-bert",
        "hf_pooler_type": "cls_last_hidden_state_pooler", "hf_proj_type": "mlp", "context_length": 24}  # fmt: skip
#: name -> open_clip's model_cfg
ARCHITECTURES = {
    "clip": {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT},
    "average": {"embed_dim": 16, "vision_cfg": {**VIT, "pool_type": "avg"}, "text_cfg": TEXT},
    "resnet": {"embed_dim": 16, "text_cfg": TEXT,
               "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}},
    "timm": {"embed_dim": 16, "text_cfg": BERT,
             "vision_cfg": {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear"}},
    "siglip": {"embed_dim": 192, "init_logit_bias": -10, "custom_text": True,
               "vision_cfg": {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none"},
               "text_cfg": {**TEXT, "width": 192, "no_causal_mask": True, "pool_type": "last", "proj_type": "none"}},
    "coca": {"embed_dim": 16, "custom_text": True,
             "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4, "output_tokens": True},
             "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
             "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1, "attn_pooler_heads": 2}},
}  # fmt: skip


def bert_files(folder: Path) -> None:
    """What a folder of a small BERT has: its config and its tokenizer."""
    from transformers import BertConfig, BertTokenizer

    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    BertTokenizer(str(vocabulary)).save_pretrained(folder)
    BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
               max_position_embeddings=32).save_pretrained(folder)  # fmt: skip


def write_folder(
    folder: Path, kind: str, *, weights: str = "open_clip_model.safetensors", seed: int = 0
) -> torch.nn.Module:
    """open_clip's folder of one of the :data:`ARCHITECTURES`; the model that lies in it."""
    folder.mkdir(parents=True)
    config = json.loads(json.dumps(ARCHITECTURES[kind]))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESS}))
    if "hf_model_name" in config["text_cfg"]:
        bert_files(folder)
        config["text_cfg"] |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    kinds = {(True, True): open_clip.CoCa, (True, False): open_clip.CustomTextCLIP, (False, False): open_clip.CLIP}
    torch.manual_seed(seed)
    model = kinds[custom, "multimodal_cfg" in config](**config).eval()
    if weights.endswith(".safetensors"):
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / weights)
    else:
        torch.save(model.state_dict(), folder / weights)
    return model


def pictures(n: int = 3, height: int = 40, width: int = 40) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(0).uniform(size=(n, 1, height, width)), dtype=torch.float32)
