import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from causal_cxr.data.phantom import Phantom
from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous, Contrast, default_contrasts
from causal_cxr.readers import Concept, Pixels, ProbeReader, ReaderQuality, assess, load_concepts
from causal_cxr.readers.concordance import auroc, calibration_error, calibration_interval, concordance, slope
from causal_cxr.readers.judging import assess_reader, known_truth
from causal_cxr.readers.quality import COLUMNS, FOLLOWS, WITHIN, blind_spots
from causal_cxr.weights import shipped

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
    row = assess(scores, truth, table, patients, GRAPH, [CONCEPT]).concepts.loc["leads"]
    fit = sm.OLS(scores[:, 0], sm.add_constant(truth[:, 0])).fit(
        cov_type="cluster", cov_kwds={"groups": pd.factorize(patients)[0]}
    )
    assert row.slope == pytest.approx(scores[truth == 1].mean() - scores[truth == 0].mean())
    assert row.slope_se == pytest.approx(fit.bse[1], rel=0.01)
    assert row.slope_low < 0.4 < row.slope_high


def test_perfectly_calibrated_scores_have_a_small_calibration_error_and_overconfident_ones_have_not():
    rng = np.random.default_rng(1)
    p = rng.uniform(size=8_000)
    truth = (rng.uniform(size=8_000) < p).astype(float)[:, None]
    _, _, table, patients = sample(8_000)
    ece = [
        assess(s[:, None], truth, table, patients, GRAPH, [CONCEPT]).concepts.loc["leads", "ece"]
        for s in (p, np.round(p))
    ]
    assert ece[0] < 0.02
    assert ece[1] == pytest.approx(0.25, abs=0.02)  # E|round(p) - p|


def following(*rows: list) -> ReaderQuality:
    return replace(ReaderQuality.unknown([CONCEPT]), follows=pd.DataFrame(rows, columns=list(FOLLOWS)))


def test_a_shift_is_told_along_the_contrast_that_is_asked_for():
    view, site, age = (
        Binary("view", levels=("PA", "AP")),
        Categorical("site", ("A", "B", "C")),
        GRAPH.attributes["age"],
    )
    forth = Contrast("view", "flip", level="AP", reference="PA")
    of_view = following(["leads", "view", 0.2, 0.03, 0.14, 0.26, forth.name, np.nan])
    assert of_view.shift_along("leads", forth, view) == (0.2, 0.03, True)
    back = Contrast("view", "flip", level="PA", reference="AP")
    assert of_view.shift_along("leads", back, view) == (-0.2, 0.03, True)

    of_age = following(["leads", "age", 0.04, 0.01, 0.02, 0.06, "age + 20 years", 20.0])
    assert of_age.shift_along("leads", Contrast("age", "shift", shift=-10.0), age) == (-0.02, 0.005, True)

    def level(to: str, of: str) -> Contrast:
        return Contrast("site", "level", level=to, reference=of)

    of_site = following(
        ["leads", "site", 0.1, 0.01, 0.08, 0.12, level("B", "A").name, np.nan],
        ["leads", "site", -0.2, 0.02, -0.24, -0.16, level("C", "A").name, np.nan],
    )
    assert of_site.shift_along("leads", level("C", "A"), site) == (-0.2, 0.02, True)
    assert of_site.shift_along("leads", level("A", "B"), site) == (-0.1, 0.01, True)
    # From B to C nobody looked: as much as may lie between any two levels, either way, as an error.
    between = of_site.shift_along("leads", level("C", "B"), site)
    assert (between.value, between.known) == (0.0, False)
    assert between.se == pytest.approx((0.12 + 0.24) / 1.959964)


def test_a_shift_of_an_older_file_is_an_error_and_one_that_cannot_be_told_is_unknown():
    age, older = GRAPH.attributes["age"], Contrast("age", "shift", shift=20.0)
    seen = following(["leads", "age", 0.04, 0.01, 0.02, 0.06, None, np.nan]).shift_along("leads", older, age)
    assert (seen.value, seen.known) == (0.0, False)
    assert seen.se == pytest.approx(0.06 / 1.959964)
    blank = following(["leads", "age", *[np.nan] * 4, None, np.nan]).shift_along("leads", older, age)
    assert np.isnan(blank.value)
    # Judged along other attributes only, nobody knows; judged along none, as signs that nobody can label, nothing is taken off.
    other = following(["leads", "view", 0.2, 0.03, 0.14, 0.26, "view: PA -> AP", np.nan])
    assert np.isnan(other.shift_along("leads", older, age).value)
    assert following().shift_along("leads", older, age) == (0.0, 0.0, False)


