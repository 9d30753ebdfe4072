"""Mechanisms against closed forms, numerical integrals and other implementations."""

import numpy as np
import pandas as pd
import pytest
import torch
from random_scms import scm_with
from scipy import integrate, stats
from scipy.special import expit, logit, softmax

from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous
from causal_cxr.graphs.scm import MLP, SCM, AffineFlow, GumbelMax, OrdinalLogit, SplineFlow

AGE = Continuous("age", unit="years", low=0, high=100)
DOSE = Continuous("dose", unit="mAs", low=0, high=10)
SEX = Binary("sex", levels=("male", "female"))
TUBE = Categorical("tube", levels=("none", "nasal", "tracheal"))
STAGE = Categorical("stage", levels=("none", "mild", "severe"), ordered=True)
AGE_DOSE = CausalGraph([AGE, DOSE], [("age", "dose")])
TABLE = pd.DataFrame({"age": [20.0, 55.0, 80.0], "dose": [1.0, 5.5, 9.0]})


def raw(scale: float) -> float:
    """The second output of a flow that has this scale."""
    return float(np.log(np.expm1(scale))) - 0.5


# Flows on the logit: logit(dose / 10) = 0.3 + 0.8 (age - 50) / 25 + softplus(0.5 - 0.7) noise.
LOGIT = scm_with(AGE_DOSE, age=[[0.1, 0.2]], dose=[[0.3, -0.7], [0.8, 0.0]])
# The textbook: age = 50 + 25 (0.1 + 0.3 e), dose = 5 + 2.5 (0.2 - 0.5 (age - 50) / 25 + 0.2 e').
LINEAR = scm_with(
    AGE_DOSE,
    dict.fromkeys(("age", "dose"), AffineFlow(bounded=False)),
    age=[[0.1, raw(0.3)]],
    dose=[[0.2, raw(0.2)], [-0.5, 0.0]],
)


def test_counterfactual_of_the_flow_is_the_closed_form() -> None:
    expected = 10 * expit(logit(TABLE["dose"] / 10) + 0.8 * (70.0 - TABLE["age"]) / 25)
    np.testing.assert_allclose(LOGIT.counterfactual(TABLE, {"age": 70.0})["dose"], expected, atol=1e-5)


def test_log_density_of_the_flow_is_the_closed_form() -> None:
    u, v = TABLE["age"] / 100, TABLE["dose"] / 10
    age = stats.norm.logpdf(logit(u), 0.1, np.log1p(np.exp(0.7))) - np.log(100 * u * (1 - u))
    mean = 0.3 + 0.8 * (TABLE["age"] - 50) / 25
    dose = stats.norm.logpdf(logit(v), mean, np.log1p(np.exp(-0.2))) - np.log(10 * v * (1 - v))
    np.testing.assert_allclose(LOGIT.log_prob(TABLE), age + dose, atol=1e-5)


def test_a_linear_gaussian_model_is_its_closed_forms() -> None:
    density = stats.norm.logpdf(TABLE["age"], 52.5, 7.5)
    density += stats.norm.logpdf(TABLE["dose"], 5.5 - 0.05 * (TABLE["age"] - 50), 0.5)
    np.testing.assert_allclose(LINEAR.log_prob(TABLE), density, atol=1e-5)
    after = LINEAR.counterfactual(TABLE, {"age": TABLE["age"] - 10})["dose"]
    np.testing.assert_allclose(after, TABLE["dose"] + 0.05 * 10, atol=1e-5)
    # E[dose | do(age)] = 5.5 - 0.05 (age - 50): what noise of mean zero gives, exactly, and any sample about
    still = {"age": torch.zeros(1, dtype=torch.float64), "dose": torch.zeros(1, dtype=torch.float64)}
    assert LINEAR.predict(still, {"age": 62.0})["dose"].item() == pytest.approx(4.9, abs=1e-5)
    drawn = LINEAR.counterfactual(LINEAR.sample(20_000, seed=0), {"age": 62.0})["dose"]
    assert drawn.mean() == pytest.approx(4.9, abs=4 * 0.5 / np.sqrt(20_000))


