import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from causal_cxr.graphs import Binary, CausalGraph, Continuous
from causal_cxr.readers import Concept, ReaderQuality, assess
from causal_cxr.readers.quality import auroc

GRAPH = CausalGraph([Binary("view", levels=("PA", "AP")), Continuous("age", unit="years", low=20, high=90)], [])
CONCEPT = Concept("leads", ("leads",), ("no leads",))


def sample(n=4_000, follow=0.0, seed=0, within=0.6):
    """Scores with slope 0.4 that also move by ``follow`` with the view; two images a patient."""
    rng = np.random.default_rng(seed)
    patient = np.arange(n) // 2
    shared = rng.normal(size=n)[patient]
    truth = (rng.uniform(size=n) < 0.4).astype(float)
    view = rng.uniform(size=n) < 0.5
    scores = 0.3 + 0.4 * truth + follow * view + 0.05 * (within * shared + (1 - within) * rng.normal(size=n))
    table = GRAPH.coerce(pd.DataFrame({"view": np.where(view, "AP", "PA"), "age": rng.uniform(20, 90, n)}))
    return scores[:, None], truth[:, None], table, pd.Series(patient.astype(str))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_that_of_scikit_learn_ties_included(cases):
    scores, present = (np.array(column, dtype=float) for column in zip(*cases, strict=True))
    if len(set(present)) < 2:
        assert np.isnan(auroc(scores, present))
    else:
        assert auroc(scores, present) == pytest.approx(roc_auc_score(present, scores))


def test_the_slope_is_the_difference_of_means_with_statsmodels_clustered_error():
    scores, truth, table, patients = sample()
    row = assess(scores, truth, table, patients, GRAPH, [CONCEPT], resamples=20).concepts.loc["leads"]
    fit = sm.OLS(scores[:, 0], sm.add_constant(truth[:, 0])).fit(
        cov_type="cluster", cov_kwds={"groups": pd.factorize(patients)[0]}
    )
    assert row.slope == pytest.approx(scores[truth == 1].mean() - scores[truth == 0].mean())
    assert row.slope_se == pytest.approx(fit.bse[1])
    assert row.slope_low < 0.4 < row.slope_high


def test_perfectly_calibrated_scores_have_a_small_calibration_error_and_overconfident_ones_have_not():
    rng = np.random.default_rng(1)
    p = rng.uniform(size=8_000)
    truth = (rng.uniform(size=8_000) < p).astype(float)[:, None]
    _, _, table, patients = sample(8_000)
    ece = [
        assess(s[:, None], truth, table, patients, GRAPH, [CONCEPT], resamples=2).concepts.loc["leads", "ece"]
        for s in (p, np.round(p))
    ]
    assert ece[0] < 0.02
    assert ece[1] == pytest.approx(0.25, abs=0.02)  # E|round(p) - p|


def test_where_the_concept_hardly_comes_without_the_view_the_others_tell_whether_the_reader_follows():
    for follow in (0.0, 0.1):
        scores, truth, table, patients = sample(follow=follow)
        gone = (truth[:, 0] == 1) & (table["view"] == "PA").to_numpy()  # leads in PA views: none
        keep = ~gone
        quality = assess(scores[keep], truth[keep], table[keep], patients[keep], GRAPH, [CONCEPT], resamples=2)
        row = quality.follows.set_index("attribute").loc["view"]
        assert row.low < follow < row.high
        assert (row.low > 0) == (follow > 0)


def test_a_concept_that_is_the_view_cannot_be_told_from_it():
    scores, truth, table, patients = sample()
    keep = (truth[:, 0] == 1) == (table["view"] == "AP").to_numpy()
    quality = assess(scores[keep], truth[keep], table[keep], patients[keep], GRAPH, [CONCEPT], resamples=2)
    follows = quality.follows.set_index("attribute")
    assert np.isnan(follows.loc["view", "shift"])
    assert not np.isnan(follows.loc["age", "shift"])


def test_a_reader_that_follows_the_view_is_found_out_and_one_that_does_not_is_not():
    for follow in (0.0, 0.1):
        scores, truth, table, patients = sample(follow=follow)
        quality = assess(scores, truth, table, patients, GRAPH, [CONCEPT], resamples=2)
        row = quality.follows.set_index("attribute").loc["view"]
        assert row.low < follow < row.high
        assert (row.low > 0) == (follow > 0)


def test_auroc_is_given_within_levels_and_quartiles_beside_the_attributes_own():
    scores, truth, table, patients = sample()
    within = assess(scores, truth, table, patients, GRAPH, [CONCEPT], resamples=2).within
    assert list(within.level) == ["PA", "AP", *(f"quartile {q}" for q in (1, 2, 3, 4))]
    ap = (table.view == "AP").to_numpy()
    expected = roc_auc_score(truth[ap, 0], scores[ap, 0])
    assert within.set_index("level").loc["AP", "auroc"] == pytest.approx(expected)
    assert within.attribute_auroc.max() < 0.55  # neither view nor age says anything of the leads


def test_the_interval_resamples_whole_patients():
    scores, truth, table, patients = sample(400)
    scores = scores + np.random.default_rng(3).normal(0, 0.4, (200, 1)).repeat(2, axis=0)
    truth = truth[::2].repeat(2, axis=0)
    paired = assess(scores, truth, table, patients, GRAPH, [CONCEPT]).concepts.loc["leads"]
    alone = assess(scores, truth, table, pd.Series(np.arange(400)), GRAPH, [CONCEPT]).concepts.loc["leads"]
    assert paired.auroc_high - paired.auroc_low > 1.2 * (alone.auroc_high - alone.auroc_low)


def test_what_has_too_few_labels_stays_unknown():
    scores, truth, table, patients = sample(100)
    truth[:] = np.nan
    truth[:5], truth[5:30] = 1, 0
    row = assess(scores, truth, table, patients, GRAPH, [CONCEPT]).concepts.loc["leads"]
    assert np.isnan(row.auroc)
    assert np.isnan(row.slope)
    assert (row.n_present, row.n_absent) == (5, 25)


def test_quality_survives_json_and_nothing_known_is_nan():
    scores, truth, table, patients = sample(400)
    for quality in (assess(scores, truth, table, patients, GRAPH, [CONCEPT]), ReaderQuality.unknown([CONCEPT])):
        back = ReaderQuality.from_dict(json.loads(json.dumps(quality.to_dict())))
        for name in ("concepts", "within", "follows"):
            pd.testing.assert_frame_equal(getattr(back, name), getattr(quality, name), check_dtype=False)
    assert ReaderQuality.unknown([CONCEPT]).concepts.isna().all(axis=None)
