"""Fit the image mechanism of a deep SCM: resumable, deterministic for a seed and thread count.

python -m causal_cxr.editors.scm.fit --world portable --out runs/scm-portable
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causal_cxr.data.dataset import Dataset
from causal_cxr.editors.resumable import ResumableFit, cosine
from causal_cxr.editors.scm.editor import SCMEditor, conditions, n_conditions
from causal_cxr.editors.scm.vae import ConditionalVAE
from causal_cxr.graphs import CausalGraph
from causal_cxr.graphs.scm import SCM

EMA = 0.995
WARM_UP = 50
READ = 256  #: images read at once


def fit_image_model(
    dataset: Dataset,
    rows: np.ndarray,
    graph: CausalGraph,
    *,
    steps: int = 3000,
    seed: int = 0,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    width: int = 32,
    latent: int = 2,
    scale: float = 0.1,
    patience: int = 8,
    evaluate_every: int = 100,
    renderer_version: int | None = None,
    checkpoint: Path | None = None,
    minutes: float | None = None,
) -> SCMEditor:
    """Fit attribute mechanisms and image mechanism to the rows; Adam, warm-up, cosine decay, an EMA of the weights.

    A tenth of the patients is held out of the image model's gradient; the weights that give them the best bound are
    returned.

    Args:
        dataset: images of one size, sides multiples of 16, and labelled attributes.
        rows: to fit on; the rest is never looked at. Rows that miss an attribute are left out.
        graph: declares the attributes and which of them show in the image.
        steps: of ``batch_size`` images, at most.
        seed: of initial weights, batches, held-out patients and latent draws.
        width, latent, scale: see :class:`ConditionalVAE`.
        patience: evaluations in a row without a better bound after which the fit stops.
        renderer_version: recorded, for phantoms.
        checkpoint: folder for resumable state, written whole or not at all; a killed fit goes on from it.
        minutes: stop early after so much wall time (then the result depends on the machine; the card must say so).

    Raises:
        ValueError: fewer than two patients have all attributes.
    """
    from rich.progress import Progress

    table = graph.coerce(dataset.attributes.iloc[rows])
    complete = table.notna().all(axis=1).to_numpy()
    rows, table = np.asarray(rows)[complete], table[complete]
    patients = dataset.patients.iloc[rows].to_numpy()
    distinct = np.unique(patients)
    if len(distinct) < 2:
        raise ValueError(f"{len(distinct)} patient(s) have all attributes; a fit needs two or more.")
    held = np.random.default_rng(seed).choice(distinct, max(1, len(distinct) // 10), replace=False)
    is_held = np.isin(patients, held)
    scm = SCM(graph).fit(table)
    # Half precision: the images lie in memory for the whole fit, and its error is far under the pixel scale.
    images = torch.cat([dataset.images(rows[i : i + READ]).half() for i in range(0, len(rows), READ)])
    condition = conditions(graph, table)
    seen, unseen = np.flatnonzero(~is_held), np.flatnonzero(is_held)[:READ]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ConditionalVAE(n_conditions(graph), width, latent, scale)
        average = ConditionalVAE(n_conditions(graph), width, latent, scale).eval()
        fit = ResumableFit(
            dict(model.named_parameters()),
            torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.99)),
            decay=EMA,
            folder=checkpoint,
            recipe=(
                dataset.fingerprint,
                rows.tolist(),
                graph.fingerprint,
                steps,
                seed,
                batch_size,
                learning_rate,
                scale,
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
                chosen = np.random.default_rng([seed, step]).choice(seen, min(batch_size, len(seen)), replace=False)
                torch.manual_seed(seed * 1_000_003 + step)
                loss = model.loss(images[chosen].float(), condition[chosen])
                fit.descend(loss, learning_rate * cosine(step, steps, WARM_UP))
                progress.update(task, completed=step + 1)
                if (step + 1) % evaluate_every and step + 1 < steps:
                    continue
                average.load_state_dict(fit.average)
                now = _held_out_bound(average, images[unseen].float(), condition[unseen], seed)
                waited = 0 if now < bound else waited + 1
                if now < bound:
                    bound, best = now, {name: weight.clone() for name, weight in fit.average.items()}
                progress.update(task, description=f"image model, bound {bound:.3f}")
                fit.extra = {"bound": torch.tensor(bound, dtype=torch.float64), "waited": torch.tensor(waited)}
                fit.extra |= {f"best.{name}": weight for name, weight in best.items()}
                fit.save()
        average.load_state_dict(best)
    return SCMEditor(scm, average, fitted_on=frozenset(distinct), renderer_version=renderer_version)


@torch.no_grad()
def _held_out_bound(model: ConditionalVAE, images: Tensor, condition: Tensor, seed: int) -> float:
    torch.manual_seed(seed)  # the same latent draws at each evaluation
    return float(model.loss(images, condition))


def main() -> None:
    """Fit the baseline of a world and write it with its model card."""
    from causal_cxr.data.phantom import VERSION, Phantom

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="portable")
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=7101)
    parser.add_argument("--latent", type=int, default=2, help="channels of the latent map")
    parser.add_argument("--scale", type=float, default=0.1, help="standard deviation of a pixel")
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    phantom = Phantom(given.images, world=given.world, size=given.size, seed=given.seed)
    begun = time.monotonic()
    editor = fit_image_model(
        phantom, np.arange(given.images), phantom.graph, steps=given.steps, seed=given.seed, renderer_version=VERSION,
        checkpoint=given.out / "checkpoint", minutes=given.minutes,
        latent=given.latent, scale=given.scale,
    )  # fmt: skip
    editor.save(given.out)
    minutes, parameters = (time.monotonic() - begun) / 60, sum(p.numel() for p in editor.image_model.parameters()) / 1e6
    (given.out / "card.md").write_text(
        f"""# Deep SCM of the phantom world `{given.world}`: the baseline

- data: `Phantom({given.images}, "{given.world}", seed={given.seed})`, {given.size}x{given.size}, renderer version {VERSION}; synthetic, no
  patients; a tenth held out to choose the weights by
- model: Pyro attribute mechanisms; convolutional conditional VAE, latent map of {given.latent} channels, pixel standard deviation
  {given.scale:g}, {parameters:.2f} million parameters, half precision
- steps: at most {given.steps} of 32 images
- seed: {given.seed}
- command: `python -m causal_cxr.editors.scm.fit --world {given.world} --images {given.images} --steps {given.steps} --out DIR`
- time: {minutes:.0f} minutes on one shared CPU core
- pixel noise is replayed in full (`residual` 1): a null edit returns the image whatever the model, so composition says
  nothing about it
- how close its counterfactuals come to the truth, beside the diffusion editor: `benchmarks/results/counterfactual_error.json`
- not for: real radiographs, clinical use; a small model, not the best that a deep SCM can be
"""
    )


if __name__ == "__main__":
    main()
