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
