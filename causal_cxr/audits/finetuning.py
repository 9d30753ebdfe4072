"""``causal-cxr finetune``: an editor fine-tuned on a phantom world, or on the dataset of an audit's specification."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from causal_cxr.audits.spec import AuditSpec
from causal_cxr.audits.validation import Validation
from causal_cxr.data.dataset import Dataset
from causal_cxr.data.splits import split_patients
from causal_cxr.editors.diffusion.calibrate import calibrated
from causal_cxr.editors.diffusion.editor import DiffusionEditor
from causal_cxr.editors.finetune import (
    Balanced,
    Denoiser,
    Joint,
    LoRA,
    Telling,
    Tokens,
    Trainable,
    Watch,
    finetune,
    publish,
)
from causal_cxr.graphs import CausalGraph, Continuous, Contrast, default_contrasts
from causal_cxr.readers.reader import Reader

What = Literal["lora", "denoiser", "joint", "tokens"]
HELD_OUT = 64  #: images at most that a fit is judged on while it runs
WEIGHED = 128  #: images at most whose readings choose the weights of guidance
FITTED, JUDGED = 0.5, 0.1  #: of a real dataset's patients; the rest is left for readers and the audit


@dataclass(frozen=True)
class Material:
    """What a fine-tuning is done on.

    Attributes:
        dataset, rows: images to fit on.
        held_out, held_out_rows: images of other patients to judge on, the first of them while it runs.
        graph: declared.
        contrasts: to judge by.
        readers: to judge with.
        told: of the data, for the card.
        arguments: that name them on the command line.
        renderer_version: of phantoms.
    """

    dataset: Dataset
    rows: np.ndarray
    held_out: Dataset
    held_out_rows: np.ndarray
    graph: CausalGraph
    contrasts: tuple[Contrast, ...]
    readers: Sequence[Reader]
    told: str
    arguments: str
    renderer_version: int | None = field(default=None)


def from_world(world: str, images: int, *, size: int, seed: int) -> Material:
    """A phantom world, judged on a second draw of it by the shipped readers."""
    from causal_cxr.data.phantom import VERSION, Phantom
    from causal_cxr.readers import CLIPReader, ProbeReader

    phantom, other = (Phantom(n, world, size=size, seed=seed + k) for k, n in enumerate((images, WEIGHED)))
    told = (
        f'`Phantom({images}, "{world}", size={size}, seed={seed})`, renderer version {VERSION}; synthetic, no patients'
    )
    return Material(
        phantom, np.arange(images), other, np.arange(WEIGHED), phantom.graph,
        default_contrasts(phantom.graph, phantom.world.content.shifts),
        [CLIPReader.from_shipped(), ProbeReader.from_shipped()], told,
        f"--world {world} --images {images} --size {size}", VERSION,
    )  # fmt: skip


def from_spec(file: Path, *, seed: int) -> Material:
    """The dataset of an audit's specification: half of the patients to fit on, a tenth to judge on, the rest for the audit.

    Raises:
        SpecError: the file does not describe an audit.
    """
    spec = AuditSpec.from_yaml(file)
    graph = CausalGraph.from_dict(spec.graph)
    dataset = spec.open_dataset(graph)
    rows, judged = split_patients(dataset, [FITTED, JUDGED], seed=seed)
    told = f"{type(dataset).__name__} of `{file.name}`; by patient, {FITTED:.0%} fitted on, {JUDGED:.0%} judged on"
    return Material(
        dataset, rows, dataset, judged[:WEIGHED], graph, spec.contrasts(graph), spec.open_readers(), told,
        f"--spec {file.name}",
    )  # fmt: skip


def run_finetune(
    material: Material,
    out: Path,
    *,
    base: str,
    what: What,
    rank: int,
    attribute: str | None,
    balanced: bool,
    own_captions: bool,
    template: str | None,
    steps: int,
    batch_size: int,
    learning_rate: float | None,
    validate_every: int | None,
    patience: int | None,
    mixed_precision: Literal["bf16", "no"],
    device: str,
    graphs: bool,
    calibrate: bool,
    seed: int,
) -> DiffusionEditor:
    """Fine-tune, judge, and write weights, card and logs into ``out``; a killed run goes on.

    Raises:
        ValueError: an attribute is needed and none is named, or it cannot be used so; a template that cannot be read, or
            names nothing that is to be learnt; see :func:`~causal_cxr.editors.finetune.finetune`.
    """
    graph = material.graph
    if attribute is None and (balanced or own_captions or what == "tokens"):
        raise ValueError("Balancing, own captions and tokens are of one attribute: name it with --attribute.")
    if attribute is not None and attribute not in graph.labelled:
        raise ValueError(f"--attribute {attribute} is no labelled attribute; those are {list(graph.labelled)}.")
    start = _base(base, material, template)
    learnt = set(graph.labelled) if attribute is None else {attribute}
    if not learnt & start.attributes:
        raise ValueError(
            f"The template {start.template!r} names none of {sorted(learnt)}, so that no edit could set it; give it a slot."
        )
    trainable: Trainable = LoRA(rank)
    if what == "denoiser":
        trainable = Denoiser()
    elif what == "joint":
        trainable = Joint()
    elif what == "tokens" and attribute is not None:
        trainable = Tokens({attribute: _words(graph, attribute)})
    names = (attribute,) if own_captions and attribute is not None else None
    contrasts = [c for c in material.contrasts if names is None or c.attribute in names]

    def judge(images: int) -> Validation:
        rows = material.held_out_rows[:images]
        return Validation(material.readers, material.held_out, rows, graph, contrasts, seed=seed)

    watch = None if validate_every is None else Watch(judge(HELD_OUT), every=validate_every, patience=patience)
    weigher = judge(WEIGHED) if calibrate else None
    if weigher is not None and not weigher.told:  # before hours of a fit
        raise ValueError(
            f"--calibrate: no reader reads {sorted({c.attribute for c in contrasts})} well enough to choose a weight by; leave it "
            "out, or name readers whose slopes are known and high."
        )
    fitted = finetune(
        start, material.dataset, material.rows, what=trainable, steps=steps, batch_size=batch_size, seed=seed,
        weights=Balanced(graph, attribute) if balanced and attribute is not None else None,
        captions=Telling(names=names), learning_rate=learning_rate, watch=watch, mixed_precision=mixed_precision,
        device=device, graphs=graphs, checkpoint=out / "checkpoint",
    )  # fmt: skip
    if weigher is not None:
        fitted = calibrated(fitted, weigher)
    options: dict[str, Any] = {
        "base": base, "what": what, "rank": rank, "attribute": attribute, "captions": "own" if own_captions else "full",
        "template": template, "steps": steps, "batch": batch_size, "learning-rate": learning_rate, "validate-every": validate_every or 0,
        "patience": patience, "mixed-precision": mixed_precision, "device": device, "seed": seed,
    }  # fmt: skip
    told = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None)
    publish(
        fitted, out, title=f"Fine-tuned diffusion editor: {what}" + (f", {attribute}" if attribute else ""),
        data=material.told, command=f"causal-cxr finetune {material.arguments} {told}{' --balanced' * balanced}{' --graphs' * graphs}{' --calibrate' * calibrate} --out DIR",
        use="auditing the dataset it was fitted to; not clinical use",
    )  # fmt: skip
    return fitted


def _base(base: str, material: Material, template: str | None) -> DiffusionEditor:
    """The editor that the fit starts from, naming the graph's attributes: what the base does not know an adapter learns."""
    editor = _opened(base, material.graph)
    named = {name: material.graph.attributes[name] for name in material.graph.labelled}
    start = editor.using(attributes=named, template=template)
    if editor.graph_attributes != named:
        start.renderer_version = material.renderer_version
    return start


def _opened(base: str, graph: CausalGraph) -> DiffusionEditor:
    if base == "shipped":
        return DiffusionEditor.from_shipped("diffusion-base")
    return DiffusionEditor.from_pretrained(base, graph=graph)


def _words(graph: CausalGraph, name: str) -> dict[Any, str]:
    """A new word for each level, such as ``<view-ap>``."""
    attribute = graph.attributes[name]
    if isinstance(attribute, Continuous):
        raise ValueError(f"Tokens name levels, and {name!r} is a number; choose another attribute, or --what lora.")
    return {level: "<" + re.sub(r"[^a-z0-9]+", "-", f"{name}-{level}".lower()) + ">" for level in attribute.levels}
