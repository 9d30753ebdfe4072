"""The SCM against closed forms, frequencies, Pearl's axioms, and Pyro's own interventions."""

import json
import time

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from scipy.special import expit, logit

from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous
from causal_cxr.graphs.scm import SCM
from causal_cxr.graphs.scm.fitting import maximise
from causal_cxr.graphs.scm.mechanisms import AffineFlow
from causal_cxr.graphs.scm.structure import Structure

AGE = Continuous("age", "years", 0, 100)
DOSE = Continuous("dose", "mGy", 0, 10)
VIEW = Binary("view", levels=("PA", "AP"))
EDEMA = Binary("edema")
TUBE = Categorical("tube", levels=("none", "nasal", "tracheal"))


def affine_table(n: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """dose's logit = -0.5 + 0.8 * (age - 50) / 25 + 0.6 * noise, and that noise."""
    age = 100 * expit(rng.normal(0, 1, n))
    noise = rng.normal(size=n)
    return pd.DataFrame({"age": age, "dose": 10 * expit(-0.5 + 0.8 * (age - 50) / 25 + 0.6 * noise)}), noise


@pytest.fixture(scope="module")
def affine() -> tuple[SCM, pd.DataFrame, np.ndarray]:
    table, noise = affine_table(4000, np.random.default_rng(0))
    return SCM(CausalGraph([AGE, DOSE], [("age", "dose")])).fit(table), table, noise


@pytest.fixture(scope="module")
def levels() -> tuple[SCM, pd.DataFrame]:
    """age -> view -> tube, and view -> edema."""
    rng = np.random.default_rng(1)
    n = 4000
    age = rng.uniform(1, 99, n)
    view = rng.random(n) < expit((age - 50) / 20)
    tube = np.where(view, rng.choice(3, n, p=[0.3, 0.3, 0.4]), rng.choice(3, n, p=[0.8, 0.15, 0.05]))
    edema = (rng.random(n) < np.where(view, 0.6, 0.2)).astype(int)
    table = pd.DataFrame(
        {"age": age, "view": np.array(VIEW.levels)[view.astype(int)], "tube": np.array(TUBE.levels)[tube]}
    )
    table["edema"] = edema
    graph = CausalGraph([AGE, VIEW, TUBE, EDEMA], [("age", "view"), ("view", "tube"), ("view", "edema")])
    return SCM(graph).fit(table), table


def test_abduction_finds_the_noise_and_prediction_the_closed_form(affine: tuple[SCM, pd.DataFrame, np.ndarray]) -> None:
    scm, table, noise = affine
    assert np.allclose(scm.abduct(table)["dose"].numpy(), noise, atol=0.15)
    older = table["age"].clip(upper=79) + 20
    edited = scm.counterfactual(table, {"age": older})
    expected = 10 * expit(logit(table["dose"] / 10) + 0.8 * (older - table["age"]) / 25)
    assert np.abs(edited["dose"] - expected).max() < 0.2
    assert edited["dose"].between(0, 10).all()


def test_density_is_that_of_the_change_of_variables(affine: tuple[SCM, pd.DataFrame, np.ndarray]) -> None:
    scm, table, noise = affine
    y = table["dose"] / 10
    dose = -0.5 * noise**2 - 0.5 * np.log(2 * np.pi) - np.log(0.6) - np.log(10 * y * (1 - y))
    x = table["age"] / 100
    age = -0.5 * logit(x) ** 2 - 0.5 * np.log(2 * np.pi) - np.log(100 * x * (1 - x))
    assert scm.log_prob(table).mean() == pytest.approx((dose + age).mean(), abs=0.01)


def test_levels_are_fitted_to_their_frequencies(levels: tuple[SCM, pd.DataFrame]) -> None:
    scm, table = levels
    sampled = scm.sample(20000, seed=3)
    for column in ("tube", "edema"):
        seen = pd.crosstab(table["view"], table[column], normalize="index")
        made = pd.crosstab(sampled["view"], sampled[column], normalize="index")
        assert np.abs(seen.loc[made.index, made.columns].to_numpy() - made.to_numpy()).max() < 0.03


def test_counterfactual_levels_have_the_interventional_frequencies(levels: tuple[SCM, pd.DataFrame]) -> None:
    """Averaging the Gumbel posterior over the rows gives back p(tube | do(view)), as the rows are from the model."""
    scm, _ = levels
    rows = scm.sample(20000, seed=4)
    edited = scm.counterfactual(rows, {"view": "AP"}, seed=5)
    truth = rows.loc[rows["view"] == "AP", "tube"].value_counts(normalize=True)
    assert np.abs(edited["tube"].value_counts(normalize=True) - truth).max() < 0.02


def test_the_gumbel_posterior_is_stable(levels: tuple[SCM, pd.DataFrame]) -> None:
    """Oberst & Sontag: a level whose odds against the observed one did not rise cannot take its place."""
    scm, table = levels
    upright = table[(table["view"] == "AP") & (table["tube"] == "none")]
    # PA makes "none" more likely and both tubes less: nobody without a tube may gain one.
    assert (scm.counterfactual(upright, {"view": "PA"}, seed=6)["tube"] == "none").all()


def test_what_is_no_descendant_stays_bit_for_bit(levels: tuple[SCM, pd.DataFrame]) -> None:
    scm, table = levels
    factual = scm.graph.coerce(table)
    edited = scm.counterfactual(table, {"view": "AP"})
    pd.testing.assert_series_equal(edited["age"], factual["age"], check_exact=True)
    assert (edited["view"] == "AP").all()
    assert (edited["tube"] != factual["tube"]).any()
    kept = factual["view"] == "AP"
    pd.testing.assert_frame_equal(edited[kept], factual[kept], check_exact=True)


def test_composition_one_value_a_row_and_order_of_rows(levels: tuple[SCM, pd.DataFrame]) -> None:
    scm, table = levels
    odd = table.sample(200, random_state=0)
    same = scm.counterfactual(odd, {"view": odd["view"], "age": odd["age"].to_numpy()})
    pd.testing.assert_frame_equal(same, scm.graph.coerce(odd), check_exact=True)


def test_prediction_from_abducted_noise_gives_the_rows_back(levels: tuple[SCM, pd.DataFrame]) -> None:
    scm, table = levels
    made = scm.predict(scm.abduct(table, seed=2))
    factual = scm.graph.coerce(table).reset_index(drop=True)
    pd.testing.assert_frame_equal(made, factual, rtol=1e-9)


def test_pyro_can_intervene_on_the_program(levels: tuple[SCM, pd.DataFrame]) -> None:
    scm, table = levels
    pyro.set_rng_seed(0)
    values = pyro.do(scm.model, data={"view": torch.ones(20000)})(20000)
    share = (table.loc[table["view"] == "AP", "edema"] == 1).mean()
    assert values["edema"].mean().item() == pytest.approx(share, abs=0.02)


def test_fitting_is_deterministic_fast_and_counts_what_it_imputes() -> None:
    rng = np.random.default_rng(2)
    names = ["a", "b", "c"]
    graph = CausalGraph(
        [AGE, DOSE, TUBE, *map(Binary, names)],
        [("age", "dose"), ("age", "tube"), ("tube", "a"), ("a", "b"), ("age", "b"), ("dose", "c")],
    )
    table, _ = affine_table(5000, rng)
    table["tube"] = rng.choice(TUBE.levels, 5000)
    for name in names:
        table[name] = rng.integers(0, 2, 5000)
    table.loc[:9, "dose"] = np.nan
    start = time.process_time()
    first = SCM(graph).fit(table)
    assert time.process_time() - start < 10
    assert (first.rows_left_out, first.rows_imputed) == (0, 10)
    assert first.fingerprint == SCM(graph).fit(table).fingerprint


def test_a_saved_model_is_the_same_model(levels: tuple[SCM, pd.DataFrame]) -> None:
    scm, table = levels
    again = SCM.from_dict(json.loads(json.dumps(scm.to_dict())))
    assert again.fingerprint == scm.fingerprint
    made, remade = (m.counterfactual(table, {"view": "PA"}, seed=1) for m in (scm, again))
    pd.testing.assert_frame_equal(made, remade, check_exact=True)
    assert not made.equals(scm.counterfactual(table, {"view": "PA"}, seed=2))


def test_values_at_the_ends_of_the_range_stay_finite() -> None:
    rng = np.random.default_rng(3)
    table, _ = affine_table(300, rng)
    table.loc[:2, "dose"] = [0.0, 10.0, 5.0]
    scm = SCM(CausalGraph([AGE, DOSE], [("age", "dose")])).fit(table)
    assert np.isfinite(scm.log_prob(table)).all()
    assert scm.counterfactual(table, {"age": 99.0})["dose"].between(0, 10).all()


def test_a_shared_latent_carries_association_but_no_effect() -> None:
    rng = np.random.default_rng(4)
    latent = rng.normal(size=4000)
    table = pd.DataFrame({"edema": (rng.random(4000) < expit(2 * latent)).astype(int)})
    table["view"] = np.where(rng.random(4000) < expit(-2 * latent), "AP", "PA")
    scm = SCM(CausalGraph([EDEMA, VIEW], confounded=[("edema", "view")])).fit(table)

    cells = pd.DataFrame([(e, v) for e in EDEMA.levels for v in VIEW.levels], columns=["edema", "view"])
    density = np.exp(scm.log_prob(cells))
    seen = table.value_counts(normalize=True)
    assert density.sum() == pytest.approx(1)
    assert np.allclose(density, [seen[tuple(row)] for row in cells.to_numpy()], atol=0.01)
    made = scm.sample(20000, seed=0).value_counts(normalize=True)
    assert np.allclose(density, [made[tuple(row)] for row in cells.to_numpy()], atol=0.015)
    edited = scm.counterfactual(table, {"edema": 1})
    pd.testing.assert_series_equal(edited["view"], scm.graph.coerce(table)["view"], check_exact=True)


def test_a_shared_latent_of_numbers_is_found_in_the_rows() -> None:
    rng = np.random.default_rng(5)
    latent = rng.normal(size=4000)
    table = pd.DataFrame({"age": 100 * expit(latent + 0.6 * rng.normal(size=4000))})
    table["dose"] = 10 * expit(latent + 0.6 * rng.normal(size=4000))
    scm = SCM(CausalGraph([AGE, DOSE], confounded=[("age", "dose")])).fit(table)
    made = scm.sample(20000, seed=0)
    correlation = np.corrcoef(logit(made["age"] / 100), logit(made["dose"] / 10))[0, 1]
    assert correlation == pytest.approx(1 / 1.36, abs=0.03)
    # A draw from the posterior has at best the correlation of the latent with its own posterior mean.
    explained = 2 / (2 + 0.36)
    drawn = scm.abduct(table)["age <-> dose"].numpy()
    assert np.corrcoef(drawn, latent)[0, 1] == pytest.approx(explained, abs=0.05)


def test_errors_name_the_offence_and_the_mend(levels: tuple[SCM, pd.DataFrame]) -> None:
    scm, table = levels
    with pytest.raises(ValueError, match=r"Cannot set \['marker'\]; the SCM has"):
        scm.counterfactual(table, {"marker": 1})
    with pytest.raises(ValueError, match="2 values for 'view' and the table 3 rows; give one a row"):
        scm.counterfactual(table.head(3), {"view": ["AP", "PA"]})
    with pytest.raises(ValueError, match="sets 'view' to a missing value; give the factual one"):
        scm.counterfactual(table.head(2), {"view": ["AP", None]})
    with pytest.raises(ValueError, match="'view' cannot be 'lateral'"):
        scm.counterfactual(table, {"view": "lateral"})
    with pytest.raises(ValueError, match="not fitted; call fit"):
        SCM(scm.graph).sample(3)
    with pytest.raises(ValueError, match="nothing to fit"):
        SCM(scm.graph).fit(table.assign(age=np.nan))
    names = [Binary(letter) for letter in "abcd"]
    with pytest.raises(ValueError, match="hang together; the SCM sums over at most 2"):
        SCM(CausalGraph(names, confounded=[("a", "b"), ("b", "c"), ("c", "d")]))


def test_numbers_that_fill_a_corner_of_their_declared_range_are_named_where_no_fit_is_found():
    """torch names a parameter of a distribution: a scale of 0, from which this search starts."""
    numbers = [Continuous(name, unit="", low=0, high=1000) for name in ("exposure", "z")]
    graph = CausalGraph(numbers, [("exposure", "z")])
    structure = Structure(graph, {number.name: AffineFlow() for number in numbers})
    codes = {"exposure": torch.linspace(1, 20, 50).double(), "z": torch.linspace(2, 15, 50).double()}
    start = {name: structure.start(name) for name in codes}
    start["z"] = torch.full_like(start["z"], -2000.0)
    with pytest.raises(
        ValueError, match=r"\['z'\].*'z' is declared 0 to 1000 and seen 2 to 15; 'exposure' is .* 1 to 20"
    ):
        maximise(structure, codes, start)
