"""Is a quarter of an hour enough to know a new world? A short fine-tuning from the shipped base beside a long one.

    causal-cxr finetune --world portable --images 40000 --steps 3000 --batch 64 --validate-every 0 --seed 7022 --out LONG
    python benchmarks/finetuning.py --long LONG --json benchmarks/results/finetuning.json

The short one is fitted here, the same way on fewer images, and timed: from the shipped base to the adapter on disk, phantoms
drawn included. Images are of patients that neither has seen. ``summary``:

- ``minutes``: wall time of the short fit, on ``threads``.
- ``error``: of ``base`` (not fitted to the world), ``short`` and ``long``: (error - floor) / (nothing - floor) to the nearest of
  16 true counterfactuals, mean over attributes that show, 0 = an oracle sampler, 1 = doing nothing; ``low`` and ``high``
  a 95% patient bootstrap; ``attributes`` the same of each.
- ``short_over_long``: of the errors; ``within_a_tenth``: it is at most 1.1.
- ``fitted``: what their cards say of steps, images and hardware.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from record import record

from causal_cxr.audits.fidelity import Question, answers, error_ratios, errors, mean_error_ratio, questions
from causal_cxr.audits.finetuning import from_world, run_finetune
from causal_cxr.data.phantom.world import World
from causal_cxr.editors.diffusion import DiffusionEditor
from causal_cxr.graphs import default_contrasts

ENOUGH = 1.1  #: times the long one's error
TOLD = ("data", "fitted", "steps", "hardware")  #: lines of a card


def fitted(world: str, out: Path, *, images: int, steps: int, seed: int) -> float:
    """Fine-tune as ``causal-cxr finetune`` does; minutes of wall time."""
    begun = time.perf_counter()
    run_finetune(
        from_world(world, images, size=64, seed=seed), out, base="shipped", what="lora", rank=8, attribute=None,
        balanced=False, own_captions=False, steps=steps, batch_size=64, learning_rate=None, validate_every=None,
        patience=None, mixed_precision="bf16", device="cpu", graphs=False, seed=seed,
    )  # fmt: skip
    return (time.perf_counter() - begun) / 60


def told(card: Path) -> dict[str, str]:
    """Lines of a card, by their names.

    Raises:
        ValueError: it lacks one of :data:`TOLD`.
    """
    lines = dict(re.findall(r"^- ([a-z ]+): (.*)$", card.read_text(), flags=re.MULTILINE))
    if missing := [name for name in TOLD if name not in lines]:
        raise ValueError(f"{card} says nothing of {missing}: give a folder that causal-cxr finetune wrote.")
    return {name: lines[name] for name in TOLD}


def judged(editor: DiffusionEditor, asked: list[Question], factual: pd.DataFrame, *, seed: int) -> dict[str, Any]:
    """The editor's error to the truth, in all and by attribute."""
    made = answers(editor, asked[0].images, factual, [question.target for question in asked], seed=seed)
    found = pd.concat([errors(*pair) for pair in zip(asked, made, strict=True)], ignore_index=True)
    return {**mean_error_ratio(found, seed=seed), "attributes": error_ratios(found, seed=seed).T.to_dict()}


def compared(errors: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The short fit's error beside the long one's."""
    ratio = errors["short"]["ratio"] / errors["long"]["ratio"]
    return {"short_over_long": ratio, "within_a_tenth": ratio <= ENOUGH}


def main() -> None:
    """Fit, judge, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", type=Path, required=True, help="folder of an adapter that was fitted for long")
    parser.add_argument("--world", default="portable")
    parser.add_argument("--fit-images", type=int, default=20_000, help="of the short fit")
    parser.add_argument("--fit-steps", type=int, default=600)
    parser.add_argument("--fit-seed", type=int, default=7022)
    parser.add_argument("--images", type=int, default=96, help="held-out images")
    parser.add_argument("--seed", type=int, default=77, help="of the held-out images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the short fit's adapter is kept")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    world, about = World.load(args.world), {"long": told(args.long / "card.md")}
    phantom, rows = world.sample(args.images, args.seed), np.arange(args.images)
    contrasts = default_contrasts(phantom.graph, world.content.shifts)
    with tempfile.TemporaryDirectory() as unkept:
        out = args.folder or Path(unkept)
        minutes = fitted(args.world, out, images=args.fit_images, steps=args.fit_steps, seed=args.fit_seed)
        about["short"] = told(out / "card.md")
        base = DiffusionEditor.from_shipped("diffusion-base")
        editors = {"base": base, "short": base.adapted(out), "long": base.adapted(args.long)}
        asked = questions(phantom, rows, contrasts, k=16, seed=args.seed)
        found = {name: judged(editor, asked, phantom.attributes, seed=args.seed) for name, editor in editors.items()}
    summary = {"minutes": minutes, "threads": args.threads, **compared(found), "error": found, "fitted": about}
    for name, one in found.items():
        print(f"{name:6} error {one['ratio']:.3f} [{one['low']:.3f}, {one['high']:.3f}]")
    print(f"the short fit took {minutes:.1f} minutes; its error is {summary['short_over_long']:.3f} of the long one's")
    record(args.json, seed=args.seed, summary=summary)


if __name__ == "__main__":
    main()
