"""Components without a name: signs that interventions move in some images, found again on resampled patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from causal_cxr.readers.candidates import (
    SAME,
    Candidate,
    grown,
    in_places,
    in_the_whole,
    joined,
    taken_apart,
)  # fmt: skip
from causal_cxr.readers.changes import Changes
from causal_cxr.readers.component_settings import ComponentSearch
from causal_cxr.readers.latent_sign import LatentSign
from causal_cxr.readers.places import Places
from causal_cxr.readers.resamples import Resamples
from causal_cxr.readers.sign_tests import SignTests, correlation

COVERED = 0.7  #: share of a sign's presence that its parts make up, from which it is the whole of them
REPETITION = "the same as another"  #: no news; not reported
A_PART = "a part of another component"
A_BLEND = "two signs in one: what an intervention takes away looks otherwise than what it leaves"


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
    each other, as a drain on the left and one on the right, are one. Of a sign and its parts the whole is kept. Where what an
    intervention takes away can be told from what it leaves, two signs in one are taken apart.

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
    resamples = Resamples(tests, local)

    candidates, still = in_the_whole(tests, local, resamples), list[Candidate]()
    if places:
        begun, still = in_places(tests, local, resamples)
        candidates += grown([*candidates, *begun], tests, local)
    reasons = {id(c): _alone(c, tests, local) for c in candidates}
    if places:
        for candidate in [c for c in candidates if not reasons[id(c)]]:
            if parts := taken_apart(candidate, tests, local):
                reasons[id(candidate)] = A_BLEND
                candidates += parts
                still += parts
        reasons |= {id(c): _alone(c, tests, local) for c in candidates if id(c) not in reasons}
        sides = joined([c for c in candidates if not reasons[id(c)]], tests, local)
        candidates += sides
        reasons |= {id(c): _alone(c, tests, local) for c in sides}
    good = [c for c in candidates if not reasons[id(c)]]
    reasons |= _beside(_wholes_first(good, local), tests, local, still)
    found = [_found(c, reasons[id(c)], changes) for c in candidates if reasons[id(c)] != REPETITION]
    return tuple(sorted(found, key=lambda f: (f.verdict != "", -abs(f.effect))))


def _found(candidate: Candidate, why: str, changes: Changes) -> Found:
    contrast, effects = candidate.contrast, candidate.effects
    attribute = str(changes.attribute[changes.contrast == contrast][0])
    selection = candidate.again() if not why or "resamples" in why else None
    return Found(candidate.sign, attribute, contrast, *effects[contrast], effects, selection, why)


def _alone(candidate: Candidate, tests: SignTests, local: Places) -> str:
    """Why a candidate is no sign, whatever else was found; the costly tests last."""
    present, contrast, effect = candidate.present, candidate.contrast, candidate.effect
    return (
        tests.not_moved(candidate.effects[contrast], contrast)
        or tests.look(present, effect, contrast)
        or tests.name(present)
        or tests.stayed(candidate.sign, contrast, local.around(present))
        or tests.chance(candidate.again())
    )


def _wholes_first(good: Sequence[Candidate], local: Places) -> list[Candidate]:
    """Those that two others which exclude each other make up, then the best separated."""

    def whole(candidate: Candidate) -> bool:
        parts = [other for other in good if candidate.holds(other)]
        if not any(local.exclude(one.present, other.present) for one, other in combinations(parts, 2)):
            return False
        made = np.clip(np.sum([part.present for part in parts], axis=0), 0, 1)
        return float((made * candidate.present).sum()) >= COVERED * float(candidate.present.sum())

    return sorted(good, key=lambda candidate: (not whole(candidate), -candidate.sign.separation))


def _beside(
    ordered: Sequence[Candidate], tests: SignTests, local: Places, still: Sequence[Candidate]
) -> dict[int, str]:
    """Why a candidate is left out beside the others, by its ``id``; ``""`` if it is not.

    A mixture may be one of those that are kept and of ``still``: crisp signs that nothing moves, and parts of blends.
    """

    def same(one: Candidate, other: Candidate) -> bool:
        own = [local.own(candidate.present) for candidate in (one, other)]
        return one is other or other.begun is one or one.begun is other or correlation(*own) >= SAME

    reasons, kept = dict[int, str](), list[Candidate]()
    for candidate in ordered:
        others = [other.present for other in dict.fromkeys([*kept, *still]) if not same(candidate, other)]
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
        others = [other.present for other in dict.fromkeys([*rest, *still]) if not same(candidate, other)]
        why = A_PART if any(other.holds(candidate) for other in rest) else tests.mixture(candidate.present, others)
        if why:
            reasons[id(candidate)], kept = why, rest
    return reasons


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
