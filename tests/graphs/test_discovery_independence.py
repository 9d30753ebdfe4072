"""Tests of independence: against scipy and statsmodels on the same rows, and by their error rates."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from causal_cxr.graphs import Binary, Categorical, Continuous
from causal_cxr.graphs.discovery.independence import Columns, LibraryTest, LikelihoodRatioTest

NUMBER = Continuous("x", unit="", low=-100, high=100)
ATTRIBUTES = {
    "x": NUMBER,
    "z": Continuous("z", unit="", low=-100, high=100),
    "b": Binary("b"),
    "c": Categorical("c", levels=("p", "q", "r")),
    "o": Categorical("o", levels=("none", "some", "much"), ordered=True),
}


def columns(seed: int = 0, n: int = 500, tie: float = 0.0) -> Columns:
    """z acts on all; ``tie``: x acts on b, c and o besides."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    x = z + rng.normal(size=n)
    lean = z + tie * x
    table = pd.DataFrame(
        {
            "x": x,
            "z": z,
            "b": (lean + rng.logistic(size=n) > 0).astype(int),
            "c": np.array(["p", "q", "r"])[np.argmax(np.outer(lean, [0, 0.7, -0.7]) + rng.gumbel(size=(n, 3)), axis=1)],
            "o": np.array(["none", "some", "much"])[np.digitize(lean + rng.logistic(size=n), [-0.7, 0.7])],
        }
    )
    typed = pd.DataFrame({name: ATTRIBUTES[name].coerce(table[name]) for name in table})
    return Columns(typed, ATTRIBUTES)


def test_two_numbers_are_regressed_and_tested_by_f_in_both_directions():
    data = columns()
    x, z = data.codes[:, 0], data.codes[:, 1]
    both = []
    for outcome, cause in ((x, z), (z, x)):
        scaled = 2 * (cause - cause.min()) / np.ptp(cause) - 1
        fit = sm.OLS(outcome, np.polynomial.legendre.legvander(scaled, 3)).fit()
        both.append(fit.f_pvalue)
    assert LikelihoodRatioTest(data)(0, 1, ()) == pytest.approx(min(2 * min(both), max(both)), rel=1e-6)


@pytest.mark.parametrize(("column", "model"), [(2, "logit"), (3, "mnlogit")])
def test_levels_are_regressed_by_logit_as_statsmodels_does(column, model):
    data = columns(tie=0.1)
    outcome, x = data.codes[:, column], data.codes[:, 0]
    scaled = np.polynomial.legendre.legvander(2 * (x - x.min()) / np.ptp(x) - 1, 3)
    fit = (sm.Logit if model == "logit" else sm.MNLogit)(outcome, scaled).fit(disp=False, tol=1e-10, maxiter=200)
    by_logit = stats.chi2.sf(fit.llr, fit.df_model)
    dummies = sm.add_constant((outcome[:, None] == np.unique(outcome)[1:]).astype(float))
    by_mean = sm.OLS(x, dummies).fit().f_pvalue
    wanted = min(2 * min(by_logit, by_mean), max(by_logit, by_mean))
    assert LikelihoodRatioTest(data)(0, column, ()) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("column", ["b", "c", "o", "x"])
def test_given_what_separates_two_a_true_independence_is_rejected_at_its_level(column):
    rejected = []
    for seed in range(30):
        data = columns(seed, n=150)
        other = data.names.index("b" if column == "x" else "x")
        rejected.append(LikelihoodRatioTest(data)(data.names.index(column), other, (1,)) < 0.1)
    assert np.mean(rejected) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 30)


@pytest.mark.parametrize("column", ["b", "c", "o"])
def test_a_tie_beyond_what_is_given_is_found(column):
    data = columns(1, n=800, tie=0.7)
    test = LikelihoodRatioTest(data)
    assert test(0, data.names.index(column), (1,)) < 1e-4
    assert test(0, data.names.index(column), (1,)) == pytest.approx(test(data.names.index(column), 0, (1,)))


