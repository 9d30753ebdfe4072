"""``Structure``: which equations a graph has, and what they say for given weights."""

import itertools
from collections.abc import Mapping
from functools import cache
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from causal_cxr.graphs.attributes import Categorical, Continuous
from causal_cxr.graphs.graph import CausalGraph
from causal_cxr.graphs.scm.mechanisms import Mechanism

L2 = 0.5  #: a standard normal prior on the weights, so that a rare level cannot send them to infinity
NODES = 15  #: values that a shared latent can take
MOST_LATENTS = 2  #: in one district; the sum runs over ``NODES ** latents`` terms


class Structure:
    """The labelled attributes of a graph in causal order, their mechanisms and shared latents. It holds no weights.

    ``codes`` maps attributes and latents to float64 tensors that broadcast against ``(..., n)``.

    Raises:
        ValueError: more than ``MOST_LATENTS`` bidirected edges hang together.
    """

    def __init__(self, graph: CausalGraph, mechanisms: Mapping[str, Mechanism]) -> None:
        labelled = set(graph.labelled)
        self.attributes, self.mechanisms = graph.attributes, mechanisms
        self.order = tuple(name for name in graph.topological_order() if name in labelled)
        self.parents = {name: tuple(p for p in self.order if p in graph.parents(name)) for name in self.order}
        self.latents = {f"{a} <-> {b}": (a, b) for a, b in graph.confounded if {a, b} <= labelled}
        pairs = nx.Graph(self.latents.values())
        pairs.add_nodes_from(self.order)
        components = [set(component) for component in nx.connected_components(pairs)]
        self.districts = [tuple(name for name in self.order if name in component) for component in components]
        for district in self.districts:
            if len(self.shared(*district)) > MOST_LATENTS:
                raise ValueError(
                    f"Bidirected edges {list(self.shared(*district))} hang together; the SCM sums over at most "
                    f"{MOST_LATENTS} such latents: drop some, or name their common cause as one attribute."
                )

    def shared(self, *names: str) -> tuple[str, ...]:
        """The latents that move one of these attributes."""
        return tuple(latent for latent, pair in self.latents.items() if set(pair) & set(names))

    def start(self, name: str) -> Tensor:
        """Weights to begin a fit with."""
        features = self._features(name, {parent: torch.zeros(1) for parent in self.parents[name]}, 1).shape[1]
        mechanism = self.mechanisms[name]
        count = mechanism.outputs(self.attributes[name]).count
        return mechanism.conditioner.start(features, len(self.shared(name)), count)

    def penalty(self, name: str, weight: Tensor) -> Tensor:
        """``()``: minus the log prior of the weights, less its constant. Free intercepts bear none."""
        free = self.mechanisms[name].outputs(self.attributes[name]).free
        return L2 * (weight[1:].square().sum() + weight[0, free:].square().sum())

    def parameters(self, name: str, codes: Mapping[str, Tensor], n: int, weights: Mapping[str, Tensor]) -> Tensor:
        """``(..., n, outputs)`` of the mechanism of ``name``, given its parents and latents."""
        mechanism, weight = self.mechanisms[name], weights[name]
        outputs = mechanism.outputs(self.attributes[name])
        if outputs.conditional < outputs.count:
            moved = torch.ones(weight.shape[1], dtype=torch.float64)
            moved[outputs.conditional : outputs.count] = 0
            weight = torch.cat([weight[:1], weight[1:] * moved])
        latents = [codes[latent] for latent in self.shared(name)]
        return mechanism.conditioner.parameters(self._features(name, codes, n), latents, weight, outputs.count)

    def distribution(self, name: str, codes: Mapping[str, Tensor], n: int, weights: Mapping[str, Tensor]) -> Any:
        """p(name | parents, latents), a Pyro distribution over codes."""
        parameters = self.parameters(name, codes, n, weights)
        return self.mechanisms[name].distribution(self.attributes[name], parameters)

    def log_prob(self, name: str, codes: Mapping[str, Tensor], n: int, weights: Mapping[str, Tensor]) -> Tensor:
        """``(..., n)`` log p(name | parents, latents)."""
        parameters = self.parameters(name, codes, n, weights)
        return self.mechanisms[name].log_prob(self.attributes[name], parameters, codes[name])

    def joint(
        self, district: tuple[str, ...], codes: Mapping[str, Tensor], n: int, weights: Mapping[str, Tensor]
    ) -> Tensor:
        """``(g, ..., n)`` log density of the rows and of each of the g values that the district's latents can take."""
        shared = self.shared(*district)
        values, log_weights = grid(len(shared))
        ones = (1,) * max(code.ndim for code in codes.values())
        given = dict(codes) | {latent: values[:, i].reshape(-1, *ones) for i, latent in enumerate(shared)}
        total = log_weights.reshape(-1, *ones)
        for name in district:
            total = total + self.log_prob(name, given, n, weights)
        return total

    def _features(self, name: str, codes: Mapping[str, Tensor], n: int) -> Tensor:
        """``(..., n, f)``: one, numbers and ordered levels from -2 to 2 over their range, an indicator a level but the first.

        An ordered parent has one slope, over its level codes, in place of indicators: as its own cumulative logit it
        then takes the order at its word, and rare levels cost no parameter. Where each level should act freely,
        declare it unordered or give its children an ``MLP``.
        """
        columns = [torch.ones(n, dtype=torch.float64)]
        for parent in self.parents[name]:
            attribute = self.attributes[parent]
            if isinstance(attribute, Continuous):
                columns.append(_centred(codes[parent], attribute.low, attribute.high))
            elif isinstance(attribute, Categorical) and attribute.ordered:
                columns.append(_centred(codes[parent], 0, len(attribute.levels) - 1))
            else:
                columns += [(codes[parent] == k).to(torch.float64) for k in range(1, len(attribute.levels))]
        return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


@cache
def grid(latents: int) -> tuple[Tensor, Tensor]:
    """``(g, latents)`` joint values of independent latents and their ``(g,)`` log probabilities: Gauss-Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    log_weights = np.log(weights / weights.sum())
    values = np.array(list(itertools.product(nodes, repeat=latents))).reshape(NODES**latents, latents)
    joint = [sum(choice) for choice in itertools.product(log_weights, repeat=latents)]
    return torch.tensor(values), torch.tensor(joint, dtype=torch.float64)


def _centred(codes: Tensor, low: float, high: float) -> Tensor:
    return (codes - (low + high) / 2) / ((high - low) / 4)
