"""A small Idefics (transformers' open Flamingo) with a tokenizer of its own, and what it sees of images."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from packaging.version import Version
from torch import Tensor, eye, nn

from causal_cxr.data.tokenizer import build_tokenizer
from causal_cxr.readers.flamingo.prompt import IMAGE, Template

FAKE = "<fake_token_around_image>"


def small_tokenizer(wordings: Sequence[str], template: Template) -> Any:
    """A tokenizer of the words that questions are made of, with Idefics' two image tokens."""
    said = [template.question.format(sign=sign) for sign in wordings]
    corpus = [f"{text} {word}" for text in said for word in (template.yes, template.no)]
    tokenizer = build_tokenizer(corpus * 20, 2048)
    tokenizer.add_special_tokens({"additional_special_tokens": [FAKE, IMAGE]})
    return tokenizer


def small_idefics(
    tokenizer: Any,
    *,
    size: int = 8,
    channels: int = 1,
    vision_width: int = 256,
    vision_layers: int = 0,
    latents: int = 1,
    width: int = 256,
    layers: int = 2,
) -> Any:
    """An untrained ``IdeficsForVisionText2Text``; nothing in it is frozen, for there is no language model to keep.

    Its own vision tower, which sees the whole image as one patch, is as small as can be: an
    :class:`~causal_cxr.readers.flamingo.eye.Eye` stands in for it.

    Args:
        tokenizer: whose ids it reads.
        size, channels: pixels a side that its own vision tower sees, and their colours.
        vision_width: of what the perceiver is given, a multiple of 32.
        vision_layers: of its own vision tower.
        latents: tokens that the perceiver makes of an image.
        width, layers: of the language model, every layer of which is preceded by gated cross-attention.
    """
    from transformers import IdeficsConfig, IdeficsForVisionText2Text

    settings: Any = IdeficsConfig
    config = settings(
        vocab_size=len(tokenizer), additional_vocab_size=0, hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=layers, num_attention_heads=width // 32, initializer_range=0.02,
        # Gates of a model that is fitted from scratch start open; from zero they open only after thousands of steps.
        alpha_initializer="ones", alpha_type="vector", cross_layer_interval=1, qk_layer_norms=True,
        freeze_text_layers=False, freeze_vision_layers=False, use_resampler=True, tie_word_embeddings=False,
        max_position_embeddings=2048, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, attn_implementation="sdpa",
        vision_config={
            "embed_dim": vision_width, "image_size": size, "patch_size": size, "num_hidden_layers": vision_layers,
            "num_channels": channels, "num_attention_heads": vision_width // 32, "intermediate_size": 4 * vision_width,
            "initializer_range": 0.02,
        },
        perceiver_config={
            "use_resampler": True, "resampler_n_latents": latents, "resampler_depth": 1,
            "resampler_n_heads": vision_width // 32, "resampler_head_dim": 32, "qk_layer_norms_perceiver": True,
        },
    )  # fmt: skip
    model = IdeficsForVisionText2Text(config)
    # The padding token is the one for unknown words too; from the zeros it is drawn as, gradients are a thousandfold.
    nn.init.normal_(model.model.embed_tokens.weight, std=0.06)
    return model


def pass_on(model: Any) -> None:
    """Let the perceiver of a :func:`small_idefics` begin by handing on what it is given."""
    perceiver = model.model.perceiver_resampler
    perceiver.latents.data *= 0.1  # beside it, what every image gets is less
    attention = perceiver.blocks[0][0]
    for layer in (attention.v_proj, attention.output_proj):
        layer.weight.data += eye(*layer.weight.shape)


def seen(model: Any, images: Tensor, tower: nn.Module | None = None) -> Tensor:
    """``(n, tokens, width)`` what the vision tower and the perceiver make of images.

    Args:
        model: ``IdeficsForVisionText2Text``.
        images: ``(n, channels, h, w)``, normalised and sized as the tower awaits.
        tower: in place of the model's own: ``(n, channels, h, w)`` to ``(n, tokens, width)``.
    """
    if tower is None:
        states = model.model.vision_model(pixel_values=images.to(model.dtype)).last_hidden_state
    else:
        states = tower(images)
    return model.model.perceiver_resampler(states) if model.config.use_resampler else states


def normalised(model: Any, images: Tensor, mean: float, std: float) -> Tensor:
    """``(n, channels, h, w)`` of ``(n, h, w)`` images in [0, 1], on the model's device, for :func:`seen`."""
    flat = ((images.float() - mean) / std)[:, None].to(model.device)
    return flat.expand(-1, model.config.vision_config.num_channels, -1, -1)


def looked_at(model: Any, states: Tensor) -> dict[str, Tensor]:
    """What :func:`seen` gives, as the argument that the installed transformers takes it by.

    Args:
        model: ``IdeficsForVisionText2Text``.
        states: ``(n, k, tokens, width)`` of ``k`` images for each of ``n`` texts.
    """
    if not model.config.use_resampler:
        return {"image_encoder_embeddings": states}
    # From 5.24 on, what the perceiver gives is awaited without the axis of texts.
    return {
        "perceiver_embeddings": states if Version(version("transformers")) < Version("5.24") else states.flatten(0, 1)
    }
