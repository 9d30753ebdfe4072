"""Pipelines as they are published: what loads, what it computes, how it is saved, and what is refused."""

import json
import shutil

import diffusers
import huggingface_hub
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny_pipelines import SCHEDULE, autoencoder, stable_diffusion, unet

from causal_cxr.editors.diffusion import hub
from causal_cxr.editors.diffusion.denoiser import Condition, Denoiser
from causal_cxr.editors.diffusion.hub import located, wanted
from causal_cxr.editors.diffusion.inversion.ddim import step
from causal_cxr.editors.diffusion.latents import Autoencoded, Unshuffled
from causal_cxr.editors.diffusion.pipeline import Pipeline

TEXTS = ["chest x-ray , AP view", "chest x-ray"]
DDIM = {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": True}
IMAGES = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def made(folder, kind: str):
    """``(folder, diffusers' own pipeline)``: Stable Diffusion 1's kind, 2's, and one of grey images."""
    if kind == "sd1":
        return folder, stable_diffusion(folder, scheduler=diffusers.PNDMScheduler(**SCHEDULE, steps_offset=1))
    if kind == "sd2":
        scheduler = diffusers.EulerDiscreteScheduler(**SCHEDULE, prediction_type="v_prediction", steps_offset=1)
        return folder, stable_diffusion(folder, scheduler=scheduler, use_linear_projection=True)
    return folder, stable_diffusion(folder, colours=1)


@pytest.fixture(scope="module", params=["sd1", "sd2", "grey"])
def published(request, tmp_path_factory):
    return made(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return made(tmp_path_factory.mktemp("sd1"), "sd1")


@torch.no_grad()
def test_a_denoising_step_is_that_of_diffusers_on_the_same_pipeline(published):
    folder, theirs = published
    ours = Pipeline.from_pretrained(folder)
    denoiser = Denoiser(ours.unet, ours.process)
    scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config, **DDIM)
    scheduler.set_timesteps(10)
    times = ours.process.times(10)
    assert times[:0:-1] == scheduler.timesteps.tolist()
    states = theirs.encode_prompt(TEXTS, "cpu", 1, False)[0]
    x = y = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for time, lower in zip(times[:0:-1], times[-2::-1], strict=True):
        output = theirs.unet(x, int(time), encoder_hidden_states=states).sample
        x = scheduler.step(output, int(time), x).prev_sample
        y = step(ours.process, denoiser.predict(y, time, Condition(ours.text(TEXTS))), lower)
        torch.testing.assert_close(y, x, atol=1e-4, rtol=1e-4)
    decoded = theirs.vae.decode(x / theirs.vae.config.scaling_factor).sample
    torch.testing.assert_close(ours.latents.decode(y), (decoded / 2 + 0.5).mean(1, keepdim=True).clamp(0, 1), atol=1e-4, rtol=0)  # fmt: skip


@torch.no_grad()
def test_saved_whole_a_pipeline_comes_back_to_the_same_bits_and_opens_in_diffusers(published, tmp_path):
    folder, theirs = published
    first = Pipeline.from_pretrained(folder)
    first.save(tmp_path, half=False)
    again = Pipeline.from_pretrained(tmp_path)
    assert again.identity == first.identity
    for one, other in zip(first.models, again.models, strict=True):
        assert one.state_dict().keys() == other.state_dict().keys()
        assert all(torch.equal(w, other.state_dict()[name]) for name, w in one.state_dict().items())
    opened = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    assert type(opened.scheduler) is type(theirs.scheduler)
    assert torch.equal(opened.encode_prompt(TEXTS, "cpu", 1, False)[0], first.text(TEXTS))


def test_what_is_saved_does_not_tell_where_it_was_loaded_from(published, tmp_path):
    Pipeline.from_pretrained(published[0]).save(tmp_path)
    written = "".join(file.read_text() for file in tmp_path.rglob("*.json"))
    assert str(published[0]) not in written
    assert "_name_or_path" not in written


def test_half_precision_is_stored_and_float32_computed(sd1, tmp_path):
    Pipeline.from_pretrained(sd1[0]).save(tmp_path)
    again = Pipeline.from_pretrained(tmp_path)
    assert all(p.dtype == torch.float32 and not m.training for m in again.models for p in m.parameters())
    sizes = [sum(p.stat().st_size for p in folder.glob("*/*.safetensors")) for folder in (tmp_path, sd1[0])]
    assert sizes[0] < 0.6 * sizes[1]


def test_a_variant_of_the_weights_is_asked_for_by_name(tmp_path):
    stable_diffusion(tmp_path, variant="fp16")
    assert (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert Pipeline.from_pretrained(tmp_path, variant="fp16").unet.dtype == torch.float32
    with pytest.raises(OSError, match=r"diffusion_pytorch_model\.safetensors"):
        Pipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("place", ["unet", "."])
def test_a_fine_tuned_unet_alone_takes_the_rest_from_its_base(sd1, tmp_path, place):
    torch.manual_seed(5)
    tuned = unet()
    tuned.save_pretrained(tmp_path / place)
    pipeline = Pipeline.from_pretrained(tmp_path, base=sd1[0])
    assert torch.equal(pipeline.unet.conv_in.weight, tuned.conv_in.weight)
    assert isinstance(pipeline.latents, Autoencoded)
    with pytest.raises(FileNotFoundError, match=r"no text_encoder, tokenizer, scheduler, vae\. .* with base="):
        Pipeline.from_pretrained(tmp_path)


def test_an_autoencoder_that_is_lost_is_missed(sd1, tmp_path):
    shutil.copytree(sd1[0], tmp_path / "sd", ignore=shutil.ignore_patterns("vae"))
    with pytest.raises(FileNotFoundError, match="has no vae"):
        Pipeline.from_pretrained(tmp_path / "sd")


@torch.no_grad()
def test_an_open_clip_encoder_conditions_a_flow_on_folded_pixels(sd1, tmp_path):
    """Ours, in every part that Stable Diffusion has otherwise."""
    config = {
        "embed_dim": 8, "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1},
    }  # fmt: skip
    torch.manual_seed(0)
    unet(16, width=24).save_pretrained(tmp_path / "made" / "unet")
    encoder = tmp_path / "made" / "text_encoder"
    encoder.mkdir()
    save_file(open_clip.CLIP(**config).state_dict(), encoder / "open_clip_model.safetensors")
    (encoder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(tmp_path / "made" / "scheduler")
    (tmp_path / "made" / "editor.json").write_text("{}")
    first = Pipeline.from_pretrained(tmp_path / "made")
    assert isinstance(first.latents, Unshuffled)
    assert (first.latents.reduction, first.reduction, first.size, first.process.predicts) == (4, 8, 32, "flow")
    first.save(tmp_path / "saved", half=False)
    again = Pipeline.from_pretrained(tmp_path / "saved")  # its index says that it has no autoencoder
    assert again.identity == first.identity
    x = first.latents.encode(IMAGES)
    said = [Denoiser(p.unet, p.process).output(x, 0.5, Condition(p.text(TEXTS))) for p in (first, again)]
    assert torch.equal(*said)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"channels": 9}, r"takes 9 channels and returns 9, latents have 4: .* not one for inpainting"),
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 64,
            },
            "told more than a caption",
        ),
    ],
)
def test_unets_of_other_tasks_are_refused(sd1, tmp_path, options, problem):
    unet(**options).save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match=problem):
        Pipeline.from_pretrained(tmp_path, base=sd1[0])


