"""Scores of an audit against truth: counted by hand on small tables."""

import numpy as np
import pandas as pd
import pytest
from scoring import Scored, summarise

CLAIMS = ("claim_ours", "claim_metadata", "claim_association", "claim_plain_edits", "claim_adjusted")


def cells(rows):
    """One dict a pair: verdict, relation, positive, and what else a case is about."""
    usual = {
        "attribute": "view", "concept": "u", "reason": "", "right": "none", "is_right": True, "semantics": "structural",
        "labelled_outcome": False, "recorded_wrongly": False, "true_total": 0.0, "true_adjusted": 0.0, "true_marginal": 0.0,
        "true_delta": 0.1, "editor_se": 0.1, "editor_low": -0.2, "editor_high": 0.2, "adjusted_se": 0.1,
        "adjusted_low": -0.2, "adjusted_high": 0.2,
    }  # fmt: skip
    frame = pd.DataFrame([{**usual, **row} for row in rows])
    frame["positive"] = frame["positive"].astype("boolean")
    claims = dict.fromkeys(CLAIMS, frame["verdict"] == "hidden")
    return frame.assign(**{**claims, "claim_metadata": False})


def run(rows, world="w", null=False, seed=0):
    return Scored(world, seed, cells(rows), null, seconds=2.0, images=100)


FOUND = {"verdict": "hidden", "relation": "causes", "positive": True, "right": "hidden"}
LOST = {"verdict": "undecided", "relation": "causes", "positive": True, "right": "hidden", "is_right": False}
DENIED = {"verdict": "none", "relation": "causes", "positive": True, "right": "hidden", "is_right": False}
FALSE = {"verdict": "hidden", "relation": "none", "positive": False, "is_right": False}
QUIET = {"verdict": "none", "relation": "none", "positive": False}
GREY = {"verdict": "hidden", "relation": "causes", "positive": pd.NA, "right": "grey"}


def test_precision_recall_and_f1_are_of_the_decided_and_undecided_pairs_are_counted_beside():
    summary = summarise([run([FOUND, FOUND, FALSE, DENIED, LOST, QUIET, GREY])])
    assert (summary["precision"], summary["recall"]) == (pytest.approx(2 / 3, abs=1e-4), pytest.approx(2 / 3, abs=1e-4))
    assert summary["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1), abs=1e-4)
    assert summary["fdr"] == pytest.approx(1 / 3, abs=1e-4)
    assert summary["recall_of_all"] == pytest.approx(2 / 4)
    assert summary["undecided"] == pytest.approx(1 / 7, abs=1e-4)
    assert summary["shd"] == 3


def test_a_grey_pair_is_never_scored_but_stands_in_the_power_curve():
    summary = summarise(
        [run([FOUND | {"true_total": 0.35, "true_adjusted": 0.33}, GREY | {"true_total": 0.12, "true_adjusted": 0.12}])]
    )
    assert summary["scored"] == 1
    assert [(row["from"], row["pairs"], row["called_hidden"]) for row in summary["power"]] == [
        (1.0, 1, 1.0),
        (3.0, 1, 1.0),
    ]


def test_worlds_of_the_power_curve_do_not_count_for_f1():
    summary = summarise([run([FOUND]), run([DENIED | {"true_total": 0.3, "true_adjusted": 0.3}], world="weak")])
    assert summary["f1"] == 1.0
    assert sum(row["pairs"] for row in summary["power"]) == 2


def test_null_runs_are_those_with_nothing_to_find_and_any_claim_in_them_is_counted_once_a_run():
    runs = [run([QUIET], null=True), run([FALSE, FALSE], null=True, seed=1), run([FOUND, FALSE])]
    summary = summarise(runs)
    assert (summary["null_runs"], summary["null_runs_with_false_hidden"]) == (2, 1)
    assert summary["baselines"]["association"]["null_runs_with_false_hidden"] == 1


def test_coverage_counts_intervals_that_hold_the_truth_and_leaves_out_those_of_no_width():
    inside, outside = QUIET, QUIET | {"true_total": 0.5, "true_adjusted": 0.5}
    exact = QUIET | {"editor_se": 0.0, "adjusted_se": 0.0, "true_total": 0.9}
    summary = summarise([run([FOUND, inside, inside, outside, exact])])
    assert (summary["coverage_editor"], summary["intervals_editor"]) == (0.75, 4)


def test_metadata_alone_finds_nothing():
    baseline = summarise([run([FOUND, QUIET])])["baselines"]["metadata"]
    assert (baseline["recall"], baseline["precision"]) == (0.0, None)


def test_arrowheads_are_claimed_only_by_structural_editors():
    wrong = FALSE | {"relation": "caused by"}
    assert summarise([run([FOUND, wrong])])["arrowheads"] == {"claimed": 2, "right": 1, "precision": 0.5}
    observational = [row | {"semantics": "observational"} for row in (FOUND, wrong)]
    assert summarise([run(observational)])["arrowheads"] == {"claimed": 0, "right": 0, "precision": None}


def test_a_planted_fault_is_right_as_artifact_or_where_it_goes_with_the_attribute_as_confounded():
    faulty = [
        {"verdict": "artifact", "relation": "none", "positive": False, "concept": "a"},
        {"verdict": "hidden", "relation": "none", "positive": False, "concept": "b"},
        {"verdict": "confounded", "relation": "none", "positive": False, "concept": "c"},
        {"verdict": "confounded", "relation": "none", "positive": False, "concept": "d", "true_marginal": 0.15},
        {"verdict": "undecided", "relation": "none", "positive": False, "concept": "e"},
        FOUND | {"concept": "f"},
    ]
    planted = {("w", "view", name) for name in "abcde"}
    summary = summarise([run(faulty)], faults=planted)
    assert (summary["faults"], summary["faults_decided"], summary["faults_called_hidden"]) == (5, 4, 1)
    assert summary["artifact_recall"] == pytest.approx(2 / 4)


def test_seconds_and_images_add_up():
    summary = summarise([run([FOUND]), run([QUIET], seed=1)])
    assert (summary["seconds"], summary["images_per_second"]) == (4.0, 50.0)
    assert np.isclose(summary["verdict_right"], 1.0)


def test_it_is_said_where_the_editor_adds_nothing_over_the_adjusted_association():
    better, same = run([FOUND, QUIET], world="better"), run([FOUND, QUIET], world="same")
    better.cells["claim_adjusted"] = True
    assert summarise([better, same])["adds_nothing_over_adjusted"] == ["same"]
