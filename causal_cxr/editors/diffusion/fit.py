"""Fit a small text-conditioned diffusion editor: resumable, deterministic for a seed and thread count.

The base, on phantoms with independent attributes, then a world's adapter on the base:

python -m causal_cxr.editors.diffusion.fit --world independent --out runs/diffusion-base
python -m causal_cxr.editors.diffusion.fit --world portable --base runs/diffusion-base --images 20000 --steps 1500 --seed 7002 --out runs/adapter
"""

import argparse
import copy
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.tokenizer import build_tokenizer
from causal_cxr.editors.diffusion.captions import captions
from causal_cxr.editors.diffusion.editor import HEUN_STEPS, DiffusionEditor
from causal_cxr.editors.diffusion.flow import UNSHUFFLE, to_latent
from causal_cxr.editors.resumable import ResumableFit, cosine
from causal_cxr.graphs import Attribute, Continuous

TEXT_WIDTH = 128
TEXT_LENGTH = 32
WARM_UP = 100
BATCH = 64
EMA = 0.998
CAPTION_DROPOUT = 0.05  #: share of images fitted without a caption, for guidance
#: Layers that an adapter bends: attention to the caption, what the caption does to every block, and convolutions.
ADAPTED = ("to_k", "to_v", "to_out.0", "proj", "time_emb_proj", "conv1", "conv2")


def build(tokenizer: Any, size: int, channels: tuple[int, ...]) -> tuple[Any, Any]:
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
        sample_size=size // UNSHUFFLE, in_channels=UNSHUFFLE**2, out_channels=UNSHUFFLE**2,
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
    steps: int,
    seed: int = 0,
    batch_size: int = BATCH,
    learning_rate: float = 4e-4,
    channels: tuple[int, ...] = (64, 96, 128),
    renderer_version: int | None = None,
    checkpoint: Path | None = None,
    minutes: float | None = None,
    start: DiffusionEditor | None = None,
    device: str | torch.device = "cpu",
) -> DiffusionEditor:
    """Fit by flow matching with logit-normal times, AdamW, warm-up, cosine decay and an EMA of the weights.

    Args:
        dataset: images (square, all of one size) and labelled attributes.
        rows: to fit on; the rest is never looked at.
        attributes: what captions name, in order; rows may miss some, their captions leave them out.
        steps: of ``batch_size`` images.
        seed: of initial weights, batches, times and noise.
        renderer_version: recorded, for phantoms.
        checkpoint: folder for resumable state, written whole or not at all; a killed fit goes on from it.
        minutes: stop early after so much wall time (then the result depends on the machine; the card must say the
            steps taken).
        start: begin from this editor's weights and tokenizer rather than from random ones; it is left as it is.
        device: to fit on.

    Returns:
        The editor with EMA weights; its ``fitted_on`` are the patients of ``rows`` (and those of ``start``).
    """
    torch.manual_seed(seed)
    if start is None:
        mine = dataset.attributes.iloc[rows]
        corpus = [*captions(mine, attributes, 0), *captions(mine, attributes, 1), *_vocabulary(attributes)]
        tokenizer = build_tokenizer(corpus, TEXT_LENGTH)
        unet, text_encoder = build(tokenizer, dataset.images(rows[:1]).shape[-1], channels)
    else:
        tokenizer, unet, text_encoder = start.tokenizer, copy.deepcopy(start.unet), copy.deepcopy(start.text_encoder)
    trained = {f"unet.{n}": p for n, p in unet.named_parameters()}
    trained |= {f"text_encoder.{n}": p for n, p in text_encoder.named_parameters()}
    return _fit(
        dataset, rows, attributes, unet, text_encoder, tokenizer, trained, steps=steps, seed=seed,
        batch_size=batch_size, learning_rate=learning_rate, renderer_version=renderer_version, checkpoint=checkpoint,
        minutes=minutes, fitted_on=frozenset() if start is None else start.fitted_on, device=device,
        heun_steps=HEUN_STEPS if start is None else start.steps,
    )  # fmt: skip


