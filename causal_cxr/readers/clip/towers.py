"""Opening CLIP models: a saved reader's folder, open_clip's folders, the Hugging Face hub, open_clip's own names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from causal_cxr.data.whole_file import whole_file, write_json
from causal_cxr.readers.clip.preprocess import Preprocess

CONFIG, TOKENIZER, TEXT_CONFIG = "open_clip_config.json", "tokenizer", "text_config"
HUB, LOCAL = "hf-hub:", "local-dir:"
#: in the order that open_clip prefers them
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
           "model.safetensors")  # fmt: skip
BESIDE = ("*.json", "*.txt", "*.model", f"{TOKENIZER}/*", f"{TEXT_CONFIG}/*")  #: what a hub folder has besides weights


@dataclass(frozen=True)
class Towers:
    """A CLIP model and what it takes.

    Attributes:
        model: open_clip's, its config as ``model.config``.
        tokenizer: of transformers, or any callable from texts to ``(n, length)`` token ids, as open_clip's are.
        preprocess: of images.
        folder: where it was opened; ``None`` for a built-in architecture.
    """

    model: Any
    tokenizer: Any
    preprocess: Preprocess
    folder: Path | None = None


def load_towers(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> Towers:
    """Open a model.

    Args:
        source: a folder with ``open_clip_config.json`` and weights, with or without ``local-dir:`` before it; a name on
            the Hugging Face hub after ``hf-hub:`` (found in the cache when offline); or one of open_clip's own
            architectures, e.g. ``"ViT-B-32"``, with ``weights``.
        weights: file of weights for a built-in architecture.
        revision: of a hub name.
        cache_dir: of the hub's files.

    Raises:
        FileNotFoundError: no such folder, no config or no weights in it, or not in the hub's cache when offline.
        ValueError: the weights do not fit the architecture, are a pickle of more than tensors, or the text tower has no
            configuration.
    """
    name = str(source)
    if name.startswith(HUB):
        return _from_folder(_hub_folder(name.removeprefix(HUB), revision, cache_dir), weights)
    folder = Path(name.removeprefix(LOCAL))
    if folder.is_dir() or name.startswith(LOCAL):
        return _from_folder(folder, weights)
    return _built_in(name, weights)


def save_towers(towers: Towers, folder: Path) -> None:
    """Write a folder that :func:`load_towers` opens without a network: half-precision weights, config, tokenizer.

    Raises:
        ValueError: the model has no ``config``, or the tokenizer cannot be saved.
    """
    from open_clip.tokenizer import SimpleTokenizer
    from safetensors.torch import save_file

    model, tokenizer = towers.model, towers.tokenizer
    if not hasattr(model, "config"):
        raise ValueError("The model does not carry its config; build it with build_clip(config), or set model.config.")
    if not hasattr(tokenizer, "save_pretrained") and not isinstance(tokenizer, SimpleTokenizer):
        raise ValueError(
            f"The tokenizer {type(tokenizer).__name__} cannot be saved; it has no save_pretrained(folder)."
        )
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    with whole_file(folder / "model.safetensors") as partial:
        save_file(half, partial)
    if hasattr(tokenizer, "save_pretrained"):  # open_clip's own vocabulary comes with open_clip
        tokenizer.save_pretrained(str(folder / TOKENIZER))
    if "hf_model_name" in model.config["text_cfg"]:
        model.text.config.save_pretrained(folder / TEXT_CONFIG)
    config = {"model_cfg": model.config, "preprocess_cfg": towers.preprocess.to_config()}
    write_json(folder / CONFIG, config)


def build_clip(config: dict[str, Any]) -> Any:
    """An ``open_clip.CLIP`` of any size from its config, kept as ``model.config``."""
    import open_clip

    model = open_clip.CLIP(**config)
    model.config = config
    return model


def tokenise(tokenizer: Any, texts: list[str]) -> Tensor:
    """``(n, length)`` token ids; open_clip pools at the end token, which has the largest id."""
    if hasattr(tokenizer, "pad"):  # transformers
        return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    return tokenizer(texts)


def _from_folder(folder: Path, weights: str | Path | None) -> Towers:
    if weights is not None:
        raise ValueError(f"weights= is for built-in architectures; {folder} has its own.")
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; it is no folder of a CLIP model.")
    if not any(any(folder.glob(f"*{suffix}")) for suffix in (".safetensors", ".bin", ".pth")):
        raise FileNotFoundError(f"{folder} has no weights; open_clip's are called {WEIGHTS[0]} or {WEIGHTS[2]}.")
    config = json.loads((folder / CONFIG).read_text())
    text = _text_tower(config["model_cfg"]["text_cfg"], folder)
    model = _create(f"{LOCAL}{folder}", text_cfg=text)
    model.config = config["model_cfg"]
    tokenizer = _tokenizer(config["model_cfg"]["text_cfg"], folder)
    return Towers(model, tokenizer, _preprocess(config.get("preprocess_cfg"), model), folder)


def _built_in(name: str, weights: str | Path | None) -> Towers:
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        raise FileNotFoundError(
            f"There is no folder {name!r}, and no architecture of that name in open_clip; names on the hub begin with {HUB}"
        )
    if weights is None or not Path(weights).is_file():
        raise FileNotFoundError(f"{name} is an architecture: pass the file of its weights as weights= (got {weights}).")
    model = _create(name, pretrained=str(weights))
    model.config = config
    return Towers(model, open_clip.get_tokenizer(name), Preprocess.from_config(model.visual.preprocess_cfg))


def _create(name: str, **options: Any) -> Any:
    """open_clip's model with its weights; pickles may hold tensors only."""
    from pickle import UnpicklingError

    import open_clip

    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are read
            return open_clip.create_model(name, pretrained_text=False, weights_only=True, **options)
    except UnpicklingError as problem:
        raise ValueError(
            f"The weights of {name} are a pickle of more than tensors, which could run code when opened. Save them as "
            f"safetensors where you trust them. ({str(problem).splitlines()[0]})"
        ) from problem
    except RuntimeError as problem:
        if "state_dict" not in str(problem):
            raise
        raise ValueError(f"The weights of {name} do not fit its {CONFIG}: {problem}") from problem
    except OSError as problem:
        place = name.removeprefix(LOCAL)
        raise ValueError(
            f"The text tower of {name} has no configuration here: put its config.json (of the transformers model) into "
            f"{Path(place) / TEXT_CONFIG}. ({str(problem).splitlines()[0]})"
        ) from problem


