"""Mechanisms: how an attribute comes about, ``value = predict(parameters(parents), noise)``.

All chance is in the noise, whose law does not depend on the parents. ``abduct`` finds the noise behind an observed
value: the only one for a flow, a draw from its exact posterior for levels.

Sources: neural spline flows (Durkan et al., NeurIPS 2019; Pyro's implementation), Gumbel-max (Oberst & Sontag, ICML
2019), its posterior (Maddison et al., NeurIPS 2014), the cumulative logit (McCullagh, JRSS B 1980).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pyro import distributions as dist
from pyro.distributions import transforms
from pyro.distributions.transforms.spline import ConditionedSpline
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot, softmax, softplus

from causal_cxr.graphs.attributes import Attribute, Categorical, Continuous
from causal_cxr.graphs.scm.conditioners import Conditioner, Linear, conditioner_from_dict

EDGE = 1e-4  #: a bounded flow keeps observed values this share of the range away from its ends
SPLINE_BOUND = 4.0  #: beyond this many standard deviations a spline flow is affine
_LEAST_SLOPE = 1e-3  # of a spline at its knots
_UNIT_SLOPE = math.log(math.expm1(1 - _LEAST_SLOPE))  # softplus takes it to the rest of the identity's slope
_LINEAR = Linear()


@dataclass(frozen=True)
class Outputs:
    """The parameters that a mechanism takes.

    Attributes:
        count: how many.
        conditional: the first so many depend on the parents; the others are constants.
        free: the intercepts of the first so many bear no penalty.
    """

    count: int
    conditional: int
    free: int


class Mechanism(Protocol):
    """What turns parameters and noise into an attribute's codes.

    Parameters are ``(..., n, outputs)`` float64, values ``(..., n)`` float64 codes (numbers of a continuous attribute,
    0..k-1 of levels).
    """

    @property
    def conditioner(self) -> Conditioner: ...

    def check(self, attribute: Attribute) -> None:
        """Raises ValueError if this is no mechanism for the attribute."""

    def outputs(self, attribute: Attribute) -> Outputs:
        """How many parameters it takes, and which of them the parents move."""

    def distribution(self, attribute: Attribute, parameters: Tensor) -> Any:
        """Pyro distribution of the values, of batch shape ``(..., n)``."""

    def log_prob(self, attribute: Attribute, parameters: Tensor, value: Tensor) -> Tensor:
        """``(..., n)`` log density (probability, for levels), finite at the ends of the range too."""

    def abduct(self, attribute: Attribute, parameters: Tensor, value: Tensor, generator: torch.Generator) -> Tensor:
        """The noise behind ``(n,)`` values, given their ``(n, outputs)`` parameters."""

    def predict(self, attribute: Attribute, parameters: Tensor, noise: Tensor) -> Tensor:
        """``(n,)`` values."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :func:`mechanism_from_dict` reads it back."""


@dataclass(frozen=True)
class AffineFlow:
    """A normal whose mean and scale depend on the parents, on the logit of the attribute's range.

    Args:
        bounded: ``False`` takes the normal on the value itself: the textbook linear-Gaussian mechanism. The unit of its
            mean and scale is a quarter of the range, counted from the middle.
        conditioner: how mean and scale depend on the parents.
    """

    bounded: bool = True
    conditioner: Conditioner = _LINEAR

    def check(self, attribute: Attribute) -> None:
        _check_continuous(attribute, "AffineFlow")

    def outputs(self, attribute: Attribute) -> Outputs:
        return Outputs(2, 2, 2)

    def distribution(self, attribute: Attribute, parameters: Tensor) -> Any:
        return dist.TransformedDistribution(dist.Normal(*_affine(parameters)), [_range(attribute, self.bounded)])

    def log_prob(self, attribute: Attribute, parameters: Tensor, value: Tensor) -> Tensor:
        return self.distribution(attribute, parameters).log_prob(_inside(attribute, value, self.bounded))

    def abduct(self, attribute: Attribute, parameters: Tensor, value: Tensor, generator: torch.Generator) -> Tensor:
        location, scale = _affine(parameters)
        return (_range(attribute, self.bounded).inv(_inside(attribute, value, self.bounded)) - location) / scale

    def predict(self, attribute: Attribute, parameters: Tensor, noise: Tensor) -> Tensor:
        location, scale = _affine(parameters)
        return _range(attribute, self.bounded)(location + scale * noise)

    def to_dict(self) -> dict[str, Any]:
        return {"type": "affine", "bounded": self.bounded, "conditioner": self.conditioner.to_dict()}


