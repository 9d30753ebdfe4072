"""Guidance that is confined to a region."""

from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from causal_cxr.editors.diffusion.denoiser import Denoiser, Field
from causal_cxr.editors.diffusion.guidance.guidance import Describe, Guidance, Request
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory
from causal_cxr.editors.diffusion.masks import Mask
from causal_cxr.editors.diffusion.process import Prediction


@dataclass(frozen=True)
class Region:
    """Within the mask another guidance; outside of it the image goes back the way that it came.

    Outside, the field is the source's at the image's own trajectory, so what is outside stays as the inversion returns it,
    whatever the network makes of the change inside. With inversions that are exact its pixels are those of the image's own
    latents, bit for bit: of the image itself, but for the error of an autoencoder, where there is one. A latent position of
    which a part is outside is outside. It costs one source's evaluation a point more, and those of the mask.

    Attributes:
        guidance: within.
        mask: 1 where it acts.
        keep: 1 where nothing may change although the mask says so, such as burnt-in text: no position changes of which a part
            is to be kept.
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
            within = within * (1 - self.keep(request, source, unconfined, touched=True))
        if request.region is not None:
            within = within * request.region
        return Confined(self.guidance.target(replace(request, region=within)), source, request.trajectory, within)


@dataclass(frozen=True)
class Confined:
    """The field of a :class:`Region`.

    Attributes:
        inside: the field within.
        source: of the factual captions, outside.
        trajectory: of the images.
        within: ``(n, 1, h, w)`` in [0, 1] over the latents' positions: 1 inside.
    """

    inside: Field
    source: Field
    trajectory: Trajectory
    within: Tensor

    @property
    def denoiser(self) -> Denoiser:
        return self.inside.denoiser

    def held(self, edited: Tensor, images: Tensor) -> Tensor:
        """``edited`` ``(n, 1, h, w)`` with the pixels of ``images`` at the positions of which nothing is inside."""
        outside = functional.interpolate(self.within, edited.shape[-2:]).to(edited.device) == 0
        return torch.where(outside, images, edited)

    def __call__(self, x: Tensor, t: float, own: Tensor | None = None) -> Prediction:
        inside = self.inside(x, t, own)
        outside = self.source(self.trajectory.at(t) if own is None else own, t)
        return Prediction(
            outside.clean + self.within * (inside.clean - outside.clean),
            outside.noise + self.within * (inside.noise - outside.noise),
        )
