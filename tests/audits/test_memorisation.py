"""The copy test: planted copies are found, independent images are not flagged more often than they may be."""

import numpy as np
import pytest
from scipy import stats

from causal_cxr.audits.memorisation import copy_test

D = 12


def patients(rng, count, images=2, within=0.3):
    """``images`` of each of ``count`` patients, and whose they are: a patient's images resemble each other."""
    who = np.repeat(np.arange(count), images)
    return rng.normal(size=(count, D))[who] + within * rng.normal(size=(len(who), D)), who


def run(made, rng, *, fitted=60, held_out=30, groups=None, permutations=199):
    features, who = patients(rng, fitted + held_out)
    side = who < fitted
    return copy_test(
        made(features[side]), features[side], features[~side], fitted_patients=who[side], held_out_patients=who[~side],
        groups=groups, permutations=permutations, resamples=199,
    )  # fmt: skip


def test_independent_images_are_flagged_no_more_often_than_the_level_though_the_fitted_are_more():
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found.append(run(lambda fitted, rng=rng: rng.normal(size=(40, D)), rng, permutations=99))
    assert np.mean([test.p_value <= 0.1 for test in found]) <= 0.2  # 0.1 expected of 60
    assert np.mean([test.low <= 1 <= test.high for test in found]) >= 0.88
    assert np.exp(np.mean(np.log([test.ratio for test in found]))) == pytest.approx(1, abs=0.02)
    assert np.mean([test.copies for test in found]) < 0.06


def test_images_drawn_towards_fitted_patients_are_found():
    rng = np.random.default_rng(0)
    test = run(lambda fitted: 0.5 * rng.normal(size=(len(fitted), D)) + 0.7 * fitted, rng)
    assert test.p_value <= 0.01
    assert test.high < 1


def test_planted_copies_are_named_with_what_they_are_copies_of():
    rng = np.random.default_rng(1)

    def made(fitted):
        images = rng.normal(size=(50, D))
        images[:5] = fitted[[7, 20, 33, 46, 59]] + 0.01 * rng.normal(size=(5, D))
        return images

    test = run(made, rng)
    assert test.is_copy[:5].all()
    assert test.nearest[:5].tolist() == [7, 20, 33, 46, 59]
    assert test.copies == pytest.approx(0.1, abs=0.05)
    assert test.copies_low <= test.copies <= test.copies_high
    assert test.expected <= 0.02


def test_an_exact_copy_has_a_finite_ratio():
    rng = np.random.default_rng(2)
    test = run(lambda fitted: fitted.copy(), rng)
    assert test.is_copy.all()
    assert test.copies == 1
    assert 0 < test.ratio < 0.1


def test_many_edits_of_one_patient_count_as_one_patient():
    rng = np.random.default_rng(3)
    few = rng.normal(size=(6, D))
    made = np.repeat(few, 20, axis=0) + 0.05 * rng.normal(size=(120, D))
    alone = run(lambda fitted: made, np.random.default_rng(4))
    grouped = run(lambda fitted: made, np.random.default_rng(4), groups=np.repeat(np.arange(6), 20))
    assert grouped.p_value == alone.p_value
    assert grouped.high / grouped.low > alone.high / alone.low


def test_that_no_copy_was_seen_proves_no_rate_of_zero():
    def made(seed):
        return lambda fitted: fitted[:60].mean(0) + 8 * np.random.default_rng(seed).normal(size=(60, D))  # far from all

    alone = run(made(6), np.random.default_rng(6))
    grouped = run(made(6), np.random.default_rng(6), groups=np.arange(60) // 3)
    for test, groups in ((alone, 60), (grouped, 20)):
        squared = stats.t.ppf(0.975, groups - 1) ** 2
        assert (test.copies, test.copies_low) == (0, 0)
        assert test.copies_high == pytest.approx(squared / (groups + squared))  # Wilson's of none


def test_the_same_seed_gives_the_same_answer():
    answers = [run(lambda fitted: np.ones((4, D)), np.random.default_rng(5)).to_dict() for _ in range(2)]
    assert answers[0] == answers[1]


def test_a_patient_on_both_sides_is_refused():
    features = np.zeros((4, D))
    with pytest.raises(ValueError, match=r"\['b'\] are on both sides"):
        copy_test(
            features,
            features,
            features,
            fitted_patients=np.array(list("aabb")),
            held_out_patients=np.array(list("bccd")),
        )
    with pytest.raises(ValueError, match="two patients or more"):
        copy_test(
            features,
            features,
            features,
            fitted_patients=np.array(list("aaaa")),
            held_out_patients=np.array(list("bccd")),
        )
