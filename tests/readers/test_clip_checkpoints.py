"""CLIP models of every architecture, from the folders that others write."""

import json
import os
import pickle
import shutil

import numpy as np
import open_clip
import pytest
import torch
from clip_models import ARCHITECTURES, CONCEPTS, pictures, write_folder
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from causal_cxr.readers import CLIPReader
from causal_cxr.readers.clip import Preprocess, tokenise

KINDS = list(ARCHITECTURES)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """kind -> (folder, the model that was put there, its reader), made once."""
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "model"
            made[kind] = folder, write_folder(folder, kind), CLIPReader.from_pretrained(folder, CONCEPTS)
        return made[kind]

    return of


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_open_clip_is_read_as_the_model_in_it_reads(opened, kind):
    _, model, reader = opened(kind)
    images = pictures(2)
    with torch.no_grad():
        image = model.encode_image(reader.preprocess(images), normalize=True)
        said = [model.encode_text(tokenise(reader.tokenizer, list(p)), normalize=True).mean(0)
                for p in (CONCEPTS[0].positive, CONCEPTS[0].negative)]  # fmt: skip
    torch.testing.assert_close(reader.features(images), image)
    margin = image @ (said[0] - said[1]) * model.logit_scale.exp()
    torch.testing.assert_close(reader.read(images)[:, 0], torch.sigmoid(margin).detach(), rtol=1e-4, atol=1e-5)
    assert reader.fitted_on is None  # nobody has said whose images it has seen


@pytest.mark.parametrize("kind", ["resnet", "timm", "coca"])
def test_it_is_saved_with_all_that_it_needs_and_opened_without_a_network(opened, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", None)
    _, _, reader = opened(kind)
    again = CLIPReader.from_pretrained(reader.save(tmp_path / "saved"))
    images = pictures(2)
    torch.testing.assert_close(again.margins(images), reader.margins(images), rtol=0.05, atol=0.05)
    assert again.preprocess == reader.preprocess
    once_more = CLIPReader.from_pretrained(again.save(tmp_path / "again"))
    assert once_more.fingerprint == again.fingerprint


def test_a_text_tower_of_transformers_has_its_own_tokenizer_and_pads_as_it_does(opened):
    _, model, reader = opened("timm")
    ids = tokenise(reader.tokenizer, ["a cardiac pacemaker"])
    assert ids.shape == (1, 24)
    assert ids[0, :5].tolist() == [2, 4, 12, 8, 3]  # [CLS] a cardiac pacemaker [SEP] of the vocabulary
    assert (ids[0, 5:] == 0).all()
    assert type(model.text.transformer).__name__ == "BertModel"


@pytest.mark.parametrize("prefix", ["local-dir:", ""])
def test_a_pickle_of_tensors_is_opened(tmp_path, prefix):
    write_folder(tmp_path / "model", "clip", weights="open_clip_pytorch_model.bin")
    assert CLIPReader.from_pretrained(f"{prefix}{tmp_path / 'model'}", CONCEPTS).read(pictures(1)).shape == (1, 3)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    write_folder(tmp_path / "model", "clip")
    (tmp_path / "model" / "open_clip_model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": Evil()}, tmp_path / "model" / "open_clip_pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(ValueError, match="pickle of more than tensors"):
        CLIPReader.from_pretrained(tmp_path / "model", CONCEPTS)
    assert not (tmp_path / "ran").exists()


def test_a_name_on_the_hub_is_found_in_its_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit = "0" * 40
    entry = tmp_path / "cache" / "models--some-lab--tiny-clip"
    write_folder(entry / "snapshots" / commit, "clip", weights="open_clip_pytorch_model.bin")
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(commit)
    reader = CLIPReader.from_pretrained("hf-hub:some-lab/tiny-clip", CONCEPTS, cache_dir=tmp_path / "cache")
    there = CLIPReader.from_pretrained(entry / "snapshots" / commit, CONCEPTS)
    assert reader.fingerprint == there.fingerprint
    with pytest.raises(FileNotFoundError, match="hf-hub:some-lab/other is not in the cache"):
        CLIPReader.from_pretrained("hf-hub:some-lab/other", CONCEPTS, cache_dir=tmp_path / "cache")


def test_an_architecture_of_open_clip_takes_a_file_of_weights(tmp_path, monkeypatch):
    config = {**ARCHITECTURES["clip"], "text_cfg": {**ARCHITECTURES["clip"]["text_cfg"]}}
    (tmp_path / "Tiny-32.json").write_text(json.dumps(config))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    open_clip.add_model_config(tmp_path)
    model = write_folder(tmp_path / "model", "clip")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    reader = CLIPReader.from_pretrained("Tiny-32", CONCEPTS, weights=tmp_path / "weights.pt")
    assert reader.preprocess.resize_mode == "shortest"  # open_clip's own
    torch.testing.assert_close(reader.model.visual.state_dict(), model.visual.state_dict())
    with pytest.raises(FileNotFoundError, match="pass the file of its weights"):
        CLIPReader.from_pretrained("Tiny-32", CONCEPTS)


def test_what_is_missing_is_named(opened, tmp_path):
    folder, _, _ = opened("timm")
    with pytest.raises(ValueError, match=r"model without concepts.*say what to read: concepts="):
        CLIPReader.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="no folder 'nowhere', and no architecture of that name"):
        CLIPReader.from_pretrained("nowhere", CONCEPTS)
    with pytest.raises(FileNotFoundError, match="has no open_clip_config"):
        CLIPReader.from_pretrained(tmp_path, CONCEPTS)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "open_clip_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights"):
        CLIPReader.from_pretrained(copy, CONCEPTS)


