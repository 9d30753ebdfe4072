import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit

from causal_cxr.data.dataset import UnreadableImages
from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous
from causal_cxr.readers import Concept, ProbeReader
from causal_cxr.readers.impute import impute_missing

SEX = Binary("sex", levels=("F", "M"))
GRAPH = CausalGraph([SEX, Continuous("age", unit="years", low=0, high=100)], [])
FEMALE = Concept("female", ("woman",), ("man",), attribute="sex", level="F")


class Pictures:
    """Images are the scores themselves, one a column of pixels."""

    texts, fingerprint = None, "pictures"

    def __init__(self, scores, table, patients, bad=()):
        self.attributes, self.patients, self.bad = table, pd.Series(patients).astype(str), set(bad)
        self._images = torch.as_tensor(np.atleast_2d(scores.T).T, dtype=torch.float32)[:, None, None, :]

    def images(self, rows):
        bad = self.bad & set(np.asarray(rows).tolist())
        if bad:
            raise UnreadableImages(dict.fromkeys(bad, "truncated file"))
        return self._images[rows]


class Told:
    name, fitted_on = "told", frozenset()

    def __init__(self, *concepts, fitted_on=frozenset()):
        self.concepts, self.fitted_on = concepts, fitted_on

    def read(self, images, patients=None):
        return images[:, 0, 0]


def people(n=1_200, seed=0, share=0.5, strength=2.5, images=2, missing=0.4):
    """Two images a patient; the score's logit is normal, ``strength`` apart, and too sure of itself; and the true codes."""
    rng = np.random.default_rng(seed)
    patient = np.arange(n) // images
    male = (rng.uniform(size=n) < 1 - share)[patient * images]
    margin = strength * (~male - 0.5) + rng.normal(size=n)
    table = GRAPH.coerce(pd.DataFrame({"sex": np.where(male, "M", "F"), "age": rng.uniform(20, 90, n)}))
    hole = rng.uniform(size=n) < missing
    table.loc[hole, "sex"] = None
    return expit(3 * margin), table, patient, male.astype(int), hole


def test_sets_hold_the_true_level_as_often_as_asked_of_each_level_also_of_the_rare_one():
    held, filled, right = {"F": [], "M": []}, 0, 0
    for seed in range(20):
        scores, table, patient, male, hole = people(seed=seed, share=0.15)
        found = impute_missing(
            Told(FEMALE), Pictures(scores, table, patient), GRAPH, attributes=["sex"], miss=0.1, seed=seed
        )
        sets = found.posteriors.set_index(["row", "level"])["in_set"]
        for code, level in enumerate(("F", "M")):
            held[level].append(sets.xs(level, level="level")[np.flatnonzero(hole & (male == code))].mean())
        now = found.attributes.loc[hole, "sex"].dropna()
        filled, right = filled + len(now), right + int((now == np.where(male[now.index], "M", "F")).sum())
    for level in ("F", "M"):
        # the mean over calibration draws is 0.9 or, with so few of a level, a little more
        assert 0.88 < np.mean(held[level]) < 0.95
    assert filled > 20 * 300
    assert right / filled > 0.9


