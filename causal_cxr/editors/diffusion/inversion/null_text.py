"""Null-text optimisation: the empty caption's states are fitted to the image, a step at a time (Mokady et al., CVPR 2023)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Captioned, Condition, Field
from causal_cxr.editors.diffusion.inversion.ddim import DDIM, step
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory
from causal_cxr.editors.diffusion.inversion.negative_prompt import alone, captioned


@dataclass(frozen=True)
class NullText:
    """DDIM there unguided; then, from noise to image, the unconditional states that hold the guided way back to that path.

    Rows are fitted each on its own, and each until its error is small. A gradient costs a forward and a backward pass.

    Attributes:
        steps: of DDIM's method.
        inner: most gradient steps a step of DDIM's.
        learning_rate: of Adam at the noisiest step; it falls linearly, at the end to half.
        tolerance: mean square error at which a row is left, at the noisiest step; 100 times as much at the end.
    """

    steps: int = 50
    inner: int = 10
    learning_rate: float = 1e-2
    tolerance: float = 1e-5
    name: ClassVar[str] = "null_text"
    exact: ClassVar[bool] = False

    def invert(self, source: Field, image: Tensor, noise: Callable[[], Tensor]) -> Trajectory:
        """See :class:`~causal_cxr.editors.diffusion.inversion.Inversion`; draws no noise, keeps the states of each step.

        Raises:
            ValueError: the field is not that of a caption with guidance.
        """
        guided = captioned(source, self.name)
        if guided.unconditional is None or guided.scale == 1.0:
            raise ValueError(
                "null_text fits the states that guidance leads away from, and this field has no guidance; invert with "
                "that of the edit: ClassifierFree(scale, inverted=scale)."
            )
        path = DDIM(self.steps).invert(alone(guided), image, noise)
        x, states, fitted = path.latents[-1], guided.unconditional.text, []
        for i in range(self.steps, 0, -1):
            t, t_next = path.times[i], path.times[i - 1]
            done = 1 - i / self.steps
            states = self._fit(guided, x, t, t_next, path.latents[i - 1], states, done)
            fitted.append(states)
            with torch.no_grad():
                x = step(guided.denoiser.process, _led(guided, states)(x, t), t_next)
        return replace(path, kept={"null": torch.stack(fitted[::-1])})

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """Back along the target's field, led away from the states of each step.

        Raises:
            ValueError: the field is not that of a caption with guidance.
        """
        guided = captioned(target, self.name)
        process, x, times = guided.denoiser.process, trajectory.latents[-1], trajectory.times
        for i in range(len(times) - 1, 0, -1):
            x = step(process, _led(guided, trajectory.kept["null"][i - 1])(x, times[i]), times[i - 1])
        return x

    def _fit(
        self, field: Captioned, x: Tensor, t: float, t_next: float, aim: Tensor, states: Tensor, done: float
    ) -> Tensor:
        """The unconditional states from which a guided step leads closest to ``aim``."""
        denoiser, process = field.denoiser, field.denoiser.process
        with torch.no_grad():
            within = denoiser.output(x, t, field.condition)
        states = states.detach().clone().requires_grad_()
        adam = torch.optim.Adam([states], lr=self.learning_rate * (1 - done / 2))
        enough = self.tolerance * (1 + 99 * done)
        open_rows = torch.arange(len(x), device=x.device)
        for _ in range(self.inner):
            with torch.enable_grad():
                without = denoiser.output(x[open_rows], t, _unconditional(field, states, open_rows))
                output = without + field.scale * (within[open_rows] - without)
                arrived = step(process, process.split(output, x[open_rows], t), t_next)
                errors = (arrived - aim[open_rows]).square().mean(dim=(1, 2, 3))
                far = errors.detach() > enough
                if not far.any():
                    break
                (gradient,) = torch.autograd.grad(errors.sum(), states)
            denoiser.ledger.backward += len(open_rows)
            open_rows = open_rows[far]
            before, moving = states.detach().clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
            moving[open_rows] = True
            states.grad = gradient
            adam.step()
            # A row that is done stays, though Adam's memory would carry it on.
            states.data.copy_(torch.where(moving[:, None, None], states.detach(), before))
        return states.detach()


def _unconditional(field: Captioned, states: Tensor, rows: Tensor | None = None) -> Condition:
    visual = None if field.unconditional is None else field.unconditional.visual
    if rows is None:
        return Condition(states, visual)
    return Condition(states[rows], None if visual is None else visual[rows])


def _led(field: Captioned, states: Tensor) -> Captioned:
    return field.away_from(_unconditional(field, states))
