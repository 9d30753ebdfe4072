"""``ExemplarUNet``: a frozen UNet with gated cross-attention to exemplars, the gates closed at first."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from causal_cxr.editors.flamingo.resampler import ExemplarEncoder, idefics

HEADS = 4


class ExemplarUNet(nn.Module):
    """A UNet that also reads visual tokens, by layers that stand behind its own (Flamingo's gated cross-attention).

    The layers are transformers' ``IdeficsGatedCrossAttentionLayer`` with gates ``tanh(alpha)``, a gate a channel, opening
    from zero: until they are fitted, and wherever there is nothing to see, this is the base, bit for bit. The base's
    weights are never changed, nor is it left with anything attached to it.

    Args:
        base: diffusers' ``UNet2DConditionModel``; shared, frozen here.
        width: of the visual tokens.
        tokens: of a value.
        depth: of the perceiver resampler.

    Attributes:
        encoder: exemplars to tokens.
        layers: the gated layers, by the name of what they stand behind.
    """

    def __init__(self, base: Any, *, width: int = 64, tokens: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.settings = {"width": width, "tokens": tokens, "depth": depth}
        self.base = base
        self.encoder = ExemplarEncoder(base.config.in_channels, width=width, tokens=tokens, depth=depth)
        # Names of modules have dots, keys of a ModuleDict must not.
        self.layers = nn.ModuleDict({name.replace(".", "/"): _layer(size, width) for name, size in _places(base)})

    @property
    def config(self) -> Any:
        """The base's."""
        return self.base.config

    @property
    def added(self) -> dict[str, nn.Parameter]:
        """The weights that are not the base's, by name."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("base.")}

    def blind(self, n: int) -> Tensor:
        """The tokens of no exemplars, ``(n, tokens, width)``: zeros, which no layer attends to."""
        device = next(self.encoder.parameters()).device
        return torch.zeros(n, self.settings["tokens"], self.settings["width"], device=device)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        *,
        encoder_hidden_states: Tensor,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> Any:
        """As the base's; ``cross_attention_kwargs["visual"]`` are ``(n, any, width)`` tokens, zeros where there are none."""
        rest = dict(cross_attention_kwargs or {})
        visual = rest.pop("visual", None)
        options = others | ({"cross_attention_kwargs": rest} if rest else {})
        with self._attending(visual):
            return self.base(sample, timestep, encoder_hidden_states=encoder_hidden_states, **options)

    @contextmanager
    def _attending(self, visual: Tensor | None) -> Iterator[None]:
        """The layers behind their places for one call."""
        if visual is None:
            yield
            return
        seen = (visual != 0).any(-1)
        handles = [
            self.base.get_submodule(name.replace("/", ".")).register_forward_hook(
                partial(_behind, layer=layer, visual=visual, seen=seen)
            )
            for name, layer in self.layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _behind(module: nn.Module, inputs: Any, output: Any, *, layer: Any, visual: Tensor, seen: Tensor) -> Any:
    """The output ``(n, channels, h, w)`` of a place with what its layer reads added; as it is where nothing is seen."""
    x: Tensor = output if isinstance(output, Tensor) else output[0]
    any_seen = seen.any(-1)
    # Always a mask: without one Idefics' attention would take itself to be causal. A row of it may not be empty.
    mask = (seen | ~any_seen[:, None])[:, None, None, :].expand(-1, 1, x.shape[-2] * x.shape[-1], -1)
    told = layer(
        x.flatten(2).transpose(1, 2),
        image_hidden_states=visual,
        image_attention_mask=mask,
        cross_attention_gate=torch.ones(len(x), x.shape[-2] * x.shape[-1], device=x.device),
    )
    told = told.transpose(1, 2).reshape(x.shape).to(x.dtype)
    y = torch.where(any_seen[:, None, None, None], told, x)
    return y if isinstance(output, Tensor) else (y, *output[1:])


def _places(unet: Any) -> list[tuple[str, int]]:
    """Name and channels of each place: every transformer block, and every residual block on the way up without one."""
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    places = []
    for name, module in unet.named_modules():
        if isinstance(module, Transformer2DModel):
            places.append((name, int(module.config["num_attention_heads"] * module.config["attention_head_dim"])))
        elif isinstance(module, ResnetBlock2D) and name.startswith("up_blocks."):
            block = unet.up_blocks[int(name.split(".")[1])]
            if not getattr(block, "attentions", None):
                places.append((name, module.out_channels))
    if not places:
        raise ValueError("The UNet has no transformer block to stand behind; exemplars need a UNet2DConditionModel.")
    return places


def _layer(channels: int, width: int) -> nn.Module:
    from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

    config = idefics(
        width, hidden_size=channels, num_attention_heads=HEADS, intermediate_size=channels // 2, dropout=0.0,
        alpha_initializer="zeros", alpha_type="vector",
    )  # fmt: skip
    return IdeficsGatedCrossAttentionLayer(config, layer_idx=0)
