import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression

from causal_cxr.readers import Calibration
from causal_cxr.readers.calibration import KINDS, Isotonic, Platt, Temperature

METHODS = list(KINDS)


def labelled(n=4_000, slope=2.0, intercept=-1.0, seed=0):
    """Margins, and labels whose log odds are ``slope * margin + intercept``."""
    draw = np.random.default_rng(seed)
    margins = draw.normal(size=n)
    return margins, (draw.uniform(size=n) < expit(slope * margins + intercept)).astype(float)


def fit(method, margins, truth, **options):
    return Calibration.fit(method, margins[:, None], truth[:, None], ["wire"], **options)


def test_platt_scaling_is_scikit_learns_and_finds_the_log_odds():
    margins, truth = labelled()
    found = fit("platt", margins, truth).maps["wire"]
    np.testing.assert_allclose((found.slope, found.intercept), (2, -1), atol=0.2)
    patient = np.repeat(np.arange(1_000), 4)
    weighted = fit("platt", margins, truth, patients=patient.astype(str)).maps["wire"]
    for one, weights in ((found, None), (weighted, np.full(4_000, 0.25))):
        reference = _SigmoidCalibration().fit(margins, truth, weights)
        np.testing.assert_allclose((one.slope, one.intercept), (-reference.a_, -reference.b_), rtol=1e-4)


def test_ten_labels_that_separate_prove_nothing_for_certain():
    """The likelihood is greatest where scores and Platt's targets, 6 / 7 and 1 / 7, have the same moments."""
    margins = np.concatenate([-np.linspace(0.1, 1, 5), np.linspace(0.1, 1, 5)])
    truth = np.repeat([0.0, 1.0], 5)
    calibration = fit("platt", margins, truth)
    scores = calibration(torch.as_tensor(margins)[:, None], ["wire"])[:, 0].numpy()
    target = np.where(truth == 1, 6 / 7, 1 / 7)
    assert scores.sum() == pytest.approx(target.sum(), abs=1e-5)
    assert scores @ margins == pytest.approx(target @ margins, abs=1e-5)
    for unit in (1e-4, 1e4):  # margins have no unit of their own
        other = fit("platt", unit * margins, truth).maps["wire"]
        assert other.slope * unit == pytest.approx(calibration.maps["wire"].slope, rel=1e-4)


def test_the_temperature_is_that_of_least_log_loss():
    margins, truth = labelled(slope=0.25, intercept=0.0)

    def loss(log_temperature):
        return -np.log(expit((2 * truth - 1) * margins / np.exp(log_temperature[0]))).mean()

    reference = np.exp(minimize(loss, [0.0], method="Nelder-Mead", options={"xatol": 1e-8}).x[0])
    found = fit("temperature", margins, truth).maps["wire"]
    assert found.temperature == pytest.approx(reference, rel=1e-4)
    assert found.temperature == pytest.approx(4, rel=0.15)


def test_isotonic_scores_are_those_of_isotonic_regression_and_never_quite_certain():
    margins, truth = labelled(n=300)
    calibration = fit("isotonic", margins, truth)
    least = 1 / 302
    reference = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(margins, truth)
    asked = np.concatenate([margins, [-50.0, 50.0]])
    found = calibration(torch.as_tensor(asked)[:, None], ["wire"])[:, 0].numpy()
    np.testing.assert_allclose(found, reference.predict(asked), atol=1e-9)
    assert found.min() == pytest.approx(least)
    assert found.max() == pytest.approx(1 - least)


