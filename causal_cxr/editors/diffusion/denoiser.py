"""``Denoiser``: a conditional network, counted; and the fields of predictions that edits follow."""

from dataclasses import astuple, dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from causal_cxr.editors.diffusion.process import Prediction, Process


@dataclass(frozen=True)
class Condition:
    """What the network is told of ``n`` images.

    Attributes:
        text: ``(n, length, width)`` states of the captions.
        visual: ``(n, tokens, width)`` of exemplar images, for networks that read them.
    """

    text: Tensor
    visual: Tensor | None = None

    def __len__(self) -> int:
        return len(self.text)

    def toward(self, other: "Condition", weight: float) -> "Condition":
        """``self + weight (other - self)``: 0 is this one, 1 the other, more extrapolates."""
        visual = None if self.visual is None or other.visual is None else torch.lerp(self.visual, other.visual, weight)
        return Condition(torch.lerp(self.text, other.text, weight), visual)

    def at(self, rows: Tensor) -> "Condition":
        """Of these images alone."""
        return Condition(self.text[rows], None if self.visual is None else self.visual[rows])

    def changed(self, rows: Tensor, other: "Condition") -> "Condition":
        """What is told of the images ``rows`` is ``other`` instead."""
        visual, rows = self.visual, rows.to(self.text.device)
        if visual is not None and other.visual is not None:
            visual = visual.index_copy(0, rows, other.visual)
        return Condition(self.text.index_copy(0, rows, other.text), visual)

    def to(self, device: torch.device | str) -> "Condition":
        """On that device."""
        return Condition(self.text.to(device), None if self.visual is None else self.visual.to(device))

    @staticmethod
    def cat(parts: "list[Condition]") -> "Condition":
        """One after the other."""
        visual = [part.visual for part in parts if part.visual is not None]
        return Condition(torch.cat([part.text for part in parts]), torch.cat(visual) if visual else None)


@dataclass
class Ledger:
    """Work done, in images: the machine-independent cost of a method.

    Attributes:
        forward: network evaluations.
        backward: network evaluations that were differentiated.
        encode: images into latents, where the pipeline has an autoencoder.
        decode: latents into images, likewise.
    """

    forward: int = 0
    backward: int = 0
    encode: int = 0
    decode: int = 0

    def __add__(self, other: "Ledger") -> "Ledger":
        return Ledger(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def evaluations(self) -> int:
        """Forward equivalents of the network; a backward pass costs two."""
        return self.forward + 2 * self.backward


@dataclass
class Denoiser:
    """A UNet under a process; every evaluation is counted.

    Attributes:
        unet: diffusers' ``UNet2DConditionModel``, or anything called alike.
        process: that it was fitted to.
        autocast: compute in this type; the state stays float32. ``None`` = as the weights are.
        ledger: of the work done.
    """

    unet: Any
    process: Process
    autocast: torch.dtype | None = None
    ledger: Ledger = field(default_factory=Ledger)

    def predict(self, x: Tensor, t: float, condition: Condition) -> Prediction:
        """What the network says of ``x`` ``(n, channels, h, w)`` at time ``t``; differentiable where gradients are on."""
        return self.process.split(self.output(x, t, condition), x, t)

    def output(self, x: Tensor, t: float, condition: Condition) -> Tensor:
        """The network's output as it is, float32."""
        self.ledger.forward += len(x)
        time = torch.full((len(x),), self.process.network_time(t), device=x.device)
        extra = {} if condition.visual is None else {"cross_attention_kwargs": {"visual": condition.visual}}
        with torch.autocast(x.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            said = self.unet(x, time, encoder_hidden_states=condition.text, **extra).sample
        return said.float()


class Field(Protocol):
    """Says at every point and time what the image and the noise are: what an inversion follows there and back."""

    @property
    def denoiser(self) -> Denoiser:
        """That it asks."""
        ...

    def __call__(self, x: Tensor, t: float, own: Tensor | None = None) -> Prediction:
        """Of ``x`` at time ``t``.

        Args:
            x: ``(n, channels, h, w)``.
            t: one of the process's times.
            own: where the image's own way asks in place of ``x``, shaped alike, for fields that hold on to it; its
                trajectory's latent at ``t`` unless given.
        """
        ...


@dataclass(frozen=True)
class Captioned:
    """The field of a caption, with classifier-free guidance (Ho and Salimans, 2022).

    Attributes:
        denoiser: asked once a point, or once for both captions (two evaluations) where it is guided.
        condition: the caption.
        unconditional: what guidance leads away from: the empty caption, or another.
        scale: 1 = the caption alone.
    """

    denoiser: Denoiser
    condition: Condition
    unconditional: Condition | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale != 1.0 and self.unconditional is None:
            raise ValueError(f"Guidance {self.scale} needs the caption that it leads away from: pass unconditional=.")

    def __call__(self, x: Tensor, t: float, own: Tensor | None = None) -> Prediction:
        if self.scale == 1.0 or self.unconditional is None:
            return self.denoiser.predict(x, t, self.condition)
        both = Condition.cat([self.unconditional, self.condition])
        without, within = self.denoiser.output(torch.cat([x, x]), t, both).chunk(2)
        return self.denoiser.process.split(without + self.scale * (within - without), x, t)

    def away_from(self, unconditional: Condition) -> "Captioned":
        """The same caption, guided away from another one."""
        return replace(self, unconditional=unconditional)
