"""Does an editor hand out its training patients? A copy test: are its images nearer to fitted patients than to held-out ones?

Diffusion models reproduce training images (Carlini et al., USENIX Security 2023), those of small medical sets too (Dar et
al., 2023, arXiv:2307.01148). Two questions are asked, as one can be answered where the other cannot. *Pull*: patients are
dealt to the fitted and the held-out side by chance, so an image that owes nothing to the fitted ones is as near to either
side; permuting the deal tests that exactly. *Copies*: an image that is far nearer to one fitted patient than to the next ones
is a copy; how often real images of other patients are is the yardstick.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from causal_cxr.audits.effects import clustered_share

NEXT = 20  #: fitted patients, beyond the nearest, whose mean distance is the yardstick of nearness
RATE = 0.01  #: share of real held-out images that count as nearer than usual


@dataclass(frozen=True)
class CopyTest:
    """What a copy test found.

    Attributes:
        ratio: geometric mean over the images of d(image, nearest fitted) / d(image, nearest held-out), over what it is
            when patients are dealt to the sides anew; 1 = no pull, less = nearer to the fitted.
        low, high: its 95% interval: the images' groups resampled, the patients dealt anew.
        p_value: one-sided, of "no pull", by permutation of patients between the sides.
        copies: share of the images that are copies; ``copies_low`` and ``copies_high`` its 95% interval, groups as clusters
            (:func:`causal_cxr.audits.effects.clustered_share`): that none was seen proves no rate of 0. NaN for fewer than three.
        expected: the share of real held-out images that the same rule calls copies.
        nearest: ``(n,)`` for each image the index of the nearest fitted image.
        is_copy: ``(n,)`` bool.
        n: images.
    """

    ratio: float
    low: float
    high: float
    p_value: float
    copies: float
    copies_low: float
    copies_high: float
    expected: float
    nearest: np.ndarray
    is_copy: np.ndarray
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, without the images' own."""
        return {
            "ratio": [round(v, 4) for v in (self.ratio, self.low, self.high)],
            "p_value": round(self.p_value, 5),
            "copies": [round(v, 4) for v in (self.copies, self.copies_low, self.copies_high)],
            "expected_copies": round(self.expected, 4),
            "images": self.n,
        }


def copy_test(
    made: np.ndarray,
    fitted: np.ndarray,
    held_out: np.ndarray,
    *,
    fitted_patients: np.ndarray,
    held_out_patients: np.ndarray,
    groups: np.ndarray | None = None,
    permutations: int = 999,
    resamples: int = 1_999,
    seed: int = 0,
) -> CopyTest:
    """Compare made images with the patients they may be copies of, and with patients they cannot be.

    Distances are Euclidean, in whatever features are given. Sides may differ in size: what that does to the nearest of
    them, the permutations show.

    Args:
        made: ``(n, d)`` features of samples or edits.
        fitted: ``(m, d)`` of the images that the editor was fitted on.
        held_out: ``(k, d)`` of images of other patients, drawn from all patients as the fitted were. The made images must
            owe nothing to them: no edit of a held-out patient is among ``made``.
        fitted_patients, held_out_patients: ``(m,)`` and ``(k,)`` ids.
        groups: ``(n,)`` of made images that belong together, such as the edits of one patient; each its own unless given.
        permutations: of patients between the sides.
        resamples: of groups.
        seed: of both.

    Raises:
        ValueError: a patient is on both sides, or a side has fewer than two.
    """
    both = set(map(str, fitted_patients)) & set(map(str, held_out_patients))
    if both:
        raise ValueError(f"Patients {sorted(both)[:5]} are on both sides; split by patient.")
    names = np.concatenate([np.asarray(fitted_patients).astype(str), np.asarray(held_out_patients).astype(str)])
    whose, patients = pd.factorize(names)
    is_fitted = np.zeros(len(patients), dtype=bool)
    is_fitted[whose[: len(fitted)]] = True
    if min(is_fitted.sum(), (~is_fitted).sum()) < 2:
        raise ValueError("A copy test needs two patients or more on either side.")
    distance = _by_patient(cdist(made, np.concatenate([fitted, held_out])), whose, len(patients))
    floor = 1e-3 * np.median(distance)  # a perfect copy is a thousand times nearer, no more: its logarithm stays finite
    logs = np.log(np.maximum(distance, floor))

    def ratios(side: np.ndarray) -> np.ndarray:
        return logs[:, side].min(1) - logs[:, ~side].min(1)

    rng = np.random.default_rng(seed)
    observed = ratios(is_fitted)
    dealt = np.array([ratios(rng.permutation(is_fitted)).mean() for _ in range(permutations)])
    p_value = (1 + np.sum(dealt <= observed.mean())) / (1 + permutations)
    groups = np.arange(len(made)) if groups is None else groups

    # Held-out images are held to the same rule; they are nearer to none of the fitted patients than chance has it.
    yardstick = _nearness(_by_patient(cdist(held_out, fitted), whose[: len(fitted)], len(patients))[:, is_fitted])
    bar = np.quantile(yardstick, RATE)
    is_copy = _nearness(distance[:, is_fitted]) < bar
    drawn = resampled_means(observed[:, None], groups, resamples, rng)[:, 0]
    low, high = np.quantile(np.exp(drawn - rng.choice(dealt, resamples)), [0.025, 0.975])
    copies = clustered_share(is_copy, groups)
    return CopyTest(
        ratio=float(np.exp(observed.mean() - dealt.mean())), low=float(low), high=float(high), p_value=float(p_value),
        copies=copies.value, copies_low=copies.low, copies_high=copies.high,
        expected=float((yardstick < bar).mean()), nearest=cdist(made, fitted).argmin(1), is_copy=is_copy, n=len(made),
    )  # fmt: skip


def _by_patient(distance: np.ndarray, whose: np.ndarray, count: int) -> np.ndarray:
    """``(n, count)``, of each patient's nearest image; infinite for patients without one."""
    nearest = np.full((count, len(distance)), np.inf)
    np.minimum.at(nearest, whose, distance.T)
    return nearest.T


def _nearness(distance: np.ndarray) -> np.ndarray:
    """Distance to the nearest patient over the mean of those to the next (Carlini et al., 2023, section 5.1); low for copies."""
    ordered = np.sort(distance, axis=1)[:, : NEXT + 1]
    return ordered[:, 0] / np.maximum(ordered[:, 1:].mean(1), 1e-12)


def resampled_means(values: np.ndarray, groups: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """``(draws, k)`` means of ``(n, k)`` values, whole groups, such as patients, drawn with replacement."""
    codes, unique = pd.factorize(np.asarray(groups))
    sums = np.zeros((len(unique), values.shape[1]))
    np.add.at(sums, codes, values)
    counts = np.bincount(codes)
    picked = rng.integers(0, len(unique), (draws, len(unique)))
    return sums[picked].sum(1) / counts[picked].sum(1)[:, None]
