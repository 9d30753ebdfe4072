"""Conditioners: how the parameters of a mechanism depend on the parents.

The weights of a mechanism are one matrix: the rows of the features (the intercept first), then of the shared latents,
then those that a conditioner adds. Shared latents always enter linearly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Conditioner(Protocol):
    """Parents in, parameters out."""

    def start(self, features: int, latents: int, outputs: int) -> Tensor:
        """Weights to begin a fit with, float64: no parent moves anything yet, latents move the first output a little.

        At zero the two ends of a latent would have no slope, and L-BFGS would stay there.
        """

    def parameters(self, features: Tensor, latents: Sequence[Tensor], weight: Tensor, outputs: int) -> Tensor:
        """``(..., n, outputs)`` from ``(..., n, f)`` features and latents that broadcast against ``(..., n)``."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :func:`conditioner_from_dict` reads it back."""


@dataclass(frozen=True)
class Linear:
    """Parameters linear in the features."""

    def start(self, features: int, latents: int, outputs: int) -> Tensor:
        weight = torch.zeros(features + latents, outputs, dtype=torch.float64)
        weight[features:, 0] = 0.5
        return weight

    def parameters(self, features: Tensor, latents: Sequence[Tensor], weight: Tensor, outputs: int) -> Tensor:
        f = features.shape[-1]
        parameters = features @ weight[:f, :outputs]
        for i, latent in enumerate(latents):
            parameters = parameters + latent[..., None] * weight[f + i, :outputs]
        return parameters

    def to_dict(self) -> dict[str, Any]:
        return {"type": "linear"}


@dataclass(frozen=True)
class MLP:
    """:class:`Linear`, plus one layer of tanh units over the features: it nests the linear one and starts from it.

    Their incoming weights are the last ``hidden`` columns of the matrix, their outgoing ones its last rows.

    Args:
        hidden: units.
        seed: of their incoming weights at the start.
    """

    hidden: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"MLP has hidden={self.hidden}; give one unit or more, or use Linear().")

    def start(self, features: int, latents: int, outputs: int) -> Tensor:
        weight = torch.zeros(features + latents + self.hidden, outputs + self.hidden, dtype=torch.float64)
        generator = torch.Generator().manual_seed(self.seed)
        weight[features : features + latents, 0] = 0.5
        weight[:features, outputs:] = torch.randn(features, self.hidden, generator=generator, dtype=torch.float64)
        return weight

    def parameters(self, features: Tensor, latents: Sequence[Tensor], weight: Tensor, outputs: int) -> Tensor:
        units = torch.tanh(features @ weight[: features.shape[-1], outputs:])
        return Linear().parameters(features, latents, weight, outputs) + units @ weight[-self.hidden :, :outputs]

    def to_dict(self) -> dict[str, Any]:
        return {"type": "mlp", "hidden": self.hidden, "seed": self.seed}


def conditioner_from_dict(data: Mapping[str, Any]) -> Conditioner:
    """The conditioner that ``to_dict`` wrote."""
    given = dict(data)
    kinds: dict[str, type[Linear | MLP]] = {"linear": Linear, "mlp": MLP}
    return kinds[given.pop("type")](**given)
