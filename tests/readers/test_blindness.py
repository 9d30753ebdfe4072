import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from causal_cxr.readers import Concept
from causal_cxr.readers.blindness import within_patients

LEADS = [Concept("leads", ("leads",), ("no leads",))]
WIDTH = 20


def patients_with(images: int, n: int, seed: int = 0, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patient of each image, whether it has leads (some patients are likelier to), and how each patient looks."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n), images)
    looks = rng.normal(size=n)
    truth = (rng.uniform(size=len(patient)) < 1 / (1 + np.exp(-spread * looks[patient]))).astype(float)
    return patient, truth, looks


def one(scores: np.ndarray, truth: np.ndarray, patient: np.ndarray) -> pd.Series:
    """Of scores of any size: taken to [0, 1], and slopes back."""
    found = within_patients(scores[:, None] / WIDTH + 0.5, truth[:, None], patient, LEADS).iloc[0].copy()
    found[[name for name in found.index if "slope" in name]] *= WIDTH
    return found


def test_a_reader_of_whom_it_looks_at_is_blind_however_good_it_seems():
    patient, truth, looks = patients_with(4, 600, spread=4)
    noise = np.random.default_rng(1).normal(0, 0.1, len(truth))
    found = one(looks[patient] + noise, truth, patient)
    assert found.auroc > 0.85
    assert found.within_low < 0.5 < found.within_high < 0.6
    assert found.verdict == "blind"
    assert found.within_slope_low < 0 < found.within_slope_high
    assert found.slope > 1
    assert found.separation_low < 0.5 < found.separation_high


def test_a_reader_of_the_concept_sees_it_come_and_go_in_one_patient():
    patient, truth, looks = patients_with(3, 200)
    noise = np.random.default_rng(2).normal(0, 0.2, len(truth))
    found = one(0.5 * truth + looks[patient] + noise, truth, patient)
    assert found.verdict == "sees"
    assert found.within > 0.9  # how patients look is gone
    assert found.within_slope_low < 0.5 < found.within_slope_high
    assert found.separation_low > 0.7


def test_within_is_the_van_elteren_mean_of_patients_aurocs():
    rng = np.random.default_rng(3)
    patient = rng.integers(0, 30, 150)
    truth, scores = rng.integers(0, 2, 150).astype(float), np.round(rng.normal(size=150), 1)
    weights, areas, pairs = [], [], 0
    for who in range(30):
        u, s = truth[patient == who], scores[patient == who]
        if 0 < u.sum() < len(u):
            weights.append(u.sum() * (1 - u).sum() / len(u))
            areas.append(roc_auc_score(u, s))
            pairs += int(u.sum() * (1 - u).sum())
    found = one(scores, truth, patient)
    assert found.within == pytest.approx(np.average(areas, weights=weights))
    assert (found.pairs, found.patients) == (pairs, len(areas))
    assert found.pairs + found.same_pairs == sum(n * (n - 1) // 2 for n in np.bincount(patient))


def test_the_within_slope_is_that_of_a_regression_with_one_intercept_a_patient():
    patient, truth, looks = patients_with(3, 60, seed=4)
    scores = 0.4 * truth + looks[patient] + np.random.default_rng(5).normal(0, 0.3, len(truth))
    frame = pd.DataFrame({"s": scores, "u": truth, "p": patient})
    fit = smf.ols("s ~ u + C(p)", frame).fit(cov_type="cluster", cov_kwds={"groups": patient, "use_correction": False})
    found = one(scores, truth, patient)
    assert found.within_slope == pytest.approx(fit.params["u"])
    telling = int((frame.groupby("p")["u"].nunique() == 2).sum())
    assert telling < 60, "some patients' images are all alike, and say nothing"
    half = stats.t.ppf(0.975, telling - 1) * fit.bse["u"] * np.sqrt(telling / (telling - 1))
    assert found.within_slope_high - found.within_slope == pytest.approx(half, rel=1e-3)


def test_a_reader_that_guesses_is_said_to_see_no_more_often_than_the_interval_allows():
    said = []
    for seed in range(150):
        patient, truth, _ = patients_with(3, 40, seed=seed)
        scores = np.random.default_rng([seed, 1]).normal(size=len(truth))
        found = one(scores, truth, patient)
        said.append((found.within_low > 0.5, found.within_low <= 0.5 <= found.within_high))
    sees, held = np.mean(said, axis=0)
    assert sees < 0.06
    assert held == pytest.approx(0.95, abs=0.05)


def test_with_few_patients_whose_images_differ_only_counts_are_given():
    patient = np.repeat(np.arange(50), 2)
    truth = np.zeros(100)
    truth[:8:2] = 1  # four patients with one of each
    found = one(np.random.default_rng(0).uniform(size=100), truth, patient)
    assert found.verdict == "unknown: 4 pairs of 4 patients"
    assert np.isnan(found.within)
    assert (found.pairs, found.same_pairs, found.patients) == (4, 46, 4)


def test_images_without_a_label_take_no_part():
    patient, truth, _ = patients_with(3, 100)
    scores = expit(np.random.default_rng(6).normal(size=len(truth)) + truth)
    gone = np.random.default_rng(7).uniform(size=len(truth)) < 0.3
    labelled = within_patients(scores[~gone, None], truth[~gone, None], patient[~gone], LEADS)
    holes = within_patients(
        scores[:, None], np.where(gone, np.nan, truth)[:, None], pd.Series(patient.astype(str)), LEADS
    )
    pd.testing.assert_frame_equal(labelled, holes)


def test_a_concept_without_any_label_is_unknown_and_the_others_are_not():
    patient, truth, _ = patients_with(3, 100)
    two = [*LEADS, Concept("wires", ("wires",), ("no wires",))]
    both = np.column_stack([truth, np.full(len(truth), np.nan)])
    found = within_patients(np.column_stack([truth, truth]), both, patient, two)
    assert found["verdict"].tolist() == ["sees", "unknown: 0 pairs of 0 patients"]
    assert found.loc[1, ["pairs", "same_pairs", "patients"]].tolist() == [0, 0, 0]
    assert np.isnan(found.loc[1, "auroc"])


def test_scores_and_labels_that_are_none_are_refused():
    patient, truth, _ = patients_with(3, 20)
    for score in (np.nan, 1.5):
        scores = truth.copy()
        scores[3] = score
        with pytest.raises(ValueError, match=f"Concept 'leads' has 1 scores .*, e.g. {score:g}"):
            within_patients(scores[:, None], truth[:, None], patient, LEADS)
    with pytest.raises(ValueError, match=r"Concept 'leads' has 60 labels that are neither 0 nor 1, e.g. -1"):
        within_patients(truth[:, None], np.full((60, 1), -1.0), patient, LEADS)
