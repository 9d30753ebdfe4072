"""What every reader asks of the images it is given."""

import torch
from torch import Tensor

ROUNDING = 1e-3  #: by which resampling and half precision may miss [0, 1]


def check_images(images: Tensor) -> None:
    """Refuse images that would be read without complaint and wrongly: on another scale, or with pixels that are no numbers.

    Args:
        images: ``(n, 1, h, w)`` float in [0, 1]; none at all is well.

    Raises:
        ValueError: another shape, type or range; a pixel that is not finite.

    >>> check_images(torch.full((2, 1, 8, 8), 200.0))
    Traceback (most recent call last):
    ValueError: Images go from 200 to 200; give intensities in [0, 1]: divide 8-bit pixels by 255, 16-bit ones by 65535.
    """
    if images.ndim != 4 or images.shape[1] != 1 or not images.is_floating_point():
        raise ValueError(
            f"Images have shape {tuple(images.shape)} and type {images.dtype}; give (n, 1, h, w) floats with intensities in "
            "[0, 1], as dataset.images(rows) does: one grey channel, 8-bit pixels divided by 255."
        )
    if not images.numel():
        return
    low, high = (float(bound) for bound in torch.aminmax(images.detach()))  # NaN if any pixel is
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        odd = (~torch.isfinite(images)).flatten(1).any(1).nonzero().flatten().tolist()
        if odd:
            raise ValueError(
                f"{len(odd)} of {len(images)} images have pixels that are no finite numbers, the first is image {odd[0]}; give "
                "intensities in [0, 1], and leave such images out."
            )
        raise ValueError(
            f"Images go from {low:g} to {high:g}; give intensities in [0, 1]: divide 8-bit pixels by 255, 16-bit ones by 65535."
        )
