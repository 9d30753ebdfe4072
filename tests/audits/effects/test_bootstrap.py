"""Patient bootstrap against scipy on the same resamples, closed forms, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from causal_cxr.audits.effects import bootstrap_interval, mean_difference, mean_ratio, paired_effect
from causal_cxr.audits.effects.bootstrap import _jackknife_error
from causal_cxr.statistics.clustered import cluster_sums


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def mean_columns(difference: np.ndarray) -> np.ndarray:
    return np.column_stack([difference, np.ones(len(difference))])


def slope_columns(score: np.ndarray, present: np.ndarray) -> np.ndarray:
    return np.column_stack([score * present, present, score * (1 - present), 1 - present])


def test_bca_of_one_image_a_patient_is_scipys_of_the_mean_on_the_same_resamples(rng) -> None:
    difference = rng.exponential(1.0, 40)
    found = bootstrap_interval(mean_columns(difference), np.arange(40), seed=7)
    reference = stats.bootstrap(
        (difference,), np.mean, method="BCa", n_resamples=9_999, random_state=np.random.default_rng(7)
    )
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval), abs=1e-12)
    assert found.value == pytest.approx(difference.mean())


def test_bca_of_clusters_is_scipys_of_the_ratio_of_patients_sums(rng) -> None:
    patients = np.repeat(np.arange(25), rng.integers(1, 7, 25))
    difference = rng.exponential(1.0, 25)[patients] + rng.normal(size=len(patients))
    sums, sizes = np.bincount(patients, weights=difference), np.bincount(patients)
    reference = stats.bootstrap(
        (sums, sizes), lambda s, n, axis=-1: s.sum(axis=axis) / n.sum(axis=axis), paired=True, method="BCa",
        n_resamples=2_000, random_state=np.random.default_rng(3),
    )  # fmt: skip
    found = bootstrap_interval(mean_columns(difference), patients, draws=2_000, seed=3)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval))


def test_the_jackknife_error_of_a_mean_is_the_textbooks(rng) -> None:
    difference = rng.normal(size=30)
    error = _jackknife_error(mean_columns(difference), mean_ratio, np.ones((1, 30)))[0]
    assert error == pytest.approx(difference.std(ddof=1) / math.sqrt(30))


def test_the_jackknife_error_of_a_resample_is_that_of_its_rows_written_out(rng) -> None:
    sums = np.column_stack([rng.normal(size=12), rng.integers(1, 5, 12)])
    drawn = rng.integers(0, 12, 12)
    rows = sums[drawn]
    left = np.array([mean_ratio(np.delete(rows, i, axis=0).sum(axis=0)) for i in range(12)])
    written_out = math.sqrt(11 / 12 * ((left - left.mean()) ** 2).sum())
    counts = np.bincount(drawn, minlength=12)[None].astype(float)
    assert _jackknife_error(sums, mean_ratio, counts)[0] == pytest.approx(written_out)


def test_studentised_is_near_the_t_interval_for_normal_patients(rng) -> None:
    difference = rng.normal(0.3, 1.0, 200)
    found = bootstrap_interval(mean_columns(difference), np.arange(200), method="studentised", draws=20_000)
    assert (found.low, found.high) == pytest.approx(paired_effect(difference, np.arange(200)).interval(), abs=0.01)


@pytest.mark.parametrize("method", ["bca", "studentised"])
def test_a_skewed_mean_reaches_further_on_the_long_side(rng, method) -> None:
    difference = rng.exponential(1.0, 40)
    found = bootstrap_interval(mean_columns(difference), np.arange(40), method=method)
    assert found.high - found.value > 1.1 * (found.value - found.low)


@pytest.mark.parametrize("method", ["bca", "studentised"])
def test_the_readers_slope_is_the_difference_of_two_means(rng, method) -> None:
    patients = np.repeat(np.arange(120), 3)
    present = (rng.uniform(size=360) < 0.4).astype(float)
    score = 0.6 * present + rng.normal(0, 0.1, 120)[patients] + rng.normal(0, 0.1, 360)
    found = bootstrap_interval(slope_columns(score, present), patients, mean_difference, method=method, draws=3_000)
    assert found.value == pytest.approx(score[present == 1].mean() - score[present == 0].mean())
    assert found.low < 0.6 < found.high
    sums = cluster_sums(slope_columns(score, present), patients, 120)
    error = _jackknife_error(sums, mean_difference, np.ones((1, 120)))[0]
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


@pytest.mark.parametrize("method", ["bca", "studentised"])
def test_the_same_seed_gives_the_same_interval_and_another_another(rng, method) -> None:
    columns = mean_columns(rng.exponential(size=20))
    ends = [bootstrap_interval(columns, np.arange(20), method=method, draws=500, seed=s).low for s in (1, 1, 2)]
    assert ends[0] == ends[1] != ends[2]


@pytest.mark.parametrize("method", ["bca", "studentised"])
@pytest.mark.parametrize("difference", [np.zeros(10), np.ones(2), np.full(8, 0.1)])
def test_where_nothing_varies_or_hardly_anyone_is_there_nothing_is_said(method, difference) -> None:
    found = bootstrap_interval(mean_columns(difference), np.arange(len(difference)), method=method)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_one_flip_in_all_gives_the_studentised_interval_no_upper_end() -> None:
    """A third of the resamples do not hold the one patient that flipped: they say nothing of how far the mean may be."""
    difference = np.zeros(30)
    difference[0] = 1.0
    found = bootstrap_interval(mean_columns(difference), np.arange(30), method="studentised", draws=500)
    assert found.high == math.inf


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(ValueError, match="rejected"):
        bootstrap_interval(np.full((4, 2), np.nan), np.arange(4))
    with pytest.raises(ValueError, match="patients"):
        bootstrap_interval(np.ones((4, 2)), np.arange(3))
    with pytest.raises(ValueError, match="percentile"):
        bootstrap_interval(np.ones((4, 2)), np.arange(4), method="percentile")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["bca", "studentised"])
def test_intervals_of_a_skewed_clustered_mean_cover(rng, method) -> None:
    patients = np.repeat(np.arange(60), rng.integers(1, 4, 60))
    held = [
        bootstrap_interval(
            mean_columns(rng.exponential(1.0, 60)[patients] + rng.normal(0, 0.3, len(patients))), patients,
            method=method, draws=599, seed=run,
        ).covers(1.0)
        for run in range(300)
    ]  # fmt: skip
    assert 0.90 <= np.mean(held) <= 0.985
