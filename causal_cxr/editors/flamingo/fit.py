"""Fit the layers that read exemplars, episode by episode: resumable, deterministic for a seed and thread count.

python -m causal_cxr.editors.flamingo.fit --base runs/diffusion-base --world independent --out runs/flamingo
"""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.dataset import Dataset
from causal_cxr.editors.diffusion.editor import DiffusionEditor
from causal_cxr.editors.diffusion.latents import Unshuffled
from causal_cxr.editors.diffusion.process import Process
from causal_cxr.editors.finetune.finetune import encoded
from causal_cxr.editors.finetune.loop import BATCH, Recipe, descend
from causal_cxr.editors.flamingo.editor import FlamingoEditor
from causal_cxr.editors.flamingo.episodes import Episode, Episodes
from causal_cxr.editors.flamingo.gated import ExemplarUNet
from causal_cxr.editors.flamingo.marks import apply_marks, draw_marks
from causal_cxr.fitting.precision import attention

MARKED = 0.3  #: share of episodes of a made-up attribute
PARTIAL = 0.2  #: share of images whose caption leaves out more than it must
LATE = 0.8  #: times are drawn towards noise, where exemplars say what the image does not show


def fit_flamingo(
    dataset: Dataset,
    rows: np.ndarray,
    base: DiffusionEditor,
    labels: pd.DataFrame,
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = BATCH,
    exemplars: int = 4,
    together: int = 2,
    marked: float = MARKED,
    width: int = 64,
    tokens: int = 16,
    learning_rate: float = 2e-3,
    checkpoint: Path | None = None,
    minutes: float | None = None,
    device: str | torch.device = "cpu",
) -> FlamingoEditor:
    """Fit to denoise images whose captions leave attributes out that exemplars show instead; the base is frozen.

    Args:
        dataset: images, and the table that the base's captions are made of.
        rows: to fit on; the rest is never looked at.
        base: left as it is.
        labels: one row an image of ``dataset``, one column for each attribute that episodes are drawn of, with or without
            a word; missing where unknown, so that a few labelled images will do.
        steps: of ``batch_size`` images.
        seed: of initial weights, episodes, times and noise.
        exemplars: with the image's value, and as many without, an episode.
        together: attributes at most that an image is shown at once.
        marked: share of episodes of made-up attributes, :mod:`~causal_cxr.editors.flamingo.marks`.
        width, tokens: of what exemplars are resampled to.
        checkpoint: folder for resumable state and the log ``loss.jsonl``; a killed fit goes on from it.
        minutes: stop early after so much wall time (then the result depends on the machine).
        device: to fit on.

    Returns:
        The editor with averaged weights and no exemplars yet: give it some with
        :meth:`~causal_cxr.editors.flamingo.FlamingoEditor.shown`.

    Raises:
        ValueError: no rows; labels that do not fit the dataset, or from which no episode can be drawn.
    """
    if not len(rows):
        raise ValueError("There is no row to fit on; pass rows=np.arange(len(dataset)) or a part of them.")
    if len(labels) != len(dataset.attributes):
        raise ValueError(
            f"{len(labels)} rows of labels for {len(dataset.attributes)} images; give one an image, in order."
        )
    if marked and not isinstance(base.pipeline.latents, Unshuffled):
        raise ValueError("Marks are drawn on pixels folded into channels, which this base has not; pass marked=0.")
    episodes = Episodes(labels.iloc[rows], dataset.patients.iloc[rows])
    recipe = Recipe(
        steps, learning_rate, batch_size=batch_size, seed=seed, device=device, minutes=minutes, checkpoint=checkpoint
    )
    accelerator = recipe.accelerator()
    frozen = copy.deepcopy(base).to(accelerator.device)
    process, space = frozen.pipeline.process, frozen.pipeline.latents
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of what begins at random
        network = ExemplarUNet(frozen.unet.requires_grad_(False), width=width, tokens=tokens)
    network.to(accelerator.device)
    latents, table = encoded(space, dataset, rows, accelerator.device), dataset.attributes.iloc[rows]

    def loss(draw: np.random.Generator, generator: torch.Generator) -> Tensor:
        picked = draw.integers(0, len(latents), size=batch_size)
        drawn = episodes.draw(picked, exemplars, together, draw)
        made_up = draw.uniform(size=batch_size) < marked
        unsaid = _unsaid(drawn, made_up, episodes.names, table.columns, draw)
        with torch.no_grad():
            said = frozen.describe(table.iloc[picked].mask(unsaid), phrasing=int(draw.integers(2)))
        with accelerator.autocast(), attention(accelerator.device, recipe.mixed_precision):
            x, visual = _seen(network, latents, picked, drawn, made_up, space.reduction, draw, generator)
            noisy, times, target = _noised(process, x, generator)
            output = network(
                noisy, times, encoder_hidden_states=said.text, cross_attention_kwargs={"visual": visual}
            ).sample
        return torch.nn.functional.mse_loss(output.float(), target)

    history = descend(
        network.added, loss, recipe, (network,),
        identity=(
            dataset.fingerprint, np.asarray(rows).tolist(), base.weights_fingerprint, base.template, episodes.names,
            episodes.codes.tobytes(), exemplars, together, marked,
        ),
    )  # fmt: skip
    network.base = base.unet
    network.to(base.pipeline.device)
    editor = FlamingoEditor(base, network, fitted_on=frozenset(dataset.patients.iloc[rows].astype(str)))
    editor.provenance = {"recipe": recipe, "history": history}
    return editor


