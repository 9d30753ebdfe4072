"""The benchmark of effects: truths that its scenarios claim, and a family small enough to be done in a moment."""

import json
import sys
from types import SimpleNamespace

import effects
import numpy as np
import pytest
from scipy import stats


@pytest.mark.parametrize("name", effects.SCENARIOS)
def test_every_scenario_judges_intervals_by_the_truth_and_the_same_seed_gives_the_same(name) -> None:
    found = effects.coverage(name, seed=0, runs=12)
    assert found == effects.coverage(name, seed=0, runs=12)
    for share in found.values():
        assert share["runs"] == 12
        assert share["rate"] >= 7 / 12  # 2e-5 of intervals that hold 95% of the time do worse


def test_a_wrong_truth_is_not_covered(monkeypatch) -> None:
    monkeypatch.setattr(effects, "LARGE", 1.0)
    assert effects.coverage("prediction_powered_labels", seed=0, runs=6)["labels alone"]["rate"] < 1
    monkeypatch.undo()
    monkeypatch.setattr(effects, "holds", lambda estimate, truth: estimate.value > truth + 9)
    assert all(share["count"] == 0 for share in effects.coverage("improvement_ties", seed=0, runs=5).values())


def test_the_claimed_truths_are_those_of_many_patients() -> None:
    rng = np.random.default_rng(0)
    lean = rng.choice([-0.6, 0.0, 1.0], 400_000)
    moved = lean + rng.normal(size=400_000)
    by_formula = np.mean([(stats.norm.sf(0.5 - m) + stats.norm.sf(-0.5 - m)) / 2 for m in (-0.6, 0.0, 1.0)])
    assert np.mean((moved > 0.5) + 0.5 * (np.abs(moved) <= 0.5)) == pytest.approx(by_formula, abs=0.003)
    assert (0.1 * rng.geometric(1 / 3, 400_000) - 0.1).mean() == pytest.approx(0.2, abs=0.002)


def test_a_small_family_is_timed_against_scipy_and_equals_it_on_the_same_flips(monkeypatch) -> None:
    # What the clocks say is given: those of a test's few milliseconds differ by what they are rounded to.
    monkeypatch.setattr(effects, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(effects, "full_family", lambda cells, *_: (0.04 * cells, 0.05 * cells, 0.3))
    monkeypatch.setattr(effects, "scipy_seconds", lambda cells, *_: 12.0)
    found = effects.speed(cells=60, images=40, draws=300, seed=0, scipy_cells=1)
    assert found["largest_difference_from_scipy"] < 1e-12
    assert found["speedup_vs_scipy"] == pytest.approx(12 / 0.04)
    assert (found["seconds_full_family"], found["processor_seconds_full_family"]) == (2.4, 3.0)
    assert (found["scipy_seconds_a_cell"], found["peak_rss_gb"]) == (12.0, 0.3)


def test_every_clock_runs_and_memory_is_of_the_process_that_tests() -> None:
    seconds, of_processors, gigabytes = effects.full_family(cells=60, images=40, draws=300, seed=0)
    assert seconds > 0
    assert of_processors > 0
    assert 0.01 < gigabytes < 100  # of this process, whatever ran in it before
    assert effects.scipy_seconds(cells=1, images=40, draws=300, seed=0) > 0


def test_one_more_module_may_add_what_it_measures(monkeypatch, tmp_path) -> None:
    (tmp_path / "effects_anytime.py").write_text(
        "def measure(seed):\n    return {'evalue_same_verdicts': 0.5 + seed}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "effects_anytime", raising=False)
    monkeypatch.setattr(effects, "speed", lambda *_: {"seconds_full_family": 1.0})
    monkeypatch.setattr(effects, "SCENARIOS", dict(list(effects.SCENARIOS.items())[1:2]))
    monkeypatch.setattr(effects, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(sys, "argv", ["effects.py", "--json", str(tmp_path / "out.json"), "--runs", "3", "--seed", "2"])
    effects.main()
    monkeypatch.delitem(sys.modules, "effects_anytime")
    summary = json.loads((tmp_path / "out.json").read_text())["summary"]
    assert summary["evalue_same_verdicts"] == 2.5
    assert list(summary["coverage"]) == ["skewed_rare_flips"]


class InThisProcess:
    """A pool that patched modules reach."""

    def __init__(self, *_, **__) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None: ...

    def map(self, *arguments):
        return map(*arguments)

    def submit(self, function, *arguments):
        return SimpleNamespace(result=lambda: function(*arguments))
