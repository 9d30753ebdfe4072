"""The Editor protocol: an intervention operator on images.

An image is abducted (inverted) once; its counterfactuals for any number of interventions are then drawn from that
one abduction. Everything random is drawn in :meth:`Editor.abduct`, from one seed a row.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from torch import Tensor


@dataclass(frozen=True)
class Abduction:
    """What an editor inferred of ``n`` images: enough to redraw them under any intervention.

    Attributes:
        factual: ``n`` rows, the attributes as they are, typed by the graph's attributes. Its index is the dataset's.
        state: the editor's own (latents, noise): opaque to everyone else.
        evaluations: network evaluations spent, images x forward passes.
    """

    factual: pd.DataFrame
    state: Any
    evaluations: int = 0

    def __len__(self) -> int:
        return len(self.factual)


@dataclass(frozen=True)
class Edit:
    """Counterfactual images, and which of them the editor stands by.

    Attributes:
        images: ``(n, 1, h, w)`` float32 in [0, 1].
        accepted: ``(n,)`` bool; a rejected edit is counted and reported, never dropped in silence.
        reasons: ``n`` strings, empty where accepted.
        evaluations: network evaluations spent, images x forward passes.
    """

    images: Tensor
    accepted: np.ndarray
    reasons: tuple[str, ...]
    evaluations: int = 0

    @classmethod
    def all_accepted(cls, images: Tensor, evaluations: int = 0) -> "Edit":
        """An edit without an acceptance test."""
        n = len(images)
        return cls(images, np.ones(n, dtype=bool), ("",) * n, evaluations)


@runtime_checkable
class Described(Protocol):
    """An editor that says how it edits, for reports to say it."""

    @property
    def method(self) -> str:
        """In a line: what its result depends on beside its weights."""
        ...


@runtime_checkable
class Editor(Protocol):
    """Carries out interventions on images.

    Attributes:
        attributes: what it can set, labelled or hidden.
        semantics: ``observational`` when fitted to co-occurrence, ``structural`` when U is a node of its own model.
        fitted_on: patients it was fitted on; ``None`` when unknown, :class:`~causal_cxr.data.patients.AtLeast` when these are not
            all, which reports say.
    """

    attributes: frozenset[str]
    semantics: Literal["observational", "structural"]
    fitted_on: frozenset[str] | None

    @property
    def fingerprint(self) -> str:
        """Of weights and settings; a resumed run never mixes two."""
        ...

    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        """Infer what is needed to redraw the images.

        Args:
            images: ``(n, 1, h, w)`` float32 in [0, 1].
            attributes: ``n`` rows, the factual attributes; the index is the dataset's row.
            seeds: ``(n,)`` int64, the only source of chance, one a row: the result for a row does not depend on
                which other rows are in the batch beyond floating-point rounding.
        """
        ...

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        """Draw each image with the attributes in ``target``; draws nothing new by chance.

        Args:
            abduction: of ``n`` images.
            target: ``n`` rows, the whole attribute vector under the intervention. The factual table gives the null
                edit.
            phrasing: which of the equivalent wordings names the attributes; 0 is the default, 1 a neutral
                paraphrase. Editors without words ignore it.
            strength: dose of the edit; 1 is the editor's own default.
        """
        ...
