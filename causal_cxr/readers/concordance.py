"""AUROC and its relatives as pure functions of arrays, with patient-clustered errors in closed form.

A :class:`Concordance` is the probability that a present image scores above an absent one: of any two images (AUROC), of two
of the same stratum (stratified AUROC), or of two of the same patient, where the patients are the strata. :func:`slope` is
by how much it scores above.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

Z = 1.959963984540054  #: of 95% intervals
BINS = 10  #: of the calibration error, equally many images each


@dataclass(frozen=True)
class Concordance:
    """P(score of a present image > that of an absent one), ties counting half.

    Attributes:
        value: in [0, 1]; NaN where no pair can be compared.
        variance: patient-clustered (Obuchowski 1997; DeLong's, 1988, where each patient has one image); NaN with fewer than
            two patients of a kind.
        influence: ``(groups,)`` what each patient adds to ``value - E[value]``, for differences of two concordances.
        pairs: present-absent pairs that were compared.
        trials: independent trials that a perfect score is worth: ``sum 4 P Q / (P + Q + 2)`` over strata with P patients
            present and Q absent, from the variance of the AUROC as it goes to 1 (Newcombe 2006), no more than over all strata
            together; with patients as strata, their number.
    """

    value: float
    variance: float
    influence: np.ndarray
    pairs: int
    trials: float

    @property
    def least_variance(self) -> float:
        """See :func:`least_variance`."""
        return least_variance(self.trials)

    def interval(self) -> tuple[float, float]:
        """95%, see :func:`wilson`."""
        return wilson(self.value, self.variance, self.trials)


def least_variance(trials: float) -> float:
    """Where scores (nearly) separate, the estimated variance goes to 0, which proves nothing: as of one trial gone wrong."""
    share = 1 / (trials + 2)
    return share * (1 - share) / trials if trials else float("nan")


def wilson(value: float, variance: float, trials: float) -> tuple[float, float]:
    """95% of a mean in [0, 1]: Wilson's, at the number of independent trials of the same variance (Korn & Graubard 1998).

    Args:
        value: the mean.
        variance: its estimated variance; NaN: nothing is known.
        trials: independent trials at most, see :func:`least_variance`.
    """
    if not variance >= 0:
        return float("nan"), float("nan")
    share = 1 / (trials + 2)
    inside = float(np.clip(value, share, 1 - share))
    n = inside * (1 - inside) / max(variance, least_variance(trials))
    centre = (value + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * np.sqrt(value * (1 - value) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def concordance(
    scores: np.ndarray,
    present: np.ndarray,
    groups: np.ndarray,
    strata: np.ndarray | None = None,
    *,
    van_elteren: bool = False,
) -> Concordance:
    """How often a present image scores above an absent one of the same stratum.

    Args:
        scores: ``(n,)``.
        present: ``(n,)`` bool.
        groups: ``(n,)`` patient numbers from 0.
        strata: ``(n,)`` numbers from 0; one stratum unless given.
        van_elteren: weigh the pairs of a stratum by 1 / its images (van Elteren 1960), so that strata with many images do not
            decide alone; pairs weigh the same unless set.

    Variance: Obuchowski, Biometrics 1997;53:567, on structural components summed within patients, for a ratio of U-statistics
    where there are several strata; where each stratum is of one patient, of the ratio of sums over patients.

    >>> one_each = np.arange(4)
    >>> concordance(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]), one_each).value
    0.75
    """
    present = np.asarray(present, dtype=bool)
    count = int(groups.max()) + 1 if len(groups) else 0
    stratum = np.zeros(len(scores), dtype=np.int64) if strata is None else np.asarray(strata, dtype=np.int64)
    n1, n0 = (np.bincount(stratum[kind], minlength=stratum.max(initial=0) + 1) for kind in (present, ~present))
    pairs = int((n1 * n0).sum())
    if not pairs:
        return Concordance(float("nan"), float("nan"), np.zeros(count), 0, 0.0)

    # Images that tie share a cell; cells are in order of stratum, then score.
    order = np.argsort(scores) if strata is None else np.lexsort((scores, stratum))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(scores[order]) != 0) | (np.diff(stratum[order]) != 0)
    cell = np.empty(len(order), dtype=np.int64)
    cell[order] = np.cumsum(new) - 1
    first = np.searchsorted(stratum[order][new], np.arange(len(n1)))  # cell at which each stratum begins
    ones, zeros = (np.bincount(cell[kind], minlength=int(new.sum())) for kind in (present, ~present))
    before = {name: np.concatenate([[0], np.cumsum(c)]) for name, c in (("ones", ones), ("zeros", zeros))}
    below: np.ndarray = (
        before["zeros"][cell] - before["zeros"][first[stratum]] + zeros[cell] / 2
    )  # absent ones that score less
    above = n1[stratum] - (before["ones"][cell] - before["ones"][first[stratum]]) - ones[cell] / 2
    weight = 1 / np.maximum(n1 + n0, 1) if van_elteren else np.ones(len(n1))
    total = (weight * n1 * n0).sum()
    value = float((weight[stratum] * below)[present].sum() / total)

    part = weight[stratum] * np.where(present, below - value * n0[stratum], above - value * n1[stratum]) / total
    sums = [np.bincount(groups[kind], weights=part[kind], minlength=count) for kind in (present, ~present)]
    compared = (n1 * n0)[stratum] > 0
    has = [np.bincount(groups[kind & compared], minlength=count) > 0 for kind in (present, ~present)]
    who, everyone = [int(kind.sum()) for kind in has], int((has[0] | has[1]).sum())
    trials = _trials(*(np.array([m]) for m in who)).sum()
    nested = False
    if strata is not None:
        keys = [np.unique(stratum[k & compared] * count + groups[k & compared]) for k in (present, ~present)]
        # A patient in several strata is no several patients.
        trials = min(trials, _trials(*(np.bincount(key // count, minlength=len(n1)) for key in keys)).sum())
        nested = len(np.union1d(*keys)) == int((n1 * n0 > 0).sum())
    if nested:  # both images of every pair are one patient's: what they add is added once
        influence = sums[0]
        variance = everyone / (everyone - 1) * float((influence**2).sum()) if everyone > 1 else float("nan")
        return Concordance(value, variance, influence, pairs, float(trials))
    variance = float("nan")
    if min(who) > 1:
        squares = sum(m / (m - 1) * (part**2).sum() for m, part in zip(who, sums, strict=True))
        variance = float(max(squares + 2 * everyone / (everyone - 1) * (sums[0] * sums[1]).sum(), 0.0))
    return Concordance(value, variance, sums[0] + sums[1], pairs, float(trials))


def _trials(present: np.ndarray, absent: np.ndarray) -> np.ndarray:
    """See :attr:`Concordance.trials`; of so many patients."""
    return 4 * present * absent / (present + absent + 2)


def clustered_error(influence: np.ndarray, groups: np.ndarray) -> float:
    """Standard error of what sums ``(n,)`` influences of images, images of a patient together (``G / (G - 1)`` corrected)."""
    sums = np.bincount(groups, weights=influence)[np.unique(groups)]
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum())) if len(sums) > 1 else float("nan")


def slope(scores: np.ndarray, present: np.ndarray, groups: np.ndarray) -> tuple[float, float, float, float]:
    """``J = E[score | present] - E[score | absent]``, its error and its 95% interval.

    Each mean has its :func:`wilson` interval, of as many trials as there are patients, so that scores which separate a few
    patients prove no perfect reader; the two are put together as Newcombe (1998) does, less the covariance of images of one
    patient (Zou & Donner 2008). A quantile of Student's t, as patients are few, by Welch and Satterthwaite.

    Args:
        scores: ``(n,)`` in [0, 1].
        present: ``(n,)`` bool.
        groups: ``(n,)`` patient numbers from 0.

    Returns:
        slope; standard error, the root mean square of how far the interval reaches down and up, in units of a normal's;
        low and high. All but the slope NaN with fewer than two patients of a kind.

    >>> found = slope(np.repeat([1.0, 0.0], 10), np.repeat([True, False], 10), np.arange(20))
    >>> [round(float(value), 2) for value in found]
    [1.0, 0.14, 0.61, 1.0]
    """
    kinds = present, ~present
    means = [float(scores[kind].mean()) for kind in kinds]
    gap = means[0] - means[1]
    # What each patient adds to each mean.
    parts = [
        np.bincount(groups[kind], weights=(scores[kind] - mean) / kind.sum(), minlength=int(groups.max()) + 1)
        for kind, mean in zip(kinds, means, strict=True)
    ]
    who = np.array([len(np.unique(groups[kind])) for kind in kinds])
    everyone = len(np.unique(groups))
    if who.min() < 2:
        return gap, float("nan"), float("nan"), float("nan")
    variances = who / (who - 1) * [(part**2).sum() for part in parts]
    covariance = everyone / (everyone - 1) * float((parts[0] * parts[1]).sum())
    freedom = variances.sum() ** 2 / max((variances**2 / (who - 1)).sum(), np.finfo(float).tiny)
    # No more than there are patients: those with images of both kinds count once.
    few = (stats.t.isf(0.025, np.clip(freedom, 1, everyone - 1)) / Z) ** 2
    known = few * variances
    limits = np.array([wilson(*told) for told in zip(means, known, who, strict=True)])
    floored = np.maximum(known, [least_variance(n) for n in who])
    shared = float(np.clip(few * covariance / np.sqrt(floored.prod()), -1, 1))

    def reach(first: float, second: float) -> float:
        return float(np.sqrt(max(first**2 + second**2 - 2 * shared * first * second, 0.0)))

    down = reach(means[0] - limits[0, 0], limits[1, 1] - means[1])
    up = reach(limits[0, 1] - means[0], means[1] - limits[1, 0])
    return gap, float(np.hypot(down, up) / np.sqrt(2) / Z), gap - down, gap + up


def auroc(scores: np.ndarray, present: np.ndarray) -> float:
    """Probability that a present case scores above an absent one, ties counting half; NaN without both.

    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    present = np.asarray(present, dtype=bool)
    n1, n0 = int(present.sum()), int((~present).sum())
    if not n1 or not n0:
        return float("nan")
    return float((stats.rankdata(scores)[present].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def calibration_error(scores: np.ndarray, truth: np.ndarray) -> float:
    """``E|P(present | score) - score|`` in bins of equally many images (ECE; Naeini et al., AAAI 2015), see :func:`bin_gaps`.

    Args:
        scores: ``(n,)`` in [0, 1].
        truth: ``(n,)`` 0/1.
    """
    gaps = bin_gaps(scores, truth)
    return float(np.abs(gaps.sum(axis=0)).sum() / len(scores))


def calibration_interval(
    scores: np.ndarray, truth: np.ndarray, groups: np.ndarray, *, seed: int = 0
) -> tuple[float, float]:
    """95% of the calibration error; holds also near 0, where a bootstrap's does not.

    In a bin the gap's size is its product with its sign. With the sign seen in the same images noise always adds to it, so
    this estimate lies high: from it the upper end is taken. With the sign seen in the *other* half of the patients it errs
    to the low side only: from it the lower end. Given the signs both are means, with a patient-clustered error. (Each half
    serves the other, so where signs are by chance the variance of the second is ``1 + 2 / pi`` times as large.) Neither end is
    surer than Wilson's (1927) of as many trials as there are patients.

    Args:
        scores, truth: ``(n,)``.
        groups: ``(n,)`` patient numbers from 0.
        seed: deals patients to halves.

    >>> low, high = calibration_interval(np.full(400, 0.5), np.arange(400) % 2, np.arange(400))
    >>> low, 0 < high < 0.1
    (0.0, True)
    """
    _, who = np.unique(groups, return_inverse=True)
    gaps, n = bin_gaps(scores, truth), len(scores)
    half = (np.random.default_rng(seed).permutation(int(who.max()) + 1) % 2)[who]
    other = _sign(np.stack([gaps[half == 1].sum(axis=0), gaps[half == 0].sum(axis=0)]))
    crossed, same = (gaps * other[half]).sum(axis=1), (gaps * _sign(gaps.sum(axis=0))).sum(axis=1)
    low, high = (
        part.mean() + z * clustered_error((part - part.mean()) / n, who)
        for part, z in ((crossed, -Z * np.sqrt(1 + 2 / np.pi)), (same, Z))
    )
    # Rare faults show less of a spread than they have, and none where by chance there was none: a mean over so many patients
    # is no surer than a share of as many trials.
    patients = int(who.max()) + 1
    shares = np.clip([crossed.mean(), same.mean()], 0, 1)
    trials = [wilson(float(share), share * (1 - share) / patients, patients) for share in shares]
    return float(max(min(low, trials[0][0]), 0.0)), float(min(max(high, trials[1][1]), 1.0))


def bin_gaps(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``(n, BINS)``: score less truth, in the column of the image's bin.

    Bins are of equally many images as far as ties allow: images of one score are in one bin, that of their middle rank, for
    if they were cut in the order of the rows, the error would depend on that order.
    """
    gaps = np.zeros((len(scores), BINS))
    rank = stats.rankdata(scores) - 0.5  # in (0, n)
    bins = (rank * BINS / max(len(scores), 1)).astype(int)
    gaps[np.arange(len(scores)), bins] = scores - truth
    return gaps


def _sign(values: np.ndarray) -> np.ndarray:
    """+1 or -1; a gap of exactly 0 is as uncertain as another."""
    return np.where(values >= 0, 1.0, -1.0)