def test_a_shift_keeps_its_way_if_the_levels_are_listed_in_another_order_than_when_it_was_judged():
    scores, truth, table, patients = sample(400, follow=0.1)
    judged = assess(scores, truth, table, patients, GRAPH, [CONCEPT])
    other = Binary("view", levels=("AP", "PA"))
    contrast = default_contrasts(CausalGraph([other], []))[0]
    expected = assess(scores, truth, table, patients, CausalGraph([other], []), [CONCEPT])
    assert expected.shift_along("leads", contrast, other).value == pytest.approx(-0.1, abs=0.03)
    assert judged.shift_along("leads", contrast, other) == pytest.approx(expected.shift_along("leads", contrast, other))
    # Levels of other names: which way is not known. A file that says along what none of its shifts is has them upwards.
    renamed = Binary("view", levels=("supine", "upright"))
    assert not judged.shift_along("leads", default_contrasts(CausalGraph([renamed], []))[0], renamed).known
    older = replace(judged, follows=judged.follows.assign(contrast=None))
    assert older.shift_along("leads", contrast, GRAPH.attributes["view"]).value == pytest.approx(-0.1, abs=0.03)


def test_where_the_concept_hardly_comes_without_the_view_the_others_tell_whether_the_reader_follows():
    for follow in (0.0, 0.1):
        scores, truth, table, patients = sample(follow=follow)
        gone = (truth[:, 0] == 1) & (table["view"] == "PA").to_numpy()  # leads in PA views: none
        keep = ~gone
        quality = assess(scores[keep], truth[keep], table[keep], patients[keep], GRAPH, [CONCEPT])
        row = quality.follows.set_index("attribute").loc["view"]
        assert row.low < follow < row.high
        assert (row.low > 0) == (follow > 0)


def test_a_concept_that_is_the_view_cannot_be_told_from_it():
    scores, truth, table, patients = sample()
    keep = (truth[:, 0] == 1) == (table["view"] == "AP").to_numpy()
    quality = assess(scores[keep], truth[keep], table[keep], patients[keep], GRAPH, [CONCEPT])
    follows = quality.follows.set_index("attribute")
    assert np.isnan(follows.loc["view", "shift"])
    assert not np.isnan(follows.loc["age", "shift"])


def test_a_reader_that_follows_the_view_is_found_out_and_one_that_does_not_is_not():
    for follow in (0.0, 0.1):
        scores, truth, table, patients = sample(follow=follow)
        quality = assess(scores, truth, table, patients, GRAPH, [CONCEPT])
        row = quality.follows.set_index("attribute").loc["view"]
        assert row.low < follow < row.high
        assert (row.low > 0) == (follow > 0)


