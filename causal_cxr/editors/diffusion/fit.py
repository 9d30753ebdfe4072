"""Fit a small text-conditioned diffusion editor: resumable, deterministic for a seed and thread count.

python -m causal_cxr.editors.diffusion.fit --world portable --steps 2500 --out runs/diffusion-portable
"""

import argparse
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
from causal_cxr.editors.diffusion.editor import DiffusionEditor
from causal_cxr.editors.diffusion.flow import UNSHUFFLE, to_latent
from causal_cxr.graphs import Attribute

TEXT_WIDTH = 128
TEXT_LENGTH = 32
WARM_UP = 100
EMA = 0.998


def build(tokenizer: Any, size: int, channels: tuple[int, ...]) -> tuple[Any, Any]:
    """A fresh UNet and CLIP text encoder."""
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
    )  # fmt: skip
    return unet, text_encoder


def fit_diffusion(
    dataset: Dataset,
    rows: np.ndarray,
    attributes: Mapping[str, Attribute],
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = 64,
    learning_rate: float = 4e-4,
    channels: tuple[int, ...] = (64, 96, 128),
    caption_dropout: float = 0.05,
    renderer_version: int | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    minutes: float | None = None,
    start: DiffusionEditor | None = None,
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
        start: continue from this editor's weights rather than from random ones.

    Returns:
        The editor with EMA weights; its ``fitted_on`` are the patients of ``rows``.
    """
    from rich.progress import Progress
    from safetensors.torch import load_file, save_file

    torch.manual_seed(seed)
    latents, mine = _latents(dataset, rows), dataset.attributes.iloc[rows]
    texts = np.array([captions(mine, attributes, phrasing) for phrasing in (0, 1)])
    size = latents.shape[-1] * UNSHUFFLE
    if start is None:
        ages = [captions(mine, attributes, k) for k in (0, 1)]
        tokenizer = build_tokenizer([*ages[0], *ages[1], *_vocabulary(attributes)], TEXT_LENGTH)
        unet, text_encoder = build(tokenizer, size, channels)
    else:
        tokenizer, unet, text_encoder = start.tokenizer, start.unet, start.text_encoder
    unet.train(), text_encoder.train()
    names, parameters = zip(
        *[(f"unet.{n}", p) for n, p in unet.named_parameters()],
        *[(f"text_encoder.{n}", p) for n, p in text_encoder.named_parameters()],
        strict=True,
    )
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.99))
    average = [p.detach().clone() for p in parameters]

    state_file, first = (checkpoint / "state.safetensors" if checkpoint else None), 0
    if state_file and state_file.exists():
        state = load_file(state_file)
        first = int(state["step"])
        for i, (name, p) in enumerate(zip(names, parameters, strict=True)):
            p.data.copy_(state[f"weight.{name}"])
            average[i].copy_(state[f"average.{name}"])
            optimiser.state[p] = {
                "step": torch.tensor(float(first)),
                "exp_avg": state[f"first.{name}"],
                "exp_avg_sq": state[f"second.{name}"],
            }

    def tokenise(batch: list[str]) -> Any:
        return tokenizer(batch, padding="max_length", truncation=True, return_tensors="pt")

    begun, losses, step = time.monotonic(), [], first
    with Progress(transient=True) as progress:
        bar = progress.add_task("fitting the diffusion editor", total=steps, completed=first)
        for step in range(first, steps):
            # One generator a step: a resumed fit draws what the uninterrupted one would have drawn.
            draw = np.random.default_rng([seed, step])
            generator = torch.Generator().manual_seed(int(draw.integers(2**62)))
            picked = draw.integers(0, len(latents), size=batch_size)
            wording = draw.integers(0, 2, size=batch_size)
            batch_texts = texts[wording, picked]
            batch_texts = np.where(draw.uniform(size=batch_size) < caption_dropout, "", batch_texts).tolist()
            x = latents[picked].float()
            z = torch.randn(x.shape, generator=generator)
            t = torch.sigmoid(torch.randn(batch_size, generator=generator))[:, None, None, None]
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * min(1.0, (step + 1) / WARM_UP) * (
                    0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / steps))
                )  # fmt: skip
            tokens = tokenise(batch_texts)
            with torch.autocast("cpu", torch.bfloat16):
                condition = text_encoder(**tokens).last_hidden_state
                velocity = unet((1 - t) * x + t * z, 1000.0 * t[:, 0, 0, 0], encoder_hidden_states=condition).sample
            loss = torch.nn.functional.mse_loss(velocity.float(), z - x)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            decay = min(EMA, (step + 1) / (step + 10))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
            losses.append(loss.item())
            progress.update(bar, advance=1, description=f"fitting the diffusion editor, loss {loss.item():.3f}")
            out_of_time = minutes is not None and time.monotonic() - begun > 60 * minutes
            if state_file and ((step + 1) % checkpoint_every == 0 or step + 1 == steps or out_of_time):
                _checkpoint(state_file, step + 1, names, parameters, average, optimiser, save_file)
                with (state_file.parent / "loss.jsonl").open("a") as log:
                    log.write(json.dumps({"step": step + 1, "loss": float(np.mean(losses))}) + "\n")
                losses = []
            if out_of_time:
                break
    for p, smooth in zip(parameters, average, strict=True):
        p.data.copy_(smooth)
    patients = frozenset(dataset.patients.iloc[rows].astype(str))
    return DiffusionEditor(
        unet, text_encoder, tokenizer, attributes, fitted_on=patients, size=size, renderer_version=renderer_version
    )


def _latents(dataset: Dataset, rows: np.ndarray, batch: int = 512) -> Tensor:
    parts = [to_latent(dataset.images(rows[i : i + batch])).half() for i in range(0, len(rows), batch)]
    return torch.cat(parts)


def _vocabulary(attributes: Mapping[str, Attribute]) -> list[str]:
    """Every phrase, and every whole number of a continuous attribute's range: nothing an edit asks for is unknown."""
    from causal_cxr.graphs import Continuous

    words = []
    for attribute in attributes.values():
        if isinstance(attribute, Continuous):
            values: list[Any] = list(np.arange(np.floor(attribute.low), np.ceil(attribute.high) + 1))
        else:
            values = list(attribute.levels)
        words += [attribute.phrase(value, k) for value in values for k in (0, 1)]
    return words * 20


def _checkpoint(
    file: Path, step: int, names: Any, parameters: Any, average: Any, optimiser: Any, save_file: Any
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {"step": torch.tensor(step)}
    for name, p, smooth in zip(names, parameters, average, strict=True):
        state[f"weight.{name}"], state[f"average.{name}"] = p.detach().contiguous(), smooth.contiguous()
        state[f"first.{name}"] = optimiser.state[p]["exp_avg"].contiguous()
        state[f"second.{name}"] = optimiser.state[p]["exp_avg_sq"].contiguous()
    partial = file.with_suffix(".partial")
    save_file(state, partial)
    partial.rename(file)


def main() -> None:
    """Fit on a phantom world, resumable, and write the editor with its model card."""
    from causal_cxr.data.phantom import LABELLED, VERSION, Phantom

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--world", default="portable")
    parser.add_argument("--images", type=int, default=16_000)
    parser.add_argument("--steps", type=int, default=2_500)
    parser.add_argument("--seed", type=int, default=7_001)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    phantom = Phantom(args.images, args.world, seed=args.seed)
    begun = time.monotonic()
    editor = fit_diffusion(
        phantom, np.arange(len(phantom)), {a.name: a for a in LABELLED}, steps=args.steps, seed=args.seed,
        renderer_version=VERSION, checkpoint=args.out / "checkpoint", minutes=args.minutes,
    )  # fmt: skip
    editor.fitted_on = frozenset({f"phantom:{args.world}:seed={args.seed}"})
    editor.save(args.out)
    log = (args.out / "checkpoint" / "loss.jsonl").read_text().splitlines()
    last = json.loads(log[-1])
    (args.out / "card.md").write_text(
        f"""# Diffusion editor of the phantom world `{args.world}`

- data: `Phantom({args.images}, "{args.world}", seed={args.seed})`, 64x64, renderer version {VERSION}; synthetic, no patients
- model: diffusers UNet2DConditionModel on pixel_unshuffle(4) images, rectified flow; CLIP text encoder (2 layers, own
  tokenizer of {len(editor.tokenizer)} tokens) fitted jointly
- steps: {last["step"]} of 64 images, AdamW, EMA; loss at the end {last["loss"]:.4f}
- seed: {args.seed}
- command: `python -m causal_cxr.editors.diffusion.fit --world {args.world} --images {args.images} --steps {args.steps} --seed {args.seed} --out DIR`
- time: {(time.monotonic() - begun) / 60:.0f} minutes on 2 shared CPU cores (last run; resumed runs count their last part)
- not for: real radiographs, clinical use
"""
    )


if __name__ == "__main__":
    main()
