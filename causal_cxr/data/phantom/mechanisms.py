"""Mechanisms of a world: how an attribute comes about from its causes. Noise stays outside.

A mechanism of an attribute with levels gives their probabilities, one of a continuous attribute its mean and spread.
Causes enter as codes: two levels as 0 and 1, a level of more than two as its own indicator, a continuous attribute as
``(value - middle of its range) / (a quarter of its range)``, a latent common cause as a standard normal.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from scipy.special import expit, softmax
from scipy.stats import norm

from causal_cxr.data.phantom.expressions import Formula
from causal_cxr.graphs import Attribute, Continuous, Value

Weights = Mapping[str, float | dict[Value, float]]  #: cause -> weight, or one a level of the cause
Codes = Mapping[str, np.ndarray]  #: name -> ``(n,)`` level codes or numbers


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False)


class Probability(_Block):
    """Fixed probabilities: of the second level, or ``{level: probability}``; nothing causes it."""

    probability: float | dict[Value, float]


class Logistic(_Block):
    """Two levels: P(second) = sigmoid(bias + weights . causes)."""

    bias: float = 0.0
    weights: dict[str, float | dict[Value, float]] = {}


class Threshold(_Block):
    """Two levels: the second where weights . causes + sd * normal noise > cut (a probit)."""

    cut: float = 0.0
    sd: float = Field(default=1.0, gt=0)
    weights: dict[str, float | dict[Value, float]] = {}


class Softmax(_Block):
    """Levels: P(level) ~ exp(bias[level] + weights[level] . causes); levels and causes left out have 0."""

    bias: dict[Value, float] = {}
    weights: dict[Value, dict[str, float | dict[Value, float]]] = {}


class Linear(_Block):
    """A number: mean = intercept + weights . causes, in its own unit, plus sd * normal noise; cut off at its range."""

    intercept: float
    sd: float = Field(ge=0)
    weights: dict[str, float | dict[Value, float]] = {}


class Uniform(_Block):
    """A number, evenly spread over ``[low, high]`` (its declared range unless given); nothing causes it."""

    low: float | None = None
    high: float | None = None


class Expression(_Block):
    """A formula (see :class:`~causal_cxr.data.phantom.expressions.Formula`).

    For two levels: the probability of the second, in [0, 1]. For a number: its mean, with ``sd`` of normal noise.
    """

    formula: str
    sd: float = Field(default=0.0, ge=0)

    @field_validator("formula")
    @classmethod
    def _readable(cls, text: str) -> str:
        Formula(text)
        return text

    @cached_property
    def parsed(self) -> Formula:
        """The formula, ready to be evaluated."""
        return Formula(self.formula)


class Mechanism(_Block):
    """One mechanism, by its kind: ``{logistic: {bias: -1, weights: {age: 0.8}}}``."""

    probability: float | dict[Value, float] | None = None
    logistic: Logistic | None = None
    threshold: Threshold | None = None
    softmax: Softmax | None = None
    linear: Linear | None = None
    uniform: Uniform | None = None
    expression: Expression | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        """``expression: "..."`` for ``expression: {formula: "..."}``; ``uniform:`` with nothing after it."""
        if isinstance(data, dict):
            if isinstance(data.get("expression"), str):
                data = {**data, "expression": {"formula": data["expression"]}}
            if "uniform" in data and data["uniform"] is None:
                data = {**data, "uniform": {}}
        return data

    @model_validator(mode="after")
    def _one_kind(self) -> "Mechanism":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a mechanism is of one kind, got {given}; choose one of {list(type(self).model_fields)}.")
        return self

    @cached_property
    def kind(self) -> str:
        """``logistic``, ``softmax``, ..."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @cached_property
    def _weights(self) -> list[Weights]:
        """Of each score: one, or one a level."""
        if self.softmax is not None:
            return list(self.softmax.weights.values())
        return [getattr(getattr(self, self.kind), "weights", {})]

    @cached_property
    def causes(self) -> frozenset[str]:
        """Names of the attributes that it depends on."""
        if self.expression is not None:
            return self.expression.parsed.names
        return frozenset(name for weights in self._weights for name in weights)

    def check(self, attribute: Attribute, attributes: Mapping[str, Attribute]) -> None:
        """Refuse what does not suit the attribute.

        Raises:
            ValueError: the kind does not suit the attribute's type, or a level is none of its or its cause's.
        """
        if isinstance(attribute, Continuous):
            suited: tuple[str, ...] = ("linear", "uniform", "expression")
        elif len(attribute.levels) == 2:
            suited = ("probability", "logistic", "threshold", "softmax", "expression")
        else:
            suited = ("probability", "softmax")
        if self.kind not in suited:
            raise ValueError(
                f"{attribute.name!r} is {type(attribute).__name__} and cannot come about by {self.kind}; choose one of "
                f"{list(suited)}."
            )
        for weights in self._weights:
            for cause, weight in weights.items():
                parent = attributes.get(cause)
                if isinstance(weight, Mapping) or (parent is not None and not isinstance(parent, Continuous)):
                    _by_level(parent, cause, weight)
        if not isinstance(attribute, Continuous):
            p = self.probability
            if isinstance(p, Mapping) and (
                set(p) != set(attribute.levels) or abs(sum(p.values()) - 1) > 1e-6 or min(p.values()) < 0
            ):
                raise ValueError(
                    f"give every level of {list(attribute.levels)} a probability, in all 1; got {dict(p)}."
                )
            if isinstance(p, float | int) and not 0 <= p <= 1:
                raise ValueError(f"a probability lies in [0, 1], got {p}.")
            if isinstance(p, float | int) and len(attribute.levels) > 2:
                raise ValueError(f"give every level of {list(attribute.levels)} a probability: {{level: p, ...}}.")
            for level in (*self.softmax.weights, *self.softmax.bias) if self.softmax else ():
                attribute.check(level)
        if self.uniform is not None and isinstance(attribute, Continuous):
            low, high = self._span(attribute)
            if not attribute.low <= low < high <= attribute.high:
                raise ValueError(
                    f"uniform from {low:g} to {high:g} leaves the range of {attribute.name!r}, [{attribute.low:g}, "
                    f"{attribute.high:g}]."
                )

    def probabilities(
        self, attribute: Attribute, codes: Codes, attributes: Mapping[str, Attribute], n: int,
        latent: np.ndarray | float = 0.0,
    ) -> np.ndarray:  # fmt: skip
        """``(n, levels)`` probabilities of the levels.

        Args:
            attribute: with levels.
            codes: of its causes, at least.
            attributes: of the world, for their types.
            n: rows.
            latent: ``(n,)`` what latent common causes add to the score of the second level (softmax: of every level but
                the first).
        """
        assert not isinstance(attribute, Continuous)
        k = len(attribute.levels)
        if self.softmax is not None:
            scores = np.zeros((n, k))
            for level, bias in self.softmax.bias.items():
                scores[:, attribute.levels.index(level)] += bias
            for level, weights in self.softmax.weights.items():
                scores[:, attribute.levels.index(level)] += score(weights, codes, attributes, n)
            scores[:, 1:] += np.reshape(latent, (-1, 1)) if np.ndim(latent) else latent
            return softmax(scores, axis=1)
        if isinstance(self.probability, Mapping):
            return np.tile([self.probability[level] for level in attribute.levels], (n, 1))
        if self.probability is not None:
            second = np.full(n, float(self.probability))
        elif self.logistic is not None:
            second = expit(self.logistic.bias + score(self.logistic.weights, codes, attributes, n) + latent)
        elif self.threshold is not None:
            rule = self.threshold
            second = norm.cdf((score(rule.weights, codes, attributes, n) + latent - rule.cut) / rule.sd)
        else:
            second = self._evaluate(codes, attributes, n)
            if not ((second >= 0) & (second <= 1)).all():
                worst = second[~((second >= 0) & (second <= 1))][0]
                raise ValueError(
                    f"{attribute.name!r}: the formula gives {worst:g}, which is no probability; use sigmoid(...)."
                )
        return np.column_stack([1 - second, second])

    def mean_and_spread(
        self, attribute: Attribute, codes: Codes, attributes: Mapping[str, Attribute], n: int,
        latent: np.ndarray | float = 0.0,
    ) -> tuple[np.ndarray, float]:  # fmt: skip
        """``(n,)`` mean, before it is cut off at the range, and the SD of the noise; for ``linear`` and formulas."""
        if self.linear is not None:
            return self.linear.intercept + score(self.linear.weights, codes, attributes, n) + latent, self.linear.sd
        assert self.expression is not None
        return self._evaluate(codes, attributes, n), self.expression.sd

    def number(
        self, attribute: Attribute, codes: Codes, attributes: Mapping[str, Attribute], noise: np.ndarray,
        latent: np.ndarray | float = 0.0,
    ) -> np.ndarray:  # fmt: skip
        """``(n,)`` values of a continuous attribute from ``(n,)`` standard normal noise."""
        assert isinstance(attribute, Continuous)
        if self.uniform is not None:
            low, high = self._span(attribute)
            return low + (high - low) * norm.cdf(noise)
        mean, sd = self.mean_and_spread(attribute, codes, attributes, len(noise), latent)
        if not np.isfinite(mean).all():
            raise ValueError(
                f"{attribute.name!r}: the formula gives {mean[~np.isfinite(mean)][0]}; keep it finite with maximum(...) or clip(...)."
            )
        return np.clip(mean + sd * noise, attribute.low, attribute.high)

    def _span(self, attribute: Continuous) -> tuple[float, float]:
        assert self.uniform is not None
        low, high = self.uniform.low, self.uniform.high
        return attribute.low if low is None else low, attribute.high if high is None else high

    def _evaluate(self, codes: Codes, attributes: Mapping[str, Attribute], n: int) -> np.ndarray:
        assert self.expression is not None
        levels = {name: a.levels for name, a in attributes.items() if not isinstance(a, Continuous)}
        return np.broadcast_to(self.expression.parsed(codes, levels), (n,))