def _text_tower(text: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The text tower's config, pointing at the transformers configuration that lies in the folder, if one does."""
    from open_clip.hf_configs import arch_dict

    name = text.get("hf_model_name")
    if not name:
        return dict(text)
    for place in (folder / TEXT_CONFIG, folder / name, folder):
        file = place / "config.json"
        if file.is_file() and json.loads(file.read_text()).get("model_type") in arch_dict:
            return {**text, "hf_model_name": str(place), "hf_model_pretrained": False}
    return {**text, "hf_model_pretrained": False}  # from transformers' cache


def _tokenizer(text: Mapping[str, Any], folder: Path) -> Any:
    import open_clip
    from open_clip.tokenizer import HFTokenizer
    from transformers import AutoTokenizer

    own = folder / TOKENIZER
    if not text.get("hf_tokenizer_name"):
        return AutoTokenizer.from_pretrained(own) if own.is_dir() else open_clip.get_tokenizer(f"{LOCAL}{folder}")
    files = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "tokenizer.model", "spiece.model")
    beside = any((folder / file).is_file() for file in files)
    return HFTokenizer(
        str(own if own.is_dir() else folder) if own.is_dir() or beside else text["hf_tokenizer_name"],
        context_length=text.get("context_length", 77),
        tokenizer_mode=text.get("tokenizer_mode"),
        **(text.get("tokenizer_kwargs") or {}),
    )


def _preprocess(config: Mapping[str, Any] | None, model: Any) -> Preprocess:
    """What the folder says; open_clip's defaults for what it leaves out."""
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    merged = merge_preprocess_dict(PreprocessCfg(size=model.visual.image_size), dict(config or {}))
    return Preprocess.from_config({**merged, "size": model.visual.image_size})


def _hub_folder(name: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, cache_dir=cache_dir, allow_patterns=list(BESIDE)))
    except LocalEntryNotFoundError as problem:
        raise FileNotFoundError(f"{HUB}{name} is not in the cache, and the hub cannot be reached.") from problem
    for file in WEIGHTS:
        if (folder / file).is_file():
            return folder
        try:
            hf_hub_download(name, file, revision=revision, cache_dir=cache_dir)
        except (EntryNotFoundError, LocalEntryNotFoundError):
            continue
        return folder
    raise FileNotFoundError(f"{HUB}{name} has none of the weights {list(WEIGHTS)}.")