def test_a_cross_fitted_probe_reads_new_patients_as_it_reads_those_that_calibrate():
    """150 labelled patients and 400 new ones; sets are neither too small nor, as by a mean over heads, too large."""

    class Values:
        fingerprint, fitted_on = "values", frozenset()

        def features(self, images):
            return images.flatten(1)

    class Whole(ProbeReader):
        """Its folds are not told: all heads read new patients."""

        def dealt(self, patients):
            return self

    held, filled, n = {ProbeReader: [], Whole: []}, {ProbeReader: [], Whole: []}, 150
    for seed in range(25):
        rng = np.random.default_rng(seed)
        female = rng.uniform(size=n + 400) < 0.5
        values = rng.standard_normal((n + 400, 60))
        values[:, 0] += 2.5 * female
        table = GRAPH.coerce(pd.DataFrame({"sex": np.where(female, "F", "M"), "age": 50.0}))
        table.loc[n:, "sex"] = None
        data = Pictures(values, table, np.arange(n + 400))
        for kind in (ProbeReader, Whole):
            reader = kind.fit(data, np.arange(n), female[:n, None].astype(float), [FEMALE], features=Values(), n_folds=2,
                              inverse_penalty=1.0, seed=seed)  # fmt: skip
            found = impute_missing(reader, data, GRAPH, miss=0.1, seed=seed)
            sets = found.posteriors.set_index(["row", "level"])["in_set"]
            for level, calibrated_on in found.calibration.set_index("level")["calibrated_on"].items():
                rows = n + np.flatnonzero(female[n:] == (level == "F"))
                exact = 1 - np.floor(0.1 * (calibrated_on + 1)) / (calibrated_on + 1)
                held[kind].append(sets.xs(level, level="level")[rows].mean() - exact)
            filled[kind].append((~found.abstained["sex"]).sum())
    assert np.mean(held[ProbeReader]) == pytest.approx(0, abs=0.015)
    assert np.mean(held[Whole]) > 0.02
    assert np.mean(filled[ProbeReader]) > np.mean(filled[Whole])


def test_where_all_patients_are_new_to_a_probe_all_heads_read_them():
    scores, table, patient, *_ = people(n=400)

    class Values:
        fingerprint, fitted_on = "values", frozenset()

        def features(self, images):
            return images[:, 0, 0]

    probe = ProbeReader(
        [FEMALE], np.array([[[5.0]], [[-1.0]]]), np.array([[-2.0], [0.0]]), {"elsewhere": 0}, features=Values()
    )
    whole = probe._by_fold(torch.as_tensor(scores[:, None, None, None]).float()).mean(1)[:, 0].numpy()
    found = impute_missing(probe, Pictures(scores, table, patient), GRAPH)
    expected = impute_missing(Told(FEMALE), Pictures(whole, table, patient), GRAPH)
    assert found.posteriors.posterior.to_numpy() == pytest.approx(expected.posteriors.posterior.to_numpy(), abs=1e-4)


def test_posteriors_are_calibrated_though_the_scores_are_not():
    scores, table, patient, male, _ = people(n=12_000, share=0.3, strength=1.5, images=1)
    found = impute_missing(Told(FEMALE), Pictures(scores, table, patient), GRAPH, attributes=["sex"], miss=0.2)
    female = found.posteriors[found.posteriors.level == "F"].set_index("row")
    truth = 1 - male[female.index]
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        here = female.posterior.between(low, low + 0.2).to_numpy()
        assert truth[here].mean() == pytest.approx(female.posterior[here].mean(), abs=0.05)
    assert female.prior.to_numpy() == pytest.approx(0.3, abs=0.02)
    raw = scores[female.index]
    assert abs(truth[raw > 0.8].mean() - raw[raw > 0.8].mean()) > 0.2


def test_what_is_known_stays_and_what_is_not_clear_stays_missing_with_the_reason():
    scores, table, patient, _, hole = people()
    found = impute_missing(Told(FEMALE), Pictures(scores, table, patient), GRAPH)
    pd.testing.assert_frame_equal(found.attributes[~hole], table[~hole])
    assert found.attributes.dtypes.equals(table.dtypes)
    left = found.attributes["sex"].isna()
    assert found.abstained["sex"].equals(left)
    assert not found.abstained["age"].any()
    assert found.reasons.row.tolist() == np.flatnonzero(left).tolist()
    assert set(found.reasons.reason) == {"sex may be F or M"}
    sure = found.posteriors.groupby("row").posterior.max()
    assert sure[found.reasons.row].mean() < sure.drop(found.reasons.row).mean() - 0.2
    table.loc[:, "age"] = table["age"].where(np.arange(len(table)) > 4)
    again = impute_missing(Told(FEMALE), Pictures(scores, table, patient), GRAPH)
    about_age = again.reasons[again.reasons.attribute == "age"]
    assert about_age.row.tolist() == [0, 1, 2, 3, 4]
    assert about_age.reason.str.startswith("age is a number").all()


