"""Missing attributes: their posterior against enumeration and integrals, and fits where leaving rows out is wrong."""

import time

import numpy as np
import pandas as pd
import pytest
from random_scms import scm_with
from scipy.special import expit

from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous
from causal_cxr.graphs.scm import SCM, AffineFlow

AGE = Continuous("age", unit="years", low=0, high=100)
DOSE = Continuous("dose", unit="mAs", low=0, high=10)
VIEW = Binary("view", levels=("PA", "AP"))
EDEMA = Binary("edema")
TUBE = Categorical("tube", levels=("none", "nasal", "tracheal"))

#: edema -> tube -> view, and a latent behind edema and view
LEVELS = scm_with(
    CausalGraph([EDEMA, TUBE, VIEW], [("edema", "tube"), ("tube", "view")], confounded=[("edema", "view")]),
    edema=[[0.0, -0.4], [0.0, 1.5]],
    tube=[[0.5, 0.0, -0.5], [0.0, 0.8, 1.0]],
    view=[[0.0, -1.0], [0.0, 1.2], [0.0, 2.0], [0.0, 1.5]],
)
#: age -> dose, both normal on the value: dose = 5 + 2.5 (0.8 (age - 50) / 25 + 0.3 e), age = 50 + 25 (0.3 e')
NORMAL = scm_with(
    CausalGraph([AGE, DOSE], [("age", "dose")]),
    dict.fromkeys(("age", "dose"), AffineFlow(bounded=False)),
    age=[[0.0, np.log(np.expm1(0.3)) - 0.5]],
    dose=[[0.0, np.log(np.expm1(0.3)) - 0.5], [0.8, 0.0]],
)


def cells() -> pd.DataFrame:
    every = [(e, t, v) for e in EDEMA.levels for t in TUBE.levels for v in VIEW.levels]
    return pd.DataFrame(every, columns=["edema", "tube", "view"])


@pytest.mark.parametrize("observed", [{"view": "AP"}, {"edema": 1, "view": "PA"}, {"tube": "nasal"}, {}])
def test_missing_levels_have_their_exact_posterior(observed: dict) -> None:
    table = cells().assign(p=np.exp(LEVELS.log_prob(cells())))
    for name, value in observed.items():
        table = table[table[name] == value]
    n = 20_000
    holed = pd.DataFrame({name: [observed.get(name)] * n for name in LEVELS.order})
    np.testing.assert_allclose(LEVELS.log_prob(holed.head(2)), np.log(table["p"].sum()), atol=1e-12)
    made = LEVELS.impute(holed, seed=1).value_counts(normalize=True)
    expected = table.set_index(list(cells()))["p"] / table["p"].sum()
    for cell, p in expected.items():
        assert made.get(cell, 0) == pytest.approx(p, abs=4 * np.sqrt(0.25 / n))


def test_a_missing_number_has_its_posterior_and_the_rest_its_density() -> None:
    # given dose = 5 + 2.5 d: age' ~ N(0.3^2 0.8 d / v, 0.3^2 (1 - 0.3^2 0.8^2 / v)), v = 0.3^2 (0.8^2 + 1)
    n, d, v = 4000, 0.4, 0.09 * 1.64
    holed = pd.DataFrame({"age": [np.nan] * n, "dose": [5 + 2.5 * d] * n})
    age = NORMAL.impute(holed, seed=2)["age"]
    mean, sd = 50 + 25 * 0.09 * 0.8 * d / v, 25 * np.sqrt(0.09 * (1 - 0.09 * 0.64 / v))
    assert age.mean() == pytest.approx(mean, abs=5 * sd / np.sqrt(n))
    assert age.std() == pytest.approx(sd, rel=0.05)
    exact = -0.5 * np.log(2 * np.pi * v) - d**2 / (2 * v) - np.log(2.5)
    assert np.abs(NORMAL.log_prob(holed) - exact).mean() < 0.1  # 200 proposals, about 120 effective
    # a missing number without observed effects leaves the density of the rest exact
    leaf = pd.DataFrame({"age": [60.0], "dose": [np.nan]})
    expected = -0.5 * np.log(2 * np.pi * 7.5**2) - 10**2 / (2 * 7.5**2)
    np.testing.assert_allclose(NORMAL.log_prob(leaf), expected, atol=1e-9)


def test_few_effective_proposals_are_said() -> None:
    odd = scm_with(NORMAL.graph, NORMAL.mechanisms, age=[[0, -1.0]], dose=[[0, -9.0], [0.8, 0]])
    with pytest.warns(
        RuntimeWarning, match=r"of 1 rows, among them \['p7'\], rests on fewer than 20 effective of 4000"
    ):
        odd.impute(pd.DataFrame({"age": [np.nan, 50.0], "dose": [5.05, 5.0]}, index=["p7", "p8"]))


