"""SCMs whose weights are set rather than fitted, on random graphs."""

from collections.abc import Mapping

import numpy as np
from hypothesis import strategies as st

from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous
from causal_cxr.graphs.scm import MLP, SCM, AffineFlow, GumbelMax, Mechanism, OrdinalLogit, SplineFlow
from causal_cxr.graphs.scm.structure import Structure

#: every mechanism, with a type of attribute for it
KINDS = {
    "affine": (lambda name: Continuous(name, unit="u", low=-1, high=3), AffineFlow()),
    "linear-gaussian": (lambda name: Continuous(name, unit="u", low=-500, high=500), AffineFlow(bounded=False)),
    "spline": (lambda name: Continuous(name, unit="u", low=-1, high=3), SplineFlow(bins=4)),
    "neural-spline": (lambda name: Continuous(name, unit="u", low=0, high=9), SplineFlow(bins=3, conditioner=MLP(3))),
    "binary": (Binary, GumbelMax()),
    "categorical": (lambda name: Categorical(name, levels=("x", "y", "z")), GumbelMax()),
    "neural": (lambda name: Categorical(name, levels=("x", "y", "z")), GumbelMax(MLP(3))),
    "ordinal": (lambda name: Categorical(name, levels=("x", "y", "z", "w"), ordered=True), OrdinalLogit()),
    "binary-ordinal": (Binary, OrdinalLogit(MLP(2))),
}


def scm_with(
    graph: CausalGraph, mechanisms: Mapping[str, Mechanism] | None = None, **weights: list[list[float]]
) -> SCM:
    """A model with these weights: a row for the intercept, one for each parent's feature, one for each latent."""
    data = SCM(graph, mechanisms).to_dict()
    return SCM.from_dict({**data, "weights": weights})


def random_scm(rng: np.random.Generator, kinds: list[str], confounded: bool = True) -> SCM:
    """Attributes ``a0, a1, ...`` of these kinds on a random graph, with random weights."""
    names = [f"a{i}" for i in range(len(kinds))]
    pairs = [(a, b) for j, b in enumerate(names) for a in names[:j]]
    edges = [pair for pair in pairs if rng.random() < 0.5]
    shared = [pairs[rng.integers(len(pairs))]] if confounded else []
    attributes = [KINDS[kind][0](name) for name, kind in zip(names, kinds, strict=True)]
    mechanisms = {name: KINDS[kind][1] for name, kind in zip(names, kinds, strict=True)}
    graph = CausalGraph(attributes, edges, confounded=shared)
    # a normal on the value itself must not leave its range
    spread = {name: 0.15 if kind == "linear-gaussian" else 1.0 for name, kind in zip(names, kinds, strict=True)}
    start = Structure(graph, mechanisms).start
    weights = {name: (spread[name] * rng.normal(size=start(name).shape)).tolist() for name in names}
    for name, kind in zip(names, kinds, strict=True):
        if kind == "linear-gaussian":
            weights[name][0][1] = -2.5
    return scm_with(graph, mechanisms, **weights)


@st.composite
def random_scms(draw: st.DrawFn) -> SCM:
    """:func:`random_scm` of two to five attributes, a confounded pair or none."""
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=5))
    return random_scm(np.random.default_rng(draw(st.integers(0, 2**16))), kinds, draw(st.booleans()))
