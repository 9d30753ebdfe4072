"""Image features by place: what an image tower makes of each of its patches."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def pooled_and_patches(visual: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features of whole images and of their patches, in one pass.

    A patch's feature is what the tower's own pooling makes of its last token alone. Of towers that average, the mean over
    patches is the image's feature; of those that attend, it is the projected value (MaskCLIP; Zhou et al., ECCV 2022).

    Args:
        visual: image tower of an open_clip model.
        x: ``(n, 3, h, w)``, preprocessed.

    Returns:
        ``(n, d)`` and ``(n, gh, gw, d)``, neither normalised.

    Raises:
        ValueError: this tower does not keep its patches apart.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, VisionTransformer):
        return _vision_transformer(visual, x)
    if isinstance(visual, TimmModel):
        return _timm(visual, x)
    if isinstance(visual, ModifiedResNet):
        out = visual.forward_intermediates(x, indices=1)
        pool, grid = visual.attnpool, out["image_intermediates"][-1].permute(0, 2, 3, 1)
        return out["image_features"], pool.c_proj(pool.v_proj(grid))
    raise _without_patches(visual)


def overlap(region: tuple[float, float, float, float], height: int, width: int) -> Tensor:
    """``(height, width)`` share of each cell of a grid that lies in a region given as fractions; adds to 1.

    A region smaller than a cell still has the cells it lies in; an empty one has none, and all is 0.
    """
    edges = []
    for low, high, cells in ((region[0], region[2], height), (region[1], region[3], width)):
        i = torch.arange(cells, dtype=torch.float32)
        edges.append((torch.clamp(i + 1, max=high * cells) - torch.clamp(i, min=low * cells)).clamp(min=0))
    shares = edges[0][:, None] * edges[1][None]
    return shares / shares.sum().clamp(min=1e-12)


def _vision_transformer(visual: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    # An attentional pool comes before the last norm, or after it if there is one of its own for the contrastive loss.
    first = visual.attn_pool is None or visual.attn_pool_contrastive is not None
    out = visual.forward_intermediates(x, indices=1, normalize_intermediates=first, output_fmt="NCHW")
    grid = out["image_intermediates"][-1].permute(0, 2, 3, 1)
    if visual.attn_pool is not None:
        tokens = grid.flatten(0, 2)[:, None]
        if visual.attn_pool_contrastive is None:
            tokens = visual.ln_post(_attended_alone(visual.attn_pool, tokens))
        else:
            if visual.attn_pool_type == "cascade":
                tokens = _attended_alone(visual.attn_pool, tokens)
            tokens = _attended_alone(visual.attn_pool_contrastive, tokens)
        grid = tokens[:, 0].unflatten(0, grid.shape[:3])
    return out["image_features"], grid if visual.proj is None else grid @ visual.proj


def _attended_alone(pool: Any, tokens: Tensor) -> Tensor:
    """``(n, 1, c)`` what a query finds where one token is all there is: the same for each query, so one is asked."""
    keys, query = pool.ln_k(tokens), pool.ln_q(pool.query[:1])
    return pool.attn(query.expand(len(tokens), 1, -1), keys, keys, need_weights=False)[0]


def _timm(visual: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    trunk = visual.trunk
    if "pool" in dict(visual.head.named_children()):  # attends over a grid of one fixed size
        raise _without_patches(visual)
    last = trunk.forward_features(x)
    if last.ndim == 3 and hasattr(trunk, "patch_embed"):
        prefix = getattr(trunk, "num_prefix_tokens", 0)
        height, width = trunk.patch_embed.grid_size
        tokens = last[:, prefix:].flatten(0, 1)[:, None]
        attends = getattr(trunk, "attn_pool", None) is not None
        skips = not getattr(trunk, "pool_include_prefix", False) if attends else trunk.global_pool != "token"
        alone = functional.pad(tokens, (0, 0, prefix if skips else 0, 0))  # pooling leaves out what comes first
    elif last.ndim == 4 and last.shape[1] == trunk.num_features:
        height, width = last.shape[-2:]
        alone = last.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]
    else:
        raise _without_patches(visual)
    patches = visual.head(trunk.forward_head(alone))
    return visual.head(trunk.forward_head(last)), patches.unflatten(0, (len(x), height, width))


def _without_patches(visual: nn.Module) -> ValueError:
    name = type(getattr(visual, "trunk", visual)).__name__
    return ValueError(f"The image tower {name} does not keep its patches apart; use regions='crop' or regions='whole'.")
