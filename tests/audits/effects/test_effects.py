"""Effects against scipy, statsmodels, DoWhy, closed forms and simulated truth."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from causal_cxr.audits.effects import (
    NOTHING,
    Effect,
    benjamini_yekutieli,
    covariate_columns,
    design_matrix,
    g_computation,
    holm,
    paired_effect,
    prediction_powered_effect,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def by_matrices(
    design: np.ndarray, score: np.ndarray, patients: np.ndarray, contrast: np.ndarray
) -> tuple[float, float]:
    """CR2 error and Satterthwaite dof as Pustejovsky & Tipton (2018) print them, every matrix written out."""
    n = len(score)
    bread = np.linalg.inv(design.T @ design)
    residual_maker = np.eye(n) - design @ bread @ design.T
    rows = [np.flatnonzero(patients == g) for g in np.unique(patients)]
    vectors = []
    for own in rows:
        values, axes = np.linalg.eigh(residual_maker[np.ix_(own, own)])
        adjustment = axes @ np.diag(values**-0.5) @ axes.T
        vectors.append(residual_maker[:, own] @ adjustment @ design[own] @ bread @ contrast)
    form = np.column_stack(vectors)
    variance = ((form.T @ score) ** 2).sum()
    product = form.T @ form
    return math.sqrt(variance), np.trace(product) ** 2 / np.trace(product @ product)


# --- paired effects


def test_with_one_image_a_patient_it_is_the_one_sample_t_test(rng) -> None:
    difference = rng.normal(0.2, 1.0, 50)
    effect = paired_effect(difference, np.arange(50))
    reference = stats.ttest_1samp(difference, 0.0)
    low, high = reference.confidence_interval()
    assert effect.interval() == pytest.approx((low, high))
    assert effect.value / effect.se == pytest.approx(reference.statistic)


def test_clusters_have_the_sandwich_error_of_statsmodels(rng) -> None:
    patients = np.repeat(np.arange(40), 3)
    difference = rng.normal(size=40)[patients] + rng.normal(size=120)
    fit = sm.OLS(difference, np.ones(120)).fit(
        cov_type="cluster", cov_kwds={"groups": patients, "use_correction": False}
    )
    assert paired_effect(difference, patients).se == pytest.approx(fit.bse[0] * math.sqrt(40 / 39))


def test_patients_of_unequally_many_images_have_the_cr2_error_and_fewer_degrees_of_freedom(rng) -> None:
    patients = np.repeat(np.arange(12), rng.integers(1, 9, 12))
    difference = rng.normal(size=12)[patients] + rng.normal(size=len(patients))
    effect = paired_effect(difference, patients)
    assert (effect.se, effect.dof) == pytest.approx(
        by_matrices(np.ones((len(patients), 1)), difference, patients, np.ones(1)), rel=1e-9
    )
    assert effect.dof < 11


def test_the_order_and_names_of_patients_do_not_matter(rng) -> None:
    patients = np.repeat([f"p{k}" for k in range(20)], 2)
    difference = rng.normal(size=40)
    shuffled = rng.permutation(40)
    a, b = paired_effect(difference, patients), paired_effect(difference[shuffled], patients[shuffled])
    assert (a.value, a.se, a.patients) == pytest.approx((b.value, b.se, b.patients))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_patients_say_nothing(n) -> None:
    effect = paired_effect(np.ones(n), np.arange(n))
    assert effect == NOTHING or math.isnan(effect.value)
    assert math.isnan(effect.p_yes(0.1))
    assert math.isnan(effect.p_no(0.1))


def test_intervals_cover_the_truth_as_often_as_they_say(rng) -> None:
    patients = np.repeat(np.arange(30), 3)
    covered = 0
    for _ in range(1_000):
        low, high = paired_effect(0.3 + rng.normal(size=30)[patients] + rng.normal(size=90), patients).interval()
        covered += low <= 0.3 <= high
    assert 0.93 <= covered / 1_000 <= 0.97


# --- yes and no


def test_no_is_two_one_sided_tests_as_in_statsmodels(rng) -> None:
    difference = rng.normal(0.02, 0.5, 60)
    effect = paired_effect(difference, np.arange(60))
    p, *_ = DescrStatsW(difference).ttost_mean(-0.1, 0.1)
    assert effect.p_no(0.1) == pytest.approx(p)


def test_yes_at_delta_zero_is_the_two_sided_t_test(rng) -> None:
    difference = rng.normal(0.2, 1.0, 50)
    assert paired_effect(difference, np.arange(50)).p_yes(0.0) == pytest.approx(
        stats.ttest_1samp(difference, 0.0).pvalue
    )


@given(st.floats(-1, 1), st.floats(0.001, 1), st.floats(0.01, 0.5), st.integers(2, 500))
def test_yes_and_no_never_hold_together(value, se, delta, dof) -> None:
    effect = Effect(value, se, dof, dof + 1, dof + 1)
    assert not (effect.p_yes(delta) <= 0.05 and effect.p_no(delta) <= 0.05)
    assert 0 <= effect.p_yes(delta) <= 1
    assert 0 <= effect.p_no(delta) <= 1


@pytest.mark.parametrize("truth", [0.1, -0.1])
def test_both_tests_keep_their_size_at_the_border(rng, truth) -> None:
    patients = np.repeat(np.arange(60), 2)
    draws = [
        paired_effect(truth + rng.normal(0, 0.3, 60)[patients] + rng.normal(0, 0.3, 120), patients)
        for _ in range(1_000)
    ]
    assert np.mean([e.p_yes(0.1) <= 0.05 for e in draws]) <= 0.07
    assert np.mean([e.p_no(0.1) <= 0.05 for e in draws]) <= 0.07


def test_a_large_effect_is_yes_and_none_is_no_with_256_images_and_slope_08(rng) -> None:
    for truth, yes in ((0.5, True), (0.0, False)):
        moved = rng.uniform(size=256) < truth
        effect = paired_effect(0.8 * moved + rng.normal(0, 0.15, 256), np.arange(256) // 2).scaled(0.8, 0.03)
        assert (effect.p_yes(0.1) < 1e-3) == yes
        assert (effect.p_no(0.1) < 1e-3) != yes


def test_patients_needed_would_decide() -> None:
    effect = Effect(0.02, 0.08, 99, 100, 100)
    needed = effect.patients_needed(0.1)
    assert effect.p_no(0.1) > 0.05
    assert needed > 100
    assert Effect(0.02, 0.08 * math.sqrt(100 / needed), needed - 1, 0, 0).p_no(0.1) < 0.05
    assert Effect(0.1, 0.08, 99, 100, 100).patients_needed(0.1) == math.inf


# --- the reader's slope


def test_the_slopes_uncertainty_is_that_of_simulation(rng) -> None:
    effect = Effect(0.3, 0.02, 1e6, 0, 0).scaled(0.6, 0.04)
    draws = rng.normal(0.3, 0.02, 400_000) / rng.normal(0.6, 0.04, 400_000)
    assert effect.value == pytest.approx(0.5)
    assert effect.se == pytest.approx(draws.std(), rel=0.03)


# --- standardisation


def confounded(rng: np.random.Generator, n: int = 4_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z -> a, z -> u, a -> u; the effect of a is 0.2 + 0.3 z."""
    z = (rng.uniform(size=n) < 0.4).astype(float)
    a = (rng.uniform(size=n) < 0.2 + 0.5 * z).astype(float)
    u = 0.1 + 0.3 * z + (0.2 + 0.3 * z) * a + rng.normal(0, 0.2, n)
    return z, a, u


