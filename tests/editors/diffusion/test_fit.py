"""Fitting the base: UNet and text encoder together, to the same bits, from captions in which no value is unknown."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from causal_cxr.data.patients import AtLeast
from causal_cxr.data.phantom import VERSION, Phantom, World
from causal_cxr.editors.diffusion import DiffusionEditor, captions
from causal_cxr.editors.diffusion import fit as module
from causal_cxr.editors.diffusion.captions import TEMPLATE
from causal_cxr.editors.diffusion.denoiser import Condition
from causal_cxr.editors.diffusion.denoiser import Denoiser as Asked
from causal_cxr.editors.diffusion.fit import TEXT_LENGTH, build, fit_diffusion
from causal_cxr.editors.diffusion.guidance import ClassifierFree, PerAttribute
from causal_cxr.editors.finetune import finetune
from causal_cxr.graphs import Binary

ATTRIBUTES = dict(World.load("portable").declared.attributes)
ROWS = np.arange(40)  # of 48
TINY = {"batch_size": 4, "channels": (16, 32)}
STEPS = 5


@pytest.fixture(scope="module")
def phantom():
    return Phantom(48, "portable", seed=11, size=32)


@pytest.fixture(scope="module")
def fitted(phantom, tmp_path_factory):
    """An editor and its checkpoint."""
    folder = tmp_path_factory.mktemp("fit")
    options = {"steps": STEPS, "renderer_version": VERSION, "checkpoint": folder} | TINY
    return fit_diffusion(phantom, ROWS, ATTRIBUTES, **options), folder


@pytest.fixture(scope="module")
def base(fitted):
    return fitted[0]


def weights(editor: DiffusionEditor) -> dict[str, Tensor]:
    both = {"unet": editor.unet, "text_encoder": editor.pipeline.text.model}
    return {f"{part}.{name}": w.clone() for part, model in both.items() for name, w in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(weight, other[name]) for name, weight in one.items())


# Fitting


def test_a_fitted_editor_records_its_patients_its_size_and_its_renderer(base, phantom):
    assert base.fitted_on == set(phantom.patients[:40])
    assert base.fitted_on < set(phantom.patients)
    assert base.size == 32
    assert base.renderer_version == VERSION
    assert base.attributes == set(ATTRIBUTES)
    assert not base.unet.training
    assert not base.pipeline.text.model.training


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(base, phantom):
    again = fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=STEPS, **TINY)
    assert same(weights(again), weights(base))
    assert again.fingerprint == base.fingerprint
    assert fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=1, seed=1, **TINY).fingerprint != (
        fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=1, **TINY).fingerprint
    )


def test_a_fitted_editor_has_the_running_average_of_the_weights(fitted):
    editor, folder = fitted
    stored, mine = load_file(folder / "state.safetensors"), weights(editor)
    names = [name.removeprefix("average.") for name in stored if name.startswith("average.")]
    assert set(names) <= set(mine)
    assert {name.split(".")[0] for name in names} == {"unet", "text_encoder"}
    assert all(torch.equal(mine[name], stored[f"average.{name}"]) for name in names)
    assert any(not torch.equal(mine[name], stored[f"weight.{name}"]) for name in names)


class Shades:
    """Squares of one of two shades, as their captions say: little to learn."""

    bright = Binary("bright", phrases={0: ("dark", "dim"), 1: ("bright", "light")})

    def __init__(self) -> None:
        self.attributes = pd.DataFrame({"bright": self.bright.decode(np.arange(16) % 2)})
        self.patients = pd.Series([f"p{i}" for i in range(16)])
        self.texts, self.fingerprint = None, "shades"

    def images(self, rows: np.ndarray) -> Tensor:
        return torch.where(torch.as_tensor(rows) % 2 == 1, 0.8, 0.2)[:, None, None, None].expand(-1, 1, 16, 16)


def test_a_fit_brings_the_flow_matching_error_down():
    shades, rows = Shades(), np.arange(16)

    def error(steps: int, learning_rate: float) -> float:
        """On fresh noise and evenly spread times, by another route than the fit's; 2 for a network that says nothing."""
        editor = fit_diffusion(shades, rows, {"bright": Shades.bright}, steps=steps, learning_rate=learning_rate,
                               batch_size=8, channels=(16, 32))  # fmt: skip
        x = torch.where(torch.as_tensor(rows) % 2 == 1, 1.0, -1.0)[:, None, None, None].expand(-1, 16, 4, 4)
        generator, times, total = torch.Generator().manual_seed(0), (0.1, 0.3, 0.5, 0.7, 0.9), 0.0
        with torch.no_grad():
            told = Condition(editor.pipeline.text(captions(shades.attributes, {"bright": Shades.bright})))
            for t in times:
                z = torch.randn(x.shape, generator=generator)
                said = Asked(editor.unet, editor.pipeline.process).predict((1 - t) * x + t * z, t, told)
                total += float((said.velocity - (z - x)).square().mean())
        return total / len(times)

    unfitted = error(1, 0.0)
    assert unfitted == pytest.approx(2, abs=0.3)
    assert error(60, 8e-3) < 0.8 * unfitted