class _SmoothSpline(ConditionedSpline):
    """Pyro's spline, with slope 1 where it meets the identity; Pyro has 0.999 there, so that its density jumps."""

    def spline_op(self, x: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return super().spline_op(x, min_derivative=0.0, **kwargs)


@dataclass(frozen=True)
class SplineFlow:
    """:class:`AffineFlow` of noise that a monotone rational-quadratic spline has bent: any smooth shape in the range.

    The spline depends on the parents as mean and scale do. Its weights start at the identity and are penalised towards
    it, so that it nests the affine flow.

    Args:
        bins: of the spline.
        conditioner: how mean, scale and knots depend on the parents.
    """

    bins: int = 8
    conditioner: Conditioner = _LINEAR

    def __post_init__(self) -> None:
        if not 1 <= self.bins <= 100:
            raise ValueError(f"SplineFlow has bins={self.bins}; give 1 to 100.")

    def check(self, attribute: Attribute) -> None:
        _check_continuous(attribute, "SplineFlow")

    def outputs(self, attribute: Attribute) -> Outputs:
        count = 2 + 3 * self.bins - 1
        return Outputs(count, count, 2)

    def distribution(self, attribute: Attribute, parameters: Tensor) -> Any:
        location, scale = _affine(parameters)
        normal = dist.Normal(torch.zeros_like(location), torch.ones_like(scale))
        affine = transforms.AffineTransform(location, scale)
        return dist.TransformedDistribution(normal, [self._spline(parameters).inv, affine, _range(attribute, True)])

    def log_prob(self, attribute: Attribute, parameters: Tensor, value: Tensor) -> Tensor:
        return self.distribution(attribute, parameters).log_prob(_inside(attribute, value, True))

    def abduct(self, attribute: Attribute, parameters: Tensor, value: Tensor, generator: torch.Generator) -> Tensor:
        return self._spline(parameters)(AffineFlow().abduct(attribute, parameters, value, generator))

    def predict(self, attribute: Attribute, parameters: Tensor, noise: Tensor) -> Tensor:
        return AffineFlow().predict(attribute, parameters, self._spline(parameters).inv(noise))

    def to_dict(self) -> dict[str, Any]:
        return {"type": "spline", "bins": self.bins, "conditioner": self.conditioner.to_dict()}

    def _spline(self, parameters: Tensor) -> ConditionedSpline:
        """From the standardised logit to the noise: a fit then needs the cheap direction only."""
        widths, heights, slopes = parameters[..., 2:].split([self.bins, self.bins, self.bins - 1], -1)
        slopes = _LEAST_SLOPE + softplus(slopes + _UNIT_SLOPE)
        return _SmoothSpline((softmax(widths, -1), softmax(heights, -1), slopes, None), SPLINE_BOUND, "quadratic")


@dataclass(frozen=True)
class GumbelMax:
    """The level whose logit plus Gumbel noise is highest; the noise is ``(n, levels)``.

    Counterfactuals are stable: a level whose odds against the observed one did not rise cannot take its place.
    """

    conditioner: Conditioner = _LINEAR

    def check(self, attribute: Attribute) -> None:
        _check_levelled(attribute, "GumbelMax")

    def outputs(self, attribute: Attribute) -> Outputs:
        k = _levels(attribute)
        return Outputs(k, k, k)

    def distribution(self, attribute: Attribute, parameters: Tensor) -> Any:
        return dist.Categorical(logits=parameters)

    def log_prob(self, attribute: Attribute, parameters: Tensor, value: Tensor) -> Tensor:
        return self.distribution(attribute, parameters).log_prob(value)

    def abduct(self, attribute: Attribute, parameters: Tensor, value: Tensor, generator: torch.Generator) -> Tensor:
        return posterior_gumbels(parameters, value.long(), generator)

    def predict(self, attribute: Attribute, parameters: Tensor, noise: Tensor) -> Tensor:
        return (parameters + noise).argmax(-1).to(torch.float64)

    def to_dict(self) -> dict[str, Any]:
        return {"type": "gumbel-max", "conditioner": self.conditioner.to_dict()}


@dataclass(frozen=True)
class OrdinalLogit:
    """Proportional odds: how many ordered cutpoints a location plus logistic noise exceeds; the noise is ``(n,)``.

    The parents move the location alone; the first cutpoint is 0, the others follow by positive steps.
    """

    conditioner: Conditioner = _LINEAR

    def check(self, attribute: Attribute) -> None:
        _check_levelled(attribute, "OrdinalLogit")
        if isinstance(attribute, Categorical) and not attribute.ordered:
            raise ValueError(
                f"OrdinalLogit needs ordered levels, and {attribute.name!r} has none; declare "
                f"Categorical({attribute.name!r}, ..., ordered=True) or use GumbelMax()."
            )

    def outputs(self, attribute: Attribute) -> Outputs:
        # The steps bear the penalty: an unseen level would send its step to minus infinity.
        return Outputs(_levels(attribute) - 1, 1, 1)

    def distribution(self, attribute: Attribute, parameters: Tensor) -> Any:
        lower, upper = _cells(parameters)
        # sigmoid(upper) - sigmoid(lower), free of cancellation
        logits = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))
        return dist.Categorical(logits=logits)

    def log_prob(self, attribute: Attribute, parameters: Tensor, value: Tensor) -> Tensor:
        return self.distribution(attribute, parameters).log_prob(value)

    def abduct(self, attribute: Attribute, parameters: Tensor, value: Tensor, generator: torch.Generator) -> Tensor:
        lower, upper = (cell.gather(-1, value.long()[:, None])[:, 0] for cell in _cells(parameters))
        return truncated_logistic(lower, upper, generator)

    def predict(self, attribute: Attribute, parameters: Tensor, noise: Tensor) -> Tensor:
        lower, _ = _cells(parameters)
        return (noise[..., None] > lower[..., 1:]).sum(-1).to(torch.float64)

    def to_dict(self) -> dict[str, Any]:
        return {"type": "ordinal-logit", "conditioner": self.conditioner.to_dict()}


