"""Components without a name: signs that interventions move in some images, found again on resampled patients."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations

import numpy as np
from scipy.special import expit

from causal_cxr.readers.changes import Changes, change_directions
from causal_cxr.readers.component_settings import ComponentSearch
from causal_cxr.readers.latent_sign import LatentSign, SignModel
from causal_cxr.readers.places import Axes, Places, valley
from causal_cxr.readers.sign_tests import SignTests, correlation

SAME = 0.7  #: correlation of two detectors' logits, over which they are one sign
AGAIN = 0.8  #: the same, for a sign to count as found again on resampled patients
ALIKE = 0.95  #: the same, over which one of two guesses is enough
REPEATED = 0.9  #: the same, over which only one of two signs is looked for in more places
PART = 0.8  #: share of a sign's presence in which another shows, too, from which it is a part of that one
COVERED = 0.7  #: share of a sign's presence that its parts make up, from which it is the whole of them
LARGER = 1.2  #: a whole is so many times as frequent as its part
REPETITION = "the same as another"  #: no news; not reported
A_PART = "a part of another component"


@dataclass(frozen=True)
class Found:
    """A component and why it was kept or not.

    Attributes:
        sign: its detector on the features as they came.
        attribute: whose intervention moves it most; ``contrast``: that intervention.
        effect, se: oriented change of its prevalence under it, patients as clusters.
        effects: the same of all interventions, by name.
        selection: share of the resampled halves in which it was found again; ``None`` if other reasons came first.
        verdict: ``""`` if kept, else why not.
    """

    sign: LatentSign
    attribute: str
    contrast: str
    effect: float
    se: float
    effects: dict[str, tuple[float, float]]
    selection: float | None
    verdict: str


def find_components(
    changes: Changes,
    features: np.ndarray,
    attributes: np.ndarray,
    patients: np.ndarray,
    search: ComponentSearch | None = None,
    *,
    places: Sequence[np.ndarray] = (),
    looks: np.ndarray | None = None,
    named: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> tuple[Found, ...]:
    """Signs without a label that interventions move, kept ones first, by the size of the effect.

    Sparse directions of change (:func:`change_directions`) say where to look; a latent class of the unedited images, started
    there, is the sign and its detector (:class:`SignModel`); stability selection (Meinshausen & Bühlmann, JRSS B 2010; with
    complementary pairs, Shah & Samworth, JRSS B 2013) keeps what is found again on halves of the patients.

    That is done in the features that belong to no place (in all, if each belongs to one), and in every place for itself
    (:class:`~causal_cxr.readers.places.Places`); what moves is then looked for in all places where it shows, and must fall
    into two classes there with hardly an image between them. Signs that one intervention moves the same way and that exclude
    each other, as a drain on the left and one on the right, are one. Of a sign and its parts the whole is kept.

    Args:
        changes: edited and null edits.
        features: ``(n, d)`` of unedited images of the same patients.
        attributes: ``(n, p)`` their labelled attributes as centred numbers, as ``changes.moved`` is their change.
        patients: ``(n,)`` ids.
        search: settings.
        places: columns of the features of each place of the image; see :meth:`OrientedGradients.places`.
        looks: ``(n, r)`` scores of readers that read the labelled attributes themselves: a sign that these and the
            attributes explain is how an attribute looks.
        named: concept -> ``(n,)`` scores of readers that read what has a name already.
        seed: the only source of chance.

    Raises:
        ValueError: shapes that do not fit, too few images or patients, or features that are not finite.
    """
    search = search or ComponentSearch()
    _check(changes, features, attributes, patients)
    looks = np.empty((len(features), 0)) if looks is None else looks
    tests = SignTests(changes, features, attributes, looks, named or {}, patients, search, seed)
    local = Places(features, attributes, places)
    halves = _halves(patients, changes.patients, search.resamples, seed)

    candidates, still = _in_the_whole(tests, places, halves), list[_Candidate]()
    if places:
        begun, still = _in_places(tests, local, halves)
        candidates += _grown([*candidates, *begun], tests, local)
    reasons = {id(c): _alone(c, tests, local) for c in candidates}
    if places:
        sides = _joined([c for c in candidates if not reasons[id(c)]], tests, local)
        candidates += sides
        reasons |= {id(c): _alone(c, tests, local) for c in sides}
    good = [c for c in candidates if not reasons[id(c)]]
    reasons |= _beside(_wholes_first(good, local), tests, local, still)
    found = [c.found(reasons[id(c)], changes) for c in candidates if reasons[id(c)] != REPETITION]
    return tuple(sorted(found, key=lambda f: (f.verdict != "", -abs(f.effect))))


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A sign and what interventions do to it.

    Attributes:
        sign: its detector on the features as they came.
        logits: ``(n,)`` in the unedited images.
        effects: of all interventions.
        again: the share of the resampled halves in which it is found again.
        begun: the candidate that it grew from.
    """

    sign: LatentSign
    logits: np.ndarray
    effects: dict[str, tuple[float, float]]
    again: Callable[[], float]
    begun: "_Candidate | None" = None

    @classmethod
    def of(
        cls, sign: LatentSign, tests: SignTests, again: Callable[[], float], begun: "_Candidate | None" = None
    ) -> "_Candidate":
        sign = _rarer(sign)
        return cls(sign, sign.logits(tests.features), tests.effects(sign), again, begun)

    @property
    def present(self) -> np.ndarray:
        posterior: np.ndarray = expit(self.logits)
        return posterior

    @property
    def contrast(self) -> str:
        return max(self.effects, key=lambda name: abs(self.effects[name][0]))

    @property
    def effect(self) -> float:
        return self.effects[self.contrast][0]

    def moves(self, search: ComponentSearch) -> bool:
        """Enough to be worth a closer look."""
        return abs(self.effect) > search.smallest_effect / 2

    def is_crisp(self, search: ComponentSearch) -> bool:
        return self.sign.separation >= search.crisp and valley(self.logits) <= search.valley

    def holds(self, other: "_Candidate") -> bool:
        """Whether the other is a part of it: the same intervention moves both, and it is there wherever the other is."""
        both = float((self.present * other.present).sum())
        own, parts = float(self.present.sum()), float(other.present.sum())
        return self.contrast == other.contrast and own >= LARGER * parts and both >= PART * parts

    def found(self, why: str, changes: Changes) -> Found:
        attribute = str(changes.attribute[changes.contrast == self.contrast][0])
        selection = self.again() if not why or "resamples" in why else None
        return Found(self.sign, attribute, self.contrast, *self.effects[self.contrast], self.effects, selection, why)


