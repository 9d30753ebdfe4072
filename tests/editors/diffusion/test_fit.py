"""Fitting the diffusion editor and its adapters: to the same bits whenever it is killed, and to the patients it names."""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from causal_cxr.data.phantom import VERSION, Phantom, World
from causal_cxr.editors.diffusion import DiffusionEditor, captions
from causal_cxr.editors.diffusion import editor as editor_module
from causal_cxr.editors.diffusion import fit as module
from causal_cxr.editors.diffusion.fit import TEXT_LENGTH, build, fit_adapter, fit_diffusion
from causal_cxr.editors.resumable import ResumableFit
from causal_cxr.graphs import Binary

ATTRIBUTES = dict(World.load("portable").declared.attributes)
ROWS = np.arange(40)  # of 48
TINY = {"batch_size": 4, "channels": (16, 32)}
STEPS = 5


class PowerCutError(Exception):
    pass


@pytest.fixture(scope="module")
def phantom():
    return Phantom(48, "portable", seed=11, size=32)


@pytest.fixture(scope="module")
def other_world():
    return Phantom(24, "portable", seed=12, size=32)


@pytest.fixture(scope="module")
def base(phantom):
    return fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=STEPS, renderer_version=VERSION, **TINY)


@pytest.fixture(scope="module")
def stored(base, tmp_path_factory):
    """The base as users have it: from a folder."""
    return base.save(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def bent(stored, other_world):
    return bend(stored, other_world)


def weights(editor: DiffusionEditor) -> dict[str, Tensor]:
    both = {"unet": editor.unet, "text_encoder": editor.text_encoder}
    return {f"{part}.{name}": w.clone() for part, model in both.items() for name, w in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(weight, other[name]) for name, weight in one.items())


def cut_power_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    descend, left = ResumableFit.descend, iter(range(steps))

    def descend_once_more(self, loss, learning_rate):
        if next(left, None) is None:
            raise PowerCutError
        descend(self, loss, learning_rate)

    monkeypatch.setattr(ResumableFit, "descend", descend_once_more)


def bend(stored: Path, dataset: Phantom, **options) -> DiffusionEditor:
    """A fast learner: five steps of warm-up alone would bend next to nothing."""
    rows, base = np.arange(len(dataset)), DiffusionEditor.from_pretrained(stored)
    return fit_adapter(dataset, rows, base, steps=STEPS, batch_size=4, learning_rate=0.5, **options)


def edits(editor: DiffusionEditor, phantom: Phantom) -> Tensor:
    rows, factual = np.arange(6), phantom.attributes.iloc[:6]
    target = factual.assign(view=np.where(factual["view"] == "AP", "PA", "AP"), age=40.0)
    return editor.edit(editor.abduct(phantom.images(rows), factual, seeds=rows), target).images


# Fitting


def test_a_fitted_editor_records_its_patients_its_size_and_its_renderer(base, phantom):
    assert base.fitted_on == set(phantom.patients[:40])
    assert base.fitted_on < set(phantom.patients)
    assert base.size == 32
    assert base.renderer_version == VERSION
    assert base.attributes == set(ATTRIBUTES)
    assert not base.unet.training
    assert not base.text_encoder.training


def test_rows_that_are_not_given_are_never_looked_at(phantom):
    class Watched:
        attributes, patients, texts, fingerprint = phantom.attributes, phantom.patients, None, "watched"
        seen: set[int] = set()  # noqa: RUF012 - one instance

        def images(self, rows):
            self.seen.update(int(row) for row in rows)
            return phantom.images(rows)

    watched, rows = Watched(), np.array([3, 8, 13, 21])
    fit_diffusion(watched, rows, ATTRIBUTES, steps=1, **TINY)
    assert watched.seen == set(rows)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(base, phantom):
    again = fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=STEPS, **TINY)
    assert same(weights(again), weights(base))
    assert again.fingerprint == base.fingerprint
    assert fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=1, seed=1, **TINY).fingerprint != (
        fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=1, **TINY).fingerprint
    )


