"""Directions along which interventions change frozen features, now in some images and now not."""

import warnings
from dataclasses import dataclass, replace

import numpy as np

ROUNDS = 15  #: of coding and refitting; later ones change the directions by less than another resample does
CODING = 200  #: sweeps of a code
SHRINK = 0.1  #: of the read-out, towards what unedited images vary in least
STILL = 1e-6  #: a difference without this norm, relative to the mean one, is no change


@dataclass(frozen=True)
class Changes:
    """Pairs of edits of the same image: under an intervention, and the null edit.

    Attributes:
        null, edited: ``(m, d)`` features.
        moved: ``(m, p)`` what the intervention did to the labelled attributes, as numbers: edited minus factual.
        contrast: ``(m,)`` the intervention's name.
        attribute: ``(m,)`` what it sets.
        orientation: ``(m,)`` +1 / -1, which way.
        patients: ``(m,)`` ids.
    """

    null: np.ndarray
    edited: np.ndarray
    moved: np.ndarray
    contrast: np.ndarray
    attribute: np.ndarray
    orientation: np.ndarray
    patients: np.ndarray

    def __len__(self) -> int:
        return len(self.patients)

    def of(self, rows: np.ndarray) -> "Changes":
        """Some of the pairs."""
        return Changes(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def mapped(self, mean: np.ndarray, matrix: np.ndarray) -> "Changes":
        """The same in features ``(x - mean) @ matrix``."""
        return replace(self, null=(self.null - mean) @ matrix, edited=(self.edited - mean) @ matrix)


def change_directions(
    changes: Changes, covariance: np.ndarray, *, atoms: int = 12, penalty: float = 0.1, seed: int = 0
) -> np.ndarray:
    """Read-outs of sparse components of the paired differences.

    What an intervention moves besides, it moves in some images only: most codes are 0. So differences are coded sparsely
    (dictionary learning; Mairal et al., JMLR 2010), twice: as they are, and beside unpenalised codes for what each labelled
    attribute does on average, which leaves those that go with it nearly always the fewer exceptions to code. Each code is
    then read out of the features by a regression that is shrunk where unedited images vary.

    Args:
        changes: ``m`` pairs in ``d`` features.
        covariance: ``(d, d)`` of unedited images.
        atoms: of each dictionary.
        penalty: of the codes (L1), where the mean squared norm of a difference is 1.
        seed: of the starts.

    Returns:
        ``(k, d)``, at most ``2 * atoms`` rows; none if nothing changes.
    """
    from sklearn.exceptions import ConvergenceWarning

    difference, moved = _moving(changes)
    size = min(atoms, len(difference) // 4, difference.shape[1])
    if size < 1:
        return np.empty((0, difference.shape[1]))
    unit = difference / np.sqrt((difference**2).sum(1).mean())
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # these only say where to look; codes to three digits will do
        found = [_read_out(difference, _codes(unit, size, penalty, seed), covariance)]
        beside = _codes_beside(unit, moved, size, penalty, seed)
        found.append(_read_out(_without(difference, moved), _without(beside, moved), covariance))
    directions = np.vstack(found)
    return directions[np.linalg.norm(directions, axis=1) > 0]


def independent_directions(changes: Changes, covariance: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """Read-outs of independent components of the paired differences, for few features.

    Args:
        changes: ``m`` pairs in ``d`` features.
        covariance: ``(d, d)`` of unedited images.
        count: of components, of the differences as they are and again of what the moved attributes leave of them.
        seed: of the starts.

    Returns:
        ``(k, d)``, at most ``2 * count`` rows; none if too little changes.
    """
    from sklearn.exceptions import ConvergenceWarning

    difference, moved = _moving(changes)
    found = [np.empty((0, difference.shape[1]))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # these only say where to look
        for values in (difference, _without(difference, moved)):
            size = min(count, len(values) // 4)
            size = min(size, int(np.linalg.matrix_rank(values))) if size else 0
            if size:
                found.append(_read_out(values, values @ _independent(values, size, seed).T, covariance))
    directions = np.vstack(found)
    return directions[np.linalg.norm(directions, axis=1) > 0]


def _moving(changes: Changes) -> tuple[np.ndarray, np.ndarray]:
    """Differences of the pairs in which anything changes, and what was moved there."""
    difference = changes.edited - changes.null
    norm = np.sqrt((difference**2).sum(1))
    kept = norm > STILL * max(float(norm.mean()), 1e-12)
    return difference[kept], changes.moved[kept]


def _codes(unit: np.ndarray, size: int, penalty: float, seed: int) -> np.ndarray:
    """``(m, size)`` sparse codes of the differences as they are."""
    from sklearn.decomposition import DictionaryLearning

    dictionary = DictionaryLearning(
        size, alpha=penalty, max_iter=2 * ROUNDS, fit_algorithm="cd", transform_algorithm="lasso_cd",
        transform_alpha=penalty, random_state=seed,
    )  # fmt: skip
    codes: np.ndarray = dictionary.fit_transform(unit)
    return codes


def _codes_beside(unit: np.ndarray, moved: np.ndarray, size: int, penalty: float, seed: int) -> np.ndarray:
    """``(m, k)`` sparse codes of what is left beside unpenalised codes for the attributes that were moved."""
    from sklearn.decomposition import sparse_encode

    left = _without(unit, moved)
    size = min(size, int(np.linalg.matrix_rank(left)))
    if size < 1 or not moved.shape[1]:
        return np.empty((len(unit), 0))
    dictionary = _independent(left, size, seed)
    codes = np.empty((len(unit), 0))
    for _ in range(ROUNDS):
        if codes.shape[1]:
            both = np.column_stack([moved, codes])
            gram = both.T @ both
            gram[np.diag_indices_from(gram)] += 1e-6 * len(unit)
            fitted = np.linalg.solve(gram, both.T @ unit)
            left, dictionary = unit - moved @ fitted[: moved.shape[1]], _unit_rows(fitted[moved.shape[1] :])
        codes = sparse_encode(left, dictionary, algorithm="lasso_cd", alpha=penalty, max_iter=CODING)
    return codes


def _without(values: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """What is left of the columns when the moved attributes' linear part is taken off."""
    return values - moved @ np.linalg.lstsq(moved, values, rcond=None)[0] if moved.shape[1] else values


def _independent(values: np.ndarray, size: int, seed: int) -> np.ndarray:
    """``(size, d)`` unit mixing directions of the independent components: where the dictionary starts."""
    from sklearn.decomposition import PCA, FastICA

    pca = PCA(size, random_state=seed).fit(values)
    ica = FastICA(size, random_state=seed, max_iter=200, whiten="unit-variance").fit(pca.transform(values))
    return _unit_rows(ica.mixing_.T @ pca.components_)


def _unit_rows(matrix: np.ndarray) -> np.ndarray:
    rows: np.ndarray = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)
    return rows


def _read_out(difference: np.ndarray, codes: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """``(k, d)`` ridge regressions of the codes on the differences, in the metric of what unedited images vary in."""
    spread = difference.T @ difference / len(difference)
    ridge = SHRINK * covariance * np.trace(spread) / max(float(np.trace(covariance)), 1e-12)
    ridge[np.diag_indices_from(ridge)] += 1e-9 * np.trace(ridge)
    return np.linalg.solve(spread + ridge, difference.T @ codes / len(difference)).T
