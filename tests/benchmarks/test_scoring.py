"""Scores of an audit against truth: counted by hand on small tables."""

import json

import numpy as np
import pandas as pd
import pytest
from scoring import Scored, summarise

CLAIMS = ("claim_ours", "claim_metadata", "claim_association", "claim_plain_edits", "claim_adjusted")


def cells(rows):
    """One dict a pair: verdict, relation, positive, and what else a case is about."""
    usual = {
        "attribute": "view", "concept": "u", "reason": "", "refusal": "", "right": "none", "is_right": True, "semantics": "structural",
        "labelled_outcome": False, "recorded_wrongly": False, "true_total": 0.0, "true_adjusted": 0.0, "true_marginal": 0.0,
        "true_delta": 0.1, "editor_se": 0.1, "editor_low": -0.2, "editor_high": 0.2, "adjusted_se": 0.1,
        "adjusted_low": -0.2, "adjusted_high": 0.2, "editor_effect": 0.01,
    }  # fmt: skip
    frame = pd.DataFrame([{**usual, "of": f"u{i}", **row} for i, row in enumerate(rows)])
    frame["positive"] = frame["positive"].astype("boolean")
    claims = dict.fromkeys(CLAIMS, frame["verdict"] == "hidden")
    return frame.assign(**{**claims, "claim_metadata": False})


def run(rows, world="w", null=False, seed=0, curve_only=False):
    return Scored(world, seed, cells(rows), null, seconds=2.0, images=100, curve_only=curve_only)


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
    summary = summarise([run([FOUND]), run([DENIED | {"true_total": 0.3, "true_adjusted": 0.3}], curve_only=True)])
    assert summary["f1"] == 1.0
    assert sum(row["pairs"] for row in summary["power"]) == 2


def test_null_runs_are_those_with_nothing_to_find_and_any_claim_in_them_is_counted_once_a_run():
    runs = [run([QUIET], null=True), run([FALSE, FALSE], null=True, seed=1), run([FOUND, FALSE])]
    summary = summarise(runs)
    assert (summary["null_runs"], summary["null_runs_with_false_hidden"]) == (2, 1)
    assert summary["baselines"]["association"]["null_runs_with_false_hidden"] == 1


def test_coverage_counts_intervals_that_hold_the_truth_and_leaves_out_edits_that_changed_nothing():
    inside, outside = QUIET, QUIET | {"true_total": 0.5, "true_adjusted": 0.5}
    exact = QUIET | {"editor_effect": 0.0, "true_total": 0.9}
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


def test_it_is_said_where_the_editor_adds_nothing_and_where_it_only_tells_mediated_from_hidden():
    mediated = QUIET | {"relation": "mediated"}
    better, same, tells = (
        run([FOUND, QUIET], world="better"),
        run([FOUND, QUIET], world="same"),
        run([FOUND, mediated], world="tells"),
    )
    better.cells["claim_adjusted"] = tells.cells["claim_adjusted"] = True
    summary = summarise([better, same, tells])
    assert summary["adds_nothing_over_adjusted"] == ["same"]
    assert summary["adds_only_mediation"] == ["tells"]
    assert summary["baselines"]["adjusted"]["f1_without_mediated"] == pytest.approx(6 / 7, abs=1e-4)


def test_the_levels_of_an_attribute_are_one_pair_claimed_where_one_is_and_undecided_where_none_is():
    level = {"of": "marker"}
    summary = summarise([run([FOUND | level, LOST | level, GREY | level, QUIET])])
    assert (summary["true_positives"], summary["scored"], summary["shd"]) == (1, 2, 0)
    assert summarise([run([LOST | level, QUIET | level, QUIET])])["undecided_pairs"] == pytest.approx(1 / 2)
    one_grey = summarise([run([QUIET | level, GREY | level | {"verdict": "none"}])])
    assert one_grey["scored"] == 0


def test_a_power_curve_alone_has_no_f1():
    summary = summarise([run([FOUND | {"true_total": 0.3, "true_adjusted": 0.3}], curve_only=True)])
    assert (summary["f1"], summary["scored"], len(summary["power"])) == (None, 0, 1)


def test_claims_without_anything_to_find_have_an_f1_of_zero_and_silence_has_none():
    assert summarise([run([FALSE, QUIET])])["f1"] == 0.0
    assert summarise([run([QUIET])])["f1"] is None


def test_a_result_without_any_decision_is_still_plain_json():
    summary = summarise([run([LOST | {"positive": pd.NA}])], faults=set())
    json.dumps(summary, allow_nan=False)
    assert (summary["undecided"], summary["artifact_recall"], summary["faults"]) == (1.0, None, 0)