def seen_in_few(seed: int, ahead: int, each: int) -> tuple[float, float]:
    """Interval of the shift of a reader that follows nothing; few patients of many images in AP, 60 of two in PA."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(ahead + 60), [each] * ahead + [2] * 60)
    truth = np.arange(len(patient)) % 2
    scores = 0.3 + 0.4 * truth + rng.normal(0, 0.12, ahead + 60)[patient] + rng.normal(0, 0.03, len(patient))
    table = pd.DataFrame({"view": np.where(patient < ahead, "AP", "PA")})
    graph = CausalGraph([GRAPH.attributes["view"]], [])
    quality = assess(scores.clip(0, 1)[:, None], truth[:, None], table, pd.Series(patient), graph, [CONCEPT])
    return tuple(quality.follows.loc[0, ["low", "high"]])


def test_few_patients_of_many_images_do_not_show_that_a_reader_follows_their_view():
    assert np.isnan(seen_in_few(0, 9, 40)).all()
    intervals = np.array([seen_in_few(seed, 10, 8) for seed in range(60)])
    held = (intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)
    assert held.mean() > 0.9
    assert (intervals[:, 1] - intervals[:, 0]).mean() < 0.35


def test_the_shift_of_scores_without_a_fault_is_as_sure_as_a_trial_a_patient():
    truth, view = np.tile([1.0, 1.0, 0.0, 0.0], 12), np.tile(["AP", "PA"], 24)
    graph = CausalGraph([GRAPH.attributes["view"]], [])
    table, patients = pd.DataFrame({"view": view}), pd.Series(np.arange(48))
    row = assess(truth[:, None], truth[:, None], table, patients, graph, [CONCEPT]).follows.loc[0]
    # Two differences of two means, each of 12 patients, one of whom might as well have gone wrong in 14.
    assert row["shift"] == pytest.approx(0)
    assert row.se == pytest.approx(np.sqrt(4 * 0.5**2 * (1 / 14) * (13 / 14) / 12))


@pytest.mark.parametrize(("patients", "faults"), [(44, 0.06), (100, 0.03)])
def test_the_calibration_error_of_rare_faults_is_held_though_none_may_be_seen(patients, faults):
    truth, held = np.arange(patients) % 2, 0
    for seed in range(300):
        wrong = np.random.default_rng(seed).uniform(size=patients) < faults
        low, high = calibration_interval(np.where(wrong, 1 - truth, truth), truth, np.arange(patients))
        held += low <= faults <= high  # a score of 0 or 1 is off by 1 as often as it is wrong
    assert held / 300 > 0.92
    none = calibration_interval(truth, truth, np.arange(patients))
    assert none == pytest.approx(proportion_confint(0, patients, method="wilson"))


def test_auroc_is_given_within_levels_and_quartiles_beside_the_attributes_own():
    scores, truth, table, patients = sample()
    within = assess(scores, truth, table, patients, GRAPH, [CONCEPT]).within
    assert list(within.level) == ["PA", "AP", *(f"quartile {q}" for q in (1, 2, 3, 4))]
    ap = (table.view == "AP").to_numpy()
    expected = roc_auc_score(truth[ap, 0], scores[ap, 0])
    assert within.set_index("level").loc["AP", "auroc"] == pytest.approx(expected)
    assert within.attribute_auroc.max() < 0.55  # neither view nor age says anything of the leads


def test_images_of_a_patient_are_no_independent_images():
    scores, truth, table, patients = sample(400)
    scores = expit(scores + np.random.default_rng(3).normal(0, 0.4, (200, 1)).repeat(2, axis=0))
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


def test_a_concept_labelled_in_one_patient_alone_is_unknown_and_the_others_are_not():
    scores, truth, table, patients = sample(400)
    two = [CONCEPT, Concept("wires", ("wires",), ("no wires",))]
    patients[:60] = "one"
    alone = np.where((np.arange(400) < 60)[:, None], truth, np.nan)
    quality = assess(scores.repeat(2, axis=1), np.hstack([truth, alone]), table, patients, GRAPH, two)
    assert np.isnan(quality.concepts.loc["wires", ["auroc", "slope", "ece"]]).all()
    assert quality.follows.query("concept == 'wires'")["shift"].isna().all()
    assert quality.concepts.loc["leads"].notna().all()
    assert quality.follows.query("concept == 'leads'")["shift"].notna().all()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=24, max_size=60), st.randoms())
@settings(max_examples=30, deadline=None)
def test_nothing_depends_on_the_order_of_the_rows(cases, random):
    level, label = np.array(cases).T
    site = Categorical("site", levels=("a", "b", "c", "d"))
    table = pd.DataFrame({"site": site.decode(level)})
    patients = pd.Series([f"p{i % 20}" for i in range(len(cases))])
    scores, truth = level[:, None] / 4, label[:, None].astype(float)  # scores that tie

    def judged(rows):
        return assess(scores[rows], truth[rows], table.iloc[rows], patients.iloc[rows], CausalGraph([site]), [CONCEPT])

    first, second = judged(np.arange(len(cases))), judged(np.array(random.sample(range(len(cases)), len(cases))))
    for name in ("concepts", "within", "follows"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name), atol=1e-9)


# -- what cannot be judged ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("score", "message"),
    [
        (np.nan, r"Concept 'leads' has 1 scores that are no finite numbers, e.g. nan"),
        (np.inf, r"Concept 'leads' has 1 scores that are no finite numbers, e.g. inf"),
        (-3.2, r"Concept 'leads' has 1 scores outside \[0, 1\], e.g. -3.2; give probabilities"),
    ],
)
def test_scores_that_are_none_are_refused(score, message):
    scores, truth, table, patients = sample(40)
    scores[3] = score
    with pytest.raises(ValueError, match=message):
        assess(scores, truth, table, patients, GRAPH, [CONCEPT])


def test_scores_may_miss_one_by_a_rounding():
    scores, truth, table, patients = sample(40)
    scores[3] = 1 + 1e-7
    assess(scores, truth, table, patients, GRAPH, [CONCEPT])


def test_an_uncertain_label_is_not_taken_for_absent():
    scores, truth, table, patients = sample(40)
    truth[:2] = -1  # CheXpert's
    message = r"Concept 'leads' has 2 labels that are neither 0 nor 1, e.g. -1; .* write NaN"
    with pytest.raises(ValueError, match=message):
        assess(scores, truth, table, patients, GRAPH, [CONCEPT])
    dataset, labels = Pictures(scores[:, 0], table, patients), pd.DataFrame({"leads": truth[:, 0]})
    with pytest.raises(ValueError, match=message):
        known_truth([CONCEPT], dataset, np.arange(40), labels)
    assert known_truth([CONCEPT], dataset, np.arange(2, 40), labels)[:, 0].tolist() == truth[2:, 0].tolist()


def test_labels_are_taken_by_the_images_numbers_whatever_their_order():
    scores, truth, table, patients = sample(40)
    dataset, labels = Pictures(scores[:, 0], table, patients), pd.DataFrame({"leads": truth[:, 0]})
    rows = np.arange(5, 30)
    shuffled = labels.sample(frac=1, random_state=0)
    assert known_truth([CONCEPT], dataset, rows, shuffled)[:, 0].tolist() == truth[rows, 0].tolist()
    for other in (shuffled.set_axis([f"image {i}.png" for i in shuffled.index]), labels.set_axis([0, *range(39)])):
        with pytest.raises(
            ValueError, match=r"not the number of one image.* labels.set_axis\(dataset.attributes.index\)"
        ):
            known_truth([CONCEPT], dataset, rows, other)


def test_quality_survives_json_and_nothing_known_is_nan():
    scores, truth, table, patients = sample(400)
    for quality in (assess(scores, truth, table, patients, GRAPH, [CONCEPT]), ReaderQuality.unknown([CONCEPT])):
        back = ReaderQuality.from_dict(json.loads(json.dumps(quality.to_dict())))
        for name in ("concepts", "within", "follows"):
            pd.testing.assert_frame_equal(getattr(back, name), getattr(quality, name), check_dtype=False)
    assert ReaderQuality.unknown([CONCEPT]).concepts.isna().all(axis=None)


# -- intervals in closed form ------------------------------------------------------------------------------------------
cases = st.lists(
    st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 5), st.integers(0, 2)), min_size=4, max_size=40
)


@given(cases)
def test_concordance_is_counted_over_pairs_of_one_stratum(cases):
    scores, present, groups, strata = (np.array(column) for column in zip(*cases, strict=True))
    present = present.astype(bool)
    wins = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in np.flatnonzero(present)
        for j in np.flatnonzero(~present)
        if strata[i] == strata[j]
    ]
    found = concordance(scores.astype(float), present, groups, strata)
    assert found.pairs == len(wins)
    assert found.value == pytest.approx(np.mean(wins), nan_ok=True) if wins else np.isnan(found.value)


@given(cases)
def test_the_variance_is_obuchowskis_from_her_formula(cases):
    scores, present, groups, _ = (np.array(column) for column in zip(*cases, strict=True))
    present = present.astype(bool)
    m, n = present.sum(), (~present).sum()
    with_present, with_absent = np.unique(groups[present]), np.unique(groups[~present])
    found = concordance(scores.astype(float), present, groups)
    if min(len(with_present), len(with_absent)) < 2:
        assert np.isnan(found.variance)
        return
    beats = (scores[present][:, None] > scores[~present]) + 0.5 * (scores[present][:, None] == scores[~present])
    area, v10, v01 = beats.mean(), beats.mean(axis=1), beats.mean(axis=0)
    everyone = np.unique(groups)
    x = np.array([(v10[groups[present] == g] - area).sum() for g in everyone])
    y = np.array([(v01[groups[~present] == g] - area).sum() for g in everyone])
    i10, i01, i = len(with_present), len(with_absent), len(everyone)
    s10, s01 = i10 / ((i10 - 1) * m) * (x**2).sum(), i01 / ((i01 - 1) * n) * (y**2).sum()
    s11 = i / (i - 1) * (x * y).sum()
    assert found.variance == pytest.approx(max(s10 / m + s01 / n + 2 * s11 / (m * n), 0), abs=1e-12)


def test_with_one_image_a_patient_the_variance_is_delongs():
    rng = np.random.default_rng(0)
    present = rng.uniform(size=80) < 0.4
    scores = np.round(rng.normal(size=80) + present, 1)  # with ties
    beats = (scores[present][:, None] > scores[~present]) + 0.5 * (scores[present][:, None] == scores[~present])
    delong = beats.mean(1).var(ddof=1) / present.sum() + beats.mean(0).var(ddof=1) / (~present).sum()
    assert concordance(scores, present, np.arange(80)).variance == pytest.approx(delong)


@pytest.mark.parametrize(
    ("patients", "each", "area", "shared"), [(150, 1, 0.8, 0.0), (60, 1, 0.98, 0.0), (60, 3, 0.8, 0.7)]
)
def test_auroc_intervals_hold_the_truth_as_often_as_they_say(patients, each, area, shared):
    rng = np.random.default_rng(1)
    group, runs = np.repeat(np.arange(patients), each), 400
    held = 0
    for _ in range(runs):
        present = rng.uniform(size=len(group)) < 0.3
        noise = np.sqrt(shared) * rng.normal(size=patients)[group] + np.sqrt(1 - shared) * rng.normal(size=len(group))
        low, high = concordance(norm.ppf(area) * np.sqrt(2) * present + noise, present, group).interval()
        held += low <= area <= high
    assert held / runs == pytest.approx(0.95, abs=0.033)  # three standard errors


def test_scores_that_separate_a_few_patients_prove_no_perfect_reader():
    present = np.arange(40) < 20
    low, high = concordance(present.astype(float), present, np.arange(40)).interval()
    assert high == 1
    assert low == pytest.approx(0.91, abs=0.01)  # 38 trials without a miss, by Wilson
    twice = np.repeat(np.arange(20), 2)
    assert concordance(present.astype(float), present, twice).interval()[0] < low  # of 20 patients only


@pytest.mark.parametrize(
    ("counts", "rates", "most"),
    [
        ((10, 200), (0.8, 0.05), 0.99),
        ((15, 200), (0.9, 0.02), 0.98),
        ((30, 300), (0.9, 0.02), 0.98),
        ((30, 300), (0.97, 0.01), 0.98),
        ((800, 1_200), (0.9, 0.1), 0.97),
    ],
)
def test_slope_intervals_hold_the_truth_however_few_and_well_read(counts, rates, most):
    rng, runs = np.random.default_rng(8), 1_500
    present = np.arange(sum(counts)) < counts[0]
    calls = (rng.uniform(size=(runs, len(present))) < np.where(present, *rates)).astype(float)
    truth = rates[0] - rates[1]
    value, error, low, high = np.array([slope(s, present, np.arange(len(present))) for s in calls]).T
    assert 0.94 < ((low <= truth) & (truth <= high)).mean() < most
    assert (np.abs(value - truth) <= 1.96 * error).mean() > 0.92  # what is divided by J takes its error alone


@pytest.mark.parametrize("positives", [3, 5, 8])
def test_slope_intervals_hold_the_truth_where_all_positives_are_of_few_patients(positives):
    rng, held, runs = np.random.default_rng(9), 0, 400
    group = np.repeat(np.arange(positives + 60), 8)
    present = group < positives
    for _ in range(runs):
        noise = 0.1 * rng.normal(size=group.max() + 1)[group] + 0.1 * rng.normal(size=len(group))
        _, _, low, high = slope(np.clip(0.4 + 0.2 * present + noise, 0, 1), present, group)
        held += low <= 0.2 <= high
    assert held / runs > 0.93


def test_where_images_of_a_patient_differ_in_the_concept_what_they_share_falls_out_of_the_slope():
    rng = np.random.default_rng(10)
    group = np.repeat(np.arange(400), 2)
    present = np.arange(800) % 2 == 0
    scores = 0.3 + 0.3 * present + 0.1 * rng.uniform(-1, 1, 400)[group] + 0.02 * rng.uniform(-1, 1, 800)
    value, error, low, high = slope(scores, present, group)
    apart = slope(scores, present, np.arange(800))
    assert low < 0.3 < high
    assert value == apart[0]
    assert error < apart[1] / 2


def test_scores_that_separate_a_few_patients_leave_the_slope_open():
    present = np.arange(40) < 20
    value, error, low, high = slope(present.astype(float), present, np.arange(40))
    assert (value, high) == (1, 1)
    # each mean by Wilson, of 20 trials without a miss; the two by Newcombe
    assert low == pytest.approx(1 - np.sqrt(2) * 1.96**2 / (20 + 1.96**2), abs=1e-4)
    assert error > 0.05
    twice = np.repeat(np.arange(20), 2)
    assert slope(present.astype(float), present, twice)[2] < low  # of 20 patients only


def test_a_score_that_is_always_the_same_is_calibrated_if_it_is_right_on_average_in_any_order():
    truth = np.repeat([0.0, 1.0], 200)
    shuffled = np.random.default_rng(0).permutation(truth)
    for order in (truth, shuffled):
        assert calibration_error(np.full(400, 0.5), order) == 0
        assert calibration_error(np.full(400, 0.8), order) == pytest.approx(0.3)
        low, high = calibration_interval(np.full(400, 0.5), order, np.arange(400))
        assert low == 0
        assert high < 0.1


def test_the_calibration_error_of_a_few_values_is_that_of_each_value():
    rng = np.random.default_rng(11)
    scores = rng.permutation(np.repeat([0.1, 0.4, 0.9], [30, 50, 20]))
    truth = (rng.uniform(size=100) < 0.5).astype(float)
    by_value = pd.Series(truth - scores).groupby(scores).sum()
    assert calibration_error(scores, truth) == pytest.approx(by_value.abs().sum() / 100)


@pytest.mark.parametrize("off", [0.0, 0.1])
def test_calibration_intervals_hold_the_truth_also_where_it_is_zero(off):
    rng = np.random.default_rng(2)
    held, runs = 0, 200
    for _ in range(runs):
        chance = rng.uniform(0.15, 0.85, 300)
        truth = (rng.uniform(size=300) < chance).astype(float)
        low, high = calibration_interval(np.clip(chance + off, 0, 1), truth, np.arange(300) // 2)
        assert low <= calibration_error(np.clip(chance + off, 0, 1), truth) <= high
        held += low <= off <= high
    assert held / runs > 0.92


def test_a_wrong_calibration_is_shown_to_be_wrong():
    rng = np.random.default_rng(3)
    scores = rng.uniform(size=2_000)
    truth = (rng.uniform(size=2_000) < 0.5).astype(float)  # scores say nothing: off by 0.25 on average
    low, high = calibration_interval(scores, truth, np.arange(2_000))
    assert 0.15 < low < 0.25 < high < 0.32


# -- within levels -----------------------------------------------------------------------------------------------------
def test_a_reader_of_the_view_is_laid_open_by_the_stratified_auroc():
    rng = np.random.default_rng(4)
    n = 2_000
    view = rng.uniform(size=n) < 0.5
    truth = (rng.uniform(size=n) < np.where(view, 0.7, 0.1)).astype(float)
    scores = 0.8 * view + 0.1 * rng.uniform(size=n)
    table = GRAPH.coerce(pd.DataFrame({"view": np.where(view, "AP", "PA"), "age": rng.uniform(20, 90, n)}))
    quality = assess(scores[:, None], truth[:, None], table, pd.Series(np.arange(n)), GRAPH, [CONCEPT])
    assert quality.concepts.loc["leads", "auroc_low"] > 0.75
    row = quality.within[quality.within.attribute == "view"].iloc[0]
    assert row.stratified_low < 0.5 < row.stratified_high
    assert row.attribute_low < quality.concepts.loc["leads", "auroc"] < row.attribute_high
    age = quality.within[quality.within.attribute == "age"]
    assert (age.stratified_low > 0.75).all()
    assert set(blind_spots(quality).query("kind == 'within'").attribute) == {"view"}


def test_the_stratified_auroc_is_the_mean_over_levels_weighted_by_pairs():
    scores, truth, table, patients = sample()
    scores = expit(scores + np.random.default_rng(6).normal(0, 0.4, scores.shape))
    within = assess(scores, truth, table, patients, GRAPH, [CONCEPT]).within
    for _, rows in within.groupby("attribute"):
        pairs = rows.n_present * rows.n_absent
        assert rows.stratified.iloc[0] == pytest.approx((rows.auroc * pairs).sum() / pairs.sum())
        assert (rows.auroc_low < rows.auroc).all()
        assert (rows.auroc < rows.auroc_high).all()


def test_unordered_levels_are_ranked_by_how_often_the_concept_is_there():
    site = Categorical("site", levels=("north", "mid", "south"))
    rng = np.random.default_rng(5)
    level = rng.integers(0, 3, 900)
    rate = np.array([0.1, 0.9, 0.1])[level]  # neither rising nor falling with the code
    truth = (rng.uniform(size=900) < rate).astype(float)
    table = pd.DataFrame({"site": site.decode(level)})
    within = assess(rng.uniform(size=(900, 1)), truth[:, None], table, pd.Series(np.arange(900)), CausalGraph([site]),
                    [CONCEPT]).within  # fmt: skip
    assert within.attribute_auroc.iloc[0] == pytest.approx(roc_auc_score(truth, level == 1), abs=0.02)
    assert within.attribute_low.iloc[0] > 0.8


CLINIC = Categorical("clinic", levels=tuple("abcdefghijklmnopqrst"))
SEX = Binary("sex", levels=("F", "M"))


def own_column(attribute, level, truth, patients):
    """AUROC of the attribute's column and its interval."""
    graph = CausalGraph([attribute])
    table = pd.DataFrame({attribute.name: attribute.decode(level)})
    found = assess(np.full((len(truth), 1), 0.5), truth[:, None], table, pd.Series(patients), graph, [CONCEPT]).within
    return found[["attribute_auroc", "attribute_low", "attribute_high"]].iloc[0].tolist()