@pytest.mark.parametrize("method", METHODS)
def test_calibrated_scores_are_right_as_often_as_they_say_on_other_patients(method):
    margins, truth = labelled(intercept=0.0)
    others, theirs = labelled(intercept=0.0, seed=1)
    scores = fit(method, margins, truth)(torch.as_tensor(others)[:, None], ["wire"])[:, 0].numpy()
    error = sum(len(b) * abs(scores[b].mean() - theirs[b].mean()) for b in np.array_split(np.argsort(scores), 10))
    assert error / len(scores) < 0.03
    uncalibrated = expit(8 * others)
    assert abs(uncalibrated[others > 0].mean() - theirs[others > 0].mean()) > 0.1  # there was something to mend


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(METHODS), st.floats(-2, 2))
def test_scores_never_fall_as_the_margin_rises(seed, method, slope):
    margins, truth = labelled(n=60, slope=slope, intercept=0.3, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calibration = fit(method, margins, truth)
    scores = calibration(torch.linspace(-6, 6, 200, dtype=torch.float64)[:, None], ["wire"])[:, 0]
    assert (scores.diff() >= -1e-12).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_reader_that_is_wrong_more_often_than_not_is_not_turned_round_and_that_is_said():
    margins, truth = labelled(slope=-2.0)
    with pytest.warns(UserWarning, match="wire .reads the wrong way round"):
        calibration = fit("platt", margins, truth)
    scores = calibration(torch.as_tensor(margins)[:, None], ["wire"])
    np.testing.assert_allclose(scores, truth.mean())
    assert calibration.maps["wire"] == Platt(0.0, logit(truth.mean()))


@pytest.mark.parametrize("method", METHODS)
def test_what_reads_the_wrong_way_says_the_prevalence_of_patients_whatever_the_method(method):
    margins, truth = labelled(n=300, slope=-1.0, intercept=-2.0)
    patients = [f"p{i}" for i in range(300)]
    with pytest.warns(
        UserWarning, match="reads the wrong way round on the labelled patients: the score is the prevalence"
    ):
        alone = fit(method, margins, truth, patients=patients)
    np.testing.assert_allclose(alone(torch.tensor([[-3.0], [3.0]]), ["wire"]), truth.mean(), rtol=1e-6)
    # One more patient of many images that are read the right way makes all images agree, and the patients no more than before.
    margins, truth = np.append(margins, np.repeat([3.0, -3.0], 300)), np.append(truth, np.repeat([1.0, 0.0], 300))
    assert np.cov(margins, truth)[0, 1] > 0
    with pytest.warns(UserWarning, match="reads the wrong way round"):
        found = fit(method, margins, truth, patients=[*patients, *["one"] * 600])
    np.testing.assert_allclose(
        found(torch.tensor([[-3.0], [3.0]]), ["wire"]), (truth[:300].sum() + 0.5) / 301, rtol=1e-6
    )


def test_isotonic_scores_are_no_surer_than_the_number_of_patients():
    truth = np.repeat([0.0, 1.0], 100)
    margins = 2 * truth - 1 + np.random.default_rng(0).normal(0, 0.01, 200)
    steps = fit("isotonic", margins, truth, patients=[f"p{i // 20}" for i in range(200)]).maps["wire"]
    assert (steps.scores[0], steps.scores[-1]) == pytest.approx((1 / 12, 11 / 12))


def test_missing_labels_are_skipped_and_a_concept_of_one_kind_is_left_as_it_is_and_named():
    margins, truth = labelled(n=400)
    table = np.column_stack([truth, np.zeros(400), np.full(400, np.nan)])
    table[200:, 0] = np.nan
    names = ["wire", "tube", "clip"]
    with pytest.warns(UserWarning, match=r"tube \(not calibrated: 400 labelled images, all absent\); clip .*no labels"):
        calibration = Calibration.fit("platt", np.column_stack([margins] * 3), table, names)
    assert calibration.maps == {"wire": Platt.fit(margins[:200], truth[:200], np.ones(200))}
    assert set(calibration.remarks) == {"tube", "clip"}
    scores = calibration(torch.as_tensor(np.column_stack([margins] * 3)), names).numpy()
    np.testing.assert_allclose(scores[:, 1], expit(margins))


def test_maps_are_held_by_name_so_that_the_order_of_concepts_does_not_matter():
    margins, truth = labelled()
    both = np.column_stack([margins, -margins]), np.column_stack([truth, 1 - truth])
    calibration = Calibration.fit("platt", *both, ["wire", "tube"])
    forth = calibration(torch.as_tensor(both[0]), ["wire", "tube"])
    back = calibration(torch.as_tensor(both[0][:, ::-1].copy()), ["tube", "wire"])
    torch.testing.assert_close(forth, back.flip(1), rtol=0, atol=0)


def test_a_patient_counts_once_however_many_images_there_are():
    margins, truth = labelled(n=200)
    often = np.repeat(np.arange(200), np.where(np.arange(200) < 20, 30, 1))
    calibration = fit("platt", margins[often], truth[often], patients=[f"p{i}" for i in often])
    once = fit("platt", margins, truth, patients=[f"p{i}" for i in range(200)])
    assert calibration.maps["wire"].slope == pytest.approx(once.maps["wire"].slope, rel=1e-3)
    assert fit("platt", margins[often], truth[often]).maps["wire"].slope != pytest.approx(
        once.maps["wire"].slope, rel=1e-2
    )


def test_it_knows_the_patients_whose_labels_it_used():
    truth = np.array([[1, np.nan], [0, np.nan], [np.nan, np.nan], [1, 1.0]])
    with pytest.warns(UserWarning, match="not calibrated"):
        calibration = Calibration.fit(
            "platt", np.arange(8.0).reshape(4, 2), truth, ["wire", "tube"], patients=list("abcd")
        )
    assert calibration.fitted_on == {"a", "b", "d"}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_down_is_read_back(method):
    margins, truth = labelled(n=100)
    calibration = fit(method, margins, truth, patients=[f"p{i}" for i in range(100)])
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again == calibration
    assert again.digest(["wire"]) == calibration.digest(["wire"])


def test_the_digest_tells_two_calibrations_apart():
    maps = [Platt(1.0, 0.0), Platt(1.0, 0.1), Temperature(2.0), Isotonic((0.0, 1.0), (0.1, 0.9)),
            Isotonic((0.0, 1.0), (0.1, 0.8))]  # fmt: skip
    assert len({Calibration({"wire": one}).digest(["wire"]) for one in maps}) == len(maps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "sigmoid"}, r"no calibration 'sigmoid'; choose from \['platt', 'temperature', 'isotonic'\]"),
        ({"truth": np.full((4, 1), 2.0)}, "Concept 'wire' has the label 2; labels are 1 present, 0 absent"),
        ({"margins": np.array([[0.0], [np.inf], [1.0], [2.0]])}, "'wire' has margins that are no finite numbers"),
        ({"margins": np.zeros((4, 2))}, r"margins \(4, 2\) and truth \(4, 1\) must both be \(n, 1\)"),
        ({"patients": ["a"]}, "1 patients for 4 images"),
    ],
)
def test_bad_input_is_named(change, message):
    options = {"method": "platt", "margins": np.arange(4.0)[:, None], "truth": np.array([[0.0], [1], [0], [1]])}
    options |= {"names": ["wire"]} | change
    with pytest.raises(ValueError, match=message):
        Calibration.fit(**options)


def test_a_kind_of_a_later_version_is_refused():
    with pytest.raises(ValueError, match="'wire' has a calibration 'beta'"):
        Calibration.from_dict({"maps": {"wire": {"kind": "beta"}}, "remarks": {}, "fitted_on": None})
