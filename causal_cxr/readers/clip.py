"""``CLIPReader``: reads concepts by the similarity of an image to phrases that name them (open_clip)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causal_cxr.data.patients import pack, unpack
from causal_cxr.readers.concepts import Concept, concept_from_dict
from causal_cxr.readers.features import resized
from causal_cxr.readers.quality import ReaderQuality

READER = "reader.json"
BATCH = 256


class CLIPReader:
    """Scores are calibrated margins: similarity to the positive phrases less similarity to the negative ones.

    Args:
        model: ``open_clip.CLIP``.
        tokenizer: transformers tokenizer of its text tower.
        concepts: what to read.
        calibration: ``(k, 2)`` Platt slope and intercept a concept; ``None`` = not calibrated, scores are
            ``sigmoid(logit_scale * margin)``.
        name: of this reader in an audit.
        fitted_on: patients of fit and calibration.
        quality: on other patients.
        renderer_version: of the phantom it was fitted on; ``None`` for real images.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        concepts: Sequence[Concept],
        *,
        calibration: np.ndarray | None = None,
        name: str = "clip",
        fitted_on: frozenset[str] | None = None,
        quality: ReaderQuality | None = None,
        renderer_version: int | None = None,
    ) -> None:
        self.model, self.tokenizer, self.concepts, self.name = model.eval(), tokenizer, tuple(concepts), name
        self.calibration, self.fitted_on, self.renderer_version = calibration, fitted_on, renderer_version
        self.quality = quality or ReaderQuality.unknown(concepts)
        self._directions = self._prompt_directions()
        digest = hashlib.sha256(self._directions.numpy().tobytes())
        digest.update(b"" if calibration is None else calibration.astype(np.float64).tobytes())
        for key, weight in sorted(model.visual.state_dict().items()):
            digest.update(key.encode() + weight.to(torch.float16).numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    @torch.no_grad()
    def _prompt_directions(self) -> Tensor:
        """``(width, k)``: mean positive less mean negative text feature of each concept."""
        directions = []
        for concept in self.concepts:
            ends = [
                self.model.encode_text(tokenise(self.tokenizer, list(p)), normalize=True).mean(0)
                for p in (concept.positive, concept.negative)
            ]
            directions.append(ends[0] - ends[1])
        return torch.stack(directions, dim=1)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """``(n, width)`` unit-length image features; images of another size are resized."""
        size = self.model.visual.image_size
        size = size[0] if isinstance(size, (tuple, list)) else size
        parts = []
        for i in range(0, len(images), BATCH):
            x = resized(images[i : i + BATCH], size)
            parts.append(self.model.encode_image((x.expand(-1, 3, -1, -1) - 0.5) / 0.3, normalize=True))
        return torch.cat(parts)

    def margins(self, images: Tensor) -> Tensor:
        """``(n, k)`` uncalibrated margins, in units of the model's logit scale."""
        return self.features(images) @ self._directions * self.model.logit_scale.exp().detach()

    def read(self, images: Tensor, patients: Sequence[str] | None = None) -> Tensor:
        """``(n, k)`` scores in [0, 1]; ``patients`` make no difference."""
        margins = self.margins(images)
        if self.calibration is not None:
            platt = torch.as_tensor(self.calibration, dtype=margins.dtype)
            margins = margins * platt[:, 0] + platt[:, 1]
        return torch.sigmoid(margins)

    def save(self, folder: str | Path) -> Path:
        """Write ``model.safetensors`` (half), ``open_clip_config.json``, ``tokenizer/``, ``reader.json``."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        half = {k: v.detach().half().contiguous() for k, v in self.model.state_dict().items() if v.is_floating_point()}
        save_file(half, folder / "model.safetensors")
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": self.model.config}, indent=1))
        self.tokenizer.save_pretrained(folder / "tokenizer")
        content = {
            "name": self.name,
            "concepts": [asdict(concept) for concept in self.concepts],
            "calibration": None if self.calibration is None else self.calibration.tolist(),
            "fitted_on": pack(self.fitted_on),
            "quality": self.quality.to_dict(),
            "renderer_version": self.renderer_version,
        }
        partial = folder / f"{READER}.partial"
        partial.write_text(json.dumps(content, indent=1))
        partial.rename(folder / READER)
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "CLIPReader":
        """Load what :meth:`save` wrote."""
        from safetensors.torch import load_file
        from transformers import CLIPTokenizer

        folder = Path(folder)
        if not (folder / READER).is_file():
            raise FileNotFoundError(f"{folder} has no {READER}; save a reader there with CLIPReader.save(folder).")
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are read
            model = build_clip(json.loads((folder / "open_clip_config.json").read_text())["model_cfg"])
        state = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
        model.load_state_dict(state, strict=False)
        content = json.loads((folder / READER).read_text())
        return cls(
            model,
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            [concept_from_dict(entry) for entry in content["concepts"]],
            calibration=None if content["calibration"] is None else np.array(content["calibration"]),
            name=content["name"],
            fitted_on=unpack(content["fitted_on"]),
            quality=ReaderQuality.from_dict(content["quality"]),
            renderer_version=content["renderer_version"],
        )

    @classmethod
    def from_shipped(cls, name: str = "clip-reader-phantom") -> "CLIPReader":
        """A reader that ships with the package."""
        from causal_cxr.weights import shipped

        return cls.from_pretrained(shipped(name))


def build_clip(config: dict[str, Any]) -> Any:
    """An ``open_clip.CLIP`` of any size from its config, kept as ``model.config``."""
    import open_clip

    model = open_clip.CLIP(**config)
    model.config = config
    return model


def tokenise(tokenizer: Any, texts: list[str]) -> Tensor:
    """``(n, length)`` token ids; open_clip pools at the end token, which has the largest id."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]


def platt(margins: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``(k, 2)`` logistic calibration of each column; (1, 0) where a column has no labels of both kinds."""
    from sklearn.linear_model import LogisticRegression

    rows = []
    for j in range(margins.shape[1]):
        known = ~np.isnan(truth[:, j])
        y = truth[known, j]
        if len(np.unique(y)) < 2:
            rows.append([1.0, 0.0])
            continue
        fit = LogisticRegression(C=1e4).fit(margins[known, j : j + 1], y)
        rows.append([float(fit.coef_[0, 0]), float(fit.intercept_[0])])
    return np.array(rows)
