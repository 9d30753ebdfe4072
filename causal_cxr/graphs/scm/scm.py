"""``SCM``: a Pyro model of the labelled attributes, with abduct, predict and counterfactual.

Continuous attributes: an affine flow of a normal on the logit of the range, its mean and scale linear in the parents.
Binary and categorical: Gumbel-max with linear logits; abduction draws the Gumbels from their exact posterior given the
observed level (Maddison et al., NeurIPS 2014; Oberst & Sontag, ICML 2019).
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch
from pyro import distributions as dist
from pyro.distributions import transforms
from torch import Tensor

from causal_cxr.graphs.attributes import Continuous
from causal_cxr.graphs.graph import CausalGraph

L2 = 1e-3  #: ridge on the weights, so that a rare level cannot send them to infinity
EDGE = 1e-4  #: continuous values are kept this share of the range away from its ends


class SCM:
    """Attribute mechanisms of a graph's labelled attributes.

    Args:
        graph: its labelled part must be closed under the declared edges used here: hidden attributes take no part.

    Raises:
        NotImplementedError: the graph has bidirected edges among labelled attributes; their shared latents are not
            modelled, and ignoring them would give wrong counterfactuals in silence.
    """

    def __init__(self, graph: CausalGraph) -> None:
        labelled = set(graph.labelled)
        if any(set(pair) <= labelled for pair in graph.confounded):
            raise NotImplementedError(
                f"The SCM does not model latent common causes yet, and the graph declares {list(graph.confounded)}; pass "
                "scm=... with one that does."
            )
        self.graph = graph
        self.order = tuple(name for name in graph.topological_order() if name in labelled)
        self.parents = {name: tuple(p for p in self.order if p in graph.parents(name)) for name in self.order}
        self._weights: dict[str, Tensor] = {}
        self.rows_left_out = 0

    def fit(self, table: pd.DataFrame) -> "SCM":
        """Maximum likelihood by L-BFGS, one mechanism after the other; rows with a missing value are left out and counted."""
        complete = self.graph.coerce(table).dropna()
        self.rows_left_out = len(table) - len(complete)
        if complete.empty:
            raise ValueError("No row of the table has all labelled attributes; nothing to fit the SCM on.")
        codes = self._codes(complete)
        for name in self.order:
            self._weights[name] = self._fit_mechanism(
                name, self._features(name, codes), self._inside(name, codes[name])
            )
        return self

    def _fit_mechanism(self, name: str, features: Tensor, target: Tensor) -> Tensor:
        weights = torch.zeros(features.shape[1], self._outputs(name), dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            log_likelihood = self._distribution(name, features @ weights).log_prob(target).mean()
            value = L2 * weights[1:].square().sum() - log_likelihood
            value.backward()
            return value

        optimiser.step(loss)
        return weights.detach()

    def model(self, n: int) -> dict[str, Tensor]:
        """The Pyro program; condition or intervene with ``pyro.condition`` and ``pyro.do``. Sites carry codes."""
        values: dict[str, Tensor] = {}
        with pyro.plate("rows", n):
            for name in self.order:
                parameters = self._features(name, values, n) @ self._weights[name]
                values[name] = pyro.sample(name, self._distribution(name, parameters)).to(torch.float64)
        return values

    def sample(self, n: int, seed: int = 0) -> pd.DataFrame:
        """``n`` rows, typed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._table(self.model(n), None)

    def log_prob(self, table: pd.DataFrame) -> np.ndarray:
        """``(n,)`` log density of complete rows."""
        codes = self._codes(self._complete(table))
        parts = [
            self._distribution(m, self._features(m, codes) @ self._weights[m]).log_prob(self._inside(m, codes[m]))
            for m in self.order
        ]
        return torch.stack(parts).sum(0).numpy()

    def abduct(self, table: pd.DataFrame, seed: int = 0) -> dict[str, Tensor]:
        """The noise that gave these rows: exact for continuous attributes, a posterior draw for levels.

        Raises:
            ValueError: a labelled attribute is missing somewhere.
        """
        codes = self._codes(self._complete(table))
        generator = torch.Generator().manual_seed(seed)
        noise = {}
        for name in self.order:
            parameters = self._features(name, codes) @ self._weights[name]
            if isinstance(self.graph.attributes[name], Continuous):
                location, scale = _affine(parameters)
                noise[name] = (self._range(name).inv(self._inside(name, codes[name])) - location) / scale
            else:
                noise[name] = _posterior_gumbels(parameters, codes[name].long(), generator)
        return noise

    def counterfactual(self, table: pd.DataFrame, do: Mapping[str, Any], seed: int = 0) -> pd.DataFrame:
        """Abduct, act, predict.

        Args:
            table: complete factual rows.
            do: attribute -> a value, or one a row.
            seed: of the abduction.

        Returns:
            typed rows with the same index; what is no descendant of an intervened attribute stays bit for bit.
        """
        factual = self._complete(table)
        codes = self._codes(factual)
        values = self._predict(self.abduct(factual, seed), do, len(factual), codes)
        result = self._table(values, factual.index)
        moved = {name for target in do for name in (target, *self.graph.descendants(target))}
        for name in set(self.order) - moved:
            result[name] = factual[name]
        return result

    def predict(self, noise: Mapping[str, Tensor], do: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The rows that this noise gives, typed, some attributes set to a value or to one a row."""
        return self._table(self._predict(noise, do or {}, len(next(iter(noise.values()))), None), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data (JSON can hold it): the graph and the fitted weights, exactly."""
        weights = {name: weight.tolist() for name, weight in self._weights.items()}
        return {"graph": self.graph.to_dict(), "weights": weights, "rows_left_out": self.rows_left_out}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SCM":
        """The model that :meth:`to_dict` wrote."""
        scm = cls(CausalGraph.from_dict(data["graph"]))
        scm._weights = {name: torch.tensor(weight, dtype=torch.float64) for name, weight in data["weights"].items()}
        scm.rows_left_out = data["rows_left_out"]
        return scm

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the graph and the weights."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def _predict(
        self, noise: Mapping[str, Tensor], do: Mapping[str, Any], n: int, codes: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Codes; a row whose causes have their factual ``codes`` keeps its own exactly, rounding included."""
        unknown = [name for name in do if name not in self.order]
        if unknown:
            raise ValueError(f"Cannot set {unknown}; the SCM has {list(self.order)}.")
        values: dict[str, Tensor] = {}
        for name in self.order:
            if name in do:
                given = [do[name]] * n if np.isscalar(do[name]) else list(do[name])
                if len(given) != n:
                    raise ValueError(f"do has {len(given)} values for {name!r} and the table {n} rows; give one a row.")
                values[name] = torch.tensor(self.graph.attributes[name].encode(pd.Series(given)))
                continue
            parameters = self._features(name, values, n) @ self._weights[name]
            if isinstance(self.graph.attributes[name], Continuous):
                location, scale = _affine(parameters)
                values[name] = self._range(name)(location + scale * noise[name])
            else:
                values[name] = (parameters + noise[name]).argmax(-1).to(torch.float64)
            if codes is not None:
                still = torch.ones(n, dtype=torch.bool)
                for parent in self.parents[name]:
                    still &= values[parent] == codes[parent]
                values[name] = torch.where(still, codes[name], values[name])
        return values

    def _complete(self, table: pd.DataFrame) -> pd.DataFrame:
        typed = self.graph.coerce(table)
        holes = typed.isna()
        if holes.to_numpy().any():
            where = {name: list(typed.index[holes[name]][:3]) for name in typed.columns if holes[name].any()}
            raise ValueError(f"Cannot abduct rows with missing attributes: {where}; leave them out or impute them.")
        return typed

    def _codes(self, table: pd.DataFrame) -> dict[str, Tensor]:
        codes = {}
        for name in self.order:
            codes[name] = torch.tensor(self.graph.attributes[name].encode(table[name]))
        return codes

    def _table(self, codes: Mapping[str, Tensor], index: Any) -> pd.DataFrame:
        frame = pd.DataFrame({name: self.graph.attributes[name].decode(codes[name].numpy()) for name in self.order})
        frame = frame[list(self.graph.labelled)]
        return frame if index is None else frame.set_axis(index)

    def _features(self, name: str, codes: Mapping[str, Tensor], n: int | None = None) -> Tensor:
        columns = []
        for parent in self.parents[name]:
            attribute = self.graph.attributes[parent]
            if isinstance(attribute, Continuous):
                centred = (codes[parent] - (attribute.low + attribute.high) / 2) / (
                    (attribute.high - attribute.low) / 4
                )
                columns.append(centred)
            else:
                columns += [(codes[parent] == k).to(torch.float64) for k in range(1, len(attribute.levels))]
        rows = n if n is not None else len(next(iter(codes.values())))
        return torch.stack([torch.ones(rows, dtype=torch.float64), *columns], dim=1)

    def _inside(self, name: str, values: Tensor) -> Tensor:
        attribute = self.graph.attributes[name]
        if not isinstance(attribute, Continuous):
            return values
        margin = EDGE * (attribute.high - attribute.low)
        return values.clamp(attribute.low + margin, attribute.high - margin)

    def _outputs(self, name: str) -> int:
        attribute = self.graph.attributes[name]
        return 2 if isinstance(attribute, Continuous) else len(attribute.levels)

    def _range(self, name: str) -> Any:
        attribute = self.graph.attributes[name]
        assert isinstance(attribute, Continuous)
        width = attribute.high - attribute.low
        return transforms.ComposeTransform(
            [transforms.SigmoidTransform(), transforms.AffineTransform(attribute.low, width)], cache_size=0
        )

    def _distribution(self, name: str, parameters: Tensor) -> Any:
        if isinstance(self.graph.attributes[name], Continuous):
            return dist.TransformedDistribution(dist.Normal(*_affine(parameters)), [self._range(name)])
        return dist.Categorical(logits=parameters)


def _affine(parameters: Tensor) -> tuple[Tensor, Tensor]:
    return parameters[:, 0], torch.nn.functional.softplus(parameters[:, 1] + 0.5)


def _posterior_gumbels(logits: Tensor, observed: Tensor, generator: torch.Generator) -> Tensor:
    """``(n, k)`` Gumbel noise given that level ``observed`` won: top-down (Maddison et al. 2014)."""
    total = torch.logsumexp(logits, -1, keepdim=True)

    def gumbel(shape: tuple[int, ...]) -> Tensor:
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64).clamp(1e-300, 1 - 1e-16)
        return -torch.log(-torch.log(uniform))

    best = gumbel((len(logits), 1)) + total
    free = gumbel(tuple(logits.shape)) + logits
    truncated = -torch.log(torch.exp(-best) + torch.exp(-free))
    chosen = torch.nn.functional.one_hot(observed, logits.shape[-1]).bool()
    return torch.where(chosen, best, truncated) - logits
