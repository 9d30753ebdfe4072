"""An editor that leaves a sign where it is hides the reliance on it; what it hides is told, from unedited images."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from causal_cxr.audits.shortcuts.shortfalls import DataSide, Reliability, reliability
from causal_cxr.graphs import Binary, CausalGraph, Continuous, default_contrasts

GRAPH = CausalGraph(
    [Continuous("age", unit="years", low=0, high=100), Binary("sex", levels=("male", "female")), Binary("disease")],
    [("age", "disease"), ("disease", "image"), ("sex", "image"), ("age", "image")],
)
CONTRAST = next(c for c in default_contrasts(GRAPH) if c.attribute == "disease")
OWN, BY_SIGN, ADDED = 0.05, 0.30, 0.60  #: of the score: disease itself, sign; and how far the disease adds the sign


def drawn(seed: int, patients: int = 300, moved: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Table, unedited scores, differences under an edit that moves the sign by ``moved``; two images a patient."""
    rng = np.random.default_rng(seed)
    ids = np.repeat([f"p{i:04d}" for i in range(patients)], 2)
    own = rng.normal(size=patients)[np.repeat(np.arange(patients), 2)]
    n = len(ids)
    age = rng.uniform(20, 80, n)
    disease = (rng.uniform(size=n) < 1 / (1 + np.exp((50 - age) / 30))).astype(int)
    sign = 0.2 + ADDED * disease + 0.05 * own + 0.1 * rng.normal(size=n)
    score = 0.1 + OWN * disease + BY_SIGN * sign + 0.002 * age + 0.05 * rng.normal(size=n)
    table = GRAPH.coerce(pd.DataFrame({"age": age, "sex": rng.choice(["male", "female"], n), "disease": disease}))
    factual = pd.DataFrame({"patient": ids, "r/sign": sign, "r/other": rng.normal(size=n), "s": score})
    rows = np.arange(0, n, 4)
    change = moved + 0.02 * rng.normal(size=len(rows))
    paired = pd.DataFrame(
        {"patient": ids[rows], "r/sign": change, "r/other": 0.0, "s": OWN + BY_SIGN * change + 0.01 * rng.normal(size=len(rows))},
        index=rows,
    )  # fmt: skip
    return table, factual, paired


def unedited(table, factual, signs=("r/sign", "r/other")) -> DataSide:
    return DataSide(GRAPH, table, factual, CONTRAST, dict.fromkeys(signs, Reliability()), ["s"])


def test_what_is_missing_is_the_mediated_part_less_the_edits_own():
    table, factual, paired = drawn(0)
    found = unedited(table, factual).shortfalls(paired)["s"]
    assert found.missing.value == pytest.approx(BY_SIGN * ADDED, abs=0.01)
    assert found.made_up.value == pytest.approx(OWN + BY_SIGN * ADDED, abs=0.01)
    assert found.most == "r/sign"
    assert found.data == pytest.approx(ADDED, abs=0.03)
    assert found.edited == pytest.approx(0.0, abs=0.01)


def test_the_regressions_are_those_of_statsmodels():
    table, factual, paired = drawn(1)
    z = (table["age"] - table["age"].mean()) / table["age"].std()
    held = np.column_stack([np.ones(len(z)), z, z**2, z**3, table["sex"].cat.codes, table["disease"].cat.codes])
    movement = sm.OLS(factual[["r/sign", "r/other"]].to_numpy(), held).fit().params[-1]
    slopes = sm.OLS(factual["s"], np.column_stack([held, factual[["r/sign", "r/other"]]])).fit().params.to_numpy()[-2:]
    expected = float(slopes @ (movement - paired[["r/sign", "r/other"]].mean().to_numpy()))
    assert unedited(table, factual).shortfalls(paired)["s"].missing.value == pytest.approx(expected, rel=1e-8)


def test_an_edit_that_moves_the_sign_as_the_data_do_misses_nothing():
    found = [unedited(t, f).shortfalls(p)["s"].missing for t, f, p in (drawn(seed, moved=ADDED) for seed in range(200))]
    assert np.mean([effect.p_yes(0.0) <= 0.05 for effect in found]) < 0.09


def test_intervals_hold_what_is_true():
    held = []
    for seed in range(200):
        table, factual, paired = drawn(seed, patients=120)
        low, high = unedited(table, factual).shortfalls(paired)["s"].made_up.interval()
        held.append(low <= OWN + BY_SIGN * ADDED <= high)
    assert np.mean(held) >= 0.92


def test_what_a_reader_sees_of_the_attribute_itself_cancels_out():
    table, factual, paired = drawn(2)
    seen = 0.2 * table["disease"].cat.codes.to_numpy()
    follows = factual.assign(**{"r/sign": factual["r/sign"] + seen})
    same = unedited(table, follows).shortfalls(paired.assign(**{"r/sign": paired["r/sign"] + 0.2}))["s"]
    assert same.missing.value == pytest.approx(unedited(table, factual).shortfalls(paired)["s"].missing.value, abs=1e-6)


def test_nothing_is_told_where_unedited_images_cannot_tell():
    table, factual, paired = drawn(3)
    assert unedited(table, factual, signs=()).shortfalls(paired) == {}
    all_ill = GRAPH.coerce(table.assign(disease=1))
    assert unedited(all_ill, factual).shortfalls(paired) == {}
    by_age = GRAPH.coerce(table.assign(disease=(table["age"] > 50).astype(int)))  # no age with and without
    assert unedited(by_age, factual).shortfalls(paired) == {}


def test_a_reader_that_errs_makes_the_correction_smaller_and_its_reliability_makes_up_for_that():
    rng = np.random.default_rng(4)
    n = 20_000
    disease = rng.uniform(size=n) < 0.5
    there = rng.uniform(size=n) < np.where(disease, 0.55, 0.35)
    table = GRAPH.coerce(
        pd.DataFrame(
            {"age": rng.uniform(20, 80, n), "sex": rng.choice(["male", "female"], n), "disease": disease.astype(int)}
        )
    )
    read = 0.1 + 0.6 * there + 0.25 * rng.normal(size=n)
    score = 0.2 + 0.4 * there + 0.05 * rng.normal(size=n)
    factual = pd.DataFrame({"patient": np.arange(n).astype(str), "r/sign": read, "s": score})
    rows = np.arange(400)
    paired = pd.DataFrame({"patient": rows.astype(str), "r/sign": 0.01 * rng.normal(size=400), "s": 0.0}, index=rows)
    known = reliability(read, float(there.mean()), 0.6, 0.001)
    found = [
        DataSide(GRAPH, table, factual, CONTRAST, {"r/sign": r}, ["s"]).shortfalls(paired)["s"]
        for r in (Reliability(), known)
    ]
    assert found[0].missing.value < 0.06
    assert found[1].missing.value == pytest.approx(0.2 * 0.4, abs=0.01)
