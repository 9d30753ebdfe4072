"""Betting on bounded means: exact expectations by enumeration, error under optional stopping by simulation."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from causal_cxr.audits.effects import ClusteredSums, confidence_sequence, log_e_above, log_e_no, log_e_yes
from causal_cxr.audits.effects.betting import FRACTIONS, WEIGHTS

values = st.lists(st.floats(-1, 1), min_size=1, max_size=30)
borders = st.floats(-0.9, 0.9)


def one_each(values, columns: int = 1) -> ClusteredSums:
    """One value a patient, the same in all columns."""
    array = np.repeat(np.asarray(values, dtype=float)[:, None], columns, axis=1)
    return ClusteredSums(array, np.ones(len(array)), 1)


def test_the_first_coin_is_divided_whole():
    assert WEIGHTS.sum() == pytest.approx(1)
    assert ((FRACTIONS > 0) & (FRACTIONS <= 1)).all()


@given(values, borders)
def test_the_wealth_is_that_of_a_gambler_who_bets_coin_by_coin(xs, border):
    wealth = 0.0
    for fraction, coin in zip(FRACTIONS, WEIGHTS, strict=True):
        for x in xs:
            coin *= max(1 + fraction * (x - border) / (1 + border), 0.0)
        wealth += coin
    assert np.exp(log_e_above(one_each(xs), np.array([border]))[0]) == pytest.approx(wealth, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("border", [-0.6, 0.0, 0.1, 0.5])
def test_at_the_border_no_bet_pays_on_average_and_below_it_bets_lose(border):
    """All outcomes of seven patients who show -1 or 1."""
    outcomes = np.array(list(product([-1.0, 1.0], repeat=7))).T  # (patients, outcomes): a column an outcome
    e = np.exp(log_e_above(ClusteredSums(outcomes, np.ones(7), 1), np.full(outcomes.shape[1], border)))
    for mean, expected in ((border, 1.0), (border - 0.2, None)):
        ups = (outcomes > 0).sum(axis=0)
        chance = ((1 + mean) / 2) ** ups * ((1 - mean) / 2) ** (7 - ups)
        found = float(chance @ e)
        assert found == pytest.approx(1.0) if expected else found < 1


def test_patients_whose_effect_goes_with_their_number_of_images_are_weighed_by_images():
    """Half have one image and always 1; half have three, each patient's all 1 or all -1: image-weighted mean 0 at a fifth of 1."""
    up = 1 / 3  # E[S] = 1/2 * 1 + 1/2 * 3 * (2 up - 1) = 0
    kinds = {(1.0, 1): 0.5, (3.0, 3): 0.5 * up, (-3.0, 3): 0.5 * (1 - up)}
    expected = 0.0
    for patients in product(kinds, repeat=5):
        sums, sizes = (np.array(part, dtype=float) for part in zip(*patients, strict=True))
        e = np.exp(log_e_above(ClusteredSums(sums[:, None], sizes, 3), np.array([0.0]))[0])
        expected += np.prod([kinds[p] for p in patients]) * e
    assert expected == pytest.approx(1.0)


@given(values, borders, st.randoms())
@settings(max_examples=30)
def test_the_order_of_patients_does_not_matter(xs, border, random):
    shuffled = list(xs)
    random.shuffle(shuffled)
    before, after = (log_e_above(one_each(v), np.array([border]))[0] for v in (xs, shuffled))
    assert before == pytest.approx(after, rel=1e-9)


@given(values, borders, borders)
@settings(max_examples=50)
def test_a_higher_border_is_harder_to_refute(xs, one, other):
    easy, hard = sorted((one, other))
    found = log_e_above(one_each(xs, 2), np.array([easy, hard]))
    assert found[0] >= found[1] - 1e-9


