"""``DiffusionEditor``: a text-conditioned diffusion model as an intervention operator."""

import copy
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.patients import fitted_on_all, pack, unpack
from causal_cxr.data.whole_file import write_json
from causal_cxr.editors.acceptance import Acceptance
from causal_cxr.editors.diffusion.abductions import Abductions
from causal_cxr.editors.diffusion.captions import TEMPLATE, captions, named, strangely_worded
from causal_cxr.editors.diffusion.denoiser import Condition, Denoiser, Ledger
from causal_cxr.editors.diffusion.guidance import ClassifierFree, Describe, Guidance, PerAttribute, Request
from causal_cxr.editors.diffusion.guidance.changes import changes
from causal_cxr.editors.diffusion.guidance.region import Confined
from causal_cxr.editors.diffusion.hub import located
from causal_cxr.editors.diffusion.inversion.coupled import Coupled
from causal_cxr.editors.diffusion.inversion.inversion import Inversion
from causal_cxr.editors.diffusion.pipeline import Pipeline
from causal_cxr.editors.editor import Abduction, Edit
from causal_cxr.graphs import Attribute, CausalGraph, attribute_from_dict

CONFIG = "editor.json"
IMAGES = "images"  #: of a trajectory's ``kept``: the images themselves, for acceptance
CHUNK = 8  #: captions are encoded so many at a time, so that a caption's states do not depend on the others
ADAPTER = "pytorch_lora_weights.safetensors"  #: the name that diffusers gives a LoRA