def _in_the_whole(
    tests: SignTests, places: Sequence[np.ndarray], halves: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[_Candidate]:
    """Signs in the features of no place, or in all where each belongs to one."""
    search, seed, width = tests.search, tests.seed, tests.features.shape[1]
    columns = np.setdiff1d(np.arange(width), np.concatenate([*places, np.empty(0, dtype=int)]))
    axes = Axes.fit(tests.features, columns if len(columns) else np.arange(width), search.components)
    scores, changes = axes.scores(tests.features), axes.mapped(tests.changes)

    def directions(pairs: Changes, images: np.ndarray, fresh: int) -> np.ndarray:
        return change_directions(pairs, np.cov(images.T), atoms=search.atoms, penalty=search.penalty, seed=fresh)

    resampled = []
    for number, (pairs, images) in enumerate(halves, start=1):
        half, fresh = scores[images], seed + number
        guesses = [half @ direction for direction in directions(changes.of(pairs), half, fresh)]
        signs = _signs(SignModel(half, tests.attributes[images]), guesses, search, fresh)
        resampled.append([sign.logits(scores) for sign in signs])
    guesses = [scores @ direction for direction in directions(changes, scores, seed)]
    guesses += _different([logits for half in resampled for logits in half], ALIKE)
    return [
        _Candidate.of(axes.lifted(sign, width), tests, partial(_share, sign.logits(scores), resampled))
        for sign in _signs(SignModel(scores, tests.attributes), guesses, search, seed)
    ]


def _in_places(
    tests: SignTests, local: Places, halves: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[list[_Candidate], list[_Candidate]]:
    """Signs of each place alone, those that move and the crisp ones among those that do not."""
    parts = [
        (Places(tests.features[images], tests.attributes[images], local.columns), tests.changes.of(pairs))
        for pairs, images in halves
    ]

    @cache
    def resampled(place: int) -> list[list[np.ndarray]]:
        return [
            [sign.logits(tests.features) for sign in half.signs(place, changes, seed=tests.seed + number)]
            for number, (half, changes) in enumerate(parts, start=1)
        ]

    def again(place: int, logits: np.ndarray) -> float:
        return _share(logits, resampled(place))

    moving, still = list[_Candidate](), list[_Candidate]()
    for place in range(len(local)):
        for sign in _apart(local.signs(place, tests.changes, seed=tests.seed), tests.features, tests.search):
            logits = sign.logits(tests.features)
            candidate = _Candidate.of(sign, tests, partial(again, place, logits))
            if candidate.moves(tests.search):
                moving.append(candidate)
            elif candidate.is_crisp(tests.search):
                still.append(candidate)
    return moving, still


def _grown(begun: Sequence[_Candidate], tests: SignTests, local: Places) -> list[_Candidate]:
    """What moves, read from all places where it shows; only where it is crisp there."""
    moving = [candidate for candidate in begun if candidate.moves(tests.search)]
    kept = {id(logits) for logits in _different([candidate.logits for candidate in moving], REPEATED)}
    grown = []
    for candidate in moving:
        if id(candidate.logits) not in kept:
            continue
        sign = local.grown(candidate.present, candidate.sign)
        if sign is not None and sign is not candidate.sign:
            grown.append(_Candidate.of(sign, tests, candidate.again, candidate))
    return _once([candidate for candidate in grown if candidate.is_crisp(tests.search)])


def _once(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Of those that are nearly the same the best separated."""
    ordered = sorted(candidates, key=lambda candidate: -candidate.sign.separation)
    kept = {id(logits) for logits in _different([candidate.logits for candidate in ordered], ALIKE)}
    return [candidate for candidate in ordered if id(candidate.logits) in kept]


def _joined(good: Sequence[_Candidate], tests: SignTests, local: Places) -> list[_Candidate]:
    """Signs of two sides: one intervention moves both the same way, and where one is the other is not."""
    joined = list[_Candidate]()
    for one, other in combinations(good, 2):
        alike = one.contrast == other.contrast and one.effect * other.effect > 0
        if not alike or not local.exclude(one.present, other.present):
            continue
        sign = local.grown(np.clip(one.present + other.present, 0, 1))
        if sign is not None:
            again = partial(_least, one.again, other.again)
            joined.append(_Candidate.of(sign, tests, again))
    return _once([candidate for candidate in joined if candidate.is_crisp(tests.search)])


def _alone(candidate: _Candidate, tests: SignTests, local: Places) -> str:
    """Why a candidate is no sign, whatever else was found; the costly tests last."""
    present, contrast, effect = candidate.present, candidate.contrast, candidate.effect
    return (
        tests.not_moved(candidate.effects[contrast], contrast)
        or tests.look(present, effect, contrast)
        or tests.name(present)
        or tests.stayed(candidate.sign, contrast, local.around(present))
        or tests.chance(candidate.again())
    )


def _wholes_first(good: Sequence[_Candidate], local: Places) -> list[_Candidate]:
    """Those that two others which exclude each other make up, then the best separated."""

    def whole(candidate: _Candidate) -> bool:
        parts = [other for other in good if candidate.holds(other)]
        if not any(local.exclude(one.present, other.present) for one, other in combinations(parts, 2)):
            return False
        made = np.clip(np.sum([part.present for part in parts], axis=0), 0, 1)
        return float((made * candidate.present).sum()) >= COVERED * float(candidate.present.sum())

    return sorted(good, key=lambda candidate: (not whole(candidate), -candidate.sign.separation))


def _beside(
    ordered: Sequence[_Candidate], tests: SignTests, local: Places, still: Sequence[_Candidate]
) -> dict[int, str]:
    """Why a candidate is left out beside the others, by its ``id``; ``""`` if it is not."""

    def same(one: _Candidate, other: _Candidate) -> bool:
        own = [local.own(candidate.present) for candidate in (one, other)]
        return other.begun is one or one.begun is other or correlation(*own) >= SAME

    reasons, kept = dict[int, str](), list[_Candidate]()
    for candidate in ordered:
        others = [other.present for other in [*kept, *still] if not same(candidate, other)]
        if any(same(candidate, other) for other in kept):
            why = REPETITION
        elif any(other.holds(candidate) for other in kept):
            why = A_PART
        else:
            why = tests.mixture(candidate.present, others)
        reasons[id(candidate)] = why
        if not why:
            kept.append(candidate)
    # A mixture can be better separated than what it is made of, but an intervention moves it less.
    for candidate in sorted(kept, key=lambda candidate: abs(candidate.effect)):
        rest = [other for other in kept if other is not candidate]
        others = [other.present for other in [*rest, *still] if not same(candidate, other)]
        why = A_PART if any(other.holds(candidate) for other in rest) else tests.mixture(candidate.present, others)
        if why:
            reasons[id(candidate)], kept = why, rest
    return reasons


def _signs(model: SignModel, guesses: Sequence[np.ndarray], search: ComponentSearch, seed: int) -> list[LatentSign]:
    """Different signs that the guesses lead to, the best separated first."""
    signs = [model.fit(guess, seed=seed) for guess in guesses]
    return _apart([sign for sign in signs if sign is not None], model.features, search)


def _apart(signs: Sequence[LatentSign], features: np.ndarray, search: ComponentSearch) -> list[LatentSign]:
    """Different ones among those whose classes are apart and not too rare, the best separated first."""
    apart = [
        sign for sign in signs
        if sign.separation >= search.separation and search.rarest <= sign.prevalence <= 1 - search.rarest
    ]  # fmt: skip
    apart.sort(key=lambda sign: -sign.separation)
    logits = {id(sign): sign.logits(features) for sign in apart}
    kept = {id(values) for values in _different(list(logits.values()), SAME)}
    return [sign for sign in apart if id(logits[id(sign)]) in kept]


def _different(scores: Sequence[np.ndarray], least: float) -> list[np.ndarray]:
    """Those whose correlation with every one kept before is less."""
    kept: list[np.ndarray] = []
    for values in scores:
        if all(correlation(values, other) < least for other in kept):
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


def _share(logits: np.ndarray, resampled: Sequence[Sequence[np.ndarray]]) -> float:
    """Of the resamples, in which one is like it."""
    return float(np.mean([any(correlation(logits, other) >= AGAIN for other in half) for half in resampled]))


def _least(one: Callable[[], float], other: Callable[[], float]) -> float:
    """Of a sign of two sides: as often as the side that is found more rarely."""
    return min(one(), other())


def _rarer(sign: LatentSign) -> LatentSign:
    """The same sign with the rarer class as the present one."""
    if sign.prevalence <= 0.5:
        return sign
    return replace(sign, weights=-sign.weights, offset=-sign.offset, prevalence=1 - sign.prevalence)


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
