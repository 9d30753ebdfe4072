"""Where components without a name are looked for: in the whole embedding, place by place, and in what others are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np
from scipy.special import expit

from causal_cxr.readers.changes import Changes, change_directions
from causal_cxr.readers.component_settings import ComponentSearch
from causal_cxr.readers.latent_sign import LatentSign, SignModel
from causal_cxr.readers.places import Axes, Places, valley
from causal_cxr.readers.resamples import Resamples
from causal_cxr.readers.sign_tests import SignTests, correlation

SAME = 0.7  #: correlation of two detectors' logits, over which they are one sign
ALIKE = 0.95  #: the same, over which one of two guesses is enough
REPEATED = 0.9  #: the same, over which only one of two signs is looked for in more places, and a part is the whole
HALF = 0.5  #: correlation of a sign with what a blend shows of it: where both parts of the blend are, it shows but one
LARGER = 1.2  #: a whole is so many times as frequent as its part
PART = 0.8  #: share of a sign's presence in which another shows, too, from which it is a part of that one


@dataclass(frozen=True, eq=False)
class Candidate:
    """A sign and what interventions do to it.

    Attributes:
        sign: its detector on the features as they came.
        logits: ``(n,)`` in the unedited images.
        effects: of all interventions.
        again: the share of the resampled halves of the patients in which it is found again, or what it came from.
        begun: the candidate that it grew from.
    """

    sign: LatentSign
    logits: np.ndarray
    effects: dict[str, tuple[float, float]]
    again: Callable[[], float]
    begun: "Candidate | None" = None

    @classmethod
    def of(
        cls, sign: LatentSign, tests: SignTests, again: Callable[[], float], begun: "Candidate | None" = None
    ) -> "Candidate":
        """Of two classes the rarer is the sign."""
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

    def holds(self, other: "Candidate") -> bool:
        """Whether the other is a part of it: the same intervention moves both, and it is there wherever the other is."""
        both = float((self.present * other.present).sum())
        own, parts = float(self.present.sum()), float(other.present.sum())
        return self.contrast == other.contrast and own >= LARGER * parts and both >= PART * parts


def in_the_whole(tests: SignTests, local: Places, resamples: Resamples) -> list[Candidate]:
    """Signs in the features of no place, or in all where each belongs to one."""
    search, seed, width = tests.search, tests.seed, tests.features.shape[1]
    columns = np.setdiff1d(np.arange(width), np.concatenate([*local.columns, np.empty(0, dtype=int)]))
    axes = Axes.fit(tests.features, columns if len(columns) else np.arange(width), search.components)
    scores, changes = axes.scores(tests.features), axes.mapped(tests.changes)

    def directions(pairs: Changes, images: np.ndarray, fresh: int) -> np.ndarray:
        return change_directions(pairs, np.cov(images.T), atoms=search.atoms, penalty=search.penalty, seed=fresh)

    resampled = []
    for half in resamples.halves:
        part = scores[half.images]
        guesses = [part @ direction for direction in directions(axes.mapped(half.changes), part, half.seed)]
        signs = _signs(SignModel(part, tests.attributes[half.images]), guesses, search, half.seed)
        resampled.append([sign.logits(scores) for sign in signs])
    guesses = [scores @ direction for direction in directions(changes, scores, seed)]
    guesses += _different([logits for found in resampled for logits in found], ALIKE)
    return [
        Candidate.of(axes.lifted(sign, width), tests, partial(resamples.share, sign.logits(scores), lambda: resampled))
        for sign in _signs(SignModel(scores, tests.attributes), guesses, search, seed)
    ]


def in_places(tests: SignTests, local: Places, resamples: Resamples) -> tuple[list[Candidate], list[Candidate]]:
    """Signs of each place alone, those that move and the crisp ones among those that do not."""
    moving, still = list[Candidate](), list[Candidate]()
    for place in range(len(local)):
        for sign in _apart(local.signs(place, tests.changes, seed=tests.seed), tests.features, tests.search):
            again = partial(resamples.share, sign.logits(tests.features), partial(resamples.in_place, place))
            candidate = Candidate.of(sign, tests, again)
            if candidate.moves(tests.search):
                moving.append(candidate)
            elif candidate.is_crisp(tests.search):
                still.append(candidate)
    return moving, still


def grown(begun: Sequence[Candidate], tests: SignTests, local: Places) -> list[Candidate]:
    """What moves, read from all places where it shows; only where it is crisp there."""
    moving = [candidate for candidate in begun if candidate.moves(tests.search)]
    kept = {id(logits) for logits in _different([candidate.logits for candidate in moving], REPEATED)}
    grown = []
    for candidate in moving:
        if id(candidate.logits) not in kept:
            continue
        sign = local.grown(candidate.present, candidate.sign)
        if sign is not None and sign is not candidate.sign:
            grown.append(Candidate.of(sign, tests, candidate.again, candidate))
    return _once([candidate for candidate in grown if candidate.is_crisp(tests.search)])


def _once(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Of those that are nearly the same the best separated."""
    ordered = sorted(candidates, key=lambda candidate: -candidate.sign.separation)
    kept = {id(logits) for logits in _different([candidate.logits for candidate in ordered], ALIKE)}
    return [candidate for candidate in ordered if id(candidate.logits) in kept]


def joined(good: Sequence[Candidate], tests: SignTests, local: Places) -> list[Candidate]:
    """Signs of two sides: one intervention moves both the same way, and where one is the other is not."""
    joined = list[Candidate]()
    for one, other in combinations(good, 2):
        alike = one.contrast == other.contrast and one.effect * other.effect > 0
        if not alike or not local.exclude(one.present, other.present):
            continue
        sign = local.grown(np.clip(one.present + other.present, 0, 1))
        if sign is not None:
            joined.append(Candidate.of(sign, tests, partial(_rarest, (one, other))))
    return _once([candidate for candidate in joined if candidate.is_crisp(tests.search)])


def taken_apart(candidate: Candidate, tests: SignTests, local: Places) -> list[Candidate]:
    """The crisp signs that a blend is made of: of what an intervention takes away, and of what it leaves; none of one thing."""
    gone = tests.kinds(candidate.sign, candidate.contrast, local.around(candidate.present))
    if gone is None:
        return []
    parts = list[Candidate]()
    for kind in (gone, ~gone):
        sign = local.grown(candidate.present * kind, stays=HALF)
        if sign is None:
            continue
        part = Candidate.of(sign, tests, candidate.again)
        alike = correlation(local.own(part.present), local.own(candidate.present))
        if part.is_crisp(tests.search) and alike < REPEATED:
            parts.append(part)
    return parts


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


def _rarest(sides: Sequence[Candidate]) -> float:
    """A sign of two sides is found again as often as the side that is found more rarely."""
    return min(side.again() for side in sides)


def _rarer(sign: LatentSign) -> LatentSign:
    """The same sign with the rarer class as the present one."""
    if sign.prevalence <= 0.5:
        return sign
    return replace(sign, weights=-sign.weights, offset=-sign.offset, prevalence=1 - sign.prevalence)