@pytest.mark.parametrize("attribute", [CLINIC, SEX])
def test_a_column_of_noise_scores_a_half_however_many_levels_it_has(attribute):
    rng, found = np.random.default_rng(12), []
    for _ in range(60):
        level, truth = rng.integers(0, len(attribute.levels), 200), (rng.uniform(size=200) < 0.4).astype(float)
        found.append(own_column(attribute, level.astype(float), truth, np.arange(200)))
    value, low, high = np.array(found).T
    assert value.mean() == pytest.approx(0.5, abs=0.02)
    assert ((low <= 0.5) & (high >= 0.5)).mean() >= 0.9


@pytest.mark.parametrize("attribute", [CLINIC, SEX])
@pytest.mark.parametrize("turned", [False, True])
def test_a_column_that_goes_with_the_concept_is_found_whichever_way_it_points(attribute, turned):
    rng = np.random.default_rng(13)
    level = rng.integers(0, len(attribute.levels), 800)
    often = (level % 2 == 1) != turned
    truth = (rng.uniform(size=800) < np.where(often, 0.6, 0.2)).astype(float)
    value, low, _ = own_column(attribute, level.astype(float), truth, np.arange(800))
    assert value == pytest.approx(roc_auc_score(truth, often), abs=0.03)
    assert low > 0.6


