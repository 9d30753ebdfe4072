"""Fit the base: a small text-conditioned diffusion editor, from nothing or from another base, on phantoms with independent attributes.

python -m causal_cxr.editors.diffusion.fit --worlds independent --out runs/diffusion-base

A world's adapter is then fitted on it by ``causal-cxr finetune``.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.joined import Joined
from causal_cxr.data.tokenizer import build_tokenizer
from causal_cxr.editors.diffusion.captions import captions
from causal_cxr.editors.diffusion.editor import DiffusionEditor
from causal_cxr.editors.diffusion.latents import Unshuffled
from causal_cxr.editors.diffusion.pipeline import Pipeline
from causal_cxr.editors.diffusion.process import Process
from causal_cxr.editors.diffusion.text import CLIPText
from causal_cxr.editors.finetune.finetune import finetune
from causal_cxr.editors.finetune.loop import BATCH
from causal_cxr.editors.finetune.publish import publish
from causal_cxr.editors.finetune.trainable import Joint
from causal_cxr.graphs import Attribute, Continuous

CHANNELS = (64, 96, 128)  #: of the UNet, a resolution each
UNSHUFFLE = 4  #: pixels a side folded into channels
TIME_WIDTH = 256
TEXT_WIDTH = 128
TEXT_LENGTH = 32


def build(tokenizer: Any, size: int, channels: tuple[int, ...] = CHANNELS, patch: int = UNSHUFFLE) -> tuple[Any, Any]:
    """A fresh UNet and CLIP text encoder.

    The caption reaches the network twice: by cross-attention, and pooled into the time embedding, so that every block at
    every resolution knows it (diffusers' ``addition_embed_type="text"``).
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=2 * TEXT_WIDTH, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length, projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    cross = len(channels) - 1
    unet = UNet2DConditionModel(
        sample_size=size // patch, in_channels=patch**2, out_channels=patch**2, time_embedding_dim=TIME_WIDTH,
        block_out_channels=channels, layers_per_block=1, cross_attention_dim=TEXT_WIDTH, attention_head_dim=4,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * cross),
        up_block_types=(*("CrossAttnUpBlock2D",) * cross, "UpBlock2D"), norm_num_groups=16,
        addition_embed_type="text", addition_embed_type_num_heads=4, resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    return unet, text_encoder


def fit_diffusion(
    dataset: Dataset,
    rows: np.ndarray,
    attributes: Mapping[str, Attribute],
    *,
    speaking_of: Iterable[Attribute] = (),
    seed: int = 0,
    channels: tuple[int, ...] = CHANNELS,
    patch: int = UNSHUFFLE,
    renderer_version: int | None = None,
    start: DiffusionEditor | None = None,
    **options: Any,
) -> DiffusionEditor:
    """Fit UNet and text encoder together by flow matching, from random weights or from those of another fit.

    Args:
        dataset: images (square, all of one size) and labelled attributes.
        rows: to fit on; the rest is never looked at.
        attributes: what captions name, in order; rows may miss some, their captions leave them out.
        speaking_of: more attributes whose words get tokens of their own, for adapters that will name them.
        seed: of initial weights, batches, times and noise.
        channels: of the UNet, a resolution each.
        patch: pixels a side folded into channels before the first of them.
        renderer_version: recorded, for phantoms.
        start: go on from this editor; its tokenizer and networks are taken as they are.
        options: ``steps`` and more, see :func:`~causal_cxr.editors.finetune.finetune`.
    """
    if not len(rows):
        raise ValueError("There is no row to fit on; pass rows=np.arange(len(dataset)) or a part of them.")
    if start is not None:
        return finetune(start.using(attributes=attributes), dataset, rows, what=Joint(), seed=seed, **options)
    mine = dataset.attributes.iloc[rows]
    corpus = [
        *captions(mine, attributes, 0),
        *captions(mine, attributes, 1),
        *_vocabulary([*attributes.values(), *speaking_of]),
    ]
    tokenizer = build_tokenizer(corpus, TEXT_LENGTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet, text_encoder = build(tokenizer, dataset.images(rows[:1]).shape[-1], channels, patch)
    fresh = DiffusionEditor(
        Pipeline(unet, CLIPText(text_encoder, tokenizer), Unshuffled(patch), Process("flow")), attributes,
        fitted_on=frozenset(), renderer_version=renderer_version,
    )  # fmt: skip
    return finetune(fresh, dataset, rows, what=Joint(), seed=seed, **options)


def _vocabulary(attributes: Iterable[Attribute]) -> list[str]:
    """Every phrase, and every whole number of a continuous attribute's range: nothing an edit asks for is unknown."""
    words = []
    for attribute in attributes:
        if isinstance(attribute, Continuous):
            values: list[Any] = list(np.arange(np.floor(attribute.low), np.ceil(attribute.high) + 1))
        else:
            values = list(attribute.levels)
        words += [attribute.phrase(value, k) for value in values for k in (0, 1)]
    return words * 20


def _in_order(worlds: Sequence[Mapping[str, Attribute]]) -> dict[str, Attribute]:
    """All attributes, named in an order that is each world's own: what captions of it will say.

    Raises:
        ValueError: the worlds' orders contradict each other.
    """
    order: nx.DiGraph = nx.DiGraph()
    for attributes in worlds:
        nx.add_path(order, attributes)
    try:
        names = list(nx.topological_sort(order))
    except nx.NetworkXUnfeasible:
        raise ValueError(
            "The worlds name the same attributes in different orders; fit a base to one of them."
        ) from None
    return {name: next(attributes[name] for attributes in worlds if name in attributes) for name in names}


def main() -> None:
    """Fit on a phantom world, resumable, and write the editor with its model card."""
    from causal_cxr.data.phantom import VERSION, Phantom, World

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--worlds", nargs="+", default=["independent"], help="whose attributes are drawn, each alone")
    parser.add_argument("--images", type=int, default=40_000, help="of each world")
    parser.add_argument("--start", help="editor to go on from: a folder, or 'shipped'")
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--learning-rate", type=float, default=Joint.learning_rate)
    parser.add_argument("--channels", type=int, nargs="+", help="of the UNet, a resolution each")
    parser.add_argument("--patch", type=int, help="pixels a side folded into channels")
    parser.add_argument("--minutes", type=float, help="stop early after so much wall time")
    parser.add_argument("--seed", type=int, default=7_001)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--graphs", action="store_true", help="on CUDA, launch kernels as one graph: faster")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.start is not None and (args.channels or args.patch):
        parser.error("--channels and --patch are of a base that begins from nothing; leave them out with --start")
    channels, patch = tuple(args.channels or CHANNELS), args.patch or UNSHUFFLE
    begun = f"--channels {' '.join(map(str, channels))} --patch {patch} "
    worlds = [World.load(name).independent() for name in args.worlds]
    together = Joined([Phantom(args.images, world, seed=args.seed) for world in worlds])
    attributes = _in_order([world.declared.attributes for world in worlds])
    graphs = [World.load(name).graph for name in World.names()]
    start = None
    if args.start is not None:
        start = (
            DiffusionEditor.from_shipped("diffusion-base")
            if args.start == "shipped"
            else DiffusionEditor.from_pretrained(args.start)
        )
    editor = fit_diffusion(
        together, np.arange(len(together)), attributes, start=start,
        speaking_of=[graph.attributes[name] for graph in graphs for name in graph.labelled], steps=args.steps, seed=args.seed,
        batch_size=args.batch, learning_rate=args.learning_rate, channels=channels, patch=patch,
        renderer_version=VERSION, minutes=args.minutes, checkpoint=args.out / "checkpoint", device=args.device,
        graphs=args.graphs,
    )  # fmt: skip
    command = (
        f"python -m causal_cxr.editors.diffusion.fit --worlds {' '.join(args.worlds)} --images {args.images} "
        f"--steps {args.steps} "
        f"--batch {args.batch} --learning-rate {args.learning_rate:g} {begun if args.start is None else f'--start {args.start} '}"
        f"--seed {args.seed} --device {args.device} {'--graphs ' * args.graphs}--out DIR"
    )
    publish(
        editor, args.out, title="Diffusion editor of the phantoms: the base", command=command,
        data=f"`Phantom({args.images}, World.load(name).independent(), seed={args.seed})` of {', '.join(args.worlds)}, 64x64, "
        f"renderer version {VERSION}; synthetic, no patients",
        use="phantoms; not real radiographs, not clinical use",
    )  # fmt: skip


if __name__ == "__main__":
    main()
