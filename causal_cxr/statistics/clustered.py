"""Errors of means, contrasts and coefficients whose images are clustered by patient: CR2, with Satterthwaite's degrees of freedom.

Few patients, and patients of unequally many images, make the usual clustered error too small. So the error here is the
bias-reduced CR2 (Bell & McCaffrey 2002), and t has the Satterthwaite degrees of freedom that go with it (Pustejovsky &
Tipton 2018); ``benchmarks/results/calibration.md`` shows how often that is right.
"""

from typing import NamedTuple

import numpy as np

LONE = 0.5  #: of a contrast's variance, were all errors equal: how much may hang on what one patient alone decides


def mean_influence(deviations: np.ndarray, groups: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """``(count, k)`` what each patient adds to means, CR2; its squares sum to the variance. And the dof of that sum.

    Args:
        deviations: ``(n, k)`` from the means.
        groups: ``(n,)`` patient numbers below ``count``; a patient without rows adds nothing.
        count: patients.
    """
    n = len(deviations)
    share = np.bincount(groups, minlength=count) / n
    influence = cluster_sums(deviations, groups, count) / (n * np.sqrt(1 - share))[:, None]
    weight = share / (1 - share)  # a'a of each patient, times n
    return influence, satterthwaite(weight, (np.sqrt(share * weight))[:, None])


def satterthwaite(own: np.ndarray, shared: np.ndarray) -> float:
    """Degrees of freedom ``tr(P)^2 / tr(P^2)`` of a CR2 variance, with ``P = diag(own) - shared shared'``.

    ``P`` is the variance's quadratic form in independent errors, a row a patient: ``own`` is ``(G,)``, ``shared``
    ``(G, p)``. It is never built.
    """
    square = (shared**2).sum(axis=1)
    trace = (own - square).sum()
    norm = (own**2 - 2 * own * square).sum() + ((shared.T @ shared) ** 2).sum()
    return float(trace**2 / norm) if norm > 0 else float(len(own) - 1)


def cluster_sums(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """``(count, k)`` sums of ``(n, k)`` values within groups."""
    return np.column_stack([np.bincount(groups, weights=column, minlength=count) for column in values.T])


def cr2_weights(basis: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(n, r)`` weights of the residuals, ``(I - H_g)^(-1/2) Q_g``; and ``(r, r)`` what single patients decide.

    By batches of patients with equally many images.

    Args:
        basis: ``(n, r)`` orthonormal columns Q; ``H_g = Q_g Q_g'`` is a patient's leverage.
        groups: ``(n,)``.

    Returns:
        the weights, and the sum of ``v v'`` over the directions v of coefficients that one patient alone decides: there his
        residual is 0 whatever the error, so that the weights' variance says nothing of it.
    """
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)[groups[order]]
    weights, lone = np.empty_like(basis), np.zeros((basis.shape[1], basis.shape[1]))
    for size in np.unique(sizes):
        rows = order[sizes == size].reshape(-1, size)
        left, S, right = np.linalg.svd(basis[rows], full_matrices=False)
        room = 1 - S**2
        alone = room <= 1e-10
        grown = np.where(alone, 0.0, S / np.sqrt(np.maximum(room, 1e-10)))
        weights[rows] = (left * grown[:, None]) @ right
        directions = right[alone]
        lone += directions.T @ directions
    return weights, lone


def rests_on_one(contrast: np.ndarray, lone: np.ndarray) -> bool:
    """Whether more than :data:`LONE` of a contrast's variance cannot be seen, as where only one patient has a level.

    Args:
        contrast: ``(r,)`` of coefficients of the orthonormal columns that :func:`cr2_weights` was given.
        lone: ``(r, r)``, of the same.
    """
    return bool(contrast @ lone @ contrast > LONE * (contrast @ contrast))


class Coefficient(NamedTuple):
    """Of least squares.

    Attributes:
        value: the coefficient.
        variance: CR2, clustered by patients: a patient who stands out in what is asked about pulls the fit to their own images,
            so that their residuals are too small; each patient's are put right by their leverage.
        freedom: Satterthwaite's degrees of freedom of that variance: near the number of patients whom the coefficient hangs
            on, however many others there are.
        weights: ``(n,)`` ``value`` is the sum of these times the outcomes.
    """

    value: float
    variance: float
    freedom: float
    weights: np.ndarray


def clustered_coefficient(outcome: np.ndarray, design: np.ndarray, groups: np.ndarray, column: int) -> Coefficient:
    """A coefficient of the regression of an outcome on a design, images of a patient together.

    Args:
        outcome: ``(n,)``.
        design: ``(n, p)``, of rank ``p`` also without any one patient.
        groups: ``(n,)`` patient numbers.
        column: of the design.

    With one image a patient the variance is HC2 (MacKinnon & White 1985):

    >>> found = clustered_coefficient(np.array([0.0, 1.0, 1.0, 4.0]), np.array([[1, 0], [1, 0], [1, 1], [1, 1]]), np.arange(4), 1)
    >>> round(found.value, 6), round(found.variance, 6), round(found.freedom, 6)
    (2.0, 2.5, 2.0)
    """
    who = np.unique(groups, return_inverse=True)[1]
    count = int(who.max()) + 1
    basis, triangle = np.linalg.qr(design)
    asked = np.linalg.solve(triangle.T, np.eye(design.shape[1])[column])
    weights = basis @ asked
    corrected = cr2_weights(basis, who)[0] @ asked
    residuals = outcome - basis @ (basis.T @ outcome)
    variance = (np.bincount(who, corrected * residuals) ** 2).sum()
    freedom = satterthwaite(np.bincount(who, corrected**2), cluster_sums(basis * corrected[:, None], who, count))
    return Coefficient(float(weights @ outcome), float(variance), freedom, weights)
