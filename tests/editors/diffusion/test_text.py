"""Text encoders: the states that the published pipelines would condition on, and never a caption that is cut."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import LENGTH, stable_diffusion
from transformers import BertConfig, BertModel

from causal_cxr.editors.diffusion.text import CLIPText, OpenClipText, load_text

TEXTS = ["chest x-ray , AP view", "chest x-ray", ""]
TOWER = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VISION = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
BERT = {"vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd")
    return folder, stable_diffusion(folder)


@pytest.fixture(scope="module")
def clip(diffusion):
    folder, _ = diffusion
    return load_text(folder / "text_encoder", folder / "tokenizer")


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory):
    """As open_clip publishes a model."""
    folder = tmp_path_factory.mktemp("open_clip")
    torch.manual_seed(0)
    config = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TOWER}
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return folder


@torch.no_grad()
def test_states_are_those_that_stable_diffusion_conditions_on(diffusion, clip):
    pipeline = diffusion[1]
    theirs = pipeline.encode_prompt(TEXTS, "cpu", 1, False)[0]
    assert not clip.masked
    assert torch.equal(clip(TEXTS), theirs)


@torch.no_grad()
def test_a_mask_is_kept_where_diffusers_looks_for_it(diffusion, clip, tmp_path):
    masked = CLIPText(clip.model, clip.tokenizer, masked=True)
    assert not torch.equal(masked(TEXTS), clip(TEXTS))
    assert masked.identity != clip.identity
    masked.save(tmp_path, torch.float32)
    assert json.loads((tmp_path / "text_encoder" / "config.json").read_text())["use_attention_mask"] is True
    again = load_text(tmp_path / "text_encoder", tmp_path / "tokenizer")
    assert torch.equal(again(TEXTS), masked(TEXTS))
    assert again.identity == masked.identity
    again.save(tmp_path / "again", torch.float16)
    assert {w.dtype for w in load_file(tmp_path / "again" / "text_encoder" / "model.safetensors").values()} == {
        torch.float16
    }


@torch.no_grad()
def test_weights_under_the_names_of_older_transformers_are_read(diffusion, clip, tmp_path):
    clip.save(tmp_path, torch.float32)
    file = tmp_path / "text_encoder" / "model.safetensors"
    old = {f"text_model.{name}": weight for name, weight in load_file(file).items()}
    save_file(old | {"text_model.embeddings.position_ids": torch.arange(LENGTH)[None]}, file, {"format": "pt"})
    again = load_text(tmp_path / "text_encoder", diffusion[0] / "tokenizer")
    assert torch.equal(again(TEXTS), clip(TEXTS))


@torch.no_grad()
def test_states_of_open_clip_are_those_that_it_pools(open_clip_folder):
    text = load_text(open_clip_folder, open_clip_folder)
    assert isinstance(text, OpenClipText)
    states = text(TEXTS)
    assert states.shape == (3, 20, 16)
    model = open_clip.create_model(f"local-dir:{open_clip_folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{open_clip_folder}")(TEXTS)
    pooled = states[torch.arange(3), tokens.argmax(dim=-1)] @ model.text_projection
    torch.testing.assert_close(pooled, model.encode_text(tokens))


@torch.no_grad()
def test_open_clip_is_saved_in_its_own_layout(open_clip_folder, tmp_path):
    text = load_text(open_clip_folder, open_clip_folder)
    text.save(tmp_path, torch.float32)
    files = {path.name for path in (tmp_path / "text_encoder").iterdir()}
    assert files == {"open_clip_config.json", "open_clip_model.safetensors"}
    again = load_text(tmp_path / "text_encoder", tmp_path / "tokenizer")
    assert torch.equal(again(TEXTS), text(TEXTS))
    assert again.identity == text.identity


@torch.no_grad()
def test_a_text_tower_of_transformers_within_open_clip_gives_its_last_states(tmp_path):
    """BiomedCLIP's kind: a BERT, with its tokenizer in the same folder."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "chest", "x", "-", "ray", "ap", "view"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (tmp_path / "config.json").write_text(json.dumps(BERT | {"model_type": "bert"}))
    config = {
        "embed_dim": 8, "vision_cfg": VISION,
        "text_cfg": {"hf_model_name": str(tmp_path), "hf_tokenizer_name": str(tmp_path), "hf_pooler_type": "cls_pooler",
                     "hf_proj_type": "mlp", "context_length": 12},
    }  # fmt: skip
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.manual_seed(0)
    made = open_clip.create_model(f"local-dir:{tmp_path}", pretrained_text=False)
    state = made.state_dict() | {"text.transformer.embeddings.position_ids": torch.arange(512)[None]}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    text = load_text(tmp_path, tmp_path)
    states = text(["chest x-ray ap view", ""])
    assert states.shape == (2, 12, 16)
    bert = BertModel(BertConfig(**BERT)).eval()
    bert.load_state_dict(made.text.transformer.state_dict())
    ids = text.ids(["chest x-ray ap view", ""])
    assert ids[0].tolist() == [2, 5, 6, 7, 8, 9, 10, 3, 0, 0, 0, 0]
    theirs = bert(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    torch.testing.assert_close(states, theirs)


def test_pickled_weights_are_not_opened(open_clip_folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((open_clip_folder / "open_clip_config.json").read_text())
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"no open_clip_model.safetensors; pickled weights are not opened"):
        load_text(tmp_path, tmp_path)


def test_a_caption_that_is_too_long_is_named_and_none_is_cut(clip, open_clip_folder):
    other = load_text(open_clip_folder, open_clip_folder)
    for text, whole in ((clip, "a" * (LENGTH - 2)), (other, " ".join("a" * 18))):
        assert text.lengths([whole]) == [text.length]
        text([whole])
        longer = whole + " b"
        with pytest.raises(
            ValueError, match=rf"caption '{longer}' has {text.length + 1} tokens, .* takes {text.length}"
        ):
            text(["short", longer])


@torch.no_grad()
def test_tokens_are_encoded_apart(clip, open_clip_folder):
    for text in (clip, load_text(open_clip_folder, open_clip_folder)):
        assert torch.equal(text.encode(text.tokens(TEXTS)), text(TEXTS))
        assert text.ids(TEXTS).shape == (3, text.length)