class DiffusionEditor:
    """Edits images by inverting them under their own caption and redrawing them under another.

    An image is inverted once; all its interventions, at any strength, are redrawn from that.

    Computes in bfloat16 on GPUs and on CPUs that have units for it, in float32 elsewhere; the images' state is float32.

    Args:
        pipeline: denoiser, text encoder, latent space and process.
        attributes: what captions name, in order.
        inversion: the way to noise and back; :class:`Coupled` unless given: exact, near least in error to true counterfactuals at
            least cost, and lets go of what the target would not draw (``benchmarks/inversion.py`` puts all side by side).
        guidance: makes of a request what the image is redrawn under.
        template: of captions, see :mod:`~causal_cxr.editors.diffusion.captions`; what it cannot name cannot be set, which
            edits refuse to do.
        accept: judges edits; those that it rejects are returned, and marked with its reasons.
        fitted_on: patients of the fit; ``None`` = unknown.
        size: pixels a side of the images that it was fitted on.
        renderer_version: of the phantom that it was fitted on; ``None`` for real images.
        autocast: compute in this type; ``"auto"`` is bfloat16 where there are units for it; ``None`` float32.
        describe: puts attribute rows into conditions; captions of ``attributes`` unless given.
        cache: folder for inverted images, found there again by a later run; ``None`` keeps none.

    Attributes:
        attributes: what it can set: what ``describe`` tells of.
        weights_fingerprint: of the weights and the process: what an adapter belongs to.
        ledger: the work done since the editor was made.
        provenance: how it was fitted, where that was just now: what its card tells.
    """

    semantics: Literal["observational", "structural"] = "observational"

    def __init__(
        self,
        pipeline: Pipeline,
        attributes: Mapping[str, Attribute],
        *,
        inversion: Inversion | None = None,
        guidance: Guidance | None = None,
        template: str = TEMPLATE,
        accept: Acceptance | None = None,
        fitted_on: frozenset[str] | None = None,
        size: int = 64,
        renderer_version: int | None = None,
        autocast: torch.dtype | Literal["auto"] | None = "auto",
        describe: Describe | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.pipeline, self.graph_attributes = pipeline, dict(attributes)
        self.template, self.accept = template, accept
        self.inversion, self.guidance = inversion or Coupled(), guidance or ClassifierFree()
        self.fitted_on, self.size, self.renderer_version = fitted_on, size, renderer_version
        self.autocast, self.ledger = autocast, Ledger()
        self.cache = None if cache is None else Abductions(Path(cache))
        self.provenance: Mapping[str, Any] = {}
        self.describe: Describe = describe or _Captions(pipeline, self.graph_attributes, template)
        self.attributes = self.describe.names
        self.weights_fingerprint = self._weights_fingerprint()

    @property
    def fingerprint(self) -> str:
        """Of weights and process, of what captions name, of the method, and of the precision that it computes in where it is now."""
        named = json.dumps([a.to_dict() for a in self.graph_attributes.values()], sort_keys=True)
        method = (
            f"{named}|{self.weights_fingerprint}|{self.size}|{self.inversion!r}|{self.guidance!r}|{self.precision}|"
            f"{self.template}|{self.accept!r}"
        )
        return hashlib.sha256(method.encode()).hexdigest()[:16]

    @property
    def precision(self) -> torch.dtype | None:
        """What the networks compute in; ``None`` as their weights are, float32."""
        return _fastest(self.pipeline.device) if self.autocast == "auto" else self.autocast

    @property
    def unet(self) -> Any:
        """The denoising network."""
        return self.pipeline.unet

    def using(
        self,
        *,
        inversion: Inversion | None = None,
        guidance: Guidance | None = None,
        accept: Acceptance | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        template: str | None = None,
        pipeline: Pipeline | None = None,
        size: int | None = None,
    ) -> "DiffusionEditor":
        """Another editor that shares all that is not given, the weights among it.

        Raises:
            ValueError: a template that cannot be read, or has a slot for none of the attributes.
        """
        other = copy.copy(self)
        other.inversion, other.guidance = inversion or self.inversion, guidance or self.guidance
        other.accept, other.ledger, other.provenance = accept or self.accept, Ledger(), {}
        other.size = self.size if size is None else size
        if attributes is not None or template is not None or pipeline is not None:
            other.pipeline, other.template = pipeline or self.pipeline, self.template if template is None else template
            other.graph_attributes = dict(self.graph_attributes if attributes is None else attributes)
            other.describe = _Captions(other.pipeline, other.graph_attributes, other.template)
            other.attributes = other.describe.names
        if pipeline is not None:
            other.weights_fingerprint = other._weights_fingerprint()
        return other

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        adapter: str | Path | None = None,
        base: str | Path | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        graph: CausalGraph | None = None,
        template: str | None = None,
        inversion: Inversion | None = None,
        guidance: Guidance | None = None,
        accept: Acceptance | None = None,
        variant: str | None = None,
        revision: str | None = None,
    ) -> "DiffusionEditor":
        """Load a text-to-image pipeline in the hub's layout: ``unet/``, ``text_encoder/``, ``tokenizer/``, ``scheduler/``.

        Args:
            source: a folder, such as :meth:`save` wrote, or ``owner/name`` on the hub.
            adapter: what :meth:`save_adapter` wrote of an editor that was fine-tuned from this one; it is merged into
                the weights.
            base: the pipeline that ``source``, which holds a part of one only, was fine-tuned from.
            attributes: what captions name, in order; needed where the source has no ``editor.json``, which it overrules
                (with a warning where it names an attribute in words that the editor was not fitted with).
            graph: its labelled attributes are named where neither ``attributes`` nor an ``editor.json`` say what is.
            template: of captions, if not the one that the editor, or the adapter, was saved with.
            inversion, guidance, accept: how to edit, and which edits to accept. Weights of attributes that were saved with
                the editor or its adapter, such as :func:`~causal_cxr.editors.diffusion.calibrated` finds, are its guidance
                unless another is given.
            variant, revision: of the weights, see
                :meth:`~causal_cxr.editors.diffusion.pipeline.Pipeline.from_pretrained`.

        Raises:
            FileNotFoundError: a folder is not such a folder, or the hub cannot be reached.
            ValueError: the adapter belongs to another base; nothing says what captions name.
        """
        folder = located(source, variant=variant, revision=revision)
        config = _config(folder) if (folder / CONFIG).is_file() else {}
        if "base" in config:
            raise ValueError(
                f"{source} holds an adapter; open it with from_pretrained(BASE, adapter=...), in a specification by adapter: in "
                f"place of path:, on the base that has the fingerprint {config['base']}."
            )
        read = {entry["name"]: attribute_from_dict(entry) for entry in config.get("attributes", ())}
        if attributes is not None:
            if strange := strangely_worded(attributes, read):
                said = "; ".join(f"{name!r} is {ours!r} for {theirs!r}" for name, (ours, theirs) in strange.items())
                warnings.warn(
                    f"captions would use words that {source} was not fitted with, which it may not know: {said}. Give the "
                    "attributes its phrases, or fine-tune it on yours.",
                    stacklevel=2,
                )
        elif "attributes" in config:
            attributes = read
        elif attributes is None and graph is not None:
            attributes = {name: graph.attributes[name] for name in graph.labelled}
        if attributes is None:
            raise ValueError(
                f"{source} has no {CONFIG} that says what captions name: pass attributes={{name: attribute, ...}} or graph=."
            )
        pipeline = Pipeline.from_pretrained(folder, base=base, variant=variant)
        editor = cls(
            pipeline,
            attributes,
            inversion=inversion,
            guidance=guidance or _weighed(config),
            template=template if template is not None and adapter is None else config.get("template", TEMPLATE),
            accept=accept,
            fitted_on=unpack(config.get("fitted_on")),
            size=config.get("size", pipeline.size),
            renderer_version=config.get("renderer_version"),
        )
        if adapter is None:
            return editor
        return editor.adapted(located(adapter)).using(guidance=guidance, template=template)

    def adapted(self, folder: Path) -> "DiffusionEditor":
        """A copy with an adapter that :meth:`save_adapter` wrote merged into its weights, guided by its attributes' weights if it has any.

        What the adapter's captions named, and how, and what it was fitted on are its own; of those that were written without a
        template and a size, the base's.

        Raises:
            ValueError: the folder holds no adapter, or one of another base.
        """
        config = _config(folder)
        if "base" not in config:
            raise ValueError(f"{folder} holds a whole editor and no adapter; open it with from_pretrained(folder).")
        if config["base"] != self.weights_fingerprint:
            raise ValueError(
                f"The adapter in {folder} was fitted to the base {config['base']}, this one is "
                f"{self.weights_fingerprint}; load the base that it was fitted to."
            )
        unet = copy.deepcopy(self.unet)
        unet.load_lora_adapter(folder, weight_name=ADAPTER, prefix=None)
        unet.fuse_lora()
        unet.unload_lora()
        named_by = {entry["name"]: attribute_from_dict(entry) for entry in config["attributes"]}
        other = self.using(
            pipeline=replace(self.pipeline, unet=unet), attributes=named_by, template=config.get("template"),
            size=config.get("size"), guidance=_weighed(config),
        )  # fmt: skip
        other.renderer_version = config["renderer_version"]
        other.fitted_on = fitted_on_all([self.fitted_on, unpack(config["fitted_on"])])
        return other

    @classmethod
    def from_shipped(cls, name: str = "diffusion-portable") -> "DiffusionEditor":
        """An editor that ships with the package: ``diffusion-base``, or the base with the adapter of a world."""
        from causal_cxr.weights import shipped

        folder = shipped(name)
        if "base" in _config(folder):
            return cls.from_pretrained(shipped("diffusion-base"), adapter=folder)
        return cls.from_pretrained(folder)

    @property
    def method(self) -> str:
        """Inversion, guidance and what edits are accepted by."""
        return ", ".join(map(repr, filter(None, (self.inversion, self.guidance, self.accept))))

    def save(self, folder: str | Path, *, half: bool = True) -> Path:
        """Write the hub's layout; ``half`` stores float16 (loaded back as float32).

        Of inversion, guidance and acceptance, which whoever edits chooses, weights of attributes
        (:class:`~causal_cxr.editors.diffusion.guidance.PerAttribute`) alone are written: they belong to what the editor has learnt.

        Raises:
            ValueError: the editor carries a LoRA that is not merged.
        """
        if self.unet._hf_peft_config_loaded:
            raise ValueError("This editor is a base with an adapter: write the adapter with save_adapter(...).")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.pipeline.save(folder, half=half)
        return self._write_config(folder, fitted_on=pack(self.fitted_on))

    def save_adapter(self, folder: str | Path, *, base: str, fitted_on: frozenset[str] | None) -> Path:
        """Write only the LoRA that :func:`~causal_cxr.editors.finetune.finetune` fitted, in float16, and what :meth:`save` tells of it.

        Args:
            folder: for it and its ``editor.json``.
            base: fingerprint of the editor that it belongs to.
            fitted_on: patients of the fine-tuning, and of the calibration, alone.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        copy.deepcopy(self.unet).half().save_lora_adapter(folder, weight_name=ADAPTER)
        return self._write_config(folder, base=base, fitted_on=pack(fitted_on))

    def to(self, device: str | torch.device) -> "DiffusionEditor":
        """Compute there; images come and go on the CPU. Returns itself."""
        self.pipeline.to(device)
        return self

    @torch.no_grad()
    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        """Invert the images under their factual captions.

        Raises:
            ValueError: image sides are not a multiple of the network's reduction.
        """
        reduction = self.pipeline.reduction
        if images.shape[-1] % reduction or images.shape[-2] % reduction:
            raise ValueError(
                f"Image sides must be multiples of {reduction}, got {tuple(images.shape[-2:])}; resize them."
            )
        with self._counted() as denoiser:
            space = self.pipeline.latents
            latent = space.encode(images.to(self.pipeline.device))
            denoiser.ledger.encode += len(images) * space.evaluations
            drawn = [np.random.default_rng(int(seed)) for seed in seeds]

            def noise() -> Tensor:
                numbers = [rng.standard_normal(latent.shape[1:], np.float32) for rng in drawn]
                return torch.from_numpy(np.stack(numbers)).to(latent.device)

            source = self.guidance.source(denoiser, self._describing(), attributes)
            if self.cache is None:
                trajectory = self.inversion.invert(source, latent, noise)
            else:
                weights = self.weights_fingerprint
                trajectory = self.cache.invert(self.inversion, source, latent, noise, weights=weights, seeds=seeds)
            trajectory = replace(trajectory, kept={**trajectory.kept, IMAGES: images})
        return Abduction(attributes, trajectory, denoiser.ledger.evaluations)

    @torch.no_grad()
    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        """Redraw the images under the captions of ``target``.

        ``strength`` scales the condition's step from the factual caption to the target's: 0 asks for what is, 1 for the
        target, more extrapolates. Edits that ``accept`` rejects are returned with their images.

        Raises:
            ValueError: nothing that ``target`` changes is named by captions.
        """
        changed = changes(abduction.factual, target)
        if changed and not changed.keys() & self.attributes:
            raise ValueError(
                f"Cannot set {sorted(changed)}: captions name {sorted(self.attributes)}, so this would change nothing. Name it "
                "by attributes= and template= (after a fit to such captions), or ask for what is named."
            )
        with self._counted() as denoiser:
            request = Request(
                denoiser, self._describing(), abduction.factual, target, abduction.state, phrasing, strength
            )
            field = self.guidance.target(request)
            images = self._decoded(self.inversion.redraw(abduction.state, field), denoiser.ledger)
            if isinstance(field, Confined) and self.inversion.exact:
                images = field.held(images, self._decoded(abduction.state.image, denoiser.ledger))
        return self.judged(images, abduction, target, denoiser.ledger.evaluations)

    def judged(self, images: Tensor, abduction: Abduction, target: pd.DataFrame, evaluations: int = 0) -> Edit:
        """What was drawn of an abduction of this editor's, as an edit that ``accept`` has judged; all of it if there is none."""
        if self.accept is None:
            return Edit.all_accepted(images, evaluations)
        accepted, reasons = self.accept(abduction.state.kept[IMAGES], images, abduction.factual, target)
        return Edit(images, accepted, reasons, evaluations)

    def _decoded(self, latents: Tensor, ledger: Ledger) -> Tensor:
        ledger.decode += len(latents) * self.pipeline.latents.evaluations
        return self.pipeline.latents.decode(latents).cpu()

    def _describing(self) -> Describe:
        """For one call, in which no caption is encoded twice."""
        return self.describe.remembering() if isinstance(self.describe, _Captions) else self.describe

    @contextmanager
    def _counted(self) -> Iterator[Denoiser]:
        """A denoiser whose ledger holds the work of one call; it is added to the editor's."""
        denoiser = Denoiser(self.unet, self.pipeline.process, self.precision)
        yield denoiser
        self.ledger += denoiser.ledger

    def _weights_fingerprint(self) -> str:
        digest = hashlib.sha256(self.pipeline.identity.encode())
        for model in self.pipeline.models:
            for name, weight in sorted(model.state_dict().items()):
                digest.update(name.encode())
                digest.update(weight.to(torch.float16).cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _write_config(self, folder: Path, **content: Any) -> Path:
        """What the editor has learnt, and ``content``; returns the folder."""
        learnt = {
            "attributes": [attribute.to_dict() for attribute in self.graph_attributes.values()],
            "size": self.size,
            "renderer_version": self.renderer_version,
            "template": self.template,
        }
        write_json(folder / CONFIG, learnt | content | _weights(self.guidance))
        return folder


@dataclass(frozen=True)
class _Captions:
    """Attribute rows in words, encoded; each distinct caption once a call, or while it is remembered."""

    pipeline: Pipeline
    attributes: Mapping[str, Attribute]
    template: str = TEMPLATE
    known: dict[str, Tensor] | None = None

    @property
    def names(self) -> frozenset[str]:
        return named(self.attributes, self.template)

    def __call__(self, table: pd.DataFrame, phrasing: int = 0) -> Condition:
        return self._encoded(self._said(table, phrasing))

    def nothing(self, n: int) -> Condition:
        return self._encoded([""] * n)

    def tokens(self, table: pd.DataFrame, phrasing: int = 0) -> Tensor:
        return self.pipeline.text.ids(self._said(table, phrasing))

    def word(self, text: str) -> tuple[int, ...]:
        special = set(self.pipeline.text.ids([""]).flatten().tolist())
        return tuple(token for token in self.pipeline.text.ids([text])[0].tolist() if token not in special)

    def remembering(self) -> "_Captions":
        """One that encodes each caption once."""
        return replace(self, known={})

    def _said(self, table: pd.DataFrame, phrasing: int) -> list[str]:
        return captions(table, self.attributes, phrasing, self.template)

    def _encoded(self, texts: list[str]) -> Condition:
        known = {} if self.known is None else self.known
        new = sorted(set(texts) - known.keys())
        for i in range(0, len(new), CHUNK):
            chunk = new[i : i + CHUNK]
            states = self.pipeline.text([*chunk, *[""] * (CHUNK - len(chunk))])
            known.update(zip(chunk, states[: len(chunk)], strict=True))
        return Condition(torch.stack([known[text] for text in texts]))


def _fastest(device: torch.device) -> torch.dtype | None:
    """CPUs without bfloat16 units emulate them, slower than float32."""
    return torch.bfloat16 if device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() else None


def _weights(guidance: Guidance) -> dict[str, Any]:
    """Weights of attributes, as ``editor.json`` has them; of other guidance nothing."""
    if isinstance(guidance, PerAttribute) and guidance.default == 1.0:
        return {"weights": dict(guidance.weights)}
    return {}


def _weighed(config: Mapping[str, Any]) -> PerAttribute | None:
    """Guidance by the weights in an ``editor.json``."""
    return PerAttribute(config["weights"]) if "weights" in config else None


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; save an editor there with DiffusionEditor.save(folder).")
    return json.loads((folder / CONFIG).read_text())
