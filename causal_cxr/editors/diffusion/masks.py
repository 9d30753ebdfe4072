"""Masks: where an edit acts. Drawn by a user, or estimated from what the captions disagree on (DiffEdit)."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from causal_cxr.editors.diffusion.denoiser import Field
from causal_cxr.editors.diffusion.guidance.guidance import Request


class Mask(Protocol):
    """Where to act.

    Its ``repr`` goes into the editor's fingerprint: it must tell all that the result depends on.
    """

    def __call__(self, request: Request, source: Field, target: Field, *, touched: bool = False) -> Tensor:
        """``(n, 1, h, w)`` in [0, 1] over the latents' positions: 1 inside.

        Args:
            request: the edit.
            source: the field of the factual captions.
            target: the field of the edit, not confined.
            touched: of a position that is inside in part say the most, as of what is to be kept; else the least, as of what
                may change.
        """
        ...


@dataclass(frozen=True, repr=False)
class Drawn:
    """A user's mask, in pixels or coarser.

    Attributes:
        masks: ``(h, w)`` in [0, 1] for all images, or a mapping from the images' index (the dataset's rows) to such.
        edge: width of the soft edge, in latent positions, which lies within what may change; 0 = as drawn.
    """

    masks: Tensor | Mapping[int, Tensor]
    edge: float = 0.0

    def __post_init__(self) -> None:
        for mask in [self.masks] if isinstance(self.masks, Tensor) else self.masks.values():
            if mask.ndim != 2 or not bool(((mask >= 0) & (mask <= 1)).all()):
                raise ValueError(
                    f"A mask is (h, w) with values in [0, 1], got the shape {tuple(mask.shape)}; convert it."
                )

    def __call__(self, request: Request, source: Field, target: Field, *, touched: bool = False) -> Tensor:
        """See :class:`Mask`; asks no network.

        Raises:
            ValueError: an image has no mask, or one in which no latent position fits.
        """
        image = request.trajectory.image
        if isinstance(self.masks, Tensor):
            drawn = [self.masks] * len(image)
        else:
            missing = [row for row in request.factual.index if row not in self.masks]
            if missing:
                raise ValueError(f"There is no mask for {len(missing)} images, of rows {missing[:5]} ...; draw them.")
            drawn = [self.masks[row] for row in request.factual.index]
        sign = 1 if touched else -1
        pooled = [sign * functional.adaptive_max_pool2d(sign * mask[None].float(), image.shape[-2:]) for mask in drawn]
        for row, mask, small in zip(request.factual.index, drawn, pooled, strict=True):
            if mask.any() and not small.any():
                raise ValueError(
                    f"The mask of row {row} is too thin to act: no position of the latents, of which the image has "
                    f"{tuple(small.shape[-2:])}, fits in it; draw it larger."
                )
        within = torch.stack(pooled).to(image.device)
        soft = softened(within, self.edge)
        return torch.maximum(within, soft) if touched else torch.minimum(within, soft)

    def __repr__(self) -> str:
        digest = hashlib.sha256()
        entries = {-1: self.masks} if isinstance(self.masks, Tensor) else self.masks
        for row, mask in sorted(entries.items()):
            digest.update(f"{row}|{tuple(mask.shape)}".encode() + mask.float().cpu().numpy().tobytes())
        return f"Drawn({digest.hexdigest()[:16]}, edge={self.edge})"


@dataclass(frozen=True)
class Estimated:
    """Where predictions under the two captions differ (DiffEdit; Couairon et al., ICLR 2023).

    The published method averages over fresh noises at one time; as an edit may draw nothing by chance, this averages over
    the trajectory's own latents in the middle of its way, the same for any edit of the image. It costs ``points`` evaluations
    of each field.

    Attributes:
        threshold: inside is where the difference, smoothed, exceeds this share of its largest value in the image.
        points: times of the trajectory that are asked.
        start, end: the share of the way from image to noise that they are spread over.
        edge: width of the soft edge, in latent positions; 0 = hard.
    """

    threshold: float = 0.1
    points: int = 4
    start: float = 0.3
    end: float = 0.7
    edge: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.threshold < 1 and self.points >= 1 and 0 < self.start <= self.end <= 1):
            raise ValueError(
                f"A mask is estimated with a threshold within (0, 1), at one point or more, and 0 < start <= end <= 1: {self}."
            )

    def __call__(self, request: Request, source: Field, target: Field, *, touched: bool = False) -> Tensor:
        """See :class:`Mask`; where nothing differs, nothing is inside. Its positions are inside as a whole."""
        last = len(request.trajectory.times) - 1
        steps = np.unique(np.linspace(self.start * last, self.end * last, self.points).round().clip(1).astype(int))
        image = request.trajectory.image
        differ = image.new_zeros(len(image), 1, *image.shape[-2:])
        for k in steps.tolist():
            x, t = request.trajectory.latents[k], request.trajectory.times[k]
            differ += (target(x, t).clean - source(x, t).clean).abs().mean(dim=1, keepdim=True)
        differ = softened(differ, 1.0)
        largest = differ.amax(dim=(2, 3), keepdim=True)
        return softened(((differ > self.threshold * largest) & (largest > 0)).to(image.dtype), self.edge)


def softened(mask: Tensor, edge: float) -> Tensor:
    """``(n, 1, h, w)`` blurred by a Gaussian whose standard deviation is ``edge`` positions; flat areas stay as they are."""
    if edge == 0:
        return mask
    reach = max(1, math.ceil(3 * edge))
    weight = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=mask.device) / edge).square())
    weight = (weight / weight.sum()).to(mask.dtype)
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        pad = (0, 0, reach, reach) if shape[2] == -1 else (reach, reach, 0, 0)
        mask = functional.conv2d(functional.pad(mask, pad, mode="replicate"), weight.view(shape))
    return mask
