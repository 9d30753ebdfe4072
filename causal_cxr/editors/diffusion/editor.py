"""``DiffusionEditor``: a text-conditioned diffusion model as an intervention operator."""

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


class DiffusionEditor:
    """Edits images by inverting them under their own caption and drawing them again under another.

    A diffusers ``UNet2DConditionModel`` predicts the velocity of a rectified flow; a transformers ``CLIPTextModel``
    reads the caption. Inversion (Heun, ``steps`` steps) is deterministic and is shared by all interventions of an image.

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
        steps: int = 10,
        fitted_on: frozenset[str] | None = None,
        size: int = 64,
        renderer_version: int | None = None,
    ) -> None:
        self.unet, self.text_encoder, self.tokenizer = unet.eval(), text_encoder.eval(), tokenizer
        self.graph_attributes = dict(attributes)
        self.attributes = frozenset(attributes)
        self.steps, self.fitted_on, self.size, self.renderer_version = steps, fitted_on, size, renderer_version
        self.fingerprint = self._fingerprint()

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, steps: int | None = None) -> "DiffusionEditor":
        """Load from a folder in the hub's layout: ``unet/``, ``text_encoder/``, ``tokenizer/``, ``editor.json``.

        Raises:
            FileNotFoundError: the folder is not such a folder.
        """
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise FileNotFoundError(
                f"{folder} has no {CONFIG}; save an editor there with DiffusionEditor.save(folder)."
            )
        config = json.loads((folder / CONFIG).read_text())
        attributes = [attribute_from_dict(entry) for entry in config["attributes"]]
        return cls(
            UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
            CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            {attribute.name: attribute for attribute in attributes},
            steps=steps or config["steps"],
            fitted_on=None if config["fitted_on"] is None else frozenset(config["fitted_on"]),
            size=config["size"],
            renderer_version=config["renderer_version"],
        )

    @classmethod
    def from_shipped(cls, name: str = "diffusion-portable") -> "DiffusionEditor":
        """An editor that ships with the package."""
        from causal_cxr.weights import shipped

        return cls.from_pretrained(shipped(name))

    def save(self, folder: str | Path, *, half: bool = True) -> Path:
        """Write the hub's layout; ``half`` stores float16 (loaded back as float32)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kind = torch.float16 if half else torch.float32
        for name, model in (("unet", self.unet), ("text_encoder", self.text_encoder)):
            model.to(kind).save_pretrained(folder / name)
            model.to(torch.float32)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        config = {
            "attributes": [attribute.to_dict() for attribute in self.graph_attributes.values()],
            "steps": self.steps,
            "size": self.size,
            "renderer_version": self.renderer_version,
            "fitted_on": None if self.fitted_on is None else sorted(self.fitted_on),
        }
        partial = folder / f"{CONFIG}.partial"
        partial.write_text(json.dumps(config, indent=1))
        partial.rename(folder / CONFIG)
        return folder

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
        latent = heun(self._velocity(condition), to_latent(images), 0.0, 1.0, self.steps)
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
        return Edit.all_accepted(to_images(latent), 2 * self.steps * len(target))

    @torch.no_grad()
    def _condition(self, table: pd.DataFrame, phrasing: int) -> Tensor:
        texts = captions(table, self.graph_attributes, phrasing)
        unique = sorted(set(texts))
        states = encode(self.text_encoder, self.tokenizer, unique)
        position = {text: i for i, text in enumerate(unique)}
        return states[[position[text] for text in texts]]

    def _velocity(self, condition: Tensor) -> Any:
        @torch.no_grad()
        def velocity(x: Tensor, t: float) -> Tensor:
            with torch.autocast("cpu" if x.device.type == "cpu" else "cuda", torch.bfloat16):
                out = self.unet(x, torch.full((len(x),), 1000.0 * t), encoder_hidden_states=condition).sample
            return out.float()

        return velocity

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.steps}|{[a.to_dict() for a in self.graph_attributes.values()]}".encode())
        for model in (self.unet, self.text_encoder):
            for name, weight in sorted(model.state_dict().items()):
                digest.update(name.encode())
                digest.update(weight.to(torch.float16).cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def encode(text_encoder: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """``(n, length, width)`` states of captions, padded to the tokenizer's length."""
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    return text_encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
