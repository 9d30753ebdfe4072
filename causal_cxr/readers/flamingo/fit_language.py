"""The second phase of the fit: the language model and its gated cross-attention, with all that is seen frozen and kept."""

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from causal_cxr.fitting import Log, ResumableFit, cosine
from causal_cxr.fitting.precision import autocast
from causal_cxr.readers.flamingo.episodes import Bank
from causal_cxr.readers.flamingo.learner import Learner
from causal_cxr.readers.flamingo.prompt import Template
from causal_cxr.readers.quality import auroc

WARM_UP = 20
SAVED_EVERY = 40
EMA = 0.98
NAMED = 0.1  #: share of steps in which signs are asked about by name
SHOTS = (0, 4, 8, 16)


def fit_language(
    bank: Bank,
    model: Any,
    tokenizer: Any,
    wordings: list[str],
    template: Template,
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = 32,
    exemplars: int = 16,
    learning_rate: float = 1e-4,
    train: Literal["all", "gated"] = "all",
    checkpoint: Path | None = None,
    watched: Bank | None = None,
) -> None:
    """Fit ``model`` in place, to its averaged weights; vision tower and perceiver stay as they are.

    Args:
        bank: of what the model sees, that episodes are drawn from.
        model: ``IdeficsForVisionText2Text``.
        tokenizer: its own.
        wordings: what questions are about, by the bank's positions; the first is neutral.
        template: of the questions.
        steps: of ``batch_size`` episodes.
        seed: of episodes.
        batch_size: episodes a step.
        exemplars: most that an episode shows; every smaller number is learnt along.
        learning_rate: at its highest.
        train: ``"all"`` of the language model, or ``"gated"``: only its gated cross-attention, as Flamingo's is.
        checkpoint: folder for resumable state; a killed fit goes on from it, to the same bits.
        watched: signs that are held out, to log how well they are read.

    Raises:
        ValueError: see :class:`Learner` and :meth:`Bank.draw`; ``checkpoint`` holds another fit.
    """
    from rich.progress import Progress

    learner = Learner(model, tokenizer, wordings, template).train()
    trained = trainable(model, train)
    fit = ResumableFit(
        trained,
        torch.optim.AdamW(list(trained.values()), lr=learning_rate, weight_decay=0.02, betas=(0.9, 0.98)),
        decay=EMA,
        folder=checkpoint,
        recipe=("language", steps, seed, batch_size, exemplars, learning_rate, wordings, template, bank.fingerprint),
    )
    log, begun = Log(None if checkpoint is None else checkpoint / "loss.jsonl", fit.step), time.monotonic()
    losses = list[Tensor]()
    with Progress(transient=True) as progress:
        bar = progress.add_task("fitting the language model", total=steps, completed=fit.step)
        for step in range(fit.step, steps):
            # One generator a step: a resumed fit draws what the uninterrupted one would have drawn.
            generator = torch.Generator().manual_seed(int(np.random.default_rng([seed, step]).integers(2**62)))
            named = bool(len(bank.words)) and float(torch.rand((), generator=generator)) < NAMED
            episodes = bank.draw(batch_size, exemplars + 1, generator, named=named)
            with autocast(model.device, "bf16"):
                loss = learner(episodes)
            fit.descend(loss.mean(), learning_rate * cosine(step, steps, WARM_UP))
            if not named:
                losses.append(loss.detach())
            progress.update(bar, advance=1)
            if fit.step % SAVED_EVERY == 0:
                fit.save()
                mean = torch.stack(losses).mean(0)
                entry = {f"loss_{k}": float(mean[k]) for k in SHOTS if k <= exemplars}
                if watched is not None:
                    entry |= answered_auroc(learner, watched, exemplars + 1, seed=seed)
                log.add(step=fit.step, **entry)
                minutes = (time.monotonic() - begun) / 60
                print(fit.step, f"{minutes:.1f} min", {name: round(v, 3) for name, v in entry.items()}, flush=True)
                losses = []
    fit.save()
    fit.smooth()
    model.eval()


def trainable(model: Any, train: str) -> dict[str, Tensor]:
    """The weights that are fitted, by name; the others no longer ask for gradients."""
    if train not in ("all", "gated"):
        raise ValueError(f'train is "all" or "gated", got {train!r}.')
    for name, p in model.named_parameters():
        seen = "vision_model" in name or "perceiver_resampler" in name
        p.requires_grad_(not seen and (train == "all" or "gated_cross_attn" in name))
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def answered_auroc(learner: Learner, bank: Bank, k: int, *, seed: int, episodes: int = 768) -> dict[str, float]:
    """AUROC of the answers after some exemplars, over questions of a bank."""
    drawn = bank.draw(episodes, k, torch.Generator().manual_seed(seed))
    logits = learner.answer(drawn).float()
    margin = (logits[..., learner.yes] - logits[..., learner.no]).cpu().numpy()
    truth = drawn.answers.numpy()
    return {f"auroc_{shot}": float(auroc(margin[:, shot], truth[:, shot])) for shot in SHOTS if shot < k}
