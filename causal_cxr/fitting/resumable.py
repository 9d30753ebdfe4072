"""Fits that can be killed: weights, optimiser and running average, written whole or not at all, and found again."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causal_cxr.data.whole_file import whole_file

STATE = "state.safetensors"


class ResumableFit:
    """Weights under an optimiser of Adam's kind, with their exponential running average.

    Args:
        trained: name -> weight.
        optimiser: of these weights.
        decay: of the average, less at first, so that the initial weights are forgotten.
        folder: for the state; found there, the fit goes on from it. ``None`` keeps none.
        recipe: all else that the fit depends on; with the initial weights it must be that of the state found.

    Attributes:
        step: steps done.
        average: name -> averaged weight.
        extra: more tensors that are kept with the state, by name.

    Raises:
        ValueError: the folder holds the state of another fit.
    """

    def __init__(
        self,
        trained: Mapping[str, Tensor],
        optimiser: torch.optim.Optimizer,
        *,
        decay: float,
        folder: Path | None,
        recipe: tuple[object, ...],
    ) -> None:
        from safetensors import safe_open
        from safetensors.torch import load_file

        self.trained, self.optimiser, self.decay, self.folder = dict(trained), optimiser, decay, folder
        self.average = {name: p.detach().clone() for name, p in trained.items()}
        self.step, self.extra = 0, dict[str, Tensor]()
        digest = hashlib.sha256("|".join(str(part) for part in recipe).encode())
        for p in trained.values():
            digest.update(p.detach().cpu().numpy().tobytes())
        self.recipe = digest.hexdigest()[:16]
        if folder is None or not (folder / STATE).exists():
            return
        with safe_open(folder / STATE, "pt") as file:
            there = file.metadata()
        if there != {"recipe": self.recipe}:
            raise ValueError(
                f"{folder} holds the state of another fit (other data, rows, seed, steps or starting weights); choose "
                "another checkpoint=, or delete that folder."
            )
        state = load_file(folder / STATE)
        self.step = int(state["step"])
        self.extra = {name.removeprefix("extra."): value for name, value in state.items() if name.startswith("extra.")}
        for name, p in self.trained.items():
            p.data.copy_(state[f"weight.{name}"])
            self.average[name].copy_(state[f"average.{name}"])
            self.optimiser.state[p] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": state[f"first.{name}"].to(p.device),
                "exp_avg_sq": state[f"second.{name}"].to(p.device),
            }

    def descend(self, loss: Tensor, learning_rate: float) -> None:
        """One step, its gradient clipped to norm 1.

        Raises:
            FloatingPointError: the gradient is not finite; weights and the state that was saved are as they were.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"Step {self.step + 1} has a gradient that is not finite (loss {loss.item():g}): the fit has diverged; lower "
                "the learning rate, or end before this step."
            )
        self.optimiser.step()
        self.step += 1
        decay = min(self.decay, self.step / (self.step + 9))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.trained.values()], 1 - decay)

    def smooth(self) -> None:
        """Put the average in the weights' place."""
        for name, p in self.trained.items():
            p.data.copy_(self.average[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The average in the weights' place for a while."""
        kept = {name: p.detach().clone() for name, p in self.trained.items()}
        self.smooth()
        try:
            yield
        finally:
            for name, p in self.trained.items():
                p.data.copy_(kept[name])

    def save(self) -> None:
        """Write the state; nothing without a folder."""
        from safetensors.torch import save_file

        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {"step": torch.tensor(self.step)} | {
            f"extra.{name}": value.contiguous() for name, value in self.extra.items()
        }
        for name, p in self.trained.items():
            moments = self.optimiser.state[p]
            state[f"weight.{name}"], state[f"average.{name}"] = p.detach().contiguous(), self.average[name].contiguous()
            state[f"first.{name}"] = moments["exp_avg"].contiguous()
            state[f"second.{name}"] = moments["exp_avg_sq"].contiguous()
        with whole_file(self.folder / STATE) as partial:
            save_file(state, partial, metadata={"recipe": self.recipe})


def cosine(step: int, steps: int, warm_up: int, end: float = 0.02) -> float:
    """Factor of the learning rate: a linear warm-up, then half a cosine from 1 to ``end``."""
    return min(1.0, (step + 1) / warm_up) * (end + (1 - end) * 0.5 * (1 + float(np.cos(np.pi * step / steps))))
