"""The diffusion editor around a tiny network that was never fitted: what holds for any weights."""

import copy
import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_pipelines import stable_diffusion
from torch import Tensor

from causal_cxr.data.tokenizer import build_tokenizer
from causal_cxr.editors import Described, Editor
from causal_cxr.editors.diffusion import DiffusionEditor, captions
from causal_cxr.editors.diffusion import editor as module
from causal_cxr.editors.diffusion.fit import build
from causal_cxr.editors.diffusion.guidance import ClassifierFree, PerAttribute
from causal_cxr.editors.diffusion.inversion import Coupled, Heun
from causal_cxr.editors.diffusion.latents import Unshuffled
from causal_cxr.editors.diffusion.pipeline import Pipeline
from causal_cxr.editors.diffusion.process import Process
from causal_cxr.editors.diffusion.text import CLIPText
from causal_cxr.graphs import Binary, CausalGraph, Continuous

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
    monkeypatch.setattr(module, "_fastest", lambda device: None)


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
    pipeline = Pipeline(unet, CLIPText(text_encoder, tokenizer), Unshuffled(), Process("flow"))
    return DiffusionEditor(pipeline, ATTRIBUTES, **({"inversion": Heun(STEPS), "size": 16} | options))


class Judge:
    """Rejects edits that moved the image by more than a limit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __repr__(self) -> str:
        return f"Judge({self.limit})"

    def __call__(self, images, edited, factual, target):
        moved = (edited - images).abs().mean(dim=(1, 2, 3))
        self.seen = images, edited, factual, target
        return (moved <= self.limit).numpy(), tuple("" if m <= self.limit else f"moved {m:.2f}" for m in moved)


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
    both = {"unet": editor.unet, "text_encoder": editor.pipeline.text.model}
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
        editor = made(inversion=Heun(steps))
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
    inverted = [latent.clone() for latent in once.state.latents]
    again = editor.abduct(images, FACTUAL, seeds=SEEDS + 100)
    assert all(map(torch.equal, once.state.latents, again.state.latents))  # Heun's way to noise draws nothing
    assert torch.equal(editor.edit(once, TARGET).images, editor.edit(once, TARGET).images)
    assert torch.equal(images, before)
    assert all(map(torch.equal, once.state.latents, inverted))
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_row_does_not_depend_on_its_batch(editor, images):
    def edited(rows: list[int]) -> Tensor:
        abduction = editor.abduct(images[rows], FACTUAL.iloc[rows], seeds=SEEDS[rows])
        return editor.edit(abduction, TARGET.iloc[rows]).images

    torch.testing.assert_close(edited([0, 1, 2])[2:], edited([2]), **EXACT)
    torch.testing.assert_close(edited([2, 0])[1:], edited([0]), **EXACT)


def test_bfloat16_rounds_and_changes_nothing_else(editor, images, abduction, monkeypatch):
    exact = editor.edit(abduction, TARGET).images
    monkeypatch.setattr(module, "_fastest", lambda device: torch.bfloat16)
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


def test_chance_comes_from_the_seeds_alone_a_row_at_a_time(editor, images):
    coupled = editor.using(inversion=Coupled(STEPS))

    def edited(seeds: np.ndarray) -> Tensor:
        return coupled.edit(coupled.abduct(images, FACTUAL, seeds=seeds), TARGET).images

    once, other = edited(SEEDS), edited(SEEDS + np.array([0, 7, 0]))
    assert torch.equal(once, edited(SEEDS))
    assert torch.equal(once[[0, 2]], other[[0, 2]])
    assert not torch.allclose(once[1], other[1], atol=1e-4)


def test_coupled_an_edit_that_asks_for_nothing_returns_the_image_among_edits_that_do(editor, images):
    coupled = editor.using(inversion=Coupled(STEPS))
    abduction = coupled.abduct(images, FACTUAL, seeds=SEEDS)
    mixed = pd.concat([TARGET.iloc[:1], FACTUAL.iloc[1:]])
    edit = coupled.edit(abduction, mixed).images
    torch.testing.assert_close(edit[1:], images[1:], atol=1e-6, rtol=0)
    assert float((edit[0] - images[0]).abs().mean()) > 1e-3


def test_each_distinct_caption_is_encoded_once_a_call(editor, images, monkeypatch):
    many = pd.concat([FACTUAL] * 4, ignore_index=True)
    seen: list[str] = []
    text = editor.pipeline.text
    encode = CLIPText.__call__
    monkeypatch.setattr(CLIPText, "__call__", lambda self, texts: seen.extend(t for t in texts if t) or encode(self, texts))  # fmt: skip
    guided = editor.using(guidance=ClassifierFree(2.0))
    abduction = guided.abduct(images.repeat(4, 1, 1, 1), many, seeds=np.arange(12))
    assert sorted(seen) == sorted(set(captions(many, ATTRIBUTES)))
    seen.clear()
    guided.edit(abduction, many.assign(view="AP"), strength=0.5)
    assert sorted(seen) == sorted(set(captions(many, ATTRIBUTES)) | set(captions(many.assign(view="AP"), ATTRIBUTES)))
    assert text is guided.pipeline.text


def test_the_states_of_a_caption_do_not_depend_on_the_others(editor):
    ages = FACTUAL.iloc[[0] * 20].assign(age=np.arange(40.0, 60.0))
    together = editor.describe(ages).text
    for rows in ([3], [19, 3], list(range(3, 14))):
        assert torch.equal(editor.describe(ages.iloc[rows]).text, together[rows])


def test_a_template_says_what_captions_name_and_so_what_can_be_set(images):
    editor = made(template="chest x-ray[ , {view}]")
    assert editor.attributes == {"view"}
    abduction = editor.abduct(images, FACTUAL, seeds=SEEDS)
    turned, both = (editor.edit(abduction, table).images for table in (FACTUAL.assign(view=TARGET["view"]), TARGET))
    assert torch.equal(turned, both)  # what follows from an edit may be more than captions name
    assert editor.fingerprint != made().fingerprint
    other = made().using(template="chest x-ray[ , {view}]")
    assert (other.attributes, other.fingerprint) == (editor.attributes, editor.fingerprint)
    with pytest.raises(ValueError, match=r"slot \{sex\} for no attribute"):
        made(template="{sex}")


def test_an_edit_of_nothing_that_captions_name_is_refused_by_its_name(images):
    """It would be a null edit, and nobody would be told."""
    editor = made(template="chest x-ray[ , {view}]")
    abduction = editor.abduct(images, FACTUAL, seeds=SEEDS)
    with pytest.raises(ValueError, match=r"Cannot set \['age'\]: captions name \['view'\].*Name it by attributes="):
        editor.edit(abduction, FACTUAL.assign(age=80.0))
    with pytest.raises(ValueError, match=r"Cannot set \['lamp'\]"):  # nor is it in the table
        editor.edit(abduction, FACTUAL.assign(lamp="left"))
    assert editor.edit(abduction, FACTUAL).accepted.all()


def test_rejected_edits_are_returned_with_their_reasons(editor, images):
    judge = Judge(0.0)
    judged = editor.using(accept=judge)
    abduction = judged.abduct(images, FACTUAL, seeds=SEEDS)
    moved = (editor.edit(abduction, TARGET).images - images).abs().mean(dim=(1, 2, 3))
    judge.limit = float(moved.median())
    edit = judged.edit(abduction, TARGET)
    assert torch.equal(edit.images, editor.edit(abduction, TARGET).images)
    assert edit.accepted.tolist() == (moved <= judge.limit).tolist()
    assert edit.accepted.sum() == 2
    assert [reason != "" for reason in edit.reasons] == (~edit.accepted).tolist()
    assert torch.equal(judge.seen[0], images)
    assert judge.seen[2:] == (FACTUAL, TARGET) or judge.seen[3] is TARGET
    assert made(accept=Judge(0.1)).fingerprint != made(accept=Judge(0.2)).fingerprint != editor.fingerprint


def test_another_method_shares_the_weights_and_counts_its_own_work(editor, images):
    other = editor.using(inversion=Coupled(2), guidance=ClassifierFree(3.0))
    assert other.pipeline is editor.pipeline
    assert other.weights_fingerprint == editor.weights_fingerprint
    assert len({other.fingerprint, editor.fingerprint, editor.using(inversion=Coupled(2)).fingerprint}) == 3
    before = editor.ledger.forward
    abduction = other.abduct(images, FACTUAL, seeds=SEEDS)
    edit = other.edit(abduction, TARGET)
    assert (abduction.evaluations, edit.evaluations) == (2 * 3, 2 * 2 * 3)
    assert other.ledger.forward == 18
    assert editor.ledger.forward == before


@pytest.mark.parametrize(("height", "width"), [(12, 16), (16, 20), (4, 4)])
def test_sides_that_the_network_cannot_halve_are_refused(editor, height, width):
    with pytest.raises(ValueError, match=rf"multiples of 8, got \({height}, {width}\)"):
        editor.abduct(torch.zeros(3, 1, height, width), FACTUAL, seeds=SEEDS)


def test_other_sides_are_edited_as_they_are(editor):
    abduction = editor.abduct(torch.full((3, 1, 24, 8), 0.5), FACTUAL, seeds=SEEDS)
    assert editor.edit(abduction, TARGET).images.shape == (3, 1, 24, 8)


# Fingerprints and folders


def test_it_says_by_what_inversion_and_guidance_it_edits(editor):
    assert isinstance(editor, Described)
    assert editor.method == f"Heun(steps={STEPS}), ClassifierFree(scale=1.0, inverted=1.0)"
    weighed = editor.using(guidance=PerAttribute({"view": 2.0}), accept=Judge(0.1))
    assert "PerAttribute(weights={'view': 2.0}" in weighed.method
    assert repr(weighed.accept) in weighed.method


def test_the_fingerprint_follows_weights_attributes_and_method(editor):
    assert made().fingerprint == editor.fingerprint
    assert made(seed=1).fingerprint != editor.fingerprint
    assert made(inversion=Heun(STEPS + 1)).fingerprint != editor.fingerprint
    assert made(guidance=ClassifierFree(2.0)).fingerprint != editor.fingerprint
    pipeline = copy.deepcopy(editor.pipeline)
    options = {"inversion": Heun(STEPS), "size": 16}
    other = ATTRIBUTES | {"view": Binary("view", levels=("PA", "AP"))}
    renamed = DiffusionEditor(pipeline, other, **options)
    assert renamed.fingerprint != editor.fingerprint
    assert renamed.weights_fingerprint == editor.weights_fingerprint  # an adapter fits whatever is named
    assert DiffusionEditor(pipeline, ATTRIBUTES, **options).fingerprint == editor.fingerprint
    with torch.no_grad():
        next(pipeline.text.model.parameters())[0, 0] += 0.1
    assert DiffusionEditor(pipeline, ATTRIBUTES, **options).fingerprint != editor.fingerprint


def test_the_fingerprint_follows_the_precision_that_is_computed_in(editor, monkeypatch):
    """``auto`` is bfloat16 on one machine and float32 on the other: a run that is resumed must not mix them."""
    assert made(autocast="auto").fingerprint == made(autocast=None).fingerprint
    rounded = made(autocast=torch.bfloat16)
    assert rounded.fingerprint != editor.fingerprint
    monkeypatch.setattr(module, "_fastest", lambda device: torch.bfloat16 if device.type == "meta" else None)
    moved = made(autocast="auto")
    moved.pipeline = copy.deepcopy(moved.pipeline)
    assert moved.to("meta").fingerprint == rounded.fingerprint
    assert moved.weights_fingerprint == editor.weights_fingerprint  # an adapter fits in any precision


def test_an_editor_is_saved_in_the_hubs_layout(editor, tmp_path):
    editor.save(tmp_path / "deep" / "er")
    files = {str(p.relative_to(tmp_path / "deep" / "er")) for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {
        "editor.json", "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", f"unet/{WEIGHTS}", "text_encoder/config.json",
        "text_encoder/model.safetensors", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
    }  # fmt: skip


def test_saved_whole_an_editor_edits_to_the_same_bits(editor, images, abduction, tmp_path):
    again = DiffusionEditor.from_pretrained(editor.save(tmp_path, half=False), inversion=Heun(STEPS))
    assert_same_weights(state(again), state(editor))
    assert again.fingerprint == editor.fingerprint
    edit = again.edit(again.abduct(images, FACTUAL, seeds=SEEDS), TARGET)
    assert torch.equal(edit.images, editor.edit(abduction, TARGET).images)


def test_weights_of_attributes_are_saved_with_what_was_learnt_and_another_guidance_overrules_them(editor, tmp_path):
    for weights in (
        {"view": 2.0},
        {},
    ):  # even none of them: what several attributes change at once is the sum of their directions
        weighed = editor.using(guidance=PerAttribute(weights))
        weighed.save(tmp_path, half=False)
        assert DiffusionEditor.from_pretrained(tmp_path, inversion=Heun(STEPS)).fingerprint == weighed.fingerprint
    other = DiffusionEditor.from_pretrained(tmp_path, guidance=ClassifierFree(3.0))
    assert other.guidance == ClassifierFree(3.0)
    for chosen in (ClassifierFree(3.0), PerAttribute(default=2.0)):  # settings of whoever edits
        editor.using(guidance=chosen).save(tmp_path)
        assert DiffusionEditor.from_pretrained(tmp_path).guidance == ClassifierFree()


def test_saved_in_half_precision_an_editor_keeps_its_fingerprint_and_edits_up_to_rounding(
    editor, images, abduction, tmp_path
):
    once = DiffusionEditor.from_pretrained(editor.save(tmp_path / "once"), inversion=Heun(STEPS))
    twice = DiffusionEditor.from_pretrained(once.save(tmp_path / "twice"), inversion=Heun(STEPS))
    assert once.fingerprint == twice.fingerprint == editor.fingerprint
    assert_same_weights(state(once), state(twice))
    assert all(w.dtype == torch.float32 for w in once.unet.parameters())
    edit = once.edit(once.abduct(images, FACTUAL, seeds=SEEDS), TARGET)
    torch.testing.assert_close(edit.images, editor.edit(abduction, TARGET).images, atol=2e-3, rtol=0)
    editor.save(tmp_path / "whole", half=False)
    half, whole = ((tmp_path / name / "unet" / WEIGHTS).stat().st_size for name in ("once", "whole"))
    assert half < 0.6 * whole


def test_what_is_recorded_comes_back(tmp_path):
    given = made(fitted_on=frozenset({"p2", "p1"}), renderer_version=7, size=24, template="[{view}]{}")
    again = DiffusionEditor.from_pretrained(given.save(tmp_path))
    for name in ("fitted_on", "renderer_version", "template", "size", "graph_attributes", "attributes"):
        assert getattr(again, name) == getattr(given, name), name
    stored = json.loads((tmp_path / "editor.json").read_text())
    assert stored["fitted_on"] == [{"prefix": "p", "digits": 1, "numbers": "1-2"}]
    (tmp_path / "editor.json").write_text(json.dumps(stored | {"fitted_on": ["p2", "q"]}))  # as it was written before
    assert DiffusionEditor.from_pretrained(tmp_path).fitted_on == {"p2", "q"}
    unknown = DiffusionEditor.from_pretrained(made(fitted_on=None).save(tmp_path))
    assert unknown.fitted_on is None
    assert unknown.renderer_version is None


def test_the_method_can_be_chosen_at_loading(editor, images, tmp_path):
    fast = DiffusionEditor.from_pretrained(editor.save(tmp_path), inversion=Coupled(2), guidance=ClassifierFree(2.0))
    abduction = fast.abduct(images, FACTUAL, seeds=SEEDS)
    assert abduction.evaluations == 2 * 3
    assert fast.edit(abduction, TARGET).evaluations == 2 * 2 * 3
    assert fast.weights_fingerprint == editor.weights_fingerprint
    assert fast.fingerprint != editor.fingerprint


def test_saving_does_not_change_the_editor(editor, abduction, tmp_path):
    before, edited = state(editor), editor.edit(abduction, TARGET).images
    editor.save(tmp_path)
    assert_same_weights(state(editor), before)
    assert torch.equal(editor.edit(abduction, TARGET).images, edited)


def test_a_folder_that_is_not_there_is_refused_by_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nothing-here; give a folder, or owner/name"):
        DiffusionEditor.from_pretrained(tmp_path / "nothing-here")


# Published pipelines


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    stable_diffusion(folder)
    return folder


@pytest.mark.parametrize("inversion", [Coupled(3), Heun(3)])
def test_a_published_pipeline_edits_through_its_autoencoder_and_counts_that(published, images, inversion):
    editor = DiffusionEditor.from_pretrained(published, attributes=ATTRIBUTES, inversion=inversion)
    assert (editor.size, editor.fitted_on, editor.renderer_version) == (16, None, None)
    abduction = editor.abduct(images, FACTUAL, seeds=SEEDS)
    edit = editor.edit(abduction, TARGET)
    assert edit.images.shape == images.shape
    assert (editor.ledger.encode, editor.ledger.decode) == (3, 3)
    assert editor.ledger.evaluations == abduction.evaluations + edit.evaluations
    if inversion.name == "coupled":  # what an edit that asks for nothing changes is the autoencoder's error alone
        null = editor.edit(abduction, FACTUAL).images
        space = editor.pipeline.latents
        with torch.no_grad():
            torch.testing.assert_close((null - images).abs().mean(dim=(1, 2, 3)), space.error(images))


def test_what_captions_name_comes_from_attributes_or_graph_unless_the_editor_was_saved(published, tmp_path):
    graph = CausalGraph(list(ATTRIBUTES.values()), [])
    for given in ({"attributes": ATTRIBUTES}, {"graph": graph}):
        editor = DiffusionEditor.from_pretrained(published, **given)
        assert editor.graph_attributes == ATTRIBUTES
    with pytest.raises(ValueError, match=r"no editor\.json that says what captions name: pass attributes=.* or graph="):
        DiffusionEditor.from_pretrained(published)
    saved = editor.save(tmp_path)
    other = {"view": ATTRIBUTES["view"]}
    assert DiffusionEditor.from_pretrained(saved, graph=CausalGraph([other["view"]], [])).graph_attributes == ATTRIBUTES
    assert DiffusionEditor.from_pretrained(saved, attributes=other).graph_attributes == other


def test_words_that_the_editor_was_not_fitted_with_are_warned_of_by_name(editor, tmp_path):
    """The shipped base, asked for ``cardiomegaly 1`` where it knows ``cardiomegaly``, changes nothing and does not say so."""
    folder = editor.save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DiffusionEditor.from_pretrained(folder, attributes=dict(reversed(ATTRIBUTES.items())))
        DiffusionEditor.from_pretrained(folder, attributes={"new": Binary("new")})
    wordless = {"view": Binary("view", levels=("PA", "AP"))}
    with pytest.warns(UserWarning, match=r"not fitted with.*'view' is 'view (PA|AP)' for \('(PA|AP) view'"):
        DiffusionEditor.from_pretrained(folder, attributes=wordless)


def test_an_editor_of_a_published_pipeline_keeps_its_bits_and_the_autoencoders_weights_count(
    published, images, tmp_path
):
    editor = DiffusionEditor.from_pretrained(published, attributes=ATTRIBUTES, inversion=Coupled(2))
    again = DiffusionEditor.from_pretrained(editor.save(tmp_path, half=False), inversion=Coupled(2))
    assert again.fingerprint == editor.fingerprint
    edits = [e.edit(e.abduct(images, FACTUAL, seeds=SEEDS), TARGET).images for e in (editor, again)]
    assert torch.equal(*edits)
    with torch.no_grad():
        again.pipeline.latents.model.decoder.conv_out.bias += 0.1
    assert DiffusionEditor(again.pipeline, ATTRIBUTES, inversion=Coupled(2), size=16).fingerprint != editor.fingerprint


def test_a_caption_that_is_too_long_is_refused_by_name(published, images):
    wordy = {"view": Binary("view", levels=("PA", "AP"), phrases={"PA": "posteroanterior " * 6, "AP": "AP"})}
    editor = DiffusionEditor.from_pretrained(published, attributes=wordy, inversion=Coupled(1))
    with pytest.raises(
        ValueError, match=r"caption 'chest x-ray , posteroanterior .* tokens, the text encoder takes 77"
    ):
        editor.abduct(images, FACTUAL, seeds=SEEDS)
