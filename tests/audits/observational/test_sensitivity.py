import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from dowhy import CausalModel
from questions import confounded, question

from causal_cxr.audits.observational import (
    UnanswerableError,
    e_value,
    e_value_of_interval,
    linear_regression,
    partial_r2,
    risk_ratio,
    robustness_value,
    unobserved_confounder,
)
from causal_cxr.graphs.identification import dowhy_quietly


@pytest.mark.parametrize(
    ("ratio", "published"),  # VanderWeele & Ding 2017, text and table
    [(3.9, 7.26), (1.8, 3.0), (1.06, 1.31), (0.80, 1.81), (0.5, 3.41), (1.0, 1.0)],
)
def test_e_values_as_published(ratio, published):
    assert e_value(ratio) == pytest.approx(published, abs=0.005)


def test_an_interval_with_1_in_it_needs_no_confounder():
    assert e_value_of_interval(0.71, 0.91) == e_value(0.91)
    assert e_value_of_interval(0.9, 1.4) == 1.0


def test_a_difference_is_no_ratio():
    with pytest.raises(ValueError, match="risk_ratio"):
        e_value(-0.2)


def test_the_darfur_example():
    """Cinelli & Hazlett (2020), table 1: RV 13.9%, RV at 5% 7.6%, partial R2 2.2%."""
    assert robustness_value(4.18445, 783) == pytest.approx(0.139, abs=5e-4)
    assert robustness_value(4.18445, 783, 0.05) == pytest.approx(0.076, abs=5e-4)
    assert partial_r2(4.18445, 783) == pytest.approx(0.022, abs=5e-4)


def test_no_confounder_is_needed_where_nothing_is_shown():
    assert robustness_value(1.0, 500, 0.05) == 0.0
    assert robustness_value(0.0, 500) == 0.0


@pytest.fixture(scope="module")
def dowhys():
    """DoWhy's own analysers on the same rows."""
    t, y, z = confounded(1200, 0)
    data = pd.DataFrame({"t": t, "y": y, "z": z, "x": np.random.default_rng(1).normal(size=1200) + t})
    with dowhy_quietly(0):
        model = CausalModel(data, "t", "y", common_causes=["z", "x"])
        estimand = model.identify_effect()
        estimate = model.estimate_effect(estimand, method_name="backdoor.linear_regression")
        asked = {"method_name": "add_unobserved_common_cause", "plot_estimate": False}
        linear = model.refute_estimate(
            estimand, estimate, simulation_method="linear-partial-R2", benchmark_common_causes=["z"],
            effect_fraction_on_treatment=[1], effect_fraction_on_outcome=[1], confounder_increases_estimate=True, **asked,
        )  # fmt: skip
        ratio = model.refute_estimate(estimand, estimate, simulation_method="e-value", **asked)
    return data, linear, ratio


def test_robustness_values_and_benchmarks_are_dowhys(dowhys):
    data, linear, _ = dowhys
    fit = linear_regression(data.y.to_numpy(), data.t.to_numpy(), {k: data[[k]].to_numpy() for k in "zx"})
    assert fit.value == pytest.approx(linear.stats["estimate"], abs=1e-9)
    assert fit.dof == linear.stats["degree of freedom"]
    assert robustness_value(fit.t, fit.dof) == pytest.approx(linear.stats["robustness_value"], abs=1e-9)
    assert robustness_value(fit.t, fit.dof, 0.05) == pytest.approx(linear.stats["robustness_value_alpha"], abs=1e-9)
    theirs = linear.benchmarking_results.iloc[0]
    value, t = fit.confounded("z")
    assert value == pytest.approx(theirs["bias_adjusted_estimate"], abs=1e-8)
    assert abs(value / t) == pytest.approx(theirs["bias_adjusted_se"], abs=1e-8)


def test_e_values_of_a_regression_are_dowhys(dowhys):
    data, _, theirs = dowhys
    fit = linear_regression(data.y.to_numpy(), data.t.to_numpy(), {k: data[[k]].to_numpy() for k in "zx"})
    assert e_value(risk_ratio(fit.value, data.y.std(ddof=0))) == pytest.approx(
        theirs.stats["evalue_estimate"], rel=1e-3
    )


def test_covariates_of_several_columns_are_judged_together():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(500, 2))
    t, y = z @ [0.5, 0.2] + rng.normal(size=500), z @ [0.3, 0.4] + rng.normal(size=500)
    fit = linear_regression(y, t, {"z": z})
    full = sm.OLS(y, sm.add_constant(np.column_stack([t, z]))).fit()
    f = full.f_test(np.eye(4)[2:]).fvalue
    assert fit.with_outcome["z"] == pytest.approx(2 * f / (2 * f + full.df_resid), abs=1e-9)


def test_an_effect_no_stronger_than_its_confounder_would_not_stand():
    t, y, z = confounded(3000, 3, effect=0.1)
    weak = unobserved_confounder(question(t, y, {"z": z}), "view")
    assert weak["passes"] == "no"
    assert weak["benchmark"] == "z"
    t, y, z = confounded(3000, 3, effect=2.0)
    strong = unobserved_confounder(question(t, y, {"z": z}), "view")
    assert strong["passes"] == "yes"
    assert "the effect stands" in strong["sentence"]


@pytest.mark.parametrize("beside", [False, True])
def test_a_covariate_that_explains_most_of_the_treatment_is_not_passed_over(beside):
    """Cinelli & Hazlett's bound has no confounder as strong as one with a partial R2 of half or more: 0.64 here."""
    rng = np.random.default_rng(6)
    z, x = rng.integers(0, 2, 3000), rng.integers(0, 2, 3000)
    t = (rng.uniform(size=3000) < np.where(z == 1, 0.9, 0.1)).astype(float)
    y = 0.12 * t + 0.3 * z + 0.01 * x + 0.1 * rng.normal(size=3000)
    told = unobserved_confounder(question(t, y, {"ward": z} | ({"sex": x} if beside else {})), "view")
    assert told["passes"] == "undecided"
    assert told["unequalled"] == "ward"
    assert told["benchmark"] == ("sex" if beside else "")
    assert "ward explains 6" in told["sentence"]
    assert "the effect stands" not in told["sentence"]
    assert "No measured covariate" not in told["sentence"]


def test_nothing_shown_or_nothing_to_compare_with_is_undecided():
    rng = np.random.default_rng(40)
    t, y, z = confounded(2000, 4)
    assert unobserved_confounder(question(t, rng.normal(size=2000), {"z": z}), "view")["passes"] == "undecided"
    assert "No measured covariate" in unobserved_confounder(question(t, y), "view")["sentence"]


def test_a_score_that_never_varies_has_nothing_to_explain_away():
    with pytest.raises(UnanswerableError, match="same in every image"):
        unobserved_confounder(question(*confounded(100, 5)[:1], np.ones(100)), "view")
