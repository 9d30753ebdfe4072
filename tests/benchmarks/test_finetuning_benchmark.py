"""The benchmark of short fits: it judges by the truth, and says what was fitted."""

import finetuning
import numpy as np
import pytest

from causal_cxr.audits.fidelity import questions
from causal_cxr.data.phantom.world import World
from causal_cxr.editors.diffusion import DiffusionEditor
from causal_cxr.editors.diffusion.inversion import Coupled
from causal_cxr.graphs import default_contrasts


def test_an_editor_that_hardly_edits_is_judged_as_doing_nothing_and_the_shipped_one_better():
    world = World.load("portable")
    phantom = world.sample(4, 5)
    contrasts = [c for c in default_contrasts(phantom.graph, world.content.shifts) if c.attribute == "effusion"]
    asked = questions(phantom, np.arange(4), contrasts, k=4, seed=5)
    shipped = DiffusionEditor.from_shipped("diffusion-portable").using(inversion=Coupled(6))
    found = finetuning.judged(shipped, asked, phantom.attributes, seed=5)
    assert set(found["attributes"]) == {"effusion"}
    assert found["low"] <= found["ratio"] <= found["high"] < 1
    assert found["ratio"] == pytest.approx(found["attributes"]["effusion"]["ratio"])


@pytest.mark.parametrize(("short", "close"), [(0.33, True), (0.36, False)])
def test_a_short_fit_is_good_enough_within_a_tenth_of_the_long_ones_error(short, close):
    compared = finetuning.compared({"short": {"ratio": short}, "long": {"ratio": 0.32}})
    assert compared == {"short_over_long": pytest.approx(short / 0.32), "within_a_tenth": close}


def test_what_a_card_says_is_told(tmp_path):
    card = tmp_path / "card.md"
    card.write_text(
        "# An editor\n\n- data: phantoms\n- fitted: LoRA\n- steps: 600 of 64 images\n- hardware: cpu\n- use: none\n"
    )
    assert finetuning.told(card) == {
        "data": "phantoms",
        "fitted": "LoRA",
        "steps": "600 of 64 images",
        "hardware": "cpu",
    }
    card.write_text("- data: phantoms\n")
    with pytest.raises(ValueError, match="fitted"):
        finetuning.told(card)