# Latents


def test_folded_pixels_are_lossless():
    images = torch.rand(3, 1, 12, 20, generator=torch.Generator().manual_seed(0))
    latent = Unshuffled(4).encode(images)
    assert latent.shape == (3, 16, 3, 5)
    torch.testing.assert_close(Unshuffled(4).decode(latent), images, atol=1e-6, rtol=0)
    assert (Unshuffled(4).error(images) < 1e-6).all()


def test_a_latent_pixel_holds_a_patch_centred_and_scaled():
    images = torch.full((1, 1, 8, 8), 0.5)
    images[0, 0, 4:, :4] = 0.8
    latent = Unshuffled(4).encode(images)
    torch.testing.assert_close(latent[0, :, 1, 0], torch.ones(16), atol=1e-5, rtol=0)
    latent[0, :, 1, 0] = 0
    assert (latent == 0).all()


def test_images_are_clipped_to_0_and_1():
    images = Unshuffled(4).decode(torch.tensor([-9.0, 0.0, 9.0]).reshape(3, 1, 1, 1).expand(3, 16, 1, 1))
    assert images[:, 0, 0, 0].tolist() == [0.0, 0.5, 1.0]


def test_channels_that_fold_no_square_are_refused():
    with pytest.raises(ValueError, match=r"square number of channels; it has 8\."):
        Unshuffled.of(8)


