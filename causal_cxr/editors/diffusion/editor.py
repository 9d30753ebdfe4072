"""``DiffusionEditor``: a text-conditioned diffusion model as an intervention operator."""

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.editors.diffusion.captions import captions
from causal_cxr.editors.diffusion.flow import UNSHUFFLE, heun, to_images, to_latent
from causal_cxr.editors.editor import Abduction, Edit
from causal_cxr.graphs import Attribute, attribute_from_dict

CONFIG = "editor.json"
HEUN_STEPS = 10
ADAPTER = "pytorch_lora_weights.safetensors"  #: the name that diffusers gives a LoRA


class DiffusionEditor:
    """Edits images by inverting them under their own caption and drawing them again under another.

    A diffusers ``UNet2DConditionModel`` predicts the velocity of a rectified flow; a transformers ``CLIPTextModel``
    reads the caption. Inversion (Heun, ``steps`` steps) is deterministic and is shared by all interventions of an image.

    Computes in bfloat16 on GPUs and on CPUs that have units for it, in float32 elsewhere.

    Args:
        unet: velocity network on ``pixel_unshuffle(4)`` images.
        text_encoder: its ``last_hidden_state`` conditions the network.
        tokenizer: of the text encoder.
        attributes: what captions name, in order.
        steps: Heun steps each way, two evaluations each.
        fitted_on: patients of the fit; ``None`` = unknown.
        size: pixels a side of the images that it was fitted on.
        renderer_version: of the phantom that it was fitted on; ``None`` for real images.
    """

    semantics: Literal["observational", "structural"] = "observational"

    def __init__(
        self,
        unet: Any,
        text_encoder: Any,
        tokenizer: Any,
        attributes: Mapping[str, Attribute],
        *,
        steps: int = HEUN_STEPS,
        fitted_on: frozenset[str] | None = None,
        size: int = 64,
        renderer_version: int | None = None,
    ) -> None:
        self.unet, self.text_encoder, self.tokenizer = unet.eval(), text_encoder.eval(), tokenizer
        self.graph_attributes = dict(attributes)
        self.attributes = frozenset(attributes)
        self.steps, self.fitted_on, self.size, self.renderer_version = steps, fitted_on, size, renderer_version
        self.fingerprint = self._fingerprint(steps)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, adapter: str | Path | None = None, steps: int | None = None
    ) -> "DiffusionEditor":
        """Load from a folder in the hub's layout: ``unet/``, ``text_encoder/``, ``tokenizer/``, ``editor.json``.

        Args:
            folder: what :meth:`save` wrote.
            adapter: what :meth:`save_adapter` wrote of an editor that was fine-tuned from this one; it is merged into
                the weights.
            steps: instead of those that were saved.

        Raises:
            FileNotFoundError: a folder is not such a folder.
            ValueError: the adapter belongs to another base.
        """
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        folder = Path(folder)
        config = _config(folder)
        if "base" in config:
            raise ValueError(
                f"{folder} holds an adapter; open it with from_pretrained(BASE, adapter=...) on the base that has the "
                f"fingerprint {config['base']}."
            )
        attributes = [attribute_from_dict(entry) for entry in config["attributes"]]
        fitted_on = config["fitted_on"]
        editor = cls(
            UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
            CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            {attribute.name: attribute for attribute in attributes},
            steps=config["steps"],
            fitted_on=None if fitted_on is None else frozenset(fitted_on),
            size=config["size"],
            renderer_version=config["renderer_version"],
        )
        if adapter is not None:
            editor._merge(Path(adapter))
        if steps is not None:
            editor.steps, editor.fingerprint = steps, editor._fingerprint(steps)
        return editor

    def _merge(self, folder: Path) -> None:
        config = _config(folder)
        if "base" not in config:
            raise ValueError(f"{folder} holds a whole editor and no adapter; open it with from_pretrained(folder).")
        if config["base"] != self.fingerprint:
            raise ValueError(
                f"The adapter in {folder} was fitted to the base {config['base']}, this one is {self.fingerprint}; load "
                "the base that it was fitted to."
            )
        self.unet.load_lora_adapter(folder, weight_name=ADAPTER, prefix=None)
        self.unet.fuse_lora()
        self.unet.unload_lora()
        seen = config["fitted_on"]
        self.fitted_on = None if self.fitted_on is None or seen is None else self.fitted_on | frozenset(seen)
        self.fingerprint = self._fingerprint(self.steps)

    @classmethod
    def from_shipped(cls, name: str = "diffusion-portable") -> "DiffusionEditor":
        """An editor that ships with the package: ``diffusion-base``, or the base with the adapter of a world."""
        from causal_cxr.weights import shipped

        folder = shipped(name)
        if "base" in _config(folder):
            return cls.from_pretrained(shipped("diffusion-base"), adapter=folder)
        return cls.from_pretrained(folder)

    def save(self, folder: str | Path, *, half: bool = True) -> Path:
        """Write the hub's layout; ``half`` stores float16 (loaded back as float32).

        Raises:
            ValueError: the editor carries a LoRA that is not merged.
        """
        if self.unet._hf_peft_config_loaded:
            raise ValueError("This editor is a base with an adapter: write the adapter with save_adapter(...).")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kind = torch.float16 if half else torch.float32
        for name, model in (("unet", self.unet), ("text_encoder", self.text_encoder)):
            copy.deepcopy(model).to(kind).save_pretrained(folder / name)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        return _write_config(
            folder,
            attributes=[attribute.to_dict() for attribute in self.graph_attributes.values()],
            steps=self.steps,
            size=self.size,
            renderer_version=self.renderer_version,
            fitted_on=None if self.fitted_on is None else sorted(self.fitted_on),
        )

    def save_adapter(self, folder: str | Path, *, base: str, fitted_on: frozenset[str] | None) -> Path:
        """Write only the LoRA that :func:`~causal_cxr.editors.diffusion.fit.fit_adapter` fitted, in float16.

        Args:
            folder: for it and its ``editor.json``.
            base: fingerprint of the editor that it belongs to.
            fitted_on: patients of the fine-tuning alone.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        copy.deepcopy(self.unet).half().save_lora_adapter(folder, weight_name=ADAPTER)
        return _write_config(
            folder,
            base=base,
            renderer_version=self.renderer_version,
            fitted_on=None if fitted_on is None else sorted(fitted_on),
        )

    def to(self, device: str | torch.device) -> "DiffusionEditor":
        """Compute there; images come and go on the CPU. Returns itself."""
        self.unet.to(device), self.text_encoder.to(device)
        return self

    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        """Invert the images under their factual captions; deterministic, so ``seeds`` draw nothing.

        Raises:
            ValueError: image sides are not a multiple of the network's reduction.
        """
        reduction = UNSHUFFLE * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if images.shape[-1] % reduction or images.shape[-2] % reduction:
            raise ValueError(
                f"Image sides must be multiples of {reduction}, got {tuple(images.shape[-2:])}; resize them."
            )
        condition = self._condition(attributes, 0)
        latent = heun(self._velocity(condition), to_latent(images).to(condition.device), 0.0, 1.0, self.steps)
        return Abduction(attributes, latent, 2 * self.steps * len(images))

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        """Draw the images under the captions of ``target``.

        ``strength`` scales the condition's step from the factual caption to the target's: 0 reconstructs, 1 asks for
        the target, more extrapolates.
        """
        condition = self._condition(target, phrasing)
        if strength != 1.0:
            factual = self._condition(abduction.factual, phrasing)
            condition = factual + strength * (condition - factual)
        latent = heun(self._velocity(condition), abduction.state, 1.0, 0.0, self.steps)
        return Edit.all_accepted(to_images(latent).cpu(), 2 * self.steps * len(target))

    @torch.no_grad()
    def _condition(self, table: pd.DataFrame, phrasing: int) -> Tensor:
        texts = captions(table, self.graph_attributes, phrasing)
        unique = sorted(set(texts))
        states = encode(self.text_encoder, self.tokenizer, unique)
        position = {text: i for i, text in enumerate(unique)}
        return states[[position[text] for text in texts]]

    def _velocity(self, condition: Tensor) -> Any:
        device = condition.device

        @torch.no_grad()
        def velocity(x: Tensor, t: float) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=_fast_bfloat16(device)):
                out = self.unet(
                    x, torch.full((len(x),), 1000.0 * t, device=device), encoder_hidden_states=condition
                ).sample
            return out.float()

        return velocity

    def _fingerprint(self, steps: int) -> str:
        settings = [steps, self.size, [a.to_dict() for a in self.graph_attributes.values()], self.tokenizer.get_vocab()]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for model in (self.unet, self.text_encoder):
            for name, weight in sorted(model.state_dict().items()):
                digest.update(name.encode())
                digest.update(weight.to(torch.float16).cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def encode(text_encoder: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """``(n, length, width)`` states of captions, padded to the tokenizer's length."""
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").to(text_encoder.device)
    return text_encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state


def _fast_bfloat16(device: torch.device) -> bool:
    """CPUs without bfloat16 units emulate them, slower than float32."""
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; save an editor there with DiffusionEditor.save(folder).")
    return json.loads((folder / CONFIG).read_text())


def _write_config(folder: Path, **content: Any) -> Path:
    partial = folder / f"{CONFIG}.partial"
    partial.write_text(json.dumps(content, indent=1))
    partial.rename(folder / CONFIG)
    return folder