def test_a_text_tower_without_its_configuration_is_told_where_to_put_it(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    copy = shutil.copytree(opened("timm")[0], tmp_path / "copy")
    (copy / "config.json").unlink()
    with pytest.raises(
        ValueError, match=r"text tower .* has no configuration here: put its config\.json .*text_config"
    ):
        CLIPReader.from_pretrained(copy, CONCEPTS)


def test_weights_of_another_architecture_are_refused(opened, tmp_path):
    copy = shutil.copytree(opened("clip")[0], tmp_path / "copy")
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 3
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not fit its open_clip_config"):
        CLIPReader.from_pretrained(copy, CONCEPTS)


@pytest.mark.parametrize("mode", ["squash", "shortest", "longest"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(90, 60), (41, 77), (24, 24), (20, 31)])
def test_images_are_prepared_as_open_clip_prepares_them(mode, interpolation, height, width):
    config = {"size": 24, "mode": "RGB", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": interpolation,
              "resize_mode": mode, "fill_color": 128}  # fmt: skip
    ramp = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width))
    grey = (ramp + 15 * np.sin(np.arange(width) / 3)).clip(0, 255).astype(np.uint8)
    expected = image_transform_v2(PreprocessCfg(**config), is_train=False)(Image.fromarray(grey))
    found = Preprocess.from_config(config)(torch.as_tensor(grey / 255.0, dtype=torch.float32)[None, None])[0]
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < 0.03  # theirs rounds to 256 greys


def test_preprocessing_is_written_in_open_clips_words():
    made = Preprocess((24, 32), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", "longest", 0.2)
    assert Preprocess.from_config(made.to_config()) == made
    assert set(made.to_config()) == set(PreprocessCfg().__dict__)


@pytest.mark.parametrize("wrong", [{"interpolation": "nearest"}, {"resize_mode": "stretch"}, {"std": (1.0, 0.0, 1.0)}])
def test_preprocessing_that_does_not_exist_is_refused(wrong):
    with pytest.raises(ValueError, match=r"Preprocessing (has|needs)"):
        Preprocess((8, 8), **wrong)
