"""Components without a name: signs that interventions move in some images, found again on resampled patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from causal_cxr.readers.changes import Changes, change_directions
from causal_cxr.readers.latent_sign import LatentSign, SignModel

SAME = 0.7  #: correlation of two detectors' logits, over which they are one sign
AGAIN = 0.8  #: the same, for a sign to count as found again on resampled patients
ALIKE = 0.95  #: the same, over which one of two guesses is enough
IMAGES_A_COMPONENT = 10  #: unedited images for each principal component of the features


@dataclass(frozen=True)
class ComponentSearch:
    """How components are looked for, and which are kept.

    Attributes:
        components: principal components of the features; at most one for every ten unedited images.
        atoms: of each dictionary.
        penalty: of its codes.
        resamples: halves of the patients on which everything is done anew, in complementary pairs.
        selected: least share of the halves in which a component is found again (0.5 to 1).
        smallest_effect: a component counts as moved from this change of its prevalence on.
        separation: least squared Mahalanobis distance of present and absent; 5 is an AUROC of 0.94.
        explained: a sign of whose variance the labelled attributes, and what reads them, explain this share is how they look.
        wholly: a sign that an intervention moves in this share of images is how the attribute that it sets looks.
        named: correlation with the scores of a named concept from which a sign is that concept.
        exclusive: a sign that shows at one level of an attribute this much more rarely than at the other is how that
            attribute looks (as the side of an effusion); so is, for want of a difference, a device that never comes without it.
        rarest: least prevalence of either class.
    """

    components: int = 100
    atoms: int = 12
    penalty: float = 0.1
    resamples: int = 10
    selected: float = 0.5
    smallest_effect: float = 0.10
    separation: float = 5.0
    explained: float = 0.7
    wholly: float = 0.9
    named: float = 0.8
    exclusive: float = 0.05
    rarest: float = 0.03

    def __post_init__(self) -> None:
        if self.resamples < 2 or self.resamples % 2:
            raise ValueError(
                f"Resamples are complementary halves, so an even number of at least 2, not {self.resamples}."
            )
        if not 0.5 <= self.selected <= 1:
            raise ValueError(f"selected is a share of the resamples from 0.5 to 1, got {self.selected}.")


@dataclass(frozen=True)
class Found:
    """A component and why it was kept or not.

    Attributes:
        sign: its detector on the features as they came.
        attribute: whose intervention moves it most; ``contrast``: that intervention.
        effect, se: oriented change of its prevalence under it, patients as clusters.
        effects: the same of all interventions, by name.
        selection: share of the resampled halves in which it was found again.
        verdict: ``""`` if kept, else why not.
    """

    sign: LatentSign
    attribute: str
    contrast: str
    effect: float
    se: float
    effects: dict[str, tuple[float, float]]
    selection: float
    verdict: str


def find_components(
    changes: Changes,
    features: np.ndarray,
    attributes: np.ndarray,
    patients: np.ndarray,
    search: ComponentSearch | None = None,
    *,
    looks: np.ndarray | None = None,
    named: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> tuple[Found, ...]:
    """Signs without a label that interventions move, kept ones first, by the size of the effect.

    Sparse directions of change (:func:`change_directions`) say where to look; a latent class of the unedited images, started
    there, is the sign and its detector (:class:`SignModel`); stability selection (Meinshausen & Bühlmann, JRSS B 2010; with
    complementary pairs, Shah & Samworth, JRSS B 2013) keeps what is found again on halves of the patients.

    Args:
        changes: edited and null edits.
        features: ``(n, d)`` of unedited images of the same patients.
        attributes: ``(n, p)`` their labelled attributes as centred numbers, as ``changes.moved`` is their change.
        patients: ``(n,)`` ids.
        search: settings.
        looks: ``(n, r)`` scores of readers that read the labelled attributes themselves: a sign that these and the
            attributes explain is how an attribute looks.
        named: concept -> ``(n,)`` scores of readers that read what has a name already.
        seed: the only source of chance.

    Raises:
        ValueError: shapes that do not fit, too few images or patients, or features that are not finite.
    """
    search = search or ComponentSearch()
    _check(changes, features, attributes, patients)
    shown = np.column_stack([attributes, *([] if looks is None else [looks])])
    from sklearn.decomposition import PCA

    kept = max(1, min(search.components, features.shape[1], len(features) // IMAGES_A_COMPONENT))
    pca = PCA(kept, random_state=seed).fit(features)
    rotation = pca.components_.T
    scores = (features - pca.mean_) @ rotation
    turned = changes.mapped(pca.mean_, rotation)

    directions = change_directions(turned, np.cov(scores.T), atoms=search.atoms, penalty=search.penalty, seed=seed)
    resampled = _resampled(turned, scores, attributes, patients, search, seed)
    guesses = [scores @ direction for direction in directions]
    guesses += _different([logits for half in resampled for logits in half], ALIKE)
    candidates = [_rarer(sign) for sign in _signs(SignModel(scores, attributes), guesses, search, seed)]

    found, others = [], list[np.ndarray]()
    for sign in candidates:
        effects = _effects(sign, turned)
        contrast = max(effects, key=lambda name: abs(effects[name][0]))
        attribute = str(changes.attribute[changes.contrast == contrast][0])
        logits = sign.logits(scores)
        share = float(np.mean([any(_correlation(logits, o) >= AGAIN for o in half) for half in resampled]))
        present = expit(logits)
        why = (
            _unsteady(effects[contrast], contrast, share, search)
            or _a_look(present, effects[contrast][0], contrast, attributes, shown, patients, search, seed)
            or _a_mixture(present, shown, others, patients, search, seed)
            or _has_a_name(present, named or {}, search)
        )
        if not why:
            others.append(present)
        weights = rotation @ sign.weights
        raw = replace(sign, weights=weights, offset=sign.offset - float(pca.mean_ @ weights))
        found.append(Found(raw, attribute, contrast, *effects[contrast], effects, share, why))
    return tuple(sorted(found, key=lambda f: (f.verdict != "", -abs(f.effect))))


def _resampled(
    changes: Changes,
    scores: np.ndarray,
    attributes: np.ndarray,
    patients: np.ndarray,
    search: ComponentSearch,
    seed: int,
) -> list[list[np.ndarray]]:
    """Logits, in all images, of the signs that each half of the patients leads to."""
    found = []
    for number, (pairs, images) in enumerate(_halves(patients, changes.patients, search.resamples, seed), start=1):
        half, fresh = scores[images], seed + number
        directions = change_directions(
            changes.of(pairs), np.cov(half.T), atoms=search.atoms, penalty=search.penalty, seed=fresh
        )
        signs = _signs(SignModel(half, attributes[images]), [half @ d for d in directions], search, fresh)
        found.append([sign.logits(scores) for sign in signs])
    return found


def _signs(model: SignModel, guesses: Sequence[np.ndarray], search: ComponentSearch, seed: int) -> list[LatentSign]:
    """Different signs that the guesses lead to, the best separated first."""
    signs = [model.fit(guess, seed=seed) for guess in guesses]
    apart = [
        sign for sign in signs
        if sign is not None and sign.separation >= search.separation
        and search.rarest <= sign.prevalence <= 1 - search.rarest
    ]  # fmt: skip
    apart.sort(key=lambda sign: -sign.separation)
    logits = {id(sign): sign.logits(model.features) for sign in apart}
    kept = {id(values) for values in _different(list(logits.values()), SAME)}
    return [sign for sign in apart if id(logits[id(sign)]) in kept]


def _different(scores: Sequence[np.ndarray], least: float) -> list[np.ndarray]:
    """Those whose correlation with every one kept before is less."""
    kept: list[np.ndarray] = []
    for values in scores:
        if all(_correlation(values, other) < least for other in kept):
            kept.append(values)
    return kept


def _halves(patients: np.ndarray, of_pairs: np.ndarray, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of the pairs and of the images, of complementary halves of the patients."""
    rng = np.random.default_rng([seed, 55])
    edited = np.unique(of_pairs)
    others = np.setdiff1d(np.unique(patients), edited)
    halves = []
    for _ in range(count // 2):
        first = {str(p) for group in (edited, others) for p in rng.permutation(group)[: len(group) // 2]}
        for inside in (True, False):
            pairs, images = (np.array([(str(p) in first) == inside for p in ids]) for ids in (of_pairs, patients))
            halves.append((np.flatnonzero(pairs), np.flatnonzero(images)))
    return halves


def _effects(sign: LatentSign, changes: Changes) -> dict[str, tuple[float, float]]:
    """Oriented mean change of the sign's posterior under each intervention, with its patient-clustered standard error."""
    change = expit(sign.logits(changes.edited)) - expit(sign.logits(changes.null))
    change = change * changes.orientation
    effects = {}
    for contrast in dict.fromkeys(changes.contrast.tolist()):
        mine = changes.contrast == contrast
        mean, count = float(change[mine].mean()), int(mine.sum())
        sums = np.bincount(np.unique(changes.patients[mine], return_inverse=True)[1], change[mine] - mean)
        clusters = len(sums)
        factor = np.sqrt(clusters / (clusters - 1)) if clusters > 1 else np.inf
        effects[str(contrast)] = (mean, float(factor * np.sqrt((sums**2).sum()) / count))
    return effects


def _unsteady(effect: tuple[float, float], contrast: str, selection: float, search: ComponentSearch) -> str:
    value, se = effect
    if not abs(value) - 1.96 * se > search.smallest_effect:
        return f"not moved: {contrast} by {value:+.2f} ± {1.96 * se:.2f}"
    if selection < search.selected:
        return f"found again in {selection:.0%} of the resamples only"
    return ""


def _a_look(
    present: np.ndarray, effect: float, contrast: str, attributes: np.ndarray, shown: np.ndarray, patients: np.ndarray,
    search: ComponentSearch, seed: int,
) -> str:  # fmt: skip
    """Why a sign is a labelled attribute's own look, not something that goes with it; ``""`` if it is not."""
    if abs(effect) > search.wholly:
        return f"a look of what {contrast} sets: it moves {abs(effect):.0%} of the images"
    share = _explained(present, shown, patients, seed)
    if share > search.explained:
        return f"a look of the labelled attributes, which explain {share:.0%} of it"
    for column in attributes.T:
        if len(np.unique(column)) == 2:
            upper = column > column.mean()
            for shows in (present, 1 - present):
                shares = sorted((float(shows[upper].mean()), float(shows[~upper].mean())))
                if shares[0] < search.exclusive * shares[1]:
                    return f"a look of a labelled attribute: at its other level it shows in {shares[0]:.1%} instead of {shares[1]:.0%}"
    return ""


def _a_mixture(
    present: np.ndarray,
    shown: np.ndarray,
    others: Sequence[np.ndarray],
    patients: np.ndarray,
    search: ComponentSearch,
    seed: int,
) -> str:
    """Why a sign is made of better separated ones that were kept, as "portable, but no marker"; ``""`` if it is not."""
    if not others:
        return ""
    share = _explained(present, np.column_stack([shown, *others]), patients, seed)
    return f"a mixture of other components, which explain {share:.0%} of it" if share > search.explained else ""


def _has_a_name(present: np.ndarray, named: Mapping[str, np.ndarray], search: ComponentSearch) -> str:
    likeness = {name: _correlation(present, scores) for name, scores in named.items() if scores.std() > 0}
    nearest = max(likeness, key=likeness.__getitem__, default=None)
    if nearest is None or likeness[nearest] < search.named:
        return ""
    return f"read already as {nearest} (correlation {likeness[nearest]:.2f})"


def _explained(present: np.ndarray, shown: np.ndarray, patients: np.ndarray, seed: int) -> float:
    """Share of the variance of a sign's presence that ``shown`` explains, on patients left out of the fit."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import GroupKFold, cross_val_predict

    if not shown.shape[1]:
        return 0.0
    forest = RandomForestRegressor(30, min_samples_leaf=10, random_state=seed)
    said = cross_val_predict(forest, shown, present, groups=patients, cv=GroupKFold(3))
    return float(1 - np.mean((present - said) ** 2) / max(float(present.var()), 1e-12))


def _rarer(sign: LatentSign) -> LatentSign:
    """The same sign with the rarer class as the present one."""
    if sign.prevalence <= 0.5:
        return sign
    return replace(sign, weights=-sign.weights, offset=-sign.offset, prevalence=1 - sign.prevalence)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return abs(float(np.corrcoef(one, other)[0, 1]))


def _check(
    changes: Changes, features: np.ndarray, attributes: np.ndarray, patients: Sequence[str] | np.ndarray
) -> None:
    n, d = features.shape
    if len(attributes) != n or len(patients) != n:
        raise ValueError(f"{n} images have {len(attributes)} rows of attributes and {len(patients)} patients.")
    if changes.null.shape[1] != d or changes.edited.shape != changes.null.shape:
        raise ValueError(
            f"Edited images have {changes.edited.shape[1]} features, unedited ones {d}; use one feature space."
        )
    if changes.moved.shape != (len(changes), attributes.shape[1]):
        raise ValueError(
            f"changes.moved has shape {changes.moved.shape}; it is the change of the {attributes.shape[1]} attributes."
        )
    for name, values in (("features", features), ("edited", changes.edited), ("null", changes.null)):
        if not np.isfinite(values).all():
            raise ValueError(f"The {name} hold values that are not finite; leave those images out.")
    few = len(np.unique(changes.patients))
    if few < 20 or n < 100:
        raise ValueError(f"{few} edited patients and {n} unedited images are too few; components need 20 and 100.")