# Words


def test_no_caption_of_a_phantom_is_too_long(base):
    table = Phantom(400, seed=0).attributes
    for phrasing in (0, 1):
        assert max(base.pipeline.text.lengths(captions(table, ATTRIBUTES, phrasing))) <= TEXT_LENGTH
    assert base.pipeline.text.tokenizer.model_max_length == TEXT_LENGTH


def test_values_that_no_row_had_are_known_words():
    young = Phantom(8, seed=0, size=32)
    young.attributes = young.attributes.assign(age=20.0, view="PA")
    tokenizer = fit_diffusion(young, np.arange(8), ATTRIBUTES, steps=1, **TINY).pipeline.text.tokenizer
    unseen = young.attributes.assign(age=np.arange(83.0, 91.0), view="AP")
    for phrasing in (0, 1):
        texts = captions(unseen, ATTRIBUTES, phrasing)
        tokens = tokenizer(texts)["input_ids"]
        assert len({tuple(ids) for ids in tokens}) == 8
        for ids, text in zip(tokens, texts, strict=True):
            assert tokenizer.eos_token_id not in ids[1:-1]  # it also stands for what is unknown
            assert "".join(tokenizer.decode(ids[1:-1]).split()) == "".join(text.lower().split())


def test_an_attribute_that_adapters_will_name_has_words_of_its_own():
    phantom, spoken = Phantom(8, seed=0, size=32), World.load("pacemaker-age").graph.attributes["oedema"]
    lengths = []
    for more in ((), (spoken,)):
        text = fit_diffusion(phantom, np.arange(8), ATTRIBUTES, steps=1, speaking_of=more, **TINY).pipeline.text
        lengths.append(max(text.lengths([spoken.phrase(level) for level in spoken.levels])))
    assert lengths[1] < lengths[0]


@pytest.mark.parametrize(("patch", "side"), [(2, 16), (4, 8)])
def test_the_network_sees_the_image_in_patches_of_the_chosen_size(patch, side):
    phantom = Phantom(8, seed=0, size=32)
    pipeline = fit_diffusion(phantom, np.arange(8), ATTRIBUTES, steps=1, patch=patch, **TINY).pipeline
    images = phantom.images(np.arange(2))
    latents = pipeline.latents.encode(images)
    assert latents.shape == (2, patch**2, side, side)
    torch.testing.assert_close(pipeline.latents.decode(latents), images)


def test_the_caption_reaches_the_network(base):
    torch.manual_seed(0)
    unet, _ = build(base.pipeline.text.tokenizer, 32, (16, 32))
    x, time = torch.randn(1, 16, 8, 8), torch.tensor([500.0])
    states = torch.randn(2, 1, TEXT_LENGTH, 128)
    with torch.no_grad():
        one, other = (unet(x, time, encoder_hidden_states=state).sample for state in states)
    assert one.shape == x.shape
    assert not torch.allclose(one, other, atol=1e-4)


# Adapters on the base, in its folder


