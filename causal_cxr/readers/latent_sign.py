"""A yes/no sign that nobody labelled: found in frozen features from a first guess, kept apart from what is labelled."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

RIDGE = 0.05  #: share of the mean variance that is added to the features' covariance
NEWTON = 2  #: steps of the prior an iteration
SURE = 0.95  #: posterior from which an image counts as told apart
LEAST_OWN = 0.15  #: share of the class's variance that the attributes must leave; else it is one of them
TIE = 0.02  #: of the mean log-likelihood of an image
SWAPPED = 0.5  #: correlation of a swapped posterior with what it came from, under which it is another sign


@dataclass(frozen=True)
class LatentSign:
    """A linear detector of the sign, ``logit P(present | x) = x @ weights + offset``, and how it came out.

    Attributes:
        weights: ``(d,)``.
        offset: at the prevalence of the images of the fit, whatever their attributes.
        prevalence: share of images with the sign.
        separation: squared Mahalanobis distance of present and absent along ``weights``; AUROC is
            ``Phi(sqrt(separation / 2))`` if the model holds.
        sure: share of images whose posterior is beyond 0.95 on either side.
    """

    weights: np.ndarray
    offset: float
    prevalence: float
    separation: float
    sure: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """``(n, d)`` -> ``(n,)`` log odds that the sign is there."""
        return features @ self.weights + self.offset


@dataclass(frozen=True)
class _End:
    """Where EM ended.

    Attributes:
        likelihood: mean logarithm of an image's, up to a constant.
        posterior: ``(n,)``.
        step: ``(d,)`` from absent to present, in white features.
        covariance: ``(d, d)`` within the classes, in white features.
    """

    likelihood: float
    posterior: np.ndarray
    step: np.ndarray
    covariance: np.ndarray

    @property
    def balance(self) -> float:
        """Variance of the class: most where both are as frequent."""
        share = float(self.posterior.mean())
        return share * (1 - share)


class SignModel:
    """A latent-class discriminant analysis with covariates, fitted by expectation-maximisation.

    ``x = m(A) + U a + e``, e normal with one covariance, ``logit P(U = 1 | A)`` linear, ``m`` with all products of two
    attributes. U is the latent class; A, the labelled attributes, is seen. It is a Gaussian mixture with a shared
    covariance (Hastie & Tibshirani, JRSS B 1996) with concomitant variables (Dayton & Macready, JASA 1988). The detector is
    the best linear one among those that no attribute's main effect moves, so that it cannot read A in U's place.

    Args:
        features: ``(n, d)`` of unedited images.
        attributes: ``(n, p)`` labelled attributes as centred numbers; no column means none.
    """

    def __init__(self, features: np.ndarray, attributes: np.ndarray) -> None:
        n, d = features.shape
        self.features, self.attributes = features, attributes
        self._means = _means(attributes)
        self._said = self._means[:, : attributes.shape[1] + 1]
        # What the attributes do is taken out once; then a class changes the covariance by one rank only.
        self._basis = attribute_basis(attributes)
        residual = features - self._basis @ (self._basis.T @ features)
        covariance = residual.T @ residual / n
        covariance[np.diag_indices(d)] += RIDGE * np.trace(covariance) / d + 1e-12
        self._root = np.linalg.cholesky(covariance)
        self._white = np.linalg.solve(self._root, residual.T).T
        self._spread = self._white.T @ self._white / n

    def fit(
        self, guess: np.ndarray, *, iterations: int = 50, tolerance: float = 1e-4, seed: int = 0
    ) -> LatentSign | None:
        """The sign that goes with a guess.

        Args:
            guess: ``(n,)`` any score that goes with the sign; EM starts from it and stays near it if there is such a sign.
            iterations: at most.
            tolerance: EM ends where posteriors change by less on average.
            seed: of the starting mixture.

        Returns:
            ``None`` where nearly all images end in one class, or the attributes say which: then there is no such sign.
        """
        left = guess - self._basis @ (self._basis.T @ guess)
        starts = [_halves(start, seed) for start in (guess, left)]
        ends = [self._climb(start, iterations, tolerance) for start in starts if start is not None]
        found = [end for end in ends if end is not None]
        if not found:
            return None
        best = max(found, key=lambda end: end.likelihood)
        # A sign that nearly always goes with an attribute can be taken for that attribute's own look and its exceptions for
        # the sign. In that dead end the classes are swapped within a level, so swap them back; it can be as likely as the
        # sign itself where that shows a little differently at either level; then the more even classes count.
        for column in self.attributes.T:
            if len(np.unique(column)) == 2:
                upper, before = column > column.mean(), best.posterior
                end = self._climb(np.where(upper, 1 - before, before), iterations, tolerance)
                if end is None or end.likelihood < best.likelihood - TIE:
                    continue
                after = np.where(upper, 1 - end.posterior, end.posterior)
                likelier = end.likelihood > best.likelihood + TIE or end.balance > best.balance
                if likelier and abs(np.corrcoef(before, after)[0, 1]) >= SWAPPED:
                    best = end
        return self._sign(best)

    def refit(self, posterior: np.ndarray, *, iterations: int = 50, tolerance: float = 1e-4) -> LatentSign | None:
        """The sign in these features that is nearest to one which is known from others.

        Args:
            posterior: ``(n,)`` of that sign; EM starts from it.
            iterations, tolerance: as in :meth:`fit`.

        Returns:
            ``None`` where there is no such sign, as in :meth:`fit`.
        """
        end = self._climb(posterior, iterations, tolerance)
        return None if end is None else self._sign(end)

    def _climb(self, posterior: np.ndarray, iterations: int, tolerance: float) -> _End | None:
        """EM from a posterior; ``None`` where nearly all images end in one class, or the classes in what A says."""
        n, p = self.attributes.shape
        prior = np.zeros(p + 1)
        for _ in range(iterations):
            present = float(posterior.sum())
            if min(present, n - present) < 2 * (p + 2):
                return None
            for _ in range(NEWTON):  # of the prior's logistic regression
                chance = expit(self._said @ prior)
                curvature = (self._said * (chance * (1 - chance))[:, None]).T @ self._said + np.eye(p + 1)
                prior = prior + np.linalg.solve(curvature, self._said.T @ (posterior - chance) - prior)
            explained = self._basis @ (self._basis.T @ posterior)  # what the attributes say of the class
            own = (present - float(posterior @ explained)) / n
            if own < LEAST_OWN * present / n * (1 - present / n):
                return None
            step = self._white.T @ posterior / (own * n)
            size = float(step @ step)
            rest = max(1 - own * size, 1e-6)  # covariance = 1 - own * step step', so its inverse is known
            discriminant, gap = step / rest, size / rest
            evidence = self._white @ discriminant + explained * gap - gap / 2
            odds = self._said @ prior
            updated = expit(evidence + odds)
            change = float(np.abs(updated - posterior).mean())
            within = (
                np.trace(self._spread)
                + own / rest * float(step @ self._spread @ step)
                + gap * float(posterior @ explained) / n
            )
            likelihood = float(
                np.mean(np.logaddexp(0, evidence + odds) - np.logaddexp(0, odds)) - (within + np.log(rest)) / 2
            )
            posterior = updated
            if change < tolerance:
                break
        return _End(likelihood, posterior, step, np.eye(len(step)) - own * np.outer(step, step))

    def _sign(self, end: _End) -> LatentSign:
        share, p = float(end.posterior.mean()), self.attributes.shape[1]
        step = self._root @ end.step
        effects = np.linalg.lstsq(self._means, self.features - np.outer(end.posterior, step), rcond=None)[0][1 : p + 1]
        within = np.linalg.solve(self._root, effects.T).T  # in white features
        weights = _blind_to(within, end.covariance, end.step)
        separation = float(end.step @ weights)
        weights = np.linalg.solve(self._root.T, weights)
        # Absent and present lie at the same place on the detector for all values of A: the mean over images will do.
        middle = float((self.features @ weights).mean() - (share - 0.5) * separation)
        offset = float(np.log(share / (1 - share)) - middle)
        read = expit(self.features @ weights + offset)
        sure = float(np.mean((read > SURE) | (read < 1 - SURE)))
        return LatentSign(weights, offset, share, separation, sure)


def attribute_basis(attributes: np.ndarray) -> np.ndarray:
    """``(n, r)`` orthonormal: what the attributes, their squares and products can say of an image, a constant with it."""
    basis, lengths, _ = np.linalg.svd(_means(attributes), full_matrices=False)
    kept: np.ndarray = basis[:, lengths > 1e-9 * lengths[0]]
    return kept


def _means(attributes: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(attributes)), attributes, *_products(attributes)])


def _blind_to(effects: np.ndarray, covariance: np.ndarray, step: np.ndarray) -> np.ndarray:
    """``(d,)`` the discriminant for ``step`` among the directions that are orthogonal to each row of ``effects``.

    With ``V = inv(covariance)``: ``V step - V B' (B V B')^-1 B V step``.
    """
    both = np.linalg.solve(covariance, np.column_stack([step, effects.T]))
    best, others = both[:, 0], both[:, 1:]
    if not len(effects):
        return best
    return best - others @ np.linalg.lstsq(effects @ others, effects @ best, rcond=1e-6)[0]


def _halves(score: np.ndarray, seed: int) -> np.ndarray | None:
    """``(n,)`` probability of the upper of two normal classes; ``None`` for a constant score."""
    from sklearn.mixture import GaussianMixture

    if not score.std() > 1e-9 * max(1.0, float(np.abs(score).max())):
        return None
    column = ((score - score.mean()) / score.std())[:, None]
    classes = GaussianMixture(2, random_state=seed, n_init=2).fit(column)
    return classes.predict_proba(column)[:, int(classes.means_[:, 0].argmax())]


def _products(attributes: np.ndarray) -> list[np.ndarray]:
    """Centred products of two columns, those with themselves too unless they are indicators."""
    found = []
    for i in range(attributes.shape[1]):
        for j in range(i, attributes.shape[1]):
            if i == j and len(np.unique(attributes[:, i])) <= 2:
                continue
            product = attributes[:, i] * attributes[:, j]
            if product.std() > 0:
                found.append(product - product.mean())
    return found
