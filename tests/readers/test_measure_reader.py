import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import percentileofscore
from sklearn.calibration import _SigmoidCalibration
from sklearn.metrics import roc_auc_score

from causal_cxr.data.phantom import Phantom, World
from causal_cxr.readers import Concept, MeasureReader, ProbeReader, Reader
from causal_cxr.readers.measure import MEASURES

CHEAP = ("mean_exposure", "corner_brightness", "noise_level", "border_straightness")
BORDER = {"border_straightness": Concept("collimation border", ("border",), ("no border",))}


@pytest.fixture(scope="module")
def phantom():
    return Phantom(160, World.load("independent").changed(patients={"images": [1, 1]}), seed=3, size=32)


@pytest.fixture(scope="module")
def reader(phantom):
    return MeasureReader.from_reference(phantom, np.arange(80), measures=CHEAP)


def test_a_score_is_the_share_of_reference_images_that_measure_less(reader, phantom):
    new = phantom.images(np.arange(80, 110))
    scores, table = reader.read(new).numpy(), reader.measure(new)
    assert isinstance(reader, Reader)
    assert [concept.name for concept in reader.concepts] == list(table.columns) == list(CHEAP)
    for j, name in enumerate(CHEAP):
        ranks = [percentileofscore(reader.reference[name], value, "mean") / 100 for value in table[name]]
        np.testing.assert_allclose(scores[:, j], ranks, atol=0.5 / 80)
    assert ((scores > 0) & (scores < 1)).all()


def test_the_reference_itself_is_spread_evenly(reader, phantom):
    scores = reader.read(phantom.images(np.arange(80)))[:, 0].sort()[0]
    np.testing.assert_allclose(scores, (np.arange(80) + 1) / 81, atol=1e-5)


def test_measures_are_in_their_units_whatever_the_reference(reader, phantom):
    images = phantom.images(np.arange(5))
    np.testing.assert_allclose(reader.measure(images)["mean_exposure"], images.mean(dim=(1, 2, 3)), atol=1e-6)


EVEN = torch.full((1, 1, 32, 32), 0.4)  #: no heart, no lungs
HEART = {"cardiothoracic_ratio": Concept("cardiomegaly", ("enlarged heart",), ("normal heart",))}


@pytest.fixture(scope="module")
def hearts(phantom):
    return MeasureReader.from_reference(phantom, np.arange(30), measures=["cardiothoracic_ratio"])


def test_what_cannot_be_measured_is_nan_in_units_and_half_as_a_score(hearts):
    assert hearts.measure(EVEN)["cardiothoracic_ratio"].isna().all()
    assert float(hearts.read(EVEN)) == 0.5
    assert float(hearts.features(EVEN)) == 0


class WithEven:
    """A phantom, and even images after it."""

    def __init__(self, phantom, even):
        self.inside, self.first = phantom, len(phantom.patients)
        self.patients = pd.concat([phantom.patients, pd.Series([f"even {i}" for i in range(even)])], ignore_index=True)

    def images(self, rows):
        return torch.cat([EVEN if row >= self.first else self.inside.images(np.array([row])) for row in rows])


@pytest.mark.parametrize("method", ["platt", "temperature", "isotonic"])
def test_what_cannot_be_measured_calibrates_nothing_and_scores_as_the_usual_image_does(hearts, phantom, method):
    rows = np.arange(30, 110)
    margins = hearts.margins(phantom.images(rows))[:, 0].numpy()
    truth = (margins + np.random.default_rng(0).normal(0, 2, 80) > 1).astype(float)[:, None]
    without = hearts.calibrated(phantom, rows, truth, HEART, method=method)
    more, present = np.r_[rows, 160:220], np.vstack([truth, np.ones((60, 1))])
    with pytest.warns(UserWarning, match=r"calibrate nothing: \{'cardiothoracic_ratio': 60\}"):
        despite = hearts.calibrated(WithEven(phantom, 60), more, present, HEART, method=method)
    assert despite.calibration.maps == without.calibration.maps
    expected = without.calibration(torch.zeros(1, 1), without.names)
    torch.testing.assert_close(despite.read(EVEN), expected)
    assert 0 < float(expected) < 1
    assert despite.read(EVEN).equal(without.read(EVEN))