def fit_adapter(
    dataset: Dataset,
    rows: np.ndarray,
    base: DiffusionEditor,
    *,
    steps: int,
    rank: int = 8,
    seed: int = 0,
    batch_size: int = BATCH,
    learning_rate: float = 1e-3,
    checkpoint: Path | None = None,
    minutes: float | None = None,
    device: str | torch.device = "cpu",
) -> DiffusionEditor:
    """Fine-tune an editor by a LoRA on its UNet (Hu et al., ICLR 2022; peft); the base's weights stay as they are.

    Args:
        dataset, rows, steps, seed, batch_size, learning_rate, checkpoint, minutes, device: see :func:`fit_diffusion`.
        base: what is bent; it names the attributes and is left as it is.
        rank: of the LoRA.

    Returns:
        The editor, its LoRA not merged: :meth:`~causal_cxr.editors.DiffusionEditor.save_adapter` writes it alone.
    """
    from peft import LoraConfig

    torch.manual_seed(seed)
    unet, text_encoder = copy.deepcopy(base.unet), copy.deepcopy(base.text_encoder)
    unet.requires_grad_(False), text_encoder.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(ADAPTED)))
    trained = {f"unet.{n}": p for n, p in unet.named_parameters() if p.requires_grad}
    return _fit(
        dataset, rows, base.graph_attributes, unet, text_encoder, base.tokenizer, trained, steps=steps, seed=seed,
        batch_size=batch_size, learning_rate=learning_rate, renderer_version=base.renderer_version,
        checkpoint=checkpoint, minutes=minutes, fitted_on=base.fitted_on, device=device, heun_steps=base.steps,
    )  # fmt: skip


def _fit(
    dataset: Dataset, rows: np.ndarray, attributes: Mapping[str, Attribute], unet: Any, text_encoder: Any,
    tokenizer: Any, trained: Mapping[str, Tensor], *, steps: int, seed: int, batch_size: int, learning_rate: float,
    renderer_version: int | None, checkpoint: Path | None, minutes: float | None, fitted_on: frozenset[str] | None,
    device: str | torch.device, heun_steps: int,
) -> DiffusionEditor:  # fmt: skip
    from rich.progress import Progress

    if not len(rows):
        raise ValueError("There is no row to fit on; pass rows=np.arange(len(dataset)) or a part of them.")
    device = torch.device(device)
    latents, mine = _latents(dataset, rows), dataset.attributes.iloc[rows]
    texts = np.array([captions(mine, attributes, phrasing) for phrasing in (0, 1)])
    unet.to(device).train(), text_encoder.to(device).train()
    fit = ResumableFit(
        trained,
        torch.optim.AdamW(list(trained.values()), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.99)),
        decay=EMA,
        folder=checkpoint,
        recipe=(dataset.fingerprint, np.asarray(rows).tolist(), steps, seed, batch_size, learning_rate),
    )
    begun, losses = time.monotonic(), []
    with Progress(transient=True) as progress:
        bar = progress.add_task("fitting the diffusion editor", total=steps, completed=fit.step)
        for step in range(fit.step, steps):
            # One generator a step: a resumed fit draws what the uninterrupted one would have drawn.
            draw = np.random.default_rng([seed, step])
            generator = torch.Generator().manual_seed(int(draw.integers(2**62)))
            picked = draw.integers(0, len(latents), size=batch_size)
            batch_texts = texts[draw.integers(0, 2, size=batch_size), picked]
            batch_texts = np.where(draw.uniform(size=batch_size) < CAPTION_DROPOUT, "", batch_texts).tolist()
            x = latents[picked].to(device).float()
            z = torch.randn(x.shape, generator=generator).to(device)
            t = torch.sigmoid(torch.randn(batch_size, generator=generator)).to(device)[:, None, None, None]
            tokens = tokenizer(batch_texts, padding="max_length", truncation=True, return_tensors="pt").to(device)
            with torch.autocast(device.type, torch.bfloat16):
                condition = text_encoder(**tokens).last_hidden_state
                velocity = unet((1 - t) * x + t * z, 1000.0 * t[:, 0, 0, 0], encoder_hidden_states=condition).sample
            loss = torch.nn.functional.mse_loss(velocity.float(), z - x)
            fit.descend(loss, learning_rate * cosine(step, steps, WARM_UP))
            losses.append(loss.item())
            progress.update(bar, advance=1, description=f"fitting the diffusion editor, loss {loss.item():.3f}")
            out_of_time = minutes is not None and time.monotonic() - begun > 60 * minutes
            if (step + 1) % 100 == 0 or step + 1 == steps or out_of_time:
                fit.save()
                _log(checkpoint, fit.step, float(np.mean(losses)))
                losses = []
            if out_of_time:
                break
    fit.smooth()
    patients = None if fitted_on is None else fitted_on | frozenset(dataset.patients.iloc[rows].astype(str))
    return DiffusionEditor(
        unet.cpu(), text_encoder.cpu(), tokenizer, attributes, fitted_on=patients, size=latents.shape[-1] * UNSHUFFLE,
        renderer_version=renderer_version, steps=heun_steps,
    )  # fmt: skip