def default_mechanism(attribute: Attribute, continuous: Mechanism) -> Mechanism:
    """``continuous`` for numbers, the cumulative logit for ordered levels, Gumbel-max for the others."""
    if isinstance(attribute, Continuous):
        return continuous
    return OrdinalLogit() if isinstance(attribute, Categorical) and attribute.ordered else GumbelMax()


def mechanism_from_dict(data: Mapping[str, Any]) -> Mechanism:
    """The mechanism that ``to_dict`` wrote."""
    kinds: dict[str, Any] = {
        "affine": AffineFlow,
        "spline": SplineFlow,
        "gumbel-max": GumbelMax,
        "ordinal-logit": OrdinalLogit,
    }
    given = dict(data)
    return kinds[given.pop("type")](**given | {"conditioner": conditioner_from_dict(given["conditioner"])})


def posterior_gumbels(logits: Tensor, observed: Tensor, generator: torch.Generator) -> Tensor:
    """``(n, k)`` Gumbel noise given that level ``observed`` won: top-down (Maddison et al. 2014)."""
    total = torch.logsumexp(logits, -1, keepdim=True)

    def gumbel(shape: tuple[int, ...]) -> Tensor:
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64).clamp(1e-300, 1 - 1e-16)
        return -torch.log(-torch.log(uniform))

    best = gumbel((len(logits), 1)) + total
    free = gumbel(tuple(logits.shape)) + logits
    truncated = -torch.log(torch.exp(-best) + torch.exp(-free))
    chosen = one_hot(observed, logits.shape[-1]).bool()
    return torch.where(chosen, best, truncated) - logits


def truncated_logistic(lower: Tensor, upper: Tensor, generator: torch.Generator) -> Tensor:
    """``(n,)`` logistic noise given that it lies in ``(lower, upper]``, ends perhaps infinite: by the inverse CDF."""
    # In the upper tail 1 - sigmoid loses its digits; the law is symmetric, so such cells are drawn mirrored.
    mirrored = lower > 0
    low, high = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    uniform = torch.rand(lower.shape, generator=generator, dtype=torch.float64)
    below = torch.sigmoid(low) + uniform * (torch.sigmoid(high) - torch.sigmoid(low))
    noise = torch.logit(below.clamp(1e-300, 1 - 1e-16))
    noise = torch.where(mirrored, -noise, noise)
    # rounding may leave the cell by a hair
    return torch.minimum(torch.maximum(noise, torch.nextafter(lower, upper)), upper)


def _check_continuous(attribute: Attribute, mechanism: str) -> None:
    if not isinstance(attribute, Continuous):
        raise ValueError(
            f"{mechanism} is for continuous attributes, and {attribute.name!r} is {type(attribute).__name__}; "
            "use GumbelMax() or OrdinalLogit()."
        )


def _check_levelled(attribute: Attribute, mechanism: str) -> None:
    if isinstance(attribute, Continuous):
        raise ValueError(
            f"{mechanism} is for attributes with levels, and {attribute.name!r} is Continuous; "
            "use AffineFlow() or SplineFlow()."
        )


def _levels(attribute: Attribute) -> int:
    assert not isinstance(attribute, Continuous)
    return len(attribute.levels)


def _affine(parameters: Tensor) -> tuple[Tensor, Tensor]:
    return parameters[..., 0], softplus(parameters[..., 1] + 0.5)


def _cells(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """``(..., levels)`` lower and upper ends of the noise that gives each level."""
    location = parameters[..., :1]
    cutpoints = torch.cat([torch.zeros_like(location), softplus(parameters[..., 1:]).cumsum(-1)], -1) - location
    end = torch.full_like(location, torch.inf)
    return torch.cat([-end, cutpoints], -1), torch.cat([cutpoints, end], -1)


def _range(attribute: Attribute, bounded: bool) -> Any:
    """From the real line to the values."""
    assert isinstance(attribute, Continuous)
    width = attribute.high - attribute.low
    if not bounded:
        return transforms.AffineTransform((attribute.low + attribute.high) / 2, width / 4)
    return transforms.ComposeTransform(
        [transforms.SigmoidTransform(), transforms.AffineTransform(attribute.low, width)], cache_size=0
    )


def _inside(attribute: Attribute, value: Tensor, bounded: bool) -> Tensor:
    assert isinstance(attribute, Continuous)
    if not bounded:
        return value
    margin = EDGE * (attribute.high - attribute.low)
    return value.clamp(attribute.low + margin, attribute.high - margin)