def test_a_killed_fit_goes_on_to_the_same_bits(base, phantom, tmp_path, monkeypatch):
    def fit(**options) -> DiffusionEditor:
        return fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=STEPS, checkpoint=tmp_path, **TINY, **options)

    stopped = fit(minutes=0.0)  # by the clock, after one step
    assert int(load_file(tmp_path / "state.safetensors")["step"]) == 1
    assert not same(weights(stopped), weights(base))
    with monkeypatch.context() as patch:
        cut_power_after(2, patch)  # and by force: two steps are lost
        with pytest.raises(PowerCutError):
            fit()
    assert int(load_file(tmp_path / "state.safetensors")["step"]) == 1
    assert same(weights(fit()), weights(base))
    assert [json.loads(line)["step"] for line in (tmp_path / "loss.jsonl").read_text().splitlines()] == [1, STEPS]
    assert {p.name for p in tmp_path.iterdir()} == {"state.safetensors", "loss.jsonl"}


def test_a_finished_fit_is_not_fitted_again(base, phantom, tmp_path, monkeypatch):
    fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=STEPS, checkpoint=tmp_path, **TINY)
    cut_power_after(0, monkeypatch)
    again = fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=STEPS, checkpoint=tmp_path, **TINY)
    assert same(weights(again), weights(base))


def test_a_fitted_editor_has_the_running_average_of_the_weights(base, phantom, tmp_path):
    fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=STEPS, checkpoint=tmp_path, **TINY)
    stored, fitted = load_file(tmp_path / "state.safetensors"), weights(base)
    names = [name.removeprefix("average.") for name in stored if name.startswith("average.")]
    assert set(names) <= set(fitted)
    assert all(torch.equal(fitted[name], stored[f"average.{name}"]) for name in names)
    assert any(not torch.equal(fitted[name], stored[f"weight.{name}"]) for name in names)


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
        generator, times = torch.Generator().manual_seed(0), (0.1, 0.3, 0.5, 0.7, 0.9)
        velocity = editor._velocity(editor._condition(shades.attributes, 0))
        total = 0.0
        for t in times:
            z = torch.randn(x.shape, generator=generator)
            total += float((velocity((1 - t) * x + t * z, t) - (z - x)).square().mean())
        return total / len(times)

    unfitted = error(1, 0.0)
    assert unfitted == pytest.approx(2, abs=0.3)
    assert error(100, 8e-3) < 0.7 * unfitted


# Words


def test_no_caption_of_a_phantom_is_cut_off(base):
    table = Phantom(400, seed=0).attributes
    for phrasing in (0, 1):
        lengths = [len(ids) for ids in base.tokenizer(captions(table, ATTRIBUTES, phrasing))["input_ids"]]
        assert max(lengths) <= TEXT_LENGTH == base.tokenizer.model_max_length


def test_values_that_no_row_had_are_known_words():
    young = Phantom(8, seed=0, size=32)
    young.attributes = young.attributes.assign(age=20.0, view="PA")
    editor = fit_diffusion(young, np.arange(8), ATTRIBUTES, steps=1, **TINY)
    unseen = young.attributes.assign(age=np.arange(83.0, 91.0), view="AP")
    for phrasing in (0, 1):
        texts = captions(unseen, ATTRIBUTES, phrasing)
        tokens = editor.tokenizer(texts)["input_ids"]
        assert len({tuple(ids) for ids in tokens}) == 8
        for ids, text in zip(tokens, texts, strict=True):
            assert editor.tokenizer.eos_token_id not in ids[1:-1]  # it also stands for what is unknown
            assert "".join(editor.tokenizer.decode(ids[1:-1]).split()) == "".join(text.lower().split())


def test_the_caption_reaches_the_network(base):
    torch.manual_seed(0)
    unet, _ = build(base.tokenizer, 32, (16, 32))
    x, time = torch.randn(1, 16, 8, 8), torch.tensor([500.0])
    states = torch.randn(2, 1, TEXT_LENGTH, 128)
    with torch.no_grad():
        one, other = (unet(x, time, encoder_hidden_states=state).sample for state in states)
    assert one.shape == x.shape
    assert not torch.allclose(one, other, atol=1e-4)


# Going on from another editor


def test_a_fit_from_another_editor_leaves_it_as_it_is_and_adds_its_patients(base, other_world):
    before, fingerprint = weights(base), base.fingerprint
    further = fit_diffusion(other_world, np.arange(24), ATTRIBUTES, steps=2, start=base, **TINY)
    assert same(weights(base), before)
    assert base.fingerprint == fingerprint != further.fingerprint
    assert further.fitted_on == base.fitted_on | set(other_world.patients)
    difference = max(
        float((w - before[name]).abs().max()) for name, w in weights(further).items() if w.is_floating_point()
    )
    assert 0 < difference < 0.01  # it begins where the other ended


