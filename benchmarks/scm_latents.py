"""How much may a deep SCM's latent hold? The conditional VAE with maps and vectors, pixels told at several scales, on the truth.

    python benchmarks/scm_latents.py --folder runs/scm-latents --json benchmarks/results/scm_latents.json

Each variant is fitted to the world ``portable`` by one recipe (five minutes on one core) and edits the same images, which no fit
saw; its pixel noise is replayed in full. The default of ``fit_image_model`` was chosen by these figures, so
``benchmarks/editors.py`` compares editors on other images.

Under ``summary.<variant>``: ``error_ratio_nothing`` with its patient bootstrap interval ``low`` to ``high`` (0: an oracle sampler, 1:
doing nothing), and by attribute; ``tea_effectiveness`` and ``tea_amplification`` where the image reveals the change, means over
attributes; ``settings`` of the model.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fitted import FIT_IMAGES, FIT_SEED, SHIPPED, STEPS
from record import record

from causal_cxr.audits.fidelity import (
    Question,
    answers,
    error_ratios,
    errors,
    mean_error_ratio,
    mean_true_effect_agreement,
    questions,
)
from causal_cxr.data.phantom.world import World
from causal_cxr.editors import SCMEditor
from causal_cxr.editors.scm import ConditionalVAE, fit_image_model
from causal_cxr.graphs import default_contrasts

SIZE = (64, 64)
#: Variant -> options of the conditional VAE.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "map of 2, scale 0.1": {},
    "vector of 8, scale 0.1": {"latent": 8, "size": SIZE},
    "vector of 16, scale 0.1": {"latent": 16, "size": SIZE},
    "vector of 48, scale 0.1": {"latent": 48, "size": SIZE},
    "vector of 16, scale 0.2": {"latent": 16, "scale": 0.2, "size": SIZE},
    "vector of 16, scale 0.4": {"latent": 16, "scale": 0.4, "size": SIZE},
    "vector of 16, scale 0.8": {"latent": 16, "scale": 0.8, "size": SIZE},
}


def fitted_variant(options: Mapping[str, Any], world: World, *, steps: int, folder: Path) -> SCMEditor:
    """The editor in ``folder``; fitted and written there unless there is one.

    Raises:
        ValueError: the folder holds another variant.
    """
    if not (folder / "editor.json").is_file():
        phantom = world.sample(FIT_IMAGES, FIT_SEED)
        build = partial(ConditionalVAE, **options)
        editor = fit_image_model(
            phantom, np.arange(len(phantom)), phantom.graph, build, steps=steps, seed=FIT_SEED,
            checkpoint=folder / "checkpoint",
        )  # fmt: skip
        editor.save(folder, half=False)
    kept = SCMEditor.from_pretrained(folder)
    settings = kept.image_model.settings
    if settings != ConditionalVAE(settings["n_conditions"], **options).settings:
        raise ValueError(f"{folder} holds another variant, {settings}; choose another --folder.")
    return kept


def scored(editor: SCMEditor, images: torch.Tensor, factual: pd.DataFrame, asked: Sequence[Question]) -> dict[str, Any]:
    """The figures of one editor."""
    made = answers(editor, images, factual, [one.target for one in asked])
    found = pd.concat([errors(one, edited) for one, edited in zip(asked, made, strict=True)], ignore_index=True)
    ratio, tea = mean_error_ratio(found), mean_true_effect_agreement(found)
    return {
        "error_ratio_nothing": round(ratio["ratio"], 4),
        "low": round(ratio["low"], 4),
        "high": round(ratio["high"], 4),
        "by_attribute": error_ratios(found)["ratio"].round(4).to_dict(),
        "tea_effectiveness": round(tea["effectiveness"], 4),
        "tea_amplification": round(tea["amplification"], 4),
        "settings": editor.image_model.settings,
    }


def main() -> None:
    """Fit what is not there, score all on the same images, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where fits are kept, each under its variant's name")
    parser.add_argument("--variants", nargs="*", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=STEPS["scm"], help="of each fit, of 32 images")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--seed", type=int, default=77, help="of the images that are edited")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_flush_denormal(True)  # denormal numbers in the optimiser's moments make a step several times slower
    world = World.load(SHIPPED)
    phantom = world.sample(args.images, args.seed)
    rows = np.arange(args.images)
    asked = questions(phantom, rows, default_contrasts(phantom.graph, world.content.shifts), seed=args.seed)
    summary = {}
    for name in args.variants:
        editor = fitted_variant(VARIANTS[name], world, steps=args.steps, folder=args.folder / name.replace(" ", "-"))
        summary[name] = scored(editor, phantom.images(rows), phantom.attributes, asked)
    shown = pd.DataFrame(summary).T.drop(columns=["settings", "by_attribute"])
    print(shown.to_string())
    record(args.json, seed=args.seed, summary=summary)


if __name__ == "__main__":
    main()
