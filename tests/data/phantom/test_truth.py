"""Truth: relations of handmade graphs, effects with closed forms, and the verdicts that are right for them."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from data.phantom.small_worlds import logistic, small
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from causal_cxr.data.phantom.truth import GREY, RIGHT, Estimate, hidden_edge, relation_of, right_verdict, truth_of
from causal_cxr.data.phantom.world import World
from causal_cxr.graphs import default_contrasts

FLAT = {"probability": 0.5}
SIDES = ("total", "direct", "adjusted", "marginal")


def row_of(world, attribute="a", concept="pacemaker", draws=60_000, seed=0):
    contrasts = [c for c in default_contrasts(world.declared, world.content.shifts) if c.attribute == attribute]
    table = truth_of(world, contrasts, draws=draws, seed=seed)
    return table[table.concept == concept].iloc[0]


# -- relations ---------------------------------------------------------------------------------------------------------
SELECT = {"selection": {"probability_of": logistic(0, a=1, pacemaker=1)}}
RELATIONS = {
    "an effect": ("causes", {"a": FLAT, "pacemaker": logistic(0, a=1)}, {}),
    "an effect through a hidden mediator": (
        "causes", {"a": FLAT, "h": logistic(0, a=1), "pacemaker": logistic(0, h=1)}, {},
    ),
    "an effect beside a labelled mediator": (
        "causes", {"a": FLAT, "m": logistic(0, a=1), "pacemaker": logistic(0, m=1, a=1)}, {},
    ),
    "an effect through a labelled mediator": (
        "mediated", {"a": FLAT, "m": logistic(0, a=1), "pacemaker": logistic(0, m=1)}, {},
    ),
    "through a hidden and a labelled mediator": (
        "mediated", {"a": FLAT, "h": logistic(0, a=1), "m": logistic(0, h=1), "pacemaker": logistic(0, m=1)}, {},
    ),
    "a cause": ("caused by", {"pacemaker": FLAT, "a": logistic(0, pacemaker=1)}, {}),
    "a hidden common cause": (
        "undeclared common cause", {"h": FLAT, "a": logistic(0, h=1), "pacemaker": logistic(0, h=1)}, {},
    ),
    "a latent common cause": (
        "undeclared common cause", {"a": logistic(), "pacemaker": logistic()}, {"confounding": [{"pair": ["a", "pacemaker"]}]},
    ),
    "a labelled common cause that the owner left out": (
        "undeclared common cause", {"z": FLAT, "a": logistic(0, z=1), "pacemaker": logistic(0, z=1)},
        {"declared": {"edges": []}},
    ),
    "a labelled common cause": (
        "declared common cause", {"z": FLAT, "a": logistic(0, z=1), "pacemaker": logistic(0, z=1)}, {},
    ),
    "a sibling's effect": (
        "declared common cause",
        {"z": FLAT, "a": logistic(0, z=1), "m": logistic(0, z=1), "pacemaker": logistic(0, m=1)}, {},
    ),
    "selection": ("selection", {"a": FLAT, "pacemaker": FLAT}, SELECT),
    "selection of which the owner does not know": (
        "selection", {"a": FLAT, "pacemaker": FLAT}, {"selection": {**SELECT["selection"], "declared": False}},
    ),
    "a common effect": ("none", {"a": FLAT, "pacemaker": FLAT, "m": logistic(0, a=1, pacemaker=1)}, {}),
    "nothing": ("none", {"a": FLAT, "pacemaker": FLAT}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", RELATIONS)
def test_the_relation_is_read_off_the_true_graph(case):
    relation, mechanisms, keys = RELATIONS[case]
    world = small(mechanisms, hidden=("h", "pacemaker"), **keys)
    assert relation_of(world, "a", "pacemaker", world.declared.adjustment_set("a")) == relation


def test_every_relation_has_a_case():
    assert {relation for relation, _, _ in RELATIONS.values()} == set(RIGHT)


STORIES = [
    ("chest-drain", "pneumothorax", "chest_drain", "causes", "hidden", "hidden"),
    ("pacemaker-age", "age", "pacemaker", "causes", "hidden", "hidden"),
    ("pacemaker-age", "cardiomegaly", "pacemaker", "declared common cause", "confounded|spurious", "spurious"),
    ("portable", "view", "portable_marker", "causes", "hidden", "hidden"),
    ("portable", "effusion", "portable_marker", "mediated", "mediated", "mediated"),
    ("portable", "view", "chest_drain", "declared common cause", "confounded|spurious", "spurious"),
    ("label-noise", "view", "portable_marker", "causes", "hidden", "hidden"),
    ("scanner-site", "pneumonia", "exposure_style", "undeclared common cause", "hidden", "missed"),
    ("scanner-site", "pneumonia", "collimation_border", "undeclared common cause", "hidden", "missed"),
    ("selection", "effusion", "central_line", "selection", "hidden", "missed"),
    ("sex-breast", "sex", "breast_implant", "causes", "hidden", "hidden"),
    ("weak", "view", "pacemaker", "causes", GREY, GREY),
    ("weak", "view", "sternal_wires", "causes", "hidden", "hidden"),
    ("null", "view", "pacemaker", "none", "none", "none"),
    ("independent", "cardiomegaly", "pacemaker", "none", "none", "none"),
]


@pytest.mark.parametrize(("name", "attribute", "concept", "relation", "observational", "structural"), STORIES)
def test_the_worlds_that_ship_hold_what_their_stories_tell(
    name, attribute, concept, relation, observational, structural
):
    row = row_of(World.load(name), attribute, concept, draws=40_000)
    assert (row.relation, row.observational, row.structural) == (relation, observational, structural)


@pytest.mark.parametrize("name", ["null", "independent"])
def test_worlds_without_effects_have_none(name):
    table = truth_of(World.load(name), draws=40_000)
    assert set(table.relation) == {"none"}
    assert set(table.observational) == set(table.structural) == {"none"}


# -- effects -----------------------------------------------------------------------------------------------------------
Z, A0, A1 = 0.4, expit(-1), expit(1)  #: P(z), P(a | z = 0), P(a | z = 1)


def given_a(a: int) -> float:
    """P(z = 1 | a)."""
    joint = np.array([1 - Z, Z]) * (np.array([A0, A1]) if a else np.array([1 - A0, 1 - A1]))
    return joint[1] / joint.sum()


EFFECT = expit(1) - expit(-1)
BACK = expit(1) - expit(-1)
SPURIOUS = (given_a(1) - given_a(0)) * BACK
CONFOUNDED = {"z": {"probability": Z}, "a": logistic(-1, z=2)}
CHOSEN = np.array([[expit(-2 + 2 * a + 2 * u) for u in (0, 1)] for a in (0, 1)])
SELECTED = CHOSEN[1, 1] / CHOSEN[1].sum() - CHOSEN[0, 1] / CHOSEN[0].sum()
MEDIATED = EFFECT * BACK
#: P(a = 1 | pacemaker), then by Bayes the difference in P(pacemaker | a).
REACHED = np.array([0.2 + 0.6 * A0, 0.2 + 0.6 * A1])
BEHIND = Z * REACHED[1] / (np.array([1 - Z, Z]) @ REACHED) - Z * (1 - REACHED[1]) / (
    np.array([1 - Z, Z]) @ (1 - REACHED)
)
#: world, keys -> total, direct, adjusted, marginal.
CLOSED_FORMS = {
    "an effect": ({"a": FLAT, "pacemaker": logistic(-1, a=2)}, {}, (EFFECT,) * 4),
    "a mediated effect": (
        {"a": FLAT, "m": logistic(-1, a=2), "pacemaker": logistic(-1, m=2)}, {}, (MEDIATED, 0, MEDIATED, MEDIATED),
    ),
    "a labelled common cause": (
        {**CONFOUNDED, "pacemaker": logistic(-1, z=2)}, {}, (0, 0, 0, SPURIOUS),
    ),
    "an effect beside a labelled common cause": (
        {**CONFOUNDED, "pacemaker": {"expression": "0.2 + 0.4 * a + 0.3 * z"}}, {},
        (0.4, 0.4, 0.4, 0.4 + 0.3 * (given_a(1) - given_a(0))),
    ),
    "a hidden common cause": (
        {"h": {"probability": Z}, "a": logistic(-1, h=2), "pacemaker": logistic(-1, h=2)}, {},
        (0, 0, SPURIOUS, SPURIOUS),
    ),
    "selection": (
        {"a": FLAT, "pacemaker": FLAT}, {"selection": {"probability_of": logistic(-2, a=2, pacemaker=2)}},
        (0, 0, SELECTED, SELECTED),
    ),
    "a hidden cause through what is adjusted for": (
        {"pacemaker": {"probability": Z}, "m": logistic(-1, pacemaker=2), "a": {"expression": "0.2 + 0.6 * m"}}, {},
        (0, 0, 0, BEHIND),
    ),
    "label noise": (  # one a in five is written down wrong, either way
        {"a": FLAT, "pacemaker": logistic(-1, a=2)}, {"label_noise": {"a": {0: 0.2, 1: 0.2}}},
        (EFFECT, EFFECT, 0.6 * EFFECT, 0.6 * EFFECT),
    ),
    "gaps at random": (
        {"a": FLAT, "pacemaker": logistic(-1, a=2)}, {"missing": {"a": 0.5}}, (EFFECT,) * 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CLOSED_FORMS)
def test_effects_are_those_of_the_closed_form(case):
    mechanisms, keys, wanted = CLOSED_FORMS[case]
    row = row_of(small(mechanisms, hidden=("h", "pacemaker"), **keys))
    for side, value in zip(SIDES, wanted, strict=True):
        assert row[side] == pytest.approx(value, abs=0.015), side
        slack = 0.5 * (row[f"{side}_high"] - row[f"{side}_low"])
        assert row[f"{side}_low"] - slack <= value <= row[f"{side}_high"] + slack, side


def test_a_shift_moves_a_threshold_as_far_as_its_integral_says():
    threshold = {"threshold": {"cut": 0.3, "sd": 0.8, "weights": {"a": 1.0}}}
    world = small(
        {"a": {"uniform": {}}, "pacemaker": threshold}, hidden=("pacemaker",), types={"a": (0, 40)}, shifts={"a": 10}
    )

    def p(a):
        return norm.cdf(((a - 20) / 10 - 0.3) / 0.8)

    wanted = (quad(lambda a: p(a + 10) - p(a), 0, 30)[0] + quad(lambda a: p(a) - p(a - 10), 30, 40)[0]) / 40
    row = row_of(world)
    for side in SIDES:
        assert row[side] == pytest.approx(wanted, abs=0.01)
    assert row.contrast == "a + 10 units"


def test_a_continuous_cause_is_adjusted_for_though_it_bends():
    bent = {"expression": "sigmoid(3 - 0.02 * (z - 20) ** 2)"}
    world = small({"z": {"uniform": {}}, "a": bent, "pacemaker": bent}, hidden=("pacemaker",), types={"z": (0, 40)})
    row = row_of(world)
    assert row.adjustment == "z"
    assert row.adjusted == pytest.approx(0, abs=0.02)
    assert row.marginal > 0.3
    assert (row.observational, row.structural) == ("confounded|spurious", "spurious")


def test_levels_are_set_against_the_reference_and_have_a_row_each():
    softmax = {"softmax": {"bias": {"letter": 1.0}, "weights": {"letter": {"a": {"b": 1.0, "c": -1.0}}}}}
    world = small(
        {"a": {"probability": {"a": 0.2, "b": 0.3, "c": 0.5}}, "laterality_marker": softmax}, hidden=("laterality_marker",),
        types={"a": ["a", "b", "c"], "laterality_marker": ["none", "letter"]},
    )  # fmt: skip
    table = truth_of(world, draws=40_000).query("concept == 'laterality_marker'").set_index("contrast")
    assert table.loc["a: a -> b"].total == pytest.approx(expit(2) - expit(1), abs=0.02)
    assert table.loc["a: a -> c"].total == pytest.approx(expit(0) - expit(1), abs=0.02)
    assert table.loc["a: a -> b"].adjusted == pytest.approx(expit(2) - expit(1), abs=0.02)


def test_delta_shrinks_with_what_is_rare():
    world = small({"a": FLAT, "pacemaker": {"probability": 0.1}, "icd": {"probability": 0.5}, "arms": {"probability": 0.001}},
                  hidden=("pacemaker", "icd", "arms"))  # fmt: skip
    delta = truth_of(world, draws=40_000, smallest_effect=0.15).set_index("concept").delta
    assert delta["icd"] == 0.15
    assert delta["pacemaker"] == pytest.approx(0.05, abs=0.003)
    assert delta["arms"] == 0.01


def test_no_adjustment_set_no_adjusted_effect_and_no_verdict():
    world = small(
        {"a": logistic(), "m": logistic(0, a=2), "pacemaker": logistic(0, m=2)}, hidden=("pacemaker",),
        confounding=[{"pair": ["a", "m"]}],
    )  # fmt: skip
    row = row_of(world, draws=20_000)
    assert row.adjustment is None
    assert np.isnan(row.adjusted)
    assert (row.observational, row.structural) == (GREY, GREY)


@pytest.mark.parametrize("p", [0, 1])
def test_a_level_that_never_occurs_has_no_adjusted_effect(p):
    world = small({"a": {"probability": p}, "pacemaker": logistic(-1, a=2)}, hidden=("pacemaker",))
    row = row_of(world, draws=5_000)
    assert row.total == pytest.approx(EFFECT, abs=0.03)
    assert np.isnan(row.adjusted)
    assert np.isnan(row.marginal)
    assert row.observational == row.structural == GREY


def test_a_world_in_which_nothing_is_hidden_has_a_truth_without_rows():
    world = small({"a": FLAT})
    graph = {"attributes": [{**a.to_dict(), "hidden": False} for a in world.graph.attributes.values()]}
    open_world = World.from_dict({**world.to_dict(), "graph": graph})
    assert truth_of(open_world, draws=100).empty
    assert list(open_world.sample(3).hidden.index) == [0, 1, 2]


def test_truth_is_deterministic_and_has_its_columns():
    world = small({"a": FLAT, "pacemaker": logistic(-1, a=2)}, hidden=("pacemaker",))
    one, two = (truth_of(world, draws=5_000, seed=3) for _ in range(2))
    assert one.equals(two)
    assert list(one) == [
        "attribute", "contrast", "concept", "of", "relation", "adjustment", "prevalence", "delta",
        *(f"{side}{end}" for side in ("total", "direct", "marginal", "adjusted") for end in ("", "_low", "_high")),
        "observational", "structural", "edge_observational", "edge_structural",
    ]  # fmt: skip
    assert list(world.truth.columns) == list(one.columns)


def test_intervals_cover_the_closed_form_about_as_often_as_they_say():
    mechanisms, _, wanted = CLOSED_FORMS["an effect beside a labelled common cause"]
    world = small(mechanisms, hidden=("pacemaker",))
    rows = [row_of(world, draws=4_000, seed=seed) for seed in range(40)]
    inside = [
        [row[f"{side}_low"] <= value <= row[f"{side}_high"] for side, value in zip(SIDES, wanted, strict=True)]
        for row in rows
    ]
    assert 0.88 <= np.mean(inside) < 1  # 160 looks, though not independent ones, at 95%


def test_the_interval_is_student_s():
    parts = np.random.default_rng(0).normal(3, 2, size=(4_000, 10))
    estimates = [Estimate.of(part) for part in parts]
    assert np.mean([e.low <= 3 <= e.high for e in estimates]) == pytest.approx(0.95, abs=0.015)
    assert np.isnan(Estimate.of(np.array([np.nan])).value)


# -- verdicts ----------------------------------------------------------------------------------------------------------
def effects(total, direct, adjusted, marginal):
    return dict(zip(SIDES, (total, direct, adjusted, marginal), strict=True))


VERDICTS = [
    ("causes", (0.3, 0.3, 0.3, 0.3), "hidden", "hidden"),
    ("causes", (0.3, 0.3, -0.3, 0.3), GREY, GREY),  # editor and data disagree
    ("causes", (0.3, 0.0, 0.3, 0.3), GREY, GREY),  # its direct way carries nothing
    ("causes", (0.12, 0.12, 0.12, 0.12), GREY, GREY),
    ("causes", (0.01, 0.01, 0.01, 0.01), "none", "none"),
    ("mediated", (0.3, 0.0, 0.3, 0.3), "mediated", "mediated"),
    ("mediated", (0.3, 0.1, 0.3, 0.3), GREY, GREY),
    ("caused by", (0.0, 0.0, 0.3, 0.3), "hidden", "missed"),
    ("caused by", (0.0, 0.0, -0.3, -0.3), "hidden", "missed"),
    ("caused by", (0.0, 0.0, 0.0, 0.3), "confounded|spurious", "spurious"),
    ("caused by", (0.0, 0.0, 0.1, 0.3), GREY, GREY),
    ("undeclared common cause", (0.0, 0.0, 0.3, 0.3), "hidden", "missed"),
    ("undeclared common cause", (0.0, 0.0, 0.1, 0.3), GREY, GREY),
    ("selection", (0.0, 0.0, -0.3, -0.3), "hidden", "missed"),
    ("declared common cause", (0.0, 0.0, 0.0, 0.3), "confounded|spurious", "spurious"),
    ("declared common cause", (0.0, 0.0, 0.0, 0.1), GREY, GREY),
    ("declared common cause", (0.0, 0.0, 0.1, 0.3), GREY, GREY),
    ("declared common cause", (0.0, 0.0, 0.0, 0.0), "none", "none"),
    ("none", (0.0, 0.0, 0.0, 0.0), "none", "none"),
    ("none", (0.0, 0.0, float("nan"), 0.0), GREY, GREY),
]


@pytest.mark.parametrize(("relation", "values", "observational", "structural"), VERDICTS)
def test_the_right_verdict(relation, values, observational, structural):
    found = [right_verdict(relation, effects(*values), 0.1, editor) for editor in (0, 1)]
    assert found == [observational, structural]


def test_no_other_verdict_is_ever_right():
    for relation, editor in product(RIGHT, (0, 1)):
        for values in product((-0.3, -0.1, 0.0, 0.1, 0.3), repeat=4):
            verdict = right_verdict(relation, effects(*values), 0.1, editor)
            assert set(verdict.split("|")) <= {*RIGHT[relation][editor], "none", GREY}
            if verdict == "none":
                assert (values[0], values[2], values[3]) == (0, 0, 0)
            if 0.1 in np.abs([values[0], values[2]]):
                assert verdict == GREY


@pytest.mark.parametrize("spread", [5, 15])
def test_a_continuous_attribute_that_is_seldom_at_its_ends_has_the_effects_that_it_has(spread):
    """Support is where images are, not where the range ends: a normal value of an unrelated marker's shift is nothing."""
    world = World.from_dict({
        "name": "bell", "graph": {"attributes": [
            {"name": "crp", "type": "continuous", "unit": "mg/l", "low": 0, "high": 300}, {"name": "effusion", "type": "binary"},
            {"name": "pacemaker", "type": "binary", "hidden": True}, {"name": "icd", "type": "binary", "hidden": True}]},
        "mechanisms": {
            "effusion": {"probability": 0.5}, "icd": {"expression": "0.002 * crp"}, "pacemaker": {"probability": 0.3},
            "crp": {"linear": {"intercept": 60, "sd": spread, "weights": {"effusion": 40}}}},
        "shifts": {"crp": 30},
    })  # fmt: skip
    truth = truth_of(world, draws=40_000).query("attribute == 'crp'").set_index("concept")
    assert truth.loc["pacemaker", ["adjusted", "marginal"]].tolist() == [0, 0]
    assert truth.loc["icd", "marginal"] == pytest.approx(0.06, abs=0.02)
    if spread == 15:  # else no image could be 30 more and have the same effusion
        assert truth.loc["icd", "adjusted"] == pytest.approx(0.06, abs=0.03)


