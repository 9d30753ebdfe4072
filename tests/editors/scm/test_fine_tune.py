"""Counterfactual fine-tuning: edits come to be read as intended, the fit to the images is kept."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal

from causal_cxr.editors.scm import ConditionalVAE, HierarchicalVAE, SCMEditor, fine_tune, fit_image_model
from causal_cxr.editors.scm.fine_tune import _misread
from causal_cxr.graphs import Binary, CausalGraph, Continuous

GRAPH = CausalGraph([Continuous("level", unit="grey", low=0, high=1), Binary("side")])


class Bars:
    """A bar on the left or the right, of a grey level; the level is hard to learn from 60 steps."""

    texts, fingerprint = None, "bars"

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(0)
        self.attributes = GRAPH.coerce(pd.DataFrame({"level": rng.uniform(0.2, 0.9, n), "side": rng.integers(0, 2, n)}))
        self.patients = pd.Series([str(i) for i in range(n)])

    def images(self, rows: np.ndarray) -> Tensor:
        images = torch.full((len(rows), 1, 16, 16), 0.1)
        for image, row in zip(images, rows, strict=True):
            left = 2 if self.attributes["side"][row] == 0 else 9
            image[0, 4:12, left : left + 5] = self.attributes["level"][row]
        return images


def level(images: Tensor) -> Distribution:
    return Normal(images.flatten(1).topk(30)[0].mean(1), 0.05)


def side(images: Tensor) -> Distribution:
    right_minus_left = images[..., 8:].mean((1, 2, 3)) - images[..., :8].mean((1, 2, 3))
    return Categorical(logits=torch.stack([-20 * right_minus_left, 20 * right_minus_left], 1))


PREDICTORS = {"level": level, "side": side}
DATA, ROWS = Bars(300), np.arange(256)


@pytest.fixture(scope="module")
def fitted() -> SCMEditor:
    return fit_image_model(
        DATA, ROWS, GRAPH, lambda n: ConditionalVAE(n, width=16), steps=120, evaluate_every=40, residual=0.0
    )


def misread(editor: SCMEditor) -> float:
    """Error of the level read under do(level), on rows that no fit saw."""
    rows = np.arange(256, 300)
    factual = DATA.attributes.iloc[rows]
    target = editor.scm.counterfactual(factual, {"level": factual["level"].to_numpy()[::-1]})
    edited = editor.edit(editor.abduct(DATA.images(rows), factual, seeds=rows), target).images
    return float(np.abs(level(edited).mean.numpy() - target["level"]).mean())


def bound(editor: SCMEditor) -> float:
    from causal_cxr.editors.scm.editor import conditions

    torch.manual_seed(0)
    with torch.no_grad():
        return float(editor.image_model.bound(DATA.images(ROWS), conditions(GRAPH, DATA.attributes.iloc[ROWS]))[0])


def test_edits_come_to_be_read_as_intended_and_the_bound_is_kept(fitted: SCMEditor) -> None:
    before, fingerprint = misread(fitted), fitted.fingerprint
    tuned = fine_tune(fitted, DATA, ROWS, PREDICTORS, steps=150, learning_rate=1e-3)
    assert misread(tuned) < 0.6 * before
    assert bound(tuned) < bound(fitted) + 0.02 * abs(bound(fitted))
    assert fitted.fingerprint == fingerprint != tuned.fingerprint  # the given editor is as it was
    assert (tuned.fitted_on, tuned.residual) == (fitted.fitted_on, fitted.residual)


def test_what_is_not_moved_is_held_to_the_factual_reading_or_to_its_label() -> None:
    images, table = DATA.images(ROWS[:40]), DATA.attributes.iloc[ROWS[:40]]
    codes = {name: torch.tensor(GRAPH.attributes[name].encode(table[name])).float() for name in PREDICTORS}
    still = {name: torch.zeros(40, dtype=torch.bool) for name in PREDICTORS}
    soft = _misread(PREDICTORS, images, images, codes, still, "soft")
    assert {name: float(error) for name, error in soft.items()} == {"level": 0, "side": 0}  # they are read as they were
    labels = {name: -predictor(images).log_prob(codes[name]).mean() for name, predictor in PREDICTORS.items()}
    torch.testing.assert_close(_misread(PREDICTORS, images, images, codes, still, "hard"), labels)
    moved = {name: torch.ones(40, dtype=torch.bool) for name in PREDICTORS}
    torch.testing.assert_close(_misread(PREDICTORS, images, images, codes, moved, "soft"), labels)


@pytest.mark.parametrize(
    ("options", "calls"), [({}, 9), ({"misreading": {"side": 0.01}, "attribute_weights": {"side": 2.0}}, 41)]
)
def test_a_killed_fine_tuning_goes_on_to_the_same_bits(
    fitted: SCMEditor, tmp_path: Path, options: dict[str, object], calls: int
) -> None:
    class PowerCutError(Exception):
        pass

    options = {"steps": 12, "save_every": 4, **options}
    whole = fine_tune(fitted, DATA, ROWS, PREDICTORS, checkpoint=tmp_path / "whole", **options)
    left = iter(range(calls))

    def failing(images: Tensor) -> Distribution:
        if next(left, None) is None:
            raise PowerCutError
        return side(images)

    with pytest.raises(PowerCutError):
        fine_tune(fitted, DATA, ROWS, {"level": level, "side": failing}, checkpoint=tmp_path / "part", **options)
    assert (tmp_path / "part/state.safetensors").exists()
    again = fine_tune(fitted, DATA, ROWS, PREDICTORS, checkpoint=tmp_path / "part", **options)
    assert again.fingerprint == whole.fingerprint


def test_errors_name_the_offence(fitted: SCMEditor) -> None:
    with pytest.raises(ValueError, match=r"given for \['marker'\]; the editor draws \['level', 'side'\]"):
        fine_tune(fitted, DATA, ROWS, {"marker": side}, steps=1)
    with pytest.raises(ValueError, match="given for nothing"):
        fine_tune(fitted, DATA, ROWS, {}, steps=1)


def test_while_edits_are_misread_the_bound_is_not_paid_for(fitted: SCMEditor) -> None:
    """A bound that must grow better and edits that must be as good as real images cannot both be had."""
    options = {"steps": 120, "learning_rate": 1e-3, "slack": -0.5, "first_price": 1.0}
    bound_first, edits_first = (
        fine_tune(fitted, DATA, ROWS, PREDICTORS, **options, misreading=limits) for limits in (None, {"level": 0.01})
    )
    assert misread(edits_first) < misread(bound_first)


def test_a_price_that_is_given_buys_a_better_bound_the_higher_it_is(fitted: SCMEditor) -> None:
    options = {"steps": 100, "learning_rate": 1e-3}
    dear, cheap = (
        fine_tune(fitted, DATA, ROWS, PREDICTORS, **options, first_price=price, last_price=price)
        for price in (3.0, 0.001)
    )
    assert bound(dear) < bound(fitted)
    assert bound(dear) < bound(cheap)
    assert misread(cheap) < misread(dear)
    rising = fine_tune(fitted, DATA, ROWS, PREDICTORS, **options, first_price=0.001, last_price=3.0)
    assert bound(dear) < bound(rising) < bound(cheap)


def test_what_is_read_are_the_edits_as_the_editor_makes_them(fitted: SCMEditor) -> None:
    """With all of the pixel noise replayed, what the decoder does not draw itself stays in the edit, and is misread."""
    given: dict[float, Tensor] = {}

    class SeenError(Exception):
        pass

    def watched(images: Tensor) -> Distribution:
        given.setdefault(residual, images.detach())
        raise SeenError

    rows = np.arange(2)
    for residual in (0.0, 1.0):
        editor = SCMEditor(fitted.scm, fitted.image_model, residual=residual)
        with pytest.raises(SeenError):
            fine_tune(editor, DATA, rows, {"side": watched}, steps=1)
    assert float((given[1.0] - given[0.0]).abs().max()) > 1e-3


def test_an_attribute_of_more_weight_is_edited_better(fitted: SCMEditor) -> None:
    little, much = (
        fine_tune(fitted, DATA, ROWS, PREDICTORS, steps=60, learning_rate=1e-3, attribute_weights={"level": weight})
        for weight in (0.0, 3.0)
    )
    assert misread(much) < misread(little)


def test_detail_alone_is_trained_and_the_coarse_latents_stay() -> None:
    from causal_cxr.editors.scm.editor import conditions

    stages = ((2, 16, 1, 2), (16, 16, 1, 4))
    fitted = fit_image_model(
        DATA, ROWS, GRAPH, lambda n: HierarchicalVAE(n, stages, prior="mediator", divergence_weights=(1, 1)), steps=60
    )
    before = fitted.image_model.reweighted((0.1, 1))
    cheap = SCMEditor(fitted.scm, before, residual=0.0, fitted_on=fitted.fitted_on)
    tuned = fine_tune(cheap, DATA, ROWS, PREDICTORS, steps=60, learning_rate=2e-3, last_price=0.1, detail_only=True)
    changed = {
        name
        for (name, old), new in zip(before.named_parameters(), tuned.image_model.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed == set(before.detail())
    images, condition = DATA.images(ROWS), conditions(GRAPH, DATA.attributes.iloc[ROWS])
    (coarse, fine), (kept, moved) = (m.abduct(images, condition) for m in (before, tuned.image_model))
    torch.testing.assert_close(coarse, kept)
    assert not torch.allclose(fine, moved, atol=1e-2)
    assert all(parameter.requires_grad for parameter in tuned.image_model.parameters())


def test_fits_in_half_precision_learn_as_much(fitted: SCMEditor) -> None:
    half = fit_image_model(
        DATA, ROWS, GRAPH, lambda n: ConditionalVAE(n, width=16), steps=120, evaluate_every=40, residual=0.0,
        mixed_precision="bf16",
    )  # fmt: skip
    assert not torch.equal(half.image_model.leave.weight, fitted.image_model.leave.weight)
    assert bound(half) == pytest.approx(bound(fitted), abs=0.1)
    tuned = [fine_tune(fitted, DATA, ROWS, PREDICTORS, steps=60, mixed_precision=p) for p in ("no", "bf16")]
    assert misread(tuned[1]) < 0.7 * misread(fitted)
    assert misread(tuned[1]) == pytest.approx(misread(tuned[0]), rel=0.2)


def test_one_latent_map_has_no_detail_to_train(fitted: SCMEditor) -> None:
    with pytest.raises(ValueError, match="detail_only needs a ladder of latents, and ConditionalVAE has none"):
        fine_tune(fitted, DATA, ROWS, PREDICTORS, steps=1, detail_only=True)


@pytest.mark.parametrize("option", ["attribute_weights", "misreading"])
def test_a_weight_or_limit_needs_a_predictor(fitted: SCMEditor, option: str) -> None:
    with pytest.raises(ValueError, match=r"name \['age'\]; predictors are given for \['level', 'side'\]"):
        fine_tune(fitted, DATA, ROWS, PREDICTORS, steps=1, **{option: {"age": 1.0}})


def test_limits_and_a_given_price_exclude_each_other(fitted: SCMEditor) -> None:
    with pytest.raises(ValueError, match="misreading and last_price both say what an edit may cost"):
        fine_tune(fitted, DATA, ROWS, PREDICTORS, steps=1, misreading={"level": 0.1}, last_price=0.1)


def test_a_limit_of_no_nats_is_refused(fitted: SCMEditor) -> None:
    with pytest.raises(ValueError, match=r"misreading is {'level': 0.0}; give nats above 0"):
        fine_tune(fitted, DATA, ROWS, PREDICTORS, steps=1, misreading={"level": 0.0})
