"""Balancing weights, against closed forms."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from causal_cxr.editors.finetune import Balanced, effective_sample_size
from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous

SICK, VIEW = Binary("sick"), Binary("view", levels=("PA", "AP"))
GRAPH = CausalGraph([SICK, VIEW], [("sick", "view")])
WHOLE = (0.0, 1.0)


def world(n: int = 4_000, seed: int = 0) -> pd.DataFrame:
    """The sick are X-rayed AP in 4 of 5 cases, the others in 1 of 5."""
    rng = np.random.default_rng(seed)
    sick = rng.uniform(size=n) < 0.5
    return GRAPH.coerce(
        pd.DataFrame({"sick": sick * 1, "view": np.where(rng.uniform(size=n) < np.where(sick, 0.8, 0.2), "AP", "PA")})
    )


def counted(table: pd.DataFrame) -> np.ndarray:
    """``P(A) / P(A | Z)`` from the table's own frequencies: what a saturated model must give."""
    a, z = (table["view"] == "AP").to_numpy(), (table["sick"] == 1).to_numpy()
    given = np.array([[np.mean(a[z == k] == level) for level in (False, True)] for k in (False, True)])
    marginal = np.array([np.mean(~a), np.mean(a)])
    return marginal[a * 1] / given[z * 1, a * 1]


def test_weights_of_two_binary_attributes_are_ratios_of_frequencies():
    table = world()
    weights = Balanced(GRAPH, "view", truncate=WHOLE).of(table)
    np.testing.assert_allclose(weights.each, counted(table), rtol=2e-3)
    assert weights.adjusted_for == ("sick",)
    assert weights.clipped == 0
    assert weights.each.mean() == pytest.approx(1)


def test_in_the_weighted_rows_the_attribute_is_independent_of_what_confounded_it():
    table = world()
    weights = Balanced(GRAPH, "view", truncate=WHOLE).of(table).each
    a, z = (table["view"] == "AP").to_numpy(), (table["sick"] == 1).to_numpy()
    assert np.mean(z[a]) - np.mean(z[~a]) > 0.5
    assert np.average(z[a], weights=weights[a]) == pytest.approx(np.average(z[~a], weights=weights[~a]), abs=2e-3)
    assert np.average(z, weights=weights) == pytest.approx(z.mean(), abs=2e-3)


def test_the_effective_sample_size_is_that_of_kish():
    assert effective_sample_size(np.ones(7)) == 7
    assert effective_sample_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    # P(A)/P(A|Z) is 0.5/0.8 in 4 rows of 5 and 0.5/0.2 in one: ESS/n = 1 / (0.8 * 0.625^2 + 0.2 * 2.5^2).
    share = Balanced(GRAPH, "view", truncate=WHOLE).of(world(20_000)).effective / 20_000
    assert share == pytest.approx(1 / (0.8 * 0.625**2 + 0.2 * 2.5**2), rel=0.03)


def test_truncation_cuts_at_quantiles_says_so_and_keeps_the_mean():
    rng, n = np.random.default_rng(1), 2_000
    age = rng.uniform(20, 90, n)
    graph = CausalGraph([Continuous("age", "years", 18, 100), VIEW], [("age", "view")])
    view = np.where(rng.uniform(size=n) < 1 / (1 + np.exp(-(age - 55) / 8)), "AP", "PA")
    table = graph.coerce(pd.DataFrame({"age": age, "view": view}))
    whole, cut = (Balanced(graph, "view", truncate=t).of(table) for t in (WHOLE, (0.05, 0.95)))
    assert cut.clipped == pytest.approx(0.1, abs=0.02)
    assert cut.each.max() < whole.each.max()
    assert cut.effective > whole.effective
    assert cut.each.mean() == pytest.approx(1)


def test_a_continuous_attribute_is_weighed_by_normal_densities():
    rng, n = np.random.default_rng(2), 20_000
    sick = rng.uniform(size=n) < 0.5
    dose = 50 + 2 * sick + 4 * rng.standard_normal(n)
    graph = CausalGraph([SICK, Continuous("dose", "mGy", 0, 100)], [("sick", "dose")])
    table = graph.coerce(pd.DataFrame({"sick": sick * 1, "dose": dose}))
    weights = Balanced(graph, "dose", truncate=WHOLE).of(table).each
    spread = np.sqrt(16 + 1)
    wanted = np.exp(-((dose - 51) ** 2) / 34 + (dose - 50 - 2 * sick) ** 2 / 32) * 4 / spread
    np.testing.assert_allclose(weights, wanted / wanted.mean(), rtol=0.06)
    assert abs(np.corrcoef(dose, sick)[0, 1]) > 0.2
    centred = (dose - np.average(dose, weights=weights)) * (sick - np.average(sick, weights=weights))
    assert abs(np.average(centred, weights=weights)) < 0.05


def test_what_nothing_confounds_is_weighed_alike():
    weights = Balanced(GRAPH, "sick").of(world())
    assert weights.adjusted_for == ()
    assert set(weights.each) == {1.0}
    assert weights.effective == 4_000


def test_missing_attributes_weigh_nothing_and_missing_confounders_are_a_level():
    table = world(400)
    table.loc[:9, "view"] = np.nan
    table.loc[10:49, "sick"] = np.nan
    weights = Balanced(GRAPH, "view").of(table).each
    assert not weights[:10].any()
    assert (weights[10:] > 0).all()
    assert weights[10:].mean() == pytest.approx(1)


def test_several_levels_and_another_classifier():
    rng, n = np.random.default_rng(3), 3_000
    site = Categorical("site", levels=("a", "b", "c"))
    graph = CausalGraph([SICK, site], [("sick", "site")])
    sick = rng.uniform(size=n) < 0.5
    chances = np.where(sick[:, None], [0.6, 0.3, 0.1], [0.1, 0.3, 0.6])
    where = np.array(["a", "b", "c"])[(rng.uniform(size=n)[:, None] > chances.cumsum(1)).sum(1)]
    table = graph.coerce(pd.DataFrame({"sick": sick * 1, "site": where}))
    for classifier in (None, HistGradientBoostingClassifier(max_iter=50)):
        weights = Balanced(graph, "site", truncate=WHOLE, classifier=classifier).of(table).each
        shares = [np.average(sick[where == k], weights=weights[where == k]) for k in "abc"]
        np.testing.assert_allclose(shares, sick.mean(), atol=0.01)


@pytest.mark.parametrize(
    ("graph", "attribute", "table", "message"),
    [
        (
            CausalGraph([SICK, VIEW], confounded=[("sick", "view")], edges=[("sick", "view")]),
            "sick",
            world(50),
            "no set of",
        ),
        (GRAPH, "view", world(50)[["view"]], r"needs the columns \['sick'\]"),
        (GRAPH, "view", world(50).assign(view="PA"), "does not vary"),
    ],
)
def test_refusals(graph, attribute, table, message):
    with pytest.raises(ValueError, match=message):
        Balanced(graph, attribute).of(table)


def test_quantiles_must_be_in_order():
    with pytest.raises(ValueError, match="two quantiles"):
        Balanced(GRAPH, "view", truncate=(0.9, 0.1))
