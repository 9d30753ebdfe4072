"""Rows that are independent of each other: one a patient."""

import numpy as np


def one_per_patient(patients: np.ndarray, seed: int = 0) -> np.ndarray:
    """One row of each patient, drawn at random; positions in ascending order.

    Args:
        patients: ``(n,)`` ids.
        seed: decides which.

    >>> one_per_patient(np.array(["ann", "ann", "bob"]), seed=0).tolist()
    [0, 2]
    """
    order = np.random.default_rng(seed).permutation(len(patients))
    _, first = np.unique(np.asarray(patients)[order], return_index=True)
    return np.sort(order[first])
