"""The oracle: a phantom's truth behind the protocol of editors."""

import numpy as np
import pytest
import torch

from causal_cxr.data.phantom import Phantom
from causal_cxr.editors import Editor, OracleEditor

ROWS = np.array([4, 0, 17, 9])


@pytest.fixture(scope="module")
def phantom():
    return Phantom(30, "portable", seed=2, size=32)


@pytest.fixture(scope="module")
def oracle(phantom):
    return OracleEditor(phantom)


def test_it_meets_the_protocol_as_a_structural_editor_that_was_fitted_on_no_one(oracle, phantom):
    assert isinstance(oracle, Editor)
    assert oracle.semantics == "structural"
    assert oracle.fitted_on == frozenset()
    assert oracle.attributes == set(phantom.world.graph.attributes), "hidden ones too: truth can set them"


def test_the_fingerprint_is_that_of_its_phantom(oracle, phantom):
    assert OracleEditor(Phantom(30, "portable", seed=2, size=32)).fingerprint == oracle.fingerprint
    assert OracleEditor(Phantom(30, "portable", seed=3, size=32)).fingerprint != oracle.fingerprint


def test_a_null_edit_is_the_image_itself_bit_for_bit(oracle, phantom):
    factual = phantom.attributes.iloc[ROWS]
    abduction = oracle.abduct(phantom.images(ROWS), factual, seeds=ROWS)
    for phrasing in (0, 1):
        assert torch.equal(oracle.edit(abduction, factual, phrasing=phrasing).images, phantom.images(ROWS))


@pytest.mark.parametrize("change", [{"view": "AP"}, {"view": "PA"}, {"age": 25.0}, {"effusion": 1}], ids=str)
def test_edits_are_the_true_counterfactuals(oracle, phantom, change):
    target = phantom.attributes.iloc[ROWS].assign(**change)
    abduction = oracle.abduct(phantom.images(ROWS), phantom.attributes.iloc[ROWS], seeds=ROWS)
    edit = oracle.edit(abduction, target)
    assert torch.equal(edit.images, phantom.counterfactual(target))
    assert not torch.equal(edit.images, phantom.images(ROWS))


def test_every_edit_is_accepted_and_draws_nothing(oracle, phantom):
    target = phantom.attributes.iloc[ROWS].assign(view="AP")
    once, other = (
        oracle.abduct(phantom.images(ROWS), phantom.attributes.iloc[ROWS], seeds=s) for s in (ROWS, ROWS + 1)
    )
    edit = oracle.edit(once, target)
    assert edit.accepted.tolist() == [True] * 4
    assert edit.reasons == ("",) * 4
    assert edit.evaluations == once.evaluations == 0
    assert len(once) == 4
    assert torch.equal(edit.images, oracle.edit(other, target).images)


@pytest.mark.parametrize("stranger", ["other phantom", "other rows", "edited"])
def test_foreign_images_are_refused(oracle, phantom, stranger):
    images = {
        "other phantom": Phantom(30, "portable", seed=3, size=32).images(ROWS),
        "other rows": phantom.images(ROWS[::-1].copy()),
        "edited": phantom.counterfactual(phantom.attributes.iloc[ROWS].assign(view="AP", age=20.0)),
    }[stranger]
    with pytest.raises(ValueError, match="can only edit factual images of its own phantom"):
        oracle.abduct(images, phantom.attributes.iloc[ROWS], seeds=ROWS)


def test_a_null_edits_own_output_can_be_edited_again(oracle, phantom):
    factual = phantom.attributes.iloc[ROWS]
    once = oracle.edit(oracle.abduct(phantom.images(ROWS), factual, seeds=ROWS), factual).images
    twice = oracle.edit(oracle.abduct(once, factual, seeds=ROWS), factual).images
    assert torch.equal(twice, once)


def test_images_of_another_size_or_number_are_refused(oracle, phantom):
    factual = phantom.attributes.iloc[ROWS]
    for images in (torch.zeros(4, 1, 64, 64), phantom.images(ROWS[:1])):
        with pytest.raises(ValueError, match="its own phantom"):
            oracle.abduct(images, factual, seeds=ROWS)


def test_truth_has_one_dose(oracle, phantom):
    factual = phantom.attributes.iloc[ROWS]
    with pytest.raises(ValueError, match="strength 1"):
        oracle.edit(oracle.abduct(phantom.images(ROWS), factual, seeds=ROWS), factual, strength=0.5)
