"""Where a pipeline denoises: pixels folded into channels, or the latents of an autoencoder."""

import math
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from causal_cxr.editors.diffusion.hub import write_model

CENTRE, SCALE = 0.5, 0.3  #: intensities are shifted and scaled to about unit variance
BATCH = 8  #: images that an autoencoder sees at a time


class LatentSpace(Protocol):
    """Images and back.

    Attributes:
        model: the network, where there is one.
        channels: of a latent.
        reduction: pixels a side of one latent position.
        evaluations: network evaluations of one image there or back: 0 where there is no autoencoder.
        identity: all but the weights that latents depend on.
    """

    model: Any
    channels: int
    reduction: int
    evaluations: int
    identity: str

    def encode(self, images: Tensor) -> Tensor:
        """``(n, 1, h, w)`` in [0, 1] -> ``(n, channels, h / reduction, w / reduction)`` float32."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Back, clipped to [0, 1]."""
        ...

    def error(self, images: Tensor) -> Tensor:
        """``(n,)`` mean absolute error of the way there and back: no edit comes closer to its image than this."""
        return (self.decode(self.encode(images)) - images).abs().mean(dim=(1, 2, 3))


class Unshuffled(LatentSpace):
    """``pixel_unshuffle``: a lossless 'latent', so no autoencoder's error.

    Args:
        reduction: pixels a side that are folded into channels.
    """

    model = None
    evaluations = 0

    def __init__(self, reduction: int = 4) -> None:
        self.reduction, self.channels, self.identity = reduction, reduction**2, str(reduction)

    @classmethod
    def of(cls, channels: int) -> "Unshuffled":
        """The one with so many channels.

        Raises:
            ValueError: not a square.
        """
        reduction = math.isqrt(channels)
        if reduction**2 != channels:
            raise ValueError(
                f"Without an autoencoder a UNet denoises pixels folded into a square number of channels; it has {channels}."
            )
        return cls(reduction)

    def encode(self, images: Tensor) -> Tensor:
        """See :class:`LatentSpace`."""
        return functional.pixel_unshuffle((images - CENTRE) / SCALE, self.reduction)

    def decode(self, latents: Tensor) -> Tensor:
        """See :class:`LatentSpace`."""
        return (functional.pixel_shuffle(latents, self.reduction) * SCALE + CENTRE).clamp(0, 1)


class Autoencoded(LatentSpace):
    """The latents of a diffusers ``AutoencoderKL``: the mode of its posterior, shifted and scaled as its config says.

    Grey images are repeated for an autoencoder of colour, and what it decodes is averaged over the colours.

    Args:
        model: of one or three image channels, whose pixels lie in [-1, 1].
    """

    evaluations = 1

    def __init__(self, model: Any) -> None:
        config = model.config
        if config.in_channels not in (1, 3) or config.in_channels != config.out_channels:
            raise ValueError(
                f"An autoencoder of 1 or 3 image channels is needed, this has {config.in_channels} in and "
                f"{config.out_channels} out."
            )
        self.model, self.colours, self.channels = model.eval(), config.in_channels, config.latent_channels
        self.scale, self.shift = float(config.scaling_factor), float(config.shift_factor or 0.0)
        self.reduction = 2 ** (len(config.block_out_channels) - 1)
        self.identity = f"{self.reduction}|{self.colours}|{self.scale}|{self.shift}"

    @classmethod
    def from_pretrained(cls, folder: Path, variant: str | None = None) -> "Autoencoded":
        """Load ``config.json`` and its weights, as float32."""
        from diffusers import AutoencoderKL

        return cls(
            AutoencoderKL.from_pretrained(
                folder, variant=variant, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
        )

    def save(self, folder: Path, kind: torch.dtype) -> None:
        """Write them, in that type."""
        write_model(self.model, folder, kind)

    def encode(self, images: Tensor) -> Tensor:
        """See :class:`LatentSpace`."""
        parts = (2 * images - 1).expand(-1, self.colours, -1, -1).split(BATCH)
        modes = torch.cat([self.model.encode(part).latent_dist.mode() for part in parts])
        return (modes - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """See :class:`LatentSpace`."""
        parts = (latents / self.scale + self.shift).split(BATCH)
        images = torch.cat([self.model.decode(part).sample.mean(dim=1, keepdim=True) for part in parts])
        return (images / 2 + 0.5).clamp(0, 1)
