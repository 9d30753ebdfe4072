"""``SCM``: a Pyro model of the labelled attributes, with abduct, predict and counterfactual.

Continuous attributes: an affine flow of a normal on the logit of the range, its mean and scale linear in the parents.
Binary and categorical: Gumbel-max with linear logits; abduction draws the Gumbels from their exact posterior given the
observed level (Maddison et al., NeurIPS 2014; Oberst & Sontag, ICML 2019).
Bidirected edges: one shared latent each, a normal on the nodes of Gauss-Hermite quadrature, so that likelihood and
posterior are exact sums.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pyro
import torch
from pyro import distributions as dist
from pyro.distributions import transforms
from torch import Tensor

from causal_cxr.graphs.attributes import Continuous
from causal_cxr.graphs.graph import CausalGraph

L2 = 0.5  #: a standard normal prior on the weights, so that a rare level cannot send them to infinity
NODES = 15  #: values that a shared latent can take
MOST_LATENTS = 2  #: in one district; the sum runs over ``NODES ** latents`` terms
EDGE = 1e-4  #: continuous values are kept this share of the range away from its ends


class SCM:
    """Attribute mechanisms of a graph's labelled attributes.

    Args:
        graph: hidden attributes take no part. How strongly a shared latent moves its two ends is not identified by a
            table alone where they also share an edge; the prior then decides.

    Raises:
        ValueError: more than ``MOST_LATENTS`` bidirected edges hang together.

    >>> from causal_cxr.graphs import Binary, CausalGraph
    >>> graph = CausalGraph([Binary("portable"), Binary("view", levels=("PA", "AP"))], [("portable", "view")])
    >>> table = pd.DataFrame({"portable": [0, 1] * 50, "view": ["PA", "AP"] * 50})
    >>> scm = SCM(graph).fit(table)
    >>> scm.counterfactual(table.head(2), do={"view": "AP"})["portable"].tolist()
    [0, 1]
    """

    def __init__(self, graph: CausalGraph) -> None:
        labelled = set(graph.labelled)
        self.graph = graph
        self.order = tuple(name for name in graph.topological_order() if name in labelled)
        self.parents = {name: tuple(p for p in self.order if p in graph.parents(name)) for name in self.order}
        self._latents = {f"{a} <-> {b}": (a, b) for a, b in graph.confounded if {a, b} <= labelled}
        pairs = nx.Graph(self._latents.values())
        pairs.add_nodes_from(self.order)
        components = [set(component) for component in nx.connected_components(pairs)]
        self._districts = [tuple(name for name in self.order if name in component) for component in components]
        for district in self._districts:
            if len(self._shared(district)) > MOST_LATENTS:
                raise ValueError(
                    f"Bidirected edges {list(self._shared(district))} hang together; the SCM sums over at most "
                    f"{MOST_LATENTS} such latents: drop some, or name their common cause as one attribute."
                )
        self._weights: dict[str, Tensor] = {}
        self.rows_left_out = 0

    def fit(self, table: pd.DataFrame) -> "SCM":
        """Penalised maximum likelihood by L-BFGS, district after district; deterministic.

        Rows with a missing value are left out and counted in ``rows_left_out``.

        Raises:
            ValueError: no complete row, or a column is absent or has bad values.
        """
        complete = self.graph.coerce(table).dropna()
        self.rows_left_out = len(table) - len(complete)
        if complete.empty:
            raise ValueError("No row of the table has all labelled attributes; nothing to fit the SCM on.")
        codes = self._codes(complete)
        for district in self._districts:
            self._weights |= self._fit_district(district, codes, len(complete))
        return self

    def _fit_district(self, district: tuple[str, ...], codes: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
        weights = {}
        for name in district:
            start = torch.zeros(
                self._features(name, codes, n).shape[1] + len(self._shared((name,))),
                self._outputs(name),
                dtype=torch.float64,
            )
            if self._shared((name,)):  # at zero the two ends of a latent have no slope: L-BFGS would stay there
                start[-len(self._shared((name,))) :, 0] = 0.5
            weights[name] = start.requires_grad_()
        optimiser = torch.optim.LBFGS(list(weights.values()), max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            penalty = sum(weight[1:].square().sum() for weight in weights.values())
            value = L2 * penalty / n - self._joint(district, codes, n, weights).logsumexp(0).mean()
            value.backward()
            return value

        optimiser.step(loss)
        return {name: weight.detach() for name, weight in weights.items()}

    def _joint(
        self, district: tuple[str, ...], codes: Mapping[str, Tensor], n: int, weights: Mapping[str, Tensor]
    ) -> Tensor:
        """``(g, n)`` log density of the rows and of each of the g values that the district's latents can take."""
        values, log_weights = _grid(len(self._shared(district)))
        given = dict(codes) | {latent: values[:, i, None] for i, latent in enumerate(self._shared(district))}
        total = log_weights[:, None].expand(-1, n)
        for name in district:
            parameters = self._parameters(name, given, n, weights)
            total = total + self._distribution(name, parameters).log_prob(self._inside(name, codes[name]))
        return total

    def model(self, n: int) -> dict[str, Tensor]:
        """The Pyro program; condition or intervene with ``pyro.condition`` and ``pyro.do``. Sites carry codes.

        Sites are the attributes, and ``"a <-> b"`` for each shared latent: the index of its quadrature node.
        """
        values: dict[str, Tensor] = {}
        nodes, log_weights = _grid(1)
        with pyro.plate("rows", n):
            for latent in self._latents:
                values[latent] = nodes[pyro.sample(latent, dist.Categorical(logits=log_weights)).long(), 0]
            for name in self.order:
                parameters = self._parameters(name, values, n)
                values[name] = pyro.sample(name, self._distribution(name, parameters)).to(torch.float64)
        return values

    def sample(self, n: int, seed: int = 0) -> pd.DataFrame:
        """``n`` rows, typed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._table(self.model(n), None)

    def log_prob(self, table: pd.DataFrame) -> np.ndarray:
        """``(n,)`` log density of complete rows, shared latents summed out."""
        codes = self._codes(self._complete(table))
        parts = [self._joint(d, codes, len(table), self._fitted()).logsumexp(0) for d in self._districts]
        return torch.stack(parts).sum(0).numpy()

    def abduct(self, table: pd.DataFrame, seed: int = 0) -> dict[str, Tensor]:
        """The noise that gave these rows: exact for continuous attributes, a posterior draw for levels and latents.

        Returns:
            name -> ``(n,)`` for a continuous attribute and for a shared latent, ``(n, levels)`` Gumbels for the others.

        Raises:
            ValueError: a labelled attribute is missing somewhere.
        """
        codes, n = self._codes(self._complete(table)), len(table)
        generator = torch.Generator().manual_seed(seed)
        noise: dict[str, Tensor] = {}
        latents: dict[str, Tensor] = {}
        for district in self._districts:
            shared = self._shared(district)
            if shared:
                posterior = self._joint(district, codes, n, self._fitted()).softmax(0).T
                drawn = torch.multinomial(posterior, 1, generator=generator)[:, 0]
                latents |= {latent: _grid(len(shared))[0][drawn, i] for i, latent in enumerate(shared)}
        for name in self.order:
            parameters = self._parameters(name, codes | latents, n)
            if isinstance(self.graph.attributes[name], Continuous):
                location, scale = _affine(parameters)
                noise[name] = (self._range(name).inv(self._inside(name, codes[name])) - location) / scale
            else:
                noise[name] = posterior_gumbels(parameters, codes[name].long(), generator)
        return noise | latents

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
        values: dict[str, Tensor] = {latent: noise[latent] for latent in self._latents}
        for name in self.order:
            if name in do:
                given = [do[name]] * n if np.isscalar(do[name]) else list(do[name])
                if len(given) != n:
                    raise ValueError(f"do has {len(given)} values for {name!r} and the table {n} rows; give one a row.")
                values[name] = torch.tensor(self.graph.attributes[name].encode(pd.Series(given)))
                if values[name].isnan().any():
                    raise ValueError(
                        f"do sets {name!r} to a missing value; give the factual one where nothing changes."
                    )
                continue
            parameters = self._parameters(name, values, n)
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

    def _features(self, name: str, codes: Mapping[str, Tensor], n: int) -> Tensor:
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
        return torch.stack([torch.ones(n, dtype=torch.float64), *columns], dim=1)

    def _parameters(
        self, name: str, values: Mapping[str, Tensor], n: int, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """``(n, outputs)``, or ``(g, n, outputs)`` where the latents' values are ``(g, 1)``."""
        features, weight = self._features(name, values, n), (weights or self._fitted())[name]
        parameters = features @ weight[: features.shape[1]]
        for i, latent in enumerate(self._shared((name,))):
            parameters = parameters + values[latent][..., None] * weight[features.shape[1] + i]
        return parameters

    def _shared(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The latents that move one of these attributes."""
        return tuple(latent for latent, pair in self._latents.items() if set(pair) & set(names))

    def _fitted(self) -> dict[str, Tensor]:
        if not self._weights:
            raise ValueError("The SCM is not fitted; call fit(table) first.")
        return self._weights

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
    return parameters[..., 0], torch.nn.functional.softplus(parameters[..., 1] + 0.5)


def _grid(latents: int) -> tuple[Tensor, Tensor]:
    """``(g, latents)`` joint values of independent latents and their ``(g,)`` log probabilities."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    log_weights = np.log(weights / weights.sum())
    values = np.array(list(itertools.product(nodes, repeat=latents))).reshape(NODES**latents, latents)
    joint = [sum(choice) for choice in itertools.product(log_weights, repeat=latents)]
    return torch.tensor(values), torch.tensor(joint, dtype=torch.float64)


def posterior_gumbels(logits: Tensor, observed: Tensor, generator: torch.Generator) -> Tensor:
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