def _unsaid(
    episodes: Sequence[Episode], made_up: np.ndarray, names: Sequence[str], columns: pd.Index,
    draw: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """``(n, columns)`` what captions leave out: what exemplars show, and at times more, as captions do that are edited by."""
    unsaid = draw.uniform(size=(len(made_up), len(columns))) < 0.5
    unsaid &= draw.uniform(size=(len(made_up), 1)) < PARTIAL
    for slot, episode in enumerate(episodes):
        for i, attribute in enumerate(episode.attribute):
            # A made-up attribute takes the place of the first.
            if attribute >= 0 and names[attribute] in columns and not (slot == 0 and made_up[i]):
                unsaid[i, columns.get_loc(names[attribute])] = True
    return unsaid


def _seen(
    network: ExemplarUNet, latents: Tensor, picked: np.ndarray, episodes: Sequence[Episode], made_up: np.ndarray,
    reduction: int, draw: np.random.Generator, generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The picked images, some with a mark, and the tokens of their exemplars."""

    def at(positions: np.ndarray) -> Tensor:
        return latents[torch.from_numpy(positions).to(latents.device)].float()

    n, k = episodes[0].having.shape
    x, parts = at(picked), []
    for slot, episode in enumerate(episodes):
        having, lacking = episode.having, episode.lacking
        told = episode.attribute >= 0
        if slot == 0 and made_up.any():
            anyone = draw.integers(0, len(latents), size=(2, n, k))
            having, lacking = (np.where(made_up[:, None], a, b) for a, b in zip(anyone, (having, lacking), strict=True))
            told = told | made_up
        sets = torch.cat([at(having), at(lacking)], dim=1)
        if slot == 0 and made_up.any():
            rows = torch.from_numpy(np.flatnonzero(made_up)).to(x.device)
            worn = torch.rand(len(rows), 1, generator=generator, device=x.device) < 0.5
            # Those with the image's value wear the mark if the image does; those without if it does not.
            wearing = torch.cat([worn, worn.expand(-1, k), ~worn.expand(-1, k)], dim=1)
            every = torch.cat([x[rows, None], sets[rows]], dim=1)
            every = apply_marks(every, draw_marks(len(rows), generator), wearing, reduction, generator)
            x, sets = x.clone(), sets.clone()
            x[rows], sets[rows] = every[:, 0], every[:, 1:]
        seen = network.encoder(sets[:, :k], sets[:, k:])
        parts.append(seen * torch.from_numpy(told).to(x.device)[:, None, None])
    return x, torch.cat(parts, dim=1)


def _noised(process: Process, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noised images, the network's times, and what it is to predict."""
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    level = torch.sigmoid(torch.randn(len(x), generator=generator, device=x.device) + LATE)
    if process.alphas is None:
        a, s, times = 1 - level, level, 1000.0 * level
    else:
        times = (level * (len(process.alphas) - 1)).round()
        alphas = process.alphas.to(x.device)[times.long()].float()
        a, s = alphas.sqrt(), (1 - alphas).sqrt()
    a, s = a[:, None, None, None], s[:, None, None, None]
    return a * x + s * noise, times, process.target(x, noise, a, s)


def _markdown(table: pd.DataFrame) -> str:
    lines = [["attribute", *map(str, table.columns)], ["---"] * (len(table.columns) + 1)]
    for row in table.itertuples():
        lines.append([f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Fit on a phantom world, resumable, measure, and write the layers with their model card."""
    from causal_cxr.data.phantom import VERSION, Phantom
    from causal_cxr.editors.flamingo.measure import labels_of, measured

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of the diffusion editor to stand on")
    parser.add_argument("--world", default="independent")
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--exemplars", type=int, default=4)
    parser.add_argument("--together", type=int, default=2)
    parser.add_argument("--held-out", nargs="*", default=["chest_drain", "control_bar"], help="in no episode")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--minutes", type=float, help="stop early after so much wall time")
    parser.add_argument("--seed", type=int, default=7_003)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    phantom, base = Phantom(args.images, args.world, seed=args.seed), DiffusionEditor.from_pretrained(args.base)
    labels = labels_of(phantom)
    editor = fit_flamingo(
        phantom, np.arange(args.images), base, labels.drop(columns=args.held_out), steps=args.steps, seed=args.seed,
        batch_size=args.batch, exemplars=args.exemplars, together=args.together, learning_rate=args.learning_rate,
        checkpoint=args.out / "checkpoint", minutes=args.minutes, device=args.device,
    )  # fmt: skip
    editor.save(args.out)
    editor.to(args.device)
    table = measured(editor, Phantom(256, args.world, seed=args.seed + 1), Phantom(512, args.world, seed=args.seed + 2))
    table["in episodes"] = ["no" if name in args.held_out else "yes" for name in table.index]
    history = editor.provenance["history"]
    options: dict[str, Any] = {
        "world": args.world, "images": args.images, "steps": args.steps, "batch": args.batch,
        "exemplars": args.exemplars, "together": args.together, "learning-rate": args.learning_rate,
    }  # fmt: skip
    command = " ".join(f"--{name} {value}" for name, value in options.items())
    (args.out / "card.md").write_text(
        f"""# Layers that read exemplars, for the diffusion editor of the phantoms

- data: `Phantom({args.images}, "{args.world}", seed={args.seed})`, 64x64, renderer version {VERSION}; synthetic, no patients
- model: perceiver resampler and gated cross-attention on the frozen UNet of the base {base.weights_fingerprint}
- labels in episodes: all attributes of the world but {", ".join(args.held_out) or "none"}; marks in {MARKED:.0%} of episodes
- steps: {history.steps} of {args.batch} images, AdamW, EMA; loss at the end {history.loss:.4f}
- seed: {args.seed}
- command: `python -m causal_cxr.editors.flamingo.fit --base BASE {command} --held-out {" ".join(args.held_out)}
  --seed {args.seed} --device {args.device} --out DIR`
- not for: real radiographs, clinical use

Other patients' images, each attribute flipped by 16 exemplars of each level. Moved: of the way to the true counterfactual,
along it (1 = all of it). Error: squared error to it over that of the unedited image.

{_markdown(table)}
"""
    )


if __name__ == "__main__":
    main()
