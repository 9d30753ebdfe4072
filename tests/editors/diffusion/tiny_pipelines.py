"""Text-to-image pipelines of the published architectures, tiny and never fitted, on disk as their authors write them."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH, LENGTH = 16, 77
SCHEDULE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tokenizer_files(folder: Path) -> Path:
    """``vocab.json``, ``merges.txt`` and settings, as Stable Diffusion 1.5 has them; letters and no merges."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
                "do_lower_case": True,
            }
        )
    )  # fmt: skip
    return folder


def unet(channels: int = 4, width: int = WIDTH, **options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, in_channels=channels, out_channels=channels, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width, attention_head_dim=2, norm_num_groups=8, **options,
    )  # fmt: skip


def autoencoder(colours: int = 3, **options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=colours, out_channels=colours, block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
        **options,
    )  # fmt: skip


def text_encoder(tokenizer: CLIPTokenizer, **options: Any) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=LENGTH, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **options,
        )
    )  # fmt: skip


def stable_diffusion(
    folder: Path,
    *,
    scheduler: Any = None,
    colours: int = 3,
    seed: int = 0,
    variant: str | None = None,
    **unet_options: Any,
) -> StableDiffusionPipeline:
    """A pipeline as diffusers saves it in ``folder``; as it is without arguments, Stable Diffusion 1's kind."""
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_files(folder / "made"))
    pipeline = StableDiffusionPipeline(
        vae=autoencoder(colours), text_encoder=text_encoder(tokenizer), tokenizer=tokenizer, unet=unet(**unet_options),
        scheduler=scheduler or DDIMScheduler(**SCHEDULE, steps_offset=1, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    if variant:
        pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, variant=variant)
    tokenizer_files(folder / "tokenizer")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
