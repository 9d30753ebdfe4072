"""Interventions against DoWhy's gcm: the same equations, written again in numpy, sampled by DoWhy."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from dowhy import gcm
from dowhy.gcm.causal_mechanisms import ConditionalStochasticModel, StochasticModel
from random_scms import random_scm
from scipy import stats
from scipy.special import expit

from causal_cxr.graphs import Categorical, Continuous
from causal_cxr.graphs.scm import SCM, AffineFlow, OrdinalLogit

KINDS = ["affine", "linear-gaussian", "binary", "categorical", "ordinal"]
GRAPHS, N = 8, 3000


class Equation(ConditionalStochasticModel, StochasticModel):
    """The equation of one attribute, from its weights: parents' codes in, codes out."""

    def __init__(self, scm: SCM, name: str, rng: np.random.Generator) -> None:
        self.attribute, self.mechanism, self.rng = scm.graph.attributes[name], scm.mechanisms[name], rng
        self.weight = np.array(scm.to_dict()["weights"][name])
        self.latents = [f"{a} <-> {b}" for a, b in scm.graph.confounded if name in (a, b)]
        self.causes = [scm.graph.attributes[cause] for cause in scm.order if cause in scm.graph.parents(name)]
        self.columns = sorted([cause.name for cause in self.causes] + self.latents)  # DoWhy orders parents by name

    def features(self, parents: np.ndarray) -> np.ndarray:
        value = dict(zip(self.columns, parents.T.astype(float), strict=True))
        made = [np.ones(len(parents))]
        for cause in self.causes:
            code = value[cause.name]
            ordered = isinstance(cause, Categorical) and cause.ordered
            if isinstance(cause, Continuous) or ordered:
                low, high = (0, len(cause.levels) - 1) if ordered else (cause.low, cause.high)
                made.append(4 * (code - low) / (high - low) - 2)
            else:
                made += [code == level for level in range(1, len(cause.levels))]
        return np.stack(made + [value[latent] for latent in self.latents], axis=1)

    def draw_samples(self, given: np.ndarray | int) -> np.ndarray:
        features = np.ones((given, 1)) if isinstance(given, int) else self.features(given)
        n = len(features)
        outputs = features @ self.weight
        if isinstance(self.attribute, Continuous):
            number = outputs[:, 0] + np.log1p(np.exp(outputs[:, 1] + 0.5)) * self.rng.normal(size=n)
            width = self.attribute.high - self.attribute.low
            if self.mechanism == AffineFlow(bounded=False):
                made = self.attribute.low + width / 2 + width / 4 * number
            else:
                made = self.attribute.low + width * expit(number)
        elif self.mechanism == OrdinalLogit():
            cutpoints = np.concatenate([[0], np.log1p(np.exp(self.weight[0, 1:])).cumsum()])
            made = (outputs[:, :1] + self.rng.logistic(size=(n, 1)) > cutpoints).sum(1)
        else:
            made = (outputs + self.rng.gumbel(size=outputs.shape)).argmax(1)
        return made.reshape(-1, 1).astype(float)

    def fit(self, *args: np.ndarray, **kwargs: np.ndarray) -> None:
        """The weights are given."""

    def clone(self) -> "Equation":
        return self


class Latent(StochasticModel):
    """A shared latent: normal as far as 15 nodes go."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def draw_samples(self, n: int) -> np.ndarray:
        nodes, weights = np.polynomial.hermite_e.hermegauss(15)
        return self.rng.choice(nodes, size=(n, 1), p=weights / weights.sum())

    def fit(self, *args: np.ndarray, **kwargs: np.ndarray) -> None:
        """Nothing to fit."""

    def clone(self) -> "Latent":
        return self


def dowhy_model(scm: SCM, rng: np.random.Generator) -> gcm.StructuralCausalModel:
    dag = nx.DiGraph(list(scm.graph.edges))
    dag.add_nodes_from(scm.order)
    dag.add_edges_from((f"{a} <-> {b}", end) for a, b in scm.graph.confounded for end in (a, b))
    model = gcm.StructuralCausalModel(dag)
    for node in dag:
        model.set_causal_mechanism(node, Equation(scm, node, rng) if node in scm.order else Latent(rng))
    gcm.config.disable_progress_bars()
    gcm.fit(model, pd.DataFrame(rng.normal(size=(10, len(dag))), columns=list(dag)))
    return model


def p_values(ours: pd.DataFrame, theirs: pd.DataFrame, scm: SCM, rng: np.random.Generator) -> list[float]:
    """One a column, and one for a random mixture of all columns, which sees how they hang together."""
    found = []
    for name in scm.order:
        if isinstance(scm.graph.attributes[name], Continuous):
            found.append(stats.ks_2samp(ours[name], theirs[name]).pvalue)
        else:
            counts = pd.concat([ours[name].value_counts(), theirs[name].value_counts()], axis=1).fillna(0)
            found.append(stats.chi2_contingency(counts).pvalue if len(counts) > 1 else 1.0)
    centre, spread = ours.mean(), ours.std() + 1e-9
    mixture = rng.normal(size=len(scm.order))
    sums = [((frame - centre) / spread).to_numpy() @ mixture for frame in (ours, theirs)]
    return [*found, stats.ks_2samp(*sums).pvalue]


@pytest.mark.parametrize("seed", range(GRAPHS))
def test_do_agrees_with_dowhy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scm = random_scm(rng, [*rng.permutation(KINDS)])
    target = scm.order[int(rng.integers(3))]
    rows = scm.sample(N, seed=seed)
    value = rows[target].iloc[0]
    code = float(scm.graph.attributes[target].encode(pd.Series([value]))[0])
    acted = scm.counterfactual(rows, {target: value}, seed=seed)
    ours = pd.DataFrame({name: scm.graph.attributes[name].encode(acted[name]) for name in scm.order})
    model = dowhy_model(scm, rng)
    theirs = gcm.interventional_samples(model, {target: lambda _: code}, num_samples_to_draw=N)[list(scm.order)]
    found = p_values(ours, theirs.astype(float), scm, rng)
    assert min(found) > 1e-3 / (GRAPHS * len(found)), dict(zip([*scm.order, "mixture"], found, strict=True))
