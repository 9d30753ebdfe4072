"""``FlamingoEditor``: sets attributes by example, those without a word among them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.patients import fitted_on_all, pack, unpack
from causal_cxr.data.whole_file import write_json
from causal_cxr.editors.diffusion.denoiser import Condition, Ledger
from causal_cxr.editors.diffusion.editor import DiffusionEditor
from causal_cxr.editors.diffusion.guidance import Describe
from causal_cxr.editors.diffusion.inversion.inversion import Inversion
from causal_cxr.editors.diffusion.latents import LatentSpace
from causal_cxr.editors.diffusion.pipeline import Pipeline
from causal_cxr.editors.editor import Abduction, Edit
from causal_cxr.editors.flamingo.exemplars import Exemplars
from causal_cxr.editors.flamingo.gated import ExemplarUNet
from causal_cxr.editors.flamingo.guidance import Contrasted

CONFIG = "editor.json"
WEIGHTS = "exemplar_layers.safetensors"


class FlamingoEditor:
    """A diffusion editor whose denoiser also looks at exemplars (Flamingo; Alayrac et al., NeurIPS 2022).

    For ``do(A = a)`` the image is inverted while looking at exemplars of A as it is and redrawn while looking at exemplars
    of ``A = a``, those without the value beside those with it. Attributes with exemplars are not named in captions; all
    others are, as the base names them. Where an image's own value of A is missing from the table it is inverted without
    exemplars of A: a hidden attribute can be set without being known.

    Args:
        base: names the other attributes, and lends its inversion; left as it is.
        network: layers fitted to the base by :func:`~causal_cxr.editors.flamingo.fit_flamingo`.
        exemplars: attribute -> images of its values.
        scale: of guidance, away from the factual exemplars; 1 = none.
        inversion: the base's unless given.
        fitted_on: patients of the layers' fit alone; ``None`` = unknown.

    Attributes:
        fitted_on: patients of both fits, and those on the exemplars.
        provenance: how the layers were fitted, where that was just now.

    Raises:
        ValueError: the network stands on another base.
    """

    semantics: Literal["observational", "structural"] = "observational"

    def __init__(
        self,
        base: DiffusionEditor,
        network: ExemplarUNet,
        exemplars: Mapping[str, Exemplars] | None = None,
        *,
        scale: float = 1.0,
        inversion: Inversion | None = None,
        fitted_on: frozenset[str] | None = None,
    ) -> None:
        if network.base is not base.unet:
            raise ValueError(
                "The network stands on another UNet than the base's; make it with ExemplarUNet(base.unet)."
            )
        self.base, self.network, self.exemplars, self.scale = base, network, dict(exemplars or {}), scale
        self.layers_fitted_on, self.provenance = fitted_on, dict[str, Any]()
        seen = [base.fitted_on, fitted_on, *(shown.patients for shown in self.exemplars.values())]
        self.fitted_on = fitted_on_all(seen)
        pipeline = Pipeline(network, base.pipeline.text, base.pipeline.latents, base.pipeline.process)
        self._editor = DiffusionEditor(
            pipeline, base.graph_attributes, inversion=inversion or base.inversion, guidance=Contrasted(scale),
            template=base.template, accept=base.accept, fitted_on=self.fitted_on, size=base.size, renderer_version=base.renderer_version, autocast=base.autocast,
            describe=_Shown(base.describe, network, pipeline.latents, self.exemplars),
        )  # fmt: skip
        self.attributes = self._editor.attributes

    @property
    def fingerprint(self) -> str:
        """As of :class:`DiffusionEditor`, and of the exemplars."""
        shown = {name: examples.fingerprint for name, examples in sorted(self.exemplars.items())}
        return hashlib.sha256(f"{self._editor.fingerprint}|{shown}".encode()).hexdigest()[:16]

    @property
    def ledger(self) -> Ledger:
        """The work done since the editor was made, in evaluations of the network; encoding exemplars is not counted."""
        return self._editor.ledger

    @property
    def inversion(self) -> Inversion:
        """The way to noise and back."""
        return self._editor.inversion

    @property
    def method(self) -> str:
        """Inversion, guidance, and what there are exemplars of."""
        return f"{self._editor.method}, exemplars of {sorted(self.exemplars)}"

    def shown(
        self, exemplars: Mapping[str, Exemplars], *, scale: float | None = None, inversion: Inversion | None = None
    ) -> "FlamingoEditor":
        """The same weights with these exemplars in place of those before."""
        return FlamingoEditor(
            self.base, self.network, exemplars, scale=self.scale if scale is None else scale,
            inversion=inversion or self.inversion, fitted_on=self.layers_fitted_on,
        )  # fmt: skip

    def to(self, device: str | torch.device) -> "FlamingoEditor":
        """Compute there, and the base with it; images come and go on the CPU. Returns itself."""
        self._editor.to(device)
        return self

    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        """Invert the images under their factual captions and exemplars.

        Raises:
            ValueError: a factual value has no exemplar; image sides do not fit the network.
        """
        return self._editor.abduct(images, attributes, seeds=seeds)

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        """Redraw the images under the captions and exemplars of ``target``; doses as ``DiffusionEditor`` does.

        Raises:
            ValueError: a value has no exemplar.
        """
        return self._editor.edit(abduction, target, phrasing=phrasing, strength=strength)

    def save(self, folder: str | Path, *, half: bool = True) -> Path:
        """Write the layers alone, in float16 unless ``half`` is off: neither the base nor exemplars, which may be patients."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kind = torch.float16 if half else torch.float32
        weights = {name: p.detach().to("cpu", kind).contiguous() for name, p in self.network.added.items()}
        save_file(weights, folder / WEIGHTS)
        content = {
            "base": self.base.weights_fingerprint,
            "network": self.network.settings,
            "fitted_on": pack(self.layers_fitted_on),
        }
        write_json(folder / CONFIG, content)
        return folder

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        base: DiffusionEditor,
        exemplars: Mapping[str, Exemplars] | None = None,
        scale: float = 1.0,
        inversion: Inversion | None = None,
    ) -> "FlamingoEditor":
        """Load what :meth:`save` wrote, on the base that it was fitted to.

        Raises:
            FileNotFoundError: the folder holds no such layers.
            ValueError: they were fitted to another base.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(f"{folder} has no {WEIGHTS}; write it with FlamingoEditor.save(folder).")
        config = json.loads((folder / CONFIG).read_text())
        if config["base"] != base.weights_fingerprint:
            raise ValueError(
                f"The layers in {folder} were fitted to the base {config['base']}, this one is "
                f"{base.weights_fingerprint}; load the base that they were fitted to."
            )
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are read
            network = ExemplarUNet(base.unet, **config["network"])
        stored, added = load_file(folder / WEIGHTS), network.added
        if stored.keys() != added.keys():
            odd = sorted(stored.keys() ^ added.keys())
            raise ValueError(f"The layers in {folder} do not fit the base: {odd[:3]} are in one of them only.")
        for name, weight in added.items():
            weight.data.copy_(stored[name])
        return cls(
            base, network.to(base.pipeline.device), exemplars, scale=scale, inversion=inversion,
            fitted_on=unpack(config["fitted_on"]),
        )  # fmt: skip


@dataclass(frozen=True)
class _Shown:
    """Attribute rows as captions and exemplars; see ``Describe``. The tokens of a value are computed once."""

    words: Describe
    network: ExemplarUNet
    latents: LatentSpace
    exemplars: Mapping[str, Exemplars]
    tokens: dict[tuple[str, Any], Tensor] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        return self.words.names | frozenset(self.exemplars)

    def __call__(self, table: pd.DataFrame, phrasing: int = 0) -> Condition:
        text = self.words(table.drop(columns=list(self.exemplars), errors="ignore"), phrasing).text
        if not self.exemplars:
            return Condition(text)
        parts = [self._seen(name, table[name]) if name in table else self._blind(len(table)) for name in self.exemplars]
        return Condition(text, torch.cat(parts, dim=1).to(text.device))

    def nothing(self, n: int) -> Condition:
        visual = self._blind(n).repeat(1, len(self.exemplars), 1) if self.exemplars else None
        return Condition(self.words.nothing(n).text, visual)

    def _blind(self, n: int) -> Tensor:
        return self.network.blind(n)

    def _seen(self, name: str, values: pd.Series) -> Tensor:
        """``(n, tokens, width)`` of an attribute's values; blind where one is missing."""
        blank = self._blind(1)
        return torch.cat([blank if pd.isna(value) else self._of(name, value).to(blank) for value in values])

    @torch.no_grad()
    def _of(self, name: str, value: Any) -> Tensor:
        if (name, value) not in self.tokens:
            try:
                sets = self.exemplars[name].contrast(value)
            except ValueError as error:
                raise ValueError(f"Of {name!r}: {error}") from error
            device = next(self.network.encoder.parameters()).device
            having, lacking = (self.latents.encode(images.to(device))[None] for images in sets)
            self.tokens[name, value] = self.network.encoder(having, lacking).cpu()
        return self.tokens[name, value]
