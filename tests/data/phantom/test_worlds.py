"""The structural causal models behind the phantoms: what they draw, and what they say is true."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from causal_cxr.data.phantom import CONTROLS, HIDDEN_NAMES, LABELLED, WORLDS, Mechanism, World

N = 40_000
LABELLED_NAMES = tuple(attribute.name for attribute in LABELLED)
PORTABLE = WORLDS["portable"]

HIDDEN_PAIRS = {
    ("cardiomegaly", "pacemaker"),
    ("effusion", "chest_drain"),
    ("view", "ecg_leads"),
    ("view", "laterality_marker"),
    ("view", "portable_marker"),
}
#: age -> cardiomegaly -> effusion -> view, and age -> view
MEDIATED_PAIRS = {
    ("age", "pacemaker"),
    *((cause, "chest_drain") for cause in ("age", "cardiomegaly")),
    *((c, u) for c in ("age", "cardiomegaly", "effusion") for u in ("ecg_leads", "laterality_marker", "portable_marker")),
}  # fmt: skip
CONFOUNDED_PAIRS = {("view", "pacemaker"), ("view", "chest_drain"), ("effusion", "pacemaker")}


def uniforms(world, n=N, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(size=n) for name in ("age", *world.mechanisms)}


@pytest.fixture(scope="module")
def truth():
    return {name: world.truth() for name, world in WORLDS.items()}


@pytest.fixture(scope="module")
def sampled():
    return pd.DataFrame(PORTABLE.sample(uniforms(PORTABLE)))


def pairs(truth: pd.DataFrame, relation: str) -> set[tuple[str, str]]:
    chosen = truth[truth["relation"] == relation]
    return set(zip(chosen["attribute"], chosen["concept"], strict=True))


# Sampling


def test_age_is_uniform_over_20_to_90(sampled):
    age = sampled["age"]
    assert age.between(20, 90).all()
    np.testing.assert_allclose(age.quantile([0.1, 0.5, 0.9]), [27, 55, 83], atol=0.7)


def test_a_mechanism_is_a_logistic_of_its_parents_with_age_in_twenties_from_55():
    mechanism = Mechanism(-0.5, {"age": 0.9, "view": 2.0})
    given = {"age": np.array([55.0, 75.0, 35.0]), "view": np.array([0.0, 1.0, 1.0])}
    np.testing.assert_allclose(mechanism.probability(given, 3), expit([-0.5, -0.5 + 0.9 + 2, -0.5 - 0.9 + 2]))
    np.testing.assert_array_equal(Mechanism().probability({}, 2), 0.5)


@pytest.mark.parametrize("name", PORTABLE.mechanisms)
def test_frequencies_are_the_mechanisms_probabilities_at_every_setting_of_the_parents(sampled, name):
    mechanism = PORTABLE.mechanisms[name]
    score = mechanism.bias + sum(
        weight * ((sampled["age"] - 55) / 20 if parent == "age" else sampled[parent])
        for parent, weight in mechanism.weights.items()
    )
    p = pd.Series(expit(score * np.ones(N)))
    setting = [sampled["age"] // 10 if parent == "age" else sampled[parent] for parent in mechanism.weights]
    for _, group in sampled.groupby(setting or np.zeros(N)):
        expected = p[group.index]
        z = (group[name] - expected).sum() / np.sqrt((expected * (1 - expected)).sum())
        assert abs(z) < 4  # one of about 60 comparisons


def test_all_attributes_of_the_world_independent_are_fair_coins():
    world = WORLDS["independent"]
    table = pd.DataFrame(world.sample(uniforms(world)))
    np.testing.assert_allclose(table.drop(columns="age").mean(), 0.5, atol=4 * 0.5 / np.sqrt(N))
    correlations = table.corr().to_numpy() - np.eye(len(table.columns))
    assert np.abs(correlations).max() < 4.5 / np.sqrt(N)


def test_an_uncaused_level_is_set_by_its_own_noise_alone():
    world, noise = PORTABLE, uniforms(PORTABLE, 1000)
    other = noise | {"age": 1 - noise["age"]}
    one, two = world.sample(noise), world.sample(other)
    for name in ("sex", "weekday", *CONTROLS):
        np.testing.assert_array_equal(one[name], two[name])
    assert (one["view"] != two["view"]).any()


def test_more_of_a_cause_never_takes_its_effect_away_when_the_noise_is_kept():
    noise = uniforms(PORTABLE, 2000)
    factual = PORTABLE.sample(noise)
    pa, ap = (PORTABLE.hidden_given({**factual, "view": np.full(2000, v)}, noise) for v in (0.0, 1.0))
    assert (ap["portable_marker"] >= pa["portable_marker"]).all()
    assert (ap["laterality_marker"] <= pa["laterality_marker"]).all()  # its weight is negative
    assert (ap["portable_marker"] != pa["portable_marker"]).any()
    for name in ("pacemaker", "chest_drain", *CONTROLS):
        np.testing.assert_array_equal(ap[name], pa[name])


@pytest.mark.parametrize("world", WORLDS.values(), ids=lambda world: world.name)
def test_hidden_attributes_follow_the_labelled_ones_back_to_what_they_were(world):
    noise = uniforms(world, 2000)
    factual = world.sample(noise)
    again = world.hidden_given({name: factual[name] for name in LABELLED_NAMES}, noise)
    assert set(again) == set(HIDDEN_NAMES)
    for name, code in again.items():
        np.testing.assert_array_equal(code, factual[name])


# Graphs


@pytest.mark.parametrize("world", WORLDS.values(), ids=lambda world: world.name)
def test_the_declared_graph_knows_nothing_hidden_and_the_full_graph_everything(world):
    assert tuple(world.graph.attributes) == LABELLED_NAMES == world.graph.labelled
    assert tuple(world.full_graph.attributes) == (*LABELLED_NAMES, *HIDDEN_NAMES)
    assert world.full_graph.labelled == LABELLED_NAMES
    declared = set(world.graph.edges)
    assert declared == {(a, b) for a, b in world.full_graph.edges if b in LABELLED_NAMES}
    assert set(world.full_graph.image_parents) == {*LABELLED_NAMES, *HIDDEN_NAMES} - {"weekday"}
    assert set(world.graph.image_parents) == set(LABELLED_NAMES) - {"weekday"}


def test_portable_declares_that_sicker_patients_are_imaged_ap():
    assert set(PORTABLE.graph.edges) == {
        ("age", "cardiomegaly"), ("cardiomegaly", "effusion"), ("effusion", "view"), ("age", "view"),
    }  # fmt: skip
    assert set(WORLDS["null"].graph.edges) == set(PORTABLE.graph.edges)
    assert WORLDS["independent"].graph.edges == ()


def test_worlds_are_found_by_their_own_names():
    assert {name: world.name for name, world in WORLDS.items()} == {n: n for n in ("independent", "null", "portable")}


# Truth


def test_the_truth_names_every_pair_once(truth):
    for table in truth.values():
        assert list(zip(table["attribute"], table["concept"], strict=True)) == [
            (a, u) for a in LABELLED_NAMES for u in HIDDEN_NAMES
        ]


def test_portable_hides_five_edges_and_the_rest_is_mediated_confounded_or_nothing(truth):
    assert pairs(truth["portable"], "hidden") == HIDDEN_PAIRS
    assert pairs(truth["portable"], "mediated") == MEDIATED_PAIRS
    assert pairs(truth["portable"], "confounded") == CONFOUNDED_PAIRS
    every = {(a, u) for a in LABELLED_NAMES for u in HIDDEN_NAMES}
    assert pairs(truth["portable"], "none") == every - HIDDEN_PAIRS - MEDIATED_PAIRS - CONFOUNDED_PAIRS


def test_relations_are_those_of_the_paths_in_the_full_graph(truth):
    graph = nx.DiGraph(PORTABLE.full_graph.edges)
    graph.add_nodes_from(PORTABLE.full_graph.attributes)
    for row in truth["portable"].itertuples():
        paths = list(nx.all_simple_paths(graph, row.attribute, row.concept))
        if any(not set(path[1:-1]) & set(LABELLED_NAMES) for path in paths):
            expected = "hidden"
        elif paths:
            expected = "mediated"
        else:
            separated = nx.is_d_separator(graph, {row.attribute}, {row.concept}, set())
            expected = "none" if separated else "confounded"
        assert row.relation == expected, (row.attribute, row.concept)


@pytest.mark.parametrize("name", ["null", "independent"])
def test_nothing_hidden_goes_with_anything_in_a_world_without_hidden_edges(truth, name):
    table = truth[name]
    assert (table["relation"] == "none").all()
    assert (table[["total", "direct"]] == 0).all(axis=None)


def test_the_control_marks_go_with_nothing(truth):
    controls = truth["portable"].query("concept in @CONTROLS")
    assert len(controls) == len(LABELLED_NAMES) * len(CONTROLS)
    assert (controls["relation"] == "none").all()
    assert (controls[["total", "direct"]] == 0).all(axis=None)


def expectation(concept: str, age: np.ndarray, **do: float) -> np.ndarray:
    """``E[concept | age, do(...)]`` in the world portable, summed exactly over cardiomegaly, effusion and view."""

    def p(name: str, **parents: np.ndarray | float) -> np.ndarray:
        mechanism = PORTABLE.mechanisms[name]
        scaled = parents | {"age": (age - 55) / 20}
        return expit(mechanism.bias + sum(w * scaled[parent] for parent, w in mechanism.weights.items()))

    total = np.zeros_like(age)
    for cardiomegaly in (0, 1):
        for effusion in (0, 1):
            for view in (0, 1):
                weight = np.ones_like(age)
                given: dict[str, float] = {}
                for name, level in (("cardiomegaly", cardiomegaly), ("effusion", effusion), ("view", view)):
                    if name in do:
                        weight = weight * float(do[name] == level)
                    else:
                        weight = weight * (p(name, **given) if level else 1 - p(name, **given))
                    given[name] = level
                total += weight * p(concept, **given)
    return total


def test_total_effects_are_those_of_exact_summation(truth):
    table = truth["portable"].set_index(["attribute", "concept"])
    for attribute, concept in HIDDEN_PAIRS | MEDIATED_PAIRS | CONFOUNDED_PAIRS:
        if attribute == "age":  # 20 years more, of those who then are no older than 90
            age = np.linspace(20, 70, 2001)
            exact = (expectation(concept, age + 20) - expectation(concept, age)).mean()
        else:
            age = np.linspace(20, 90, 2001)
            ends = (expectation(concept, age, **{attribute: level}).mean() for level in (1, 0))
            exact = next(ends) - next(ends)
        said = table.loc[(attribute, concept), "total"]
        assert said == pytest.approx(exact, abs=0.005), (
            attribute,
            concept,
        )  # 200,000 draws: at most 0.0012 a deviation


def test_a_direct_effect_is_that_of_the_hidden_edge_alone(truth):
    table = truth["portable"].set_index(["attribute", "concept"])
    for attribute, concept in HIDDEN_PAIRS:
        mechanism = PORTABLE.mechanisms[concept]
        exact = expit(mechanism.bias + mechanism.weights[attribute]) - expit(mechanism.bias)
        assert table.loc[(attribute, concept), "direct"] == pytest.approx(exact, abs=0.005)
    assert (table.query("relation != 'hidden'")["direct"] == 0).all()
    assert (table.query("relation == 'confounded'")["total"] == 0).all()
    assert (table.query("relation == 'mediated'")["total"].abs() > 0.02).all()


def test_the_shift_of_age_is_the_one_asked_for():
    less, more = (
        PORTABLE.truth(shift_years=years, draws=50_000).set_index(["attribute", "concept"]) for years in (5, 40)
    )
    at = ("age", "pacemaker")
    assert 0 < less.loc[at, "total"] < more.loc[at, "total"]
    age = np.linspace(20, 50, 2001)
    exact = (expectation("pacemaker", age + 40) - expectation("pacemaker", age)).mean()
    assert more.loc[at, "total"] == pytest.approx(exact, abs=0.015)
    pd.testing.assert_frame_equal(less.drop("age", level=0), more.drop("age", level=0))


def test_the_truth_is_the_same_each_time():
    pd.testing.assert_frame_equal(PORTABLE.truth(draws=2000), PORTABLE.truth(draws=2000))
    assert not PORTABLE.truth(draws=2000, seed=1).equals(PORTABLE.truth(draws=2000))


def test_a_path_through_a_hidden_attribute_alone_is_hidden_not_mediated():
    mechanisms = dict(WORLDS["null"].mechanisms) | {
        "pacemaker": Mechanism(-1.0, {"cardiomegaly": 3.0}),
        "chest_drain": Mechanism(-1.0, {"pacemaker": 3.0}),
    }
    truth = World("chain", "a hidden attribute causes another", mechanisms).truth(draws=1000)
    relation = truth.set_index(["attribute", "concept"])["relation"]
    assert relation["cardiomegaly", "chest_drain"] == "hidden"
    assert relation["age", "chest_drain"] == "mediated"
