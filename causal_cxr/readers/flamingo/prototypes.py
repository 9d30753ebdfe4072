"""Where the second phase begins: weights with which Idefics' own layers compare an image with its exemplars.

A transformer can tell classes by prototypes in one layer (von Oswald et al., ICML 2023, build such weights for regression),
but it finds that out only after some ten thousand steps. Here they are set, and the fit goes on from them: gated
cross-attention puts what an image looks like beside its tokens, and its gated network signs that by the answer; the answers
are averaged by self-attention; the network after it multiplies the average with what the image that is asked about looks
like, which is the log odds of two Gaussian classes of one covariance.
"""

from typing import Any

import torch
from torch import Tensor

from causal_cxr.readers.flamingo.episodes import Bank

COMPARED = 96  #: numbers an image is compared in; the residual stream holds them twice
_ATTENTION = 4.0  #: with which the answers are found
_GATE = 2.0  #: of what follows an answer
_LOGIT = 0.075  #: log odds for a product of one


def start_with_prototypes(model: Any, bank: Bank, answers: tuple[int, int]) -> None:
    """Set the first layer, the embeddings of answers and their logits; all else stays as it is drawn.

    Args:
        model: from :func:`~causal_cxr.readers.flamingo.model.small_idefics`, one latent an image.
        bank: of what is seen; says along which directions signs are told (linear discriminants of its questions).
        answers: ids of yes and of no.

    Raises:
        ValueError: the residual stream is too narrow, or an image is more than one token.
    """
    width = model.config.hidden_size
    if width < 2 * COMPARED + 4 or bank.states.shape[2] != 1:
        raise ValueError(
            f"Prototypes need one token an image and a width of {2 * COMPARED + 4} or more, got {bank.states.shape[2]} "
            f"and {width}."
        )
    directions, centre = discriminants(bank, COMPARED)
    looks, shown = slice(0, COMPARED), slice(COMPARED, 2 * COMPARED)
    yes, no, always, told = range(2 * COMPARED, 2 * COMPARED + 4)
    n, head = COMPARED, width // model.config.num_attention_heads
    inner, cross, layer = model.model, model.model.gated_cross_attn_layers[0], model.model.layers[0]
    one = torch.eye(COMPARED)
    with torch.no_grad():
        # Every token: a constant, and the mean look, so that what is added to it is centred.
        inner.embed_tokens.weight[:, : told + 1] = 0.0
        inner.embed_tokens.weight[:, always] = 1.0
        inner.embed_tokens.weight[:, looks] = -(centre @ directions)
        for token, place in zip(answers, (yes, no), strict=True):
            inner.embed_tokens.weight[token, place] = 1.0
        gate = torch.tanh(cross.alpha_cross_attn.flatten()[0])
        # Cross-attention, one token an image: a linear map of its state.
        cross.cross_attn.v_proj.weight[:n] = directions.T
        for rows in (looks, shown, slice(yes, told + 1)):
            _clear(cross.cross_attn.o_proj.weight, rows)
        cross.cross_attn.o_proj.weight[:, :n] = 0.0
        cross.cross_attn.o_proj.weight[looks, :n] = one / gate
        # Its network: plus what the image looks like after yes, minus after no, nothing elsewhere.
        # By what a token is divided where an image has been seen: its root mean square.
        norm = (
            width / (float(((bank.states[:, :, 0].float() - centre) @ directions).square().sum(-1).mean()) + 2)
        ) ** 0.5
        passed = (
            torch.nn.functional.silu(torch.tensor(_GATE * norm)) * norm * torch.tanh(cross.alpha_dense.flatten()[0])
        )
        _clear(cross.mlp.down_proj.weight, shown)
        for i, (place, sign) in enumerate(((yes, 1.0), (no, -1.0))):
            units = slice(i * n, (i + 1) * n)
            cross.mlp.gate_proj.weight[units] = 0.0
            cross.mlp.gate_proj.weight[units, place] = _GATE
            cross.mlp.up_proj.weight[units] = 0.0
            cross.mlp.up_proj.weight[units, looks] = one
            cross.mlp.down_proj.weight[:, units] = 0.0
            cross.mlp.down_proj.weight[shown, units] = sign * one / passed
        # Self-attention from everywhere to the answers, along the pair of numbers that turns slowest with the place.
        attention = layer.self_attn
        slowest = torch.arange(n // head) * head + head // 2 - 1
        attention.q_proj.weight[:n] = 0.0
        attention.k_proj.weight[:n] = 0.0
        attention.q_proj.weight[slowest, always] = _ATTENTION
        attention.k_proj.weight[slowest, yes] = attention.k_proj.weight[slowest, no] = _ATTENTION
        attention.v_proj.weight[:n] = 0.0
        attention.v_proj.weight[:n, shown] = one
        _clear(attention.o_proj.weight, shown)
        attention.o_proj.weight[:, :n] = 0.0
        attention.o_proj.weight[shown, :n] = one
        # The network: the product of average and look, as silu(x) y - silu(-x) y = x y.
        _clear(layer.mlp.down_proj.weight, slice(told, told + 1))
        for i, sign in enumerate((1.0, -1.0)):
            units = slice(i * n, (i + 1) * n)
            layer.mlp.gate_proj.weight[units] = 0.0
            layer.mlp.gate_proj.weight[units, shown] = sign * one
            layer.mlp.up_proj.weight[units] = 0.0
            layer.mlp.up_proj.weight[units, looks] = one
            layer.mlp.down_proj.weight[:, units] = 0.0
            layer.mlp.down_proj.weight[told, units] = sign / norm**2
        model.lm_head.weight[answers[0], told] = _LOGIT / 2 / norm
        model.lm_head.weight[answers[1], told] = -_LOGIT / 2 / norm


def _clear(weight: Tensor, rows: slice) -> None:
    """Nothing but what is set is written to these numbers of the residual stream."""
    weight[rows] = 0.0


def discriminants(bank: Bank, many: int) -> tuple[Tensor, Tensor]:
    """``(d, many)`` directions along which a bank's made-up marks are told from all else that varies, and the mean look.

    Fisher's discriminants. Along each, the images have a variance in proportion to ``s / (1 + s)``, one in the mean, where
    ``s`` is how much of their variance differences between answers have (beyond what chance gives them): what no mark
    differs in is not compared.
    """
    states = bank.states.float()[:, :, 0]
    flat, signs = states.flatten(0, 1), len(bank.words)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    whitening = vectors / (values.clamp(min=0) + 1e-3 * values[-1]).sqrt()
    sides = [(bank.truths == side).float() for side in (1, 0)]
    counts = torch.stack([side.sum(1) for side in sides])
    has, lacks = (torch.einsum("gnq,gnd->gqd", side / side.sum(1, keepdim=True).clamp(min=1), states) for side in sides)
    enough = (counts >= 8).all(0)
    enough[:, :signs] = False
    apart = (has - lacks)[enough] @ whitening
    by_chance = (1 / counts[:, enough]).sum(0).mean()
    strength, best = torch.linalg.eigh(apart.T @ apart / len(apart))
    strength = (strength[-many:] - by_chance).clamp(min=0)
    weights = strength / (1 + strength)
    return whitening @ best[:, -many:] * (weights / weights.mean()).sqrt(), flat.mean(0)
