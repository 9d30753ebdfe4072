"""Fieller's interval against its definition, the delta method, and by simulation."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from causal_cxr.audits.effects import Effect, fieller_interval


@given(st.floats(-1, 1), st.floats(0.01, 0.3), st.floats(0.3, 1), st.floats(0.001, 0.1), st.integers(20, 500))
def test_at_either_end_the_test_of_the_ratio_is_just_not_rejected(value, se, slope, slope_se, dof) -> None:
    found = fieller_interval(Effect(value, se, dof, dof, dof), slope, slope_se)
    t = stats.t.ppf(0.975, dof)
    if slope <= t * slope_se:
        assert (found.low, found.high) == (-math.inf, math.inf)
        return
    assert found.low <= found.value <= found.high
    for end in (found.low, found.high):
        assert abs(value - end * slope) / math.hypot(se, end * slope_se) == pytest.approx(t, rel=1e-6)


def test_a_known_slope_divides_the_t_interval() -> None:
    effect = Effect(0.2, 0.03, 40, 50, 41)
    found = fieller_interval(effect, 0.5, 0.0)
    assert (found.low, found.high) == pytest.approx(tuple(end / 0.5 for end in effect.interval()))


def delta_method(effect: Effect, slope: float, slope_se: float) -> tuple[float, float]:
    """The symmetric interval, of the slope's error where the estimate lies."""
    return replace(effect.scaled(slope, slope_se), relative=0.0).interval()


@given(st.floats(-1, 1), st.floats(0.01, 0.3), st.floats(0.3, 1), st.floats(0.001, 0.1), st.integers(20, 500))
def test_an_effect_that_was_scaled_has_this_interval_and_tests_that_agree_with_it(
    value, se, slope, slope_se, dof
) -> None:
    raw = Effect(value, se, dof, dof, dof)
    scaled, found = raw.scaled(slope, slope_se), fieller_interval(raw, slope, slope_se)
    assert scaled.interval() == pytest.approx((found.low, found.high), rel=1e-6)
    if math.isfinite(found.low) and max(abs(found.low), abs(found.high)) > 0.01:
        assert scaled.p_no(max(abs(found.low), abs(found.high))) == pytest.approx(0.025, rel=1e-4)


def test_no_is_said_of_an_effect_as_large_as_counts_as_rarely_as_it_should_be() -> None:
    rng, delta = np.random.default_rng(0), 0.1
    slopes, values = rng.normal(0.6, 0.06, 20_000), rng.normal(delta * 0.6, 0.002, 20_000)
    p = np.array([Effect(v, 0.002, 1e6, 1, 1).scaled(s, 0.06).p_no(delta) for v, s in zip(values, slopes, strict=True)])
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.005)
    assert np.mean(p <= 0.001) < 0.002


def test_a_precise_slope_gives_the_delta_method_and_an_imprecise_one_a_longer_far_side() -> None:
    effect = Effect(0.2, 0.01, 1e6, 500, 500)
    for slope_se, near in ((0.01, True), (0.12, False)):
        fieller, delta = fieller_interval(effect, 0.5, slope_se), delta_method(effect, 0.5, slope_se)
        assert ((fieller.low, fieller.high) == pytest.approx(delta, abs=0.003)) == near
    assert fieller.high > delta[1] + 0.1


def test_a_reader_that_reads_backwards_turns_the_effect() -> None:
    forth, back = (fieller_interval(Effect(0.2, 0.02, 99, 100, 100), slope, 0.05) for slope in (0.5, -0.5))
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))


def test_it_covers_and_misses_on_either_side_alike_where_the_delta_method_misses_on_one() -> None:
    rng = np.random.default_rng(0)
    truth, runs = 0.8, 4_000
    values, slopes = rng.normal(truth * 0.5, 0.01, runs), rng.normal(0.5, 0.1, runs)
    effects = [Effect(value, 0.01, 1e6, 0, 0) for value in values]
    fieller = [fieller_interval(effect, slope, 0.1) for effect, slope in zip(effects, slopes, strict=True)]
    delta = [delta_method(effect, slope, 0.1) for effect, slope in zip(effects, slopes, strict=True)]
    assert np.mean([found.covers(truth) for found in fieller]) == pytest.approx(0.95, abs=0.012)
    for ends, alike in (([(f.low, f.high) for f in fieller], True), (delta, False)):
        over, under = (np.mean([low > truth for low, _ in ends]), np.mean([high < truth for _, high in ends]))
        assert (abs(over - under) < 0.012) == alike


@pytest.mark.parametrize(("slope", "slope_se"), [(0.0, 0.1), (math.nan, 0.1), (0.5, math.nan), (0.5, -0.1)])
def test_no_slope_is_no_divisor(slope, slope_se) -> None:
    with pytest.raises(ValueError, match="judge the reader"):
        fieller_interval(Effect(0.1, 0.1, 9, 10, 10), slope, slope_se)
