"""Signs of a place: found in its few features, read from all places where they show, one sign on two sides."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from causal_cxr.readers.candidates import Candidate, taken_apart
from causal_cxr.readers.changes import Changes
from causal_cxr.readers.component_search import find_components
from causal_cxr.readers.component_settings import ComponentSearch
from causal_cxr.readers.latent_sign import LatentSign, SignModel
from causal_cxr.readers.places import Places, valley
from causal_cxr.readers.sign_tests import SignTests

PLACES = [np.arange(12 * k, 12 * (k + 1)) for k in range(10)]
WHOLE = np.arange(120, 126)  #: features of no place, in which the attribute alone shows
EDITED = 400
QUICK = ComponentSearch(resamples=2, atoms=4)


def correlation(one, other):
    return abs(np.corrcoef(one, other)[0, 1])


class Lab:
    """Images in ten places; a view, and a thing that hangs on it, drawn in places as ``shown`` says.

    In the place ``still`` half of the images have a mark that nothing moves.
    """

    def __init__(self, shown, chance=(0.1, 0.7), seed=0, n=1200, still=None):
        rng = np.random.default_rng(seed)
        self.shown, self.chance, self.still = shown, np.array(chance), still
        self.view = (rng.uniform(size=n) < 0.5).astype(float)
        self.noise, self.u = rng.standard_normal((n, 126)), rng.uniform(size=n)
        self.side = (rng.uniform(size=n) < 0.5).astype(float)
        self.patients = np.array([f"p{i}" for i in range(n)])
        self.numbers = (self.view - self.view.mean())[:, None]
        self.features, self.there = self.draw(self.view, np.arange(n))
        rows = np.arange(EDITED)
        edited, _ = self.draw(1 - self.view[rows], rows)
        step = 1 - 2 * self.view[rows]
        labels = np.full(EDITED, "view: PA -> AP"), np.full(EDITED, "view")
        self.changes = Changes(self.features[rows], edited, step[:, None], *labels, step, self.patients[rows])

    def draw(self, view, rows):
        there = (self.u[rows] < self.chance[view.astype(int)]).astype(float)
        images = self.noise[rows].copy()
        images[:, WHOLE] += 3 * view[:, None]
        for place, how in self.shown.items():
            images[:, PLACES[place][:5]] += 3 * (there * how(view, self.side[rows]))[:, None]
        if self.still is not None:
            images[:, PLACES[self.still][:5]] += 3 * self.side[rows][:, None]
        return images, there

    def tests(self):
        none = np.empty((len(self.features), 0))
        return SignTests(self.changes, self.features, self.numbers, none, {}, self.patients, ComponentSearch(), 0)

    def find(self, search=QUICK):
        return find_components(self.changes, self.features, self.numbers, self.patients, search, places=PLACES)


def always(view, side):
    return np.ones(len(view))


def test_a_sign_of_one_place_is_found_there_and_lost_among_all():
    lab = Lab({4: always})
    places = Places(lab.features, lab.numbers, PLACES)
    told = [
        max((correlation(expit(s.logits(lab.features)), lab.there) for s in places.signs(k, lab.changes)), default=0)
        for k in (3, 4)
    ]
    assert told[1] > 0.95
    assert told[0] < 0.6


def test_a_blank_place_has_no_sign():
    lab = Lab({4: always})
    lab.features[:, PLACES[2]] = 0
    assert Places(lab.features, lab.numbers, PLACES).signs(2, lab.changes) == []


def test_a_sign_is_read_from_all_places_where_it_shows():
    lab = Lab({4: always, 7: always})
    places = Places(lab.features, lab.numbers, PLACES)
    begun = max(places.signs(4, lab.changes), key=lambda s: correlation(expit(s.logits(lab.features)), lab.there))
    present = expit(begun.logits(lab.features))
    assert set(places.showing(present)[:2]) == {4, 7}
    grown = places.grown(present, begun)
    weight = [np.linalg.norm(grown.weights[columns]) for columns in PLACES]
    assert set(np.argsort(weight)[-2:]) == {4, 7}
    assert grown.separation > 1.5 * begun.separation


def test_the_sign_is_found_and_nothing_else():
    lab = Lab({4: always})
    kept = [f for f in lab.find() if not f.verdict]
    assert len(kept) == 1
    assert correlation(expit(kept[0].sign.logits(lab.features)), lab.there) > 0.97
    assert kept[0].effect == pytest.approx(0.6, abs=0.08)
    assert kept[0].selection == 1.0


def test_where_nothing_is_moved_nothing_is_found():
    lab = Lab({4: always}, chance=(0.4, 0.4))
    assert [f for f in lab.find() if not f.verdict] == []


@pytest.mark.parametrize("asked", [{"crisp": 1e6}, {"valley": 0.0}])
def test_a_sign_of_places_must_be_crisp(asked):
    lab = Lab({4: always})
    assert [f for f in lab.find(replace(QUICK, **asked)) if not f.verdict] == []


def test_a_thing_on_either_side_is_one_sign():
    lab = Lab({2: lambda view, side: side, 7: lambda view, side: 1 - side})
    (kept,) = [f for f in lab.find() if not f.verdict]
    assert correlation(expit(kept.sign.logits(lab.features)), lab.there) > 0.95
    assert kept.effect == pytest.approx(0.6, abs=0.08)


def test_sides_exclude_each_other_and_strangers_do_not():
    lab = Lab({2: lambda view, side: side, 7: lambda view, side: 1 - side})
    places = Places(lab.features, lab.numbers, PLACES)
    assert places.exclude(lab.there * lab.side, lab.there * (1 - lab.side))
    assert not places.exclude(lab.there, lab.side)
    rare = np.zeros(len(lab.there))
    rare[:3] = 1  # never together with anything, by chance
    assert not places.exclude(rare, lab.there)


def test_what_moves_to_another_place_has_not_gone():
    """The view does nothing but shift a thing, which half of the images have: each place sees it come and go."""
    lab = Lab({2: lambda view, side: view, 7: lambda view, side: 1 - view}, chance=(0.5, 0.5))
    found = lab.find()
    assert [f for f in found if not f.verdict] == []
    assert any("not gone: where it is hidden it can be told" in f.verdict or "a look of" in f.verdict for f in found)


def test_what_moves_is_told_by_its_trace_and_what_goes_is_not():
    def answer(lab):
        tests = lab.tests()
        places = Places(lab.features, lab.numbers, PLACES)
        signs = places.signs(2, lab.changes)
        sign = max(signs, key=lambda s: abs(tests.effects(s)["view: PA -> AP"][0]))
        return tests.stayed(sign, "view: PA -> AP", np.concatenate([PLACES[2], PLACES[7]]))

    shifted = {
        2: lambda view, side: np.where(view == 1, 1, 0.0),
        7: lambda view, side: np.where(view == 1, 0.0, 1),
    }
    assert answer(Lab({2: always})) == ""
    assert "not gone" in answer(Lab(shifted, chance=(0.5, 0.5)))


def test_what_comes_where_it_was_not_and_goes_where_it_was_is_no_sign_that_goes():
    """Under AP a thing is where it is not under PA, in each image: whatever lacks it has had it."""
    lab = Lab({4: lambda view, side: np.where(side == 1, view, 1 - view)}, chance=(1, 1))
    tests = lab.tests()
    there = np.where(lab.side == 1, lab.view, 1 - lab.view)
    sign = SignModel(lab.features[:, PLACES[4]], lab.numbers).refit(there)
    weights = np.zeros(126)
    weights[PLACES[4]] = sign.weights
    assert "AUROC 1.00" in tests.stayed(replace(sign, weights=weights), "view: PA -> AP", PLACES[4])


def test_where_labels_are_wrong_a_look_is_told_by_what_reads_the_attribute():
    lab, rng = Lab({4: always}), np.random.default_rng(0)
    half = lab.view * lab.side  # how the view looks in one half of the images
    wrong = np.where(rng.uniform(size=1200) < 0.1, 1 - lab.view, lab.view)

    def answer(looks):
        tests = SignTests(
            lab.changes, lab.features, (wrong - wrong.mean())[:, None], looks, {}, lab.patients, ComponentSearch(), 0
        )
        return tests.look(half, 0.5, "view: PA -> AP")

    assert answer(np.empty((1200, 0))) == ""
    assert (
        answer(lab.view[:, None])
        == "a look of a labelled attribute: at its other level it shows in 0.0% instead of 50%"
    )


def test_a_blend_of_signs_is_a_mixture_and_they_are_not():
    lab = Lab({4: always})
    mark = (lab.noise[:, 0] > 0).astype(float)
    tests = lab.tests()
    blend = lab.there * mark
    assert "a mixture of other components, which explain 1" in tests.mixture(blend, [lab.there, mark])
    assert tests.mixture(lab.there, [mark]) == ""


def either(*places):
    """A detector that sees a sign where a thing or a mark is in one of the places."""
    weights = np.zeros(126)
    weights[np.concatenate([PLACES[place][:5] for place in places])] = 1.0
    return LatentSign(weights, -7.5, 0.5, 20.0, 0.9)


def test_what_goes_is_told_from_what_stays_in_two_signs_taken_for_one_and_not_in_one():
    lab = Lab({2: always}, still=7)
    columns = np.concatenate([PLACES[2], PLACES[7]])
    gone = lab.tests().kinds(either(2, 7), "view: PA -> AP", columns)
    one_only = lab.there != lab.side
    assert np.mean(gone[one_only] == lab.there[one_only]) > 0.95
    assert lab.tests().kinds(either(2), "view: PA -> AP", columns) is None


def test_two_signs_in_one_are_taken_apart():
    lab = Lab({2: always}, still=7)
    places = Places(lab.features, lab.numbers, PLACES)
    blend, thing = (Candidate.of(either(*p), lab.tests(), lambda: 1.0) for p in ((2, 7), (2,)))
    goes, stays = taken_apart(blend, lab.tests(), places)
    assert correlation(goes.present, lab.there) > 0.97
    assert goes.effect == pytest.approx(0.6, abs=0.08)
    assert correlation(stays.present, lab.side) > 0.97
    assert not stays.moves(ComponentSearch())
    assert taken_apart(thing, lab.tests(), places) == []


def test_a_valley_lies_between_two_classes_and_none_in_one_that_was_cut():
    rng = np.random.default_rng(0)
    two = np.r_[rng.normal(-6, 1.5, 700), rng.normal(6, 1.5, 300)]
    assert valley(two) < 0.01
    assert valley(rng.normal(-1, 1, 1000)) == pytest.approx(1.0, abs=0.05)
    assert valley(np.full(10, 3.0)) == 1.0