def standardised(
    z: np.ndarray, a: np.ndarray, u: np.ndarray, patients: np.ndarray, standard_patients: np.ndarray | None = None
) -> Effect:
    covariates = {"z": z - z.mean()}
    low, high = (design_matrix(np.full(len(a), v), covariates, continuous=False) for v in (0.0, 1.0))
    design = design_matrix(a, covariates, continuous=False)
    return g_computation(u[:, None], patients, design, low, high, standard_patients)[0]


def test_standardising_a_saturated_model_is_the_stratified_difference(rng) -> None:
    z, a, u = confounded(rng)
    by_stratum = sum((z == v).mean() * (u[(z == v) & (a == 1)].mean() - u[(z == v) & (a == 0)].mean()) for v in (0, 1))
    assert standardised(z, a, u, np.arange(len(a))).value == pytest.approx(by_stratum)


def regression(rng: np.random.Generator, patients: np.ndarray, columns: int = 3):
    """Scores, a design of intercept, treatment and two covariates with products, and it at a0 and a1 in a third."""
    n = len(patients)
    covariates = {"x": rng.normal(size=patients.max() + 1)[patients], "y": rng.normal(size=n)}
    a = (rng.uniform(size=n) < 1 / (1 + np.exp(-covariates["x"]))).astype(float)
    scores = rng.normal(size=(patients.max() + 1, columns))[patients] + rng.normal(size=(n, columns)) * (1 + a[:, None])
    there = {name: column[::3] for name, column in covariates.items()}
    low, high = (design_matrix(np.full(len(a[::3]), v), there, continuous=False) for v in (0.0, 1.0))
    return scores, design_matrix(a, covariates, continuous=False), low, high