def test_counterfactuals_of_incomplete_rows_average_over_what_they_lack() -> None:
    """P(view | do(tube)) of rows whose edema is missing is that of the same rows with edema hidden by marginalising."""
    rows = LEVELS.sample(20_000, seed=3)
    holed = rows.assign(edema=pd.Series([None] * len(rows), dtype=object))
    whole, imputed = (LEVELS.counterfactual(t, {"tube": "tracheal"}, seed=4) for t in (rows, holed))
    assert imputed["edema"].notna().all()
    for edema in EDEMA.levels:  # the imputed rows are a sample of the model too
        share = [(t.loc[t["edema"] == edema, "view"] == "AP").mean() for t in (whole, imputed)]
        assert share[0] == pytest.approx(share[1], abs=0.02)
    # imputation and abduction draw from different streams: the latent does not follow the imputed level by chance
    alone = LEVELS.impute(holed, seed=4)
    pd.testing.assert_frame_equal(
        LEVELS.counterfactual(alone, {"tube": "none"}, seed=4), LEVELS.counterfactual(holed, {"tube": "none"}, seed=4)
    )


def portable(n: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """age -> view -> edema; age is missing for most AP views, edema for old patients: at random given what is seen."""
    rng = np.random.default_rng(seed)
    age = 100 * expit(rng.normal(size=n))
    view = rng.random(n) < expit((age - 50) / 15)
    edema = (rng.random(n) < np.where(view, 0.6, 0.2)).astype(float)
    whole = pd.DataFrame({"age": age, "view": np.where(view, "AP", "PA"), "edema": edema})
    holed = whole.copy()
    holed.loc[rng.random(n) < np.where(view, 0.8, 0.05), "age"] = np.nan
    holed.loc[(rng.random(n) < np.where(holed["age"] > 60, 0.7, 0.1)), "edema"] = np.nan
    return whole, holed


def test_a_fit_with_missing_rows_is_right_where_complete_rows_mislead() -> None:
    graph = CausalGraph([AGE, VIEW, EDEMA], [("age", "view"), ("view", "edema")])
    whole, holed = portable(4000, 0)
    truth, left_out, imputing = (SCM(graph).fit(t) for t in (whole, holed.dropna(), holed))
    assert imputing.rows_imputed == holed.isna().any(axis=1).sum()
    assert imputing.rows_left_out == 0
    assert SCM(graph).fit(holed).fingerprint == imputing.fingerprint

    def summary(scm: SCM) -> np.ndarray:
        rows = scm.sample(20_000, seed=1)
        return np.array([rows["age"].mean() / 100, (rows["view"] == "AP").mean(), (rows["edema"] == 1).mean()])

    error = {name: np.abs(summary(scm) - summary(truth)) for name, scm in (("out", left_out), ("in", imputing))}
    assert error["out"].max() > 0.25
    assert error["in"].max() < 0.03


def test_no_complete_row_is_needed_and_only_empty_ones_are_left_out() -> None:
    rng = np.random.default_rng(1)
    graph = CausalGraph([EDEMA, TUBE, VIEW], [("edema", "tube"), ("tube", "view")])
    rows = scm_with(
        graph, edema=[[0.0, 0.3]], tube=[[0.8, 0.0, 0.0], [0.0, 0.5, 1.5]], view=[[0.0, -1.0], [0.0, 1.0], [0.0, 2.5]]
    ).sample(4000, seed=2)
    holed = rows.astype(object)
    first = rng.random(4000) < 0.5
    holed.loc[first, "edema"] = None
    holed.loc[~first, "view"] = None
    holed.loc[:9] = None
    scm = SCM(graph).fit(holed)
    assert (scm.rows_left_out, scm.rows_imputed) == (10, 3990)
    table = cells()
    seen = rows.value_counts(normalize=True)
    expected = [seen.get(tuple(cell), 0) for cell in table.to_numpy()]
    np.testing.assert_allclose(np.exp(scm.log_prob(table)), expected, atol=0.03)


def test_what_no_row_has_is_named() -> None:
    with pytest.raises(ValueError, match=r"No row of the table has \['age'\]; nothing to fit .* declare their"):
        SCM(NORMAL.graph).fit(pd.DataFrame({"age": [np.nan] * 3, "dose": [1.0, 2.0, 3.0]}))


def test_many_rows_are_imputed_in_seconds() -> None:
    rows = NORMAL.sample(50_000, seed=0)
    holed = rows.mask(np.random.default_rng(0).random(rows.shape) < 0.1)
    start = time.process_time()
    NORMAL.impute(holed)
    assert time.process_time() - start < 10
