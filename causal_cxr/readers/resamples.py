"""Stability selection: is a sign found again where everything is done anew on halves of the patients?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from causal_cxr.readers.changes import Changes
from causal_cxr.readers.places import Places
from causal_cxr.readers.sign_tests import SignTests, correlation

AGAIN = 0.8  #: correlation of two detectors' logits, from which they are one sign, found again


@dataclass(frozen=True, eq=False)
class Half:
    """One half of the patients.

    Attributes:
        seed: of what is done on it.
        images: rows of its unedited images.
        changes: its pairs.
        local: its unedited images and the places of their features.
    """

    seed: int
    images: np.ndarray
    changes: Changes
    local: Places


class Resamples:
    """Complementary pairs of halves (Shah & Samworth, JRSS B 2013), edited patients and the others halved apart.

    Args:
        tests: of the whole.
        local: its places.
    """

    def __init__(self, tests: SignTests, local: Places) -> None:
        self._features = tests.features
        self.halves: list[Half] = []
        self._places: dict[int, list[list[np.ndarray]]] = {}
        rng = np.random.default_rng([tests.seed, 55])
        of_pairs = tests.changes.patients
        edited = np.unique(of_pairs)
        others = np.setdiff1d(np.unique(tests.patients), edited)
        for _ in range(tests.search.resamples // 2):
            first = {str(p) for group in (edited, others) for p in rng.permutation(group)[: len(group) // 2]}
            for inside in (True, False):
                pairs, images = (
                    np.flatnonzero([(str(p) in first) == inside for p in ids]) for ids in (of_pairs, tests.patients)
                )
                places = Places(tests.features[images], tests.attributes[images], local.columns)
                number = tests.seed + len(self.halves) + 1
                self.halves.append(Half(number, images, tests.changes.of(pairs), places))

    def in_place(self, place: int) -> list[list[np.ndarray]]:
        """Of each half, the signs that are found in a place, as logits in all images; looked for once."""
        if place not in self._places:
            self._places[place] = [
                [sign.logits(self._features) for sign in half.local.signs(place, half.changes, seed=half.seed)]
                for half in self.halves
            ]
        return self._places[place]

    @staticmethod
    def share(wanted: np.ndarray, found: Callable[[], Sequence[Sequence[np.ndarray]]]) -> float:
        """Of the halves, in which one is like it.

        Args:
            wanted: ``(n,)`` logits of a sign.
            found: asked when it is needed: of each half, the logits of the signs found where this one was.
        """
        return float(np.mean([any(correlation(wanted, other) >= AGAIN for other in signs) for signs in found()]))
