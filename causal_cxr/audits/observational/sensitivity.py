"""How strong an unmeasured confounder would have to be to change the conclusion.

Pure functions. Those of partial R-squared are Cinelli & Hazlett's (JRSS B 2020, doi:10.1111/rssb.12348), of one linear
regression of independent rows; the E-value is VanderWeele & Ding's (Ann. Intern. Med. 2017, doi:10.7326/M16-2607).
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

SMD_TO_LOG_RATIO = 0.91  #: log risk ratio of one standard deviation (Chinn 2000; VanderWeele & Ding 2017, table 2)


def e_value(ratio: float) -> float:
    """Risk ratio that a confounder needs with both treatment and outcome to explain ``ratio`` away.

    Args:
        ratio: risk ratio, positive; below 1 it is turned over.

    >>> round(e_value(3.9), 2), e_value(1.8)
    (7.26, 3.0)
    """
    if not ratio > 0:
        raise ValueError(
            f"A risk ratio is positive, got {ratio}; for a difference take risk_ratio(difference, sd) first."
        )
    ratio = max(ratio, 1 / ratio)
    return float(ratio + np.sqrt(ratio * (ratio - 1)))


def e_value_of_interval(low: float, high: float) -> float:
    """E-value of the end of a risk ratio's interval that is nearer 1; 1 if the interval has 1 in it.

    >>> e_value_of_interval(1.8, 8.7), e_value_of_interval(0.9, 2.0)
    (3.0, 1.0)
    """
    return 1.0 if low <= 1 <= high else e_value(low if low > 1 else high)


def risk_ratio(difference: float, sd: float) -> float:
    """Approximate risk ratio of a difference on a scale whose standard deviation is ``sd``."""
    return float(np.exp(SMD_TO_LOG_RATIO * difference / sd))


def robustness_value(t: float, dof: float, alpha: float | None = None) -> float:
    """Share of the residual variation of both treatment and outcome that a confounder must explain.

    Args:
        t: statistic of the treatment's coefficient.
        dof: residual degrees of freedom of its regression.
        alpha: ``None``: to bring the estimate to 0. Else: to bring its ``1 - alpha`` interval to 0.

    Returns:
        in [0, 1]; 0: no confounder is needed.

    >>> round(robustness_value(4.18445, 783), 5)  # Darfur, in sensemakr's vignette
    0.13878
    """
    f = abs(t) / np.sqrt(dof)
    critical = 0.0 if alpha is None else stats.t.ppf(1 - alpha / 2, dof - 1) / np.sqrt(dof - 1)
    room = f - critical
    if room <= 0:
        return 0.0
    if critical > 0 and f > 1 / critical:
        return float((f**2 - critical**2) / (1 + f**2))
    return float(0.5 * (np.sqrt(room**4 + 4 * room**2) - room**2))


def partial_r2(t: float, dof: float) -> float:
    """Share of the residual variation that one coefficient's variable explains."""
    return float(t**2 / (t**2 + dof))


@dataclass(frozen=True)
class Regression:
    """Treatment's coefficient in one linear regression of independent rows.

    Attributes:
        value, se: of the coefficient.
        dof: residual degrees of freedom.
        with_outcome: covariate -> partial R-squared with the outcome, given treatment and the other covariates.
        with_treatment: covariate -> partial R-squared with the treatment, given the other covariates.
    """

    value: float
    se: float
    dof: int
    with_outcome: dict[str, float]
    with_treatment: dict[str, float]

    @property
    def t(self) -> float:
        """Statistic of "no effect"."""
        return self.value / self.se

    def confounded(self, covariate: str, times: float = 1.0) -> tuple[float, float]:
        """Estimate and t left by a confounder ``times`` as strong as a measured covariate, towards 0.

        Raises:
            ValueError: no such confounder can exist, as it would explain all of the treatment.
        """
        mine = self.with_treatment[covariate]
        with_treatment = times * mine / (1 - mine)
        shared = times * mine**2 / ((1 - times * mine) * (1 - mine))
        if not (times * mine < 1 and with_treatment < 1 and shared < 1):
            raise ValueError(f"No confounder can be {times:g} times as strong as {covariate!r}; give a smaller times.")
        own = self.with_outcome[covariate]
        with_outcome = min(
            1.0, ((np.sqrt(times) + np.sqrt(shared)) / np.sqrt(1 - shared)) ** 2 * own / max(1 - own, 1e-12)
        )
        bias = self.se * np.sqrt(self.dof * with_outcome * with_treatment / (1 - with_treatment))
        value = np.sign(self.value) * (abs(self.value) - bias)
        se = self.se * np.sqrt((1 - with_outcome) / (1 - with_treatment) * self.dof / (self.dof - 1))
        return float(value), float(value / se) if se > 0 else float(np.copysign(np.inf, value))


def linear_regression(outcome: np.ndarray, treatment: np.ndarray, covariates: dict[str, np.ndarray]) -> Regression:
    """Least squares of the outcome on treatment and covariates, and how strongly each covariate goes with both.

    Args:
        outcome, treatment: ``(n,)`` independent rows.
        covariates: name -> ``(n, c)``; the columns of a name are judged together.
    """
    n, names = len(outcome), list(covariates)
    blocks = [np.ones((n, 1)), treatment[:, None], *covariates.values()]

    def left_over(y: np.ndarray, parts: list[np.ndarray]) -> tuple[np.ndarray, float, int]:
        X = np.column_stack(parts)
        coefficients, _, rank, _ = np.linalg.lstsq(X, y, rcond=None)
        return coefficients, float(((y - X @ coefficients) ** 2).sum()), int(rank)

    coefficients, rss, rank = left_over(outcome, blocks)
    rss_treatment = left_over(treatment, [blocks[0], *blocks[2:]])[1]
    dof = n - rank
    with_outcome, with_treatment = {}, {}
    for i, name in enumerate(names, start=2):
        with_outcome[name] = 1 - rss / left_over(outcome, blocks[:i] + blocks[i + 1 :])[1]
        with_treatment[name] = 1 - rss_treatment / left_over(treatment, [blocks[0], *blocks[2:i], *blocks[i + 1 :]])[1]
    se = float(np.sqrt(rss / dof / rss_treatment))
    return Regression(float(coefficients[1]), se, dof, with_outcome, with_treatment)
