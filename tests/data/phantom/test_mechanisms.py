"""Mechanisms: probabilities and moments against closed forms, the coding of causes, refusals."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import expit
from scipy.stats import norm

from causal_cxr.data.phantom.mechanisms import Mechanism, score
from causal_cxr.graphs import Binary, Categorical, Continuous

AGE = Continuous("age", unit="years", low=20, high=100)
VIEW = Binary("view", levels=("PA", "AP"))
SITE = Categorical("site", levels=("north", "south", "west"))
ATTRIBUTES = {a.name: a for a in (AGE, VIEW, SITE)}
CODES = {"age": np.array([20.0, 60.0, 80.0, 100.0]), "view": np.array([0.0, 1.0, 1.0, 0.0]), "site": np.array([0.0, 1.0, 2.0, 1.0])}  # fmt: skip
AGE_CODED = np.array([-2.0, 0.0, 1.0, 2.0])  # middle 60, a quarter of the range is 20
Y, THREE, NUMBER = (
    Binary("y"),
    Categorical("three", levels=("a", "b", "c")),
    Continuous("z", unit="mg", low=-50, high=50),
)
NORMALS = np.array([-1.0, 0.0, 0.5, 2.0])


def made(**kind):
    return Mechanism.model_validate(kind)


def second(mechanism, latent=0.0):
    p = mechanism.probabilities(Y, CODES, ATTRIBUTES, 4, latent)
    assert p.sum(1) == pytest.approx(1)
    return p[:, 1]


# -- coding of causes --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        ({"age": 0.5}, 0.5 * AGE_CODED),
        ({"view": 2.0}, [0, 2, 2, 0]),
        ({"view": {"PA": 1.0, "AP": 3.0}}, [1, 3, 3, 1]),
        ({"view": {"PA": 1.0}}, [1, 0, 0, 1]),
        ({"site": {"south": 1.5, "west": -1.0}}, [0, 1.5, -1, 1.5]),
        ({"age": 1.0, "view": 1.0, "site": {"north": 4.0}}, np.add(AGE_CODED, [4, 1, 1, 0])),
        ({}, [0, 0, 0, 0]),
    ],
)
def test_causes_enter_as_documented(weights, wanted):
    assert score(weights, CODES, ATTRIBUTES, 4) == pytest.approx(np.asarray(wanted, dtype=float))


# -- closed forms ------------------------------------------------------------------------------------------------------
def test_a_fixed_probability_is_of_the_second_level_or_of_each():
    assert second(made(probability=0.3)) == pytest.approx(0.3)
    three = made(probability={"c": 0.5, "a": 0.2, "b": 0.3}).probabilities(THREE, CODES, ATTRIBUTES, 4)
    assert three == pytest.approx(np.tile([0.2, 0.3, 0.5], (4, 1)))


def test_logistic_is_a_sigmoid():
    mechanism = made(logistic={"bias": -1, "weights": {"age": 0.5, "view": 2}})
    assert second(mechanism) == pytest.approx(expit(-1 + 0.5 * AGE_CODED + 2 * CODES["view"]))
    assert second(mechanism, NORMALS) == pytest.approx(expit(-1 + 0.5 * AGE_CODED + 2 * CODES["view"] + NORMALS))


def test_threshold_is_a_probit():
    mechanism = made(threshold={"cut": 0.4, "sd": 2, "weights": {"age": 0.5}})
    assert second(mechanism) == pytest.approx(norm.cdf((0.5 * AGE_CODED - 0.4) / 2))
    assert second(mechanism, NORMALS) == pytest.approx(norm.cdf((0.5 * AGE_CODED + NORMALS - 0.4) / 2))


def test_softmax_is_a_softmax_and_latents_move_all_levels_but_the_first():
    mechanism = made(softmax={"bias": {"b": 1, "a": 0.5}, "weights": {"c": {"age": 1, "site": {"west": 2}}}})
    scores = np.column_stack([np.full(4, 0.5), np.ones(4), np.add(AGE_CODED, [0, 0, 2, 0])])
    for latent in (0.0, NORMALS):
        wanted = np.exp(scores + np.column_stack([np.zeros(4), np.zeros(4) + latent, np.zeros(4) + latent]))
        found = mechanism.probabilities(THREE, CODES, ATTRIBUTES, 4, latent)
        assert found == pytest.approx(wanted / wanted.sum(1, keepdims=True))


def test_softmax_of_two_levels_is_logistic():
    logistic = made(logistic={"bias": 0.3, "weights": {"age": 0.7}})
    softmax = made(softmax={"bias": {1: 0.3}, "weights": {1: {"age": 0.7}}})
    assert second(softmax, NORMALS) == pytest.approx(second(logistic, NORMALS))


def test_linear_adds_noise_in_its_own_unit_and_is_cut_off_at_the_range():
    mechanism = made(linear={"intercept": 3, "sd": 2, "weights": {"age": 10}})
    assert mechanism.number(NUMBER, CODES, ATTRIBUTES, NORMALS) == pytest.approx(3 + 10 * AGE_CODED + 2 * NORMALS)
    assert mechanism.number(NUMBER, CODES, ATTRIBUTES, np.full(4, 40.0)) == pytest.approx(np.full(4, 50.0))


@pytest.mark.parametrize(
    ("given", "low", "high"), [(None, -50, 50), ({"low": 0}, 0, 50), ({"low": -1, "high": 1}, -1, 1)]
)
def test_uniform_runs_over_the_range_or_its_own_limits(given, low, high):
    found = made(uniform=given).number(NUMBER, {}, ATTRIBUTES, NORMALS)
    assert found == pytest.approx(low + (high - low) * norm.cdf(NORMALS))


def test_a_formula_is_a_probability_or_a_mean():
    assert second(made(expression="sigmoid(age / 50)")) == pytest.approx(expit(CODES["age"] / 50))
    assert second(made(expression="0.25")) == pytest.approx(0.25)
    mechanism = made(expression={"formula": "age / 10 + (site == 'west')", "sd": 1.5})
    wanted = CODES["age"] / 10 + [0, 0, 1, 0] + 1.5 * NORMALS
    assert mechanism.number(NUMBER, CODES, ATTRIBUTES, NORMALS) == pytest.approx(wanted)


def test_a_mechanism_knows_its_kind_and_its_causes():
    assert made(softmax={"weights": {"b": {"age": 1}, "c": {"view": 1}}}).causes == {"age", "view"}
    assert made(expression="age + 0 * view").causes == {"age", "view"}
    assert made(uniform=None).causes == frozenset()
    assert made(logistic={}).kind == "logistic"


# -- refusals ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("attribute", "kind", "message"),
    [
        (NUMBER, {"probability": 0.5}, r"'z' is Continuous and cannot come about by probability; choose one of \['linear'"),
        (NUMBER, {"logistic": {}}, "cannot come about by logistic"),
        (NUMBER, {"threshold": {}}, "cannot come about by threshold"),
        (NUMBER, {"softmax": {}}, "cannot come about by softmax"),
        (Y, {"linear": {"intercept": 0, "sd": 1}}, "'y' is Binary and cannot come about by linear"),
        (Y, {"uniform": None}, "cannot come about by uniform"),
        (THREE, {"logistic": {}}, r"choose one of \['probability', 'softmax'\]"),
        (THREE, {"expression": "0.5"}, "cannot come about by expression"),
        (THREE, {"probability": 0.5}, r"give every level of \['a', 'b', 'c'\] a probability"),
        (THREE, {"probability": {"a": 0.5, "b": 0.5}}, "give every level"),
        (THREE, {"probability": {"a": 0.5, "b": 0.7, "c": -0.2}}, "give every level"),
        (THREE, {"probability": {"a": 0.5, "b": 0.7, "c": 0.2}}, "in all 1"),
        (Y, {"probability": 1.2}, r"a probability lies in \[0, 1\], got 1.2"),
        (Y, {"logistic": {"weights": {"site": 1}}}, "'site' has 3 levels; give a weight for each"),
        (Y, {"logistic": {"weights": {"site": {"east": 1}}}}, "'site' cannot be 'east'; choose from"),
        (Y, {"logistic": {"weights": {"age": {"old": 1}}}}, "'age' has no levels; give one weight"),
        (THREE, {"softmax": {"bias": {"d": 1}}}, "'three' cannot be 'd'"),
        (THREE, {"softmax": {"weights": {"d": {"age": 1}}}}, "'three' cannot be 'd'"),
        (NUMBER, {"uniform": {"low": -60}}, r"uniform from -60 to 50 leaves the range of 'z', \[-50, 50\]"),
        (NUMBER, {"uniform": {"low": 5, "high": 5}}, "leaves the range"),
    ],
)  # fmt: skip
def test_what_does_not_suit_the_attribute_is_refused(attribute, kind, message):
    with pytest.raises(ValueError, match=message):
        Mechanism.model_validate(kind).check(attribute, ATTRIBUTES)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({}, r"a mechanism is of one kind, got \[\]; choose one of \['probability', 'logistic'"),
        ({"uniform": None, "probability": 0.5}, "a mechanism is of one kind, got"),
        ({"expression": "open('x')"}, "allowed are numbers"),
        ({"threshold": {"sd": 0}}, "greater than 0"),
        ({"linear": {"intercept": 0, "sd": -1}}, "greater than or equal to 0"),
        ({"linear": {"sd": 1}}, "intercept"),
        ({"logistic": {"bias": float("inf")}}, "finite number"),
        ({"magic": {}}, "Extra inputs"),
    ],
)
def test_what_is_no_mechanism_is_refused(kind, message):
    with pytest.raises(ValidationError, match=message):
        Mechanism.model_validate(kind)


def test_formulas_that_leave_their_range_are_refused_when_evaluated():
    with pytest.raises(ValueError, match=r"'y': the formula gives 2\d?, which is no probability; use sigmoid"):
        second(made(expression="age / 10"))
    with pytest.raises(ValueError, match="'y': the formula gives nan, which is no probability"):
        second(made(expression="log(0 - age)"))
    with pytest.raises(ValueError, match="'z': the formula gives nan; keep it finite"):
        made(expression="sqrt(20 - age)").number(NUMBER, CODES, ATTRIBUTES, NORMALS)