def test_what_the_graph_says_is_nothing_is_exactly_nothing():
    truth = World.load("portable").truth
    none, common = truth[truth["relation"] == "none"], truth[truth["relation"] == "declared common cause"]
    assert (none[["total", "direct", "adjusted", "marginal"]] == 0).all(axis=None)
    assert (common["adjusted"] == 0).all()
    assert (common["marginal"] != 0).all()


NA = "grey"
HIDDEN_EDGES = [  # relation, (total, direct, adjusted, marginal), observational, structural
    ("causes", (0.3, 0.3, 0.3, 0.3), True, True),
    ("causes", (0.3, 0.15, 0.3, 0.3), NA, NA),
    ("causes", (0.3, 0.01, 0.3, 0.3), False, False),
    ("causes", (0.3, 0.3, -0.3, 0.3), NA, NA),
    ("mediated", (0.9, 0.0, 0.9, 0.9), False, False),
    ("mediated", (0.1, 0.0, 0.1, 0.1), False, False),
    ("declared common cause", (0.0, 0.0, 0.0, 0.1), False, False),
    ("none", (0.0, 0.0, 0.0, 0.0), False, False),
    ("caused by", (0.0, 0.0, 0.3, 0.3), True, False),
    ("selection", (0.0, 0.0, 0.1, 0.3), NA, False),
    ("undeclared common cause", (0.0, 0.0, 0.01, 0.3), False, False),
]


@pytest.mark.parametrize(("relation", "values", "observational", "structural"), HIDDEN_EDGES)
def test_where_an_edge_is_hidden(relation, values, observational, structural):
    found = [hidden_edge(relation, effects(*values), 0.1, editor) for editor in (0, 1)]
    assert [NA if edge is pd.NA else edge for edge in found] == [observational, structural]


def test_an_observational_editor_that_is_told_of_a_common_effect_may_move_what_is_unrelated():
    """A -> C <- U: fitted on captions that name C, the editor learns that U goes with A given C."""
    world = small(
        {"a": FLAT, "pacemaker": {"probability": 0.5}, "c": logistic(-2, a=2, pacemaker=2)}, hidden=("pacemaker",)
    )
    row = truth_of(world, draws=5_000).query("attribute == 'a'").iloc[0]
    assert (row.relation, row.structural, row.observational) == ("none", "none", GREY)
    assert row.edge_observational is pd.NA
    assert not row.edge_structural
