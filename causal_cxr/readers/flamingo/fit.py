"""Fit a small Flamingo reader on phantoms, in two phases, each resumable and the same bits for a seed and thread count.

OMP_NUM_THREADS=1 python -m causal_cxr.readers.flamingo.fit --out runs/flamingo-reader
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.phantom import VERSION, Phantom
from causal_cxr.readers.features import resized
from causal_cxr.readers.flamingo.episodes import Bank, fill_bank
from causal_cxr.readers.flamingo.eye import Eye
from causal_cxr.readers.flamingo.fit_language import fit_language
from causal_cxr.readers.flamingo.fit_vision import MEAN, STD, fit_vision
from causal_cxr.readers.flamingo.groups import Pool
from causal_cxr.readers.flamingo.learner import Learner
from causal_cxr.readers.flamingo.measure import measured
from causal_cxr.readers.flamingo.model import pass_on, small_idefics, small_tokenizer
from causal_cxr.readers.flamingo.prompt import Template
from causal_cxr.readers.flamingo.prototypes import start_with_prototypes
from causal_cxr.readers.flamingo.reader import FlamingoReader
from causal_cxr.readers.flamingo.signs import HELD_OUT, NEUTRAL, signs_of, training_world, words_for

SIZE, PATCH = 32, 2  #: pixels a side of what the eye sees, and of a place of its first map


def fit_flamingo_reader(
    phantom: Phantom,
    *,
    vision_steps: int = 4_500,
    language_steps: int = 800,
    groups: int = 150,
    seed: int = 0,
    checkpoint: Path | None = None,
    watched: Phantom | None = None,
) -> FlamingoReader:
    """A reader by example, fitted on a phantom.

    First vision tower and perceiver, by comparing images in groups that wear made-up marks; then, with these frozen, the
    language model and its gated cross-attention, on episodes.

    Args:
        phantom: of :func:`~causal_cxr.readers.flamingo.signs.training_world`.
        vision_steps, language_steps: of the phases.
        groups: that episodes are drawn from.
        seed: of weights, groups and episodes.
        checkpoint: folder for the resumable state of both phases.
        watched: another phantom, whose held-out signs are read now and then, for the log.

    Raises:
        ValueError: the phantom draws a sign that is held out; ``checkpoint`` holds another fit.
    """
    signs = signs_of(phantom)
    if drawn := [name for name in map(str, signs) if name.split(" = ")[0] in HELD_OUT]:
        raise ValueError(f"The phantom draws {drawn}, which are held out of the fit; pass one of training_world().")
    pool = Pool(pixels(phantom), _tensor(signs))
    wordings, words = _wordings(signs)
    template = Template()
    torch.manual_seed(seed)
    tokenizer = small_tokenizer(wordings, template)
    model, eye = small_idefics(tokenizer), Eye(SIZE, patch=PATCH)
    pass_on(model)
    held = None if watched is None else signs_of(watched)
    if held is not None:
        held = held[[name for name in held if str(name).split(" = ")[0] in HELD_OUT]]
    fit_vision(
        pool, model, eye, steps=vision_steps, seed=seed, checkpoint=None if checkpoint is None else checkpoint / "vision",
        watched=None if watched is None or held is None else (pixels(watched), _tensor(held)),
    )  # fmt: skip
    bank = fill_bank(pool, model, eye, words, groups=groups, seed=seed, mean=MEAN, std=STD)
    torch.manual_seed(seed)
    learner = Learner(model, tokenizer, wordings, template)
    start_with_prototypes(model, bank, (learner.yes, learner.no))

    def reader() -> FlamingoReader:
        return FlamingoReader(
            model, tokenizer, (), eye=eye, template=template, mean=(MEAN,), std=(STD,),
            fitted_on=frozenset(phantom.patients), renderer_version=VERSION,
        )  # fmt: skip

    judged = None
    if watched is not None and held is not None:
        judged = Bank([reader().states(watched.images(np.arange(len(watched))))], [_tensor(held)], [])
    fit_language(
        bank, model, tokenizer, wordings, template, steps=language_steps, seed=seed,
        checkpoint=None if checkpoint is None else checkpoint / "language", watched=judged,
    )  # fmt: skip
    return reader()


def pixels(phantom: Phantom, batch: int = 1000) -> Tensor:
    """``(n, SIZE, SIZE)`` all images of a phantom, half precision, as the eye sees them."""
    rows = np.arange(len(phantom))
    parts = [resized(phantom.images(rows[i : i + batch]), SIZE)[:, 0].half() for i in range(0, len(rows), batch)]
    return torch.cat(parts)


def _tensor(signs: pd.DataFrame) -> Tensor:
    return torch.tensor(signs.to_numpy(), dtype=torch.float32)


def _wordings(signs: pd.DataFrame) -> tuple[list[str], list[tuple[int, int]]]:
    """What questions are about, the neutral word first, and where each sign's words are."""
    wordings, places = [NEUTRAL], []
    for sign in map(str, signs):
        said = words_for(sign)
        places.append((len(wordings), len(said)))
        wordings += said
    return wordings, places


