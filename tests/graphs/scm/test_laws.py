"""Laws of counterfactuals that hold for any weights, on random graphs with every mechanism."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_scms import random_scms

from causal_cxr.graphs import Continuous
from causal_cxr.graphs.scm import SCM

seeds = st.integers(0, 2**16)


def rows_of(scm: SCM, seed: int) -> pd.DataFrame:
    return scm.sample(20, seed=seed).set_axis(range(100, 120))


@settings(max_examples=40, deadline=None)
@given(random_scms(), seeds, st.data())
def test_non_descendants_stay_bit_for_bit(scm: SCM, seed: int, data: st.DataObject) -> None:
    table = rows_of(scm, seed)
    pd.testing.assert_frame_equal(scm.counterfactual(table, {}), table, check_exact=True)
    name = data.draw(st.sampled_from(list(scm.graph.attributes)))
    pd.testing.assert_frame_equal(scm.counterfactual(table, {name: table[name]}), table, check_exact=True)
    value = table[name].iloc[0]
    after = scm.counterfactual(table, {name: value}, seed=5)
    assert (after[name] == value).all()
    for other in set(scm.graph.attributes) - scm.graph.descendants(name) - {name}:
        pd.testing.assert_series_equal(after[other], table[other], check_exact=True)
    pd.testing.assert_frame_equal(after, scm.counterfactual(table, {name: value}, seed=5), check_exact=True)


@settings(max_examples=30, deadline=None)
@given(random_scms(), seeds)
def test_predicting_abducted_noise_gives_the_table_back(scm: SCM, seed: int) -> None:
    table = rows_of(scm, seed)
    for name, attribute in scm.graph.attributes.items():
        if isinstance(attribute, Continuous):  # a bounded flow moves a number within 1e-4 of its range's end to there
            edge = 1.01e-4 * (attribute.high - attribute.low)
            table[name] = table[name].clip(attribute.low + edge, attribute.high - edge)
    again = scm.predict(scm.abduct(table, seed=1)).set_axis(table.index)
    pd.testing.assert_frame_equal(again, table, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:The posterior of the missing attributes:RuntimeWarning")
@settings(max_examples=20, deadline=None)
@given(random_scms(), seeds)
def test_imputing_fills_the_holes_and_nothing_else(scm: SCM, seed: int) -> None:
    table = rows_of(scm, seed)
    holed = table.mask(np.random.default_rng(seed).random(table.shape) < 0.3)
    filled = scm.impute(holed, seed=seed)  # random weights make some rows nearly impossible: hence the warning
    assert not filled.isna().to_numpy().any()
    pd.testing.assert_frame_equal(filled.mask(holed.isna()), scm.graph.coerce(holed), check_exact=True)
    pd.testing.assert_frame_equal(filled, scm.impute(holed, seed=seed), check_exact=True)
    name = scm.order[0]
    after = scm.counterfactual(holed, {name: filled[name].iloc[0]}, seed=seed)
    for other in set(scm.graph.attributes) - scm.graph.descendants(name) - {name}:
        pd.testing.assert_series_equal(after[other], filled[other], check_exact=True)
    assert np.isfinite(scm.log_prob(holed)).all()


@settings(max_examples=20, deadline=None)
@given(random_scms(), seeds)
def test_a_saved_model_is_the_same_model(scm: SCM, seed: int) -> None:
    again = SCM.from_dict(json.loads(json.dumps(scm.to_dict())))
    assert again.fingerprint == scm.fingerprint
    assert again.mechanisms == scm.mechanisms
    pd.testing.assert_frame_equal(again.sample(20, seed), scm.sample(20, seed), check_exact=True)


@settings(max_examples=10, deadline=None)
@given(random_scms(), seeds)
def test_particles_are_rows_of_their_own(scm: SCM, seed: int) -> None:
    table = rows_of(scm, seed).rename_axis("patient")
    name = scm.order[0]
    wanted = table[name].to_numpy()[::-1]  # one a row
    after = scm.counterfactual(table, {name: wanted}, n_particles=3, seed=seed)
    assert after.index.names == ["patient", "particle"]
    assert after.index.tolist() == [(row, particle) for row in table.index for particle in range(3)]
    pd.testing.assert_series_equal(
        after[name].xs(2, level="particle"),
        scm.graph.attributes[name].coerce(pd.Series(wanted, index=table.index)),
        check_names=False,
    )
    numbers = [n for n in scm.order if isinstance(scm.graph.attributes[n], Continuous)]
    if not scm.graph.confounded and set(numbers) == set(scm.order):  # nothing is left to chance
        assert (after.groupby("patient").std() == 0).all(axis=None)
    with pytest.raises(ValueError, match="n_particles is 0"):
        scm.counterfactual(table, {}, n_particles=0)
