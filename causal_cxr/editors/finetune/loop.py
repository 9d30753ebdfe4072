"""The one loop behind every diffusion fit: whatever is trained, under whichever noising process."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from causal_cxr.editors.diffusion.editor import DiffusionEditor
from causal_cxr.editors.diffusion.pipeline import Pipeline
from causal_cxr.editors.diffusion.process import Process
from causal_cxr.editors.finetune.telling import Captions, Tokenised
from causal_cxr.editors.finetune.watch import Watch
from causal_cxr.fitting.log import Log
from causal_cxr.fitting.precision import Precision, attention
from causal_cxr.fitting.resumable import ResumableFit, cosine

BATCH = 64
EMA = 0.998  #: of 64 images a step, as many images remembered whatever the batch
WARM_UP = 100
SAVED_EVERY = 100  #: steps between two writings of the state, and over which the logged loss is a mean
BETAS = (0.9, 0.99)

Loss = Callable[[np.random.Generator, torch.Generator], Tensor]
"""Of one step: draws its batch by these two, the second on the weights' device, and gives ``()``."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast.

    Attributes:
        steps: of ``batch_size`` images.
        batch_size: images a step.
        learning_rate: after the warm-up; it decays by half a cosine.
        weight_decay: AdamW's.
        seed: of rows, captions, times and noise.
        ema: share of the running average that a step of :data:`BATCH` images leaves.
        mixed_precision: ``bf16`` or ``no``.
        device: to fit on.
        graphs: on CUDA, launch the network's kernels as one graph; small networks are bound by their launches.
        minutes: stop early after so much wall time; a checkpoint goes on from there.
        checkpoint: folder for the state and the logs ``loss.jsonl`` and ``validation.jsonl``.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    batch_size: int = BATCH
    seed: int = 0
    ema: float = EMA
    mixed_precision: Precision = "bf16"
    device: str | torch.device = "cpu"
    graphs: bool = False
    minutes: float | None = None
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"A fit has one step or more of one image or more, got {self.steps} of {self.batch_size}.")
        if self.graphs and torch.device(self.device).type != "cuda":
            raise ValueError(f"Graphs of kernels are CUDA's; leave graphs out on device={str(self.device)!r}.")

    def accelerator(self) -> Any:
        """Accelerate's, for one process.

        Raises:
            ValueError: there is no such device.
        """
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        kind = torch.device(self.device).type
        AcceleratorState._reset_state(reset_partial_state=True)  # else a process could fit on one device only
        made = Accelerator(cpu=kind == "cpu", mixed_precision=self.mixed_precision)
        if made.device.type != kind:
            raise ValueError(f"There is no device {str(self.device)!r} here, only {made.device!s}; pass device='cpu'.")
        return made


@dataclass(frozen=True)
class History:
    """How a fit went.

    Attributes:
        steps: done.
        loss: mean over the last logged steps; NaN if there were none.
        stopped: why before the last step; empty if not.
        chosen: step whose weights were kept, and its numbers; ``None`` without a :class:`Watch`.
    """

    steps: int
    loss: float
    stopped: str = ""
    chosen: Mapping[str, float] | None = None


def train(
    pipeline: Pipeline,
    trained: Mapping[str, Tensor],
    latents: Tensor,
    captions: Captions,
    recipe: Recipe,
    *,
    identity: tuple[object, ...],
    chances: np.ndarray | None = None,
    watch: Watch | None = None,
    editor: Callable[[], DiffusionEditor] | None = None,
) -> History:
    """Fit weights of a pipeline by the loss of its own process; they end as their running average.

    Args:
        pipeline: changed in place, moved to the recipe's device and left there.
        trained: weights of its models, by name; others get no gradient.
        latents: ``(n, channels, h, w)`` of the images, on the device.
        captions: of these ``n`` images.
        identity: all else that the fit depends on, for resumption.
        chances: ``(n,)`` of a row to be drawn; equal unless given.
        watch, editor: judge ``editor()`` while it runs.

    Raises:
        ValueError: the checkpoint is of another fit; the validation lacks what ``watch.select`` names.
    """
    accelerator = recipe.accelerator()
    device = accelerator.device
    pipeline.to(device)
    encode = _encoder(pipeline, any(name.startswith("text") for name in trained))
    tokenised = Tokenised(pipeline.text)
    cumulated = None if chances is None else np.cumsum(chances / chances.sum())
    network: nn.Module = _Network(pipeline.unet)
    uncaptured = recipe.graphs

    def loss(draw: np.random.Generator, generator: torch.Generator) -> Tensor:
        nonlocal network, uncaptured
        picked = _picked(draw, len(latents), recipe.batch_size, cumulated)
        tokens = _moved(tokenised(captions.drawn(picked, draw)), device)
        x = latents[_moved(torch.from_numpy(picked), device)].float()
        noise = torch.randn(x.shape, generator=generator, device=device)
        said, a, s = _times(pipeline.process, len(x), generator)
        with accelerator.autocast(), attention(device, recipe.mixed_precision):
            given = (a * x + s * noise, said, encode(tokens))
        if uncaptured:
            network, uncaptured = _captured(network, given, half=recipe.mixed_precision == "bf16"), False
        with accelerator.autocast(), attention(device, recipe.mixed_precision):
            output = network(*given)
        return torch.nn.functional.mse_loss(output.float(), pipeline.process.target(x, noise, a, s))

    models = (pipeline.unet, pipeline.text.model)
    return descend(trained, loss, recipe, models, identity=identity, watch=watch, editor=editor)


