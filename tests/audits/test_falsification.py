import networkx as nx
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from graphs.random_graphs import graphs
from hypothesis import given, settings

from causal_cxr.audits.falsification import falsify_graph, independence_tests, markov_dag, rejected_at
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
    runs = 30
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


NAMES = ("age", "sick", "view", "site", "leads")
FIVE = [AGE, SICK, VIEW, Categorical("site", levels=("a", "b", "c")), Binary("leads")]
FIVE_EDGES = [("age", "sick"), ("sick", "view"), ("site", "view"), ("view", "leads")]


@pytest.fixture(scope="module")
def five():
    """A table of mixed types that FIVE_EDGES made."""
    rng = np.random.default_rng(0)
    table = table_of(3000, 0.0)
    site = rng.choice(["a", "b", "c"], 3000)
    ap = rng.uniform(size=3000) < 0.1 + 0.4 * (table["sick"] == 1) + 0.35 * (site == "c")
    leads = rng.uniform(size=3000) < 0.1 + 0.6 * ap
    columns = {"view": np.where(ap, "AP", "PA"), "site": site, "leads": leads.astype(int)}
    return CausalGraph(FIVE).coerce(table.assign(**columns))


def test_a_right_graph_beats_its_relabellings_and_is_called_neither_true_nor_false(five):
    found = falsify_graph(CausalGraph(FIVE, FIVE_EDGES), five, own(3000))
    assert (found.verdict, found.violated) == ("not falsified", 0)
    assert found.p <= 0.05
    assert found.tests > 5
    assert found.permutations == 100
    assert set(found.edges["needed"]) == {"yes"}
    assert "violates 0 of" in found.words
    assert "no proof" in found.words


def test_a_graph_with_its_names_mixed_up_is_falsified_and_says_where(five):
    mixed = dict(zip(NAMES, ("leads", "site", "age", "sick", "view"), strict=True))
    found = falsify_graph(CausalGraph(FIVE, [(mixed[a], mixed[b]) for a, b in FIVE_EDGES]), five, own(3000))
    assert found.verdict == "falsified"
    assert "this one is falsified" in found.words
    assert any({a, b} == {"sick", "view"} for a, b, _ in found.contradicted)


def test_one_missing_arrow_is_named_and_its_direction_left_to_the_tiers(five):
    edges = [edge for edge in FIVE_EDGES if edge != ("sick", "view")]
    plain = falsify_graph(CausalGraph(FIVE, edges), five, own(3000))
    assert any({a, b} == {"sick", "view"} for a, b, _ in plain.contradicted)
    assert "an arrow between sick and view" in plain.words
    tiers = [["age", "site"], ["sick"], ["view"], ["leads"]]
    assert "an arrow sick -> view" in falsify_graph(CausalGraph(FIVE, edges, tiers=tiers), five, own(3000)).words


def test_a_needless_arrow_is_shown_to_be_of_no_consequence(five):
    found = falsify_graph(CausalGraph(FIVE, [*FIVE_EDGES, ("age", "leads")]), five, own(3000))
    edge = found.edges.set_index(["cause", "effect"]).loc[("age", "leads")]
    assert edge["needed"] == "no"
    assert edge["low"] < 0 < edge["high"]
    assert "no consequence: age -> leads" in found.words


def test_few_images_leave_an_arrow_undecided(five):
    found = falsify_graph(CausalGraph(FIVE, [*FIVE_EDGES, ("age", "leads")]), five[:150], own(150))
    assert found.edges.set_index(["cause", "effect"]).loc[("age", "leads"), "needed"] == "undecided"


def test_a_complete_graph_cannot_be_tested():
    complete = CausalGraph([AGE, SICK, VIEW], [("age", "sick"), ("sick", "view"), ("age", "view")])
    found = falsify_graph(complete, table_of(300, 0.0), own(300))
    assert found.verdict == "not testable"
    assert "No data could contradict" in found.words


