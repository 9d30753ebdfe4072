"""``SCMEditor``: a deep structural causal model as an intervention operator."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.patients import pack, unpack
from causal_cxr.data.whole_file import whole_file, write_json
from causal_cxr.editors.editor import Abduction, Edit
from causal_cxr.editors.scm.hvae import HierarchicalVAE
from causal_cxr.editors.scm.image_model import ImageModel, pixel_noise, with_pixel_noise
from causal_cxr.editors.scm.vae import ConditionalVAE
from causal_cxr.graphs import CausalGraph, Continuous
from causal_cxr.graphs.scm import SCM

CONFIG = "editor.json"
WEIGHTS = "model.safetensors"
IMAGE_MODELS = {model.__name__: model for model in (ConditionalVAE, HierarchicalVAE)}


@dataclass(frozen=True)
class _State:
    """The exogenous noise of images: of the latents, ``(n, ...)`` each, and of the pixels, ``(n, 1, h, w)``."""

    noise: tuple[Tensor, ...]
    pixels: Tensor
    shape: tuple[int, int]


@dataclass(frozen=True)
class PathEffects:
    """Images under one intervention, by the paths that it is let through; an effect is a difference to ``null``.

    Attributes:
        attributes: ``n`` rows, as the intervention leaves them.
        null: ``(n, 1, h, w)``, nothing set.
        total: what is set and all that follows from it.
        direct: what is set, its mediators as they were.
        indirect: its mediators as they become, what is set as it was.
    """

    attributes: pd.DataFrame
    null: Tensor
    total: Tensor
    direct: Tensor
    indirect: Tensor


class SCMEditor:
    """Abducts the noise of an image under its attributes, then decodes it under others.

    What remains of the factual image beyond the decoder's location, in units of its scale, is the pixel noise; it is
    replayed times ``residual``. At 1, the exact abduction of a deep SCM, a null edit returns the image itself whatever
    the model, so that composition says nothing; at 0 the decoder's location is returned alone; the Morpho-MNIST
    benchmark uses 0.1.

    Args:
        scm: of the attributes; audits turn an intervention into targets with it, edits take whole targets.
        image_model: p(image | attributes that show, noise), an :class:`ImageModel`.
        residual: temperature of the replayed pixel noise, in [0, 1].
        fitted_on: patients of the fit; ``None`` = unknown.
        renderer_version: of the phantom that it was fitted on; ``None`` for real images.

    Raises:
        ValueError: ``residual`` outside [0, 1], or an image model of other attributes than the graph's.
    """

    semantics: Literal["observational", "structural"] = "observational"

    def __init__(
        self,
        scm: SCM,
        image_model: ImageModel,
        *,
        residual: float = 1.0,
        fitted_on: frozenset[str] | None = None,
        renderer_version: int | None = None,
    ) -> None:
        if not 0 <= residual <= 1:
            raise ValueError(f"residual is {residual}; give a temperature in [0, 1].")
        needed = n_conditions(scm.graph)
        if image_model.settings["n_conditions"] != needed:
            raise ValueError(
                f"The image model takes {image_model.settings['n_conditions']} conditions, but the graph's image parents "
                f"{_shown(scm.graph)} make {needed}; build {type(image_model).__name__}({needed})."
            )
        self.scm, self.image_model, self.residual = scm, image_model.eval(), residual
        self.attributes = frozenset(scm.graph.labelled)
        self.fitted_on, self.renderer_version = fitted_on, renderer_version
        self.fingerprint = self._fingerprint()

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, residual: float | None = None) -> "SCMEditor":
        """Load what :meth:`save` wrote; ``residual`` overrides what was saved.

        Raises:
            FileNotFoundError: the folder is not such a folder.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise FileNotFoundError(f"{folder} has no {CONFIG}; save an editor there with SCMEditor.save(folder).")
        config = json.loads((folder / CONFIG).read_text())
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are read
            model = IMAGE_MODELS[config.get("kind", "ConditionalVAE")](**config["image_model"])
        model.load_state_dict({name: weight.float() for name, weight in load_file(folder / WEIGHTS).items()})
        return cls(
            SCM.from_dict(config["scm"]),
            model,
            residual=config["residual"] if residual is None else residual,
            fitted_on=unpack(config["fitted_on"]),
            renderer_version=config["renderer_version"],
        )

    @classmethod
    def from_shipped(cls, name: str = "scm-portable") -> "SCMEditor":
        """An editor that ships with the package."""
        from causal_cxr.weights import shipped

        return cls.from_pretrained(shipped(name))

    @property
    def method(self) -> str:
        """The image model's kind, and the temperature of the pixel noise."""
        return f"{type(self.image_model).__name__}, residual={self.residual}"

    def save(self, folder: str | Path, *, half: bool = True) -> Path:
        """Write ``model.safetensors`` and ``editor.json``; ``half`` stores float16 (loaded back as float32)."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kind = torch.float16 if half else torch.float32
        weights = {name: weight.to(kind).contiguous() for name, weight in self.image_model.state_dict().items()}
        config = {
            "scm": self.scm.to_dict(),
            "kind": type(self.image_model).__name__,
            "image_model": self.image_model.settings,
            "residual": self.residual,
            "renderer_version": self.renderer_version,
            "fitted_on": pack(self.fitted_on),
        }
        with whole_file(folder / WEIGHTS) as partial:
            save_file(weights, partial)
        write_json(folder / CONFIG, config)
        return folder

    @torch.no_grad()
    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        """Infer the latents' noise (its posterior's mean: nothing is drawn, so ``seeds`` are not used) and the pixels'.

        Raises:
            ValueError: a missing attribute that shows in the image.
        """
        condition = self._conditions(attributes)
        noise = self.image_model.abduct(images.to(condition.device), condition)
        return Abduction(attributes, self._with_pixel_noise(noise, images, condition), 2 * len(images))

    @torch.no_grad()
    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        """Decode the noise under ``target``; there are no words, so ``phrasing`` is not used.

        ``strength`` scales the condition's step from the factual to the target: 0 reconstructs, more than 1
        extrapolates.
        """
        condition = self._conditions(target)
        if strength != 1.0:
            factual = self._conditions(abduction.factual)
            condition = factual + strength * (condition - factual)
        return Edit.all_accepted(self._decode(abduction.state, condition), len(target))

    @torch.no_grad()
    def particles(
        self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray, n_particles: int
    ) -> Iterator[Abduction]:
        """Abductions drawn from the noise's posterior, where :meth:`abduct` takes its mean.

        Args:
            images, attributes: as for :meth:`abduct`.
            seeds: ``(n,)``, the only source of chance, one a row.
            n_particles: how many.
        """
        condition = self._conditions(attributes)
        shapes = self.image_model.noise_shapes((images.shape[-2], images.shape[-1]))
        for particle in range(n_particles):
            drawn = [np.random.default_rng([int(seed), particle]) for seed in seeds]
            standard = [np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in drawn]) for shape in shapes]
            noise = self.image_model.abduct(
                images.to(condition.device),
                condition,
                standard=[torch.from_numpy(numbers).to(condition.device) for numbers in standard],
            )
            yield Abduction(attributes, self._with_pixel_noise(noise, images, condition), 2 * len(images))

    @torch.no_grad()
    def uncertainty(
        self,
        images: Tensor,
        attributes: pd.DataFrame,
        target: pd.DataFrame,
        *,
        seeds: np.ndarray,
        n_particles: int = 16,
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the counterfactual, pixel by pixel, over what the image leaves open.

        Args:
            images, attributes, seeds: as for :meth:`abduct`.
            target: ``n`` rows, as for :meth:`edit`.
            n_particles: draws from the noise's posterior, two or more.

        Returns:
            two of ``(n, 1, h, w)``. With the pixel noise replayed in full the deviation under the factual attributes
            is 0: all particles explain the image.

        Raises:
            ValueError: fewer than two particles.
        """
        if n_particles < 2:
            raise ValueError(f"n_particles is {n_particles}; a standard deviation needs two or more.")
        drawn = self.particles(images, attributes, seeds=seeds, n_particles=n_particles)
        edited = torch.stack([self.edit(particle, target).images for particle in drawn])
        return edited.mean(0), edited.std(0)

    @torch.no_grad()
    def path_effects(self, abduction: Abduction, do: Mapping[str, Any], *, seed: int = 0) -> PathEffects:
        """What an intervention does to the images by each path (natural effects: Pearl, UAI 2001).

        Mediators are the labelled descendants of what is set, and the image model's latents where these are told the
        attributes (``HierarchicalVAE(prior="mediator")``).

        Args:
            abduction: of ``n`` images, whose attributes are complete.
            do: attribute -> a value, or one a row.
            seed: of the attributes' abduction.
        """
        factual = abduction.factual
        moved = self.scm.counterfactual(factual, do, seed=seed)
        alone = factual.assign(**{name: moved[name] for name in do})
        rest = moved.assign(**{name: factual[name] for name in do})
        before, after, only, others = (self._conditions(table) for table in (factual, moved, alone, rest))
        return PathEffects(
            attributes=moved,
            null=self._decode(abduction.state, before),
            total=self._decode(abduction.state, after),
            direct=self._decode(abduction.state, only, mediator=before),
            indirect=self._decode(abduction.state, others, mediator=after),
        )

    def _conditions(self, table: pd.DataFrame) -> Tensor:
        return conditions(self.scm.graph, table).to(next(self.image_model.parameters()).device)

    def _with_pixel_noise(self, noise: tuple[Tensor, ...], images: Tensor, condition: Tensor) -> _State:
        shape = (images.shape[-2], images.shape[-1])
        location, log_scale = self.image_model.decode(noise, condition, shape)
        return _State(noise, pixel_noise(images.to(location.device), location, log_scale), shape)

    def _decode(self, state: _State, condition: Tensor, mediator: Tensor | None = None) -> Tensor:
        location, log_scale = self.image_model.decode(state.noise, condition, state.shape, mediator=mediator)
        return with_pixel_noise(location, log_scale, state.pixels, self.residual).cpu()

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.scm.fingerprint}|{self.residual}|{self.image_model.settings}".encode())
        for name, weight in sorted(self.image_model.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.to(torch.float16).cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def _shown(graph: CausalGraph) -> list[str]:
    return [name for name in graph.image_parents if name in graph.labelled]


def n_conditions(graph: CausalGraph) -> int:
    """How many numbers :func:`conditions` makes of a row."""
    shown = [graph.attributes[name] for name in _shown(graph)]
    return sum(1 if isinstance(attribute, Continuous) else len(attribute.levels) - 1 for attribute in shown)


def conditions(graph: CausalGraph, table: pd.DataFrame) -> Tensor:
    """What a decoder is told of each row: the labelled attributes that show in the image, as numbers.

    Returns:
        ``(n, n_conditions(graph))`` float32: continuous ones from -1 to 1 over their range, one indicator for each level
        but the first.

    Raises:
        ValueError: one of these attributes is missing in some row.
    """
    columns: list[Any] = []
    for name in _shown(graph):
        attribute = graph.attributes[name]
        codes = attribute.encode(table[name])
        if np.isnan(codes).any():
            rows = list(table.index[np.isnan(codes)][:3])
            raise ValueError(f"{name!r} is missing in rows {rows}; leave them out or impute them.")
        if isinstance(attribute, Continuous):
            columns.append(2 * (codes - attribute.low) / (attribute.high - attribute.low) - 1)
        else:
            columns += [codes == level for level in range(1, len(attribute.levels))]
    return torch.as_tensor(np.stack(columns, axis=1).astype(np.float32))
