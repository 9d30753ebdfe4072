import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from causal_cxr.audits.falsification import independence_tests, rejected_at
from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous

AGE = Continuous("age", "years", 0, 100)
SICK, VIEW = Binary("sick"), Binary("view", levels=("PA", "AP"))
CHAIN = CausalGraph([AGE, SICK, VIEW], [("age", "sick"), ("sick", "view")])  # implies age and view given sick


def table_of(n: int, direct: float, seed: int = 0) -> pd.DataFrame:
    """age -> sick -> view, and age -> view of strength ``direct``."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 90, n)
    sick = rng.uniform(size=n) < 0.2 + 0.006 * age
    view = rng.uniform(size=n) < 0.2 + 0.4 * sick + direct * (age - 55) / 35
    return CHAIN.coerce(pd.DataFrame({"age": age, "sick": sick.astype(int), "view": np.where(view, "AP", "PA")}))


def own(n: int) -> np.ndarray:
    return np.arange(n).astype(str)


def test_what_the_graph_implies_and_the_table_has_is_not_rejected():
    found = independence_tests(CHAIN, table_of(3000, 0.0), own(3000))
    assert found[["a", "b", "given"]].to_numpy().tolist() == [["age", "view", "sick"]]
    assert not found["rejected"].any()
    assert rejected_at(found) == {}


def test_an_undeclared_effect_is_rejected_at_both_its_ends():
    found = independence_tests(CHAIN, table_of(3000, 0.2), own(3000))
    assert found["rejected"].all()
    assert rejected_at(found) == dict.fromkeys(("age", "view"), "age and view are not independent given sick")


def test_the_correlation_is_the_partial_correlation():
    table = table_of(3000, 0.2)
    given = sm.add_constant((table["sick"] == 1).to_numpy(dtype=float))
    residuals = [
        sm.OLS(y, given).fit().resid for y in (table["age"].to_numpy(), (table["view"] == "AP").to_numpy(float))
    ]
    found = independence_tests(CHAIN, table, own(3000)).iloc[0]
    assert found.correlation == pytest.approx(np.corrcoef(residuals)[0, 1], abs=1e-9)
    assert found.low < found.correlation < found.high


def test_a_correlation_too_small_to_matter_is_no_contradiction_however_many_rows_there_are():
    table = table_of(100_000, 0.03)
    found = independence_tests(CHAIN, table, own(100_000)).iloc[0]
    assert found.low > 0  # clearly not independent
    assert not found.rejected


def test_true_graphs_are_rejected_no_more_often_than_alpha():
    independent = CausalGraph([AGE, SICK, VIEW, Categorical("site", levels=("a", "b", "c"))])
    runs = 60
    wrong = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        table = independent.coerce(
            pd.DataFrame({"age": rng.uniform(20, 90, 400), "sick": rng.integers(0, 2, 400),
                          "view": rng.choice(["PA", "AP"], 400), "site": rng.choice(["a", "b", "c"], 400)})
        )  # fmt: skip
        wrong += independence_tests(independent, table, own(400))["rejected"].any()
    assert wrong <= 0.1 * runs


def test_a_difference_in_one_of_many_levels_is_found():
    site = Categorical("site", levels=("a", "b", "c", "d"))
    graph = CausalGraph([site, VIEW])
    rng = np.random.default_rng(0)
    sites = rng.choice(list(site.levels), 2000)
    view = rng.uniform(size=2000) < np.where(sites == "c", 0.8, 0.3)
    table = graph.coerce(pd.DataFrame({"site": sites, "view": np.where(view, "AP", "PA")}))
    assert independence_tests(graph, table, own(2000))["rejected"].tolist() == [True]


def test_repeated_images_of_a_patient_are_one_patient():
    table = table_of(150, 0.1, seed=3)
    once = independence_tests(CHAIN, table, own(150)).iloc[0]
    often = independence_tests(CHAIN, pd.concat([table] * 10, ignore_index=True), np.tile(own(150), 10)).iloc[0]
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.05)


def test_rows_that_miss_an_attribute_are_left_out_and_counted():
    table = table_of(500, 0.0)
    table.loc[:99, "view"] = np.nan
    assert independence_tests(CHAIN, table, own(500))["n"].tolist() == [400]


def test_a_complete_graph_implies_nothing():
    complete = CausalGraph([AGE, SICK, VIEW], [("age", "sick"), ("sick", "view"), ("age", "view")])
    assert independence_tests(complete, table_of(100, 0.0), own(100)).empty
