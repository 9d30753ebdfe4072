"""The benchmark of components without a name: how its figures come about."""

import numpy as np
import pytest
import unnamed


def world(planted, reachable=None, spurious=0):
    return {"planted": planted, "reachable": reachable or dict.fromkeys(planted, 1.0), "spurious": spurious}


def test_a_sign_is_recovered_from_a_correlation_of_070_on():
    found = unnamed.summarise({"portable": world({"leads": 0.70, "drain": 0.69, "marker": 0.99})})
    assert found["recovered"] == {"found": 2, "of": 3, "share": 0.6667}
    assert found["unnamed_recovered"] == 0.6667


def test_signs_that_the_features_do_not_hold_are_counted_apart():
    found = unnamed.summarise({"w": world({"a": 0.9, "b": 0.1}, {"a": 0.95, "b": 0.3})})
    assert (found["unnamed_recovered"], found["readable"]["share"]) == (0.5, 1.0)


def test_the_worst_null_world_counts_and_others_do_not():
    found = unnamed.summarise(
        {"null": world({}, spurious=1), "independent": world({}), "w": world({"a": 1.0}, spurious=4)}
    )
    assert (found["unnamed_spurious_null"], found["spurious_null"], found["unnamed_spurious"]) == (1, [1, 0], 4.0)


def test_readable_is_what_a_probe_with_labels_reads_on_the_other_half():
    rng = np.random.default_rng(0)
    truth = (rng.uniform(size=400) < 0.5).astype(int)
    first = np.arange(400) < 200
    told = rng.standard_normal((400, 5)) + 5 * truth[:, None]
    assert unnamed.readable(told, truth, first) > 0.95
    assert unnamed.readable(rng.standard_normal((400, 5)), truth, first) < 0.3
    assert unnamed.readable(told, np.zeros(400, dtype=int), first) == 0.0


@pytest.mark.slow
def test_one_world_end_to_end(monkeypatch):
    monkeypatch.setattr(unnamed, "UNEDITED", 1200)
    monkeypatch.setattr(unnamed, "DRAWS", 5_000)
    found = unnamed.search_world("portable", images=256, resamples=2)
    assert set(found["planted"]) == {"pacemaker", "chest_drain", "ecg_leads", "laterality_marker", "portable_marker"}
    assert found["planted"]["portable_marker"] >= 0.9
    assert len(found["components"]) >= 2
