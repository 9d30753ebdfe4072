"""Guidance: how a request for an edit becomes the field of predictions that redraws the image."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pandas as pd
from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Captioned, Condition, Denoiser, Field
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory


class Describe(Protocol):
    """Attribute rows in words, as the denoiser is told them."""

    @property
    def names(self) -> frozenset[str]:
        """Attributes that it tells of: what an edit can change."""
        ...

    def __call__(self, table: pd.DataFrame, phrasing: int = 0) -> Condition:
        """The condition of each row's caption; what the table lacks goes unsaid."""
        ...

    def nothing(self, n: int) -> Condition:
        """The condition of ``n`` empty captions."""
        ...


@runtime_checkable
class DescribeInTokens(Describe, Protocol):
    """A description whose states stand for one token each: what attention control holds on to."""

    def tokens(self, table: pd.DataFrame, phrasing: int = 0) -> Tensor:
        """``(n, length)`` ids of each caption's tokens, as the condition's states stand for them."""
        ...

    def word(self, text: str) -> tuple[int, ...]:
        """Ids of a word or more within a caption."""
        ...


@dataclass(frozen=True)
class Request:
    """An edit that is asked for.

    Attributes:
        denoiser: to ask.
        describe: puts attribute rows into words.
        factual: ``n`` rows, the attributes as they are.
        target: ``n`` rows, as they are to be.
        trajectory: of the images.
        phrasing: of the captions.
        strength: dose: 0 asks for what is, 1 for the target, more extrapolates.
        region: ``(n, 1, h, w)`` in [0, 1], what the edit is confined to; ``None`` = everywhere.
    """

    denoiser: Denoiser
    describe: Describe
    factual: pd.DataFrame
    target: pd.DataFrame
    trajectory: Trajectory
    phrasing: int = 0
    strength: float = 1.0
    region: Tensor | None = None

    def caption(self, table: pd.DataFrame) -> Condition:
        """The condition of a table in the request's phrasing."""
        return self.describe(table, self.phrasing)

    def dosed(self) -> Condition:
        """The condition of the target at the request's strength."""
        target = self.caption(self.target)
        return target if self.strength == 1.0 else self.caption(self.factual).toward(target, self.strength)


class Guidance(Protocol):
    """What the image is inverted under, and what redraws it.

    Its ``repr`` goes into the editor's fingerprint: it must tell all that the result depends on.
    """

    def source(self, denoiser: Denoiser, describe: Describe, factual: pd.DataFrame) -> Field:
        """The field of the factual captions."""
        ...

    def target(self, request: Request) -> Field:
        """The field of the edit."""
        ...


@dataclass(frozen=True)
class ClassifierFree:
    """One weight for the whole caption (Ho and Salimans, 2022), led away from the empty caption.

    Attributes:
        scale: 1 = the caption alone, one evaluation a point; else two.
        inverted: the scale of the inversion; 1 is customary, as guidance makes its path stiff.
    """

    scale: float = 1.0
    inverted: float = 1.0

    def source(self, denoiser: Denoiser, describe: Describe, factual: pd.DataFrame) -> Field:
        """See :class:`Guidance`."""
        return _guided(denoiser, describe(factual), describe, self.inverted)

    def target(self, request: Request) -> Field:
        """See :class:`Guidance`."""
        return _guided(request.denoiser, request.dosed(), request.describe, self.scale)


def _guided(denoiser: Denoiser, condition: Condition, describe: Describe, scale: float) -> Field:
    return Captioned(denoiser, condition, None if scale == 1.0 else describe.nothing(len(condition)), scale)
