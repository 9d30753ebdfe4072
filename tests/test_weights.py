"""What ships: small, safe to open, documented, and fitted on this version of the renderer."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import causal_cxr.data.phantom
from causal_cxr import weights
from causal_cxr.data.phantom import VERSION, Phantom
from causal_cxr.editors import DiffusionEditor, Editor, SCMEditor
from causal_cxr.readers import CLIPReader, ProbeReader, Reader
from causal_cxr.weights import shipped

FOLDER = Path(weights.__file__).parent
REFITS = r"python -m causal_cxr\.|causal-cxr finetune"  #: a command that fits weights again
NAMES = sorted(p.parent.name for p in FOLDER.glob("*/card.md"))


def kind(folder: Path) -> type:
    """The class that opens a folder, told by its files."""
    if (folder / "reader.json").is_file():
        return CLIPReader if (folder / "open_clip_config.json").is_file() else ProbeReader
    config = json.loads((folder / "editor.json").read_text())
    return DiffusionEditor if (folder / "unet").is_dir() or "base" in config else SCMEditor


def test_readers_and_editors_ship():
    kinds = {kind(FOLDER / name) for name in NAMES}
    assert kinds == {CLIPReader, ProbeReader, DiffusionEditor, SCMEditor}


def test_every_folder_has_a_card_and_a_configuration():
    folders = {p.name for p in FOLDER.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == set(NAMES)
    for name in NAMES:
        assert shipped(name) == FOLDER / name


@pytest.mark.parametrize("name", NAMES)
def test_what_ships_opens_by_its_class_and_its_name_and_works_on_a_phantom(name):
    phantom, rows = Phantom(4, seed=99), np.arange(4)
    model = kind(FOLDER / name).from_shipped(name)
    if isinstance(model, Editor):
        abduction = model.abduct(phantom.images(rows), phantom.attributes, seeds=rows)
        out = model.edit(abduction, phantom.attributes).images
        assert out.shape == (4, 1, 64, 64)
        assert float((out - phantom.images(rows)).abs().mean()) < 0.05  # a null edit
    else:
        assert isinstance(model, Reader)
        out = model.read(phantom.images(rows))
        assert out.shape == (4, len(model.concepts))
    assert ((out >= 0) & (out <= 1)).all()
    assert model.fitted_on is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_card_names_its_data_renderer_seed_and_the_command_that_refits(name):
    card = (FOLDER / name / "card.md").read_text()
    assert re.search(rf"renderer\s+version {VERSION}\b", card)
    assert re.search(r"\bseed[=:] ?\d+", card)
    assert re.search(REFITS, card)
    assert "clinical use" in card


def test_everything_together_is_at_most_24_mb():
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if "__pycache__" not in p.parts) <= 24e6


def test_patients_are_written_as_runs_of_their_numbers():
    stored = [json.loads(file.read_text()).get("fitted_on", []) for file in FOLDER.glob("*/*er.json")]
    assert max(len(entries) for entries in stored) == 2  # names before their numbers
    assert len(DiffusionEditor.from_shipped("diffusion-base").fitted_on) > 10_000


def test_the_shipped_text_encoder_is_told_what_pads():
    assert DiffusionEditor.from_shipped("diffusion-base").pipeline.text.masked


def test_nothing_that_ships_can_run_code_when_it_is_opened():
    files = [p for p in FOLDER.glob("*/**/*") if p.is_file() and "__pycache__" not in p.parts]
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".md", ".txt"}
    assert len(files) > len(NAMES)
    for file in files:
        if file.suffix == ".safetensors":  # eight bytes of length, then JSON
            start = file.read_bytes()[:9]
            assert start[8:] == b"{"
            assert int.from_bytes(start[:8], "little") < file.stat().st_size
        else:
            file.read_text(encoding="utf-8")


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"No weights 'clip-reader'") as caught:
        shipped("clip-reader")
    assert str(NAMES) in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_another_renderer_are_refused_with_the_command_that_refits(name, monkeypatch):
    monkeypatch.setattr(causal_cxr.data.phantom, "VERSION", VERSION + 1)
    with pytest.raises(RuntimeError, match=rf"renderer version {VERSION}, this is version {VERSION + 1}") as caught:
        shipped(name)
    card = Path(re.search(r"command in (\S+)\.$", str(caught.value)).group(1))
    assert re.search(REFITS, card.read_text())
    with pytest.raises(RuntimeError, match="renderer version"):
        kind(FOLDER / name).from_shipped(name)


def test_a_folder_that_is_not_finished_is_not_opened(tmp_path, monkeypatch):
    shutil.copytree(FOLDER / NAMES[0], tmp_path / "half-done")
    for config in ("editor.json", "reader.json"):
        (tmp_path / "half-done" / config).unlink(missing_ok=True)
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="No weights 'half-done'"):
        shipped("half-done")


@pytest.mark.parametrize(
    ("kind", "patient"),
    [
        (DiffusionEditor, "independent-7011-000000"),  # of the base
        (DiffusionEditor, "portable-7022-000000"),  # of the adapter
        (SCMEditor, "portable-7101-000000"),
        (CLIPReader, "independent-8002-000000"),  # of the calibration
    ],
)
def test_phantoms_that_a_shipped_model_has_seen_are_known_by_name(kind, patient):
    model = kind.from_shipped()
    assert patient in model.fitted_on
    assert not model.fitted_on & set(Phantom(50, "portable", seed=0).patients)