def test_a_graph_that_most_relabellings_equal_is_not_informative():
    collider = CausalGraph([Binary("a"), Binary("b")])  # both relabellings imply the same
    table = collider.coerce(pd.DataFrame(np.random.default_rng(0).integers(0, 2, (500, 2)), columns=["a", "b"]))
    assert falsify_graph(collider, table, own(500)).verdict == "not informative"


def test_what_is_hidden_confounded_or_selected_on_is_said_not_to_be_tested(five):
    graph = CausalGraph([*FIVE, Binary("drain", hidden=True)], [*FIVE_EDGES, ("sick", "drain"), ("drain", "leads")],
                        confounded=[("age", "site")], selected_on=["site"])  # fmt: skip
    words = falsify_graph(graph, five, own(3000)).words
    for said in (
        "drain (no column) was not tested",
        "common cause of age and site is taken on trust",
        "selected on site",
    ):
        assert said in words


def test_patients_are_drawn_whole_and_the_same_seed_gives_the_same_words(five):
    patients = np.repeat(np.arange(1000), 3).astype(str)
    graph = CausalGraph(FIVE, FIVE_EDGES)
    found = falsify_graph(graph, five, patients, most_images=600, seed=1)
    assert (found.n, found.patients) == (600, 200)
    assert falsify_graph(graph, five, patients, most_images=600, seed=1).words == found.words


def test_too_few_relabellings_for_the_level_are_refused(five):
    with pytest.raises(ValueError, match="give 100 or more"):
        falsify_graph(CausalGraph(FIVE, FIVE_EDGES), five, own(3000), alpha=0.01, permutations=50)


def test_missing_values_are_left_out_test_by_test(five):
    holes = five.copy()
    holes.loc[:999, "site"] = np.nan
    found = falsify_graph(CausalGraph(FIVE, FIVE_EDGES), holes, own(3000))
    assert found.verdict == "not falsified"


@given(graphs(hidden=True, selected=True))
@settings(deadline=None, max_examples=60)
def test_the_stand_in_implies_nothing_that_the_graph_does_not(graph):
    dag = markov_dag(graph)
    assert set(dag) == set(graph.labelled)
    for name in dag:
        parents = set(dag.predecessors(name))
        for other in set(dag) - parents - {name} - nx.descendants(dag, name):
            assert graph.m_separated(name, other, parents)


@given(graphs(confounded=False))
@settings(deadline=None, max_examples=40)
def test_the_stand_in_of_a_plain_graph_is_the_graph(graph):
    assert set(markov_dag(graph).edges) == set(graph.edges)


def test_what_too_few_patients_vary_in_is_named_and_not_counted_as_passed():
    """Smoking is recorded at one site only, ethnicity at the other: nobody has both."""
    rng = np.random.default_rng(0)
    here = rng.integers(0, 2, 600) == 0
    coins = rng.integers(0, 2, (3, 600)).astype(float)
    graph = CausalGraph([Binary("view"), Binary("smoker"), Binary("ethnicity")])
    table = graph.coerce(
        pd.DataFrame(
            {
                "view": coins[0],
                "smoker": np.where(here, coins[1], np.nan),
                "ethnicity": np.where(here, np.nan, coins[2]),
            }
        )
    )
    found = falsify_graph(graph, table, own(600), permutations=20)
    assert found.tests == 4  # view with each of the two, from both ends; it would be 6
    assert "Independence of smoker and ethnicity was not tested" in " ".join(found.untested)
    assert "violates 0 of 4 implied independences" in found.words
    assert "smoker and ethnicity was not tested" in found.words
    alone = CausalGraph([Binary("smoker"), Binary("ethnicity")])
    nothing = falsify_graph(alone, table[["smoker", "ethnicity"]], own(600), permutations=20)
    assert (nothing.verdict, nothing.tests) == ("not testable", 0)
    assert nothing.words.startswith("These data cannot contradict the declared graph.")
