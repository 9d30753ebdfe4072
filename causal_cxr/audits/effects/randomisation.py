"""Randomisation tests of paired effects: the sign of a patient's differences is a coin flip where nothing is done.

A patient's sign is shared by all its images and by all cells (concept x intervention), so that the dependence between
cells stays as it is. The statistic of a cell is studentised in its score form,

    T = |sum_g s_g| / sqrt(sum_g s_g^2),    s_g = sum of the differences of patient g,

whose denominator no flip changes: all draws of all cells are one matrix product, and T is a monotone function of the t
statistic where all patients have equally many images. Family-wise p-values are Westfall & Young's (1993) step-down max-T.
"""

from dataclasses import dataclass

import numpy as np

TIE = 1e-12  #: of T: a draw so close below the observed value is as extreme as it
DRAW_BLOCK, CELL_BLOCK = 1_024, 512  #: one block's 4 MB of statistics stay in the cache while they are counted


@dataclass(frozen=True)
class FlipTest:
    """A test of ``theta = 0`` in each of ``k`` cells.

    Attributes:
        statistic: ``(k,)`` T >= 0; 0 where no difference is other than 0, NaN where none is known.
        p: ``(k,)`` of the cell alone, ``(1 + b) / (1 + draws)``, two-sided; NaN where nothing is known.
        p_family: ``(k,)`` family-wise, step-down max-T; never below ``p``.
    """

    statistic: np.ndarray
    p: np.ndarray
    p_family: np.ndarray


def draw_signs(patients: int, draws: int, seed: int) -> np.ndarray:
    """``(draws, patients)`` int8 of -1 and 1: all the chance there is in a sign-flip test."""
    return np.random.default_rng(seed).integers(0, 2, (draws, patients), dtype=np.int8) * np.int8(2) - np.int8(1)


def signflip_test(
    differences: np.ndarray, patients: np.ndarray, *, draws: int = 10_000, seed: int = 0, signs: np.ndarray | None = None
) -> FlipTest:  # fmt: skip
    """Sign-flip test of many cells at once.

    Args:
        differences: ``(n, k)`` oriented paired differences; NaN (a rejected edit) adds nothing to its cell.
        patients: ``(n,)`` ids.
        draws: sign vectors.
        seed: of the signs.
        signs: ``(draws, patients)`` of -1 and 1 in the order of the sorted ids, in place of drawn ones.

    Raises:
        ValueError: shapes do not fit, a difference is infinite, or ``signs`` holds anything else.

    10,000 cells x 1,000 patients x 10,000 draws take 2e11 floating-point operations and hold the differences twice and
    10 MB of signs in memory.

    >>> test = signflip_test(np.array([[1.0, 1.0], [2.0, -1.0], [3.0, 1.0], [4.0, -1.0]]), np.arange(4), draws=999)
    >>> bool(test.p[0] < 0.16), float(test.p[1])
    (True, 1.0)
    """
    if differences.ndim != 2 or len(patients) != len(differences):
        raise ValueError(
            f"Need (n, k) differences and (n,) patients, got {differences.shape} and {np.shape(patients)}; "
            "give one patient id a row of differences."
        )
    if np.isinf(differences).any():
        raise ValueError("Some differences are infinite; scores lie in [0, 1], look at the reader.")
    ids, groups = np.unique(patients, return_inverse=True)
    sums, known = _patient_sums(differences, groups, len(ids))
    if signs is None:
        signs = draw_signs(len(ids), draws, seed)
    elif signs.ndim != 2 or signs.shape[1] != len(ids) or not (np.abs(signs) == 1).all():
        raise ValueError(f"Need (draws, {len(ids)}) signs of -1 and 1, got {signs.shape}; see draw_signs.")
    _standardise(sums)
    observed = np.abs(sums.sum(axis=0))
    alone, family = _exceeded(sums, observed, signs)
    unknown = ~known
    for values in (observed, alone, family):
        values[unknown] = np.nan
    return FlipTest(observed, alone, family)


