"""``Pipeline``: a text-to-image diffusion model in the hub's layout, as much of it as editing needs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from causal_cxr.editors.diffusion.hub import located, write_model
from causal_cxr.editors.diffusion.latents import Autoencoded, LatentSpace, Unshuffled
from causal_cxr.editors.diffusion.process import Process
from causal_cxr.editors.diffusion.text import CLIPText, TextEncoder, load_text

INDEX = "model_index.json"


@dataclass
class Pipeline:
    """A denoiser, a text encoder, a latent space and a noising process that were fitted together.

    Attributes:
        unet: diffusers' ``UNet2DConditionModel``.
        text: encodes captions.
        latents: where the UNet denoises.
        process: that the UNet was fitted to.
    """

    unet: Any
    text: TextEncoder
    latents: LatentSpace
    process: Process

    def __post_init__(self) -> None:
        for model in self.models:
            model.eval()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        base: str | Path | None = None,
        variant: str | None = None,
        revision: str | None = None,
    ) -> "Pipeline":
        """Load ``unet/``, ``text_encoder/``, ``tokenizer/``, ``scheduler/`` and ``vae/``, where there is one.

        Only safetensors are opened. All computes in float32, whatever the weights were stored in.

        Args:
            source: a folder, or a repository on the hub.
            base: where to take the parts from that ``source`` lacks: a fine-tuned UNet is often published alone, in
                ``unet/`` or as the repository itself.
            variant: of the weights' files, such as ``fp16``.
            revision: of ``source`` on the hub.

        Raises:
            FileNotFoundError: a part is missing, or the source.
            ValueError: the UNet is of a kind that is not understood, or does not fit the other parts.
        """
        from diffusers import UNet2DConditionModel

        folders = [located(source, variant=variant, revision=revision)]
        folders += [] if base is None else [located(base, variant=variant)]
        there = {part: _find(folders, part) for part in ("unet", "text_encoder", "tokenizer", "scheduler", "vae")}
        own_tokenizer = (there["text_encoder"] / "open_clip_config.json").is_file() if there["text_encoder"] else False
        optional = {"vae"} | ({"tokenizer"} if own_tokenizer else set())
        if not _has_autoencoder(folders):
            there["vae"] = None
        elif there["vae"] is None:
            optional.remove("vae")
        missing = [part for part, folder in there.items() if folder is None and part not in optional]
        if missing:
            raise FileNotFoundError(
                f"{' with the base '.join(map(str, folders))} is no whole diffusion pipeline: it has no "
                f"{', '.join(missing)}. If it is a fine-tuned part, name what it was tuned from with base=."
            )
        unet: Any = UNet2DConditionModel.from_pretrained(
            there["unet"], variant=variant, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        text, tokenizer, scheduler = there["text_encoder"], there["tokenizer"], there["scheduler"]
        assert text is not None
        assert scheduler is not None
        vae = there["vae"]
        pipeline = cls(
            unet,
            load_text(text, tokenizer or text, variant),
            Unshuffled.of(unet.config.in_channels) if vae is None else Autoencoded.from_pretrained(vae, variant),
            Process.from_scheduler(json.loads((scheduler / "scheduler_config.json").read_text())),
        )
        pipeline._check()
        return pipeline

    def _check(self) -> None:
        config = self.unet.config
        if config.addition_embed_type not in (None, "text"):
            raise ValueError(
                f"The UNet is told more than a caption (addition_embed_type {config.addition_embed_type!r}, as SDXL's is); "
                "give a pipeline of the kind of Stable Diffusion 1 or 2."
            )
        if not config.in_channels == config.out_channels == self.latents.channels:
            raise ValueError(
                f"The UNet takes {config.in_channels} channels and returns {config.out_channels}, latents have "
                f"{self.latents.channels}: give a text-to-image pipeline, not one for inpainting or editing."
            )

    def save(self, folder: Path, *, half: bool = True) -> None:
        """Write the hub's layout; ``half`` stores float16 (loaded back as float32).

        Stable Diffusion's parts open as diffusers' ``StableDiffusionPipeline`` too.
        """
        import diffusers

        kind = torch.float16 if half else torch.float32
        folder.mkdir(parents=True, exist_ok=True)
        write_model(self.unet, folder / "unet", kind)
        self.text.save(folder, kind)
        self.process.save(folder / "scheduler")
        scheduler = (self.process.scheduler or {}).get("_class_name", "FlowMatchEulerDiscreteScheduler")
        clip = isinstance(self.text, CLIPText)
        index: dict[str, Any] = {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": diffusers.__version__,
            "unet": ["diffusers", "UNet2DConditionModel"],
            "text_encoder": ["transformers", "CLIPTextModel"] if clip else ["open_clip", "CLIP"],
            "tokenizer": ["transformers", "CLIPTokenizer"] if clip else [None, None],
            "scheduler": ["diffusers", scheduler],
            "vae": [None, None],
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
        }
        if isinstance(self.latents, Autoencoded):
            self.latents.save(folder / "vae", kind)
            index["vae"] = ["diffusers", "AutoencoderKL"]
        (folder / INDEX).write_text(json.dumps(index, indent=2))

    @property
    def models(self) -> list[Any]:
        """All networks: UNet, text encoder and, where there is one, autoencoder."""
        return [model for model in (self.unet, self.text.model, self.latents.model) if model is not None]

    @property
    def identity(self) -> str:
        """All but the weights that an edit depends on."""
        alphas = None if self.process.alphas is None else self.process.alphas.tolist()
        return f"{self.process.predicts}|{alphas}|{self.process.offset}|{self.text.identity}|{self.latents.identity}"

    @property
    def reduction(self) -> int:
        """Image sides must be multiples of this."""
        return self.latents.reduction * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def size(self) -> int:
        """Pixels a side of the images that the UNet says it was fitted on."""
        side = self.unet.config.sample_size
        return self.latents.reduction * (side if isinstance(side, int) else side[0])

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.unet.parameters()).device

    def to(self, device: str | torch.device) -> "Pipeline":
        """Compute there. Returns itself."""
        for model in self.models:
            model.to(device)
        return self


def _find(folders: list[Path], part: str) -> Path | None:
    """The first folder with the part; a UNet may also lie at the top."""
    for folder in folders:
        if (folder / part).is_dir():
            return folder / part
        config = folder / "config.json"
        kind = json.loads(config.read_text()).get("_class_name") if part == "unet" and config.is_file() else None
        if kind == "UNet2DConditionModel":
            return folder
    return None


def _has_autoencoder(folders: list[Path]) -> bool:
    """Whether the last of the folders, the one that is whole, is of a pipeline with an autoencoder.

    One of ours that has none says so, in its index or by an ``editor.json``.
    """
    whole = folders[-1]
    if any((folder / "vae").is_dir() for folder in folders):
        return True
    if (whole / INDEX).is_file():
        return json.loads((whole / INDEX).read_text()).get("vae", [None, None])[0] is not None
    return not (whole / "editor.json").is_file()
