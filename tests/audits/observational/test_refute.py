from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from causal_cxr.audits.observational import (
    Estimates,
    UnanswerableError,
    observational_side,
    pose,
    refutations,
    regression,
    unobserved_confounder,
)
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


REFUTERS = ("placebo treatment", "placebo with its causes", "random common cause", "data subset", "negative control outcomes")  # fmt: skip


def test_a_level_that_the_draw_leaves_too_few_patients_is_told_and_refutes_nothing():
    """Of 2,600 patients 11 are AP, enough to ask; of the 2,000 that are drawn 8."""
    rng = np.random.default_rng(6)
    view = np.where(rng.permutation(2600) < 11, "AP", "PA")
    table = DENIED.coerce(
        pd.DataFrame({"age": rng.uniform(20, 90, 2600), "sex": rng.integers(0, 2, 2600), "view": view})
    )
    scores = pd.DataFrame({"leads": rng.uniform(size=2600)})
    side = observational_side(DENIED, table, np.arange(2600), scores, [TO_AP], most_refuted=1)
    assert tuple(side.refutations["refuter"]) == REFUTERS
    assert set(side.refutations["passes"]) == {"undecided"}
    assert side.refutations["sentence"].str.contains("only 8 patients at the rarer level of view; 10 are needed").all()
    question = pose(DENIED, table, np.arange(2600), scores.to_numpy(), TO_AP, frozenset())
    with pytest.raises(UnanswerableError, match="only 2 patients"):
        unobserved_confounder(question, "view", most_patients=500)
    counts = [question.one_image_a_patient(2000, seed).treatment.sum() for seed in range(5)]
    assert counts == [8] * 5  # never fewer by chance


def test_what_is_only_recorded_at_one_level_of_the_treatment_is_no_control_and_no_cause():
    rng = np.random.default_rng(7)
    graph = CausalGraph([VIEW, SEX])
    ap = rng.integers(0, 2, 400)
    sex = np.where(ap == 1, rng.integers(0, 2, 400).astype(float), np.nan)
    table = graph.coerce(pd.DataFrame({"view": np.where(ap, "AP", "PA"), "sex": sex}))
    question = pose(graph, table, np.arange(400), rng.uniform(size=(400, 1)), TO_AP, frozenset())
    rows = refutations(graph, table, question, "view").set_index("refuter")
    for name in ("placebo with its causes", "negative control outcomes"):
        assert rows.loc[name, "passes"] == "undecided"
        assert "too few patients" in rows.loc[name, "sentence"]
    assert "sex" in rows.loc["negative control outcomes", "sentence"]
    assert rows.loc["placebo treatment", "passes"] == "yes"


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
