from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from causal_cxr.data.phantom import Phantom, World
from causal_cxr.graphs import Binary, CausalGraph
from causal_cxr.readers import Concept, OrientedGradients, Pixels, ProbeReader, Reader, load_concepts
from causal_cxr.readers.probe import _dealt, _inner_folds

CONCEPTS = load_concepts(["control_bar", "female"])


def truth_of(phantom):
    table = pd.concat([phantom.attributes, phantom.hidden], axis=1)
    return np.column_stack([concept.truth(table) for concept in CONCEPTS])


@pytest.fixture(scope="module")
def labelled():
    return Phantom(500, "independent", seed=31, size=32)


@pytest.fixture(scope="module")
def probe(labelled):
    return ProbeReader.fit(labelled, np.arange(500), truth_of(labelled), CONCEPTS, features=Pixels(32), graph=labelled.graph,
                           n_folds=3)  # fmt: skip


def test_a_probe_reads_new_patients_as_well_as_its_out_of_fold_quality_says(probe):
    new = Phantom(400, "independent", seed=32, size=32)
    scores = probe.read(new.images(np.arange(400))).numpy()
    truth = truth_of(new)
    for j, concept in enumerate(CONCEPTS):
        said = probe.quality.concepts.loc[concept.name]
        assert roc_auc_score(truth[:, j], scores[:, j]) > said.auroc_low - 0.03 > 0.75
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert isinstance(probe, Reader)


def test_labelled_patients_are_read_by_a_head_that_has_not_seen_them(probe, labelled):
    images = labelled.images(np.arange(500))
    scores = probe.read(images, labelled.patients).numpy()
    assert roc_auc_score(truth_of(labelled)[:, 0], scores[:, 0]) == pytest.approx(
        probe.quality.concepts.loc["control_bar", "auroc"]
    )
    torch.testing.assert_close(probe.read(images[:3], ["new"] * 3), probe.read(images[:3]))


def test_dealt_patients_are_read_by_one_head_and_labelled_ones_by_their_own(probe, labelled):
    images, known = labelled.images(np.arange(6)), labelled.patients[:1].tolist() * 2
    ids = ["new", "newer", "newest", "another", *known]
    dealt = probe.dealt(["another", "new", "newest", "newer", "new", *known])
    scores, every = dealt.read(images, ids), probe._by_fold(images)
    assert all(any(s.equal(head) for head in heads) for s, heads in zip(scores, every, strict=True))
    torch.testing.assert_close(scores[4:], probe.read(images, ["new"] * 4 + known)[4:], rtol=0, atol=0)
    torch.testing.assert_close(dealt.read(images[:1], ["unheard of"]), probe.read(images[:1]), rtol=0, atol=0)
    assert set(dealt.folds.values()) == {0, 1, 2}
    assert probe.folds.keys() == set(labelled.patients)  # the reader itself is as it was
    many = pd.Series(probe.dealt(map(str, range(3_000))).folds)[list(map(str, range(3_000)))]
    assert many.value_counts(normalize=True).to_numpy() == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.filterwarnings("ignore:Heads that rank")
def test_labels_that_say_nothing_of_the_images_are_not_read_out_of_fold(labelled):
    coin = np.random.default_rng(0).integers(0, 2, labelled.patients.nunique()).astype(float)
    truth = coin[pd.factorize(labelled.patients)[0]][:, None]  # a patient's images are alike: leaks if split by image
    quality = ProbeReader.fit(labelled, np.arange(500), truth, [Concept("coin", ("heads",), ("tails",))],
                              graph=labelled.graph, features=Pixels(32)).quality  # fmt: skip
    row = quality.concepts.loc["coin"]
    assert row.auroc == pytest.approx(0.5, abs=0.09)
    assert abs(row.slope) < 0.1


def test_a_saved_probe_reads_the_same(probe, labelled, tmp_path):
    again = ProbeReader.from_pretrained(probe.save(tmp_path))
    images = labelled.images(np.arange(5))
    torch.testing.assert_close(again.read(images), probe.read(images), rtol=0, atol=0)
    assert again.fingerprint == probe.fingerprint
    assert again.concepts == probe.concepts
    assert again.folds == probe.folds
    assert set(probe.folds) == set(labelled.patients)
    assert again.fitted_on == probe.fitted_on == frozenset()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "reader.json"]


def test_a_concept_with_too_few_patients_is_refused_by_name(labelled):
    truth = np.full((500, 1), 0.0)
    truth[:4] = 1
    with pytest.raises(ValueError, match="'coin' is present in"):
        ProbeReader.fit(labelled, np.arange(500), truth, [Concept("coin", ("heads",), ("tails",))], features=Pixels(32))


def test_a_folder_without_a_probe_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no reader\.json"):
        ProbeReader.from_pretrained(tmp_path)