def simulated_paths(mean: float, patients: int, paths: int, seed: int) -> ClusteredSums:
    """Patients of one to three images, -1, 0 or 1, alike within a patient; a column a path."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, size=patients)
    moved = rng.uniform(size=(patients, paths)) < 0.4
    up = rng.uniform(size=(patients, paths)) < (1 + mean / 0.4) / 2
    return ClusteredSums(np.where(moved, np.where(up, 1.0, -1.0), 0.0) * sizes[:, None], sizes.astype(float), 3)


def first(seen: ClusteredSums, patients: int) -> ClusteredSums:
    return ClusteredSums(seen.sums[:patients], seen.sizes[:patients], seen.largest)


LOOKS = range(10, 301, 10)


@pytest.mark.parametrize(
    ("claim", "log_e"),
    [("yes", lambda seen, border: log_e_yes(seen, border)[0]), ("no", log_e_no)],
)
def test_whoever_stops_at_the_best_moment_errs_no_more_often_than_told(claim, log_e):
    seen, alpha = simulated_paths(0.1, 300, 2_000, seed=1), 0.05
    border = np.full(2_000, 0.1)
    best = np.max([log_e(first(seen, n), border) for n in LOOKS], axis=0)
    errors = (best >= np.log(1 / alpha)).mean()
    assert errors <= alpha + 2 * np.sqrt(alpha * (1 - alpha) / 2_000)
    # the same looks at a t test that supposes a fixed number of patients
    t = [stats.ttest_1samp(seen.sums[:n] - 0.1 * seen.sizes[:n, None], 0, alternative="greater").pvalue for n in LOOKS]
    assert (np.min(t, axis=0) <= alpha).mean() > 2 * alpha


def test_confidence_sequences_cover_at_all_times_at_once():
    mean, paths = 0.2, 200
    seen = simulated_paths(mean, 300, paths, seed=2)
    missed = np.zeros(paths, dtype=bool)
    widths = []
    for n in LOOKS[::2]:
        low, high = confidence_sequence(first(seen, n), 0.9)
        missed |= (low > mean) | (high < mean)
        widths.append((high - low).mean())
    assert missed.mean() <= 0.1
    assert widths[-1] < widths[0] / 2
    # an interval for a fixed number of patients does not survive being looked at
    half = [stats.sem(seen.sums[:n]) * stats.norm.isf(0.05) for n in LOOKS]
    off = [np.abs(seen.sums[:n].mean(axis=0) - mean * seen.sizes[:n].mean()) for n in LOOKS]
    assert (np.array(off) > np.array(half)).any(axis=0).mean() > 0.2


def test_a_confidence_bound_is_where_the_bet_against_it_pays_enough():
    seen = ClusteredSums.of(np.random.default_rng(0).uniform(-0.2, 0.6, size=(200, 3)), np.repeat(np.arange(100), 2), 2)
    low, high = confidence_sequence(seen, 0.95)
    assert log_e_above(seen, low) == pytest.approx(np.log(2 / 0.05), abs=1e-6)
    assert log_e_above(seen.turned(), -high) == pytest.approx(np.log(2 / 0.05), abs=1e-6)
    wider = confidence_sequence(seen, 0.99)
    assert (wider[0] < low).all()
    assert (wider[1] > high).all()


def test_before_the_first_patient_nothing_is_claimed():
    nobody = ClusteredSums(np.zeros((0, 2)), np.zeros(0), 1)
    assert np.exp(log_e_above(nobody, np.zeros(2))) == pytest.approx([1, 1])
    assert np.column_stack(confidence_sequence(nobody)) == pytest.approx(np.tile([-1, 1], (2, 1)), abs=1e-9)


def test_an_effect_is_claimed_with_its_sign_and_absence_where_nothing_changes():
    rng = np.random.default_rng(3)
    gained = (rng.uniform(size=(200, 1)) < 0.4).astype(float)
    for sign in (1, -1):
        log_yes, side = log_e_yes(ClusteredSums(sign * gained, np.ones(200), 1), np.array([0.1]))
        assert log_yes[0] > np.log(1000)
        assert side[0] == sign
    assert log_e_no(one_each(np.zeros(60)), np.array([0.1]))[0] > np.log(20)
    assert log_e_no(ClusteredSums(gained, np.ones(200), 1), np.array([0.1]))[0] < 0


def test_a_border_beyond_what_values_can_reach():
    ones = one_each(np.ones(50))
    assert log_e_above(ones, np.array([1.0]))[0] == -np.inf  # "at most 1" is true
    assert np.isfinite(log_e_above(ones, np.array([-1.0]))[0])


def test_values_beyond_the_range_and_larger_patients_are_refused():
    with pytest.raises(ValueError, match=r"1\.5.*outside \[-1, 1\]"):
        ClusteredSums.of(np.array([[1.5]]), np.array(["a"]), 1)
    with pytest.raises(ValueError, match="has 2 images, but largest=1"):
        ClusteredSums.of(np.array([[0.5], [0.5]]), np.array(["a", "a"]), 1)


@pytest.mark.parametrize("largest", [1, 4])
def test_evidence_above_a_border_falls_with_it_and_is_convex(largest):
    """What hedging rests on: the least over borders that are not known is then found by sections."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, largest + 1, 40).astype(float)
    seen = ClusteredSums(rng.uniform(-1, 1, (40, 5)) * sizes[:, None], sizes, largest)
    borders = np.linspace(-0.95, 0.95, 96)
    found = np.stack([log_e_above(seen, np.full(5, border)) for border in borders])
    assert (np.diff(found, axis=0) <= 0).all()
    assert (np.diff(found, n=2, axis=0) >= -1e-9).all()