def descend(
    trained: Mapping[str, Tensor],
    loss: Loss,
    recipe: Recipe,
    models: Sequence[nn.Module],
    *,
    identity: tuple[object, ...],
    watch: Watch | None = None,
    editor: Callable[[], Any] | None = None,
) -> History:
    """Fit weights by any loss; they end as their running average.

    Killed or not, a fit comes to the same bits: each step has its own generators, and the state is written as it goes.

    Args:
        trained: weights, by name, on the device.
        loss: of a step.
        recipe: how long, how fast, and where the state is kept.
        models: networks that are in training mode meanwhile, and in evaluation mode after.
        identity: all else that the fit depends on, for resumption.
        watch, editor: judge ``editor()`` while it runs.

    Raises:
        ValueError: the checkpoint is of another fit; the validation lacks what ``watch.select`` names.
    """
    from rich.progress import Progress

    weights, decay = list(trained.values()), recipe.weight_decay
    device = weights[0].device
    fit = ResumableFit(
        trained,
        torch.optim.AdamW(weights, lr=recipe.learning_rate, betas=BETAS, weight_decay=decay),
        decay=recipe.ema ** (recipe.batch_size / BATCH),
        folder=recipe.checkpoint,
        recipe=(*identity, recipe.steps, recipe.seed, recipe.batch_size, recipe.learning_rate, recipe.weight_decay,
                recipe.ema, recipe.mixed_precision, () if watch is None else watch.recipe),
    )  # fmt: skip
    losses = Log(recipe.checkpoint and recipe.checkpoint / "loss.jsonl", fit.step)
    judged = _Judged(watch, fit, Log(recipe.checkpoint and recipe.checkpoint / "validation.jsonl", fit.step))
    # Losses since the last log: the curve survives a kill.
    recent = list(fit.extra.pop("recent", torch.empty(0)).to(device))
    last, begun, stopped = float(fit.extra.get("loss", torch.tensor(float("nan")))), time.monotonic(), ""
    with Progress(transient=True) as progress, _training(models):
        bar = progress.add_task("fitting", total=recipe.steps, completed=fit.step)
        for step in range(fit.step, recipe.steps):
            if judged.out_of_patience:
                break
            # One generator a step: a resumed fit draws what the uninterrupted one would have drawn.
            draw = np.random.default_rng([recipe.seed, step])
            generator = torch.Generator(device).manual_seed(int(draw.integers(2**62)))
            error = loss(draw, generator)
            fit.descend(error, recipe.learning_rate * cosine(step, recipe.steps, WARM_UP))
            recent.append(error.detach())
            progress.update(bar, advance=1)
            late = recipe.minutes is not None and time.monotonic() - begun > 60 * recipe.minutes
            done = step + 1 == recipe.steps
            if (step + 1) % SAVED_EVERY == 0 or done:
                last, recent = float(torch.stack(recent).mean()), []
                fit.extra["loss"] = torch.tensor(last, dtype=torch.float64)
                losses.add(step=fit.step, loss=last)
            looked = watch is not None and editor is not None and ((step + 1) % watch.every == 0 or done)
            if looked and editor is not None:
                with _resting(models), fit.averaged():
                    judged.look(editor())
            if (step + 1) % SAVED_EVERY == 0 or done or late or looked:
                fit.extra |= {"recent": torch.stack(recent)} if recent else {}
                fit.save()
                fit.extra.pop("recent", None)
            if late and not done:
                stopped = f"after {recipe.minutes:g} minutes"
                break
    if judged.out_of_patience and fit.step < recipe.steps:
        stopped = "for want of improvement"
    judged.keep_best()
    return History(fit.step, last, stopped, judged.chosen)