# A latent's loading, in standard deviations of the noise at either end, and what 15 nodes reach on the log density.
@pytest.mark.parametrize(("loading", "tolerance"), [(0.5, 1e-8), (0.8, 1e-5), (1.0, 1e-3), (1.5, 0.1)])
def test_a_confounded_gaussian_pair_is_bivariate_normal_as_far_as_quadrature_goes(loading, tolerance) -> None:
    wide = [Continuous("a", "u", -100, 100), Continuous("b", "u", -100, 100)]
    free = dict.fromkeys("ab", AffineFlow(bounded=False))
    scm = scm_with(
        CausalGraph(wide, confounded=[("a", "b")]), free, a=[[0, raw(0.1)], [0.1 * loading, 0]], b=[[0, raw(0.1)], [0.1 * loading, 0]]
    )  # fmt: skip
    covariance = 25 * (loading**2 * np.ones((2, 2)) + np.eye(2))
    normal = stats.multivariate_normal([0, 0], covariance)
    rows = normal.rvs(500, random_state=0)
    np.testing.assert_allclose(
        scm.log_prob(pd.DataFrame(rows, columns=["a", "b"])), normal.logpdf(rows), atol=tolerance
    )
    # do(a) cuts the pair: b keeps its marginal, to which the abducted latents and noises mix
    after = scm.counterfactual(scm.sample(4000, seed=1), {"a": 3.0}, seed=2)["b"]
    assert after.mean() == pytest.approx(0, abs=4 * np.sqrt(covariance[0, 0] / 4000))
    assert after.var() == pytest.approx(covariance[0, 0], rel=0.1)


def test_predictions_that_leave_the_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'dose' leave \[0, 10\] in rows \[7\].*bounded=True"):
        LINEAR.counterfactual(pd.DataFrame({"age": [90.0], "dose": [8.0]}, index=[7]), {"age": 1.0})


def bimodal(n: int, seed: int) -> pd.DataFrame:
    """dose has two modes, and age says how likely each is."""
    rng = np.random.default_rng(seed)
    age = 100 * expit(rng.normal(size=n))
    upper = rng.random(n) < expit((age - 50) / 15)
    return pd.DataFrame({"age": age, "dose": 10 * expit(np.where(upper, 1.5, -1.5) + 0.3 * rng.normal(size=n))})


@pytest.fixture(scope="module")
def spline() -> SCM:
    return SCM(AGE_DOSE, {"dose": SplineFlow(bins=8)}).fit(bimodal(800, 0))


def test_a_spline_fits_two_modes_that_an_affine_flow_cannot(spline: SCM) -> None:
    held_out = bimodal(1000, 1)
    affine = SCM(AGE_DOSE).fit(bimodal(800, 0))
    assert spline.log_prob(held_out).mean() > affine.log_prob(held_out).mean() + 0.7
    # with one mode they agree: the spline is penalised towards the identity
    one = held_out.assign(dose=10 * expit(0.4 + np.random.default_rng(2).normal(size=1000) / 2))
    both = [SCM(AGE_DOSE, continuous=flow).fit(one).log_prob(one).mean() for flow in (AffineFlow(), SplineFlow(bins=4))]
    assert both[1] == pytest.approx(both[0], abs=0.02)


@pytest.mark.parametrize("age", [15.0, 50.0, 85.0])
def test_a_spline_density_integrates_to_one_and_inverts(spline: SCM, age: float) -> None:
    dose = np.linspace(0, 10, 20_001)[1:-1]
    given = spline.log_prob(pd.DataFrame({"age": [age], "dose": [np.nan]}))  # p(age): nothing depends on a missing leaf
    density = np.exp(spline.log_prob(pd.DataFrame({"age": age, "dose": dose})) - given)
    assert integrate.trapezoid(density, dose) == pytest.approx(1, abs=1e-4)
    inner = pd.DataFrame({"age": age, "dose": dose[10:-10]})
    np.testing.assert_allclose(spline.predict(spline.abduct(inner))["dose"], inner["dose"], atol=1e-8)


def test_a_fresh_spline_is_the_affine_flow() -> None:
    parameters = torch.tensor([[0.3, -0.4, *[0.0] * 23]] * 19, dtype=torch.float64)
    values = torch.linspace(0.5, 9.5, 19, dtype=torch.float64)
    spline, affine = (
        flow.log_prob(DOSE, parameters[:, :k], values) for flow, k in ((SplineFlow(8), 25), (AffineFlow(), 2))
    )
    np.testing.assert_allclose(spline, affine, atol=1e-9)