# Adapters


def test_fitting_an_adapter_leaves_the_base_bit_for_bit(stored, other_world):
    base = DiffusionEditor.from_pretrained(stored)
    before, needed = weights(base), [p.requires_grad for p in base.unet.parameters()]
    edited = edits(base, other_world)
    bent = fit_adapter(other_world, np.arange(24), base, steps=2, batch_size=4)
    assert same(weights(base), before)
    assert [p.requires_grad for p in base.unet.parameters()] == needed
    assert torch.equal(edits(base, other_world), edited)
    assert base.fingerprint != bent.fingerprint


def test_an_adapter_bends_the_unet_and_nothing_of_the_text_encoder(stored, bent, other_world):
    base = DiffusionEditor.from_pretrained(stored)
    under = {name.replace(".base_layer", ""): w for name, w in weights(bent).items() if "lora_" not in name}
    assert same(under, weights(base))
    assert any(name.startswith("unet.") and "lora_B" in name and bool(w.any()) for name, w in weights(bent).items())
    assert not torch.allclose(edits(bent, other_world), edits(base, other_world), atol=1e-4)


def test_fitted_on_are_the_patients_of_base_and_adapter(base, bent, stored, phantom, other_world, tmp_path):
    assert bent.fitted_on == set(phantom.patients[:40]) | set(other_world.patients)
    bent.save_adapter(tmp_path, base=base.fingerprint, fitted_on=frozenset(other_world.patients))
    assert DiffusionEditor.from_pretrained(stored, adapter=tmp_path).fitted_on == bent.fitted_on
    bent.save_adapter(tmp_path, base=base.fingerprint, fitted_on=None)
    assert DiffusionEditor.from_pretrained(stored, adapter=tmp_path).fitted_on is None


def test_patients_stay_unknown_where_those_of_the_base_are(stored, other_world):
    base = DiffusionEditor.from_pretrained(stored)
    base.fitted_on = None
    assert fit_adapter(other_world, np.arange(24), base, steps=1, batch_size=4).fitted_on is None


def test_a_saved_adapter_on_its_base_edits_as_the_fitted_one_up_to_half_precision(
    bent, stored, other_world, tmp_path, monkeypatch
):
    monkeypatch.setattr(editor_module, "_fast_bfloat16", lambda device: False)  # so that half precision is all
    base = DiffusionEditor.from_pretrained(stored)
    before = weights(bent)
    bent.save_adapter(tmp_path, base=base.fingerprint, fitted_on=frozenset())
    assert same(weights(bent), before)  # saving changes nothing
    again = DiffusionEditor.from_pretrained(stored, adapter=tmp_path)
    fitted = edits(bent, other_world)
    torch.testing.assert_close(edits(again, other_world), fitted, atol=1e-4, rtol=0)
    assert float((edits(base, other_world) - fitted).abs().max()) > 0.02  # the adapter matters
    assert set(weights(again)) == set(weights(base))  # merged: nothing of the LoRA is left over
    assert again.fingerprint not in (base.fingerprint, bent.fingerprint)
    assert DiffusionEditor.from_pretrained(again.save(tmp_path / "merged")).fingerprint == again.fingerprint


def test_an_adapters_folder_holds_the_lora_alone_in_half_precision(bent, base, tmp_path):
    bent.save_adapter(tmp_path, base=base.fingerprint, fitted_on=frozenset({"z", "a"}))
    assert {p.name for p in tmp_path.iterdir()} == {"pytorch_lora_weights.safetensors", "editor.json"}
    lora = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert all("lora" in name and weight.dtype == torch.float16 for name, weight in lora.items())
    assert json.loads((tmp_path / "editor.json").read_text()) == {
        "base": base.fingerprint, "renderer_version": VERSION, "fitted_on": ["a", "z"],
    }  # fmt: skip


def test_an_adapter_of_another_base_is_refused_with_both_fingerprints(bent, base, phantom, tmp_path):
    other = fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=1, seed=1, **TINY)
    bent.save_adapter(tmp_path / "adapter", base=base.fingerprint, fitted_on=frozenset())
    with pytest.raises(ValueError, match=f"fitted to the base {base.fingerprint}, this one is {other.fingerprint}"):
        DiffusionEditor.from_pretrained(other.save(tmp_path / "other"), adapter=tmp_path / "adapter")