def test_images_without_the_attribute_are_in_none_of_its_levels():
    scores, truth, table, patients = sample(400)
    table.loc[:99, ["view", "age"]] = None
    within = assess(scores, truth, table, patients, GRAPH, [CONCEPT]).within
    for _, rows in within.groupby("attribute"):
        assert (rows.n_present + rows.n_absent).sum() == 300


# -- a reader, a dataset -----------------------------------------------------------------------------------------------
class Told:
    """Scores are the first pixel; fitted on whom it says."""

    name, concepts = "told", (CONCEPT,)

    def __init__(self, fitted_on):
        self.fitted_on = fitted_on

    def read(self, images, patients=None):
        return images[:, 0, 0, :1]


class Pictures:
    texts, fingerprint = None, "pictures"

    def __init__(self, scores, table, patients):
        import torch

        self.attributes, self.patients = table, patients
        self._images = torch.as_tensor(scores, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 2, 2)

    def images(self, rows):
        return self._images[rows]


def test_a_reader_is_judged_as_its_scores_are():
    scores, truth, table, patients = sample(400)
    dataset, rows = Pictures(scores[:, 0], table, patients), np.arange(50, 350)
    labels = pd.DataFrame({"leads": truth[:, 0]})
    direct = assess(scores.astype(np.float32)[rows].astype(float), truth[rows], table.iloc[rows], patients.iloc[rows], GRAPH,
                    [CONCEPT])  # fmt: skip
    for told in (labels, truth[rows]):
        found = assess_reader(Told(frozenset({"0"})), dataset, rows, told, GRAPH, batch_size=64)
        for name in ("concepts", "within", "follows"):
            pd.testing.assert_frame_equal(getattr(found, name), getattr(direct, name))


