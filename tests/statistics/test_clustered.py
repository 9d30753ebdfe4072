import numpy as np
import pytest
import statsmodels.api as sm
from scipy.linalg import fractional_matrix_power

from causal_cxr.statistics.clustered import clustered_coefficient


def regressed(groups: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    design = np.column_stack([np.ones(len(groups)), rng.normal(size=len(groups)), rng.uniform(size=len(groups)) < 0.5])
    return design @ [0.3, 0.1, 0.4] + rng.normal(size=len(groups)), design


def test_with_one_image_a_patient_the_variance_is_hc2():
    outcome, design = regressed(np.arange(30))
    fit = sm.OLS(outcome, design).fit(cov_type="HC2")
    found = clustered_coefficient(outcome, design, np.arange(30), 1)
    assert found.value == pytest.approx(fit.params[1])
    assert found.weights @ outcome == pytest.approx(found.value)
    assert found.variance == pytest.approx(fit.bse[1] ** 2)


def test_variance_and_freedom_are_bell_and_mccaffreys_from_their_matrices():
    groups = np.repeat(np.arange(12), [9, 7, 1, 1, 2, 2, 3, 1, 4, 2, 5, 3])
    outcome, design = regressed(groups, seed=1)
    bread = np.linalg.inv(design.T @ design)
    rest = np.eye(len(groups)) - design @ bread @ design.T
    turned = []
    for patient in range(12):
        mine = groups == patient
        adjusted = fractional_matrix_power(rest[np.ix_(mine, mine)], -0.5)
        turned.append(rest[mine].T @ adjusted @ design[mine] @ bread[:, 2])
    all_of_them = np.column_stack(turned)  # (n, patients)
    spread = np.linalg.eigvalsh(all_of_them.T @ all_of_them)
    found = clustered_coefficient(outcome, design, groups * 3 + 1, 2)
    assert found.variance == pytest.approx(((outcome @ all_of_them) ** 2).sum())
    assert found.freedom == pytest.approx(spread.sum() ** 2 / (spread**2).sum())


def test_two_groups_of_one_image_each_patient_are_compared_by_welch():
    """Where both groups are equally large and alike, Satterthwaite's degrees are ``n - 2`` (Imbens & Kolesar 2016)."""
    treated = np.arange(20) < 10
    design = np.column_stack([np.ones(20), treated])
    outcome = np.random.default_rng(2).normal(size=20)
    found = clustered_coefficient(outcome, design, np.arange(20), 1)
    assert found.variance == pytest.approx(outcome[treated].var(ddof=1) / 10 + outcome[~treated].var(ddof=1) / 10)
    assert found.freedom == pytest.approx(18)
    lone = np.column_stack([np.ones(103), np.arange(103) < 3])
    assert clustered_coefficient(np.arange(103.0), lone, np.arange(103), 1).freedom == pytest.approx(2, abs=0.2)
