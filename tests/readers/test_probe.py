import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from causal_cxr.data.phantom import Phantom, World
from causal_cxr.graphs import Binary, CausalGraph
from causal_cxr.readers import Concept, OrientedGradients, Pixels, ProbeReader, Reader, load_concepts

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
    probe = ProbeReader.fit(few, np.arange(60), truth, coins, features=Pixels(16), n_folds=2)
    scores = probe._by_fold(few.images(np.arange(60))).numpy()
    still = scores.std(axis=0) < 1e-6  # (folds, concepts)
    assert 10 < still.sum() < 70
    for fold, coin in zip(*np.nonzero(still), strict=True):
        assert scores[0, fold, coin] == pytest.approx(truth[:, coin].mean(), abs=1e-6), "one for all folds"
