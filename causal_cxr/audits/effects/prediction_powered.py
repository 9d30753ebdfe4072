"""Effects on a concept that some images have labels for and all have scores of: prediction-powered, clustered by patient.

    estimate = weight x (effect on scores, unlabelled images) + effect on (label - weight x score), labelled images

is unbiased for the effect on the labels whatever the reader does, and with the weight that makes its error least (PPI++)
no worse than the labels alone (Angelopoulos et al. 2023: Science 382:669 and arXiv:2311.01453). The reader must not have
been fitted on these labels, and what is labelled must not hang on anything that moves the concept beyond the design.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import orth

from causal_cxr.audits.effects.effect import NOTHING, Effect
from causal_cxr.statistics.clustered import cluster_sums, cr2_weights, mean_influence, rests_on_one, satterthwaite


@dataclass(frozen=True)
class PredictionPowered:
    """What :func:`prediction_powered_effect` finds.

    Attributes:
        effect: on the scale of the labels: no slope is to be divided by.
        weight: of the scores, lambda; 0 = labels only, 1 = scores taken for labels before the correction.
        classical: from the labelled images alone.
        labelled: images with a label.
    """

    effect: Effect
    weight: float
    classical: Effect
    labelled: int


def prediction_powered_difference(
    labels: np.ndarray, scores: np.ndarray, treatment: np.ndarray, patients: np.ndarray, *, weight: float | None = None
) -> PredictionPowered:
    """Mean difference between treated and untreated images, unadjusted; arguments as below, ``treatment`` ``(n,)`` 0/1."""
    if not np.isin(treatment, (0, 1)).all():
        raise ValueError(f"The treatment must be 0/1, got {np.unique(treatment)[:4].tolist()}.")
    design = np.column_stack([np.ones(len(treatment)), treatment])
    low, high = np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]])
    return prediction_powered_effect(labels, scores, patients, design, low, high, weight=weight)


def prediction_powered_effect(
    labels: np.ndarray,
    scores: np.ndarray,
    patients: np.ndarray,
    design: np.ndarray,
    design_low: np.ndarray,
    design_high: np.ndarray,
    standard_patients: np.ndarray | None = None,
    *,
    weight: float | None = None,
) -> PredictionPowered:
    """Standardised effect on one concept by least squares, prediction-powered.

    Args:
        labels: ``(n,)`` of the concept; NaN where there is none.
        scores: ``(n,)`` of all images.
        patients: ``(n,)`` ids; a patient may have images of both kinds.
        design: ``(n, p)``; a column of ones alone, with ``design_low`` 0 and ``design_high`` 1, gives the mean label.
        design_low, design_high: ``(m, p)`` of the standardisation sample with the treatment set to a0 and a1.
        standard_patients: ``(m,)`` ids of that sample, among ``patients``. With them the error is that of the effect in
            the population; without, of the effect in just these ``m`` images.
        weight: of the scores; ``None`` = what makes the clustered error least, no less than 0. It may be over 1 where the
            reader's slope is under 1.

    Returns:
        weight 0 gives :func:`~causal_cxr.audits.effects.g_computation` of the labelled images exactly (CR2 error,
        Satterthwaite's degrees of freedom, which stay those of the labelled patients); no estimate with fewer than 3.

    Raises:
        ValueError: shapes do not fit, a score is not finite, or the images of one kind cannot tell the effect (a level of
            treatment or covariate is not among them, or of one patient alone).
    """
    shapes = [np.shape(x) for x in (labels, scores, patients, design)]
    if design.ndim != 2 or len({shape[0] for shape in shapes}) > 1 or labels.ndim != 1 or scores.ndim != 1:
        raise ValueError(f"Need (n,) labels, scores and patients and (n, p) design, got {shapes}.")
    if not np.isfinite(scores).all():
        raise ValueError("Some scores are not finite; every image must have been read.")
    ids, groups = np.unique(patients, return_inverse=True)
    labelled = ~np.isnan(labels)
    if len(np.unique(groups[labelled])) < 3:
        return PredictionPowered(NOTHING, 0.0, NOTHING, int(labelled.sum()))
    change = design_high - design_low
    mean_change = change.mean(axis=0)

    known = _Linear.fit(
        "labelled",
        np.column_stack([labels, scores])[labelled],
        design[labelled],
        mean_change,
        groups[labelled],
        len(ids),
    )
    value, influence, coefficients = known.value[0], known.influence[:, 0], known.coefficients[:, 0]
    moved, lever, turned = -known.value[1], -known.influence[:, 1], -known.coefficients[:, 1]
    if labelled.all():
        weight = 0.0
    else:
        rest = _Linear.fit(
            "unlabelled", scores[~labelled, None], design[~labelled], mean_change, groups[~labelled], len(ids)
        )
        moved, lever = moved + rest.value[0], lever + rest.influence[:, 0]
        turned = turned + rest.coefficients[:, 0]
    if weight is None:
        size = float(lever @ lever)
        weight = max(0.0, -float(lever @ influence) / size) if size > 0 else 0.0

    between: np.ndarray | float = 0.0
    if standard_patients is not None:
        if not np.isin(standard_patients, ids).all():
            raise ValueError(
                "Some standard_patients are not among patients; standardise to images of the same patients."
            )
        spread, _ = mean_influence(change - mean_change, np.searchsorted(ids, standard_patients), len(ids))
        between = spread @ (coefficients + weight * turned)

    def effect(value: float, influence: np.ndarray, images: int, count: int) -> Effect:
        return Effect(float(value), float(max(np.sqrt(influence @ influence), 1e-12)), known.dof, images, count)

    powered = effect(value + weight * moved, influence + weight * lever + between, len(labels), len(ids))
    classical = effect(value, influence, int(labelled.sum()), len(np.unique(groups[labelled])))
    return PredictionPowered(powered, float(weight), classical, int(labelled.sum()))


@dataclass(frozen=True)
class _Linear:
    """Linear combinations of least-squares coefficients, one an outcome, and what each patient adds to them (CR2)."""

    value: np.ndarray  #: (k,)
    influence: np.ndarray  #: (G, k)
    coefficients: np.ndarray  #: (p, k)
    dof: float

    @staticmethod
    def fit(
        kind: str, outcomes: np.ndarray, design: np.ndarray, combination: np.ndarray, groups: np.ndarray, count: int
    ) -> "_Linear":
        inverse = np.linalg.pinv(design)
        if np.abs(design.T @ (inverse.T @ combination) - combination).max() > 1e-8 * max(
            np.abs(combination).max(), 1.0
        ):
            raise ValueError(
                f"The {kind} images cannot tell the effect: a level or covariate does not vary among them."
            )
        basis = orth(design)
        row = inverse.T @ combination
        reduced, lone = cr2_weights(basis, groups)
        if rests_on_one(basis.T @ row, lone):
            raise ValueError(f"The {kind} images cannot tell the effect's error: a level is in one patient's alone.")
        weights = (reduced @ (basis.T @ row))[:, None]
        residuals = outcomes - basis @ (basis.T @ outcomes)
        own, shared = (cluster_sums(weights * x, groups, count) for x in (weights, basis))
        there = np.bincount(groups, minlength=count) > 0
        return _Linear(
            row @ outcomes,
            cluster_sums(weights * residuals, groups, count),
            inverse @ outcomes,
            satterthwaite(own[there, 0], shared[there]),
        )