@pytest.fixture(scope="module")
def stored(base, tmp_path_factory):
    """The base as users have it: from a folder."""
    return base.save(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def bent(stored, phantom):
    """A fast learner: five steps of warm-up alone would bend next to nothing."""
    base = DiffusionEditor.from_pretrained(stored)
    return finetune(base, phantom, np.arange(40, 48), steps=STEPS, batch_size=4, learning_rate=0.5)


def edits(editor: DiffusionEditor, phantom: Phantom) -> Tensor:
    rows, factual = np.arange(6), phantom.attributes.iloc[:6]
    target = factual.assign(view=np.where(factual["view"] == "AP", "PA", "AP"), age=40.0)
    editor = editor.using()
    editor.autocast = None  # so that half precision of the stored weights is all that differs
    return editor.edit(editor.abduct(phantom.images(rows), factual, seeds=rows), target).images


def test_a_saved_adapter_on_its_base_edits_as_the_fitted_one_up_to_half_precision(bent, stored, phantom, tmp_path):
    base, before = DiffusionEditor.from_pretrained(stored), weights(bent)
    bent.save_adapter(tmp_path, base=base.weights_fingerprint, fitted_on=frozenset())
    assert same(weights(bent), before)  # saving changes nothing
    again, fitted = DiffusionEditor.from_pretrained(stored, adapter=tmp_path), edits(bent, phantom)
    torch.testing.assert_close(edits(again, phantom), fitted, atol=1e-3, rtol=0)
    assert float((edits(base, phantom) - fitted).abs().max()) > 0.02  # the adapter matters
    assert set(weights(again)) == set(weights(base))  # merged: nothing of the LoRA is left over
    assert DiffusionEditor.from_pretrained(again.save(tmp_path / "merged")).fingerprint == again.fingerprint


def test_an_adapters_folder_holds_the_lora_alone_in_half_precision(bent, stored, tmp_path):
    base = DiffusionEditor.from_pretrained(stored)
    bent.save_adapter(tmp_path, base=base.weights_fingerprint, fitted_on=frozenset({"z", "a"}))
    assert {p.name for p in tmp_path.iterdir()} == {"pytorch_lora_weights.safetensors", "editor.json"}
    lora = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert all("lora" in name and weight.dtype == torch.float16 for name, weight in lora.items())
    told = json.loads((tmp_path / "editor.json").read_text())
    assert (told["base"], told["fitted_on"]) == (base.weights_fingerprint, ["a", "z"])
    assert [entry["name"] for entry in told["attributes"]] == list(ATTRIBUTES)
    assert (told["template"], told["size"], told["renderer_version"]) == (TEMPLATE, 32, VERSION)


def test_an_adapter_brings_the_captions_and_the_size_that_it_was_fitted_with(stored, phantom, tmp_path):
    base = DiffusionEditor.from_pretrained(stored)
    template = "[{view}][ of {sex}]"
    start = base.using(template=template)
    start.renderer_version = None
    told = finetune(start, Phantom(8, "portable", seed=12, size=16), np.arange(8), steps=1, batch_size=4)
    told.save_adapter(tmp_path, base=base.weights_fingerprint, fitted_on=frozenset())
    again = DiffusionEditor.from_pretrained(stored, adapter=tmp_path)
    assert (again.template, again.size, again.renderer_version) == (template, 16, None)
    assert again.attributes == {"view", "sex"}
    factual = phantom.attributes.iloc[:4]
    assert torch.equal(again.describe(factual).text, told.describe(factual).text)
    assert not torch.equal(again.describe(factual).text, base.describe(factual).text)
    asked = DiffusionEditor.from_pretrained(stored, adapter=tmp_path, template="{view}")
    assert (asked.template, asked.attributes, asked.size) == ("{view}", {"view"}, 16)  # who asks overrules


def test_an_adapter_that_says_neither_has_the_captions_and_the_size_of_its_base(bent, stored, tmp_path):
    """As they were written before."""
    base = DiffusionEditor.from_pretrained(stored).using(template="[{view}]")
    config = bent.save_adapter(tmp_path, base=base.weights_fingerprint, fitted_on=frozenset()) / "editor.json"
    old = {key: value for key, value in json.loads(config.read_text()).items() if key not in ("template", "size")}
    config.write_text(json.dumps(old))
    again = base.adapted(tmp_path)
    assert (again.template, again.size, again.attributes) == ("[{view}]", 32, {"view"})


def test_fitted_on_are_the_patients_of_base_and_adapter(bent, stored, phantom, tmp_path):
    base = DiffusionEditor.from_pretrained(stored)
    assert bent.fitted_on == set(phantom.patients)
    bent.save_adapter(tmp_path, base=base.weights_fingerprint, fitted_on=frozenset(phantom.patients[40:]))
    assert DiffusionEditor.from_pretrained(stored, adapter=tmp_path).fitted_on == bent.fitted_on
    bent.save_adapter(tmp_path, base=base.weights_fingerprint, fitted_on=None)
    assert DiffusionEditor.from_pretrained(stored, adapter=tmp_path).fitted_on == AtLeast(base.fitted_on)
    base.fitted_on = None
    tuned = finetune(base, phantom, ROWS, steps=1, batch_size=4)
    assert tuned.fitted_on == AtLeast(phantom.patients.iloc[ROWS])  # whom the base saw nobody knows; these are refused


def test_an_adapter_brings_its_attributes_weights(bent, stored, tmp_path):
    base = DiffusionEditor.from_pretrained(stored)
    weighed = bent.using(guidance=PerAttribute({"view": 2.0}))
    weighed.save_adapter(tmp_path, base=base.weights_fingerprint, fitted_on=frozenset())
    assert DiffusionEditor.from_pretrained(stored, adapter=tmp_path).guidance == weighed.guidance
    asked = DiffusionEditor.from_pretrained(stored, adapter=tmp_path, guidance=ClassifierFree(3.0))
    assert asked.guidance == ClassifierFree(3.0)


def test_an_adapter_of_another_base_is_refused_with_both_fingerprints(bent, base, stored, phantom, tmp_path):
    mine = DiffusionEditor.from_pretrained(stored).weights_fingerprint
    other = fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=1, seed=1, **TINY)
    bent.save_adapter(tmp_path / "adapter", base=mine, fitted_on=frozenset())
    with pytest.raises(ValueError, match=f"fitted to the base {mine}, this one is {other.weights_fingerprint}"):
        DiffusionEditor.from_pretrained(other.save(tmp_path / "other"), adapter=tmp_path / "adapter")


