"""Cross-fitted AIPW against stratification, statsmodels on the same input, and truths of simulations."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from statsmodels.treatment.treatment_effects import TreatmentEffect

from causal_cxr.audits.effects import cross_fitted_effect, paired_effect, pseudo_outcomes

THETA = 0.3


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def confounded(
    rng: np.random.Generator, patients: int, images: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """score ``(n, 1)``, treatment, covariates ``(n, 2)``, patients: x confounds, the effect varies with it about THETA."""
    patient = np.repeat(np.arange(patients), images)
    x = np.column_stack([rng.normal(size=patients)[patient], rng.normal(size=len(patient))])
    a = (rng.uniform(size=len(patient)) < 1 / (1 + np.exp(-0.8 * x[:, 0]))).astype(float)
    own = rng.normal(0, 0.3, patients)[patient]
    y = 0.5 * x[:, 0] + 0.2 * x[:, 1] + (THETA + 0.2 * x[:, 0]) * a + own + rng.normal(0, 0.3, len(patient))
    return y[:, None], a, x, patient


def test_with_saturated_models_it_is_the_stratified_difference(rng) -> None:
    z = (rng.uniform(size=900) < 0.4).astype(int)
    a = (rng.uniform(size=900) < 0.2 + 0.5 * z).astype(int)
    y = 0.3 * z + (0.2 + 0.3 * z) * a + rng.normal(0, 0.2, 900)
    means = np.array([[y[(z == s) & (a == t)].mean() for t in (0, 1)] for s in (0, 1)])
    share = np.array([a[z == s].mean() for s in (0, 1)])
    pseudo = pseudo_outcomes(y[:, None], a, share[z], means[z, :1], means[z, 1:])
    stratified = sum((z == s).mean() * (means[s, 1] - means[s, 0]) for s in (0, 1))
    assert pseudo.mean() == pytest.approx(stratified)


def test_with_the_same_two_models_it_is_the_aipw_of_statsmodels(rng) -> None:
    y, a, x, _ = confounded(rng, 800, images=1)
    frame = pd.DataFrame(sm.add_constant(x), columns=["one", "x0", "x1"])
    select = sm.Logit(a, frame).fit(disp=False)
    reference = TreatmentEffect(sm.OLS(y[:, 0], frame), a, results_select=select, _cov_type="HC0").aipw()
    low, high = (sm.OLS(y[a == t, 0], frame[a == t]).fit().predict(frame).to_numpy()[:, None] for t in (0, 1))
    pseudo = pseudo_outcomes(y, a, select.predict(frame).to_numpy(), low, high)
    effect = paired_effect(pseudo[:, 0], np.arange(800))
    assert effect.value == pytest.approx(float(reference.effect[0]), abs=1e-8)
    assert effect.se == pytest.approx(float(np.asarray(reference.results_gmm.bse)[0]), rel=0.02)


@pytest.mark.parametrize(
    ("models", "right"),
    [
        ({}, True),
        ({"propensity": DummyClassifier()}, True),
        ({"outcome": DummyRegressor()}, True),
        ({"propensity": DummyClassifier(), "outcome": DummyRegressor()}, False),
    ],
)
def test_it_is_right_when_either_model_is_and_wrong_when_neither_is(rng, models, right) -> None:
    found = cross_fitted_effect(*confounded(rng, 10_000, images=1), **models).effects[0]
    assert (abs(found.value - THETA) < 4 * found.se) == right
    assert found.se < 0.025


def test_boosted_trees_are_given_no_image_of_a_patient_whom_they_have_seen(rng) -> None:
    y, a, x, patient = confounded(rng, 1_500, images=3)
    found = cross_fitted_effect(
        y, a, x, patient,
        propensity=HistGradientBoostingClassifier(max_iter=30, max_depth=2),
        outcome=HistGradientBoostingRegressor(max_iter=40, max_depth=2),
    )  # fmt: skip
    assert abs(found.effects[0].value - THETA) < 4 * found.effects[0].se
    assert all(len(np.unique(found.fold[patient == p])) == 1 for p in range(0, 1_500, 50))
    assert set(found.fold) == set(range(5))


def test_intervals_cover_though_patients_have_several_images(rng) -> None:
    held = 0
    for run in range(120):
        low, high = cross_fitted_effect(*confounded(rng, 120, images=3), seed=run).effects[0].interval()
        held += low <= THETA <= high
    assert 0.89 <= held / 120 <= 0.992


def test_every_score_has_the_effect_it_has_alone_and_their_influences_are_kept(rng) -> None:
    y, a, x, patient = confounded(rng, 150)
    scores = np.column_stack([y[:, 0], rng.normal(size=len(a)), -y[:, 0]])
    together = cross_fitted_effect(scores, a, x, patient)
    for k, effect in enumerate(together.effects):
        alone = cross_fitted_effect(scores[:, [k]], a, x, patient).effects[0]
        assert (effect.value, effect.se) == pytest.approx((alone.value, alone.se))
        assert together.pseudo[:, k].mean() == pytest.approx(effect.value)


def test_the_other_way_round_the_effect_turns(rng) -> None:
    y, a, x, patient = confounded(rng, 400)
    there, back = (cross_fitted_effect(y, t, x, patient).effects[0].value for t in (a, 1 - a))
    assert there == pytest.approx(-back, abs=0.02)  # the folds are drawn by treatment, so they may differ


def test_with_nothing_to_adjust_for_it_is_near_the_difference_of_means(rng) -> None:
    a = np.tile([0.0, 1.0], 500)
    y = (0.2 * a + rng.normal(size=1_000))[:, None]
    found = cross_fitted_effect(y, a, np.empty((1_000, 0)), np.arange(1_000))
    assert found.effects[0].value == pytest.approx(y[a == 1].mean() - y[a == 0].mean(), abs=0.002)
    assert found.truncated == 0


def test_truncated_propensities_are_counted(rng) -> None:
    x = rng.normal(size=(600, 1)) * 3
    a = (x[:, 0] + rng.normal(0, 0.5, 600) > 0).astype(float)
    found = cross_fitted_effect(rng.normal(size=(600, 1)), a, x, np.arange(600), truncation=0.05)
    outside = (found.propensity < 0.05) | (found.propensity > 0.95)
    assert found.truncated == pytest.approx(outside.mean())
    assert found.truncated > 0.3
    assert math.isfinite(found.effects[0].se)


def test_the_same_seed_gives_the_same_numbers(rng) -> None:
    data = confounded(rng, 100)
    assert cross_fitted_effect(*data, seed=3).effects == cross_fitted_effect(*data, seed=3).effects


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"treatment": np.linspace(0, 1, 20)}, "0/1"),
        ({"covariates": np.full((20, 1), np.nan)}, "missing values"),
        ({"scores": np.zeros(20)}, r"\(n, k\) scores"),
        ({"patients": np.arange(19)}, r"\(n,\) patients"),
        ({"treatment": np.arange(20) < 3}, "Only 3 patients have treatment 1"),
        ({"folds": 1}, "folds >= 2"),
        ({"truncation": 0.5}, "truncation"),
    ],
)
def test_what_cannot_be_estimated_is_refused(change, message) -> None:
    given = {
        "scores": np.zeros((20, 1)), "treatment": np.arange(20) % 2, "covariates": np.zeros((20, 1)),
        "patients": np.arange(20), "folds": 5, "truncation": 0.02,
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=message):
        cross_fitted_effect(**given)