def multiplier_max_t(
    statistic: np.ndarray, influence: np.ndarray, dof: np.ndarray, *, draws: int = 10_000, seed: int = 0
) -> np.ndarray:
    """``(k,)`` family-wise p of any estimates whose error is a sum over patients: the multiplier bootstrap of max-T.

    For what no sign flip of data may test: an adjusted effect, whose treatment is not to be permuted, or a null other
    than ``theta = 0``. The joint law of the cells is that of their influence values under Rademacher multipliers, one a
    patient (Chernozhukov, Chetverikov and Kato 2013); step-down as in :func:`signflip_test`.

    Args:
        statistic: ``(k,)`` t statistics, larger is further from the null: ``|theta| / se``; ``(|theta| - delta) / se``
            for "yes", ``(delta - |theta|) / se`` for "no" (for both the two-sided max is conservative). NaN is no member.
        influence: ``(G, k)`` what each patient adds to the estimates, about 0; its squares sum to ``se**2``.
        dof: ``(k,)`` of the t statistics; few make the same t tell less.
        draws, seed: of the multipliers.

    Raises:
        ValueError: shapes do not fit.
    """
    if influence.ndim != 2 or not len(statistic) == len(dof) == influence.shape[1]:
        raise ValueError(
            f"Need (k,) statistics and dof and (G, k) influences, got {statistic.shape}, {influence.shape}."
        )
    known = ~np.isnan(statistic)
    standard = influence[:, known].astype(float)
    _standardise(standard)
    t, df = statistic[known], dof[known]
    scored = t * np.sqrt((1 + 1 / df) / (1 + t**2 / df))  # what t is on the score form's scale
    p = np.full(len(statistic), np.nan)
    p[known] = _exceeded(standard, scored, draw_signs(len(influence), draws, seed))[1]
    return p


def _patient_sums(differences: np.ndarray, groups: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """``(count, k)`` sums over a patient's known differences; ``(k,)`` whether any is known."""
    order = np.argsort(groups, kind="stable")
    first = np.searchsorted(groups[order], np.arange(count))
    sums = np.empty((count, differences.shape[1]))
    known = np.empty(differences.shape[1], bool)
    for start in range(0, differences.shape[1], CELL_BLOCK):
        block = differences[order, start : start + CELL_BLOCK].astype(float)
        missing = np.isnan(block)
        block[missing] = 0.0
        known[start : start + CELL_BLOCK] = ~missing.all(axis=0)
        sums[:, start : start + CELL_BLOCK] = np.add.reduceat(block, first, axis=0)
    return sums, known


def _standardise(sums: np.ndarray) -> None:
    """Each column to length 1, in place; one that is 0 throughout stays so."""
    length = np.sqrt(np.einsum("gk,gk->k", sums, sums))
    sums /= np.where(length > 0, length, 1.0)


def _exceeded(standard: np.ndarray, observed: np.ndarray, signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p of each cell alone, and step-down max-T.

    Args:
        standard: ``(G, k)`` columns of length 1 or 0.
        observed: ``(k,)`` what the draws ``|signs @ standard|`` are held against.
        signs: ``(draws, G)``.
    """
    cells = standard.shape[1]
    ascending = np.argsort(observed, kind="stable")  # the family of a cell is itself and all that show less
    border = observed[ascending] - TIE
    own, family = np.zeros(cells, np.int64), np.zeros(cells, np.int64)
    largest = np.zeros(len(signs))
    for start in range(0, cells, CELL_BLOCK):
        part = slice(start, min(start + CELL_BLOCK, cells))
        columns = np.ascontiguousarray(standard[:, ascending[part]].T)
        for begin in range(0, len(signs), DRAW_BLOCK):
            rows = slice(begin, begin + DRAW_BLOCK)
            drawn = columns @ signs[rows].T.astype(float)  # (cells of the block, draws of the block)
            np.abs(drawn, out=drawn)
            own[part] += np.count_nonzero(drawn >= border[part, None], axis=1)
            np.maximum(drawn[0], largest[rows], out=drawn[0])
            np.maximum.accumulate(drawn, axis=0, out=drawn)
            family[part] += np.count_nonzero(drawn >= border[part, None], axis=1)
            largest[rows] = drawn[-1]
    alone, adjusted = np.empty(cells), np.empty(cells)
    alone[ascending] = (1 + own) / (1 + len(signs))
    stepped = (1 + family) / (1 + len(signs))
    adjusted[ascending] = np.maximum.accumulate(stepped[::-1])[::-1]  # the most significant first, never decreasing
    return alone, adjusted
