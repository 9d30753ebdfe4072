"""The editor's side: edited minus matched null, patients as clusters; and its bounds where edits were rejected."""

import numpy as np

from causal_cxr.audits.effects.effect import NOTHING, Effect
from causal_cxr.statistics.clustered import mean_influence


def paired_effect(difference: np.ndarray, patients: np.ndarray) -> Effect:
    """Mean of oriented paired differences (edited minus matched null), patients as clusters.

    Args:
        difference: ``(n,)``.
        patients: ``(n,)`` ids.

    With one image a patient it is the one-sample t test. With ``n_g`` of ``n`` images in patient g, the variance is
    ``sum_g (sum_i in g (d_i - mean))^2 / (1 - n_g / n) / n^2``.
    """
    n = len(difference)
    groups = np.unique(patients, return_inverse=True)[1]
    count = int(groups.max()) + 1 if n else 0
    if count < 3:
        return NOTHING
    mean = float(np.mean(difference))
    influence, dof = mean_influence((difference - mean)[:, None], groups, count)
    se = float(np.sqrt(np.sum(influence**2)))
    return Effect(mean, max(se, 1e-12), dof, n, count)


def rejection_bounds(
    edited: np.ndarray, null: np.ndarray, orientation: np.ndarray, edited_known: np.ndarray, null_known: np.ndarray,
    patients: np.ndarray,
) -> tuple[Effect, Effect]:  # fmt: skip
    """The least and the largest paired effect, whatever the rejected edits would have shown (Manski, 1990).

    Nothing is assumed of a rejected image but that its score lies in [0, 1].

    Args:
        edited, null: ``(n,)`` scores; those that are not known are not looked at.
        orientation: ``(n,)`` +1 where the edit goes from a0 to a1, -1 where it goes back.
        edited_known, null_known: ``(n,)`` bool, accepted.
        patients: ``(n,)`` ids.

    Returns:
        effects of all ``n`` edits. An interval that holds whatever lies between goes from the lower end of the first's to
        the upper end of the second's (Horowitz and Manski, 2000). Where all is accepted both are :func:`paired_effect`.

    >>> low, high = rejection_bounds(
    ...     np.array([0.9, 0.8, 0.0, 0.7]), np.array([0.1, 0.2, 0.3, 0.1]), np.ones(4), np.arange(4) != 2, np.ones(4, bool),
    ...     np.arange(4))
    >>> round(low.value, 3), round(high.value, 3)
    (0.425, 0.675)
    """
    forward = orientation > 0
    edited_low, edited_high = (np.where(edited_known, edited, end) for end in (0.0, 1.0))
    null_low, null_high = (np.where(null_known, null, end) for end in (0.0, 1.0))
    low = np.where(forward, edited_low - null_high, null_low - edited_high)
    high = np.where(forward, edited_high - null_low, null_high - edited_low)
    return paired_effect(low, patients), paired_effect(high, patients)
