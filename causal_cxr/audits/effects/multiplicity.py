"""Error control over many cells."""

import numpy as np


def benjamini_yekutieli(p: np.ndarray) -> np.ndarray:
    """q-values under any dependence (Benjamini & Yekutieli 2001); NaN stays NaN and is no member of the family."""
    from statsmodels.stats.multitest import multipletests

    q = np.full(len(p), np.nan)
    known = ~np.isnan(p)
    if known.any():
        q[known] = multipletests(p[known], method="fdr_by")[1]
    return q


def benjamini_yekutieli_level(tests: int, alpha: float) -> float:
    """The p at which a claim is made whatever the others of its family say: ``alpha / (K (1 + 1/2 + ... + 1/K))``.

    >>> benjamini_yekutieli(np.array([benjamini_yekutieli_level(2, 0.06), 1.0])).round(6)
    array([0.06, 1.  ])
    """
    return alpha / (tests * float((1 / np.arange(1, tests + 1)).sum()))


def holm(p: np.ndarray) -> np.ndarray:
    """Family-wise p-values under any dependence (Holm 1979); no NaN. statsmodels' function collects all garbage each time.

    >>> holm(np.array([0.04, 0.01, 0.03])).round(3)
    array([0.06, 0.03, 0.06])
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def family_wise_conjunction(*sides: np.ndarray) -> np.ndarray:
    """``(k,)`` family-wise p that all sides hold: the largest of each cell's max-T adjusted p, intersection-union.

    A conjunction is wrong only where one of its sides is, and then that side's own family is. So the family-wise error is
    alpha where it is always the same side that is wrong, and at most alpha times the number of sides otherwise. For alpha
    whichever side is wrong, adjust the cells of all sides as one family (their columns side by side, patients as rows) and
    split the p-values.

    Args:
        sides: ``(k,)`` each, adjusted over all ``k`` cells (:func:`~causal_cxr.audits.effects.signflip_test`'s
            ``p_family``, :func:`~causal_cxr.audits.effects.multiplier_max_t`); NaN where a side says nothing, then the
            conjunction says nothing.

    Raises:
        ValueError: no sides, or of different lengths.

    >>> family_wise_conjunction(np.array([0.01, 0.02]), np.array([0.03, np.nan]))
    array([0.03,  nan])
    """
    if not sides or len({np.shape(side) for side in sides}) > 1:
        raise ValueError(f"Need one p a cell from each side, got shapes {[np.shape(side) for side in sides]}.")
    return np.max(sides, axis=0)