def test_a_small_network_finds_what_no_line_can() -> None:
    rng = np.random.default_rng(3)
    age = rng.uniform(2, 98, 1500)
    ends = np.abs(age - 50) > 25
    table = pd.DataFrame({"age": age, "sex": np.where(rng.random(1500) < 0.1 + 0.8 * ends, "female", "male")})
    graph = CausalGraph([AGE, SEX], [("age", "sex")])
    linear, network = SCM(graph).fit(table[:1000]), SCM(graph, {"sex": GumbelMax(MLP(4))}).fit(table[:1000])
    assert network.log_prob(table[1000:]).mean() > linear.log_prob(table[1000:]).mean() + 0.2
    assert network.fingerprint == SCM(graph, {"sex": GumbelMax(MLP(4))}).fit(table[:1000]).fingerprint


def test_binary_counterfactual_frequencies_are_the_analytic_posterior() -> None:
    # With s = logit P(AP), AP wins where logistic noise exceeds -s: so P(stays AP | AP) = min(p, p') / p.
    view = Binary("view", levels=("PA", "AP"))
    weights = {"sex": [[0.0, 0.0]], "view": [[0.0, 0.9], [0.0, -1.6]]}
    scm = scm_with(CausalGraph([SEX, view], [("sex", "view")]), **weights)
    n, before, after = 100_000, expit(0.9), expit(0.9 - 1.6)
    for factual, stays in (("AP", min(before, after) / before), ("PA", min(1 - before, 1 - after) / (1 - before))):
        table = pd.DataFrame({"sex": ["male"] * n, "view": [factual] * n})
        share = (scm.counterfactual(table, {"sex": "female"}, seed=3)["view"] == factual).mean()
        assert share == pytest.approx(stays, abs=4 * np.sqrt(0.25 / n))


def gumbel_max_transition(before: np.ndarray, after: np.ndarray, i: int, j: int) -> float:
    """P(level j wins under logits ``after`` | level i won under ``before``), by integrating over the Gumbels of i and j.

    Given those, both events bound each other level's Gumbel from above, by the tighter of two bounds.
    """

    def density(g: float) -> float:
        return np.exp(-g - np.exp(-g))

    def joint(h: float, g: float) -> float:
        rest = [k for k in range(len(before)) if k not in (i, j)]
        bounds = [min(g + before[i] - before[k], h + after[j] - after[k]) for k in rest]
        return float(density(g) * np.exp(-np.exp(-np.array(bounds))).prod())

    if i == j:
        value, _ = integrate.quad(lambda g: joint(g, g), -4, 25)
    else:  # i beats j before: h < g + before_i - before_j; j beats i after: h > g + after_i - after_j
        value, _ = integrate.dblquad(
            lambda h, g: density(h) * joint(h, g),
            -4,
            25,
            lambda g: g + min(after[i] - after[j], before[i] - before[j]),
            lambda g: g + before[i] - before[j],
        )
    return value / softmax(before)[i]


def test_three_level_counterfactual_frequencies_are_the_integrated_posterior() -> None:
    before, after, n = np.array([0.4, 0.0, -0.3]), np.array([-0.5, 0.6, 0.2]), 40_000
    scm = scm_with(
        CausalGraph([SEX, TUBE], [("sex", "tube")]), sex=[[0.0, 0.0]], tube=[before.tolist(), (after - before).tolist()]
    )
    for i, factual in enumerate(TUBE.levels):
        expected = [gumbel_max_transition(before, after, i, j) for j in range(3)]
        assert sum(expected) == pytest.approx(1, abs=1e-5)
        table = pd.DataFrame({"sex": ["male"] * n, "tube": [factual] * n})
        made = scm.counterfactual(table, {"sex": "female"}, seed=i)["tube"].value_counts(normalize=True, sort=False)
        np.testing.assert_allclose(made, expected, atol=4 * np.sqrt(0.25 / n))


@pytest.mark.parametrize("seed", range(5))
def test_no_level_wins_whose_odds_against_the_observed_one_did_not_rise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, shift = rng.normal(size=(2, 4))
    many = Categorical("tube", levels=("a", "b", "c", "d"))
    graph = CausalGraph([SEX, many], [("sex", "tube")])
    scm = scm_with(graph, sex=[[0.0, 0.0]], tube=[before.tolist(), shift.tolist()])
    table = scm.counterfactual(scm.sample(5000, seed=seed), {"sex": "male"}, seed=1)
    after = scm.counterfactual(table, {"sex": "female"}, seed=2)["tube"].cat.codes.to_numpy()
    factual = table["tube"].cat.codes.to_numpy()
    assert (after != factual).any()
    assert (shift[after] >= shift[factual]).all()


