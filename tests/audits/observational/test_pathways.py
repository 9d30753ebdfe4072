import numpy as np
import pandas as pd
import pytest
from dowhy import CausalModel
from questions import question
from statsmodels.sandbox.regression.gmm import IV2SLS

from causal_cxr.audits.observational import UnanswerableError, front_door, instrumental
from causal_cxr.graphs.identification import dowhy_quietly


def smoking(n: int, seed: int):
    """u -> t, t -> m (three levels), m -> y, u -> y; the product of t and m matters."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=n)
    t = (rng.uniform(size=n) < 1 / (1 + np.exp(-2 * u))).astype(float)
    p = np.where(t[:, None] == 1, [0.2, 0.3, 0.5], [0.6, 0.3, 0.1])
    m = (rng.uniform(size=n)[:, None] > np.cumsum(p, axis=1)).sum(axis=1)
    y = (rng.uniform(size=n) < 0.1 + 0.2 * m + 0.1 * m * (u > 0) + 0.1 * (u > 0)).astype(float)
    truth = 0.25 * (0.3 + 2 * 0.5 - 0.3 - 2 * 0.1)  # half of the population has u > 0
    return t, m, y, truth


def formula(t, m, y) -> float:
    """sum_m [P(m | 1) - P(m | 0)] sum_t' P(t') E[y | m, t'], cell by cell."""
    cells = pd.DataFrame({"t": t, "m": m, "y": y})
    inner = {v: sum((t == w).mean() * cells[(cells.m == v) & (cells.t == w)].y.mean() for w in (0, 1)) for v in set(m)}
    return sum(((m[t == 1] == v).mean() - (m[t == 0] == v).mean()) * inner[v] for v in set(m))


def test_the_front_door_of_discrete_attributes_is_pearls_formula_and_right():
    t, m, y, truth = smoking(40_000, 0)
    dummies = np.column_stack([m == 1, m == 2]).astype(float)
    effect = front_door(question(t, y), dummies)[0]
    assert effect.value == pytest.approx(formula(t, m, y), abs=1e-10)
    assert abs(effect.value - truth) < 3 * effect.se
    assert y[t == 1].mean() - y[t == 0].mean() > truth + 10 * effect.se  # the association is confounded


def test_in_a_linear_model_it_is_dowhys_two_stage_regression():
    rng = np.random.default_rng(1)
    u, n = rng.normal(size=4000), 4000
    t = (rng.uniform(size=n) < 1 / (1 + np.exp(-u))).astype(float)
    m = 0.8 * t + rng.normal(size=n)
    y = 0.5 * m + u + rng.normal(size=n)
    data = pd.DataFrame({"t": t, "m": m, "y": y})
    with dowhy_quietly(0):
        model = CausalModel(data, "t", "y", graph="digraph{t->m;m->y;u->t;u->y;}")
        theirs = model.estimate_effect(
            model.identify_effect(proceed_when_unidentifiable=True), method_name="frontdoor.two_stage_regression"
        )
    effect = front_door(question(t, y), m[:, None])[0]
    assert effect.value == pytest.approx(theirs.value, abs=0.1 * effect.se)
    assert abs(effect.value - 0.4) < 3 * effect.se


def test_the_front_doors_error_is_that_of_repeated_sampling():
    found = []
    for seed in range(200):
        t, m, y, _ = smoking(600, seed)
        found.append(front_door(question(t, y), np.column_stack([m == 1, m == 2]).astype(float))[0])
    assert np.mean([e.se for e in found]) == pytest.approx(np.std([e.value for e in found]), rel=0.15)


def encouraged(n: int, seed: int, strength: float = 0.4):
    """w is a coin that encourages t; u acts on t and y; t acts by 0.5."""
    rng = np.random.default_rng(seed)
    w, u = rng.integers(0, 2, n).astype(float), rng.normal(size=n)
    t = (rng.uniform(size=n) < np.clip(0.3 + strength * w + 0.1 * u, 0, 1)).astype(float)
    return w, t, 0.5 * t + u + rng.normal(size=n)


def test_a_binary_instrument_gives_walds_ratio_and_undoes_hidden_confounding():
    w, t, y = encouraged(20_000, 0)
    wald = (y[w == 1].mean() - y[w == 0].mean()) / (t[w == 1].mean() - t[w == 0].mean())
    effect = instrumental(question(t, y), w[:, None])[0]
    assert effect.value == pytest.approx(wald, abs=1e-10)
    assert abs(effect.value - 0.5) < 3 * effect.se
    assert y[t == 1].mean() - y[t == 0].mean() > 0.6


def test_several_columns_are_two_stage_least_squares():
    rng = np.random.default_rng(2)
    w = rng.integers(0, 3, 3000)
    z = np.column_stack([w == 1, w == 2]).astype(float)
    u = rng.normal(size=3000)
    t = 0.7 * z[:, 0] + 0.4 * z[:, 1] + u + rng.normal(size=3000)
    y = 0.5 * t - u + rng.normal(size=3000)
    ones = np.ones((3000, 1))
    theirs = IV2SLS(y, np.column_stack([ones, t]), np.column_stack([ones, z])).fit()
    effect = instrumental(question(t, y, continuous=True), z)[0]
    assert effect.value == pytest.approx(theirs.params[1], abs=1e-9)
    assert effect.se == pytest.approx(theirs.bse[1], rel=0.05)  # theirs takes one spread for all rows


def test_the_instruments_error_is_that_of_repeated_sampling():
    found = [instrumental(question(t, y), w[:, None])[0] for w, t, y in (encouraged(800, s) for s in range(200))]
    assert np.mean([e.se for e in found]) == pytest.approx(np.std([e.value for e in found]), rel=0.15)


def test_a_weak_instrument_is_refused():
    w, t, y = encouraged(400, 3, strength=0.0)
    with pytest.raises(UnanswerableError, match="weak instrument"):
        instrumental(question(t, y), w[:, None])
