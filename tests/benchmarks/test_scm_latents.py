import numpy as np
import pytest
import scm_latents
from scm_latents import VARIANTS, fitted_variant, scored

from causal_cxr.audits.fidelity import questions
from causal_cxr.data.phantom.world import World
from causal_cxr.graphs import default_contrasts


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(scm_latents, "FIT_IMAGES", 40)
    return World.load("portable")


def test_a_fit_is_kept_and_not_taken_for_another_variant(world, tmp_path, monkeypatch):
    first, other = VARIANTS["vector of 16, scale 0.2"], VARIANTS["vector of 16, scale 0.4"]
    editor = fitted_variant(first, world, steps=1, folder=tmp_path)
    assert editor.image_model.settings["scale"] == 0.2
    monkeypatch.setattr(scm_latents, "fit_image_model", None)
    assert fitted_variant(first, world, steps=1, folder=tmp_path).fingerprint == editor.fingerprint
    with pytest.raises(ValueError, match="holds another variant"):
        fitted_variant(other, world, steps=1, folder=tmp_path)


def test_an_editor_that_does_not_hear_of_attributes_scores_as_doing_nothing(world, tmp_path):
    phantom, rows = world.sample(6, 1), np.arange(6)
    asked = questions(phantom, rows, default_contrasts(phantom.graph, world.content.shifts), k=2, seed=1)
    editor = fitted_variant(VARIANTS["map of 2, scale 0.1"], world, steps=1, folder=tmp_path)
    for name, parameter in editor.image_model.named_parameters():
        if ".film." in name:
            parameter.data.zero_()
    found = scored(editor, phantom.images(rows), phantom.attributes, asked)
    assert found["error_ratio_nothing"] == pytest.approx(1, abs=1e-3)
    assert found["tea_effectiveness"] == pytest.approx(0, abs=1e-3)
    assert found["low"] <= found["error_ratio_nothing"] <= found["high"]
