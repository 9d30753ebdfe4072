"""Signs looked for place by place: what is small fills the few features of its place, and is lost among all others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from causal_cxr.readers.changes import Changes, independent_directions
from causal_cxr.readers.latent_sign import LatentSign, SignModel, attribute_basis

COMPONENTS = 30  #: principal components of a place's features
GUESSES = 6  #: independent components of the changes in a place, with and without what attributes do on average
GROWN = (4, 16)  #: places that a sign is read from in the end
GROWN_COMPONENTS = 150  #: principal components of these
AROUND = 8  #: places in which what is left of a sign is looked for
STAYS = 0.7  #: correlation with what a sign grew from, from which it is still that sign
HARDLY_LESS = (
    0.5  #: of the best separation: then the sign in more places counts, whose class is less often a part of it
)
IMAGES_A_COMPONENT = 10  #: unedited images for each principal component
RIDGE = 0.05  #: share of the mean variance that is added to a place's covariance
TOGETHER = 0.1  #: of the images in which two signs should show together by chance; under it they exclude each other
EXPECTED = 10.0  #: such images at least, for that to be seen


@dataclass(frozen=True)
class Axes:
    """Principal components of some columns.

    Attributes:
        columns: of the features.
        mean: ``(len(columns),)``.
        rotation: ``(len(columns), k)``.
    """

    columns: np.ndarray
    mean: np.ndarray
    rotation: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, columns: np.ndarray, most: int) -> "Axes":
        """At most ``most`` of them, and one for every ten images."""
        from sklearn.decomposition import PCA

        count = max(1, min(most, len(columns), len(features) // IMAGES_A_COMPONENT))
        pca = PCA(count, random_state=0).fit(features[:, columns])
        return cls(columns, pca.mean_, pca.components_.T)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """``(n, d)`` -> ``(n, k)``."""
        scores: np.ndarray = (features[:, self.columns] - self.mean) @ self.rotation
        return scores

    def mapped(self, changes: Changes) -> Changes:
        """Changes in these components."""
        return replace(changes, null=self.scores(changes.null), edited=self.scores(changes.edited))

    def lifted(self, sign: LatentSign, width: int) -> LatentSign:
        """A detector on these components as one on all ``width`` features as they came."""
        weights = np.zeros(width)
        weights[self.columns] = self.rotation @ sign.weights
        return replace(sign, weights=weights, offset=sign.offset - float(self.mean @ weights[self.columns]))


class Places:
    """Unedited images and the places of their features.

    Args:
        features: ``(n, d)``.
        attributes: ``(n, p)`` centred numbers.
        columns: of each place; places may overlap.
    """

    def __init__(self, features: np.ndarray, attributes: np.ndarray, columns: Sequence[np.ndarray]) -> None:
        self.features, self.attributes, self.columns = features, attributes, list(columns)
        self._basis = attribute_basis(attributes)
        self._white: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.columns)

    def own(self, values: np.ndarray) -> np.ndarray:
        """``(n,)`` less what the attributes say of it."""
        left: np.ndarray = values - self._basis @ (self._basis.T @ values)
        return left

    def signs(self, place: int, changes: Changes, *, seed: int = 0) -> list[LatentSign]:
        """Signs of one place that its changes lead to, as detectors on all features.

        First guesses are independent components (Hyvärinen & Oja, Neural Networks 2000): with as few features they are as
        good as sparse coding, in a hundredth of its time.
        """
        if not np.ptp(self.features[:, self.columns[place]], axis=0).any():
            return []  # nothing is ever seen there
        axes = Axes.fit(self.features, self.columns[place], COMPONENTS)
        scores = axes.scores(self.features)
        directions = independent_directions(axes.mapped(changes), np.cov(scores.T), GUESSES, seed=seed)
        model = SignModel(scores, self.attributes)
        signs = [model.fit(scores @ direction, seed=seed) for direction in directions]
        return [axes.lifted(sign, self.features.shape[1]) for sign in signs if sign is not None]

    def showing(self, present: np.ndarray) -> np.ndarray:
        """``(places,)`` numbers of the places, those first whose features tell most of a sign, beyond the attributes."""
        if not self._white:
            self._white = [self._whitened(columns) for columns in self.columns]
        own = self.own(present)
        told = [float(((white.T @ own) ** 2).sum()) for white in self._white]
        order: np.ndarray = np.argsort(-np.array(told), kind="stable")
        return order

    def around(self, present: np.ndarray) -> np.ndarray:
        """Columns of the places in which a sign shows most; all, where there are no places."""
        if not self.columns:
            return np.arange(self.features.shape[1])
        return np.unique(np.concatenate([self.columns[k] for k in self.showing(present)[:AROUND]]))

    def grown(self, present: np.ndarray, begun: LatentSign | None = None, *, stays: float = STAYS) -> LatentSign | None:
        """The same sign, read from all the places where it shows.

        Args:
            present: ``(n,)`` posterior of the sign.
            begun: its detector, if there is one: stays, where the sign is not found in more places.
            stays: correlation with ``present``, under which it has become another sign.

        Returns:
            ``None`` where there is none.
        """
        order = self.showing(present)
        ends = [] if begun is None else [begun]
        for count in GROWN:
            axes = Axes.fit(
                self.features, np.unique(np.concatenate([self.columns[k] for k in order[:count]])), GROWN_COMPONENTS
            )
            sign = SignModel(axes.scores(self.features), self.attributes).refit(present)
            if sign is None:
                continue
            sign = axes.lifted(sign, self.features.shape[1])
            if np.corrcoef(expit(sign.logits(self.features)), present)[0, 1] >= stays:
                ends.append(sign)
        best = max((end.separation for end in ends), default=0.0)
        return next((end for end in reversed(ends) if end.separation >= HARDLY_LESS * best), None)

    def exclude(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Whether two signs show in the same image far more rarely than the attributes let expect: one sign on two sides."""
        chances = [np.clip(self._basis @ (self._basis.T @ present), 0, 1) for present in (one, other)]
        expected = float(chances[0] @ chances[1])
        return expected >= EXPECTED and float(one @ other) < TOGETHER * expected

    def _whitened(self, columns: np.ndarray) -> np.ndarray:
        residual = self.features[:, columns] - self._basis @ (self._basis.T @ self.features[:, columns])
        covariance = residual.T @ residual / len(residual)
        covariance[np.diag_indices(len(covariance))] += RIDGE * np.trace(covariance) / len(covariance) + 1e-12
        white: np.ndarray = np.linalg.solve(np.linalg.cholesky(covariance), residual.T).T
        return white


def valley(logits: np.ndarray) -> float:
    """How deep images thin out between a sign's two classes: the least density there as a share of the lower peak's.

    1 where there is but one class, which was cut in two; near 0 where hardly an image lies between.
    """
    from scipy.stats import gaussian_kde

    low, high = np.quantile(logits, [0.001, 0.999])
    if not low < 0 < high:
        return 1.0
    grid = np.linspace(low, high, 200)
    density = gaussian_kde(logits, bw_method=0.15)(grid)
    absent, present = int(np.argmax(np.where(grid < 0, density, 0))), int(np.argmax(np.where(grid > 0, density, 0)))
    between = density[absent : present + 1]
    return float(between.min() / min(between[0], between[-1]))
