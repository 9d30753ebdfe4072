"""The noising process that a diffusion network was fitted to, and what its output means.

Every process here noises an image as ``x_t = a(t) x_0 + s(t) e`` with ``e`` standard normal; networks differ in the schedule
``a, s`` and in what they predict. Inversions and guidance are written once, in terms of the predicted ``x_0`` and ``e``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Predicted = Literal["epsilon", "v_prediction", "flow"]
FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
FLOW_TIMES = 1000  #: a flow's network is told t in these units
CLEAN = -1.0  #: the time of an image without noise, under a schedule of discrete times


@dataclass(frozen=True)
class Prediction:
    """What a network says of ``x_t``: the image and the noise that it is made of, each shaped as ``x_t``."""

    clean: Tensor
    noise: Tensor

    @property
    def velocity(self) -> Tensor:
        """``dx/dt`` of a rectified flow."""
        return self.noise - self.clean


@dataclass(frozen=True)
class Process:
    """A noising process and what the network predicts.

    Attributes:
        predicts: ``epsilon`` the noise (Ho et al., NeurIPS 2020); ``v_prediction`` ``a e - s x_0`` (Salimans and Ho, ICLR
            2022); ``flow`` the velocity ``e - x_0`` of the rectified flow ``a = 1 - t``, ``s = t`` (Liu et al., ICLR 2023).
        alphas: ``(T,)`` float64, ``a(t)^2`` of a variance-preserving schedule; ``None`` for flows.
        offset: the first of the discrete times that samplers use (Stable Diffusion: 1).
        scheduler: the config of the diffusers scheduler that it came from.
    """

    predicts: Predicted
    alphas: Tensor | None = None
    offset: int = 0
    scheduler: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.predicts not in get_args(Predicted):
            raise ValueError(f"A network predicts one of {get_args(Predicted)}, got {self.predicts!r}.")
        if (self.alphas is None) != (self.predicts == "flow"):
            raise ValueError("A schedule's alphas are needed for epsilon and v_prediction, and make no sense for flow.")

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> "Process":
        """Of a diffusers scheduler, or of its config: any variance-preserving one, or that of flow matching.

        Which sampler a scheduler is makes no difference, only the process that it samples from.

        Raises:
            ValueError: the scheduler samples from a process of another kind.
        """
        from diffusers import DDPMScheduler

        config = dict(scheduler) if isinstance(scheduler, Mapping) else {**scheduler.config}
        name = config.setdefault("_class_name", type(scheduler).__name__)
        config.pop("_use_default_values", None)  # of the object, not of its settings
        if name == FLOW_SCHEDULER:
            if config.get("num_train_timesteps", FLOW_TIMES) != FLOW_TIMES:
                raise ValueError(
                    f"The network of a flow is told times from 0 to {FLOW_TIMES}, this scheduler says to "
                    f"{config['num_train_timesteps']}."
                )
            return cls("flow", scheduler=config)
        predicts = config.get("prediction_type", "epsilon")
        if (
            predicts not in ("epsilon", "v_prediction")
            or config.get("use_flow_sigmas")
            or not _PRESERVING & set(config)
        ):
            raise ValueError(
                f"{name} with prediction_type {predicts!r} samples from a process that is not understood: those are "
                f"epsilon and v_prediction under a schedule of betas, and flow matching as {FLOW_SCHEDULER}."
            )
        schedule: Any = DDPMScheduler(**{key: config[key] for key in _SCHEDULE if key in config})
        return cls(predicts, schedule.alphas_cumprod.double(), int(config.get("steps_offset", 0)), config)

    def save(self, folder: Path) -> None:
        """Write ``scheduler_config.json``.

        Raises:
            ValueError: the process is not that of a scheduler.
        """
        from diffusers import FlowMatchEulerDiscreteScheduler

        config = self.scheduler
        if config is None and self.predicts == "flow":
            flow: Any = FlowMatchEulerDiscreteScheduler()
            config = Process.from_scheduler(flow).scheduler
        if config is None:
            raise ValueError(
                "A schedule is saved as its scheduler's config: make the process with from_scheduler(...)."
            )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scheduler_config.json").write_text(json.dumps(dict(config), indent=2, sort_keys=True, default=list))

    def times(self, steps: int) -> list[float]:
        """``steps + 1`` times from the image to pure noise.

        Those of flows lie as Chebyshev's points do, dense towards both ends, where the flow of sharp images is stiff;
        discrete schedules are cut evenly (diffusers' ``leading``), the image itself at :data:`CLEAN`.
        """
        if steps < 1:
            raise ValueError(f"A process is solved in one step or more, got {steps}.")
        if self.alphas is None:
            even = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
            return ((1 - torch.cos(torch.pi * even)) / 2).tolist()
        stride = len(self.alphas) // steps
        if stride == 0:
            raise ValueError(f"The schedule has {len(self.alphas)} times; {steps} steps are too many.")
        last = len(self.alphas) - 1
        return [CLEAN, *(float(min(k * stride + self.offset, last)) for k in range(steps))]

    def coefficients(self, t: float) -> tuple[float, float]:
        """``a(t), s(t)``."""
        if self.alphas is None:
            return 1.0 - t, t
        alpha = 1.0 if t == CLEAN else float(self.alphas[int(t)])
        return alpha**0.5, (1.0 - alpha) ** 0.5

    def network_time(self, t: float) -> float:
        """What the network is told of ``t``; its first time where there is no noise."""
        return FLOW_TIMES * t if self.alphas is None else max(t, 0.0)

    def split(self, output: Tensor, x: Tensor, t: float) -> Prediction:
        """The image and the noise behind the network's output."""
        a, s = self.coefficients(t)
        if self.predicts == "flow":
            return Prediction(x - t * output, x + (1 - t) * output)
        if self.predicts == "v_prediction":
            return Prediction(a * x - s * output, s * x + a * output)
        if t == CLEAN:
            return Prediction(x, output)
        return Prediction((x - s * output) / a, output)

    def target(self, clean: Tensor, noise: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """What the network is to predict in training; ``a, s`` broadcast over the images."""
        if self.predicts == "flow":
            return noise - clean
        return noise if self.predicts == "epsilon" else a * noise - s * clean


_SCHEDULE = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr",
)  # fmt: skip
#: Schedulers of other processes (EDM, consistency, Wuerstchen) have none of these settings.
_PRESERVING = {"beta_schedule", "trained_betas"}
