"""Fit the image mechanism of a deep SCM: resumable, deterministic for a seed and thread count.

python -m causal_cxr.editors.scm.fit --world portable --out runs/scm-portable
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from causal_cxr.data.dataset import Dataset
from causal_cxr.editors.scm.editor import SCMEditor, conditions, n_conditions
from causal_cxr.editors.scm.hvae import HierarchicalVAE
from causal_cxr.editors.scm.image_model import ImageModel
from causal_cxr.editors.scm.vae import ConditionalVAE
from causal_cxr.fitting.precision import Precision, autocast
from causal_cxr.fitting.resumable import ResumableFit, cosine
from causal_cxr.graphs import CausalGraph
from causal_cxr.graphs.scm import SCM

WARM_UP = 50
READ = 256  #: images read at once


def fit_image_model(
    dataset: Dataset,
    rows: np.ndarray,
    graph: CausalGraph,
    image_model: Callable[[int], ImageModel] | None = None,
    *,
    scm: SCM | None = None,
    steps: int = 3000,
    seed: int = 0,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.0,
    ema: float = 0.995,
    divergence_warm_up: int = 0,
    first_beta: float = 0.05,
    shift: int = 0,
    patience: int = 8,
    evaluate_every: int = 100,
    residual: float = 1.0,
    renderer_version: int | None = None,
    checkpoint: Path | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    mixed_precision: Precision = "no",
) -> SCMEditor:
    """Fit attribute mechanisms and image mechanism to the rows; AdamW, warm-up, cosine decay, an EMA of the weights.

    A tenth of the patients is held out of the image model's gradient; the weights that give them the best bound are
    returned.

    Args:
        dataset: images of one size and labelled attributes.
        rows: to fit on; the rest is never looked at. Rows that miss an attribute are left out of the image model's fit.
        graph: declares the attributes and which of them show in the image.
        image_model: builds the model from the number of conditions, with weights drawn under ``seed``:
            :class:`ConditionalVAE`, ``functools.partial(HierarchicalVAE, prior="mediator")``, ... Unless given,
            :func:`conditional_vae` of the images' size.
        scm: fitted attribute mechanisms; fitted to the same rows unless given.
        steps: of ``batch_size`` images, at most.
        seed: of initial weights, batches, held-out patients and latent draws.
        ema: decay of the running average of the weights.
        divergence_warm_up: steps over which the divergence's weight, ``beta`` of :meth:`ImageModel.bound`, rises from
            ``first_beta`` to 1, geometrically.
        shift: images are moved by up to so many pixels either way, so that a small set teaches more. Leave 0 where the
            place of a thing tells an attribute.
        patience: evaluations in a row without a better bound after which the fit stops.
        residual: of the editor, see :class:`SCMEditor`.
        renderer_version: recorded, for phantoms.
        checkpoint: folder for resumable state, written whole or not at all; a killed fit goes on from it.
        minutes: stop early after so much wall time (then the result depends on the machine; the card must say so).
        device: to fit on; the editor stays there.
        mixed_precision: of the network's computations; weights and distributions keep theirs.

    Raises:
        ValueError: fewer than two patients have all attributes.
    """
    from rich.progress import Progress

    scm = scm or SCM(graph).fit(dataset.attributes.iloc[rows])
    rows, table = complete_rows(dataset, rows, graph)
    patients = dataset.patients.iloc[rows].to_numpy()
    distinct = np.unique(patients)
    if len(distinct) < 2:
        raise ValueError(f"{len(distinct)} patient(s) have all attributes; a fit needs two or more.")
    held = np.random.default_rng(seed).choice(distinct, max(1, len(distinct) // 10), replace=False)
    is_held = np.isin(patients, held)
    images = read(dataset, rows)
    condition = conditions(graph, table).to(device)
    seen, unseen = np.flatnonzero(~is_held), np.flatnonzero(is_held)[:READ]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = image_model or conditional_vae((images.shape[-2], images.shape[-1]))
        model = build(n_conditions(graph)).to(device).to(memory_format=torch.channels_last)  # faster on a CPU
        average = build(n_conditions(graph)).to(device).eval()
        fit = ResumableFit(
            dict(model.named_parameters()),
            torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay),
            decay=ema,
            folder=checkpoint,
            recipe=(
                dataset.fingerprint,
                rows.tolist(),
                graph.fingerprint,
                type(model).__name__,
                model.settings,
                steps,
                seed,
                batch_size,
                learning_rate,
                weight_decay,
                ema,
                divergence_warm_up,
                first_beta,
                shift,
                mixed_precision,
            ),
        )
        bound, waited = float(fit.extra.get("bound", torch.inf)), int(fit.extra.get("waited", 0))
        best = {name: fit.extra.get(f"best.{name}", weight).clone() for name, weight in fit.average.items()}
        begun = time.monotonic()
        with Progress(transient=True) as progress:
            task = progress.add_task("image model", total=steps, completed=fit.step)
            for step in range(fit.step, steps):
                if waited >= patience or (minutes is not None and time.monotonic() - begun > 60 * minutes):
                    break
                # One generator a step, so that a resumed fit draws what an uninterrupted one would.
                rng = np.random.default_rng([seed, step])
                chosen = rng.choice(seen, min(batch_size, len(seen)), replace=False)
                torch.manual_seed(seed * 1_000_003 + step)
                batch = shifted(images[chosen].float(), shift, rng).to(device)
                with autocast(device, mixed_precision):
                    loss = model.bound(batch, condition[chosen], beta_at(step, divergence_warm_up, first_beta)).value
                fit.descend(loss, learning_rate * cosine(step, steps, WARM_UP))
                progress.update(task, completed=step + 1)
                if (step + 1) % evaluate_every and step + 1 < steps:
                    continue
                average.load_state_dict(fit.average)
                now = _held_out_bound(average, images[unseen].float().to(device), condition[unseen], seed)
                waited = 0 if now < bound else waited + 1
                if now < bound:
                    bound, best = now, {name: weight.clone() for name, weight in fit.average.items()}
                progress.update(task, description=f"image model, bound {bound:.3f}")
                fit.extra = {"bound": torch.tensor(bound, dtype=torch.float64), "waited": torch.tensor(waited)}
                fit.extra |= {f"best.{name}": weight for name, weight in best.items()}
                fit.save()
        average.load_state_dict(best)
    return SCMEditor(scm, average, residual=residual, fitted_on=frozenset(distinct), renderer_version=renderer_version)


def conditional_vae(size: tuple[int, int]) -> Callable[[int], ConditionalVAE]:
    """What builds the conditional VAE that came closest to true counterfactuals of phantoms: its vector holds little.

    A map, or a vector that tells pixels sharply, holds what attributes cause, and replaying it undoes an edit. What a small
    vector does not hold is pixel noise, which an editor replays too: the image stays the patient's.

    Args:
        size: ``(h, w)`` of all images.
    """
    return partial(ConditionalVAE, latent=16, scale=0.4, size=size)


def complete_rows(dataset: Dataset, rows: np.ndarray, graph: CausalGraph) -> tuple[np.ndarray, pd.DataFrame]:
    """Those of the rows that have all labelled attributes, and these, typed."""
    table = graph.coerce(dataset.attributes.iloc[rows])
    complete = table.notna().all(axis=1).to_numpy()
    return np.asarray(rows)[complete], table[complete]


def read(dataset: Dataset, rows: np.ndarray) -> Tensor:
    """``(n, 1, h, w)`` in half precision: they lie in memory for the whole fit, the error is far under the pixel scale."""
    return torch.cat([dataset.images(rows[i : i + READ]).half() for i in range(0, len(rows), READ)])


def beta_at(step: int, warm_up: int, first: float) -> float:
    """Weight of the divergence: from ``first`` to 1 in ``warm_up`` steps, geometrically."""
    return first ** max(0.0, 1 - step / warm_up) if warm_up else 1.0


def shifted(images: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Each image moved by up to ``most`` pixels along either axis, its border repeated."""
    if not most:
        return images
    height, width = images.shape[-2:]
    wide = F.pad(images, (most,) * 4, mode="replicate")
    offsets = rng.integers(0, 2 * most + 1, (len(images), 2)).tolist()
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(wide, offsets, strict=True)])