def test_labels_of_another_shape_are_refused(hearts, phantom):
    with pytest.raises(ValueError, match=r"shape \(30,\); give \(30, 1\)"):
        hearts.calibrated(phantom, np.arange(30), np.zeros(30), HEART)


def test_it_names_the_patients_of_its_reference(reader, phantom):
    assert reader.fitted_on == frozenset(phantom.patients[:80])


def test_a_calibrated_measure_reads_a_concept_as_scikit_learn_would(reader, phantom):
    rows = np.arange(80, 160)
    margins = reader.margins(phantom.images(rows))[:, 3].numpy().astype(float)
    truth = (margins + np.random.default_rng(0).normal(0, 2, 80) > 0).astype(float)
    calibrated = reader.calibrated(phantom, rows, truth[:, None], BORDER)
    group = np.unique(phantom.patients[rows], return_inverse=True)[1]
    expected = _SigmoidCalibration().fit(margins, truth, 1 / np.bincount(group)[group]).predict(margins)
    scores = calibrated.read(phantom.images(rows))[:, 0].numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    assert roc_auc_score(truth, scores) == pytest.approx(roc_auc_score(truth, margins))
    assert [concept.name for concept in calibrated.concepts] == ["collimation border"]
    assert calibrated.fitted_on == reader.fitted_on | frozenset(phantom.patients[80:])
    assert calibrated.fingerprint != reader.fingerprint


@pytest.mark.parametrize("with_calibration", [False, True])
def test_a_saved_reader_reads_the_same(reader, phantom, tmp_path, with_calibration):
    if with_calibration:
        straight = reader.measure(phantom.images(np.arange(80)))["border_straightness"].to_numpy()
        truth = (straight > np.median(straight)).astype(float)
        reader = reader.calibrated(phantom, np.arange(80), truth[:, None], BORDER, method="isotonic")
    again = MeasureReader.from_pretrained(reader.save(tmp_path))
    images = phantom.images(np.arange(100, 110))
    torch.testing.assert_close(again.read(images), reader.read(images), rtol=0, atol=0)
    assert (again.fingerprint, again.concepts, again.fitted_on) == (
        reader.fingerprint,
        reader.concepts,
        reader.fitted_on,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "reader.json"]


def test_a_probe_stands_on_measures_and_is_saved_with_them(reader, phantom, tmp_path):
    rows, concept = np.arange(80, 160), Concept("bright", ("bright",), ("dark",))
    bright = phantom.images(rows).mean(dim=(1, 2, 3)).numpy()
    truth = (bright > np.median(bright)).astype(float)[:, None]
    probe = ProbeReader.fit(phantom, rows, truth, [concept], features=reader, n_folds=4, inverse_penalty=10)
    scores = probe.read(phantom.images(rows), phantom.patients[rows].tolist())
    assert roc_auc_score(truth[:, 0], scores[:, 0]) > 0.95
    again = ProbeReader.from_pretrained(probe.save(tmp_path))
    torch.testing.assert_close(again.read(phantom.images(rows)), probe.read(phantom.images(rows)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (lambda phantom, reader: MeasureReader.from_reference(phantom, np.arange(30), measures=["ratio"]), "'ratio'"),
        (lambda phantom, reader: MeasureReader.from_reference(phantom, np.arange(30), measures=[]), "choose some"),
        (lambda phantom, reader: MeasureReader.from_reference(phantom, np.arange(9), measures=CHEAP), "20 or more"),
        (lambda phantom, reader: MeasureReader(reader.reference, concepts={"blur": BORDER["border_straightness"]}), "blur"),
        (lambda phantom, reader: reader.calibrated(phantom, np.arange(9), np.zeros((9, 1)), {"blur": None}), "blur"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused_by_name(phantom, reader, refused, said):
    with pytest.raises(ValueError, match=said):
        refused(phantom, reader)


def test_a_folder_without_a_reader_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no reader\.json"):
        MeasureReader.from_pretrained(tmp_path)


def test_every_measure_has_words_for_much_and_for_little():
    assert all(measure.much and measure.little and measure.low < measure.high for measure in MEASURES.values())
