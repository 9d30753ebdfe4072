"""Randomisation tests of paired effects: the sign of a patient's differences is a coin flip where nothing is done."""

import numpy as np


def signflip_max_t(differences: np.ndarray, patients: np.ndarray, *, draws: int = 2_000, seed: int = 0) -> np.ndarray:
    """Family-wise p of ``theta = 0`` for many cells: one sign a patient, shared by all cells, max-T.

    Args:
        differences: ``(n, k)`` oriented paired differences.
        patients: ``(n,)`` ids.
        draws: sign vectors.
        seed: of the signs.

    Returns:
        ``(k,)`` p-values ``(1 + b) / (1 + draws)``.
    """
    groups = np.unique(patients, return_inverse=True)[1]
    count = int(groups.max()) + 1
    sums = np.zeros((count, differences.shape[1]))
    np.add.at(sums, groups, differences)
    scale = np.sqrt((sums**2).sum(axis=0))
    scale[scale == 0] = np.inf
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, count))
    null = np.abs(signs @ (sums / scale)).max(axis=1)
    observed = np.abs((sums / scale).sum(axis=0))
    return (1 + (null[:, None] >= observed - 1e-12).sum(axis=0)) / (1 + draws)
