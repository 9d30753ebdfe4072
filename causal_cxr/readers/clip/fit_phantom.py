"""Fit a small CLIP reader on phantoms and their reports.

python -m causal_cxr.readers.clip.fit_phantom --steps 1500 --out runs/clip-reader-phantom
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from causal_cxr.data.phantom import VERSION, Phantom
from causal_cxr.data.tokenizer import build_tokenizer
from causal_cxr.readers.clip.corpus import Corpus
from causal_cxr.readers.clip.finetune import HeldOut, finetune_clip
from causal_cxr.readers.clip.reader import CLIPReader
from causal_cxr.readers.clip.towers import build_clip
from causal_cxr.readers.concepts import Concept, load_concepts
from causal_cxr.readers.quality import assess
from causal_cxr.readers.reader import read_dataset

TOWER = {"image_size": 64, "patch_size": 8, "width": 128, "layers": 3, "head_width": 32}
LENGTH = 16  #: tokens of a sentence, at most


def small_reader(
    texts: Sequence[str], concepts: Sequence[Concept], *, vision: dict[str, Any] | None = None, seed: int = 0
) -> CLIPReader:
    """A reader that has seen nothing yet: a small ViT, a small text tower, a tokenizer learnt from reports.

    Args:
        texts: reports whose words it will know.
        concepts: what it will read.
        vision: open_clip vision config; a ViT at 64x64 unless given.
        seed: of the weights.
    """
    tokenizer = build_tokenizer(Corpus(texts).sentences * 50, LENGTH)
    text = {"context_length": LENGTH, "vocab_size": len(tokenizer), "width": 64, "heads": 4, "layers": 2, "pool_type": "eos",
            "eos_id": tokenizer.eos_token_id}  # fmt: skip
    config = {"embed_dim": 64, "vision_cfg": vision or TOWER, "text_cfg": text, "init_logit_bias": -3.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_clip(config)
    return CLIPReader(model, tokenizer, concepts, fitted_on=frozenset())


def main() -> None:
    """Fit on phantoms with independent attributes, calibrate on other patients, judge on a third set, and save."""
    import pandas as pd

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=8_001)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--start", type=Path, help="go on from the reader in this folder")
    parser.add_argument("--checkpoint", type=Path, help="folder for the state; a killed fit goes on from there")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    held = 1_000  # of the images that are generated for the fit, for its curves
    fit, calibrate, judge = (
        Phantom(n, "independent", seed=args.seed + i) for i, n in enumerate((args.images + held, 1_500, 3_000))
    )
    assert fit.texts is not None
    begun = time.monotonic()
    concepts = load_concepts()

    def truth(phantom: Phantom) -> np.ndarray:
        table = pd.concat([phantom.attributes, phantom.hidden], axis=1)
        return np.column_stack([concept.truth(table) for concept in concepts])

    start = (
        small_reader(fit.texts.iloc[: args.images].tolist(), concepts, seed=args.seed)
        if args.start is None
        else CLIPReader.from_pretrained(args.start, concepts)
    )
    later = np.arange(args.images, args.images + held)
    seen = np.flatnonzero(~fit.patients.isin(fit.patients.iloc[later]))
    fitted = finetune_clip(
        start, fit, seen, steps=args.steps, learning_rate=1e-3, seed=args.seed, device=args.device, minutes=args.minutes,
        checkpoint=args.checkpoint, held_out=HeldOut(later, truth(fit)[later]),
    )  # fmt: skip
    print(fitted.curves.round(3).to_string())
    reader = fitted.reader.calibrated(calibrate, np.arange(len(calibrate)), truth(calibrate))
    scores = np.concatenate([part.numpy() for _, part in read_dataset(reader, judge)])
    quality = assess(
        scores, truth(judge), judge.attributes, judge.patients, judge.graph, concepts, shifts={"age": 20.0}
    )
    reader.using(quality=quality, renderer_version=VERSION).save(args.out)
    table = quality.concepts[["auroc", "auroc_low", "slope", "slope_low", "ece"]].round(3)
    went_on = "" if args.start is None else f", going on with `--start {args.start}` from an earlier fit"
    (args.out / "card.md").write_text(
        f"""# CLIP reader of the phantoms

- data: `Phantom({args.images + held}, "independent", seed={args.seed})` for the fit, less the patients of its last {held} images;
  seed {args.seed + 1} for calibration, seed {args.seed + 2} for the quality below; attributes are independent of each other;
  renderer version {VERSION}; synthetic
- model: open_clip ViT at 64x64, patch 8; text tower of 2 layers with its own tokenizer of {len(reader.tokenizer)} tokens
- steps: {fitted.steps} of 128 images against all sentences of the corpus (sigmoid loss)
- seed: {args.seed}
- command: `python -m causal_cxr.readers.clip.fit_phantom --images {args.images} --steps {args.steps} --out DIR`{went_on}
- time: {(time.monotonic() - begun) / 60:.0f} minutes on {args.device}
- not for: real radiographs, clinical use

```
{table.to_string()}
```
"""
    )
    print(table)


if __name__ == "__main__":
    main()