def test_an_image_like_no_labelled_one_is_not_filled_in():
    scores, table, patient, _, hole = people(strength=8)  # nothing between the levels is labelled
    odd = np.flatnonzero(hole)[:5]
    scores[odd] = 0.5
    found = impute_missing(Told(FEMALE), Pictures(scores, table, patient), GRAPH, miss=0.05)
    assert found.reasons.set_index("row").reason[odd].tolist() == ["it looks like no level of sex that is labelled"] * 5


def test_a_posterior_that_is_asked_for_is_kept_to():
    scores, table, patient, *_ = people()
    dataset = Pictures(scores, table, patient)
    low, high = (impute_missing(Told(FEMALE), dataset, GRAPH, least_posterior=p) for p in (0.0, 0.97))
    assert low.abstained["sex"].sum() < high.abstained["sex"].sum()
    kept = ~high.abstained["sex"] & table["sex"].isna()
    assert high.posteriors.groupby("row").posterior.max()[kept[kept].index].min() >= 0.97
    assert high.reasons.reason.str.contains(r"has posterior 0\.\d\d, under 0.97").any()


def test_an_scm_that_knows_the_other_attributes_enters_by_bayes_rule():
    graph = CausalGraph([SEX, Binary("pregnant")], [("sex", "pregnant")])
    scores, table, patient, *_ = people()
    table = graph.coerce(table[["sex"]].assign(pregnant=np.arange(len(table)) % 2))

    class Model:
        """P(F) 0.5; P(pregnant | F) 0.4, P(pregnant | M) 0.001."""

        def log_prob(self, rows, seed=0):
            chance = np.where(rows["sex"] == "F", 0.4, 0.001)
            return np.log(0.5 * np.where(rows["pregnant"] == 1, chance, 1 - chance))

    dataset = Pictures(scores, table, patient)
    plain, told = (impute_missing(Told(FEMALE), dataset, graph, scm=m) for m in (None, Model()))
    prior = {1: 0.4 / 0.401, 0: 0.6 / (0.6 + 0.999)}
    female = told.posteriors[told.posteriors.level == "F"].set_index("row")
    pregnant = table["pregnant"].astype(int)[female.index]
    assert female.prior.to_numpy() == pytest.approx(pregnant.map(prior).to_numpy())
    other = told.posteriors[told.posteriors.level == "M"].set_index("row")
    odds = female.likelihood * female.prior / (other.likelihood * other.prior)
    assert female.posterior.to_numpy() == pytest.approx((odds / (1 + odds)).to_numpy())
    assert told.posteriors.in_set.equals(plain.posteriors.in_set)  # sets hang on what is seen alone


def test_the_fitted_scm_of_the_package_serves():
    from causal_cxr.graphs.scm import SCM

    graph = CausalGraph([SEX, Binary("tall")], [("sex", "tall")])
    scores, table, patient, male, _ = people(n=600)
    tall = np.random.default_rng(1).uniform(size=600) < np.where(male, 0.9, 0.1)
    table = graph.coerce(table[["sex"]].assign(tall=tall.astype(int)))
    found = impute_missing(Told(FEMALE), Pictures(scores, table, patient), graph, scm=SCM(graph).fit(table))
    female = found.posteriors[found.posteriors.level == "F"].set_index("row")
    is_tall = tall[female.index]
    assert female.prior[is_tall].mean() == pytest.approx(0.1, abs=0.06)
    assert female.prior[~is_tall].mean() == pytest.approx(0.9, abs=0.06)


def test_three_levels_are_told_apart_by_three_scores():
    view = Categorical("view", levels=("PA", "AP", "lateral"))
    graph, rng = CausalGraph([view]), np.random.default_rng(2)
    level = rng.integers(0, 3, 1_500)
    scores = expit(3 * (np.eye(3)[level] - 0.5) + rng.normal(size=(1_500, 3)))
    table = pd.DataFrame({"view": view.decode(np.where(np.arange(1_500) < 500, np.nan, level))})
    concepts = [Concept(name, (name,), (f"no {name}",), attribute="view", level=name) for name in view.levels]
    found = impute_missing(Told(*concepts), Pictures(scores, table, np.arange(1_500)), graph)
    now = found.attributes["view"][:500].dropna()
    truth = np.array(view.levels)[level[now.index]]
    assert len(now) > 300
    assert (now == truth).mean() > 0.93
    in_set = found.posteriors[found.posteriors.in_set].groupby("row")["level"].agg(set)
    held = [view.levels[level[row]] in in_set.get(row, ()) for row in range(500)]
    assert np.mean(held) == pytest.approx(0.9, abs=0.04)


