"""Estimators of an effect by holding covariates fixed: outcome regression, inverse propensity, doubly robust.

The values of ``ipw`` and ``doubly robust`` are DoWhy's. DoWhy's errors take images for independent; here each estimator's
influence function, the estimated propensity and outcome models included, is averaged within patients.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.effects import Effect, g_computation, paired_effect
from causal_cxr.audits.observational.question import Question, UnanswerableError
from causal_cxr.graphs.identification import dowhy_quietly

TRUNCATED = 0.01  #: propensities are kept within [TRUNCATED, 1 - TRUNCATED]


@dataclass(frozen=True)
class Estimates:
    """Effects on all outcomes of one question.

    Attributes:
        effects: one an outcome.
        ess: effective sample size of the weights (Kish), both levels together; NaN where nothing is weighted.
        truncated: share of images whose propensity was truncated; NaN where there is none.
    """

    effects: tuple[Effect, ...]
    ess: float = float("nan")
    truncated: float = float("nan")


#: Takes a question and a seed. Any such function may be given to :func:`causal_cxr.audits.observational.estimate` by name.
Estimator = Callable[[Question, int], Estimates]


def regression(question: Question, seed: int = 0) -> Estimates:
    """G-computation by least squares with treatment x covariate products, CR2 errors; see :func:`g_computation`."""
    seen, low, high = question.designs()
    effects = g_computation(question.outcomes, question.patients, seen, low, high, question.patients)
    return Estimates(tuple(effects))


def ipw(question: Question, seed: int = 0) -> Estimates:
    """DoWhy's normalised inverse-propensity estimator, logistic propensity (Hájek; Lunceford & Davidian 2004).

    Raises:
        UnanswerableError: the treatment is a number.
    """
    fit = _Propensity.of(question)
    with dowhy_quietly(seed):
        from dowhy.causal_estimators.propensity_score_weighting_estimator import PropensityScoreWeightingEstimator

        values = [
            fit.dowhy(PropensityScoreWeightingEstimator, y, min_ps_score=TRUNCATED, max_ps_score=1 - TRUNCATED)
            for y in question.outcomes.T
        ]
    t, e, influence = question.treatment[:, None], fit.propensity[:, None], np.zeros_like(question.outcomes)
    for sign, weight, slope in ((1, t / e, -t * (1 - e) / e), (-1, (1 - t) / (1 - e), (1 - t) * e / (1 - e))):
        mean = (weight * question.outcomes).sum(axis=0) / weight.sum()
        around = (question.outcomes - mean) / weight.mean()
        influence = influence + sign * (weight * around + fit.carried(slope * around))
    return fit.estimates(values, influence)


def doubly_robust(question: Question, seed: int = 0) -> Estimates:
    """DoWhy's doubly robust estimator: linear outcome model, logistic propensity (Funk et al. 2011).

    Raises:
        UnanswerableError: the treatment is a number.
    """
    fit = _Propensity.of(question)
    with dowhy_quietly(seed):
        from dowhy.causal_estimators.doubly_robust_estimator import DoublyRobustEstimator

        values = [
            fit.dowhy(DoublyRobustEstimator, y, min_ps_score=TRUNCATED, max_ps_score=1 - TRUNCATED)
            for y in question.outcomes.T
        ]
    t, e, y = question.treatment[:, None], fit.propensity[:, None], question.outcomes
    design = np.column_stack([np.ones(len(t)), t, question.held])
    at_one, at_zero = design.copy(), design.copy()
    at_one[:, 1], at_zero[:, 1] = 1.0, 0.0
    inverse = np.linalg.pinv(design.T @ design / len(t))
    coefficients = inverse @ (design.T @ y) / len(t)
    above, below = y - at_one @ coefficients, y - at_zero @ coefficients
    each = (at_one - at_zero) @ coefficients + t / e * above - (1 - t) / (1 - e) * below
    moved = (at_one - at_zero - t / e * at_one + (1 - t) / (1 - e) * at_zero).mean(axis=0)  # by the outcome model
    from_model = ((design @ inverse) @ moved)[:, None] * (y - design @ coefficients)
    from_propensity = fit.carried(-t * (1 - e) / e * above - (1 - t) * e / (1 - e) * below)
    return fit.estimates(values, each - each.mean(axis=0) + from_model + from_propensity)


def econml(question: Question, seed: int = 0) -> Estimates:
    """EconML's cross-fitted ``LinearDRLearner``, on one image a patient, which its errors need.

    Raises:
        ImportError: EconML is not installed.
        UnanswerableError: the treatment is a number.
    """
    try:
        from econml.dr import LinearDRLearner
    except ImportError as missing:
        raise ImportError(
            "The estimator 'econml' needs EconML: pip install 'causal_cxr[econml]', or leave it out of estimators=[...]."
        ) from missing
    from sklearn.linear_model import LinearRegression, LogisticRegression

    alone = question.one_image_a_patient(len(question.patients), seed)
    fit = _Propensity.of(alone)
    effects = []
    for y in alone.outcomes.T:
        learner = LinearDRLearner(
            model_propensity=LogisticRegression(C=np.inf, max_iter=1000), model_regression=LinearRegression(),
            min_propensity=TRUNCATED, cv=5, random_state=seed,
        )  # fmt: skip
        learner.fit(y, alone.treatment.astype(int), X=None, W=fit.covariates.to_numpy())
        found = learner.intercept__inference(T=1)
        n = len(y)
        effects.append(Effect(float(found.point_estimate), float(found.stderr), n - 1.0, n, n))
    return Estimates(tuple(effects), *fit.weighing())


#: Estimators by name; ``econml`` needs the extra of that name.
BACKDOOR: Mapping[str, Estimator] = MappingProxyType(
    {"regression": regression, "ipw": ipw, "doubly robust": doubly_robust, "econml": econml}
)
DEFAULT = ("regression", "ipw", "doubly robust")


@dataclass(frozen=True)
class _Propensity:
    """A logistic propensity, shared by all outcomes of a question."""

    question: Question
    covariates: pd.DataFrame  # one constant column where nothing is held: DoWhy wants one
    model: Any
    propensity: np.ndarray  # (n,) truncated
    inside: np.ndarray  # (n,) bool, not truncated

    @classmethod
    def of(cls, question: Question) -> "_Propensity":
        from sklearn.linear_model import LogisticRegression

        if question.continuous:
            raise UnanswerableError("weights need a treatment of two levels")
        held = question.held if question.covariates else np.zeros((len(question.treatment), 1))
        covariates = pd.DataFrame(held, columns=[f"held{i}" for i in range(held.shape[1])])
        # Unpenalised: the influence of the estimated propensity is that of a maximum likelihood fit.
        model = LogisticRegression(C=np.inf, max_iter=1000, tol=1e-10).fit(covariates, question.treatment.astype(int))
        raw = model.predict_proba(covariates)[:, 1]
        propensity = np.clip(raw, TRUNCATED, 1 - TRUNCATED)
        return cls(question, covariates, model, propensity, propensity == raw)

    def dowhy(self, estimator: Any, outcome: np.ndarray, **options: Any) -> float:
        """The value of a DoWhy estimator that takes a propensity, given this one."""
        data = self.covariates.assign(
            treatment=self.question.treatment.astype(int), outcome=outcome, propensity_score=self.propensity
        )
        estimand = backdoor_estimand(list(self.covariates.columns))
        fitted = estimator(estimand, propensity_score_model=self.model, **options).fit(data)
        return float(fitted.estimate_effect(data, target_units="ate").value)

    def carried(self, derivative: np.ndarray) -> np.ndarray:
        """``(n, k)`` what each image adds by its part in the propensity.

        Args:
            derivative: ``(n, k)`` of each image's term by the logit of its propensity.
        """
        X = np.column_stack([np.ones(len(self.propensity)), self.covariates])
        e = self.propensity
        information = np.linalg.pinv((X * (e * (1 - e))[:, None]).T @ X / len(X))
        scores = X * (self.question.treatment - e)[:, None]
        slope = X.T @ (derivative * self.inside[:, None]) / len(X)
        return scores @ information @ slope

    def weighing(self) -> tuple[float, float]:
        """Effective sample size and share truncated."""
        t, e = self.question.treatment, self.propensity
        sizes = [w.sum() ** 2 / (w**2).sum() for w in (1 / e[t == 1], 1 / (1 - e[t == 0]))]
        return float(sum(sizes)), float(1 - self.inside.mean())

    def estimates(self, values: list[float], influence: np.ndarray) -> Estimates:
        """Values with the errors that their influence functions give, patients as clusters."""
        effects = [
            replace(paired_effect(column, self.question.patients), value=value)
            for value, column in zip(values, influence.T, strict=True)
        ]
        return Estimates(tuple(effects), *self.weighing())


def backdoor_estimand(covariates: list[str]) -> Any:
    """DoWhy's estimand "effect of column treatment on column outcome, these columns held fixed"."""
    from dowhy.causal_identifier import EstimandType, IdentifiedEstimand

    return IdentifiedEstimand(
        None, treatment_variable=["treatment"], outcome_variable=["outcome"],
        estimand_type=EstimandType.NONPARAMETRIC_ATE, estimands={"backdoor": None},
        backdoor_variables={"backdoor": covariates}, instrumental_variables=[], default_backdoor_id="backdoor",
        identifier_method="backdoor",
    )  # fmt: skip
