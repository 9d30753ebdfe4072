"""What a score decides: where the threshold lies, and which decisions an edit turns over."""

from typing import Literal

import numpy as np
from scipy import stats

from causal_cxr.audits.effects import paired_effect

Rule = Literal["youden", "prevalence"]


def threshold_of(scores: np.ndarray, present: np.ndarray, rule: Rule, prevalence: float | None = None) -> float:
    """A threshold from unedited images; a score at it or above is called positive.

    Args:
        scores: ``(n,)`` probabilities.
        present: ``(n,)`` bool, the target's label.
        rule: ``youden``: largest sensitivity + specificity - 1 (Youden, Cancer 1950); ``prevalence``: as many are called
            positive as are.
        prevalence: declared, for ``prevalence``; that of the labels unless given.

    Raises:
        ValueError: all labels are alike.

    >>> threshold_of(np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, False, True, True]), "youden")
    0.4
    """
    if present.all() or not present.any():
        raise ValueError(
            "All audited images have the same label: no threshold follows; give one, threshold=0.5, or audit images with "
            "and without the target."
        )
    values = np.unique(scores)
    cuts = np.concatenate([[values[0]], (values[1:] + values[:-1]) / 2])  # between two scores: no image lies on it
    if rule == "prevalence":
        share = float(present.mean()) if prevalence is None else prevalence
        called = 1 - np.searchsorted(np.sort(scores), cuts) / len(scores)
        return float(cuts[np.abs(called - share).argmin()])
    above = [1 - np.searchsorted(np.sort(scores[kind]), cuts) / kind.sum() for kind in (present, ~present)]
    return float(cuts[np.argmax(above[0] - above[1])])


def share_interval(yes: np.ndarray, patients: np.ndarray) -> tuple[float, float, float]:
    """A share with its 95% interval: Clopper and Pearson's at the effective number of images (Korn & Graubard 1998).

    Args:
        yes: ``(n,)`` bool.
        patients: ``(n,)`` ids; the images of one are no independent images.

    Returns:
        share, low, high; NaN without images, and without an interval for fewer than three patients.

    >>> [round(x, 3) for x in share_interval(np.zeros(100, dtype=bool), np.arange(100))]
    [0.0, 0.0, 0.036]
    """
    if not len(yes):
        return float("nan"), float("nan"), float("nan")
    share, effect = float(np.mean(yes)), paired_effect(np.asarray(yes, dtype=float), patients)
    if not effect.n:
        return share, float("nan"), float("nan")
    spread = share * (1 - share)
    most = float(effect.patients)  # nothing varies: as many images as patients
    n = min(spread / effect.se**2, float(effect.n)) if spread > 0 and effect.se > 1e-9 else most
    count = share * n
    low = stats.beta.ppf(0.025, count, n - count + 1) if count > 0 else 0.0
    high = stats.beta.ppf(0.975, count + 1, n - count) if count < n else 1.0
    return share, float(low), float(high)


def turned(before: np.ndarray, after: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """``(n,)`` bool each: decisions that become positive, and that cease to be."""
    was, now = before >= threshold, after >= threshold
    return now & ~was, was & ~now
