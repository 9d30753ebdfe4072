"""The benchmark from end to end, on few images: what it promises in its JSON, on worlds that it has never seen."""

import json
import sys

import discovery
import pytest

from causal_cxr.data.phantom.truth import truth_of
from causal_cxr.data.phantom.world import World

KEYS = {
    "f1", "precision", "recall", "fdr", "null_runs", "null_runs_with_false_hidden", "coverage_editor", "coverage_adjusted",
    "seconds", "images_per_second", "baselines", "undecided", "shd", "power", "arrowheads", "verdicts_by_true_relation",
}  # fmt: skip
MINE = """
name: mine
graph:
  attributes:
    - {name: age, type: continuous, unit: years, low: 20, high: 90}
    - {name: effusion, type: binary}
    - {name: view, type: binary, levels: [PA, AP]}
    - {name: gown, type: binary, hidden: true}
    - {name: control_dot, type: binary, hidden: true}
mechanisms:
  age: {uniform: }
  effusion: {logistic: {bias: -0.2, weights: {age: 0.6}}}
  view: {logistic: {weights: {effusion: 1.5}}}
  gown: {logistic: {bias: -1.5, weights: {view: 3.0}}}
  control_dot: {probability: 0.5}
shows: {gown: {draws: arms}}
"""


def run(monkeypatch, tmp_path, *arguments):
    file = tmp_path / "out.json"
    small = ("--images", "160", "--unedited", "1500", "--draws", "20000", "--no-pixels", "--json", str(file))
    monkeypatch.setattr(sys, "argv", ["discovery.py", *arguments, *small])
    discovery.main()
    return json.loads(file.read_text())["summary"]


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    return file


def test_the_truth_as_editor_finds_what_a_users_world_hides_and_says_all_that_was_promised(mine, monkeypatch, tmp_path):
    summary = run(monkeypatch, tmp_path, "--editor", "oracle", "--world", str(mine))["oracle"]
    assert set(summary) >= KEYS
    assert (summary["f1"], summary["fdr"], summary["true_positives"]) == (1.0, 0.0, 1)
    assert set(summary["baselines"]) == {"metadata", "association", "plain_edits", "adjusted"}
    assert all({"f1", "precision", "recall", "fdr"} <= set(b) for b in summary["baselines"].values())
    assert summary["baselines"]["metadata"]["recall"] == 0


def test_planted_faults_are_found_out(mine, monkeypatch, tmp_path):
    summary = run(monkeypatch, tmp_path, "--editor", "leaky", "--world", str(mine))["leaky"]
    assert summary["faults"] >= 1
    assert (summary["faults_called_hidden"], summary["artifact_recall"]) == (0, 1.0)


def test_an_editor_that_does_nothing_is_never_the_ground_of_a_claim(mine, monkeypatch, tmp_path):
    summary = run(monkeypatch, tmp_path, "--editor", "noop", "--world", str(mine))["noop"]
    assert summary["true_positives"] == summary["false_positives"] == 0


def test_faults_are_planted_only_where_nothing_is_true():
    world = World.load("portable")
    truth = truth_of(world, signs=(*world.hidden_signs, *world.labelled_signs), draws=20_000)
    faults = discovery.plant(world, truth)
    assert {(f.cause, f.sign.name) for f in faults} >= {("age", "sex = female")}
    assert len({f.sign.name for f in faults}) == len(faults)
    for fault in faults:
        row = truth[(truth["attribute"] == fault.cause) & (truth["concept"] == fault.sign.name)].iloc[0]
        assert row["relation"] == "none"
        assert 0.2 <= row["prevalence"] <= 0.8


def test_worlds_are_named_numbered_or_files(mine, monkeypatch):
    def chosen(**given):
        options = discovery.argparse.Namespace(**{"world": [], "worlds": [], "first_world": 7, **given})
        return list(discovery.chosen_worlds(options))

    assert chosen(worlds=["portable", "2"], world=[mine]) == ["mine", "portable", "random-7", "random-8"]
    assert chosen(world=[mine, mine]) == ["mine", "mine #2"]  # two worlds never run together under one name
    named = chosen(worlds=["named"])
    assert "null" in named
    assert not {"weak", "independent"} & set(named)
    with pytest.raises(SystemExit, match="Name worlds"):
        chosen()
    mine.write_text(MINE.replace("{draws: arms}}", "null, control_dot: null}"))
    with pytest.raises(SystemExit, match="Nothing that the world 'mine' hides shows"):
        chosen(world=[mine])
