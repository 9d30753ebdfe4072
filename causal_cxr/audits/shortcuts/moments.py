"""Several means of the same images, and smooth functions of them, with patient-clustered errors (delta method)."""

from collections.abc import Sequence

import numpy as np

from causal_cxr.audits.effects import NOTHING, Effect
from causal_cxr.statistics.clustered import mean_influence


def product_ratio(
    over: Sequence[np.ndarray], under: Sequence[np.ndarray], patients: np.ndarray, *, relative_se: float = 0.0
) -> Effect:
    """Product of some means over the product of others, all of the same images.

    Args:
        over, under: ``(n,)`` values each.
        patients: ``(n,)`` ids.
        relative_se: of a further factor of value 1 that is known from other images, as a reader's slope.

    Returns:
        the ratio; :data:`~causal_cxr.audits.effects.NOTHING` with fewer than three patients or a mean of exactly 0 below.
    """
    values = np.column_stack([*over, *under])
    groups = np.unique(patients, return_inverse=True)[1]
    count = int(groups.max()) + 1 if len(groups) else 0
    if count < 3:
        return NOTHING
    means = values.mean(axis=0)
    k = len(over)
    if not np.all(means[k:]):
        return NOTHING
    influence, dof = mean_influence(values - means, groups, count)
    top, bottom = float(np.prod(means[:k])), float(np.prod(means[k:]))
    # d ratio / d mean_j: all other factors, with the sign of the side that it is on
    gradient = [float(np.prod(np.delete(means[:k], j))) / bottom for j in range(k)]
    gradient += [-top / bottom / mean for mean in means[k:]]
    se = float(np.sqrt(np.sum((influence @ np.array(gradient)) ** 2) + (top / bottom * relative_se) ** 2))
    return Effect(top / bottom, max(se, 1e-12), dof, len(values), count)
