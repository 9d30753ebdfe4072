"""Effects that are identified without holding confounders fixed: through a mediator (front door), or by an instrument.

DoWhy's own two-stage estimators are checks in the tests, not used: its front door leaves the treatment-mediator product out
and counts a contrast twice whose size is not 1, its instrument takes several columns without a constant.
"""

from dataclasses import replace

import numpy as np

from causal_cxr.audits.effects import Effect, paired_effect
from causal_cxr.audits.observational.question import Question, UnanswerableError

WEAK = 10.0  #: first-stage F below which an instrument's interval cannot be trusted (Staiger & Stock 1997)


def front_door(question: Question, mediator: np.ndarray) -> tuple[Effect, ...]:
    """Effect through one mediator (Pearl 1995): sum over m of the treatment's effect on it times its effect on the outcome.

    The mediator's effect is averaged over the treatment as it occurs, by a regression with their product: for a mediator
    with levels this is the front-door formula itself; a number enters linearly.

    Args:
        question: treatment and outcomes.
        mediator: ``(n, c)`` dummies, or one column.
    """
    n, y = len(mediator), question.outcomes
    t = (question.treatment - question.treatment.mean())[:, None]
    moved = (t * mediator).mean(axis=0) / (t**2).mean()
    rest = mediator - mediator.mean(axis=0) - t * moved
    moved_influence = t * rest / (t**2).mean()

    design = np.column_stack([np.ones(n), mediator, t, mediator * t])
    inverse = np.linalg.pinv(design.T @ design / n)
    coefficients = inverse @ (design.T @ y) / n
    residuals, own = y - design @ coefficients, slice(1, 1 + mediator.shape[1])
    acts, product = coefficients[own], coefficients[2 + mediator.shape[1] :]
    through = (design @ inverse)[:, own] @ moved  # (n,) weight of a residual in the second stage
    influence = moved_influence @ acts + through[:, None] * residuals + t * (moved @ product)
    return _effects(moved @ acts, influence, question.patients)


def instrumental(question: Question, instrument: np.ndarray) -> tuple[Effect, ...]:
    """Two-stage least squares; with one binary instrument the Wald ratio (Angrist, Imbens & Rubin 1996).

    Args:
        question: treatment and outcomes.
        instrument: ``(n, c)`` columns of one instrument.

    Raises:
        UnanswerableError: the instrument is weak, patients taken as the sample size.
    """
    z, t, y = (v - v.mean(axis=0) for v in (instrument, question.treatment, question.outcomes))
    fitted = z @ np.linalg.lstsq(z, t, rcond=None)[0]
    count, c = len(np.unique(question.patients)), max(int(np.linalg.matrix_rank(z)), 1)
    explained = min(float(fitted @ fitted / (t @ t)), 1 - 1e-12)
    strength = explained / c / ((1 - explained) / max(count - c - 1, 1))
    if strength < WEAK:
        raise UnanswerableError(f"weak instrument (first-stage F is {strength:.1f}, less than {WEAK:g})")
    values = fitted @ y / (fitted @ t)
    influence = fitted[:, None] * (y - t[:, None] * values) / (fitted @ t / len(t))
    return _effects(values, influence, question.patients)


def _effects(values: np.ndarray, influence: np.ndarray, patients: np.ndarray) -> tuple[Effect, ...]:
    return tuple(
        replace(paired_effect(column, patients), value=float(value))
        for value, column in zip(values, influence.T, strict=True)
    )
