"""Attention control: a second run of the network attends as the first does (prompt-to-prompt; Hertz et al., 2022)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PLAIN = ("AttnProcessor", "AttnProcessor2_0")  #: what can be stood in for: plain scaled dot products


@dataclass(frozen=True)
class Control:
    """What an edited run takes over; the batch is ``[source; edited; ...]``, ``n`` images each.

    Attributes:
        n: images.
        sources: whether the batch begins with the source run; without it maps are weighed only.
        alignment: ``(n, length)`` for each token of the edited caption the token of the source's whose cross-attention
            map it takes; -1 = its own.
        factors: ``(n, length)`` of the edited caption's maps.
        cross: take cross-attention over.
        self_positions: take self-attention over in feature maps of so many positions at most; 0 = nowhere.
    """

    n: int
    sources: bool
    alignment: Tensor
    factors: Tensor
    cross: bool
    self_positions: int

    def __call__(self, maps: Tensor, *, crosses: bool) -> Tensor:
        """``(images, heads, positions, keys)`` attention probabilities as they are to be."""
        at = self.n if self.sources else 0
        source, edited, others = maps[:at], maps[at : at + self.n], maps[at + self.n :]
        if crosses:
            if self.cross:
                taken = self.alignment[:, None, None, :].expand_as(edited)
                edited = torch.where(taken >= 0, source.gather(-1, taken.clamp_min(0)), edited)
            edited = edited * self.factors[:, None, None, :].to(edited.dtype)
        elif self.sources and maps.shape[-1] <= self.self_positions:
            edited = source
        return torch.cat([source, edited, others])


@contextmanager
def controlled(unet: Any, control: Control) -> Iterator[None]:
    """Within, the network's attention is under control; its own processors are put back after.

    Raises:
        ValueError: a layer attends in a way that is not plain.
    """
    own = dict(unet.attn_processors)
    for name, processor in own.items():
        if type(processor).__name__ not in PLAIN:
            raise ValueError(
                f"Attention control needs plain attention layers, and {name} has {type(processor).__name__}; edit this "
                "network with another guidance."
            )
    unet.set_attn_processor({name: _Processor(control) for name in own})
    try:
        yield
    finally:
        unet.set_attn_processor(own)


class _Processor:
    """diffusers' ``AttnProcessor`` with its probabilities controlled."""

    def __init__(self, control: Control) -> None:
        self.control = control

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        shape, residual = hidden_states.shape, hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).mT
        told = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        attention_mask = attn.prepare_attention_mask(attention_mask, told.shape[1], len(told))
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.mT).mT
        if encoder_hidden_states is None:
            told = hidden_states
        elif attn.norm_cross:
            told = attn.norm_encoder_hidden_states(told)
        query, key, value = (
            attn.head_to_batch_dim(layer(states))
            for layer, states in ((attn.to_q, hidden_states), (attn.to_k, told), (attn.to_v, told))
        )
        maps = attn.get_attention_scores(query, key, attention_mask)
        by_head = maps.view(len(hidden_states), attn.heads, *maps.shape[1:])
        maps = self.control(by_head, crosses=encoder_hidden_states is not None).reshape(maps.shape)
        out = attn.batch_to_head_dim(torch.bmm(maps, value))
        for layer in attn.to_out:
            out = layer(out)
        if len(shape) == 4:
            out = out.mT.reshape(shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


def align(source: Sequence[int], target: Sequence[int], *, swap: bool = True) -> list[int]:
    """For each token of ``target`` the place in ``source`` of its like, -1 where it has none.

    By a longest common subsequence. ``swap``: between tokens that are alike, as many tokens on both sides pair up in order
    (a word is replaced by another, and takes its place).

    >>> align([1, 7, 5, 2], [1, 8, 9, 5, 2])
    [0, -1, -1, 2, 3]
    >>> align([1, 7, 5, 2], [1, 8, 5, 2]), align([1, 7, 5, 2], [1, 8, 5, 2], swap=False)
    ([0, 1, 2, 3], [0, -1, 2, 3])
    """
    longest = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i in reversed(range(len(source))):
        for j in reversed(range(len(target))):
            longest[i][j] = (
                longest[i + 1][j + 1] + 1 if source[i] == target[j] else max(longest[i + 1][j], longest[i][j + 1])
            )
    pairs, i, j = [(-1, -1)], 0, 0
    while i < len(source) and j < len(target):
        if source[i] == target[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1
    found = [-1] * len(target)
    for (i, j), (i_next, j_next) in zip(pairs, [*pairs[1:], (len(source), len(target))], strict=True):
        if j >= 0:
            found[j] = i
        if swap and i_next - i == j_next - j:
            found[j + 1 : j_next] = range(i + 1, i_next)
    return found