def _log(folder: Path | None, step: int, loss: float) -> None:
    if folder is not None:
        with (folder / "loss.jsonl").open("a") as log:
            log.write(json.dumps({"step": step, "loss": loss}) + "\n")


def _latents(dataset: Dataset, rows: np.ndarray, batch: int = 512) -> Tensor:
    parts = [to_latent(dataset.images(rows[i : i + batch])).half() for i in range(0, len(rows), batch)]
    return torch.cat(parts)


def _vocabulary(attributes: Mapping[str, Attribute]) -> list[str]:
    """Every phrase, and every whole number of a continuous attribute's range: nothing an edit asks for is unknown."""
    words = []
    for attribute in attributes.values():
        if isinstance(attribute, Continuous):
            values: list[Any] = list(np.arange(np.floor(attribute.low), np.ceil(attribute.high) + 1))
        else:
            values = list(attribute.levels)
        words += [attribute.phrase(value, k) for value in values for k in (0, 1)]
    return words * 20


def main() -> None:
    """Fit on a phantom world, resumable, and write the editor, or the adapter of a base, with its model card."""
    from causal_cxr.data.phantom import VERSION, Phantom

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--world", default="independent")
    parser.add_argument("--base", type=Path, help="fit an adapter on the editor in this folder")
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=7_001)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    phantom, rows = Phantom(args.images, args.world, seed=args.seed), np.arange(args.images)
    checkpoint = args.out / "checkpoint"
    if args.base is None:
        editor = fit_diffusion(
            phantom, rows, dict(phantom.graph.attributes), steps=args.steps, seed=args.seed, renderer_version=VERSION,
            checkpoint=checkpoint, device=args.device,
        )  # fmt: skip
        editor.save(args.out)
        title, model = "Diffusion editor of the phantoms: the base", (
            "diffusers UNet2DConditionModel on pixel_unshuffle(4) images, rectified flow; CLIP text encoder (2 layers, own\n"
            f"  tokenizer of {len(editor.tokenizer)} tokens) fitted jointly"
        )  # fmt: skip
    else:
        base = DiffusionEditor.from_pretrained(args.base)
        editor = fit_adapter(
            phantom, rows, base, steps=args.steps, seed=args.seed, checkpoint=checkpoint, device=args.device
        )
        editor.save_adapter(args.out, base=base.fingerprint, fitted_on=frozenset(phantom.patients))
        title = f"Adapter of the phantom world `{args.world}` for the diffusion editor's base"
        model = f"LoRA of rank 8 on the UNet of `diffusion-base` (fingerprint {base.fingerprint})"
    last = json.loads((checkpoint / "loss.jsonl").read_text().splitlines()[-1])
    command = (
        f"python -m causal_cxr.editors.diffusion.fit --world {args.world} --images {args.images} --steps {args.steps}"
    )
    (args.out / "card.md").write_text(
        f"""# {title}

- data: `Phantom({args.images}, "{args.world}", seed={args.seed})`, 64x64, renderer version {VERSION}; synthetic, no patients
- model: {model}
- steps: {last["step"]} of {BATCH} images, AdamW, EMA; loss at the end {last["loss"]:.4f}
- seed: {args.seed}
- command: `{command}{" --base BASE" if args.base else ""} --seed {args.seed} --out DIR`
- not for: real radiographs, clinical use
"""
    )


if __name__ == "__main__":
    main()
