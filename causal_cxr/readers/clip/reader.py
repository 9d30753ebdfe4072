"""``CLIPReader``: reads concepts by the similarity of an image to phrases that name them (open_clip)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.patients import pack, unpack
from causal_cxr.data.whole_file import write_json
from causal_cxr.readers.calibration import Calibration, Platt, calibrated_on
from causal_cxr.readers.clip.patches import overlap, pooled_and_patches
from causal_cxr.readers.clip.preprocess import Box, Preprocess
from causal_cxr.readers.clip.towers import Towers, load_towers, save_towers, tokenise
from causal_cxr.readers.concepts import Concept, concept_from_dict
from causal_cxr.readers.images import check_images
from causal_cxr.readers.quality import ReaderQuality

READER = "reader.json"
BATCH = 256

Regions = Literal["whole", "crop", "tokens"]


class CLIPReader:
    """Scores are calibrated margins: similarity to the positive phrases less similarity to the negative ones.

    Each end is the mean of its phrases' unit-length features (prompt ensemble; Radford et al., ICML 2021); as a pair they
    are CheXzero's (Tiu et al., Nature BME 2022).

    Args:
        model: of open_clip, any class.
        tokenizer: of its text tower; a transformers one, or a callable from texts to token ids.
        concepts: what to read.
        preprocess: of images; unless given, squashed to the tower's size and normalised as this package's own are.
        regions: what is looked at for a concept with a :attr:`Concept.region`; others are read in the whole image.
            ``"whole"``: the whole image. ``"crop"``: the region and what makes it square, enlarged; one pass a region.
            ``"tokens"``: the patches that lie in the region, pooled; one pass in all.
        calibration: unless given, scores are ``sigmoid(logit_scale * margin)``.
        name: of this reader in an audit.
        fitted_on: patients of fit and calibration.
        quality: on other patients.
        renderer_version: of the phantom it was fitted on; ``None`` for real images.

    Raises:
        ValueError: no such ``regions``, or two concepts of one name.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        concepts: Sequence[Concept],
        *,
        preprocess: Preprocess | None = None,
        regions: Regions = "whole",
        calibration: Calibration | None = None,
        name: str = "clip",
        fitted_on: frozenset[str] | None = None,
        quality: ReaderQuality | None = None,
        renderer_version: int | None = None,
    ) -> None:
        if regions not in get_args(Regions):
            raise ValueError(f"There is no regions={regions!r}; choose from {list(get_args(Regions))}.")
        self.model, self.tokenizer, self.concepts, self.name = model.eval(), tokenizer, tuple(concepts), name
        self.names = [concept.name for concept in self.concepts]
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"Concepts have one name each; twice among {sorted(self.names)} is one.")
        self.preprocess = preprocess or Preprocess(_size(model))
        self.regions, self.calibration = regions, calibration
        self.fitted_on, self.renderer_version = fitted_on, renderer_version
        self.quality = quality or ReaderQuality.unknown(concepts)
        device = self.device
        model.to("cpu")  # the weights are told there, and prompts give the same directions wherever images are read
        self._directions = prompt_directions(model, tokenizer, self.concepts)
        self.fingerprint = self._digest()
        self.to(device)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.logit_scale.device

    def to(self, device: str | torch.device) -> "CLIPReader":
        """Compute there; images, features and scores come and go on the CPU. Returns itself."""
        self.model.to(device)
        self._directions = self._directions.to(device)
        return self

    def features(self, images: Tensor) -> Tensor:
        """``(n, width)`` unit-length features of whole images of any size."""
        return self._in_batches(images, self._whole)

    def margins(self, images: Tensor) -> Tensor:
        """``(n, k)`` uncalibrated margins, in units of the model's logit scale.

        Raises:
            ValueError: see :func:`~causal_cxr.readers.images.check_images`.
        """
        return self._in_batches(images, self._margins)

    def read(self, images: Tensor, patients: Sequence[str] | None = None) -> Tensor:
        """``(n, k)`` scores in [0, 1]; ``patients`` make no difference."""
        margins = self.margins(images)
        return torch.sigmoid(margins) if self.calibration is None else self.calibration(margins, self.names)

    def heatmap(self, images: Tensor) -> Tensor:
        """``(n, k, gh, gw)`` margins of the image tower's patches: where a concept shows.

        Uncalibrated, in units of :meth:`margins`; rows and columns divide what the tower sees (:class:`Preprocess`).

        Raises:
            ValueError: the image tower does not keep its patches apart.
        """

        def maps(part: Tensor) -> Tensor:
            _, patches = pooled_and_patches(self.model.visual, self.preprocess(part))
            return (functional.normalize(patches, dim=-1) @ self._directions * self._scale).permute(0, 3, 1, 2)

        return self._in_batches(images, maps)

    def calibrated(
        self, dataset: Dataset, rows: np.ndarray, truth: np.ndarray, *, method: str = "platt"
    ) -> "CLIPReader":
        """This reader, calibrated on labelled patients; its quality is unknown until it is judged on others.

        Args:
            dataset: with the images.
            rows: ``(n,)`` labelled rows; each patient counts once.
            truth: ``(n, k)`` 1 / 0 / NaN unknown.
            method: ``"platt"``, ``"temperature"`` or ``"isotonic"``.

        Raises:
            ValueError: see :meth:`Calibration.fit`.
            UnreadableImages: some cannot be read.
        """
        made = calibrated_on(self.margins, self.names, dataset, rows, truth, method, self.fitted_on)
        return self.using(**made)

    def using(self, **changes: Any) -> "CLIPReader":
        """The same towers with other arguments of the class.

        Quality is unknown and must be given anew. Concepts that stay as they are keep their calibration, unless what is
        measured changes (``regions``, ``preprocess``).
        """
        given: dict[str, Any] = {"concepts": self.concepts, "preprocess": self.preprocess, "regions": self.regions,
                                 "name": self.name, "fitted_on": self.fitted_on,
                                 "renderer_version": self.renderer_version}  # fmt: skip
        given |= changes
        if (
            "calibration" not in changes
            and self.calibration is not None
            and not {"regions", "preprocess"} & set(changes)
        ):
            kept = [concept.name for concept in given["concepts"] if concept in self.concepts]
            given["calibration"] = self.calibration.of(kept)
        return CLIPReader(self.model, self.tokenizer, **given)

    def save(self, folder: str | Path) -> Path:
        """Write ``model.safetensors`` (half), ``open_clip_config.json``, ``tokenizer/``, ``reader.json``."""
        folder = Path(folder)
        save_towers(Towers(self.model, self.tokenizer, self.preprocess), folder)
        content = {
            "name": self.name,
            "concepts": [asdict(concept) for concept in self.concepts],
            "regions": self.regions,
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "fitted_on": pack(self.fitted_on),
            "quality": self.quality.to_dict(),
            "renderer_version": self.renderer_version,
        }
        write_json(folder / READER, content)
        return folder

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        concepts: Sequence[Concept] | None = None,
        *,
        regions: Regions | None = None,
        name: str | None = None,
        fitted_on: frozenset[str] | None = None,
        weights: str | Path | None = None,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> "CLIPReader":
        """Load what :meth:`save` wrote, or any CLIP model that open_clip can build.

        Args:
            source: a folder, ``local-dir:`` and a folder, ``hf-hub:`` and a name, or one of open_clip's architectures.
            concepts: what to read; needed unless it is a saved reader. Of such a reader, concepts that stay as they are keep
                their calibration; its quality is kept only if all do.
            regions, name: see the class; as saved unless given.
                fitted_on: patients of the model's fit; of a saved reader it is known.
                weights, revision, cache_dir: see :func:`load_towers`.
                device: to compute on.

            Raises:
                FileNotFoundError: nothing there; see :func:`load_towers`.
                ValueError: a model without concepts, or one that cannot be opened; see :func:`load_towers`.
        """
        towers = load_towers(source, weights=weights, revision=revision, cache_dir=cache_dir)
        file = None if towers.folder is None else towers.folder / READER
        if file is None or not file.is_file():
            if concepts is None:
                raise ValueError(
                    f"{source} is a model without concepts (it has no {READER}); say what to read: concepts=load_concepts()."
                )
            return cls(towers.model, towers.tokenizer, concepts, preprocess=towers.preprocess, regions=regions or "whole",
                       name=name or "clip", fitted_on=fitted_on).to(device)  # fmt: skip
        content = json.loads(file.read_text())
        saved = cls(
            towers.model,
            towers.tokenizer,
            [concept_from_dict(entry) for entry in content["concepts"]],
            preprocess=towers.preprocess if _says_preprocess(towers.folder) else None,
            regions=content.get("regions", "whole"),
            calibration=_calibration(content["calibration"], [entry["name"] for entry in content["concepts"]]),
            name=name or content["name"],
            fitted_on=unpack(content["fitted_on"]),
            quality=ReaderQuality.from_dict(content["quality"]),
            renderer_version=content["renderer_version"],
        )
        changes: dict[str, Any] = (
            {} if concepts is None or tuple(concepts) == saved.concepts else {"concepts": tuple(concepts)}
        )
        changes |= {} if regions in (None, saved.regions) else {"regions": regions}
        return (saved.using(**changes) if changes else saved).to(device)

    @classmethod
    def from_shipped(cls, name: str = "clip-reader-phantom") -> "CLIPReader":
        """A reader that ships with the package."""
        from causal_cxr.weights import shipped

        return cls.from_pretrained(shipped(name))

    @property
    def _scale(self) -> Tensor:
        return self.model.logit_scale.exp().detach()

    def _digest(self) -> str:
        # Of what prompts are made of, not of their features: in the last digit these differ between processors.
        digest = hashlib.sha256()
        for concept in self.concepts:
            for phrases in (concept.positive, concept.negative):
                digest.update(tokenise(self.tokenizer, list(phrases)).numpy().tobytes() + b"|")
        digest.update(b"" if self.calibration is None else self.calibration.digest(self.names))
        for key, weight in sorted(self.model.state_dict().items()):
            digest.update(key.encode() + weight.to(torch.float16).numpy().tobytes())
        if self.preprocess != Preprocess(_size(self.model)):
            digest.update(repr(self.preprocess).encode())
        if self.regions != "whole":
            digest.update(repr((self.regions, [concept.region for concept in self.concepts])).encode())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def _in_batches(self, images: Tensor, compute: Any) -> Tensor:
        """``compute`` of a batch at a time on the device, its results on the CPU: memory does not grow with ``n``."""
        check_images(images)
        if not len(images):  # towers cannot look at nothing
            return compute(torch.zeros(1, *images.shape[1:], device=self.device)).cpu()[:0]
        return torch.cat([compute(part.to(self.device)).cpu() for part in images.split(BATCH)])

    def _whole(self, images: Tensor) -> Tensor:
        return self.model.encode_image(self.preprocess(images), normalize=True)

    def _margins(self, images: Tensor) -> Tensor:
        boxes = [concept.region for concept in self.concepts]
        if self.regions == "whole" or not any(boxes):
            return self._whole(images) @ self._directions * self._scale
        by_region = self._cropped if self.regions == "crop" else self._pooled
        features = by_region(images, {box for box in boxes if box is not None})
        columns = [features[box] @ self._directions[:, j] for j, box in enumerate(boxes)]
        return torch.stack(columns, dim=1) * self._scale

    def _cropped(self, images: Tensor, boxes: set[Box]) -> dict[Box | None, Tensor]:
        features: dict[Box | None, Tensor] = {None: self._whole(images)}
        for box in boxes:
            top, left, bottom, right = square(box, *images.shape[-2:])
            features[box] = self._whole(images[..., top:bottom, left:right])
        return features

    def _pooled(self, images: Tensor, boxes: set[Box]) -> dict[Box | None, Tensor]:
        whole, patches = pooled_and_patches(self.model.visual, self.preprocess(images))
        features: dict[Box | None, Tensor] = {None: functional.normalize(whole, dim=-1)}
        for box in boxes:
            share = overlap(self.preprocess.seen(box, *images.shape[-2:]), *patches.shape[1:3]).to(patches)
            if not share.any():
                raise ValueError(
                    f"The region {box} lies outside what the model's preprocessing ({self.preprocess.resize_mode}) keeps of "
                    f"an image of {tuple(images.shape[-2:])} pixels; use regions='crop', or pad the images to squares."
                )
            features[box] = functional.normalize(torch.einsum("nhwd,hw->nd", patches, share), dim=-1)
        return features


