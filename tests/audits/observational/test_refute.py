from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from causal_cxr.audits.observational import Estimates, pose, refutations, regression
from causal_cxr.graphs import Binary, CausalGraph, Continuous, Contrast

AGE, SEX, VIEW = Continuous("age", "years", 0, 100), Binary("sex"), Binary("view", levels=("PA", "AP"))
TRUE = CausalGraph([AGE, SEX, VIEW], [("age", "view")])
DENIED = CausalGraph([AGE, SEX, VIEW])  # denies that age decides the view
TO_AP = Contrast("view", "flip", level="AP", reference="PA")


@pytest.fixture(scope="module")
def data():
    """Age decides the view and how often there are leads; the view does too."""
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 90, 1500)
    view = rng.uniform(size=1500) < 0.1 + 0.8 * (age - 20) / 70
    leads = rng.uniform(size=1500) < 0.1 + 0.3 * view + 0.4 * (age - 20) / 70
    table = TRUE.coerce(pd.DataFrame({"age": age, "sex": rng.integers(0, 2, 1500), "view": np.where(view, "AP", "PA")}))
    return table, leads[:, None].astype(float)


@pytest.fixture(scope="module")
def refute(data):
    table, leads = data

    def run(graph, estimator=regression, outcomes=leads, **options):
        question = pose(graph, table, np.arange(1500), outcomes, TO_AP, graph.adjustment_set("view"))
        frame = refutations(graph, table, question, "view", estimator=estimator, **{"most_patients": 1500, **options})
        return frame.set_index("refuter")

    return run


@pytest.fixture(scope="module")
def right(refute):
    return refute(TRUE)


def test_an_estimate_under_the_right_graph_is_not_refuted(right):
    assert set(right["passes"]) == {"yes"}
    assert list(right.index) == ["placebo treatment", "placebo with its causes", "random common cause", "data subset",
                                 "negative control outcomes"]  # fmt: skip


def test_a_missing_confounder_that_was_measured_is_caught_by_the_placebo_that_keeps_its_causes(refute):
    wrong = refute(DENIED)
    assert wrong.loc["placebo with its causes", "passes"] == "no"
    assert wrong.loc["placebo with its causes", "value"] > 0.1
    assert "an arrow is missing" in wrong.loc["placebo with its causes", "sentence"]
    assert wrong.loc["negative control outcomes", "passes"] == "no"  # age, which DENIED says is independent of the view
    assert "age" in wrong.loc["negative control outcomes", "seen"]
    assert wrong.loc["placebo treatment", "passes"] == "yes"  # a shuffled treatment has no causes: it cannot see that


def test_an_estimator_that_finds_effects_in_anything_fails_the_placebo(refute):
    def wishful(question, seed):
        honest = regression(question, seed)
        return Estimates(tuple(replace(e, value=e.value + 0.3) for e in honest.effects))

    row = refute(TRUE, wishful).loc["placebo treatment"]
    assert row["passes"] == "no"
    assert row["p"] <= 0.05  # DoWhy's p is of "zero is one of the draws": small is bad


def test_an_estimate_that_few_patients_carry_fails_the_subset(refute):
    def carried(question, seed):
        found = regression(question, seed).effects[0]
        whole = len(question.patients) == 1500  # any patient missing, and it collapses
        return Estimates((replace(found, value=found.value + (0.5 if whole else 0.0)),))

    assert refute(TRUE, carried).loc["data subset", "passes"] == "no"


def test_an_estimator_that_hangs_on_irrelevant_columns_fails_the_random_common_cause(refute):
    def unstable(question, seed):
        found = regression(question, seed).effects[0]
        return Estimates((replace(found, value=found.value + 0.1 * question.held.shape[1]),))

    assert refute(TRUE, unstable).loc["random common cause", "passes"] == "no"


def test_few_patients_refute_nothing_and_confirm_nothing(data, refute):
    # an effect of 0 among few: placebo effects scatter beyond what matters
    nothing = np.random.default_rng(5).integers(0, 2, (1500, 1)).astype(float)
    frame = refute(TRUE, outcomes=nothing, most_patients=60)
    assert "no" not in set(frame["passes"])
    assert frame.loc["negative control outcomes", "passes"] == "undecided"
    assert frame.loc["placebo with its causes", "passes"] == "undecided"


def test_every_row_says_what_was_done_seen_and_meant(right):
    for name, row in right.iterrows():
        assert row["sentence"].startswith(str(name).capitalize() + ", passed: " + row["done"])
        assert row["should_see"] in row["sentence"]
        assert row["seen"] in row["sentence"]


def test_same_seed_same_numbers(refute, right):
    pd.testing.assert_frame_equal(refute(TRUE), right)


def test_questions_that_cannot_be_refuted_are_refused(data, refute):
    table, leads = data
    both = partial(pose, TRUE, table, np.arange(1500), np.hstack([leads, leads]), TO_AP, frozenset({"age"}))
    with pytest.raises(ValueError, match="one outcome at a time"):
        refutations(TRUE, table, both(), "view")
    with pytest.raises(ValueError, match="100 or more"):
        refute(TRUE, draws=20)
