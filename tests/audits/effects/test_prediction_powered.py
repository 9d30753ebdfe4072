"""PPI++ against the formulas of its authors, the classical estimate, and simulated truth."""

import math

import numpy as np
import pytest

from causal_cxr.audits.effects import (
    g_computation,
    paired_effect,
    prediction_powered_difference,
    prediction_powered_effect,
)

THETA = 0.3


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def read(rng: np.random.Generator, n: int, slope: float = 0.7, labelled: float = 0.25, images: int = 1):
    """labels (NaN where none), scores, treatment, patients; P(U = 1) is 0.3 and, treated, THETA more."""
    patient = np.repeat(np.arange(n), images)
    a = (rng.uniform(size=n) < 0.5).astype(float)[patient]
    own = rng.uniform(-0.25, 0.25, n)[patient]
    u = (rng.uniform(size=len(patient)) < 0.3 + THETA * a + own).astype(float)
    score = 0.1 + slope * u + 0.1 * a + rng.normal(0, 0.1, len(patient))  # it follows A: alone it would mislead
    return np.where((rng.uniform(size=n) < labelled)[patient], u, np.nan), score, a, patient


def mean(labels, scores, patients, **options):
    one = np.ones((len(labels), 1))
    return prediction_powered_effect(labels, scores, patients, one, 0 * one[:1], one[:1], **options)


# --- closed forms


@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0])
def test_the_mean_is_the_authors_formula(rng, weight) -> None:
    labels, scores, _, patients = read(rng, 300)
    known = ~np.isnan(labels)
    found = mean(labels, scores, patients, weight=weight).effect
    y, f, rest = labels[known], scores[known], scores[~known]
    assert found.value == pytest.approx(weight * rest.mean() + y.mean() - weight * f.mean())
    variance = weight**2 * rest.var(ddof=1) / len(rest) + (y - weight * f).var(ddof=1) / len(y)
    assert found.se == pytest.approx(math.sqrt(variance))


def test_the_weight_is_the_authors_and_no_other_has_less_error(rng) -> None:
    labels, scores, _, patients = read(rng, 4_000, slope=0.9, labelled=0.3)
    known = ~np.isnan(labels)
    found = mean(labels, scores, patients)
    ratio = known.sum() / (~known).sum()
    theirs = np.cov(labels[known], scores[known])[0, 1] / (scores.var(ddof=1) * (1 + ratio))
    assert found.weight == pytest.approx(theirs, rel=0.02)
    for other in np.linspace(0, 1.5, 31):
        assert mean(labels, scores, patients, weight=other).effect.se >= found.effect.se - 1e-12


def test_weight_zero_is_the_classical_mean_with_its_t_interval(rng) -> None:
    labels, scores, _, patients = read(rng, 200, images=2)
    known = ~np.isnan(labels)
    found = mean(labels, scores, patients, weight=0.0)
    classical = paired_effect(labels[known], patients[known])
    for effect in (found.effect, found.classical):
        assert effect.interval() == pytest.approx(classical.interval())
    assert (found.classical.n, found.classical.patients) == (classical.n, classical.patients)


def test_weight_zero_is_the_classical_adjusted_effect_with_its_cr2_error(rng) -> None:
    labels, scores, a, patients = read(rng, 150, images=3)
    x = rng.normal(size=len(a))
    design = np.column_stack([np.ones(len(a)), a, x, a * x])
    low, high = design.copy(), design.copy()
    low[:, [1, 3]], high[:, 1], high[:, 3] = 0.0, 1.0, x
    known = ~np.isnan(labels)
    found = prediction_powered_effect(labels, scores, patients, design, low, high, weight=0.0)
    (reference,) = g_computation(labels[known, None], patients[known], design[known], low, high)
    for effect in (found.effect, found.classical):
        assert (effect.value, effect.se, effect.dof) == pytest.approx((reference.value, reference.se, reference.dof))


def test_the_difference_is_that_of_two_prediction_powered_means(rng) -> None:
    labels, scores, a, patients = read(rng, 400)
    found = prediction_powered_difference(labels, scores, a, patients, weight=0.8).effect
    one, zero = (mean(labels[a == t], scores[a == t], patients[a == t], weight=0.8).effect for t in (1, 0))
    assert found.value == pytest.approx(one.value - zero.value)
    assert found.se == pytest.approx(math.hypot(one.se, zero.se))