def test_an_unmerged_adapter_is_not_saved_as_a_whole_editor(bent, tmp_path):
    with pytest.raises(ValueError, match="save_adapter"):
        bent.save(tmp_path)


def test_editor_and_adapter_are_not_taken_for_each_other(stored, bent, tmp_path):
    adapter = bent.save_adapter(tmp_path, base="whichever", fitted_on=None)
    with pytest.raises(ValueError, match="holds an adapter"):
        DiffusionEditor.from_pretrained(adapter)
    with pytest.raises(ValueError, match="no adapter"):
        DiffusionEditor.from_pretrained(stored, adapter=stored)


# The command that the card names


def test_the_command_writes_a_base_with_its_card(tmp_path, monkeypatch):
    arguments = ["--images", "8", "--seed", "5", "--steps", "2", "--batch", "4", "--channels", "16", "32"]
    monkeypatch.setattr(sys, "argv", ["fit", *arguments, "--out", str(tmp_path)])
    module.main()
    editor = DiffusionEditor.from_pretrained(tmp_path)
    assert {patient.rsplit("-", 1)[0] for patient in editor.fitted_on} == {"independent-independent-5"}
    assert editor.renderer_version == VERSION
    card = (tmp_path / "card.md").read_text()
    assert f"renderer version {VERSION}" in card
    assert "- steps: 2 of 4 images" in card
    assert "- seed: 5\n" in card
    told = (
        "--worlds independent --images 8 --steps 2 --batch 4 --learning-rate 0.0004 --channels 16 32 --patch 4 --seed 5"
    )
    assert f"`python -m causal_cxr.editors.diffusion.fit {told} --device cpu --out DIR`" in card


def test_a_base_goes_on_to_more_worlds_and_names_what_each_of_them_names(tmp_path, monkeypatch):
    arguments = ["--images", "6", "--steps", "1", "--batch", "4"]
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    monkeypatch.setattr(sys, "argv", ["fit", *arguments, "--channels", "16", "32", "--out", first])
    module.main()
    more = ["--worlds", "independent", "scanner-site", "--start", first]
    monkeypatch.setattr(sys, "argv", ["fit", *arguments, *more, "--out", second])
    module.main()
    start, editor = (DiffusionEditor.from_pretrained(folder) for folder in (first, second))
    names = list(editor.graph_attributes)
    assert names == ["age", "sex", "view", "cardiomegaly", "pneumonia", "effusion", "weekday"]
    assert {patient.rsplit("-", 2)[0] for patient in editor.fitted_on} == {
        "independent-independent", "scanner-site-independent"
    }  # fmt: skip
    assert editor.pipeline.text.tokenizer.get_vocab() == start.pipeline.text.tokenizer.get_vocab()
    card = (tmp_path / "second" / "card.md").read_text()
    assert f"on the base {start.weights_fingerprint}" in card
    assert f"--start {first}" in card


def test_what_a_base_is_built_of_is_not_asked_where_it_goes_on_from_another(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fit", "--start", "shipped", "--patch", "2", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        module.main()
    assert "leave them out with --start" in capsys.readouterr().err


def test_worlds_whose_captions_contradict_each_other_are_refused():
    sex, view = (ATTRIBUTES[name] for name in ("sex", "view"))
    with pytest.raises(ValueError, match="different orders"):
        module._in_order([{"sex": sex, "view": view}, {"view": view, "sex": sex}])


# Refusals


def test_no_row_to_fit_on_is_refused(phantom):
    with pytest.raises(ValueError, match="no row to fit on"):
        fit_diffusion(phantom, ROWS[:0], ATTRIBUTES, steps=1, batch_size=4)
