"""The SCM is an ordinary Pyro program: Pyro's own interventions and inference agree with its methods."""

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Importance, TraceEnum_ELBO, config_enumerate, infer_discrete
from scipy.special import expit
from test_missing import LEVELS, NORMAL

LATENT = "edema <-> view"
HOLED = pd.DataFrame(
    {"edema": [None, 1, 0, None], "tube": ["nasal", None, None, None], "view": ["AP", "PA", None, "AP"]}
)


def conditioned(row: dict, n: int):
    """The model of ``n`` rows that all have these codes."""
    return pyro.condition(LEVELS.model, data={name: torch.full((n,), float(code)) for name, code in row.items()})


def test_do_gives_what_sampling_and_counterfactuals_give() -> None:
    n = 20_000
    pyro.set_rng_seed(0)
    values = pyro.do(LEVELS.model, data={"tube": torch.full((n,), 2.0)})(n)  # sites take codes: 2 is "tracheal"
    sampled = LEVELS.sample(n, seed=1)
    acted = LEVELS.predict(LEVELS.abduct(sampled, seed=2), {"tube": "tracheal"})
    assert values["view"].mean().item() == pytest.approx((acted["view"] == "AP").mean(), abs=0.015)
    assert values["edema"].mean().item() == pytest.approx((sampled["edema"] == 1).mean(), abs=0.015)
    # seeing is not doing: the latent makes edema and view alike, tube follows edema
    seen = (sampled.loc[sampled["tube"] == "tracheal", "edema"] == 1).mean()
    assert abs(seen - values["edema"].mean().item()) > 0.05


def test_a_shared_latent_can_be_conditioned_on() -> None:
    node = 10
    z = np.polynomial.hermite_e.hermegauss(15)[0][node]
    pyro.set_rng_seed(0)
    values = pyro.condition(LEVELS.model, data={LATENT: torch.full((20_000,), node)})(20_000)
    assert values["edema"].mean().item() == pytest.approx(expit(-0.4 + 1.5 * z), abs=0.015)


def test_log_prob_is_pyros_enumerated_evidence() -> None:
    for i in range(len(HOLED)):
        codes = {n: LEVELS.graph.attributes[n].encode(HOLED[n])[i] for n in LEVELS.order}
        model = conditioned({name: code for name, code in codes.items() if not np.isnan(code)}, 1)
        evidence = TraceEnum_ELBO(max_plate_nesting=1).loss(config_enumerate(model), lambda n: None, 1)
        assert LEVELS.log_prob(HOLED.iloc[[i]])[0] == pytest.approx(-evidence, abs=1e-6)


def test_imputation_and_abduction_are_pyros_discrete_posterior() -> None:
    n = 20_000
    pyro.set_rng_seed(0)
    model = infer_discrete(config_enumerate(conditioned({"tube": 1, "view": 1}, n)), first_available_dim=-2)
    trace = poutine.trace(model).get_trace(n)
    table = pd.DataFrame({"edema": [None] * n, "tube": "nasal", "view": "AP"})
    assert trace.nodes["edema"]["value"].double().mean().item() == pytest.approx(
        (LEVELS.impute(table, seed=1)["edema"] == 1).mean(), abs=0.015
    )
    nodes = torch.tensor(np.polynomial.hermite_e.hermegauss(15)[0])
    drawn = LEVELS.abduct(table, seed=2)[LATENT]
    assert nodes[trace.nodes[LATENT]["value"].long()].mean().item() == pytest.approx(drawn.mean().item(), abs=0.03)


def test_imputation_is_pyros_importance_sampling() -> None:
    pyro.set_rng_seed(0)
    model = pyro.condition(NORMAL.model, data={"dose": torch.tensor([6.0], dtype=torch.float64)})
    posterior = Importance(model, num_samples=1500).run(1)
    weights = posterior.get_normalized_weights()
    ages = torch.stack([trace.nodes["age"]["value"][0] for trace in posterior.exec_traces])
    made = NORMAL.impute(pd.DataFrame({"age": [np.nan] * 2000, "dose": [6.0] * 2000}), seed=3)["age"]
    assert float((weights * ages).sum()) == pytest.approx(made.mean(), abs=1.0)  # of a standard deviation of 6


def test_plates_may_stand_around_the_rows() -> None:
    def particles() -> dict[str, torch.Tensor]:
        with pyro.plate("particles", 7, dim=-2):
            return LEVELS.model(5)

    assert poutine.trace(particles).get_trace().nodes["view"]["value"].shape == (7, 5)
