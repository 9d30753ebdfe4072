"""The diffusion editor around a tiny network that was never fitted: what holds for any weights."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from causal_cxr.data.tokenizer import build_tokenizer
from causal_cxr.editors import Editor
from causal_cxr.editors.diffusion import DiffusionEditor, captions
from causal_cxr.editors.diffusion import editor as module
from causal_cxr.editors.diffusion.fit import build
from causal_cxr.graphs import Binary, Continuous

ATTRIBUTES = {
    attribute.name: attribute
    for attribute in (
        Continuous("age", unit="years", low=20, high=90, phrases=("{value:.0f} year old", "aged {value:.0f}")),
        Binary("view", levels=("PA", "AP"), phrases={"PA": ("PA view", "PA projection"), "AP": ("AP view", "AP projection")}),
    )
}  # fmt: skip
FACTUAL = pd.DataFrame({"age": [30.0, 50.0, 80.0], "view": ["PA", "AP", "PA"]}, index=[5, 2, 9])
TARGET = FACTUAL.assign(view=["AP", "PA", "AP"], age=[80.0, 30.0, 50.0])
SEEDS = np.arange(3)
STEPS = 4
WEIGHTS = "diffusion_pytorch_model.safetensors"
EXACT = {"atol": 2e-5, "rtol": 0.0}


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """On every machine, so that tolerances can be those of float32."""
    monkeypatch.setattr(module, "_fast_bfloat16", lambda device: False)


def made(seed: int = 0, **options) -> DiffusionEditor:
    torch.manual_seed(seed)
    texts = [text for phrasing in (0, 1) for text in captions(pd.concat([FACTUAL, TARGET]), ATTRIBUTES, phrasing)]
    tokenizer = build_tokenizer(texts * 20, 16)
    unet, text_encoder = build(tokenizer, 16, (16, 32))
    with torch.no_grad():  # fresh networks hardly listen to their caption
        unet.add_embedding.proj.weight *= 10
        for name, weight in unet.named_parameters():
            if "time_emb_proj.weight" in name:
                weight *= 3
    return DiffusionEditor(unet, text_encoder, tokenizer, ATTRIBUTES, **({"steps": STEPS, "size": 16} | options))


@pytest.fixture(scope="module")
def editor():
    return made(fitted_on=frozenset({"b", "a"}))


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3


@pytest.fixture
def abduction(editor, images):
    return editor.abduct(images, FACTUAL, seeds=SEEDS)


def state(editor: DiffusionEditor) -> dict[str, Tensor]:
    both = {"unet": editor.unet, "text_encoder": editor.text_encoder}
    return {f"{part}.{name}": w.clone() for part, model in both.items() for name, w in model.state_dict().items()}


def assert_same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(weight, other[name]) and weight.dtype == other[name].dtype for name, weight in one.items())


# Editing


def test_it_meets_the_protocol(editor):
    assert isinstance(editor, Editor)
    assert editor.semantics == "observational"
    assert editor.attributes == {"age", "view"}
    assert editor.fitted_on == {"a", "b"}


def test_an_edit_is_of_images_in_0_to_1_all_accepted(editor, abduction):
    edit = editor.edit(abduction, TARGET)
    assert edit.images.shape == (3, 1, 16, 16)
    assert edit.images.dtype == torch.float32
    assert ((edit.images >= 0) & (edit.images <= 1)).all()
    assert edit.accepted.all()
    assert edit.reasons == ("",) * 3
    assert abduction.factual is FACTUAL
    assert len(abduction) == 3


def test_an_edit_asks_for_its_target_and_a_null_edit_comes_close_to_the_image(editor, images, abduction):
    null, asked = (editor.edit(abduction, table).images for table in (FACTUAL, TARGET))
    assert float((null - images).abs().mean()) < 0.4 * float((asked - images).abs().mean())


def test_more_steps_invert_more_exactly(images):
    def error(steps: int) -> float:
        editor = made(steps=steps)
        back = editor.edit(editor.abduct(images, FACTUAL, seeds=SEEDS), FACTUAL).images
        return float((back - images).abs().mean())

    assert error(32) < 0.4 * error(8)


def test_a_dose_of_nothing_is_the_null_edit_and_doses_between_lie_between(editor, abduction):
    null, full = (editor.edit(abduction, table).images for table in (FACTUAL, TARGET))
    torch.testing.assert_close(editor.edit(abduction, TARGET, strength=0.0).images, null, **EXACT)
    half = editor.edit(abduction, TARGET, strength=0.5).images
    for end in (null, full):
        assert 0 < float((half - end).abs().mean()) < float((full - null).abs().mean())


def test_a_paraphrase_is_another_condition(editor, abduction):
    null, other = (editor.edit(abduction, FACTUAL, phrasing=phrasing).images for phrasing in (0, 1))
    assert not torch.allclose(null, other, atol=1e-3)
    same_dose = editor.edit(abduction, TARGET, phrasing=1, strength=0.0).images
    torch.testing.assert_close(same_dose, other, **EXACT)  # a dose of nothing keeps to its own wording


def test_an_edit_draws_nothing_new_and_leaves_its_inputs_as_they_were(editor, images):
    before, generator = images.clone(), torch.get_rng_state()
    once = editor.abduct(images, FACTUAL, seeds=SEEDS)
    inverted = once.state.clone()
    again = editor.abduct(images, FACTUAL, seeds=SEEDS + 100)
    assert torch.equal(once.state, again.state)
    assert torch.equal(editor.edit(once, TARGET).images, editor.edit(once, TARGET).images)
    assert torch.equal(images, before)
    assert torch.equal(once.state, inverted)
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_row_does_not_depend_on_its_batch(editor, images):
    def edited(rows: list[int]) -> Tensor:
        abduction = editor.abduct(images[rows], FACTUAL.iloc[rows], seeds=SEEDS[rows])
        return editor.edit(abduction, TARGET.iloc[rows]).images

    torch.testing.assert_close(edited([0, 1, 2])[2:], edited([2]), **EXACT)
    torch.testing.assert_close(edited([2, 0])[1:], edited([0]), **EXACT)


def test_bfloat16_rounds_and_changes_nothing_else(editor, images, abduction, monkeypatch):
    exact = editor.edit(abduction, TARGET).images
    monkeypatch.setattr(module, "_fast_bfloat16", lambda device: True)
    rounded = editor.edit(editor.abduct(images, FACTUAL, seeds=SEEDS), TARGET).images
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).abs().max()) < 0.02


def test_missing_values_are_asked_for_by_saying_nothing(editor, images):
    silent = FACTUAL.assign(view=None)
    abduction = editor.abduct(images, silent, seeds=SEEDS)
    without = editor.edit(abduction, silent.drop(columns="view")).images
    torch.testing.assert_close(editor.edit(abduction, silent).images, without, **EXACT)


def test_evaluations_are_those_of_the_network(editor, images):
    seen: list[int] = []
    hook = editor.unet.register_forward_pre_hook(lambda network, inputs: seen.append(len(inputs[0])))
    try:
        abduction = editor.abduct(images, FACTUAL, seeds=SEEDS)
        assert abduction.evaluations == sum(seen) == 2 * STEPS * 3
        seen.clear()
        assert editor.edit(abduction, TARGET, strength=0.5).evaluations == sum(seen) == 2 * STEPS * 3
    finally:
        hook.remove()


@pytest.mark.parametrize(("height", "width"), [(12, 16), (16, 20), (4, 4)])
def test_sides_that_the_network_cannot_halve_are_refused(editor, height, width):
    with pytest.raises(ValueError, match=rf"multiples of 8, got \({height}, {width}\)"):
        editor.abduct(torch.zeros(3, 1, height, width), FACTUAL, seeds=SEEDS)


def test_other_sides_are_edited_as_they_are(editor):
    abduction = editor.abduct(torch.full((3, 1, 24, 8), 0.5), FACTUAL, seeds=SEEDS)
    assert editor.edit(abduction, TARGET).images.shape == (3, 1, 24, 8)


# Fingerprints and folders


def test_the_fingerprint_follows_weights_attributes_and_steps(editor):
    assert made().fingerprint == editor.fingerprint
    assert made(seed=1).fingerprint != editor.fingerprint
    assert made(steps=STEPS + 1).fingerprint != editor.fingerprint
    parts = copy.deepcopy(editor.unet), copy.deepcopy(editor.text_encoder), editor.tokenizer
    other = ATTRIBUTES | {"view": Binary("view", levels=("PA", "AP"))}
    assert DiffusionEditor(*parts, other, steps=STEPS, size=16).fingerprint != editor.fingerprint
    with torch.no_grad():
        next(parts[1].parameters())[0, 0] += 0.1
    assert DiffusionEditor(*parts, ATTRIBUTES, steps=STEPS, size=16).fingerprint != editor.fingerprint


def test_an_editor_is_saved_in_the_hubs_layout(editor, tmp_path):
    editor.save(tmp_path / "deep" / "er")
    files = {str(p.relative_to(tmp_path / "deep" / "er")) for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {
        "editor.json", "unet/config.json", f"unet/{WEIGHTS}", "text_encoder/config.json",
        "text_encoder/model.safetensors", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
    }  # fmt: skip


def test_saved_whole_an_editor_edits_to_the_same_bits(editor, images, abduction, tmp_path):
    again = DiffusionEditor.from_pretrained(editor.save(tmp_path, half=False))
    assert_same_weights(state(again), state(editor))
    assert again.fingerprint == editor.fingerprint
    edit = again.edit(again.abduct(images, FACTUAL, seeds=SEEDS), TARGET)
    assert torch.equal(edit.images, editor.edit(abduction, TARGET).images)


def test_saved_in_half_precision_an_editor_keeps_its_fingerprint_and_edits_up_to_rounding(
    editor, images, abduction, tmp_path
):
    once = DiffusionEditor.from_pretrained(editor.save(tmp_path / "once"))
    twice = DiffusionEditor.from_pretrained(once.save(tmp_path / "twice"))
    assert once.fingerprint == twice.fingerprint == editor.fingerprint
    assert_same_weights(state(once), state(twice))
    assert all(w.dtype == torch.float32 for w in once.unet.parameters())
    edit = once.edit(once.abduct(images, FACTUAL, seeds=SEEDS), TARGET)
    torch.testing.assert_close(edit.images, editor.edit(abduction, TARGET).images, atol=2e-3, rtol=0)
    editor.save(tmp_path / "whole", half=False)
    half, whole = ((tmp_path / name / "unet" / WEIGHTS).stat().st_size for name in ("once", "whole"))
    assert half < 0.6 * whole


def test_what_is_recorded_comes_back(tmp_path):
    given = made(fitted_on=frozenset({"p2", "p1"}), renderer_version=7, steps=3, size=24)
    again = DiffusionEditor.from_pretrained(given.save(tmp_path))
    for name in ("fitted_on", "renderer_version", "steps", "size", "graph_attributes", "attributes"):
        assert getattr(again, name) == getattr(given, name), name
    assert json.loads((tmp_path / "editor.json").read_text())["fitted_on"] == ["p1", "p2"]
    unknown = DiffusionEditor.from_pretrained(made(fitted_on=None).save(tmp_path))
    assert unknown.fitted_on is None
    assert unknown.renderer_version is None


def test_steps_can_be_chosen_at_loading(editor, images, tmp_path):
    fast = DiffusionEditor.from_pretrained(editor.save(tmp_path), steps=2)
    assert fast.abduct(images, FACTUAL, seeds=SEEDS).evaluations == 2 * 2 * 3
    assert fast.fingerprint != editor.fingerprint


def test_saving_does_not_change_the_editor(editor, abduction, tmp_path):
    before, edited = state(editor), editor.edit(abduction, TARGET).images
    editor.save(tmp_path)
    assert_same_weights(state(editor), before)
    assert torch.equal(editor.edit(abduction, TARGET).images, edited)


def test_a_folder_without_an_editor_is_refused_by_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing-here has no editor\.json"):
        DiffusionEditor.from_pretrained(tmp_path / "nothing-here")