def test_with_one_image_a_patient_every_score_has_the_estimate_and_hc2_error_of_statsmodels(rng) -> None:
    scores, design, low, high = regression(rng, np.arange(60))
    contrast = (high - low).mean(axis=0)
    for effect, column in zip(g_computation(scores, np.arange(60), design, low, high), scores.T, strict=True):
        test = sm.OLS(column, design).fit(cov_type="HC2").t_test(contrast)
        assert effect.value == pytest.approx(test.effect.item(), abs=1e-8)
        assert effect.se == pytest.approx(test.sd.item(), abs=1e-8)


def test_clusters_have_the_cr2_error_and_its_degrees_of_freedom(rng) -> None:
    patients = rng.permutation(np.repeat(np.arange(20), rng.integers(1, 10, 20)))  # up to more images than columns
    scores, design, low, high = regression(rng, patients)
    contrast = (high - low).mean(axis=0)
    for effect, column in zip(g_computation(scores, patients, design, low, high), scores.T, strict=True):
        assert (effect.se, effect.dof) == pytest.approx(by_matrices(design, column, patients, contrast), rel=1e-8)


def test_a_column_that_repeats_another_changes_nothing(rng) -> None:
    patients = np.arange(90) // 3
    scores, *designs = regression(rng, patients)
    once = g_computation(scores, patients, *designs)
    twice = g_computation(scores, patients, *(np.column_stack([d, d[:, 2]]) for d in designs))
    for a, b in zip(once, twice, strict=True):
        assert (a.value, a.se, a.dof) == pytest.approx((b.value, b.se, b.dof))


def test_without_covariates_it_is_the_difference_of_means_with_the_robust_error(rng) -> None:
    _, a, u = confounded(rng)
    design = design_matrix(a, {}, continuous=False)
    low, high = (design_matrix(np.full(len(a), v), {}, continuous=False) for v in (0.0, 1.0))
    patients = np.arange(len(a)) // 2
    effect = g_computation(u[:, None], patients, design, low, high)[0]
    fit = sm.OLS(u, design).fit(cov_type="cluster", cov_kwds={"groups": patients})
    assert effect.value == pytest.approx(u[a == 1].mean() - u[a == 0].mean())
    assert effect.se == pytest.approx(fit.bse[1], rel=1e-3)  # of many patients; of few it is the larger


def test_few_patients_with_a_treatment_of_their_own_are_not_trusted_too_much(rng) -> None:
    """The usual clustered error rejects here about twice as often as it says."""
    false = 0
    for _ in range(400):
        patients = np.repeat(np.arange(24), rng.integers(1, 13, 24))
        treatment = (np.arange(24) < 8).astype(float)[patients]
        score = rng.normal(size=24)[patients] + rng.normal(size=len(patients))
        low, high = (design_matrix(np.full(1, v), {}, continuous=False) for v in (0.0, 1.0))
        design = design_matrix(treatment, {}, continuous=False)
        false += g_computation(score[:, None], patients, design, low, high)[0].p_yes(0.0) <= 0.05
    assert false / 400 <= 0.075