@torch.no_grad()
def _held_out_bound(model: ImageModel, images: Tensor, condition: Tensor, seed: int) -> float:
    torch.manual_seed(seed)  # the same latent draws at each evaluation
    return float(model.bound(images, condition).value)


def main() -> None:
    """Fit the baseline of a world and write it with its model card."""
    from causal_cxr.data.phantom import VERSION, Phantom

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="portable")
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=7101)
    parser.add_argument("--model", choices=("cvae", "hvae"), default="cvae")
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    phantom = Phantom(given.images, world=given.world, size=given.size, seed=given.seed)
    begun = time.monotonic()
    editor = fit_image_model(
        phantom, np.arange(given.images), phantom.graph, {"cvae": None, "hvae": HierarchicalVAE}[given.model],
        steps=given.steps, seed=given.seed, renderer_version=VERSION, checkpoint=given.out / "checkpoint",
        minutes=given.minutes,
    )  # fmt: skip
    editor.save(given.out)
    minutes, parameters = (time.monotonic() - begun) / 60, sum(p.numel() for p in editor.image_model.parameters()) / 1e6
    (given.out / "card.md").write_text(
        f"""# Deep SCM of the phantom world `{given.world}`: the baseline

- data: `Phantom({given.images}, "{given.world}", seed={given.seed})`, {given.size}x{given.size}, renderer version {VERSION}; synthetic, no
  patients; a tenth held out to choose the weights by
- model: Pyro attribute mechanisms; `{type(editor.image_model).__name__}` of {parameters:.2f} million parameters, half precision:
  {editor.image_model.settings}
- steps: at most {given.steps} of 32 images
- seed: {given.seed}
- command: `python -m causal_cxr.editors.scm.fit --world {given.world} --model {given.model} --images {given.images} --steps {given.steps} --out DIR`
- time: {minutes:.0f} minutes on one shared CPU core
- pixel noise is replayed in full (`residual` 1): a null edit returns the image whatever the model, so composition says
  nothing about it
- how close its counterfactuals come to the truth, beside the diffusion editor: `benchmarks/results/editors-portable.json`
- not for: real radiographs, clinical use; a small model, not the best that a deep SCM can be
"""
    )


if __name__ == "__main__":
    main()
