"""From line integrals to a picture: Beer-Lambert's law, scatter, quantum noise, and the film's characteristic curve."""

import torch
from torch import Tensor

from .scene import Scene

QUANTA = 9_000.0  #: detected per picture element in air at reference exposure; the same at every size
FOG = 0.08  #: brightness of the open beam
FLOOR = 0.004  #: least share of the open beam that the detector can tell from nothing


def veil(scene: Scene) -> Tensor:
    """``(n, h, w)`` scattered share of the open beam: a broad bump that grows with the patient and without a grid.

    It depends on the body alone, so that what is attached changes the picture where it lies and nowhere else.
    """
    strength = 0.032 * (1 + 0.03 * (scene.value("bmi") - 26)) * (1 + 0.45 * scene.ap)
    return strength * torch.exp(-((scene.x / 17.0) ** 2)) * torch.exp(-(((scene.y - 2.0) / 22.0) ** 2))


def expose(scene: Scene, line_integral: Tensor, noise: Tensor | None) -> Tensor:
    """The picture before anything is burnt in.

    Args:
        scene: the whole detector.
        line_integral: ``(n, h, w)``; used up.
        noise: ``(n, h, w)`` standard normal, scaled to the Poisson variance of the local count; ``None``: expected
            counts, without quantum noise. Used up.

    Returns:
        ``(n, h, w)`` in [0, 1], bright = attenuating.
    """
    style = scene.value("exposure_style")
    beam = line_integral.neg_().exp_().add_(veil(scene)).add_(FLOOR)
    density = beam.log()
    if noise is not None:
        # counts are N beam, so their logarithm has variance 1 / (N beam)
        density.add_(beam.rsqrt_().mul_(noise.mul_((QUANTA * 2 ** scene.value("exposure")).rsqrt())))
    # processing takes out most of what exposure and girth do to the mean, not all of it
    shift = 0.10 * scene.z("window_level") - 0.18 * scene.value("exposure")
    gain = 1 + 0.07 * scene.z("window_width") - 0.008 * (scene.value("bmi") - 26)
    linear = torch.where(style == 1, 0.235, torch.where(style == 2, 0.06, 0.125)) * gain
    square = torch.where(style == 1, 0.060, torch.where(style == 2, 0.185, 0.122)) * gain
    # characteristic curve: 1 - exp(-(linear d + square d^2)) has the toe and the shoulder of film
    density.neg_().add_(shift).clamp_min_(0)
    picture = torch.addcmul(linear, density, square).mul_(density).neg_().exp_()
    return picture.mul_(FOG - 1).add_(1).clamp_(0, 1)