def test_a_curve_is_no_independence_and_a_curved_cause_is_held_fixed():
    rng = np.random.default_rng(2)
    z = rng.uniform(-2, 2, 600)
    x, y = z**2 + rng.normal(size=600), z**2 + rng.normal(size=600)
    data = Columns(pd.DataFrame({"x": x, "y": y, "z": z}), {})
    test = LikelihoodRatioTest(data)
    assert test(0, 2, ()) < 1e-6
    assert test(0, 1, ()) < 1e-6
    assert test(0, 1, (2,)) > 0.01


def test_separated_levels_have_an_answer():
    x = np.linspace(-1, 1, 100)
    data = Columns(pd.DataFrame({"x": x, "b": pd.Categorical((x > 0).astype(int))}), {"b": Binary("b")})
    assert LikelihoodRatioTest(data)(0, 1, ()) < 1e-8


def test_what_the_given_make_up_adds_nothing():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, 200)
    data = Columns(pd.DataFrame({"a": a, "same": a, "x": rng.normal(size=200)}),
                   {"a": Binary("a"), "same": Binary("same")})  # fmt: skip
    assert LikelihoodRatioTest(data)(0, 2, (1,)) == 1.0


def test_chi_square_is_scipys():
    data = columns()
    table = pd.crosstab(data.codes[:, 2], data.codes[:, 3])
    wanted = stats.chi2_contingency(table, correction=False).pvalue
    assert LibraryTest(data.binned(4), data.names, "chisq")(2, 3, ()) == pytest.approx(wanted)
    wanted = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood").pvalue
    assert LibraryTest(data.binned(4), data.names, "gsq")(2, 3, ()) == pytest.approx(wanted)


@pytest.mark.parametrize("method", ["chisq", "fisherz"])
def test_missing_values_cost_only_the_rows_of_the_question(method):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(300, 4)) > 0).astype(float) if method == "chisq" else rng.normal(size=(300, 4))
    holed = values.copy()
    holed[:100, 1], holed[50:180, 3] = np.nan, np.nan
    test, names = LibraryTest(holed, "abcd", method), "abcd"
    assert test(0, 2, ()) == pytest.approx(LibraryTest(values, names, method)(0, 2, ()))
    assert test(0, 1, (2,)) == pytest.approx(LibraryTest(values[100:], names, method)(0, 1, (2,)))
    assert test(1, 3, (0,)) == pytest.approx(LibraryTest(values[180:], names, method)(1, 3, (0,)))


def test_bins_are_quantiles_and_missing_stays_missing():
    data = Columns(pd.DataFrame({"x": [*np.arange(100.0), np.nan]}), {})
    binned = data.binned(4)[:, 0]
    assert np.unique(binned[:100], return_counts=True)[1].tolist() == [25] * 4
    assert np.isnan(binned[100])


@pytest.mark.parametrize("at", [0.0, 5.0, 9.0])
@pytest.mark.parametrize("method", ["chisq", "gsq"])
def test_a_number_most_of_which_are_one_value_is_still_tied_to_what_it_goes_with(method, at):
    """Days in intensive care, say: 0 in four of five. Below, among or above the other values; scipy on the 2 x 2 table."""
    rng = np.random.default_rng(3)
    b = rng.integers(0, 2, 2000)
    other = rng.uniform(size=2000) < np.where(b == 1, 0.35, 0.05)
    x = np.where(other, rng.uniform(1, 4, 2000) if at else rng.uniform(6, 9, 2000), at)
    data = Columns(pd.DataFrame({"x": x, "b": pd.Categorical(b, [0, 1])}), {"b": ATTRIBUTES["b"], "x": NUMBER})
    assert (x == at).mean() > 0.75
    table = pd.crosstab(other, b)
    wanted = stats.chi2_contingency(table, correction=False, lambda_=None if method == "chisq" else "log-likelihood")
    found = LibraryTest(data.binned(4), data.names, method)(0, 1, ())
    assert found == pytest.approx(wanted.pvalue, rel=1e-6)
    assert found < 1e-20


@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.integers(2, 6))
def test_what_varies_still_varies_in_bins_and_keeps_its_order(numbers, bins):
    x = np.array(numbers, dtype=float)
    binned = Columns(pd.DataFrame({"x": x}), {}).binned(bins)[:, 0]
    assert (np.ptp(binned) > 0) == (np.ptp(x) > 0)
    assert (np.diff(binned[np.argsort(x, kind="stable")]) >= 0).all()
    assert len(np.unique(binned)) <= bins
