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
- ``moved``: of each, how far other signs go along with what is set, as a share of how far they go in truth, in the cells (attribute,
  direction, sign) in which they do by :data:`MOVES` or more; a classifier of the world's signs reads them. The error does not see that: among
  16 true counterfactuals are some without a device. The base has seen every finding, and no co-occurrence.
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
from editors import Judge
from record import record

from causal_cxr.audits.fidelity import answers, error_ratios, errors, mean_error_ratio
from causal_cxr.audits.finetuning import from_world, run_finetune
from causal_cxr.data.phantom.world import World
from causal_cxr.editors.diffusion import DiffusionEditor

ENOUGH = 1.1  #: times the long one's error
MOVES = 0.2  #: of the intended change: by this much a sign goes along in truth
READER = "network"
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


def judged(editor: DiffusionEditor, judge: Judge) -> dict[str, Any]:
    """The editor's error to the truth, in all and by attribute, and how far other signs go along."""
    made = answers(editor, judge.images, judge.factual, [question.target for question in judge.asked], seed=judge.seed)
    found = pd.concat([errors(*pair) for pair in zip(judge.asked, made, strict=True)], ignore_index=True)
    by_attribute = error_ratios(found, seed=judge.seed).T.to_dict()
    return {
        **mean_error_ratio(found, seed=judge.seed),
        "attributes": by_attribute,
        "moved": moved(judge.leak_by(READER, made).cells),
    }


def moved(cells: pd.DataFrame) -> float:
    """Share of the true movement of other signs, in the cells of a leak in which there is some."""
    along = cells[~cells["own"] & (cells["true"].abs() >= MOVES)]
    made, true = along["made"] * np.sign(along["true"]), along["true"].abs()
    return float((made * along["n"]).sum() / (true * along["n"]).sum())


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
    if args.folder and args.folder.exists() and any(args.folder.iterdir()):
        parser.error(
            f"{args.folder} is not empty: a fit there would be taken up, and the minutes be wrong; name another."
        )
    torch.set_num_threads(args.threads)
    judge, about = Judge(World.load(args.world), args.images, args.seed), {"long": told(args.long / "card.md")}
    with tempfile.TemporaryDirectory() as unkept:
        out = args.folder or Path(unkept)
        minutes = fitted(args.world, out, images=args.fit_images, steps=args.fit_steps, seed=args.fit_seed)
        about["short"] = told(out / "card.md")
        base = DiffusionEditor.from_shipped("diffusion-base")
        editors = {"base": base, "short": base.adapted(out), "long": base.adapted(args.long)}
        found = {name: judged(editor, judge) for name, editor in editors.items()}
    along = {name: one.pop("moved") for name, one in found.items()}
    summary = {
        "minutes": minutes, "threads": args.threads, **compared(found), "moved": along, "error": found, "fitted": about,
    }  # fmt: skip
    for name, one in found.items():
        print(
            f"{name:6} error {one['ratio']:.3f} [{one['low']:.3f}, {one['high']:.3f}], other signs go along by "
            f"{along[name]:.2f} of the truth"
        )
    print(f"the short fit took {minutes:.1f} minutes; its error is {summary['short_over_long']:.3f} of the long one's")
    record(args.json, seed=args.seed, summary=summary)


if __name__ == "__main__":
    main()
