"""Does a reader see the concept, or whom it looks at? Asked of several images of one patient.

Between patients a concept goes with much else: age, disease, build, a ward's habits. Two images of one patient share nearly
all of that. A reader whose AUROC over all images is high, and within patients near 0.5, has read the patient.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.concordance import clustered_error, concordance
from causal_cxr.readers.quality import MIN_PATIENTS, check_scores, check_truth

BLIND = 0.6  #: a reader whose within-patient AUROC lies wholly below is called blind
COLUMNS = ("concept", "auroc", "within", "within_low", "within_high", "slope", "within_slope", "within_slope_low",
           "within_slope_high", "separation", "separation_low", "separation_high", "pairs", "same_pairs", "patients",
           "verdict")  # fmt: skip


def within_patients(
    scores: np.ndarray, truth: np.ndarray, patients: pd.Series | np.ndarray, concepts: Sequence[Concept]
) -> pd.DataFrame:
    """What is left of a reader where it compares images of one patient.

    Args:
        scores: ``(n, k)`` in [0, 1], by a reader that was fitted on none of these patients, or that is cross-fitted by them
            (:func:`~causal_cxr.readers.judging.read_rows`).
        truth: ``(n, k)`` 1 / 0 / NaN unknown.
        patients: ``(n,)`` ids.
        concepts: the ``k`` columns.

    Returns:
        one row a concept, 95% intervals patient-clustered: ``auroc`` of all images; ``within``, P(the image with the concept
        scores above that without) over pairs of one patient that differ in it; ``slope`` (E[score | present] - E[score |
        absent]) of all images and ``within_slope`` with a patient's mean taken off score and concept (fixed effects);
        ``separation``, the AUROC of ``|score difference|`` between pairs of one patient that differ and pairs that do not:
        at 0.5 the reader is as unsteady where nothing changed. ``pairs`` that differ, ``same_pairs`` that do not, and
        ``patients`` who have pairs that differ. ``verdict``: ``blind``, ``within`` lies below :data:`BLIND`; ``sees``, it
        lies above 0.5; ``undecided``; or ``unknown: 7 pairs of 4 patients``, under :data:`~causal_cxr.readers.quality.MIN_PATIENTS`, where only counts are
        given. In ``within`` a pair weighs 1 / its patient's images, so that no
        patient with many decides alone.

    Raises:
        ValueError: see :func:`~causal_cxr.readers.quality.check_scores`, :func:`~causal_cxr.readers.quality.check_truth`.

    >>> rng = np.random.default_rng(0)
    >>> patients, truth = np.arange(80) // 2, np.arange(80) % 2.0
    >>> identity = rng.uniform(size=40)[patients]  # of whoever it is, the same in both images
    >>> found = within_patients(np.column_stack([identity, identity + truth]) / 2, np.column_stack([truth, truth]), patients, [
    ...     Concept("a", ("a",), ("no a",)), Concept("b", ("b",), ("no b",))])
    >>> found["verdict"].tolist()
    ['blind', 'sees']
    """
    scores, truth, names = (np.asarray(scores, dtype=float), np.asarray(truth, dtype=float), [c.name for c in concepts])
    check_scores(scores, names)
    check_truth(truth, names)
    group = pd.factorize(np.asarray(patients))[0]
    rows = []
    for j, name in enumerate(names):
        known = ~np.isnan(truth[:, j])
        rows.append([name, *_of_one(scores[known, j], truth[known, j] == 1, group[known])])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _of_one(s: np.ndarray, present: np.ndarray, g: np.ndarray) -> list[float | int | str]:
    within = concordance(s, present, g, strata=g, van_elteren=True)
    first, second = _pairs(g)
    differ = present[first] != present[second]
    same, informative = int((~differ).sum()), len(np.unique(g[first[differ]]))
    if informative < MIN_PATIENTS:
        unknown = f"unknown: {within.pairs} pairs of {informative} patients"
        return [*[float("nan")] * 11, within.pairs, same, informative, unknown]
    low, high = within.interval()
    steady = concordance(np.abs(s[first] - s[second]), differ, g[first])
    verdict = "blind" if high < BLIND else "sees" if low > 0.5 else "undecided"
    return [concordance(s, present, g).value, within.value, low, high, float(s[present].mean() - s[~present].mean()),
            *_within_slope(s, present, g), steady.value, *steady.interval(), within.pairs, same, informative,
            verdict]  # fmt: skip


def _within_slope(s: np.ndarray, present: np.ndarray, g: np.ndarray) -> tuple[float, float, float]:
    """Fixed-effects slope with a patient-clustered interval (Arellano 1987), Student's of the patients who tell anything of it."""
    count = np.bincount(g)
    u = present.astype(float)
    u, y = (value - (np.bincount(g, weights=value) / np.maximum(count, 1))[g] for value in (u, s))
    slope = float(u @ y / (u @ u))
    told = u != 0  # patients whose images are all alike say nothing
    quantile = stats.t.ppf(0.975, len(np.unique(g[told])) - 1)
    half = float(quantile * clustered_error((u * (y - slope * u) / (u @ u))[told], g[told]))
    return slope, slope - half, slope + half


def _pairs(g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the two images of every pair of one patient, each pair once."""
    order = np.argsort(g, kind="stable")
    starts = np.flatnonzero(np.diff(g[order], prepend=-1))
    first, second = [], []
    for start, stop in zip(starts, np.append(starts, len(g))[1:], strict=True):  # none without images
        i, j = np.triu_indices(stop - start, k=1)
        first.append(order[start + i])
        second.append(order[start + j])
    empty = np.empty(0, dtype=np.int64)
    return np.concatenate([empty, *first]), np.concatenate([empty, *second])
