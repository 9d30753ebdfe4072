"""Guidance that is confined to a region."""

from dataclasses import dataclass, replace

import pandas as pd
from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Denoiser, Field
from causal_cxr.editors.diffusion.guidance.guidance import Describe, Guidance, Request
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory
from causal_cxr.editors.diffusion.masks import Mask
from causal_cxr.editors.diffusion.process import Prediction


@dataclass(frozen=True)
class Region:
    """Within the mask another guidance; outside of it the image goes back the way that it came.

    Outside, the field is the source's at the image's own trajectory, so what is outside stays as the inversion returns it,
    whatever the network makes of the change inside: exactly, with inversions that are exact. It costs one source's evaluation
    a point more, and those of the mask.

    Attributes:
        guidance: within.
        mask: 1 where it acts.
        keep: 1 where nothing may change although the mask says so, such as burnt-in text.
    """

    guidance: Guidance
    mask: Mask
    keep: Mask | None = None

    def source(self, denoiser: Denoiser, describe: Describe, factual: pd.DataFrame) -> Field:
        """See :class:`Guidance`."""
        return self.guidance.source(denoiser, describe, factual)

    def target(self, request: Request) -> Field:
        """See :class:`Guidance`."""
        source = self.guidance.source(request.denoiser, request.describe, request.factual)
        unconfined = self.guidance.target(request)
        within = self.mask(request, source, unconfined)
        if self.keep is not None:
            within = within * (1 - self.keep(request, source, unconfined))
        if request.region is not None:
            within = within * request.region
        return _Confined(self.guidance.target(replace(request, region=within)), source, request.trajectory, within)


@dataclass(frozen=True)
class _Confined:
    inside: Field
    source: Field
    trajectory: Trajectory
    within: Tensor

    @property
    def denoiser(self) -> Denoiser:
        return self.inside.denoiser

    def __call__(self, x: Tensor, t: float) -> Prediction:
        inside, outside = self.inside(x, t), self.source(self.trajectory.at(t), t)
        return Prediction(
            outside.clean + self.within * (inside.clean - outside.clean),
            outside.noise + self.within * (inside.noise - outside.noise),
        )