def test_the_shipped_probe_reads_new_phantoms_and_shares_no_patient_with_the_shipped_clip_reader():
    shipped = ProbeReader.from_shipped()
    new = Phantom(300, "independent", seed=78)
    scores = shipped.read(new.images(np.arange(300))).numpy()
    table = pd.concat([new.attributes, new.hidden], axis=1)
    for j, concept in enumerate(shipped.concepts):
        truth, said = concept.truth(table), shipped.quality.concepts.loc[concept.name]
        slope = scores[truth == 1, j].mean() - scores[truth == 0, j].mean()
        assert slope == pytest.approx(said.slope, abs=0.1), concept.name
    assert all(patient.startswith("independent-8101-") for patient in shipped.folds)


def test_a_balanced_fit_does_not_read_the_view_in_the_concepts_place():
    """The concept shows faintly, the view plainly, and they go together: only the graph can tell the fit which is which."""
    rng = np.random.default_rng(0)
    n = 3000
    view = rng.uniform(size=n) < 0.5
    leads = rng.uniform(size=n) < np.where(view, 0.8, 0.2)
    signal = np.stack([0.5 * leads + rng.normal(0, 0.6, n), 2.0 * view + rng.normal(0, 0.3, n)], axis=1)

    class Data:
        attributes = pd.DataFrame({"view": pd.Categorical(np.where(view, "AP", "PA"), ["PA", "AP"])})
        patients = pd.Series(np.arange(n).astype(str))

        def images(self, rows):
            return torch.as_tensor(signal[rows]).float().view(-1, 1, 1, 2)

    class Both:
        fingerprint, fitted_on = "both", frozenset()

        def features(self, images):
            return images.flatten(1)

    graph = CausalGraph([Binary("view", levels=("PA", "AP"))])
    concept = Concept("leads", ("leads",), ("no leads",))
    data, rows, truth = Data(), np.arange(n), leads[:, None].astype(float)
    shifts = []
    for known in (graph, None):
        probe = ProbeReader.fit(
            data, rows, truth, [concept], graph=known, features=Both(), n_folds=2, inverse_penalty=10
        )
        scores = probe.read(data.images(rows), data.patients.tolist())[:, 0].numpy()
        shifts.append(
            np.mean([scores[view & (leads == u)].mean() - scores[~view & (leads == u)].mean() for u in (0, 1)])
        )
    assert abs(shifts[0]) < 0.03 < 0.3 < shifts[1]


@pytest.mark.parametrize("features", [Pixels(32), OrientedGradients(32)])
def test_a_hundred_images_are_enough_for_what_is_plain(features):
    few = Phantom(100, World.load("independent").changed(patients={"images": [1, 1]}), seed=41, size=32)
    truth = truth_of(few)[:, 1:]
    probe = ProbeReader.fit(few, np.arange(100), truth, CONCEPTS[1:], features=features, graph=few.graph)
    assert probe.quality.concepts.loc["female", "auroc"] > 0.65  # and not turned round


def test_a_head_that_reads_nothing_is_not_turned_round():
    """Held-out margins of noise run against the labels as often as along; then the score is the prevalence, for all."""
    rng = np.random.default_rng(3)
    few = Phantom(60, "independent", seed=43, size=16)
    truth = (rng.uniform(size=(60, 40)) < 0.5).astype(float)
    coins = [Concept(f"coin {i}", ("heads",), ("tails",)) for i in range(40)]
    with pytest.warns(UserWarning, match=r"say the prevalence: coin \d+ \([12] of 2\), .* Label more") as told:
        probe = ProbeReader.fit(few, np.arange(60), truth, coins, features=Pixels(16), n_folds=2)
    scores = probe._by_fold(few.images(np.arange(60))).numpy()
    still = scores.std(axis=0) < 1e-6  # (folds, concepts)
    assert 10 < still.sum() < 70
    assert all(
        (f" {c.name} (" in str(told[0].message)) == here for c, here in zip(coins, still.any(axis=0), strict=True)
    )
    for fold, coin in zip(*np.nonzero(still), strict=True):
        assert scores[0, fold, coin] == pytest.approx(truth[:, coin].mean(), abs=1e-6), "one for all folds"


class Repeated:
    """Images of 16 x 16 pixels with a faint corner in half of the patients, ``each`` nearly alike of every patient."""

    def __init__(self, patients, each, seed):
        rng = np.random.default_rng(seed)
        shows = np.arange(patients) % 2
        once = rng.normal(0.5, 0.15, (patients, 1, 16, 16))
        once[:, 0, :4, :4] += 0.15 * shows[:, None, None]
        self.truth = shows.repeat(each)
        noisy = once.repeat(each, axis=0) + rng.normal(0, 0.005, (patients * each, 1, 16, 16))
        self._images = torch.as_tensor(noisy.clip(0, 1), dtype=torch.float32)
        self.patients = pd.Series([f"{seed}-{i}" for i in range(patients)]).repeat(each).reset_index(drop=True)
        self.attributes = pd.DataFrame(index=range(patients * each))

    def images(self, rows):
        return self._images[rows]


