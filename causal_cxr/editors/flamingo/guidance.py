"""Guidance from exemplars: away from those that show what is, towards those that show what is to be."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Captioned, Condition, Denoiser, Field
from causal_cxr.editors.diffusion.guidance import Describe, Request


@dataclass(frozen=True)
class Contrasted:
    """Led away from the factual condition rather than from none, so that only what was asked is amplified.

    Attributes:
        scale: 1 = the target's condition alone, one evaluation a point; else two.
    """

    scale: float = 1.0

    def source(self, denoiser: Denoiser, describe: Describe, factual: pd.DataFrame) -> Field:
        """The field of the factual condition."""
        return Captioned(denoiser, describe(factual))

    def target(self, request: Request) -> Field:
        """The field of the edit; where nothing is asked there is nothing to be led away from."""
        condition, factual = request.dosed(), request.caption(request.factual)
        if self.scale == 1.0 or _same(condition, factual):
            return Captioned(request.denoiser, condition)
        return Captioned(request.denoiser, condition, factual, self.scale)


def _same(one: Condition, other: Condition) -> bool:
    seen: list[tuple[Tensor | None, Tensor | None]] = [(one.text, other.text), (one.visual, other.visual)]
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in seen)