def test_the_populations_effect_has_the_error_of_who_was_drawn_on_top(rng) -> None:
    z, a, u = confounded(rng, 40_000)
    patients = np.arange(len(a))
    here, population = standardised(z, a, u, patients), standardised(z, a, u, patients, patients)
    assert population.value == here.value
    # the effect is 0.2 + 0.3 z, and z is 1 in 0.4
    assert population.se**2 - here.se**2 == pytest.approx(0.3**2 * 0.4 * 0.6 / len(a), rel=0.1)


def test_who_was_drawn_does_not_matter_to_an_effect_that_is_the_same_in_all(rng) -> None:
    _, a, u = confounded(rng, 400)
    patients = np.arange(400) // 2
    designs = [design_matrix(x, {}, continuous=False) for x in (a, np.zeros(100), np.ones(100))]
    here, population = (g_computation(u[:, None], patients, *designs, p)[0] for p in (None, patients[:100]))
    assert (population.se, population.dof) == pytest.approx((here.se, here.dof))


def test_intervals_of_the_populations_effect_cover_it(rng) -> None:
    covered = dict.fromkeys(("population", "here"), 0)
    for _ in range(400):
        patients = np.repeat(np.arange(60), rng.integers(1, 6, 60))
        z = (rng.uniform(size=60) < 0.5).astype(float)[patients]
        a = (rng.uniform(size=len(z)) < 0.3 + 0.4 * z).astype(float)
        u = 0.2 + z * a + rng.normal(0, 0.3, len(z))
        for name, standard in (("population", patients), ("here", None)):
            low, high = standardised(z, a, u, patients, standard).interval()
            covered[name] += low <= 0.5 <= high
    assert 0.92 <= covered["population"] / 400 <= 0.98
    assert covered["here"] / 400 < 0.85


def test_its_intervals_cover_the_truth(rng) -> None:
    covered = 0
    for _ in range(300):
        n = 600
        patients = np.arange(n) // 2
        z, a, u = confounded(rng, n)
        u += rng.normal(0, 0.2, n // 2)[patients]
        low, high = standardised(z, a, u, patients).interval()
        covered += low <= 0.2 + 0.3 * z.mean() <= high
    assert covered / 300 >= 0.91


def test_a_continuous_shift_follows_a_cubic_exactly() -> None:
    a = np.linspace(-1, 2, 200)
    low, high = (design_matrix(v, {}, continuous=True) for v in (np.zeros(3), np.ones(3)))
    effect = g_computation(
        (a - a**2 + 2 * a**3)[:, None], np.arange(200), design_matrix(a, {}, continuous=True), low, high
    )[0]
    assert effect.value == pytest.approx(2.0)


def test_dowhy_finds_the_same_effect(rng) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dowhy import CausalModel

        n = 2_000
        z = rng.normal(size=n)
        a = (rng.uniform(size=n) < 1 / (1 + np.exp(-z))).astype(float)
        u = 0.4 * a + 0.5 * z + rng.normal(0, 0.3, n)
        frame = pd.DataFrame({"z": z, "a": a.astype(bool), "u": u})
        model = CausalModel(frame, treatment="a", outcome="u", graph="digraph {z -> a; z -> u; a -> u;}")
        second = model.estimate_effect(model.identify_effect(), method_name="backdoor.linear_regression")
    ours = standardised(z, a, u, np.arange(n))
    assert ours.value == pytest.approx(second.value, abs=0.01)
    assert ours.interval()[0] <= 0.4 <= ours.interval()[1]


# --- covariates and families


def test_covariates_are_centred_dummies_or_powers() -> None:
    sex = pd.Series(pd.Categorical(["m", "f", "m"], categories=["m", "f", "other"]), name="sex")
    columns = covariate_columns(sex, sex.cat.codes.to_numpy(dtype=float))
    assert list(columns) == ["sex=1"]  # nobody is "other"
    age = pd.Series([20.0, 50.0, 80.0], name="age")
    columns |= covariate_columns(age, age.to_numpy())
    assert list(columns) == ["sex=1", "age^1", "age^2", "age^3"]
    assert all(abs(column.mean()) < 1e-12 for column in columns.values())


def test_by_is_its_published_formula_and_leaves_out_what_is_unknown() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03])
    harmonic = 1 + 1 / 2 + 1 / 3
    assert benjamini_yekutieli(p) == pytest.approx(
        [3 * harmonic * 0.01, np.nan, harmonic * 0.04, harmonic * 0.04], nan_ok=True
    )
    assert np.isnan(benjamini_yekutieli(np.array([np.nan]))).all()


