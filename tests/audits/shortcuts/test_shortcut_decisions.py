"""Thresholds, turned decisions, and shares and ratios with their intervals."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve
from statsmodels.stats.proportion import proportion_confint

from causal_cxr.audits.effects import paired_effect
from causal_cxr.audits.shortcuts.decisions import share_interval, threshold_of, turned
from causal_cxr.audits.shortcuts.moments import product_ratio

RNG = np.random.default_rng(0)


def test_youdens_threshold_is_the_one_of_the_roc_curve():
    present = RNG.uniform(size=300) < 0.4
    scores = np.clip(0.3 + 0.3 * present + 0.2 * RNG.standard_normal(300), 0, 1).round(2)  # with ties
    mine = threshold_of(scores, present, "youden")
    fpr, tpr, _ = roc_curve(present, scores, drop_intermediate=False)
    called = scores >= mine
    assert called[present].mean() - called[~present].mean() == pytest.approx((tpr - fpr).max())


@pytest.mark.parametrize("declared", [None, 0.1])
def test_the_prevalence_rule_calls_as_many_positive_as_are(declared):
    scores, present = RNG.uniform(size=400), np.arange(400) % 4 == 0
    cut = threshold_of(scores, present, "prevalence", declared)
    assert (scores >= cut).mean() == pytest.approx(0.25 if declared is None else declared, abs=1 / 400)


def test_without_both_kinds_no_threshold_follows():
    with pytest.raises(ValueError, match=r"give one, threshold=0\.5"):
        threshold_of(RNG.uniform(size=9), np.ones(9, dtype=bool), "youden")


@pytest.mark.parametrize("count", [0, 1, 30, 100])
def test_a_share_of_independent_images_has_nearly_the_exact_interval(count):
    yes = np.arange(100) < count
    share, low, high = share_interval(yes, np.arange(100))
    assert share == count / 100
    # the effective number of images is n - 1 where the variance is estimated
    np.testing.assert_allclose((low, high), proportion_confint(count, 100, method="beta"), atol=0.004)


def test_images_of_few_patients_tell_less():
    yes = np.repeat(RNG.uniform(size=20) < 0.5, 10)
    apart, together = (share_interval(yes, who) for who in (np.arange(200), np.repeat(np.arange(20), 10)))
    assert together[2] - together[1] > 2 * (apart[2] - apart[1])


def test_decisions_are_turned_only_across_the_threshold():
    up, down = turned(np.array([0.1, 0.1, 0.9, 0.6]), np.array([0.5, 0.4, 0.49, 0.7]), 0.5)
    assert up.tolist() == [True, False, False, False]
    assert down.tolist() == [False, False, True, False]


def test_a_ratio_over_one_is_a_mean_and_a_ratio_of_means_has_the_delta_methods_error():
    x, y = RNG.normal(2, 1, 500), RNG.normal(4, 1, 500)
    who = np.arange(500)
    plain = product_ratio([x], [np.ones(500)], who)
    assert (plain.value, plain.se) == pytest.approx((paired_effect(x, who).value, paired_effect(x, who).se))
    ratio = product_ratio([x], [y], who)
    residual = paired_effect(x - ratio.value * y, who)  # Taylor: Var(x - r y) / mean(y)^2
    assert ratio.se == pytest.approx(residual.se / y.mean(), rel=1e-6)
    assert product_ratio([x], [y], who, relative_se=0.1).se == pytest.approx(np.hypot(ratio.se, 0.1 * ratio.value))
    assert product_ratio([x], [np.zeros(500)], who).n == 0


def test_the_interval_of_a_product_ratio_holds_the_truth_as_often_as_it_says():
    rng, held = np.random.default_rng(1), 0
    for _ in range(400):
        patient = rng.normal(size=60)[:, None] / 2  # two images each share half of their noise
        a, b, c = (np.ravel(mean + patient * k + rng.normal(size=(60, 2)) / 2) for mean, k in ((1, 1), (2, -1), (3, 1)))
        low, high = product_ratio([a, b], [c], np.repeat(np.arange(60), 2)).interval()
        held += low <= 2 / 3 <= high
    assert 0.92 <= held / 400 <= 0.98