def main() -> None:
    """Fit on phantoms without the held-out signs, and write the reader with its model card."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--vision-steps", type=int, default=4_500)
    parser.add_argument("--language-steps", type=int, default=800)
    parser.add_argument("--groups", type=int, default=150)
    parser.add_argument("--seed", type=int, default=9_001)
    parser.add_argument("--judged", type=int, default=1_500, help="images that each held-out sign is judged on")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    phantom = Phantom(args.images, training_world(), seed=args.seed)
    reader = fit_flamingo_reader(
        phantom, vision_steps=args.vision_steps, language_steps=args.language_steps, groups=args.groups, seed=args.seed,
        checkpoint=args.out / "checkpoint", watched=Phantom(2_000, "independent", seed=args.seed + 1),
    )  # fmt: skip
    folder = reader.save(args.out / "reader")
    table = measured(FlamingoReader.from_pretrained(folder), args.judged, seed=args.seed + 2)
    print(table, flush=True)
    (args.out / "held_out.json").write_text(json.dumps(table.to_dict(), indent=1))
    weights = sum(p.numel() for network in (reader.model, reader.eye) for p in network.parameters())
    options = " ".join(
        f"--{name.replace('_', '-')} {value}" for name, value in vars(args).items() if name not in ("out", "judged")
    )
    (folder / "card.md").write_text(
        f"""# Flamingo reader of the phantoms

- data: `Phantom({args.images}, training_world(), seed={args.seed})`, seen at {SIZE}x{SIZE} pixels, renderer version
  {VERSION}; synthetic, no patients
- model: transformers' Idefics and a residual network as its eye, {weights / 1e6:.2f} million weights, with a tokenizer of
  {len(reader.tokenizer)} tokens. Eye and perceiver were fitted first and frozen. There is no pretrained language model of
  this size: it begins with weights that compare prototypes, and was fitted, gates and all, on episodes
- questions: signs of the phantom (named, or as "{NEUTRAL}"), made-up marks and their variants, functions of two; up to 16
  exemplars
- never drawn, named or asked about in the fit: {", ".join(HELD_OUT)}; how well they are read in another phantom was
  looked at while the recipe was made
- seed: {args.seed}
- command: `OMP_NUM_THREADS=1 python -m causal_cxr.readers.flamingo.fit {options} --out DIR`
- not for: real radiographs, clinical use

AUROC of the signs held out, asked about as "{NEUTRAL}", by number of exemplars (half of them with the sign; mean over
{table.attrs["draws"]} draws of exemplars), on `Phantom({args.judged}, "independent", seed={args.seed + 3})`:

```
{table.round(3).to_string()}
```
"""
    )


if __name__ == "__main__":
    main()