@torch.no_grad()
@pytest.mark.parametrize("colours", [1, 3])
def test_an_autoencoders_latents_are_the_scaled_mode_of_grey_images(colours):
    torch.manual_seed(0)
    model = autoencoder(colours, scaling_factor=0.5, shift_factor=0.25).eval()
    space = Autoencoded(model)
    mode = model.encode((2 * IMAGES - 1).repeat(1, colours, 1, 1)).latent_dist.mode()
    latents = space.encode(IMAGES)
    torch.testing.assert_close(latents, (mode - 0.25) * 0.5)
    decoded = model.decode(mode).sample.mean(1, keepdim=True)
    torch.testing.assert_close(space.decode(latents), (decoded / 2 + 0.5).clamp(0, 1))
    assert (space.reduction, space.channels, space.evaluations) == (2, 4, 1)
    expected = (space.decode(latents) - IMAGES).abs().flatten(1).mean(1)
    torch.testing.assert_close(space.error(IMAGES), expected)
    assert (expected > 1e-3).all()  # it was never fitted


@torch.no_grad()
def test_many_images_are_encoded_as_few_are():
    torch.manual_seed(0)
    space = Autoencoded(autoencoder())
    images = torch.rand(11, 1, 8, 8)
    torch.testing.assert_close(space.encode(images)[9:], space.encode(images[9:]))
    torch.testing.assert_close(space.decode(space.encode(images))[9:], space.decode(space.encode(images[9:])))


def test_autoencoders_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="1 or 3 image channels is needed, this has 4 in"):
        Autoencoded(autoencoder(4))


# The hub


def test_only_what_is_needed_is_fetched_and_no_pickle(monkeypatch, tmp_path):
    asked = {}

    def fetch(name, *, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert located("owner/name", variant="fp16", revision="v1") == tmp_path
    assert (asked["name"], asked["revision"], asked["patterns"]) == ("owner/name", "v1", wanted("fp16"))
    there = {
        "README.md": 0, "v1-5-pruned.safetensors": 0, "v1-5-pruned.ckpt": 0, "model_index.json": 1, "unet/config.json": 1,
        "unet/diffusion_pytorch_model.bin": 0, "unet/diffusion_pytorch_model.safetensors": 0,
        "unet/diffusion_pytorch_model.fp16.safetensors": 1, "unet/diffusion_pytorch_model.non_ema.safetensors": 0,
        "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors": 1,
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors": 0,
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json": 1, "text_encoder/model.fp16.safetensors": 1,
        "text_encoder/pytorch_model.bin": 0, "text_encoder/config.json": 1, "tokenizer/vocab.json": 1,
        "tokenizer/merges.txt": 1, "scheduler/scheduler_config.json": 1, "safety_checker/model.safetensors": 0,
        "vae/diffusion_pytorch_model.fp16.safetensors": 1, "text_encoder/open_clip_model.safetensors": 1,
    }  # fmt: skip
    kept = set(huggingface_hub.utils.filter_repo_objects(there, allow_patterns=wanted("fp16")))
    assert kept == {name for name, needed in there.items() if needed}
    whole = set(huggingface_hub.utils.filter_repo_objects(there, allow_patterns=wanted()))
    assert "unet/diffusion_pytorch_model-00001-of-00002.safetensors" in whole
    assert not any("fp16" in name or name.endswith((".bin", ".ckpt")) or "non_ema" in name for name in whole)


def test_a_repository_that_cannot_be_reached_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"'nobody/nothing' is no folder here, and could not be fetched"):
        Pipeline.from_pretrained("nobody/nothing")


@pytest.mark.parametrize("name", ["nothing-here", "./a", "a/b/c"])
def test_a_name_that_is_no_repository_is_a_folder_that_is_missing(name):
    with pytest.raises(FileNotFoundError, match=f"There is no folder {name}; give a folder, or owner/name"):
        hub.located(name)
