"""The benchmark of short fits: it judges by the truth, and says what was fitted."""

from types import SimpleNamespace

import finetuning
import numpy as np
import pandas as pd
import pytest

from causal_cxr.audits.fidelity import questions
from causal_cxr.data.phantom.world import World
from causal_cxr.editors.diffusion import DiffusionEditor
from causal_cxr.editors.diffusion.inversion import Coupled
from causal_cxr.graphs import default_contrasts


def test_an_editor_is_judged_by_the_truth_and_what_it_moves_along():
    world = World.load("portable")
    phantom = world.sample(4, 5)
    contrasts = [c for c in default_contrasts(phantom.graph, world.content.shifts) if c.attribute == "effusion"]
    asked = questions(phantom, np.arange(4), contrasts, k=4, seed=5)
    cells = pd.DataFrame({"own": [False], "true": [0.5], "made": [0.1], "n": [4]})
    judge = SimpleNamespace(
        asked=asked, images=phantom.images(np.arange(4)), factual=phantom.attributes, seed=5,
        leak_by=lambda reader, made: SimpleNamespace(cells=cells),
    )  # fmt: skip
    shipped = DiffusionEditor.from_shipped("diffusion-portable").using(inversion=Coupled(6))
    found = finetuning.judged(shipped, judge)
    assert set(found["attributes"]) == {"effusion"}
    assert found["low"] <= found["ratio"] <= found["high"] < 1
    assert found["ratio"] == pytest.approx(found["attributes"]["effusion"]["ratio"])
    assert found["moved"] == pytest.approx(0.2)


def test_signs_that_truth_moves_count_by_their_images_and_the_others_do_not():
    cells = pd.DataFrame(
        [
            (False, 0.6, 0.3, 30),  # half of the way
            (False, -0.4, -0.4, 10),  # all of it
            (False, 0.1, 0.9, 50),  # truth hardly moves it
            (True, 1.0, 0.2, 40),  # what was set itself
        ],
        columns=["own", "true", "made", "n"],
    )
    assert finetuning.moved(cells) == pytest.approx((0.3 * 30 + 0.4 * 10) / (0.6 * 30 + 0.4 * 10))


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