@torch.no_grad()
def prompt_directions(model: Any, tokenizer: Any, concepts: Sequence[Concept]) -> Tensor:
    """``(width, k)`` on the model's device: mean positive less mean negative text feature of each concept."""
    directions = []
    for concept in concepts:
        ends = [
            model.encode_text(tokenise(tokenizer, list(phrases)).to(model.logit_scale.device), normalize=True).mean(0)
            for phrases in (concept.positive, concept.negative)
        ]
        directions.append(ends[0] - ends[1])
    return torch.stack(directions, dim=1)


def square(region: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """Pixel bounds of the smallest square around a region, moved into the image; cut where the image is narrower."""
    top, left = int(np.floor(region[0] * height)), int(np.floor(region[1] * width))
    bottom, right = max(int(np.ceil(region[2] * height)), top + 1), max(int(np.ceil(region[3] * width)), left + 1)
    side = max(bottom - top, right - left)
    bounds = []
    for low, high, length in ((top, bottom, height), (left, right, width)):
        start = min(max(low - (side - (high - low)) // 2, 0), max(length - side, 0))
        bounds.append((start, min(start + side, length)))
    return bounds[0][0], bounds[1][0], bounds[0][1], bounds[1][1]


def _size(model: Any) -> tuple[int, int]:
    size = model.visual.image_size
    return (size[0], size[1]) if isinstance(size, tuple | list) else (size, size)


def _calibration(saved: Any, names: list[str]) -> Calibration | None:
    """From :meth:`CLIPReader.save`, or from its earlier list of Platt's slopes and intercepts, one pair a concept."""
    if saved is None:
        return None
    if isinstance(saved, list):
        return Calibration({name: Platt(*pair) for name, pair in zip(names, saved, strict=True)})
    return Calibration.from_dict(saved)


def _says_preprocess(folder: Path | None) -> bool:
    return folder is not None and "preprocess_cfg" in json.loads((folder / "open_clip_config.json").read_text())