def test_ordinal_noise_is_the_truncated_logistic_and_its_levels_keep_their_order() -> None:
    # location 0.4, minus 1.5 if female; cutpoints 0 and 0.9: mild is noise in (-0.4, 0.5]
    step = float(np.log(np.expm1(0.9)))
    scm = scm_with(CausalGraph([SEX, STAGE], [("sex", "stage")]), sex=[[0, 0]], stage=[[0.4, step], [-1.5, 9.0]])
    n, cuts = 40_000, np.array([-np.inf, -0.4, 0.5, np.inf])
    cells = pd.DataFrame({"sex": "male", "stage": STAGE.levels})
    np.testing.assert_allclose(np.exp(scm.log_prob(cells)) * 2, np.diff(expit(cuts)), atol=1e-12)
    for i, level in enumerate(STAGE.levels):
        table = pd.DataFrame({"sex": ["male"] * n, "stage": [level] * n})
        low, high = expit(cuts[i : i + 2])
        noise = scm.abduct(table, seed=i)["stage"].numpy()
        assert ((noise > cuts[i]) & (noise <= cuts[i + 1])).all()
        truncated = stats.uniform(low, high - low)  # of the probability transform
        assert stats.kstest(expit(noise), truncated.cdf).pvalue > 1e-3
        after = scm.counterfactual(table, {"sex": "female"}, seed=i)["stage"]
        assert (after <= level).all()  # ordered columns compare; a lower location lifts nobody
        stays = (high - max(low, expit([-np.inf, 1.1, 2.0][i]))) / (high - low)
        assert (after == level).mean() == pytest.approx(max(stays, 0), abs=4 * np.sqrt(0.25 / n))


def test_an_ordinal_fit_finds_cutpoints_and_slopes_also_of_ordered_parents() -> None:
    grade = Categorical("grade", levels=(0, 1, 2, 3), ordered=True)
    graph = CausalGraph([STAGE, grade], [("stage", "grade")])
    truth = scm_with(graph, stage=[[0.3, 0.5]], grade=[[1.0, 0.4, 0.8], [0.7, 0.0, 0.0]])
    fitted = SCM(graph).fit(truth.sample(6000, seed=0)).to_dict()["weights"]
    np.testing.assert_allclose(fitted["stage"], [[0.3, 0.5]], atol=0.15)
    np.testing.assert_allclose(fitted["grade"], [[1.0, 0.4, 0.8], [0.7, 0.0, 0.0]], atol=0.15)
    never = SCM(CausalGraph([STAGE])).fit(pd.DataFrame({"stage": ["none", "severe"] * 50}))
    assert np.isfinite(never.log_prob(pd.DataFrame({"stage": ["mild"]}))).all()


def test_ordinal_tails_keep_their_digits() -> None:
    parameters = torch.tensor([[60.0, 0.0], [-60.0, 0.0]], dtype=torch.float64).repeat(200, 1)
    for level in range(3):
        observed = torch.full((400,), float(level), dtype=torch.float64)
        noise = OrdinalLogit().abduct(STAGE, parameters, observed, torch.Generator().manual_seed(0))
        assert torch.equal(OrdinalLogit().predict(STAGE, parameters, noise), observed)
        assert torch.isfinite(OrdinalLogit().log_prob(STAGE, parameters, observed)).all()
        assert len(noise.unique()) > 390


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SCM(AGE_DOSE, {"marker": AffineFlow()}), r"given for \['marker'\]; the SCM has \['age', 'dose'\]"),
        (lambda: SCM(AGE_DOSE, {"age": GumbelMax()}), "'age' is Continuous; use AffineFlow"),
        (lambda: SCM(AGE_DOSE, continuous=OrdinalLogit()), "'age' is Continuous; use AffineFlow"),
        (lambda: SCM(CausalGraph([TUBE]), {"tube": SplineFlow()}), "'tube' is Categorical; use GumbelMax"),
        (lambda: SCM(CausalGraph([TUBE]), {"tube": OrdinalLogit()}), "ordered=True"),
        (lambda: SplineFlow(bins=0), "bins=0; give 1 to 100"),
        (lambda: MLP(0), "hidden=0; give one unit or more"),
    ],
)
def test_a_wrong_mechanism_is_refused_with_the_mend(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
