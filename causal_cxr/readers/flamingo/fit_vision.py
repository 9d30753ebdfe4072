"""The first phase of the fit: vision tower and perceiver, by telling signs from a few examples; no words yet."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from causal_cxr.fitting import Log, ResumableFit, cosine
from causal_cxr.fitting.precision import attention
from causal_cxr.readers.flamingo.compare import Comparer, choose
from causal_cxr.readers.flamingo.groups import Pool
from causal_cxr.readers.quality import auroc

WARM_UP = 100
SAVED_EVERY = 200
EMA = 0.995
MEAN, STD = 0.5, 0.25  #: of the pixels, for a model of our own
SHOTS = (4, 8, 16)


def fit_vision(
    pool: Pool,
    model: Any,
    tower: nn.Module,
    *,
    steps: int,
    seed: int = 0,
    group_size: int = 256,
    learning_rate: float = 1e-3,
    checkpoint: Path | None = None,
    watched: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Fit a vision tower and ``model``'s perceiver in place, to their averaged weights.

    Args:
        pool: images that groups are drawn from, sized as the tower awaits.
        model: ``IdeficsForVisionText2Text`` with a perceiver.
        tower: in place of its own, see :func:`~causal_cxr.readers.flamingo.model.seen`.
        steps: of one group.
        seed: of heads and groups.
        group_size: images in a group.
        learning_rate: at its highest.
        checkpoint: folder for resumable state; a killed fit goes on from it, to the same bits.
        watched: ``(n, h, w)`` images and ``(n, signs)`` truth of signs held out, to log how well they are told.

    Raises:
        ValueError: the pool is smaller than a group; ``checkpoint`` holds another fit.
    """
    from rich.progress import Progress

    torch.manual_seed(seed)
    comparer = Comparer(model, tower, pool.signs.shape[1], mean=MEAN, std=STD).train()
    trained = {
        name: p for name, p in comparer.named_parameters() if not name.startswith("model.") or "perceiver" in name
    }
    fit = ResumableFit(
        trained,
        torch.optim.AdamW(list(trained.values()), lr=learning_rate, weight_decay=0.02, betas=(0.9, 0.98)),
        decay=EMA,
        folder=checkpoint,
        recipe=("vision", steps, seed, group_size, learning_rate, pool.fingerprint),
    )
    log, begun = Log(None if checkpoint is None else checkpoint / "loss.jsonl", fit.step), time.monotonic()
    parts = list[dict[str, Tensor]]()
    with Progress(transient=True) as progress:
        bar = progress.add_task("fitting the vision tower", total=steps, completed=fit.step)
        for step in range(fit.step, steps):
            # One generator a step: a resumed fit draws what the uninterrupted one would have drawn.
            generator = torch.Generator().manual_seed(int(np.random.default_rng([seed, step]).integers(2**62)))
            group = pool.draw(group_size, generator)
            with attention(comparer.model.device, "bf16"):
                loss, told = comparer(group, generator)
            fit.descend(loss, learning_rate * cosine(step, steps, WARM_UP))
            parts.append({name: part.detach() for name, part in told.items()})
            progress.update(bar, advance=1)
            if fit.step % SAVED_EVERY == 0:
                fit.save()
                entry = {name: float(torch.stack([p[name] for p in parts]).mean()) for name in parts[0]}
                if watched is not None:
                    entry |= compared_auroc(comparer, *watched, seed=seed)
                log.add(step=fit.step, **entry)
                minutes = (time.monotonic() - begun) / 60
                print(fit.step, f"{minutes:.1f} min", {name: round(v, 3) for name, v in entry.items()}, flush=True)
                parts = []
    fit.save()
    fit.smooth()
    comparer.eval()


@torch.no_grad()
def compared_auroc(comparer: Comparer, images: Tensor, truth: Tensor, *, seed: int, draws: int = 4) -> dict[str, float]:
    """Mean AUROC of the comparing head over signs, on images that were no exemplars, by number of exemplars."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.cat([comparer.features(part) for part in images.float().split(500)])
    entry = {}
    for k in SHOTS:
        told = []
        for _ in range(draws):
            shots = torch.full((truth.shape[1],), k // 2)
            present, absent = choose(truth == 1, shots, generator), choose(truth == 0, shots, generator)
            odds, judged = comparer.compare(features, present, absent), ~(present | absent | truth.isnan())
            for sign, rows in enumerate(judged.T):
                told.append(auroc(odds[rows, sign].numpy(), truth[rows, sign].numpy() == 1))
        entry[f"compared_{k}"] = float(np.mean(told))
    return entry