@pytest.mark.parametrize("p", [[0.3], [0.04, 0.01, 0.01, 0.02, 1.0, 0.0], np.random.default_rng(0).beta(0.3, 1, 200)])
def test_holm_is_that_of_statsmodels(p: Sequence[float]) -> None:  # a few cases: it collects garbage at every call
    assert holm(np.array(p)) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).map(np.array))
def test_holm_multiplies_each_by_how_many_are_no_smaller_and_never_falls(p: np.ndarray) -> None:
    order = np.argsort(p, kind="stable")
    steps = [min(p[i] * (len(p) - rank), 1.0) for rank, i in enumerate(order)]
    assert holm(p)[order] == pytest.approx(np.maximum.accumulate(steps), abs=1e-12)


def test_no_change_in_any_image_is_no_proof_of_a_smaller_effect_than_so_many_patients_can_tell():
    still = paired_effect(np.zeros(60), np.arange(60))
    assert still.p_no(0.01) < 1e-6  # the estimated error is zero
    unsettled = still.unsettled()
    assert unsettled.se == pytest.approx(1 / 60)
    assert unsettled.p_no(0.01) > 0.25
    assert unsettled.p_no(0.30) < 1e-5
    wide = Effect(0.2, 0.05, 59, 60, 60)
    assert wide.unsettled().interval() == wide.interval()


@pytest.mark.parametrize(("patients", "delta"), [(256, 0.02), (96, 0.05), (60, 0.1), (30, 0.1)])
def test_no_is_not_proved_by_flips_that_so_few_patients_could_not_show(patients: int, delta: float) -> None:
    for flips in range(3):
        effect = paired_effect((np.arange(patients) < flips).astype(float), np.arange(patients)).unsettled()
        assert effect.p_no(delta) >= stats.binom.cdf(flips, patients, delta) * (1 - 1e-9)


@pytest.mark.parametrize("images", [1, 20])
def test_a_level_that_one_patient_alone_has_gives_no_effect(rng, images) -> None:
    """His residual is 0 whatever he is like. The error would be that of the others' mean alone: 0.07 here where it is 1."""
    patients = np.concatenate([np.full(images, 200), np.arange(200)])
    alone = (patients == 200).astype(float)
    design, low, high = (design_matrix(t, {}, False) for t in (alone, 0 * alone, 0 * alone + 1))
    (effect,) = g_computation(rng.normal(size=(len(patients), 1)), patients, design, low, high, patients)
    assert effect == NOTHING or (effect.n == 0 and math.isnan(effect.value))
    with pytest.raises(ValueError, match="a level is in one patient's alone"):
        prediction_powered_effect(rng.normal(size=len(patients)), alone, patients, design, low, high, patients)


def test_two_patients_at_a_level_have_an_error_and_it_is_wide(rng) -> None:
    t = (np.arange(200) < 2).astype(float)
    design, low, high = (design_matrix(x, {}, False) for x in (t, 0 * t, 0 * t + 1))
    found = g_computation(rng.normal(size=(200, 2000)), np.arange(200), design, low, high, np.arange(200))
    covered = np.mean([low <= 0 <= high for low, high in (effect.interval() for effect in found)])
    assert 0.93 < covered < 0.99


def test_a_covariates_level_that_one_patient_alone_has_takes_no_effect_away(rng) -> None:
    t, rare = np.tile([0.0, 1.0], 100), np.eye(200)[0]
    score, everyone = rng.normal(size=(200, 1)), np.arange(200)
    found = []
    for covariates in ({}, {"rare": rare - rare.mean()}):
        designs = (design_matrix(x, covariates, False) for x in (t, 0 * t, 0 * t + 1))
        found += g_computation(score, everyone, *designs, everyone)
    assert found[1].se == pytest.approx(found[0].se, rel=0.05)