def score(weights: Weights, codes: Codes, attributes: Mapping[str, Attribute], n: int) -> np.ndarray:
    """``(n,)`` weighted sum of causes, coded as the module says."""
    total = np.zeros(n)
    for cause, weight in weights.items():
        attribute = attributes[cause]
        if isinstance(attribute, Continuous):
            assert not isinstance(weight, Mapping)
            middle, quarter = (attribute.low + attribute.high) / 2, (attribute.high - attribute.low) / 4
            total += weight * (codes[cause] - middle) / quarter
        else:
            total += np.take(_by_level(attribute, cause, weight), codes[cause].astype(int))
    return total


def _by_level(parent: Attribute | None, cause: str, weight: float | Mapping[Value, float]) -> np.ndarray:
    """``(levels,)`` weight of each level of a cause."""
    if parent is None or isinstance(parent, Continuous):
        raise ValueError(f"{cause!r} has no levels; give one weight: {cause}: 0.5.")
    if not isinstance(weight, Mapping):
        if len(parent.levels) > 2:
            raise ValueError(
                f"{cause!r} has {len(parent.levels)} levels; give a weight for each: {{level: weight, ...}}."
            )
        return np.array([0.0, weight])
    return np.array([weight.get(level, 0.0) for level in _known(parent, weight)])


def _known(parent: Any, weight: Mapping[Value, float]) -> tuple[Value, ...]:
    for level in weight:
        parent.check(level)
    return tuple(parent.levels)
