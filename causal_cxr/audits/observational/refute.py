"""Attempts to refute an estimate, each said in plain words: what was done, what one should see, what was seen.

The draws are DoWhy's where it has the refuter (placebo treatment, random common cause, subset), on one image a patient, so
that its shuffled rows are independent. DoWhy's p-values are easily read the wrong way round: they are of "the estimate (for
the placebo: zero) is one of these draws", so a *small* p is bad news, and a large one no proof. So no verdict here rests on a
large p: ``yes`` is an interval inside what was to be seen, ``no`` one outside, and the rest ``undecided``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from causal_cxr.audits.effects import Effect
from causal_cxr.audits.falsification import attribute_columns
from causal_cxr.audits.observational.backdoor import Estimator, backdoor_estimand, regression
from causal_cxr.audits.observational.question import Question, UnanswerableError
from causal_cxr.audits.observational.sensitivity import (
    e_value,
    e_value_of_interval,
    linear_regression,
    partial_r2,
    risk_ratio,
    robustness_value,
)
from causal_cxr.graphs import CausalGraph
from causal_cxr.graphs.identification import dowhy_quietly

COLUMNS = ("refuter", "done", "should_see", "seen", "value", "low", "high", "p", "passes", "sentence")
UNMOVED = 0.2  #: of a standard error: what counts as the same estimate
NEAR_ZERO = 0.2  #: of delta: what counts as no effect
SUBSET = 0.8  #: share of the patients in a subset
DRAWS = 100  #: fewer, and DoWhy takes one tail of a normal for its p


@dataclass(frozen=True)
class _Draws:
    values: np.ndarray
    p: float

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def range(self) -> tuple[float, float]:
        low, high = np.quantile(self.values, [0.025, 0.975])
        return float(low), float(high)


def refutations(
    graph: CausalGraph,
    table: pd.DataFrame,
    question: Question,
    attribute: str,
    *,
    estimator: Estimator = regression,
    delta: float = 0.10,
    alpha: float = 0.05,
    draws: int = DRAWS,
    most_patients: int = 2_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Try to refute what ``estimator`` says of a question with one outcome.

    Args:
        graph: declared.
        table: that the question was asked of.
        question: of one outcome.
        attribute: the treatment's name.
        estimator: one that holds the question's covariates.
        delta: smallest effect that matters.
        alpha: level of the p-values and of ``no``.
        draws: of each refuter.
        most_patients: drawn at random; all that is said is about them, one image each.
        seed: of all draws.

    Returns:
        One row a refuter: ``done``, ``should_see``, ``seen``, the mean of the draws (``value``) and their middle 95%
        (``low``, ``high``), DoWhy's ``p``, ``passes`` (``yes``, ``no``, ``undecided``) and all of it in one ``sentence``:

        - ``placebo treatment``: shuffled among patients. Whether the estimator makes effects out of nothing. It cannot see
          confounding, as the shuffled treatment has no causes.
        - ``placebo with its causes``: drawn anew from P(treatment | all labelled non-descendants). Whether what is held
          fixed is enough against everything that was *measured*: it fails if an arrow between labelled attributes is missing.
        - ``random common cause``: a random column held fixed as well.
        - ``data subset``: :data:`SUBSET` of the patients.
        - ``negative control outcomes``: labelled attributes that the graph says are independent of the treatment given what
          is held; missing if there is none.

        Where the draw, or the rows that know what a refuter asks for, leave too few patients at a level of the treatment,
        ``passes`` is ``undecided``, its numbers are NaN, and the sentence says so.

    Raises:
        ValueError: several outcomes, or too few draws for DoWhy's two-sided p.
    """
    if question.outcomes.shape[1] != 1:
        raise ValueError(f"Refute one outcome at a time, got {question.outcomes.shape[1]}.")
    if draws < DRAWS:
        raise ValueError(f"{draws} draws: DoWhy then takes one tail of a normal distribution; give {DRAWS} or more.")
    one = question.one_image_a_patient(most_patients, seed)
    images = f"({len(one.patients):,} patients, one image each)"
    again = f"{draws} times {images}"
    tried: tuple[tuple[str, str, Callable[[str], dict[str, Any]]], ...] = (
        ("placebo treatment", f"{attribute} was shuffled among patients, {again}",
         lambda done: _placebo(one, estimator, done, delta, alpha, draws, seed)),
        ("placebo with its causes",
         f"{attribute} was drawn anew from what the other labelled attributes say of it, {again}",
         lambda done: _caused_placebo(graph, table, one, attribute, done, delta, alpha, draws, seed)),
        ("random common cause", f"a random number was held fixed as well, {again}",
         lambda done: _random_cause(one, estimator, done, draws, seed)),
        ("data subset", f"{SUBSET:.0%} of the patients, {again}",
         lambda done: _subset(one, estimator, done, delta, alpha, draws, seed)),
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    for name, done, refuter in tried:
        try:
            one.refuse_few(attribute)
            rows.append(refuter(done))
        except UnanswerableError as why:  # fewer patients are left here than the question itself was asked of
            rows.append(_not_tried(name, done, str(why)))
    rows += _negative_controls(graph, table, one, attribute, estimator, delta, alpha, seed)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _placebo(
    one: Question, estimator: Estimator, done: str, delta: float, alpha: float, draws: int, seed: int
) -> dict[str, Any]:
    effect = _estimated(estimator, one, seed)
    found = _by_dowhy("placebo", one, estimator, effect.value, draws, seed)
    low, high = found.range
    small = max(abs(low), abs(high)) <= max(delta, abs(effect.value))
    return _row(
        "placebo treatment", done, "no effect: about 0", found,
        "no" if found.p <= alpha else "yes" if small else "undecided",
        {"yes": "the estimator finds nothing where nothing is", "no": "the estimator finds effects where there is none",
         "undecided": "the placebo effects scatter more than the effect itself: too few patients"},
    )  # fmt: skip


def _caused_placebo(
    graph: CausalGraph, table: pd.DataFrame, one: Question, attribute: str, done: str, delta: float, alpha: float,
    draws: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    tolerance = NEAR_ZERO * delta
    found, error = _placebo_with_causes(graph, table, one, attribute, draws, seed)
    error *= stats.norm.ppf(1 - alpha / 2)
    near, far = abs(found.mean) + error <= tolerance, abs(found.mean) - error > tolerance
    return _row(
        "placebo with its causes", done, f"no effect on average: between {-tolerance:+.3f} and {tolerance:+.3f}", found,
        "no" if far else "yes" if near else "undecided",
        {"yes": "what is held fixed is enough against everything that was measured",
         "no": "measured attributes confound the effect, and what is held fixed does not undo it: an arrow is missing in the graph, or the regression is too stiff",
         "undecided": "the mean placebo effect is too uncertain to say"},
    )  # fmt: skip


def _random_cause(one: Question, estimator: Estimator, done: str, draws: int, seed: int) -> dict[str, Any]:
    effect = _estimated(estimator, one, seed)
    found = _by_dowhy("common cause", one, estimator, effect.value, draws, seed)
    moved, unmoved = abs(found.mean - effect.value), UNMOVED * effect.se
    return _row(
        "random common cause", done, f"the same estimate, {effect.value:+.3f}, within {unmoved:.3f}", found,
        "yes" if moved <= unmoved else "no",
        {"yes": "the estimate does not hang on which irrelevant columns are in the model",
         "no": "an irrelevant column moves the estimate: the model is unstable"},
    )  # fmt: skip


def _subset(
    one: Question, estimator: Estimator, done: str, delta: float, alpha: float, draws: int, seed: int
) -> dict[str, Any]:
    effect = _estimated(estimator, one, seed)
    found = _by_dowhy("subset", one, estimator, effect.value, draws, seed)
    low, high = found.range
    steady = low * high > 0 or max(abs(low), abs(high)) <= delta
    return _row(
        "data subset", done, f"about {effect.value:+.3f}, of one sign or small throughout", found,
        "no" if found.p <= alpha else "yes" if steady else "undecided",
        {"yes": "no few patients carry the estimate", "no": "the estimate hangs on few patients",
         "undecided": "subsets disagree on the sign: the estimate is too uncertain to refute"},
    )  # fmt: skip


def _estimated(estimator: Estimator, question: Question, seed: int) -> Effect:
    effect = estimator(question, seed).effects[0]
    if not effect.n:
        raise UnanswerableError("nobody, or one alone, at a level of the treatment, given what is held fixed")
    return effect


def unobserved_confounder(
    question: Question, attribute: str, *, alpha: float = 0.05, most_patients: int = 20_000, seed: int = 0
) -> dict[str, Any]:
    """How strong a confounder that nobody measured must be, from one linear regression on one image a patient.

    Args:
        question: of one outcome.
        attribute: the treatment's name.
        alpha: of the interval.
        most_patients: drawn at random.
        seed: of the draw.

    Returns:
        ``effect``; ``partial_r2`` of the treatment with the outcome; ``robustness`` and ``robustness_interval``
        (:func:`robustness_value` to bring the estimate, and its interval, to 0); ``ratio`` with ``ratio_low`` and
        ``ratio_high`` (approximate risk ratio) and ``e_value``, ``e_value_interval``; ``benchmark``: the measured covariate
        as strong as which a confounder would move the estimate most, and the ``left`` estimate; ``unequalled``: measured
        covariates (comma-separated) that explain so much of the treatment that one as strong would explain the rest of it,
        and with it any effect; ``passes``: ``yes`` if a confounder as strong as any covariate would leave the interval clear
        of 0, ``no`` if one as strong as ``benchmark`` would not, ``undecided`` where the interval has 0 in it anyway,
        nothing was measured to compare with, or a covariate is ``unequalled``; ``sentence``.

    Raises:
        UnanswerableError: a score that never varies, or too few patients at a level among those drawn.
    """
    one = question.one_image_a_patient(most_patients, seed)
    one.refuse_few(attribute)
    outcome = one.outcomes[:, 0]
    if np.ptp(outcome) == 0:
        raise UnanswerableError("the score is the same in every image")
    fit = linear_regression(outcome, one.treatment, dict(one.covariates))
    spread = float(outcome.std())
    critical = stats.t.ppf(1 - alpha / 2, fit.dof)
    ends = [risk_ratio(fit.value + side * critical * fit.se, spread) for side in (-1, 1)]
    left: dict[str, tuple[float, float]] = {}
    unequalled = []
    for name in one.covariates:
        try:
            left[name] = fit.confounded(name)
        except ValueError:  # it explains about half of the treatment or more
            unequalled.append(name)
    row: dict[str, Any] = {
        "effect": fit.value, "partial_r2": partial_r2(fit.t, fit.dof), "robustness": robustness_value(fit.t, fit.dof),
        "robustness_interval": robustness_value(fit.t, fit.dof, alpha), "ratio": risk_ratio(fit.value, spread),
        "ratio_low": ends[0], "ratio_high": ends[1], "e_value": e_value(risk_ratio(fit.value, spread)),
        "e_value_interval": e_value_of_interval(*ends), "benchmark": "", "left": np.nan,
        "unequalled": ", ".join(unequalled), "passes": "undecided",
    }  # fmt: skip
    said = (
        f"To explain the effect of {attribute} away, a hidden confounder would have to explain {row['robustness']:.1%} of what is left "
        f"of both {attribute} and the score ({row['robustness_interval']:.1%} to bring the interval to 0); as a risk ratio with each: {row['e_value']:.2f} ({row['e_value_interval']:.2f})."
    )
    if abs(fit.t) <= critical:
        said += " The interval has 0 in it without any confounder."
    elif not one.covariates:
        said += " No measured covariate shows how strong confounders are here."
    else:
        for name in unequalled:
            said += (
                f" {name} explains {fit.with_treatment[name]:.0%} of what the others leave of {attribute}: a hidden "
                "confounder as strong would explain the rest, and any effect with it."
            )
        if left:
            worst = min(left, key=lambda name: np.sign(fit.value) * left[name][0])
            value, t = left[worst]
            shown = np.sign(value) == np.sign(fit.value) and abs(t) > critical
            row |= {
                "benchmark": worst,
                "left": value,
                "passes": "no" if not shown else "undecided" if unequalled else "yes",
            }
            said += f" One as strong as {worst} would leave {value:+.3f} of {fit.value:+.3f}: " + (
                "the effect would no longer be shown." if not shown else
                "against that one it would still be shown." if unequalled else "the effect stands."
            )  # fmt: skip
    return {**row, "sentence": said}


def _row(name: str, done: str, should: str, found: _Draws, passes: str, meaning: dict[str, str]) -> dict[str, Any]:
    low, high = found.range
    seen = f"{found.mean:+.3f} on average, {low:+.3f} to {high:+.3f}"
    verdict = {"yes": "passed", "no": "failed", "undecided": "undecided"}[passes]
    sentence = f"{name.capitalize()}, {verdict}: {done}; one should see {should}; seen {seen}; so {meaning[passes]}."
    return dict(zip(COLUMNS, (name, done, should, seen, found.mean, low, high, found.p, passes, sentence), strict=True))


def _not_tried(name: str, done: str, why: str) -> dict[str, Any]:
    """The row of a refuter that cannot be asked here."""
    sentence = f"{name.capitalize()}, undecided: too few patients ({why})."
    return dict(zip(COLUMNS, (name, done, "", "", *[np.nan] * 4, "undecided", sentence), strict=True))


def _by_dowhy(kind: str, question: Question, estimator: Estimator, value: float, draws: int, seed: int) -> _Draws:
    """Let DoWhy change the data, and the estimator estimate."""
    held = [f"held{i}" for i in range(question.held.shape[1])]
    data = pd.DataFrame(question.held, columns=held).assign(
        treatment=question.treatment, outcome=question.outcomes[:, 0]
    )
    with dowhy_quietly(seed):
        from dowhy.causal_estimator import CausalEstimate
        from dowhy.causal_refuters.data_subset_refuter import refute_data_subset
        from dowhy.causal_refuters.placebo_treatment_refuter import PlaceboType, refute_placebo_treatment
        from dowhy.causal_refuters.random_common_cause import refute_random_common_cause

        estimand = backdoor_estimand(held)
        seen: list[float] = []
        first = CausalEstimate(data, ["treatment"], ["outcome"], value, estimand, None, 0, 1)
        first.add_estimator(_Adapter(estimator, question, estimand, seen.append, seed))
        random = np.random.RandomState(seed)
        if kind == "placebo":
            answer = refute_placebo_treatment(
                data, estimand, first, ["treatment"], draws, PlaceboType.PERMUTE, random_state=random
            )
        elif kind == "common cause":
            answer = refute_random_common_cause(data, estimand, first, draws, random_state=random)
        else:
            answer = refute_data_subset(data, estimand, first, SUBSET, draws, random_state=random)
    return _Draws(np.array(seen), float(answer.refutation_result["p_value"]))


class _Adapter:
    """One of our estimators as DoWhy's refuters ask for it: told a frame, it answers with a value, which it also notes."""

    _effect_modifier_names: tuple[str, ...] = ()
    _target_units = "ate"

    def __init__(
        self, estimator: Estimator, question: Question, estimand: Any, note: Callable[[float], None], seed: int
    ) -> None:
        self._estimator, self._question, self._estimand = estimator, question, estimand
        self._note, self._seed = note, seed

    def get_new_estimator_object(self, estimand: Any) -> "_Adapter":
        return _Adapter(self._estimator, self._question, estimand, self._note, self._seed)

    def fit(self, data: pd.DataFrame, effect_modifier_names: Any = None) -> "_Adapter":
        return self

    def estimate_effect(self, data: pd.DataFrame, **_: Any) -> Any:
        held = self._estimand.get_adjustment_set()
        numbers = data[[self._estimand.treatment_variable[0], "outcome", *held]].to_numpy(dtype=float)
        rows = data.index.to_numpy()
        question = Question(
            numbers[:, 0], self._question.continuous, {"held": numbers[:, 2:]} if held else {}, numbers[:, 1:2],
            self._question.patients[rows], self._question.rows[rows],
        )  # fmt: skip
        value = _estimated(self._estimator, question, self._seed).value
        self._note(value)
        return _Value(value)


@dataclass(frozen=True)
class _Value:
    value: float


def _placebo_with_causes(
    graph: CausalGraph, table: pd.DataFrame, question: Question, attribute: str, draws: int, seed: int
) -> tuple[_Draws, float]:
    """Effects, by a linear regression on what is held, of a treatment that keeps its measured causes and acts on nothing.

    And the standard error of their mean: that of the draws, and that of the patients, in whom the outcome goes by chance with
    what decides the treatment.
    """
    from sklearn.linear_model import LogisticRegression

    part = table.iloc[question.rows]
    others = [name for name in graph.labelled if name != attribute and name not in graph.descendants(attribute)]
    known = part[others].notna().all(axis=1).to_numpy() if others else np.ones(len(part), dtype=bool)
    question, part = question.only(known), part[known]
    question.refuse_few(attribute)
    X = np.column_stack(
        [np.ones(len(part)), *(c for name in others for c in attribute_columns(graph, part, name).values())]
    )
    t, random = question.treatment, np.random.default_rng([seed, 2])
    if question.continuous:
        expected = X @ np.linalg.lstsq(X, t, rcond=None)[0]
        placebos = np.stack([expected + random.permutation(t - expected) for _ in range(draws)])
    else:
        p = LogisticRegression(C=np.inf, max_iter=1000).fit(X, t.astype(int)).predict_proba(X)[:, 1]
        placebos = (random.uniform(size=(draws, len(p))) < p).astype(float)
    basis = np.linalg.qr(np.column_stack([np.ones(len(t)), question.held]))[0]
    y = question.outcomes[:, 0] - basis @ (basis.T @ question.outcomes[:, 0])
    rest = placebos - (placebos @ basis) @ basis.T
    room = np.maximum((rest**2).sum(axis=1), 1e-12)
    values = rest @ y / room
    of_patients = np.sqrt(((rest.mean(axis=0) * y) ** 2).sum()) / room.mean()
    return _Draws(values, float("nan")), float(np.hypot(values.std(ddof=1) / np.sqrt(draws), of_patients))


def _negative_controls(
    graph: CausalGraph, table: pd.DataFrame, question: Question, attribute: str, estimator: Estimator, delta: float, alpha: float, seed: int
) -> list[dict[str, Any]]:  # fmt: skip
    held = list(question.covariates)
    names = [
        name for name in graph.labelled
        if name not in (attribute, *held, *graph.descendants(attribute)) and graph.m_separated(attribute, name, held)
    ]  # fmt: skip
    part, effects = table.iloc[question.rows], []
    unasked: dict[str, str] = {}
    for name in names:
        known = part[name].notna().to_numpy()  # in the columns of levels a missing one would look like the first
        asked = question.only(known)
        try:
            asked.refuse_few(attribute)
            for key, column in attribute_columns(graph, part[known], name, flexible=False).items():
                if column.std() > 0:
                    # A number is centred and in standard deviations; a level is a risk difference.
                    effect = _estimated(estimator, replace(asked, outcomes=column[:, None]), seed)
                    effects.append((name, key.removesuffix("^1"), effect))
        except UnanswerableError as why:
            unasked[name] = str(why)
    if not effects:
        reasons = "; ".join(f"{name}: {why}" for name, why in unasked.items())
        done = f"the effect on {', '.join(unasked)} was to be estimated, which the graph says is none"
        return [_not_tried("negative control outcomes", done, reasons)] if unasked else []
    level = alpha / len(effects)
    _, worst, effect = max(effects, key=lambda three: abs(three[2].value) / three[2].se)
    tied = any(e.p_yes(NEAR_ZERO * delta) <= level for _, _, e in effects)
    passes = "no" if tied else "yes" if all(e.p_no(delta) <= alpha for _, _, e in effects) else "undecided"
    low, high = effect.interval()
    meaning = {"yes": "the graph is right about what it says is unaffected",
               "no": f"{attribute} and {worst} are tied in a way that the graph denies; what ties them may confound the effect too",
               "undecided": f"an effect of {delta:g} on one of them is not excluded: too few patients"}  # fmt: skip
    done = f"the effect on {', '.join(dict.fromkeys(name for name, _, _ in effects))} was estimated, which the graph says is none"
    if unasked:
        done += f" (of too few patients: {', '.join(unasked)})"
    should, seen = "no effect: about 0", f"at most {effect.value:+.3f} [{low:+.3f}, {high:+.3f}], on {worst}"
    verdict = {"yes": "passed", "no": "failed", "undecided": "undecided"}[passes]
    sentence = (
        f"Negative control outcomes, {verdict}: {done}; one should see {should}; seen {seen}; so {meaning[passes]}."
    )
    p = min(1.0, effect.p_yes(0.0) * len(effects))
    return [
        dict(
            zip(
                COLUMNS,
                ("negative control outcomes", done, should, seen, effect.value, low, high, p, passes, sentence),
                strict=True,
            )
        )
    ]
