"""Laws of counterfactuals that hold for any weights: closed forms, analytic posteriors, random graphs."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import norm

from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous
from causal_cxr.graphs.scm import SCM

AGE = Continuous("age", unit="years", low=0, high=100)
DOSE = Continuous("dose", unit="mAs", low=0, high=10)
SEX = Binary("sex", levels=("male", "female"))
VIEW = Binary("view", levels=("PA", "AP"))
OUTPUTS = {"Binary": 2, "Continuous": 2, "Categorical": 3}
INPUTS = {"Binary": 1, "Continuous": 1, "Categorical": 2}


def scm_with(graph: CausalGraph, **weights: list[list[float]]) -> SCM:
    """A model whose weights are set rather than fitted: a row for the intercept, one for each parent's feature."""
    return SCM.from_dict({"graph": graph.to_dict(), "weights": weights, "rows_left_out": 0})


@pytest.fixture
def affine() -> SCM:
    """logit(dose / 10) = 0.3 + 0.8 (age - 50) / 25 + softplus(0.5 - 0.7) noise."""
    graph = CausalGraph([AGE, DOSE], [("age", "dose")])
    return scm_with(graph, age=[[0.1, 0.2]], dose=[[0.3, -0.7], [0.8, 0.0]])


TABLE = pd.DataFrame({"age": [20.0, 55.0, 80.0], "dose": [1.0, 5.5, 9.0]})


def test_counterfactual_of_a_linear_gaussian_model_is_the_closed_form(affine: SCM) -> None:
    expected = 10 * expit(logit(TABLE["dose"] / 10) + 0.8 * (70.0 - TABLE["age"]) / 25)
    np.testing.assert_allclose(affine.counterfactual(TABLE, {"age": 70.0})["dose"], expected, atol=1e-5)


def test_log_density_of_a_linear_gaussian_model_is_the_closed_form(affine: SCM) -> None:
    u, v = TABLE["age"] / 100, TABLE["dose"] / 10
    age = norm.logpdf(logit(u), 0.1, np.log1p(np.exp(0.7))) - np.log(100 * u * (1 - u))
    mean = 0.3 + 0.8 * (TABLE["age"] - 50) / 25
    dose = norm.logpdf(logit(v), mean, np.log1p(np.exp(-0.2))) - np.log(10 * v * (1 - v))
    np.testing.assert_allclose(affine.log_prob(TABLE), age + dose, atol=1e-5)


def test_binary_counterfactual_frequencies_are_the_analytic_posterior() -> None:
    # With s = logit P(AP), AP wins where logistic noise exceeds -s: so P(stays AP | AP) = min(p, p') / p.
    graph = CausalGraph([SEX, VIEW], [("sex", "view")])
    scm = scm_with(graph, sex=[[0.0, 0.0]], view=[[0.0, 0.9], [0.0, -1.6]])
    n, before, after = 100_000, expit(0.9), expit(0.9 - 1.6)
    for factual, stays in (("AP", min(before, after) / before), ("PA", min(1 - before, 1 - after) / (1 - before))):
        table = pd.DataFrame({"sex": ["male"] * n, "view": [factual] * n})
        share = (scm.counterfactual(table, {"sex": "female"}, seed=3)["view"] == factual).mean()
        assert share == pytest.approx(stays, abs=4 * np.sqrt(0.25 / n))


@st.composite
def declared(draw: st.DrawFn) -> tuple[SCM, pd.DataFrame]:
    """A random graph over all types with random weights, and a table sampled from them."""
    made = {
        "Continuous": lambda name: Continuous(name, unit="u", low=-1, high=3),
        "Binary": Binary,
        "Categorical": lambda name: Categorical(name, levels=("x", "y", "z")),
    }
    kinds = draw(st.lists(st.sampled_from(sorted(made)), min_size=2, max_size=5))
    names = [f"a{i}" for i in range(len(kinds))]
    kind = dict(zip(names, kinds, strict=True))
    pairs = [(a, b) for j, b in enumerate(names) for a in names[:j]]
    graph = CausalGraph([made[kind[name]](name) for name in names], [pair for pair in pairs if draw(st.booleans())])
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    shapes = {name: (1 + sum(INPUTS[kind[p]] for p in graph.parents(name)), OUTPUTS[kind[name]]) for name in names}
    scm = scm_with(graph, **{name: rng.normal(size=shape).tolist() for name, shape in shapes.items()})
    return scm, scm.sample(20, seed=int(rng.integers(2**16))).set_axis(range(100, 120))


@settings(max_examples=30, deadline=None)
@given(declared(), st.data())
def test_on_any_graph_non_descendants_stay_bit_for_bit(made: tuple[SCM, pd.DataFrame], data: st.DataObject) -> None:
    scm, table = made
    pd.testing.assert_frame_equal(scm.counterfactual(table, {}), table, check_exact=True)
    name = data.draw(st.sampled_from(list(scm.graph.attributes)))
    pd.testing.assert_frame_equal(scm.counterfactual(table, {name: table[name]}), table, check_exact=True)
    value = table[name].iloc[0]
    after = scm.counterfactual(table, {name: value}, seed=5)
    assert (after[name] == value).all()
    for other in set(scm.graph.attributes) - scm.graph.descendants(name) - {name}:
        pd.testing.assert_series_equal(after[other], table[other], check_exact=True)
    pd.testing.assert_frame_equal(after, scm.counterfactual(table, {name: value}, seed=5), check_exact=True)


@settings(max_examples=20, deadline=None)
@given(declared())
def test_on_any_graph_predicting_abducted_noise_gives_the_table_back(made: tuple[SCM, pd.DataFrame]) -> None:
    scm, table = made
    again = scm.predict(scm.abduct(table, seed=1))
    for name, attribute in scm.graph.attributes.items():
        # the flow moves a number within 1e-4 of its range's end to there
        atol = 1e-3 if isinstance(attribute, Continuous) else 0
        np.testing.assert_allclose(attribute.encode(again[name]), attribute.encode(table[name]), atol=atol)
