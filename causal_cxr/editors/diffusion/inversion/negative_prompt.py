"""Negative-prompt inversion: guidance leads away from the factual caption (Miyake et al., WACV 2025)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Captioned, Condition, Field
from causal_cxr.editors.diffusion.inversion.ddim import DDIM
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory


@dataclass(frozen=True)
class NegativePrompt:
    """DDIM there under the factual caption alone, and back led away from it rather than from the empty caption.

    A target that asks for the factual caption is then unguided at any scale, and its error is that of DDIM unguided.

    Attributes:
        steps: of DDIM's method.
    """

    steps: int = 50
    name: ClassVar[str] = "negative_prompt"
    exact: ClassVar[bool] = False

    def invert(self, source: Field, image: Tensor, noise: Callable[[], Tensor]) -> Trajectory:
        """See :class:`~causal_cxr.editors.diffusion.inversion.Inversion`; draws no noise, keeps the caption.

        Raises:
            ValueError: the field is not that of a caption.
        """
        caption = captioned(source, self.name)
        path = DDIM(self.steps).invert(alone(caption), image, noise)
        return replace(path, kept=rows(caption.condition))

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """Back along the target's field, led away from the factual caption.

        Raises:
            ValueError: the field is not that of a caption.
        """
        led = captioned(target, self.name).away_from(condition(trajectory.kept))
        return DDIM(self.steps).redraw(trajectory, led)


def captioned(field: Field, method: str) -> Captioned:
    """The field, where it is a caption's.

    Raises:
        ValueError: it is another.
    """
    if isinstance(field, Captioned):
        return field
    raise ValueError(
        f"{method} replaces the caption that guidance leads away from, and {type(field).__name__} has none to replace; "
        "edit with ClassifierFree guidance, or by another inversion."
    )


def alone(field: Captioned) -> Captioned:
    """The caption without guidance."""
    return replace(field, unconditional=None, scale=1.0)


def rows(condition: Condition) -> dict[str, Tensor]:
    """A condition as a trajectory keeps it."""
    return {"text": condition.text} | ({} if condition.visual is None else {"visual": condition.visual})


def condition(kept: Mapping[str, Tensor]) -> Condition:
    """Back from :func:`rows`."""
    return Condition(kept["text"], kept.get("visual"))
