"""Fit a small CLIP reader on images and their reports, sentence by sentence.

python -m causal_cxr.readers.fit_clip --steps 1500 --out runs/clip-reader-phantom
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.tokenizer import build_tokenizer
from causal_cxr.readers.clip import CLIPReader, build_clip, platt, tokenise
from causal_cxr.readers.concepts import load_concepts
from causal_cxr.readers.quality import assess

SEPARATOR = " . "  #: between a report's sentences
TOWER = {"image_size": 64, "patch_size": 8, "width": 128, "layers": 3, "head_width": 32}


def train_clip(
    dataset: Dataset,
    rows: np.ndarray,
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    minutes: float | None = None,
    vision: dict[str, Any] | None = None,
    start: CLIPReader | None = None,
) -> tuple[Any, Any, int]:
    """Sigmoid contrastive fit (SigLIP; Zhai et al., ICCV 2023) of images to the *sentences* of their reports.

    Reports share sentences, so whole-report pairs would punish true matches; here each image of a batch is paired with
    every sentence of the corpus, positive where its report has it.

    Args:
        dataset: with ``texts``.
        rows: to fit on.
        steps: of ``batch_size`` images.
        seed: of weights and batches.
        minutes: stop early after so much wall time.
        vision: open_clip vision config; a small ViT unless given.
        start: go on from this reader's weights and tokenizer, with batches of its own.

    Returns:
        the model, its tokenizer, the steps taken.
    """
    from rich.progress import Progress

    if dataset.texts is None:
        raise ValueError("The dataset has no texts; a CLIP reader is fitted on images and their reports.")
    torch.manual_seed(seed)
    reports = [str(text).split(SEPARATOR) for text in dataset.texts.iloc[rows]]
    sentences = sorted({sentence for report in reports for sentence in report})
    position = {sentence: i for i, sentence in enumerate(sentences)}
    labels = np.zeros((len(rows), len(sentences)), dtype=np.float32)
    for i, report in enumerate(reports):
        labels[i, [position[sentence] for sentence in report]] = 1
    images = _images(dataset, rows)
    tokenizer = build_tokenizer(sentences * 50, 16) if start is None else start.tokenizer
    text = {"context_length": 16, "vocab_size": len(tokenizer), "width": 64, "heads": 4, "layers": 2, "pool_type": "eos",
            "eos_id": tokenizer.eos_token_id}  # fmt: skip
    config = {"embed_dim": 64, "vision_cfg": vision or TOWER, "text_cfg": text, "init_logit_bias": -3.0}
    model = build_clip(config if start is None else start.model.config)
    if start is not None:
        model.load_state_dict(start.model.state_dict())
    model.train()
    tokens = tokenise(tokenizer, sentences)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05)
    begun, step = time.monotonic(), 0
    with Progress(transient=True) as progress:
        bar = progress.add_task("fitting the CLIP reader", total=steps)
        for step in range(steps):
            picked = np.random.default_rng([seed, step, start is not None]).integers(0, len(rows), size=batch_size)
            for group in optimiser.param_groups:
                group["lr"] = (
                    learning_rate * min(1, (step + 1) / 50) * (0.02 + 0.49 * (1 + np.cos(np.pi * step / steps)))
                )
            with torch.autocast("cpu", torch.bfloat16):
                image = model.encode_image((images[picked].float().expand(-1, 3, -1, -1) - 0.5) / 0.3, normalize=True)
                sentence = model.encode_text(tokens, normalize=True)
            logits = image.float() @ sentence.float().T * model.logit_scale.exp() + model.logit_bias
            loss = functional.binary_cross_entropy_with_logits(logits, torch.as_tensor(labels[picked]))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            progress.update(bar, advance=1, description=f"fitting the CLIP reader, loss {loss.item():.3f}")
            if step % 100 == 0:
                print(f"step {step} loss {loss.item():.4f}", flush=True)
            if minutes is not None and time.monotonic() - begun > 60 * minutes:
                break
    return model.eval(), tokenizer, step + 1


def _images(dataset: Dataset, rows: np.ndarray, batch: int = 512) -> Tensor:
    return torch.cat([dataset.images(rows[i : i + batch]).half() for i in range(0, len(rows), batch)])


def main() -> None:
    """Fit on phantoms with independent attributes, calibrate on other patients, judge on a third set, and save."""
    import pandas as pd

    from causal_cxr.data.phantom import VERSION, Phantom

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=8_001)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--start", type=Path, help="go on from the reader in this folder")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    fit, calibrate, judge = (
        Phantom(n, "independent", seed=args.seed + i) for i, n in enumerate((args.images, 1_500, 3_000))
    )
    begun = time.monotonic()
    model, tokenizer, steps = train_clip(
        fit,
        np.arange(len(fit)),
        steps=args.steps,
        seed=args.seed,
        minutes=args.minutes,
        start=None if args.start is None else CLIPReader.from_pretrained(args.start),
    )
    concepts = load_concepts()
    raw = CLIPReader(model, tokenizer, concepts)

    def truth(phantom: Phantom) -> np.ndarray:
        table = pd.concat([phantom.attributes, phantom.hidden], axis=1)
        return np.column_stack([concept.truth(table) for concept in concepts])

    margins = raw.margins(calibrate.images(np.arange(len(calibrate)))).numpy()
    calibration = platt(margins, truth(calibrate))
    reader = CLIPReader(model, tokenizer, concepts, calibration=calibration)
    scores = reader.read(judge.images(np.arange(len(judge)))).numpy()
    quality = assess(
        scores, truth(judge), judge.attributes, judge.patients, judge.graph, concepts, shifts={"age": 20.0}
    )
    fitted = frozenset(fit.patients) | frozenset(calibrate.patients)
    CLIPReader(model, tokenizer, concepts, calibration=calibration, fitted_on=fitted, quality=quality,
               renderer_version=VERSION).save(args.out)  # fmt: skip
    table = quality.concepts[["auroc", "auroc_low", "slope", "slope_low", "ece"]].round(3)
    went_on = "" if args.start is None else f", going on with `--start {args.start}` from an earlier fit"
    (args.out / "card.md").write_text(
        f"""# CLIP reader of the phantoms

- data: `Phantom({args.images}, "independent", seed={args.seed})` for the fit, seed {args.seed + 1} for calibration, seed
  {args.seed + 2} for the quality below; attributes are independent of each other; renderer version {VERSION}; synthetic
- model: open_clip ViT at 64x64, patch 8; text tower of 2 layers with its own tokenizer of {len(tokenizer)} tokens
- steps: {steps} of 128 images against all sentences of the corpus (sigmoid loss)
- seed: {args.seed}
- command: `python -m causal_cxr.readers.fit_clip --images {args.images} --steps {args.steps} --out DIR`{went_on}
- time: {(time.monotonic() - begun) / 60:.0f} minutes on 1-2 shared CPU cores
- not for: real radiographs, clinical use

```
{table.to_string()}
```
"""
    )
    print(table)


if __name__ == "__main__":
    main()