class _Judged:
    """What a :class:`Watch` has seen so far, kept with the state of the fit."""

    def __init__(self, watch: Watch | None, fit: ResumableFit, log: Log) -> None:
        self.watch, self.fit, self.log = watch, fit, log

    @property
    def chosen(self) -> Mapping[str, float] | None:
        """Step and numbers of the best look."""
        names = [name for name in self.fit.extra if name.startswith("chosen.")]
        return {name.removeprefix("chosen."): float(self.fit.extra[name]) for name in names} or None

    @property
    def out_of_patience(self) -> bool:
        """Whether too many looks have brought nothing better."""
        patience = None if self.watch is None else self.watch.patience
        return patience is not None and int(self.fit.extra.get("worse", torch.tensor(0))) >= patience

    def look(self, editor: DiffusionEditor) -> None:
        """Judge; remember the averaged weights if they are the best yet."""
        assert self.watch is not None
        numbers = {name: float(value) for name, value in self.watch.validate(editor).items()}
        score, extra = self.watch.score(numbers), self.fit.extra
        self.log.add(step=self.fit.step, score=score, **numbers)
        best = float(extra.get("chosen.score", torch.tensor(-float("inf"))))
        if score > best or "chosen.score" not in extra:
            told = {"step": float(self.fit.step), "score": score, **numbers}
            extra |= {f"chosen.{name}": torch.tensor(value, dtype=torch.float64) for name, value in told.items()}
            extra |= {f"best.{name}": weight.clone() for name, weight in self.fit.average.items()}
            extra["worse"] = torch.tensor(0)
        else:
            extra["worse"] = torch.tensor(int(extra["worse"]) + 1)

    def keep_best(self) -> None:
        """Put the best averaged weights in place; the last ones without a look."""
        for name, average in self.fit.average.items():
            average.copy_(self.fit.extra.get(f"best.{name}", average))
        self.fit.smooth()


def _times(process: Process, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """What the network is told of ``n`` drawn times, and ``a, s`` of these, to broadcast over images.

    Flows: one half logit-normal (Esser et al., ICML 2024), the other as :meth:`Process.times` lie, where edits ask. Of the
    first alone one in 600 is above 0.95, where it is decided whether there is a thing at all: a network fitted at those draws
    devices about as often as it should, and edits by it keep those that an image has. Discrete schedules: each time alike.
    """
    device = generator.device
    if process.alphas is None:
        middle = torch.sigmoid(torch.randn(n, generator=generator, device=device))
        asked = (1 - torch.cos(torch.pi * torch.rand(n, generator=generator, device=device))) / 2
        t = torch.cat([middle[: n // 2], asked[n // 2 :]])[:, None, None, None]
        return 1000.0 * t[:, 0, 0, 0], 1 - t, t
    index = torch.randint(len(process.alphas), (n,), generator=generator, device=device)
    a, s = (part.sqrt().float().to(device)[index] for part in (process.alphas, 1 - process.alphas))
    return index, a[:, None, None, None], s[:, None, None, None]


def _picked(draw: np.random.Generator, n: int, count: int, cumulated: np.ndarray | None) -> np.ndarray:
    if cumulated is None:
        return draw.integers(0, n, size=count)
    return np.minimum(np.searchsorted(cumulated, draw.uniform(size=count), side="right"), n - 1)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for what it computes."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _encoder(pipeline: Pipeline, trained: bool) -> Callable[[Tensor], Tensor]:
    def encode(tokens: Tensor) -> Tensor:
        with torch.set_grad_enabled(trained):
            return pipeline.text.encode(tokens)

    return encode


@contextmanager
def _training(models: Sequence[nn.Module]) -> Iterator[None]:
    for model in models:
        model.train()
    try:
        yield
    finally:
        for model in models:
            model.eval()


@contextmanager
def _resting(models: Sequence[nn.Module]) -> Iterator[None]:
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model in models:
            model.train()


class _Network(nn.Module):
    """A UNet from tensors to a tensor."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, time: Tensor, states: Tensor) -> Tensor:
        return self.unet(x, time, encoder_hidden_states=states).sample


def _captured(network: nn.Module, given: tuple[Tensor, ...], *, half: bool) -> nn.Module:
    """The network, forward and backward, as CUDA graphs for inputs shaped as these."""
    examples = tuple(one.detach().clone().requires_grad_(one.requires_grad) for one in given)
    # What is cast must be cast anew in every replay, as weights change in between.
    with torch.autocast("cuda", torch.bfloat16, enabled=half, cache_enabled=False):
        captured: Any = torch.cuda.make_graphed_callables(network, examples, allow_unused_input=True)
    return captured
