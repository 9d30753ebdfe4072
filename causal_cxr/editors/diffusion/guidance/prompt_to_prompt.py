"""Prompt-to-prompt guidance (Hertz et al., 2022): the edited image is drawn with the attention of the factual one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from causal_cxr.editors.diffusion.attention import Control, align, controlled
from causal_cxr.editors.diffusion.denoiser import Captioned, Condition, Denoiser, Field
from causal_cxr.editors.diffusion.guidance.guidance import Describe, DescribeInTokens, Request
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory
from causal_cxr.editors.diffusion.process import Prediction


@dataclass(frozen=True)
class PromptToPrompt:
    """At every point the network runs on the image's own latent and on the edited one, the latter with the former's maps.

    Tokens are matched by a longest common subsequence of ids, so captions may differ in length. What else a network is told of
    a caption, such as Stable Diffusion XL's pooled states, is not controlled. A point costs two evaluations where maps are
    taken over, else one; one more with ``scale``, one more with a dose other than 1.

    Attributes:
        cross: share of the steps, from noise on, in which the cross-attention is taken over.
        self_attention: share of the steps, from noise on, in which the self-attention is.
        self_positions: only in feature maps of so many positions at most (published: 16 x 16).
        words: word of the target's caption -> factor of its cross-attention, in every step; captions without it stay.
        swap: a word that is replaced by one of as many tokens hands its map on (published: "replace"); else only words in
            both captions do ("refine").
        scale: classifier-free guidance, led away from the empty caption, which is not controlled.
    """

    cross: float = 0.8
    self_attention: float = 0.4
    self_positions: int = 256
    words: Mapping[str, float] = field(default_factory=dict)
    swap: bool = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name, share in (("cross", self.cross), ("self_attention", self.self_attention)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is the share of the steps with attention taken over, in [0, 1]; got {share}.")

    def source(self, denoiser: Denoiser, describe: Describe, factual: pd.DataFrame) -> Field:
        """See :class:`Guidance`; not guided."""
        return Captioned(denoiser, describe(factual))

    def target(self, request: Request) -> Field:
        """See :class:`Guidance`.

        Raises:
            ValueError: the network is told of more than words, whose attention is not controlled.
        """
        describe = request.describe
        if not isinstance(describe, DescribeInTokens):
            raise ValueError(
                f"Prompt-to-prompt controls the attention to words, and {type(describe).__name__} gives no tokens; edit with "
                "another guidance."
            )
        source, target = describe(request.factual), request.caption(request.target)
        device = target.text.device
        before, after = (
            describe.tokens(request.factual).tolist(),
            describe.tokens(request.target, request.phrasing).tolist(),
        )
        known: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for pair in zip(map(tuple, before), map(tuple, after), strict=True):
            if pair not in known:
                known[pair] = align(*pair, swap=self.swap)
        aligned = [known[pair] for pair in zip(map(tuple, before), map(tuple, after), strict=True)]
        factors = torch.ones(len(after), len(after[0]), device=device)
        for word, factor in self.words.items():
            ids = list(describe.word(word))
            for row, tokens in enumerate(after):
                for j in range(len(tokens) - len(ids) + 1):
                    if tokens[j : j + len(ids)] == ids:
                        factors[row, j : j + len(ids)] = factor
        return _Controlled(
            request.denoiser, self, request.trajectory, source, target,
            describe.nothing(len(target)) if self.scale != 1.0 else None,
            request.caption(request.factual) if request.strength != 1.0 else None,
            request.strength, torch.tensor(aligned, device=device), factors,
        )  # fmt: skip


@dataclass(frozen=True)
class _Controlled:
    denoiser: Denoiser
    how: PromptToPrompt
    trajectory: Trajectory
    source: Condition
    edited: Condition
    nothing: Condition | None
    base: Condition | None
    strength: float
    alignment: Tensor
    factors: Tensor

    def __call__(self, x: Tensor, t: float, own: Tensor | None = None) -> Prediction:
        # The way back begins with the noisiest time; the image's own time is no step.
        steps, step = len(self.trajectory.times) - 1, len(self.trajectory.times) - 1 - self.trajectory.times.index(t)
        cross, itself = step < self.how.cross * steps, step < self.how.self_attention * steps
        told = {"edited": (x, self.edited)}
        if cross or itself:
            told = {"source": (self.trajectory.at(t) if own is None else own, self.source)} | told
        for name, condition in (("nothing", self.nothing), ("base", self.base)):
            if condition is not None:
                told[name] = (x, condition)
        control = Control(
            len(x), cross or itself, self.alignment, self.factors, cross, self.how.self_positions if itself else 0
        )
        with controlled(self.denoiser.unet, control):
            latents, conditions = zip(*told.values(), strict=True)
            outputs = self.denoiser.output(torch.cat(latents), t, Condition.cat([*conditions])).chunk(len(told))
        said = dict(zip(told, outputs, strict=True))
        edited = said["edited"]
        if "base" in said:
            edited = said["base"] + self.strength * (edited - said["base"])
        if "nothing" in said:
            edited = said["nothing"] + self.how.scale * (edited - said["nothing"])
        return self.denoiser.process.split(edited, x, t)
