"""Where a pipeline lies: a folder, or a repository of the Hugging Face hub in the same layout."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import torch

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
#: What a pipeline is made of, but for weights. Pickles are never fetched.
_SETTINGS = (
    "model_index.json", "editor.json", "config.json", "unet/config.json", "vae/config.json", "text_encoder/*.json",
    "text_encoder/*.txt", "tokenizer/*.json", "tokenizer/*.txt", "scheduler/*.json",
)  # fmt: skip
_WEIGHTS = {
    "": "diffusion_pytorch_model",
    "unet/": "diffusion_pytorch_model",
    "vae/": "diffusion_pytorch_model",
    "text_encoder/": "model",
}
_FIXED = ("text_encoder/open_clip_model.safetensors", "pytorch_lora_weights.safetensors")


def wanted(variant: str | None = None) -> list[str]:
    """Patterns of the files that a pipeline needs; of the weights only one variant, whole or in shards."""
    dot = f".{variant}" if variant else ""
    weights = [
        f"{folder}{name}{ending}"
        for folder, name in _WEIGHTS.items()
        for ending in (
            f"{dot}.safetensors",
            f"{dot}-[0-9]*-of-[0-9]*.safetensors",
            f"-[0-9]*-of-[0-9]*{dot}.safetensors",
            f".safetensors.index{dot}.json",
        )
    ]
    return [*_SETTINGS, *weights, *_FIXED]


def located(source: str | Path, *, variant: str | None = None, revision: str | None = None) -> Path:
    """The folder itself, or one in the hub's cache with the repository's files.

    Args:
        source: a folder, or ``owner/name`` on the hub.
        variant: of the weights, such as ``fp16``.
        revision: branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: it is neither, or the hub cannot be reached and has not been before.
    """
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, Path) or not _REPOSITORY.fullmatch(source):
        raise FileNotFoundError(
            f"There is no folder {source}; give a folder, or owner/name of a repository on the hub."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=wanted(variant)))
    # Not reachable: a ConnectionError of the client in use, or an OSError of the hub's own.
    except (HfHubHTTPError, HFValidationError, OSError) as problem:
        raise FileNotFoundError(
            f"{source!r} is no folder here, and could not be fetched from the hub ({type(problem).__name__}): check the "
            "name, fetch it once where there is a network, or give the folder of a copy."
        ) from problem


def write_model(model: Any, folder: Path, kind: torch.dtype) -> None:
    """Write a model of diffusers, weights in that type, and leave out where on this machine it was loaded from."""
    copy.deepcopy(model).to(kind).save_pretrained(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config.pop("_name_or_path", None)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
