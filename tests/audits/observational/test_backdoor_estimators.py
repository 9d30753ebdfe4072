import builtins
import logging
import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from questions import confounded, question
from sklearn.linear_model import LogisticRegression

from causal_cxr.audits.effects import paired_effect
from causal_cxr.audits.observational import UnanswerableError, doubly_robust, econml, ipw, regression

BINARY = [regression, ipw, doubly_robust]


def test_regression_of_a_linear_model_is_least_squares():
    t, y, z = confounded(2000, 0)
    zc = z - z.mean()
    asked = question(t, y, {"z": z})
    ols = sm.OLS(y, sm.add_constant(np.column_stack([t, zc, t * zc]))).fit()
    assert regression(asked).effects[0].value == pytest.approx(ols.params[1], abs=1e-10)


@pytest.mark.parametrize("estimator", BINARY)
def test_what_is_held_fixed_undoes_confounding(estimator):
    t, y, z = confounded(20_000, 1)
    effect = estimator(question(t, y, {"z": z})).effects[0]
    assert abs(effect.value - 0.3) < 3 * effect.se
    assert estimator(question(t, y)).effects[0].value > 0.3 + 10 * effect.se  # and without it there is confounding


@pytest.mark.parametrize("estimator", BINARY)
def test_with_nothing_held_it_is_the_difference_of_means(estimator):
    t, y, _ = confounded(500, 2)
    assert estimator(question(t, y)).effects[0].value == pytest.approx(y[t == 1].mean() - y[t == 0].mean(), abs=1e-9)


def test_ipw_is_the_weighted_difference_and_its_effective_size_kishs():
    t, y, z = confounded(1500, 3)
    p = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(z[:, None], t).predict_proba(z[:, None])[:, 1]
    one, zero = t / p, (1 - t) / (1 - p)
    found = ipw(question(t, y, {"z": z}))
    expected = (one * y).sum() / one.sum() - (zero * y).sum() / zero.sum()
    assert found.effects[0].value == pytest.approx(expected, abs=1e-6)
    kish = sum(w.sum() ** 2 / (w**2).sum() for w in (one, zero))
    assert found.ess == pytest.approx(kish, rel=1e-5)
    assert found.ess < 1500


def test_doubly_robust_is_right_where_the_outcome_model_is_wrong():
    rng = np.random.default_rng(4)
    z = rng.normal(size=30_000)
    t = (rng.uniform(size=len(z)) < 1 / (1 + np.exp(1.5 - z))).astype(float)
    y = 0.2 * t + z**2 + rng.normal(size=len(z))  # far from linear in z
    asked = question(t, y, {"z": z})
    effect = doubly_robust(asked).effects[0]
    assert abs(effect.value - 0.2) < 3 * effect.se
    ols = sm.OLS(y, sm.add_constant(np.column_stack([t, z]))).fit()  # its own outcome model
    assert abs(ols.params[1] - 0.2) > 0.3


@pytest.mark.parametrize("estimator", [ipw, doubly_robust])
def test_errors_are_those_of_repeated_sampling(estimator):
    """120 samples: the mean of the reported errors is the spread of the estimates, clusters of three included."""
    values, errors = [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(120), 3)
        z = np.repeat(rng.normal(size=120), 3)
        t = (rng.uniform(size=360) < 1 / (1 + np.exp(-z))).astype(float)
        y = 0.3 * t + z + np.repeat(rng.normal(size=120), 3) + rng.normal(size=360)
        effect = estimator(question(t, y, {"z": z}, patients)).effects[0]
        values.append(effect.value)
        errors.append(effect.se)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


def test_copies_of_images_add_no_certainty():
    t, y, z = confounded(400, 5)
    once = ipw(question(t, y, {"z": z})).effects[0]
    thrice = ipw(question(np.tile(t, 3), np.tile(y, 3), {"z": np.tile(z, 3)}, np.tile(np.arange(400), 3))).effects[0]
    assert thrice.value == pytest.approx(once.value, abs=1e-6)
    assert thrice.se == pytest.approx(once.se, rel=1e-5)


def test_propensities_at_the_ends_are_truncated_and_counted():
    rng = np.random.default_rng(6)
    z = rng.normal(size=3000)
    t = (rng.uniform(size=3000) < 1 / (1 + np.exp(-4 * z))).astype(float)
    found = ipw(question(t, 0.2 * t + rng.normal(size=3000), {"z": z}))
    assert 0.1 < found.truncated < 0.5


@pytest.mark.parametrize("estimator", [ipw, doubly_robust])
def test_weights_need_two_levels(estimator):
    rng = np.random.default_rng(7)
    with pytest.raises(UnanswerableError, match="two levels"):
        estimator(question(rng.normal(size=50), rng.normal(size=50), continuous=True))


def test_without_econml_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def absent(name, *rest, **more):
        if name.startswith("econml"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"causal_cxr\[econml\]"):
        econml(question(*confounded(100, 8)[:2]))


def test_econml_agrees_with_dowhy():
    pytest.importorskip("econml")
    t, y, z = confounded(3000, 9)
    asked = question(t, y, {"z": z})
    theirs, ours = econml(asked).effects[0], doubly_robust(asked).effects[0]
    assert theirs.value == pytest.approx(ours.value, abs=ours.se / 3)
    assert theirs.se == pytest.approx(ours.se, rel=0.1)


def test_dowhy_says_nothing_and_moves_no_random_numbers(capsys, caplog):
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.RandomState(5).uniform()
    t, y, z = confounded(300, 10)
    level = logging.getLogger("dowhy").level
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG, logger="root"):
        warnings.simplefilter("error")
        ipw(question(t, y, {"z": z}))
        doubly_robust(question(t, y, {"z": z}))
    assert np.random.uniform() == expected  # noqa: NPY002
    assert logging.getLogger("dowhy").level == level
    assert not capsys.readouterr().out
    assert not [r for r in caplog.records if r.name.startswith("dowhy")]


def test_one_outcomes_error_is_that_of_paired_differences_when_treatment_is_a_coin():
    """A coin flip, nothing held: the influence function is the textbook one of two means."""
    rng = np.random.default_rng(11)
    t = np.tile([0.0, 1.0], 200)
    y = rng.normal(size=400) + t
    e, mean = 0.5, [y[t == v].mean() for v in (0, 1)]
    influence = t * (y - mean[1]) / e - (1 - t) * (y - mean[0]) / (1 - e)
    assert ipw(question(t, y)).effects[0].se == pytest.approx(paired_effect(influence, np.arange(400)).se, rel=1e-6)