def test_a_killed_adapter_fit_goes_on_to_the_same_bits(bent, stored, other_world, tmp_path):
    stopped = bend(stored, other_world, checkpoint=tmp_path, minutes=0.0)
    assert int(load_file(tmp_path / "state.safetensors")["step"]) == 1
    assert not same(weights(stopped), weights(bent))
    assert same(weights(bend(stored, other_world, checkpoint=tmp_path)), weights(bent))


# The command that cards name


def test_the_command_writes_a_base_and_then_an_adapter_that_fits_it(tmp_path, monkeypatch):
    for name in ("fit_diffusion", "fit_adapter"):
        options = {k: v for k, v in TINY.items() if name == "fit_diffusion" or k == "batch_size"}
        monkeypatch.setattr(module, name, functools.partial(getattr(module, name), **options))

    def run(*arguments: str | Path) -> None:
        monkeypatch.setattr(sys, "argv", ["fit", "--images", "8", "--seed", "5", *map(str, arguments)])
        module.main()

    run("--steps", 2, "--out", tmp_path / "base")
    run("--steps", 1, "--world", "portable", "--base", tmp_path / "base", "--out", tmp_path / "adapter")
    editor = DiffusionEditor.from_pretrained(tmp_path / "base", adapter=tmp_path / "adapter")
    assert {patient.rsplit("-", 1)[0] for patient in editor.fitted_on} == {"independent-5", "portable-5"}
    assert editor.renderer_version == VERSION
    for name, steps, more in (("base", 2, "--world independent"), ("adapter", 1, "--world portable")):
        card = (tmp_path / name / "card.md").read_text()
        assert f"renderer version {VERSION}" in card
        assert f"- steps: {steps} of" in card
        assert "- seed: 5\n" in card
        assert f"python -m causal_cxr.editors.diffusion.fit {more} --images 8 --steps {steps}" in card
        assert ("--base" in card) is (name == "adapter")


# Refusals


def test_an_unmerged_adapter_is_not_saved_as_a_whole_editor(bent, tmp_path):
    with pytest.raises(ValueError, match="save_adapter"):
        bent.save(tmp_path)


def test_the_state_of_another_fit_is_refused(phantom, tmp_path):
    fit_diffusion(phantom, ROWS, ATTRIBUTES, steps=1, seed=0, checkpoint=tmp_path, **TINY)
    for changed in ({"seed": 9}, {"learning_rate": 1e-3}, {"steps": 2}):
        with pytest.raises(ValueError, match="state of another fit"):
            fit_diffusion(phantom, ROWS, ATTRIBUTES, checkpoint=tmp_path, **{"steps": 1, "seed": 0, **TINY, **changed})
    with pytest.raises(ValueError, match="state of another fit"):
        fit_diffusion(phantom, ROWS[1:], ATTRIBUTES, steps=1, seed=0, checkpoint=tmp_path, **TINY)


def test_no_row_to_fit_on_is_refused(phantom, base):
    with pytest.raises(ValueError, match="no row to fit on"):
        fit_diffusion(phantom, ROWS[:0], ATTRIBUTES, steps=1, start=base, batch_size=4)


def test_solver_steps_of_the_base_are_kept_and_can_be_changed_with_an_adapter(stored, other_world, tmp_path):
    base = DiffusionEditor.from_pretrained(stored, steps=3)
    rows = np.arange(len(other_world))
    bent = fit_adapter(other_world, rows, base, steps=1, batch_size=4)
    assert bent.steps == 3
    whole = DiffusionEditor.from_pretrained(stored)
    folder = bent.save_adapter(tmp_path, base=whole.fingerprint, fitted_on=frozenset())
    few, many = (DiffusionEditor.from_pretrained(stored, adapter=folder, steps=steps) for steps in (2, 5))
    assert (few.steps, many.steps) == (2, 5)
    assert few.fingerprint != many.fingerprint


def test_editor_and_adapter_are_not_taken_for_each_other(stored, bent, tmp_path):
    adapter = bent.save_adapter(tmp_path, base=DiffusionEditor.from_pretrained(stored).fingerprint, fitted_on=None)
    with pytest.raises(ValueError, match="holds an adapter"):
        DiffusionEditor.from_pretrained(adapter)
    with pytest.raises(ValueError, match="no adapter"):
        DiffusionEditor.from_pretrained(stored, adapter=stored)