def test_a_perfect_reader_gives_what_labels_of_all_images_would(rng) -> None:
    labels, _, a, patients = read(rng, 2_000, labelled=0.2)
    everywhere = np.where(np.isnan(labels), (rng.uniform(size=2_000) < 0.3 + THETA * a), labels)
    found = prediction_powered_difference(labels, everywhere, a, patients)
    assert found.weight == pytest.approx(0.8, abs=0.05)  # 1 / (1 + n / N)
    whole = prediction_powered_difference(everywhere, everywhere, a, patients)
    assert found.effect.value == pytest.approx(whole.effect.value, abs=0.01)
    assert found.effect.se == pytest.approx(whole.effect.se, rel=0.05)


# --- what it is for


def test_scores_of_a_reader_that_follows_the_treatment_help_and_do_not_mislead(rng) -> None:
    found = prediction_powered_difference(*read(rng, 8_000, labelled=0.15))
    assert abs(found.effect.value - THETA) < 4 * found.effect.se
    assert found.effect.se < 0.7 * found.classical.se


def test_a_reader_of_noise_costs_nothing(rng) -> None:
    labels, scores, a, patients = read(rng, 2_000)
    found = prediction_powered_difference(labels, rng.permutation(scores), a, patients)
    assert found.weight < 0.1
    assert found.effect.se <= found.classical.se * (1 + 1e-9)


def test_a_reader_that_goes_the_wrong_way_is_not_used(rng) -> None:
    labels, scores, a, patients = read(rng, 500)
    found = prediction_powered_difference(labels, -scores, a, patients)
    assert found.weight == 0
    assert found.effect.interval() == pytest.approx(found.classical.interval())


def test_intervals_cover_with_patients_of_several_images(rng) -> None:
    held = 0
    for _ in range(500):
        low, high = prediction_powered_difference(*read(rng, 150, images=3, labelled=0.3)).effect.interval()
        held += low <= THETA <= high
    assert 0.92 <= held / 500 <= 0.98


def test_the_populations_effect_is_less_sure_than_that_of_these_images_where_effects_vary(rng) -> None:
    labels, scores, a, patients = read(rng, 300)
    x = rng.normal(size=300)
    labels, scores = labels + 0.5 * a * x, scores + 0.5 * a * x
    design = np.column_stack([np.ones(300), a, x, a * x])
    low, high = design.copy(), design.copy()
    low[:, [1, 3]], high[:, 1], high[:, 3] = 0.0, 1.0, x
    here = prediction_powered_effect(labels, scores, patients, design, low, high).effect
    anywhere = prediction_powered_effect(labels, scores, patients, design, low, high, patients).effect
    assert here.value == anywhere.value
    assert anywhere.se**2 - here.se**2 == pytest.approx((0.5 * x).var() / 300, rel=0.3)


# --- corners


def test_labels_everywhere_leave_the_scores_nothing_to_add(rng) -> None:
    labels, scores, a, patients = read(rng, 200, labelled=2.0)
    found = prediction_powered_difference(labels, scores, a, patients)
    assert found.weight == 0
    assert found.labelled == 200
    assert found.effect.interval() == pytest.approx(found.classical.interval())


def test_labels_of_two_patients_say_nothing(rng) -> None:
    labels = np.array([1.0, 0.0, np.nan, np.nan])
    found = mean(labels, np.ones(4), np.arange(4))
    assert math.isnan(found.effect.value)
    assert math.isnan(found.effect.p_no(0.1))


def test_labels_of_the_treated_only_cannot_tell_the_effect(rng) -> None:
    labels, scores, a, patients = read(rng, 100)
    with pytest.raises(ValueError, match="labelled images cannot tell"):
        prediction_powered_difference(np.where(a == 1, scores, np.nan), scores, a, patients)
    with pytest.raises(ValueError, match="must have been read"):
        prediction_powered_difference(labels, np.full(100, np.nan), a, patients)
    with pytest.raises(ValueError, match="0/1"):
        prediction_powered_difference(labels, scores, a * 2, patients)
    with pytest.raises(ValueError, match=r"\(n,\) labels"):
        prediction_powered_difference(labels[:50], scores, a, patients)
    one = np.ones((100, 1))
    with pytest.raises(ValueError, match="standard_patients"):
        prediction_powered_effect(labels, scores, patients, one, 0 * one, one, patients + 1_000)
