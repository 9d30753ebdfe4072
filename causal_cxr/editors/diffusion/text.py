"""Text encoders: captions to the states that a denoiser attends to."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


class TextEncoder(Protocol):
    """Captions to states.

    Attributes:
        model: the module with the weights.
        identity: all else that the states depend on.
        length: tokens that it takes.
    """

    model: Any
    identity: str
    length: int

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """``(n, length, width)``, on the model's device.

        Raises:
            ValueError: a text is longer than the encoder takes; nothing is cut in silence.
        """
        ...

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """``(n, ...)`` integers on the CPU that :meth:`encode` takes: fits meet a text many times. Raises as a call does."""
        ...

    def encode(self, tokens: Tensor) -> Tensor:
        """``(n, length, width)`` of tokens on the model's device."""
        ...

    def ids(self, texts: Sequence[str]) -> Tensor:
        """``(n, length)`` numbers of the tokens that the states stand for, on the CPU."""
        ...

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, before any cut."""
        ...

    def save(self, folder: Path, kind: torch.dtype) -> None:
        """Write what the hub's layout has of it in a pipeline's folder, weights in that type."""
        ...


class CLIPText:
    """A transformers ``CLIPTextModel`` with its tokenizer, as Stable Diffusion has it.

    Args:
        model: its ``last_hidden_state`` conditions the denoiser.
        tokenizer: texts are padded to its ``model_max_length``, or to what the model takes if that is less.
        masked: the encoder is told which tokens pad; Stable Diffusion's is not. Kept where diffusers looks for it, as
            ``use_attention_mask`` in the model's config.
    """

    def __init__(self, model: Any, tokenizer: Any, *, masked: bool = True) -> None:
        self.model, self.tokenizer, self.masked = model, tokenizer, masked
        self.length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
        self.identity = f"{_digest(tokenizer.get_vocab())}|{masked}"

    @classmethod
    def from_pretrained(cls, model: Path, tokenizer: Path, variant: str | None = None) -> "CLIPText":
        """Load the two folders, weights as float32."""
        from transformers import CLIPTextModel, CLIPTokenizer

        encoder = CLIPTextModel.from_pretrained(
            model, variant=variant, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        masked = bool(getattr(encoder.config, "use_attention_mask", False))
        return cls(encoder, CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True), masked=masked)

    def save(self, folder: Path, kind: torch.dtype) -> None:
        """See :class:`TextEncoder`: ``text_encoder/`` and ``tokenizer/``."""
        written: Any = copy.deepcopy(self.model).to(kind)
        written.config.use_attention_mask = self.masked
        written.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """See :class:`TextEncoder`."""
        return self.encode(self.tokens(texts).to(self.model.device))

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """See :class:`TextEncoder`; token numbers, then which of them are no padding: ``(n, 2, length)``."""
        _check_lengths(self, texts)
        tokens = self.tokenizer(list(texts), padding="max_length", max_length=self.length, return_tensors="pt")
        return torch.stack([tokens["input_ids"], tokens["attention_mask"]], 1)

    def encode(self, tokens: Tensor) -> Tensor:
        """See :class:`TextEncoder`."""
        ids, mask = tokens.unbind(1)
        return self.model(input_ids=ids, attention_mask=mask if self.masked else None).last_hidden_state

    def ids(self, texts: Sequence[str]) -> Tensor:
        """See :class:`TextEncoder`."""
        return self.tokens(texts)[:, 0]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """See :class:`TextEncoder`."""
        return [len(ids) for ids in self.tokenizer(list(texts))["input_ids"]]


class OpenClipText:
    """The text tower of an open_clip model: the states of its tokens before they are pooled into one feature.

    Args:
        model: ``open_clip.CLIP``, or a ``CustomTextCLIP`` around open_clip's or transformers' text models.
        tokenizer: open_clip's ``SimpleTokenizer`` or ``HFTokenizer``.
        config: what ``open_clip_config.json`` holds.
    """

    def __init__(self, model: Any, tokenizer: Any, config: Mapping[str, Any]) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, dict(config)
        self.length = int(tokenizer.context_length)
        # A byte-pair tokenizer of open_clip's own, or one of transformers inside open_clip's.
        vocabulary = tokenizer.encoder if hasattr(tokenizer, "encoder") else tokenizer.tokenizer.get_vocab()
        self.identity = f"open_clip|{_digest(vocabulary)}|{self.length}"

    @classmethod
    def from_pretrained(cls, folder: Path) -> "OpenClipText":
        """Load a folder in open_clip's own layout, weights as float32.

        Raises:
            FileNotFoundError: it has no safetensors.
        """
        import open_clip

        if not (folder / OPEN_CLIP_WEIGHTS).is_file():
            raise FileNotFoundError(f"{folder} has no {OPEN_CLIP_WEIGHTS}; pickled weights are not opened.")
        name = f"local-dir:{folder}"
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are read
            model: Any = open_clip.create_model(name, pretrained_text=False)  # prefers the safetensors, which are there
        return cls(model.eval(), open_clip.get_tokenizer(name), json.loads((folder / OPEN_CLIP_CONFIG).read_text()))

    def save(self, folder: Path, kind: torch.dtype) -> None:
        """See :class:`TextEncoder`: ``text_encoder/`` in open_clip's layout."""
        from safetensors.torch import save_model

        folder = folder / "text_encoder"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OPEN_CLIP_CONFIG).write_text(json.dumps(self.config, indent=2))
        save_model(copy.deepcopy(self.model).to(kind), str(folder / OPEN_CLIP_WEIGHTS))
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(folder)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """See :class:`TextEncoder`."""
        return self.encode(self.tokens(texts).to(next(self.model.parameters()).device))

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """See :class:`TextEncoder`."""
        _check_lengths(self, texts)
        return self.tokenizer(list(texts))

    def encode(self, tokens: Tensor) -> Tensor:
        """See :class:`TextEncoder`."""
        tower = getattr(self.model, "text", self.model)
        last = tower.ln_final if hasattr(tower, "ln_final") else tower.transformer
        states: list[Any] = []
        hook = last.register_forward_hook(lambda module, inputs, output: states.append(output))
        try:
            self.model.encode_text(tokens)
        finally:
            hook.remove()
        (state,) = states
        return getattr(state, "last_hidden_state", state)

    def ids(self, texts: Sequence[str]) -> Tensor:
        """See :class:`TextEncoder`."""
        return self.tokens(texts)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """See :class:`TextEncoder`."""
        if hasattr(self.tokenizer, "encode"):
            return [len(self.tokenizer.encode(text)) + 2 for text in texts]  # and the tokens of start and end
        cleaned = [self.tokenizer.clean_fn(text) for text in texts]
        return [len(ids) for ids in self.tokenizer.tokenizer(cleaned)["input_ids"]]


def load_text(model: Path, tokenizer: Path, variant: str | None = None) -> CLIPText | OpenClipText:
    """The text encoder in a pipeline's ``text_encoder/``, with the ``tokenizer/`` beside it where it has none of its own."""
    if (model / OPEN_CLIP_CONFIG).is_file():
        return OpenClipText.from_pretrained(model)
    return CLIPText.from_pretrained(model, tokenizer, variant)


def _check_lengths(encoder: TextEncoder, texts: Sequence[str]) -> None:
    for text, length in zip(texts, encoder.lengths(texts), strict=True):
        if length > encoder.length:
            raise ValueError(
                f"The caption {text!r} has {length} tokens, the text encoder takes {encoder.length}: shorten the graph's "
                "phrases or the template, or name fewer attributes."
            )


def _digest(vocabulary: Mapping[str, int]) -> str:
    return hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest()[:16]
