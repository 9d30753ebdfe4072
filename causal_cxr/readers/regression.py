"""A coefficient of a linear regression of images of patients, with an error that few patients do not make too small."""

from typing import NamedTuple

import numpy as np


class Coefficient(NamedTuple):
    """Of least squares.

    Attributes:
        value: the coefficient.
        variance: CR2, clustered by patients: a patient who stands out in what is asked about pulls the fit to their own images,
            so that their residuals are too small; each patient's are put right by their leverage (Bell & McCaffrey 2002).
        freedom: Satterthwaite's degrees of freedom of that variance: near the number of patients whom the coefficient hangs
            on, however many others there are (Pustejovsky & Tipton 2018).
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
    # In the basis of the design's QR a patient's part of the hat matrix is Q_g Q_g', and all that follows is of p numbers a patient.
    basis, triangle = np.linalg.qr(design)
    asked = np.linalg.solve(triangle.T, np.eye(design.shape[1])[column])
    weights = basis @ asked
    own = np.zeros((who.max() + 1, *triangle.shape))
    np.add.at(own, who, basis[:, :, None] * basis[:, None, :])
    left, vectors = np.linalg.eigh(np.eye(len(triangle)) - own)
    put_right = (vectors / np.sqrt(left)[:, None]) @ vectors.swapaxes(1, 2) @ asked
    corrected = (basis * put_right[who]).sum(axis=1)
    residuals = outcome - basis @ (basis.T @ outcome)
    variance = (np.bincount(who, corrected * residuals) ** 2).sum()

    # Of the variance, were all images alike: P = diag(squares) - shared shared', of which trace(P)^2 / trace(P P).
    squares, shared = np.bincount(who, corrected**2), (own @ put_right[..., None])[..., 0]
    joint = (shared**2).sum(axis=1)
    freedom = (squares - joint).sum() ** 2 / (
        (squares * (squares - 2 * joint)).sum() + ((shared.T @ shared) ** 2).sum()
    )
    return Coefficient(float(weights @ outcome), float(variance), float(freedom), weights)
