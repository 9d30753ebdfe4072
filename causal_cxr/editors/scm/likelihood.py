"""What a pixel is drawn from, given what the decoder says of it: p(pixel | location, log scale).

Grey values are in [0, 1] with 256 levels; the discretised kinds give each level the mass of its bin, the outermost bins
reaching to infinity (Kingma et al., NeurIPS 2016), so that a black background costs nothing and the scale cannot
collapse on it.
"""

import math
from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn import functional as F

BIN = 1 / 255  #: width of a grey level
NO_SHAPE = torch.Size()
LEAST_LOG_SCALE = -7.0  #: a quarter of a level: a smaller scale says nothing more of 8-bit images
TINY = 1e-5  #: a bin's mass below which its density is taken instead: the difference has then lost its digits


class Discretised(TorchDistribution):
    """A location-scale distribution whose mass is gathered into 256 bins; subclasses give ``_cdf`` and ``_log_density``.

    Args:
        location: of the grey value, any shape; may leave [0, 1].
        log_scale: same shape.
    """

    arg_constraints = {"location": constraints.real, "log_scale": constraints.real}  # noqa: RUF012 - torch's own name
    support = constraints.unit_interval

    def __init__(self, location: Tensor, log_scale: Tensor, validate_args: bool | None = None) -> None:
        self.location, self.log_scale = location, log_scale.clamp(min=LEAST_LOG_SCALE)
        super().__init__(location.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The location, within [0, 1]."""
        return self.location.clamp(0, 1)

    @property
    def stddev(self) -> Tensor:
        """The scale before binning."""
        return self.log_scale.exp()

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Discretised":
        return type(self)(self.location.expand(batch_shape), self.log_scale.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log mass of the bin about ``value``; values between two levels have their own bin of the same width."""
        precision = (-self.log_scale).exp()
        centred = value - self.location
        above = self._cdf((centred + BIN / 2) * precision)
        below = self._cdf((centred - BIN / 2) * precision)
        upper = torch.where(value > 1 - BIN / 2, torch.ones_like(above), above)
        lower = torch.where(value < BIN / 2, torch.zeros_like(below), below)
        mass = upper - lower
        dense = self._log_density(centred * precision) - self.log_scale + math.log(BIN)
        return torch.where(mass > TINY, mass.clamp(min=TINY).log(), dense)

    def sample(self, sample_shape: Any = NO_SHAPE) -> Tensor:
        """Grey values on the 256 levels."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            drawn = self.location + self.stddev * self._standard(shape, self.location)
            return (drawn.clamp(0, 1) / BIN).round() * BIN

    def _cdf(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _log_density(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _standard(self, shape: torch.Size, like: Tensor) -> Tensor:
        raise NotImplementedError


class DiscretisedGaussian(Discretised):
    """Normal mass in 256 bins."""

    def _cdf(self, x: Tensor) -> Tensor:
        return torch.special.ndtr(x)

    def _log_density(self, x: Tensor) -> Tensor:
        return -0.5 * x.square() - 0.5 * math.log(2 * math.pi)

    def _standard(self, shape: torch.Size, like: Tensor) -> Tensor:
        return torch.randn(shape, dtype=like.dtype, device=like.device)


class DiscretisedLogistic(Discretised):
    """Logistic mass in 256 bins: heavier tails than the normal."""

    def _cdf(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def _log_density(self, x: Tensor) -> Tensor:
        return -x - 2 * F.softplus(-x)

    def _standard(self, shape: torch.Size, like: Tensor) -> Tensor:
        uniform = torch.rand(shape, dtype=like.dtype, device=like.device)
        return torch.logit(uniform, eps=torch.finfo(like.dtype).eps)


#: name, as in a model's settings -> the distribution of pixels from location and log scale
LIKELIHOODS = {"discretised_gaussian": DiscretisedGaussian, "discretised_logistic": DiscretisedLogistic}


def pixel_distribution(kind: str, location: Tensor, log_scale: Tensor) -> TorchDistribution:
    """``(n,)`` images of ``(1, h, w)`` independent pixels.

    Args:
        kind: ``"gaussian"``, or one of ``LIKELIHOODS``.
        location, log_scale: ``(n, 1, h, w)``.
    """
    pixels = dist.Normal(location, log_scale.exp()) if kind == "gaussian" else LIKELIHOODS[kind](location, log_scale)
    return pixels.to_event(3)
