from types import SimpleNamespace

import numpy as np
import pytest

from causal_cxr.readers.changes import Changes
from causal_cxr.readers.component_settings import ComponentSearch
from causal_cxr.readers.sign_tests import SignTests

FIRST = SimpleNamespace(logits=lambda features: features[:, 0])  # a sign that shows where the first feature is above 0


def kept_by(patients: np.ndarray) -> SignTests:
    """An edit that takes the sign from 46 images of as many patients, and leaves it in 14 more, of these patients.

    The second feature tells which it leaves.
    """
    rng = np.random.default_rng(0)
    null, edited = rng.normal(size=(2, 60, 6))
    keeps = np.arange(60) < 14
    null[:, 0], edited[:, 0] = 1.0, np.where(keeps, 1.0, -1.0)
    null[:, 1] += 6 * keeps
    who = np.concatenate([patients, [f"other {i}" for i in range(46)]])
    names = np.full(60, "view: PA -> AP")
    changes = Changes(null, edited, np.zeros((60, 1)), names, np.full(60, "view"), np.ones(60), who)
    return SignTests(changes, null, np.zeros((60, 0)), np.zeros((60, 0)), {}, who, ComponentSearch(), seed=0)


@pytest.mark.parametrize(("patients", "told"), [(14, True), (2, False), (1, False)])
def test_images_of_a_few_patients_do_not_tell_two_signs_in_one(patients, told):
    tests = kept_by(np.array([f"keeps {i % patients}" for i in range(14)]))
    gone = tests.kinds(FIRST, "view: PA -> AP", np.arange(1, 6))
    assert (gone is not None) == told
    if told:
        assert (gone == (np.arange(60) >= 14)).mean() > 0.95


def test_one_patients_images_do_not_make_a_sign_an_attributes_look():
    present = np.where(np.arange(60) < 20, 0.0, np.tile([0.2, 0.9], 30))
    who = np.array([f"p{i}" for i in range(60)])
    looks = (np.arange(60) < 20).astype(float)[:, None]
    for few, said in ((False, "a look of a labelled attribute"), (True, "")):
        patients = np.where((np.arange(60) < 20) & few, "p0", who)
        search = ComponentSearch(explained=1.0)
        tests = SignTests(None, looks, np.zeros((60, 0)), looks, {}, patients, search, seed=0)
        assert tests.look(present, 0.1, "view: PA -> AP").startswith(said)
        assert bool(tests.look(present, 0.1, "view: PA -> AP")) == (not few)
