"""Watching a fit: judged on held-out patients every so often, the best kept, stopped when it gets no better."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from causal_cxr.editors.diffusion.editor import DiffusionEditor

Validate = Callable[["DiffusionEditor"], Mapping[str, float]]


@dataclass(frozen=True)
class Watch:
    """How a fit is judged while it runs.

    A diffusion loss says little of edits: what is asked of them, and what they change unasked, decides.

    Attributes:
        validate: numbers of an editor that has the averaged weights, e.g.
            :class:`causal_cxr.audits.validation.Validation`.
        every: steps between two looks; there is one at the end, too.
        select: the larger, the better: arithmetic over the numbers' names.
        patience: looks without a better one after which the fit stops; ``None`` = never.
    """

    validate: Validate
    every: int = 500
    select: str = "effectiveness - leak"
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or (self.patience is not None and self.patience < 1):
            raise ValueError(f"every={self.every} and patience={self.patience} must be 1 or more.")

    @property
    def recipe(self) -> tuple[object, ...]:
        """What the result depends on, but for the numbers themselves."""
        return self.every, self.select, self.patience

    def score(self, numbers: Mapping[str, float]) -> float:
        """The value of ``select``.

        Raises:
            ValueError: it names what is not among the numbers.
        """
        try:
            scores: Any = pd.DataFrame([dict(numbers)]).eval(self.select, engine="python")
            return float(scores.iloc[0])
        except (pd.errors.UndefinedVariableError, SyntaxError, AttributeError) as problem:
            raise ValueError(
                f"select={self.select!r} is no arithmetic over the validation's {sorted(numbers)}: {problem}."
            ) from None
