"""E-BH against its definition and Benjamini-Hochberg; the calibrator against Benjamini-Yekutieli; nuisances paid for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from causal_cxr.audits.effects import benjamini_yekutieli_calibrator, e_bh, e_needed, hedged, spared, spared_error
from causal_cxr.audits.effects.evalues import HEDGE

e_values = st.lists(st.one_of(st.floats(0, 2_000), st.just(np.inf)), min_size=1, max_size=40).map(np.array)
p_values = st.lists(st.floats(1e-9, 1), min_size=1, max_size=40).map(np.array)
alphas = st.sampled_from([0.01, 0.05, 0.2])


@given(e_values, alphas)
def test_e_bh_claims_as_many_as_its_definition_allows(e, alpha):
    claimed = e_bh(e, alpha)
    allowed = [k for k in range(1, len(e) + 1) if np.sort(e)[::-1][k - 1] >= len(e) / (alpha * k)]
    at_least = len(e) / (alpha * max(allowed)) if allowed else np.inf
    assert claimed.tolist() == [bool(allowed) and x >= at_least for x in e]


@given(st.lists(st.floats(1.0, 1e6), min_size=1, max_size=40).map(np.array), alphas)
def test_e_bh_is_benjamini_hochberg_on_inverse_e_values(e, alpha):
    distances = np.abs(e[:, None] - e_needed(len(e), np.arange(1, len(e) + 1), alpha))
    if distances.min() > 1e-9 * e.max():  # on the border only rounding decides
        assert e_bh(e, alpha).tolist() == multipletests(1 / e, alpha, method="fdr_bh")[0].tolist()


@given(p_values, alphas)
def test_calibrated_p_values_are_claimed_as_benjamini_and_yekutieli_would(p, alpha):
    e = benjamini_yekutieli_calibrator(p, len(p), alpha)
    thresholds = alpha * np.arange(1, len(p) + 1) / len(p) / (1 / np.arange(1, len(p) + 1)).sum()
    if np.abs(p[:, None] - thresholds).min() > 1e-12:
        assert e_bh(e, alpha).tolist() == multipletests(p, alpha, method="fdr_by")[0].tolist()


@pytest.mark.parametrize(("tests", "alpha"), [(1, 0.05), (7, 0.1), (48, 0.05)])
def test_the_calibrator_spends_all_that_an_e_value_may_have(tests, alpha):
    harmonic = (1 / np.arange(1, tests + 1)).sum()
    steps = alpha * np.arange(tests + 1) / (tests * harmonic)
    middles = (steps[1:] + steps[:-1]) / 2  # the function is constant between its steps, and 0 beyond the last
    area = (np.diff(steps) * benjamini_yekutieli_calibrator(middles, tests, alpha)).sum()
    assert area == pytest.approx(1)
    assert benjamini_yekutieli_calibrator(np.array([steps[-1] * 1.001, 1.0]), tests, alpha).tolist() == [0, 0]


def test_no_more_false_claims_than_told_although_all_cells_share_their_patients():
    """40 cells, 30 of them null, with e-values that rise and fall together."""
    rng = np.random.default_rng(0)
    shares, lift = [], 3.0
    for _ in range(2_000):
        common = rng.standard_normal()
        z = 0.8 * common + 0.6 * rng.standard_normal(40) + np.where(np.arange(40) < 10, 4.0, 0.0)
        claimed = e_bh(np.exp(lift * z - lift**2 / 2), 0.1)
        shares.append(claimed[10:].sum() / max(claimed.sum(), 1))
    assert np.mean(shares) <= 0.1


@given(st.floats(10, 1e5))
def test_an_e_value_that_rests_on_a_bound_keeps_its_mean(most):
    """Where the bound fails the e-value may be anything; its mean is 1 otherwise."""
    fails = spared_error(most)
    mean = (1 - fails) * spared(np.log(1.0), most) + fails * spared(np.inf, most)
    assert mean <= 1 + 1e-12


def test_what_is_cut_still_reaches_what_a_single_claim_needs():
    most = float(e_needed(48, 1, 0.05))
    cut = spared(np.array([np.inf, 1e4, 0.0]), most)
    assert cut[0] == cut[1] == most
    assert e_bh(np.array([*cut[:1], *np.ones(47)]), 0.05).tolist() == [True] + [False] * 47
    assert cut[2] == pytest.approx(1 / 1.05)


def test_what_is_unknown_is_never_claimed():
    assert benjamini_yekutieli_calibrator(np.array([np.nan]), 1, 0.05).tolist() == [0]
    assert e_bh(np.array([np.nan, 1e9]), 0.05).tolist() == [False, True]
    assert e_bh(np.array([]), 0.05).tolist() == []


@pytest.mark.parametrize("cost", [0.0, 1.0, 2.8, 6.0])
def test_a_hedged_e_value_holds_its_level_though_the_border_is_an_estimate(cost):
    """Normal data at a border that is known with an error as large as the data's own: what the estimate alone claims is wrong."""
    rng = np.random.default_rng(0)
    runs, n, bet, most = 20_000, 50, 0.4, 200.0
    error = 1 / np.sqrt(n)
    total = n * 0.3 + np.sqrt(n) * rng.normal(size=runs)
    border = 0.3 + error * rng.normal(size=runs)

    def log_e(far: np.ndarray) -> np.ndarray:
        return bet * (total - n * (border + far)) - n * bet**2 / 2

    e = spared(hedged(log_e, np.full(runs, error), most, cost=np.full(runs, cost)), most)
    naive = np.minimum(np.exp(log_e(np.zeros(runs))), most)
    assert e.mean() < 1 + 3 * e.std() / np.sqrt(runs)
    assert naive.mean() > 2


def test_hedging_asks_less_than_that_a_claim_holds_at_the_far_end():
    def log_e(far: np.ndarray) -> np.ndarray:
        return 12.0 * (1 - far / 0.1)

    error = np.array([0.005, 0.015, 0.0])
    found = hedged(log_e, error, 1_000.0, cost=12 * error / 0.1)
    far_end = log_e(error * stats.norm.isf(spared_error(1_000.0)))
    assert found[1] > far_end[1] + 2
    assert found[2] == 12.0, "a border that is known costs nothing"
    assert found[0] > found[1]


def test_a_hedge_costs_least_where_it_expects_what_the_border_costs():
    """A linear loss: the closed form of the least product, and next to nothing beside the true cost's square over 2."""
    error, loss = np.full(4, 0.01), 0.8
    cost = np.array([0.0, 0.4, 0.8, 1.6])
    found = hedged(lambda far: 9.0 - loss * far / 0.01, error, 1_000.0, cost=cost)
    least = 9.0 - np.log1p(HEDGE) / 2 - cost**2 / (2 * (1 + HEDGE))
    least -= (loss * (1 + HEDGE) - cost) ** 2 / (2 * HEDGE * (1 + HEDGE))
    assert found == pytest.approx(least)
    assert found[0] < found[1] < found[2]
