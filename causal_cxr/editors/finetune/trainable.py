"""What of a pipeline is fitted: all of it, the denoiser, a low-rank change of it, or words that the text encoder lacks."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from causal_cxr.editors.diffusion.pipeline import Pipeline
from causal_cxr.editors.diffusion.text import CLIPText
from causal_cxr.graphs import Attribute, Continuous, Value

#: Layers that an adapter bends. With an autoencoder: attention, as is customary for Stable Diffusion. Our own small
#: networks: also what the caption does to every block, and convolutions.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
ADAPTED = ("to_k", "to_v", "to_out.0", "proj", "time_emb_proj", "conv1", "conv2")


class Trainable(Protocol):
    """What of a pipeline is fitted. Its ``repr`` is part of a fit's recipe.

    Attributes:
        learning_rate: customary for it.
        weight_decay: likewise.
    """

    learning_rate: ClassVar[float]
    weight_decay: ClassVar[float]

    def prepare(self, pipeline: Pipeline, attributes: Mapping[str, Attribute]) -> dict[str, Tensor]:
        """Make a pipeline that belongs to the fit ready for it.

        Args:
            pipeline: may be changed; none of its weights asks for a gradient.
            attributes: that captions name.

        Returns:
            the weights that are fitted, by name; those of the text encoder begin with ``text``.
        """
        ...

    def finish(self, pipeline: Pipeline) -> None:
        """Put the pipeline in the form in which it is used and saved."""
        ...

    def named(self, attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
        """The attributes with the words that name their values from now on."""
        ...


class _Plain:
    """Neither words nor layers change."""

    def finish(self, pipeline: Pipeline) -> None:
        """See :class:`Trainable`."""

    def named(self, attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
        """See :class:`Trainable`."""
        return dict(attributes)


@dataclass(frozen=True)
class Joint(_Plain):
    """UNet and text encoder together: how a base is fitted."""

    learning_rate: ClassVar[float] = 4e-4
    weight_decay: ClassVar[float] = 0.01

    def prepare(self, pipeline: Pipeline, attributes: Mapping[str, Attribute]) -> dict[str, Tensor]:
        """See :class:`Trainable`."""
        return _asking("unet", pipeline.unet) | _asking("text_encoder", pipeline.text.model)


@dataclass(frozen=True)
class Denoiser(_Plain):
    """The whole UNet, the text encoder frozen: what RoentGen and its successors do."""

    learning_rate: ClassVar[float] = 1e-4
    weight_decay: ClassVar[float] = 0.01

    def prepare(self, pipeline: Pipeline, attributes: Mapping[str, Attribute]) -> dict[str, Tensor]:
        """See :class:`Trainable`."""
        return _asking("unet", pipeline.unet)


@dataclass(frozen=True)
class LoRA(_Plain):
    """A low-rank change of the UNet's layers (Hu et al., ICLR 2022; peft); not merged into them.

    Attributes:
        rank: of the change.
        layers: ends of the names of the layers that are bent; :data:`ATTENTION` under an autoencoder and
            :data:`ADAPTED` without one unless given.
    """

    rank: int = 8
    layers: tuple[str, ...] | None = None
    learning_rate: ClassVar[float] = 1e-3
    weight_decay: ClassVar[float] = 0.01

    def prepare(self, pipeline: Pipeline, attributes: Mapping[str, Attribute]) -> dict[str, Tensor]:
        """See :class:`Trainable`.

        Raises:
            ValueError: the UNet carries an adapter already.
        """
        from peft import LoraConfig

        if getattr(pipeline.unet, "_hf_peft_config_loaded", False):
            raise ValueError("The editor carries an adapter that is not merged; save it and load it on its base first.")
        layers = self.layers or (ATTENTION if pipeline.latents.evaluations else ADAPTED)
        pipeline.unet.add_adapter(LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=list(layers)))
        return {f"unet.{name}": p for name, p in pipeline.unet.named_parameters() if p.requires_grad}


@dataclass(frozen=True)
class Tokens:
    """New words for attribute values, and nothing else (textual inversion; Gal et al., ICLR 2023).

    Each word is one token with one learned embedding; captions use it in place of the value's phrases. For attributes
    that the text encoder has no good words for.

    Attributes:
        words: attribute -> level -> word, e.g. ``{"view": {"AP": "<view-ap>"}}``.
        start: word -> the phrase whose mean embedding it starts from; the value's own phrase unless given.
    """

    words: Mapping[str, Mapping[Value, str]]
    start: Mapping[str, str] = field(default_factory=dict)
    learning_rate: ClassVar[float] = 5e-3
    weight_decay: ClassVar[float] = 0.0

    def prepare(self, pipeline: Pipeline, attributes: Mapping[str, Attribute]) -> dict[str, Tensor]:
        """See :class:`Trainable`.

        Raises:
            ValueError: the words do not suit the attributes, or the text encoder cannot learn words.
        """
        from tokenizers import AddedToken

        text = pipeline.text
        if not isinstance(text, CLIPText):
            raise ValueError(f"Words can be added to a CLIPText encoder, this is {type(text).__name__}; use LoRA().")
        starts = self._starts(attributes)
        known = sorted(set(starts) & set(text.tokenizer.get_vocab()))
        if known:
            raise ValueError(f"The tokenizer has the words {known} already; choose others, such as '<view-ap>'.")
        old: nn.Embedding = text.model.get_input_embeddings()
        if old.num_embeddings != len(text.tokenizer):
            raise ValueError(
                f"The text encoder embeds {old.num_embeddings} tokens and its tokenizer has {len(text.tokenizer)}; "
                "resize one of them first (resize_token_embeddings)."
            )
        new = torch.stack([_mean_embedding(text, old, phrase) for phrase in starts.values()])
        tokenizer = copy.deepcopy(text.tokenizer)
        tokenizer.add_tokens([AddedToken(word, normalized=False) for word in starts])
        widened = _Widened(old, new)
        text.model.set_input_embeddings(widened)
        pipeline.text = CLIPText(text.model, tokenizer, masked=text.masked)
        return {"text_encoder.words": widened.new}

    def finish(self, pipeline: Pipeline) -> None:
        """See :class:`Trainable`: one table of all embeddings."""
        model = pipeline.text.model
        widened = model.get_input_embeddings()
        table = torch.cat([widened.old.weight, widened.new]).detach()
        model.set_input_embeddings(widened.old)
        model.resize_token_embeddings(len(table), mean_resizing=False)
        model.get_input_embeddings().weight.data.copy_(table)

    def named(self, attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
        """See :class:`Trainable`."""
        named = dict(attributes)
        for name, words in self.words.items():
            attribute = named[name]
            assert not isinstance(attribute, Continuous)
            phrases = dict(attribute.phrases) | {attribute.check(level): word for level, word in words.items()}
            named[name] = replace(attribute, phrases=phrases)
        return named

    def _starts(self, attributes: Mapping[str, Attribute]) -> dict[str, str]:
        """Word -> phrase that it starts from."""
        starts: dict[str, str] = {}
        for name, words in self.words.items():
            attribute = attributes.get(name)
            if attribute is None or isinstance(attribute, Continuous):
                levelled = [n for n, a in attributes.items() if not isinstance(a, Continuous)]
                raise ValueError(f"Words can name levels of {levelled}; {name!r} is not one of these.")
            for level, word in words.items():
                if word in starts or word != "".join(word.split()) or not word:
                    raise ValueError(f"{word!r} is no new word; give each level one of its own, without spaces.")
                starts[word] = self.start.get(word, attribute.phrase(level))
        if not starts:
            raise ValueError("There is no word to learn; pass Tokens({'view': {'AP': '<view-ap>'}}).")
        return starts


class _Widened(nn.Module):
    """An embedding table that is left as it is, with more rows behind it."""

    def __init__(self, old: nn.Embedding, new: Tensor) -> None:
        super().__init__()
        self.old, self.new = old, nn.Parameter(new)

    def forward(self, ids: Tensor) -> Tensor:
        """States of token numbers, new ones from ``len(old)`` on."""
        n = self.old.num_embeddings
        added = nn.functional.embedding((ids - n).clamp(min=0), self.new)
        return torch.where((ids >= n)[..., None], added, self.old(ids.clamp(max=n - 1)))


def _asking(part: str, model: Any) -> dict[str, Tensor]:
    model.requires_grad_(True)
    return {f"{part}.{name}": p for name, p in model.named_parameters()}


def _mean_embedding(text: CLIPText, table: nn.Embedding, phrase: str) -> Tensor:
    ids = text.tokenizer(phrase, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ValueError(f"The phrase {phrase!r} to start a word from has no token; give another in start=.")
    return table.weight.detach()[torch.tensor(ids, device=table.weight.device)].mean(0)
