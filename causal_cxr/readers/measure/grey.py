"""What the grey values say of how an image was taken and processed."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

CORNER = 1 / 10  #: of the shorter side
#: Blind to planes and, nearly, to straight edges: what is left is noise.
_LAPLACIAN_DIFFERENCE = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])


def mean_exposure(images: Tensor) -> Tensor:
    """Mean grey, in grey levels of the full range, [0, 1]; bright = little reached the detector, or a hard window.

    Args:
        images: ``(n, 1, h, w)`` in [0, 1].

    Returns:
        ``(n,)``.
    """
    return images.flatten(1).mean(1)


def corner_brightness(images: Tensor) -> Tensor:
    """Mean grey of the four corners, squares of a tenth of the shorter side, [0, 1]; 0 = open beam or a black border.

    Args:
        images: ``(n, 1, h, w)`` in [0, 1].

    Returns:
        ``(n,)``.
    """
    side = max(1, round(CORNER * min(images.shape[-2:])))
    ends = (slice(None, side), slice(-side, None))
    return torch.stack([images[..., rows, columns].flatten(1).mean(1) for rows in ends for columns in ends]).mean(0)


def noise_level(images: Tensor) -> Tensor:
    """Standard deviation of the pixels' noise, in grey levels of the full range, [0, 1] (Immerkær, CVIU 64(2), 1996).

    The mean absolute response to a mask that planes do not excite, scaled for normal noise that is independent from
    pixel to pixel. It is of the pixels as they are: resampling lowers it, fine texture raises it.

    Args:
        images: ``(n, 1, h, w)`` in [0, 1], 3 pixels a side or more.

    Returns:
        ``(n,)``.

    Raises:
        ValueError: the images are smaller.
    """
    if min(images.shape[-2:]) < 3:
        raise ValueError(f"Images of {tuple(images.shape[-2:])} pixels have no noise level; 3 a side are needed.")
    response = functional.conv2d(images, _LAPLACIAN_DIFFERENCE[None, None].to(images))
    return math.sqrt(math.pi / 2) / 6 * response.abs().flatten(1).mean(1)


def blur(images: Tensor) -> Tensor:
    """How little another blur would change, [0, 1], no unit; 0 = sharp (Crété-Roffet et al., SPIE 6492, 2007; scikit-image).

    Of the pixels as they are: an enlarged image is blurred, noise sharpens.

    Args:
        images: ``(n, 1, h, w)`` in [0, 1].

    Returns:
        ``(n,)``; NaN for an image without any edge.
    """
    from skimage.measure import blur_effect

    found = [blur_effect(image) if np.ptp(image) else np.nan for image in images[:, 0].double().numpy()]
    return torch.tensor(found, dtype=torch.float32)
