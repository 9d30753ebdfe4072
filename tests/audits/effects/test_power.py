"""Power against statsmodels, limits, and by simulation of the very tests that audits do."""

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import power_ztost_prop

from causal_cxr.audits.effects import (
    Effect,
    minimum_detectable_effect,
    paired_effect,
    patients_needed,
    planned_effect,
    power_of,
    smallest_margin,
)


@pytest.mark.parametrize("patients", [5, 20, 100])
@pytest.mark.parametrize("theta", [0.0, 0.2, -0.6])
def test_yes_at_delta_zero_has_the_power_of_statsmodels_t_test(patients, theta) -> None:
    plan = planned_effect(patients, 1, 1.0)
    reference = TTestPower().power(theta, nobs=patients, alpha=0.05, alternative="two-sided")
    assert power_of("yes", plan, theta, 0.0) == pytest.approx(reference, abs=1e-4)


def test_the_minimum_detectable_effect_is_statsmodels() -> None:
    reference = TTestPower().solve_power(nobs=50, alpha=0.05, power=0.9, alternative="two-sided")
    assert minimum_detectable_effect(planned_effect(50, 1, 1.0), 0.0, target=0.9) == pytest.approx(reference, abs=1e-4)


@pytest.mark.parametrize("target", [0.5, 0.8, 0.95])
def test_the_patients_needed_are_statsmodels(target) -> None:
    reference = TTestPower().solve_power(effect_size=0.3, alpha=0.05, power=target, alternative="two-sided")
    assert patients_needed("yes", planned_effect(20, 1, 1.0), 0.3, 0.0, target=target) == math.ceil(reference)


def test_far_beyond_delta_yes_is_the_one_sided_t_test_of_the_distance() -> None:
    reference = TTestPower().power(0.5, nobs=30, alpha=0.05, alternative="larger")
    assert power_of("yes", planned_effect(30, 1, 1.0), 3.5, 3.0) == pytest.approx(reference, abs=1e-4)


@pytest.mark.parametrize("theta", [0.0, 0.03])
def test_no_with_many_patients_has_the_power_of_statsmodels_two_one_sided_tests(theta) -> None:
    sd = math.sqrt(0.5 * 0.5)
    reference = power_ztost_prop(0.4, 0.6, 2_000, 0.5 + theta, variance_prop=0.5, discrete=False)[0]
    for delta, expected in ((0.1, reference),):
        assert power_of("no", Effect(0, sd / math.sqrt(2_000), 1e7, 2_000, 2_000), theta, delta) == pytest.approx(
            float(np.squeeze(expected)), abs=2e-3
        )


def test_no_is_never_said_by_a_design_whose_interval_is_wider_than_the_margin() -> None:
    assert power_of("no", Effect(0, 0.5, 1e6, 0, 0), 0.0, 0.1) < 1e-9


@pytest.mark.parametrize(
    ("claim", "theta"), [("yes", 0.0), ("yes", 0.1), ("yes", 0.25), ("no", 0.0), ("no", 0.05), ("no", 0.1)]
)
def test_simulated_audits_say_it_as_often(claim, theta) -> None:
    rng = np.random.default_rng(1)
    patients, images, icc, sd, runs = 24, 3, 0.4, 0.25, 1_500
    group = np.repeat(np.arange(patients), images)
    said = 0
    for _ in range(runs):
        noise = math.sqrt(icc) * rng.normal(size=patients)[group] + math.sqrt(1 - icc) * rng.normal(size=len(group))
        effect = paired_effect(theta + sd * noise, group)
        said += (effect.p_yes(0.1) if claim == "yes" else effect.p_no(0.1)) <= 0.05
    expected = power_of(claim, planned_effect(patients, images, sd, icc), theta, 0.1)
    assert said / runs == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / runs) + 1e-3)


def test_at_the_border_both_claims_are_made_with_probability_alpha_at_most() -> None:
    plan = planned_effect(200, 1, 0.3)
    assert power_of("yes", plan, 0.1, 0.1) == pytest.approx(0.05, abs=1e-6)
    assert power_of("no", plan, 0.1, 0.1) == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize("delta", [0.0, 0.1, 0.5])
def test_what_is_told_with_a_probability_has_that_power(delta) -> None:
    plan = planned_effect(40, 2, 0.4, icc=0.3)
    theta = minimum_detectable_effect(plan, delta, target=0.8)
    assert theta > delta
    assert power_of("yes", plan, theta, delta) == pytest.approx(0.8, abs=1e-6)
    margin = smallest_margin(plan, delta, target=0.8)
    assert power_of("no", plan, delta, margin) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(("claim", "theta"), [("yes", 0.3), ("no", 0.02)])
def test_one_patient_fewer_would_not_be_enough(claim, theta) -> None:
    plan = planned_effect(10, 2, 0.5, icc=0.5)
    needed = patients_needed(claim, plan, theta, 0.1)
    for patients, enough in ((needed, True), (needed - 1, False)):
        assert (power_of(claim, planned_effect(int(patients), 2, 0.5, icc=0.5), theta, 0.1) >= 0.8) == enough


def test_no_number_of_patients_shows_what_is_not_so() -> None:
    plan = planned_effect(100, 1, 1.0)
    assert patients_needed("yes", plan, 0.1, 0.1) == math.inf
    assert patients_needed("no", plan, -0.2, 0.1) == math.inf


def test_the_quick_answer_of_an_effect_is_near_the_exact_one() -> None:
    pilot = Effect(0.02, 0.08, 99, 100, 100)
    assert pilot.patients_needed(0.1) == pytest.approx(patients_needed("no", pilot, 0.02, 0.1), rel=0.1)


def test_images_of_a_patient_that_say_the_same_add_nothing() -> None:
    assert planned_effect(50, 12, 0.3, icc=1.0).se == pytest.approx(planned_effect(50, 1, 0.3).se)
    assert planned_effect(50, 12, 0.3).se == pytest.approx(0.3 / math.sqrt(600))


def test_designs_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="icc"):
        planned_effect(50, 2, 0.3, icc=1.5)
    with pytest.raises(ValueError, match="perhaps"):
        power_of("perhaps", planned_effect(50, 1, 0.3), 0.0, 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="error > 0"):
        power_of("yes", Effect(0, math.nan, 9, 10, 10), 0.0, 0.1)
