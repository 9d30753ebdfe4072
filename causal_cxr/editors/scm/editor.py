"""``SCMEditor``: a deep structural causal model as an intervention operator."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.editors.editor import Abduction, Edit
from causal_cxr.editors.scm.vae import ConditionalVAE
from causal_cxr.graphs import CausalGraph, Continuous
from causal_cxr.graphs.scm import SCM

CONFIG = "editor.json"
WEIGHTS = "model.safetensors"


class SCMEditor:
    """Abducts the latent of an image under its attributes, then decodes it under others.

    What remains of the factual image beyond the decoder's mean, its pixel noise, is replayed times ``residual``. At 1,
    the exact abduction of a deep SCM, a null edit returns the image itself whatever the model, so that composition says
    nothing; at 0 the decoder's mean is returned alone; the Morpho-MNIST benchmark uses 0.1.

    Args:
        scm: of the attributes; audits turn an intervention into targets with it, edits take whole targets.
        image_model: p(image | attributes that show, latent).
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
        image_model: ConditionalVAE,
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
                f"{_shown(scm.graph)} make {needed}; build ConditionalVAE({needed})."
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
            model = ConditionalVAE(**config["image_model"])
        model.load_state_dict({name: weight.float() for name, weight in load_file(folder / WEIGHTS).items()})
        return cls(
            SCM.from_dict(config["scm"]),
            model,
            residual=config["residual"] if residual is None else residual,
            fitted_on=None if config["fitted_on"] is None else frozenset(config["fitted_on"]),
            renderer_version=config["renderer_version"],
        )

    @classmethod
    def from_shipped(cls, name: str = "scm-portable") -> "SCMEditor":
        """An editor that ships with the package."""
        from causal_cxr.weights import shipped

        return cls.from_pretrained(shipped(name))

    def save(self, folder: str | Path, *, half: bool = True) -> Path:
        """Write ``model.safetensors`` and ``editor.json``; ``half`` stores float16 (loaded back as float32)."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kind = torch.float16 if half else torch.float32
        weights = {name: weight.to(kind).contiguous() for name, weight in self.image_model.state_dict().items()}
        config = {
            "scm": self.scm.to_dict(),
            "image_model": self.image_model.settings,
            "residual": self.residual,
            "renderer_version": self.renderer_version,
            "fitted_on": None if self.fitted_on is None else sorted(self.fitted_on),
        }
        save_file(weights, folder / f"{WEIGHTS}.partial")
        (folder / f"{CONFIG}.partial").write_text(json.dumps(config, indent=1))
        for file in (WEIGHTS, CONFIG):
            (folder / f"{file}.partial").rename(folder / file)
        return folder

    @torch.no_grad()
    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        """Infer the latent (its posterior's mean: nothing is drawn, so ``seeds`` are not used) and the pixel noise.

        Raises:
            ValueError: image sides that are no multiples of 16, or a missing attribute that shows in the image.
        """
        condition = conditions(self.scm.graph, attributes)
        latent, _ = self.image_model.encode(images, condition)
        noise = images - self.image_model.decode(latent, condition)
        return Abduction(attributes, (latent, noise), 2 * len(images))

    @torch.no_grad()
    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        """Decode the latents under ``target``; there are no words, so ``phrasing`` is not used.

        ``strength`` scales the condition's step from the factual to the target: 0 reconstructs, more than 1
        extrapolates.
        """
        latent, noise = abduction.state
        condition = conditions(self.scm.graph, target)
        if strength != 1.0:
            factual = conditions(self.scm.graph, abduction.factual)
            condition = factual + strength * (condition - factual)
        images = self.image_model.decode(latent, condition) + self.residual * noise
        return Edit.all_accepted(images.clamp(0, 1), len(target))

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
