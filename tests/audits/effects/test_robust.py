"""Hodges-Lehmann and the probability of improvement against every Walsh average, scipy's tests, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from causal_cxr.audits.effects import clustered_share, hodges_lehmann, probability_of_improvement
from causal_cxr.audits.effects.robust import signed_rank_border, walsh_average


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def walsh(values: np.ndarray) -> np.ndarray:
    left, right = np.triu_indices(len(values))
    return np.sort((values[left] + values[right]) / 2)


# --- Hodges-Lehmann


@given(st.lists(st.integers(-4, 4) | st.floats(-1, 1).map(lambda x: round(x, 6)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_walsh_averages_are_ranked_right_with_ties_and_without(values) -> None:
    expected = walsh(np.array(values, float))
    ranks = range(0, len(expected), max(1, len(expected) // 7))
    assert [walsh_average(np.array(values, float), rank) for rank in ranks] == pytest.approx(
        [expected[rank] for rank in ranks], abs=1e-12
    )


@pytest.mark.parametrize("digits", [1, 2, 15])
def test_many_patients_are_counted_rather_than_listed(rng, digits) -> None:
    values = np.round(rng.normal(size=1_200), digits)
    expected = walsh(values)
    for rank in (0, 17, len(expected) // 2, len(expected) - 1):
        assert walsh_average(values, rank) == pytest.approx(expected[rank], abs=1e-12)


def test_it_is_the_median_of_walsh_averages_of_patients_means(rng) -> None:
    patients = rng.integers(0, 30, 100)
    difference = rng.normal(0.2, 1.0, 100)
    means = np.array([difference[patients == p].mean() for p in np.unique(patients)])
    found = hodges_lehmann(difference, patients)
    assert found.value == pytest.approx(np.median(walsh(means)))
    assert (found.n, found.patients) == (100, len(means))


@pytest.mark.parametrize("count", [6, 10, 25])
def test_the_interval_holds_what_scipys_signed_rank_test_does_not_reject(rng, count) -> None:
    difference = rng.normal(0.2, 1.0, count)
    found = hodges_lehmann(difference, np.arange(count))

    def p(shift: float) -> float:
        return stats.wilcoxon(difference - shift, method="exact").pvalue

    for inside, outside in ((found.low + 1e-9, found.low - 1e-9), (found.high - 1e-9, found.high + 1e-9)):
        assert p(inside) > 0.05 >= p(outside)


def test_beyond_fifty_patients_the_normal_law_takes_over_without_a_step() -> None:
    exact = signed_rank_border(50, 0.025)
    mean, sd = 50 * 51 / 4, math.sqrt(50 * 51 * 101 / 24)
    assert exact == 434  # of the published table for n = 50, two-sided 5%
    assert abs(math.floor(mean - 1.959964 * sd - 0.5) - exact) <= 1
    assert signed_rank_border(51, 0.025) > exact


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_patients_to_reject_have_no_interval(count) -> None:
    found = hodges_lehmann(np.ones(count), np.arange(count))
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.covers(1.0)


def test_one_wild_patient_moves_the_mean_and_not_the_location(rng) -> None:
    difference = rng.normal(0.3, 0.1, 40)
    before = hodges_lehmann(difference, np.arange(40)).value
    difference[0] = 1e6
    assert hodges_lehmann(difference, np.arange(40)).value == pytest.approx(before, abs=0.02)


def test_intervals_of_tied_scores_hold_the_centre_as_often_as_they_say_or_more(rng) -> None:
    patients = np.repeat(np.arange(40), rng.integers(1, 5, 40))
    held = [
        hodges_lehmann(
            np.round(0.2 + rng.standard_t(3, 40)[patients] * 0.2 + rng.normal(0, 0.2, len(patients)), 1), patients
        ).covers(0.2)
        for _ in range(600)
    ]
    assert 0.93 <= np.mean(held) <= 0.99


# --- probability of improvement


def test_one_image_a_patient_without_ties_is_wilsons_interval_with_the_t_quantile(rng) -> None:
    difference = rng.normal(0.4, 1.0, 60)
    better = (difference > 0).sum()
    found = probability_of_improvement(difference, np.arange(60))
    t = stats.t.ppf(0.975, 59)
    assert (found.low, found.high) == pytest.approx(
        proportion_confint(better, 60, alpha=2 * stats.norm.sf(t), method="wilson")
    )
    centre, half = (
        (better + t**2 / 2) / (60 + t**2),
        t * math.sqrt(better * (60 - better) / 60 + t**2 / 4) / (60 + t**2),
    )
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))


def test_the_value_is_mann_whitneys_measure_of_pairs_with_ties_as_half() -> None:
    found = probability_of_improvement(np.array([1.0, 0.0, -1.0, 2.0]), np.arange(4))
    assert found.value == pytest.approx((2 + 0.5) / 4)
    assert probability_of_improvement(np.array([0.04, -0.04, 1.0, 2.0]), np.arange(4), tie=0.05).value == 0.75


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=6, max_size=30))
@settings(max_examples=50, deadline=None)
@example([1.0] * 9)  # Wilson's upper end comes out at 1 less a rounding
def test_it_stays_a_probability_and_turns_with_the_sign(differences) -> None:
    difference, patients = np.array(differences), np.arange(len(differences)) // 2
    up, down = (probability_of_improvement(sign * difference, patients) for sign in (1, -1))
    assert 0 <= up.low <= up.value <= up.high <= 1
    assert up.value == pytest.approx(1 - down.value)
    assert (up.low, up.high) == pytest.approx((1 - down.high, 1 - down.low))


def test_images_of_a_patient_that_go_together_are_worth_one() -> None:
    once = np.array([1.0, -1.0, 1.0, 1.0, 0.0, 1.0, -1.0, 1.0])
    single = probability_of_improvement(once, np.arange(8))
    fivefold = probability_of_improvement(np.repeat(once, 5), np.repeat(np.arange(8), 5))
    assert (fivefold.low, fivefold.high) == pytest.approx((single.low, single.high))


def test_all_up_still_has_a_lower_end_that_patients_not_images_decide() -> None:
    found = probability_of_improvement(np.ones(400), np.arange(400) // 20)
    assert found.value == found.high == 1.0
    t = stats.t.ppf(0.975, 19)
    assert found.low == pytest.approx(20 / (20 + t**2))


def test_fewer_than_three_patients_say_nothing() -> None:
    found = probability_of_improvement(np.array([1.0, 1.0]), np.arange(2))
    assert (found.value, found.patients) == (1.0, 2)
    assert math.isnan(found.low)


@pytest.mark.parametrize("estimate", [hodges_lehmann, probability_of_improvement])
def test_rejected_edits_are_to_be_left_out(estimate) -> None:
    with pytest.raises(ValueError, match="leave images whose edit was rejected out"):
        estimate(np.array([0.1, np.nan]), np.arange(2))
    with pytest.raises(ValueError, match="patients"):
        estimate(np.zeros(3), np.arange(2))


def test_intervals_cover_with_clusters_and_ties(rng) -> None:
    patients = np.repeat(np.arange(60), rng.integers(1, 6, 60))
    lean = rng.choice([-0.6, 0.0, 1.0], size=(600, 60))  # the mean of P(up) + P(tie) / 2 over patients is known
    cut = 0.5
    truth = np.mean([stats.norm.sf(cut - m) + (stats.norm.cdf(cut - m) - stats.norm.cdf(-cut - m)) / 2
                     for m in (-0.6, 0.0, 1.0)])  # fmt: skip
    held = [
        probability_of_improvement(own[patients] + rng.normal(size=len(patients)), patients, tie=cut).covers(truth)
        for own in lean
    ]
    assert 0.925 <= np.mean(held) <= 0.975


# --- a share of images


def test_a_share_of_patients_with_one_image_each_is_wilsons_with_the_t_quantile(rng) -> None:
    shown = rng.uniform(size=80) < 0.2
    found = clustered_share(shown, np.arange(80))
    alpha = 2 * stats.norm.sf(stats.t.ppf(0.975, 79))
    assert (found.low, found.high) == pytest.approx(proportion_confint(shown.sum(), 80, alpha=alpha, method="wilson"))
    assert found.value == shown.mean()


def test_a_share_is_the_probability_of_improvement_of_ups_and_downs(rng) -> None:
    patients = rng.integers(0, 30, 100)
    up = rng.uniform(size=100) < 0.3
    assert clustered_share(up, patients) == probability_of_improvement(np.where(up, 1.0, -1.0), patients)
