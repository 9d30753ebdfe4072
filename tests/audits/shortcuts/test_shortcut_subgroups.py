"""Performance by group: the numbers of scikit-learn, and a gap whose interval allows for picking the worst."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from causal_cxr.audits.shortcuts.gains import score_column
from causal_cxr.audits.shortcuts.subgroups import performance
from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous

GRAPH = CausalGraph(
    [Binary("sick"), Categorical("site", levels=("a", "b", "c")), Continuous("age", "years", 0, 100)],
)


def drawn(n: int, seed: int, worse: float = 0.0, images: int = 1):
    """Site b is read worse by so much; images of a patient are of one site."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(n // images), images)
    site = rng.integers(3, size=n // images)[who]
    sick = rng.uniform(size=n) < 0.5
    scores = 1 / (1 + np.exp(-(2 * sick - 1) * np.where(site == 1, 1 - worse, 1) * 2 - rng.normal(size=n)))
    table = GRAPH.coerce(
        pd.DataFrame({"sick": sick.astype(int), "site": np.array(["a", "b", "c"])[site], "age": rng.uniform(0, 100, n)})
    )
    factual = pd.DataFrame({"patient": [f"p{i}" for i in who], score_column("m"): scores})
    return factual, table, sick.astype(float)


def test_each_level_is_scored_as_scikit_learn_scores_it():
    factual, table, sick = drawn(600, 0)
    subgroups, _ = performance(factual, table, sick, GRAPH, ["site", "age"], {"m": 0.4})
    scores = factual[score_column("m")].to_numpy()
    for level in ("a", "b", "c"):
        at = (table["site"] == level).to_numpy()
        row = subgroups[subgroups["level"] == level].iloc[0]
        assert row["auroc"] == pytest.approx(roc_auc_score(sick[at], scores[at]))
        assert row["sensitivity"] == pytest.approx((scores[at & (sick == 1)] >= 0.4).mean())
        assert row["specificity"] == pytest.approx((scores[at & (sick == 0)] < 0.4).mean())
        assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
    quartiles = subgroups[subgroups["attribute"] == "age"]
    assert quartiles["n"].tolist() == [150] * 4
    assert subgroups.iloc[0]["level"] == "all"


def test_unlabelled_images_take_no_part():
    factual, table, sick = drawn(300, 1)
    whole, _ = performance(factual[:200], table[:200], sick[:200], GRAPH, ["site"], {"m": 0.5})
    sick[200:] = np.nan
    part, _ = performance(factual, table, sick, GRAPH, ["site"], {"m": 0.5})
    pd.testing.assert_frame_equal(whole, part)


def test_a_site_that_is_read_worse_is_found_and_one_that_is_not_is_not():
    factual, table, sick = drawn(1200, 2, worse=1.0)
    _, gaps = performance(factual, table, sick, GRAPH, ["site"], {"m": 0.5})
    auroc = gaps[gaps["metric"] == "auroc"].iloc[0]
    assert auroc["worst"] == "b"
    assert auroc["gap_low"] > 0.2
    assert auroc["levels"] == 3


def test_the_gap_of_equal_groups_is_seldom_called_one():
    called = []
    for seed in range(60):
        factual, table, sick = drawn(240, 100 + seed, images=2)
        _, gaps = performance(factual, table, sick, GRAPH, ["site"], {"m": 0.5})
        called.append((gaps["gap_low"] > 0).to_numpy())
    assert np.mean(called, axis=0).max() <= 0.12  # 2.5% nominal, on one side; 60 draws


def test_a_level_with_too_few_images_is_named_and_not_judged():
    factual, table, sick = drawn(300, 3)
    kept = ~((table["site"] == "c").to_numpy() & (np.arange(300) > 40))
    _, gaps = performance(factual[kept], table[kept], sick[kept], GRAPH, ["site"], {"m": 0.5})
    assert set(gaps["not_judged"]) == {"c"}
    assert set(gaps["levels"]) == {2}