def test_patients_it_was_fitted_on_are_refused_and_unknown_ones_warned_of():
    scores, truth, table, patients = sample(400)
    dataset, rows = Pictures(scores[:, 0], table, patients), np.arange(100)
    with pytest.raises(ValueError, match=r"fitted on 2 of the 50 patients of these rows, e.g. '3'"):
        assess_reader(Told(frozenset({"3", "4", "199"})), dataset, rows, truth[rows], GRAPH)
    with pytest.warns(RuntimeWarning, match="not known on which patients"):
        assess_reader(Told(None), dataset, rows, truth[rows], GRAPH)
    with pytest.raises(ValueError, match=r"shape \(100, 2\); 100 rows x 1 concepts"):
        assess_reader(Told(frozenset()), dataset, rows, np.ones((100, 2)), GRAPH)
    with pytest.raises(ValueError, match="3 rows and the dataset 400"):
        assess_reader(Told(frozenset()), dataset, rows, pd.DataFrame({"leads": [0, 1, 1]}), GRAPH)


def test_a_cross_fitted_reader_may_be_judged_on_its_own_patients():
    phantom = Phantom(300, "independent", seed=33, size=32)
    (concept,) = load_concepts(["control_bar"])
    truth = phantom.hidden[["control_bar"]].to_numpy(dtype=float)
    probe = ProbeReader.fit(
        phantom, np.arange(300), truth, [concept], features=Pixels(32), graph=phantom.graph, n_folds=3
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judged = assess_reader(probe, phantom, np.arange(300), phantom.hidden, phantom.graph)
    pd.testing.assert_frame_equal(judged.concepts, probe.quality.concepts, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["clip-reader-phantom", "probe-reader-phantom"])
def test_files_of_before_are_read_with_their_numbers_and_what_they_lack_is_unknown(name):
    written = json.loads((shipped(name) / "reader.json").read_text())["quality"]
    for row in (*written["concepts"], *written["within"]):
        for column in ("ece_low", "ece_high", *(WITHIN[7:] if "level" in row else ())):
            row.pop(column, None)
    quality = ReaderQuality.from_dict(written)
    assert (tuple(quality.concepts), tuple(quality.within), tuple(quality.follows)) == (COLUMNS, WITHIN, FOLLOWS)
    for frame, key in (
        (quality.concepts.reset_index(), "concepts"),
        (quality.within, "within"),
        (quality.follows, "follows"),
    ):
        old = pd.DataFrame(written[key])
        pd.testing.assert_frame_equal(frame[list(old)], old, check_dtype=False)
    assert quality.within.stratified.isna().all()
    assert isinstance(blind_spots(quality), pd.DataFrame)


# -- blind spots -------------------------------------------------------------------------------------------------------
def judged(**changes):
    values = dict(
        zip(COLUMNS, (0.9, 0.85, 0.94, 0.6, 0.02, 0.56, 0.64, 0.02, 80.0, 120.0, 0.4, 0.0, 0.05), strict=True)
    )
    frame = pd.DataFrame([values | changes], index=pd.Index(["wires"], name="concept"))
    within = pd.DataFrame(
        [["wires", "view", "AP", 0.85, 0.52, 40, 60, 0.8, 0.9, 0.45, 0.6, 0.85, 0.8, 0.9]], columns=list(WITHIN)
    )
    follows = pd.DataFrame(
        [["wires", "view", 0.01, 0.01, -0.01, 0.03, "view: PA -> AP", np.nan]], columns=list(FOLLOWS)
    )
    return ReaderQuality(frame, within, follows)


def test_a_reader_without_fault_has_no_blind_spot():
    assert blind_spots(judged()).empty


def test_blind_spots_are_told_in_plain_words():
    row = dict(zip(WITHIN, judged().within.iloc[0], strict=True))
    bad = row | {"auroc": 0.61, "auroc_low": 0.55, "auroc_high": 0.68, "attribute_auroc": 0.84}
    few = bad | {"level": "PA", "auroc": np.nan, "auroc_low": np.nan, "auroc_high": np.nan, "n_present": 1}
    follows = pd.DataFrame(
        [["wires", "view", 0.12, 0.02, 0.08, 0.16, None, np.nan], ["wires", "age", *[np.nan] * 4, None, np.nan]],
        columns=list(FOLLOWS),
    )
    told = blind_spots(replace(judged(), within=pd.DataFrame([bad, few]), follows=follows))
    assert told.why.tolist() == [
        "wires: AUROC within AP 0.61 [0.55, 0.68], the view column alone scores 0.84",
        "wires: not judged within PA (1 images with it), the view column alone scores 0.84",
        "wires: too few patients to tell whether it is read or age",
        "wires: its score moves by +0.12 [0.08, 0.16] with view while wires stays",
    ]
    assert told.kind.tolist() == ["within", "within", "inseparable", "follows"]
    assert told.shown.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("changes", "kind", "shown"),
    [
        ({"auroc_low": 0.6}, "discrimination", False),
        ({"auroc": 0.6, "auroc_low": 0.55, "auroc_high": 0.65}, "discrimination", True),
        ({"slope_low": 0.2}, "slope", False),
        ({"slope": 0.1, "slope_low": 0.05, "slope_high": 0.15}, "slope", True),
        ({"ece_high": 0.2}, "calibration", False),
        ({"ece": 0.2, "ece_low": 0.15, "ece_high": 0.3}, "calibration", True),
        ({"auroc": np.nan, "n_present": 4.0}, "unjudged", False),
    ],
)
def test_each_limit_makes_one_blind_spot(changes, kind, shown):
    told = blind_spots(judged(**changes))
    assert told[["kind", "shown"]].to_numpy().tolist() == [[kind, shown]]


def test_what_nobody_judged_is_no_blind_spot_less():
    assert blind_spots(ReaderQuality.unknown([CONCEPT])).why.tolist() == ["leads: never judged on labelled patients"]
