"""``Eye``: a convolutional vision tower, in place of Idefics' own, as the first Flamingo's was."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import Encoder
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional


class Eye(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers types one attribute in two ways
    """A residual network (the encoder of diffusers' autoencoders) whose last map is brought to one token.

    Convolutions tell a thin line wherever it runs, which one layer over all pixels never does; attention between patches
    would, but takes far longer to learn it from scratch.

    Args:
        size: pixels a side that it sees.
        patch: pixels a side that are one place of the first map.
        channels: of each map; every next one has half the places a side.
        width: of the token.

    Raises:
        ValueError: ``size`` is not a multiple of ``patch`` and the halvings.
    """

    @register_to_config
    def __init__(
        self, size: int = 32, patch: int = 2, channels: tuple[int, ...] = (32, 64, 128), width: int = 256
    ) -> None:
        super().__init__()
        shrunk = patch * 2 ** (len(channels) - 1)
        if size % shrunk:
            raise ValueError(
                f"{len(channels)} maps of patches of {patch} need a size of a multiple of {shrunk}, not {size}."
            )
        self.size, self.patch = size, patch
        self.maps = Encoder(
            patch**2, channels[-1], ("DownEncoderBlock2D",) * len(channels), tuple(channels), layers_per_block=1,
            norm_num_groups=8, double_z=False, mid_block_add_attention=False,
        )  # fmt: skip
        # Not a mean over places: of a radiograph, where a thing is says what it is.
        self.token = nn.Linear(channels[-1] * (size // shrunk) ** 2, width)

    def forward(self, images: Tensor) -> Tensor:
        """``(n, 1, width)`` of ``(n, 1, size, size)`` images, normalised as the model awaits."""
        maps = self.maps(functional.pixel_unshuffle(images.to(self.dtype), self.patch))
        return torch.unflatten(self.token(maps.flatten(1)), 1, (1, -1))