def test_more_images_of_the_same_patients_do_not_make_a_probe_blind():
    new = Repeated(300, 1, seed=9)
    scores = {}
    for each in (1, 8):
        data = Repeated(80, each, seed=1)
        rows = np.arange(80 * each)
        probe = ProbeReader.fit(data, rows, data.truth[:, None].astype(float), [COIN], features=Pixels(16))
        scores[each] = roc_auc_score(new.truth, probe.read(new.images(np.arange(300))).numpy())
    assert scores[1] > 0.8
    assert scores[8] > scores[1] - 0.02


def test_the_fingerprint_tells_by_which_head_a_patient_is_read(probe):
    folds = {patient: (fold + 1) % 3 for patient, fold in probe.folds.items()}
    same = {"features": probe.features, "quality": probe.quality}
    assert (
        ProbeReader(CONCEPTS, probe.weights, probe.bias, dict(reversed(probe.folds.items())), **same).fingerprint
        == probe.fingerprint
    )
    assert ProbeReader(CONCEPTS, probe.weights, probe.bias, folds, **same).fingerprint != probe.fingerprint
    assert probe.dealt(["new"]).fingerprint != probe.fingerprint


COIN = Concept("coin", ("heads",), ("tails",))


class Noise:
    """One image of 4 x 4 random pixels a row, of these patients."""

    def __init__(self, patients):
        self.patients, self.attributes = pd.Series(patients).astype(str), pd.DataFrame(index=range(len(patients)))
        self._images = torch.rand(len(patients), 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def images(self, rows):
        return self._images[rows]


@pytest.mark.filterwarnings("ignore:Heads that rank")
@pytest.mark.parametrize("seed", range(8))
def test_two_patients_of_a_kind_for_each_fold_are_enough_whatever_the_seed(seed):
    data, truth = Noise(range(40)), (np.arange(40) < 4).astype(float)[:, None]
    probe = ProbeReader.fit(data, np.arange(40), truth, [COIN], features=Pixels(4), n_folds=2, seed=seed)
    assert sorted(probe.folds[str(patient)] for patient in range(4)) == [0, 0, 1, 1]


def test_patients_who_have_images_of_both_kinds_are_enough_too():
    truth = np.tile([1.0, 0.0], 4)[:, None]
    data = Noise(np.repeat(range(4), 2))
    assert ProbeReader.fit(data, np.arange(8), truth, [COIN], features=Pixels(4), n_folds=2).folds.keys() == set("0123")


@given(st.data(), st.integers(2, 3), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_patients_are_dealt_at_random_as_ever_unless_a_head_would_lack_a_kind(data, n_folds, seed):
    """One concept; labels, some of them unknown, of patients with one to three images."""
    who = np.repeat(np.arange(24), data.draw(hnp.arrays(int, 24, elements=st.integers(1, 3))))
    truth = data.draw(hnp.arrays(float, (len(who), 1), elements=st.sampled_from([0.0, 1.0, 0.0, 1.0, np.nan])))
    owners = [{*who[truth[:, 0] == kind]} for kind in (0, 1)]
    assume(min(map(len, owners)) >= 2 * n_folds)
    dealt = _dealt(truth, who, ["coin"], n_folds, seed)
    usual = np.random.default_rng(seed).permutation(24) % n_folds

    def leaves_two(deal):
        return all(sum(deal[p] != fold for p in some) >= 2 for some in owners for fold in range(n_folds))

    assert leaves_two(dealt)
    assert not leaves_two(usual) or (dealt == usual).all()
    for fold in range(n_folds):  # and so the calibration within has something to learn from
        train = (dealt[who] != fold) & ~np.isnan(truth[:, 0])
        y = truth[train, 0].astype(int)
        for seen, held in _inner_folds(y, who[train].astype(str)):
            assert set(y[seen]) == {0, 1}
            assert not {*who[train][seen]} & {*who[train][held]}


def test_the_folds_within_are_scikit_learns_where_these_serve():
    y, patients = np.tile([0, 1, 1], 10), np.repeat(np.arange(15), 2).astype(str)
    for mine, theirs in zip(_inner_folds(y, patients), GroupKFold(3).split(y, y, patients), strict=True):
        np.testing.assert_array_equal(mine[1], theirs[1])


def test_concepts_that_no_deal_serves_are_refused_by_name():
    """Every four of eight patients make a concept: of two folds one holds four of them, all that is present."""
    fours = [set(four) for four in combinations(range(8), 4) if 0 in four]
    truth = np.array([[float(patient in four) for four in fours] for patient in range(8)])
    concepts = [Concept(f"coin {i}", ("heads",), ("tails",)) for i in range(len(fours))]
    with pytest.raises(ValueError, match=r"No deal of 8 patients to 2 folds .*'coin \d+' lacked some.*fewer concepts"):
        ProbeReader.fit(Noise(range(8)), np.arange(8), truth, concepts, features=Pixels(4), n_folds=2)


def test_a_label_that_is_neither_known_nor_unknown_is_refused_by_name():
    truth = np.tile([0.0, 1.0], 20)[:, None]
    truth[7] = 2
    with pytest.raises(ValueError, match=r"'coin' has 1 labels that are neither 0 nor 1, e\.g\. 2"):
        ProbeReader.fit(Noise(range(40)), np.arange(40), truth, [COIN], features=Pixels(4))