def test_patients_the_reader_was_fitted_on_calibrate_nothing():
    scores, table, patient, *_ = people()
    seen = frozenset(str(p) for p in range(300))
    wrong = np.where(np.arange(1_200) < 600, 1 - scores, scores)  # on them it reads the wrong way round
    known = Pictures(wrong, table, patient)
    found = impute_missing(Told(FEMALE, fitted_on=seen), known, GRAPH)
    rest = Pictures(scores[600:], table.iloc[600:].reset_index(drop=True), patient[600:])
    alone = impute_missing(Told(FEMALE), rest, GRAPH)
    assert found.calibration.equals(alone.calibration)
    new = found.posteriors[found.posteriors.row >= 600]
    assert new.posterior.to_numpy() == pytest.approx(alone.posteriors.posterior.to_numpy())


def test_what_cannot_be_told_is_left_with_a_reason():
    scores, table, patient, _, hole = people(n=400)
    bad = int(np.flatnonzero(hole)[3])
    found = impute_missing(
        Told(FEMALE), Pictures(scores, table, patient, bad=(bad, int(np.flatnonzero(~hole)[0]))), GRAPH
    )
    assert found.reasons.set_index("row").reason[bad] == "the image cannot be read: truncated file"
    row = found.posteriors[found.posteriors.row == bad]
    assert row.posterior.to_numpy() == pytest.approx(row.prior.to_numpy())
    assert row.p.isna().all()
    other = Told(Concept("leads", ("leads",), ("no leads",)))
    found = impute_missing(other, Pictures(scores, table, patient), GRAPH)
    assert set(found.reasons.reason) == {"the reader 'told' has no concept of sex"}
    assert found.posteriors.empty
    few = Pictures(scores[:24], table.iloc[:24], patient[:24])
    found = impute_missing(Told(FEMALE), few, GRAPH)
    assert found.reasons.reason.str.match("too few labelled patients to learn sex = ").all()
    strict = impute_missing(Told(FEMALE), Pictures(scores, table, patient), GRAPH, miss=0.005)
    assert strict.reasons.reason.str.match(
        r"too few labelled patients to rule sex = .* out at miss=0.005: 199 are needed"
    ).all()


def test_a_reader_of_unknown_upbringing_is_warned_of():
    scores, table, patient, *_ = people(n=400)
    with pytest.warns(RuntimeWarning, match="not known on which patients the reader 'told' was fitted"):
        impute_missing(Told(FEMALE, fitted_on=None), Pictures(scores, table, patient), GRAPH)


def test_bad_questions_are_refused():
    scores, table, patient, *_ = people(n=100)
    dataset = Pictures(scores, table, patient)
    with pytest.raises(ValueError, match=r"miss is 1\.5"):
        impute_missing(Told(FEMALE), dataset, GRAPH, miss=1.5)
    with pytest.raises(ValueError, match=r"Cannot fill \['height'\]"):
        impute_missing(Told(FEMALE), dataset, GRAPH, attributes=["height"])


def test_the_same_seed_gives_the_same_table_and_nothing_missing_gives_the_table_back():
    scores, table, patient, *_ = people(n=400)
    one, other = (impute_missing(Told(FEMALE), Pictures(scores, table, patient), GRAPH, seed=5) for _ in range(2))
    pd.testing.assert_frame_equal(one.posteriors, other.posteriors)
    whole = table.assign(sex=table["sex"].fillna("F"))
    found = impute_missing(Told(FEMALE), Pictures(scores, whole, patient), GRAPH)
    pd.testing.assert_frame_equal(found.attributes, whole)
    assert found.reasons.empty
