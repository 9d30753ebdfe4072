"""The data's side, doubly robust: cross-fitted augmented inverse probability weighting, patients as clusters.

Right if either the propensity or the outcome regression is right, and root-n though both are flexible learners, because no
image is judged by a model that saw its patient (Robins, Rotnitzky & Zhao 1994; Chernozhukov et al. 2018). The treatment
is never permuted.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_cxr.audits.effects.effect import Effect
from causal_cxr.audits.effects.paired import paired_effect


@dataclass(frozen=True)
class DoublyRobust:
    """What :func:`cross_fitted_effect` finds.

    Attributes:
        effects: one a score.
        pseudo: ``(n, k)`` pseudo-outcomes, whose means are the effects: what each image says of them.
        propensity: ``(n,)`` P(treated) from the other folds, before truncation.
        fold: ``(n,)`` of the image's patient.
        truncation: the propensities were held within [truncation, 1 - truncation].
        truncated: share of images whose propensity was outside; many mean little overlap, and bias.
    """

    effects: tuple[Effect, ...]
    pseudo: np.ndarray
    propensity: np.ndarray
    fold: np.ndarray
    truncation: float
    truncated: float


def cross_fitted_effect(
    scores: np.ndarray,
    treatment: np.ndarray,
    covariates: np.ndarray,
    patients: np.ndarray,
    *,
    propensity: Any = None,
    outcome: Any = None,
    folds: int = 5,
    truncation: float = 0.02,
    seed: int = 0,
) -> DoublyRobust:
    """Average effect of a binary treatment on each score, in the population the patients came from.

    Args:
        scores: ``(n, k)`` of unedited images.
        treatment: ``(n,)`` 0/1.
        covariates: ``(n, p)`` of an adjustment set; ``p`` may be 0.
        patients: ``(n,)`` ids; a patient's images lie in one fold.
        propensity: scikit-learn classifier with ``predict_proba``; default standardised logistic regression.
        outcome: scikit-learn regressor of one score on covariates, fitted within each level of the treatment; default
            least squares.
        folds: at least 2; treated and untreated are spread over them alike.
        truncation: of the propensity, in (0, 0.5).
        seed: of the folds; estimators that are passed bring a ``random_state`` of their own.

    Raises:
        ValueError: shapes do not fit, a value is not finite, the treatment is not 0/1, or a level has fewer patients than
            folds.
    """
    from sklearn.base import clone
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check(scores, treatment, covariates, patients, folds, truncation)
    treated = treatment == 1
    known = np.column_stack([np.ones(len(scores)), covariates])  # a column that says nothing, so that p may be 0
    classifier = make_pipeline(StandardScaler(), LogisticRegression()) if propensity is None else propensity
    regressor = LinearRegression() if outcome is None else outcome
    fold = _folds(treated, patients, folds, seed)
    chance = np.empty(len(scores))
    expected = np.empty((2, *scores.shape))
    for number in range(folds):
        judge, learn = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        chance[judge] = clone(classifier).fit(known[learn], treated[learn]).predict_proba(known[judge])[:, 1]
        for level in (0, 1):
            rows = learn[treated[learn] == level]
            for k, score in enumerate(scores.T):
                expected[level, judge, k] = clone(regressor).fit(known[rows], score[rows]).predict(known[judge])
    held = np.clip(chance, truncation, 1 - truncation)
    pseudo = pseudo_outcomes(scores, treated, held, expected[0], expected[1])
    return DoublyRobust(
        tuple(paired_effect(column, patients) for column in pseudo.T),
        pseudo,
        chance,
        fold,
        truncation,
        float((held != chance).mean()),
    )


def pseudo_outcomes(
    scores: np.ndarray, treated: np.ndarray, propensity: np.ndarray, expected_low: np.ndarray, expected_high: np.ndarray
) -> np.ndarray:
    """``(n, k)`` ``m1 - m0 + A (Y - m1) / e - (1 - A) (Y - m0) / (1 - e)``; their mean is the AIPW estimate.

    Args:
        scores: ``(n, k)`` Y.
        treated: ``(n,)`` A, 0/1.
        propensity: ``(n,)`` e in (0, 1).
        expected_low, expected_high: ``(n, k)`` m0, m1: predicted scores at a0 and a1.

    >>> one = np.ones((1, 1))
    >>> pseudo_outcomes(0.9 * one, np.array([1]), np.array([0.5]), 0.2 * one, 0.6 * one).round(3)
    array([[1.]])
    """
    weight_high, weight_low = treated / propensity, (1 - treated) / (1 - propensity)
    surprise = weight_high[:, None] * (scores - expected_high) - weight_low[:, None] * (scores - expected_low)
    return expected_high - expected_low + surprise


def _folds(treated: np.ndarray, patients: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """``(n,)`` fold of the image's patient: patients in the order of how many of their images are treated, dealt out.

    So each level of the treatment is in every fold, if it has as many patients as there are folds.
    """
    groups = np.unique(patients, return_inverse=True)[1]
    share = np.bincount(groups, weights=treated) / np.bincount(groups)
    order = np.lexsort((np.random.default_rng(seed).uniform(size=len(share)), share))
    dealt = np.empty(len(share), int)
    dealt[order] = np.arange(len(share)) % folds
    return dealt[groups]


def _check(
    scores: np.ndarray, treatment: np.ndarray, covariates: np.ndarray, patients: np.ndarray, folds: int, truncation: float
) -> None:  # fmt: skip
    shapes = [np.shape(x) for x in (scores, treatment, covariates, patients)]
    if scores.ndim != 2 or covariates.ndim != 2 or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"Need (n, k) scores, (n,) treatment, (n, p) covariates and (n,) patients, got {shapes}.")
    if not (np.isfinite(scores).all() and np.isfinite(covariates).all()):
        raise ValueError("Some scores or covariates are not finite; leave rows with missing values out, and say so.")
    if not np.isin(treatment, (0, 1)).all():
        raise ValueError(
            f"The treatment has values {np.unique(treatment)[:4].tolist()}; it must be 0/1: take two levels at a time, "
            "or g_computation for a continuous one."
        )
    if folds < 2 or not 0 < truncation < 0.5:
        raise ValueError(f"Need folds >= 2 and truncation in (0, 0.5), got {folds} and {truncation}.")
    for level in (0, 1):
        count = len(np.unique(patients[treatment == level]))
        if count < folds:
            raise ValueError(f"Only {count} patients have treatment {level}, fewer than {folds} folds.")
