"""``causal-cxr audit SPEC.yaml``: an audit written down in one file."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.yaml_file import BadKey, read_yaml
from causal_cxr.editors.editor import Editor
from causal_cxr.graphs import CausalGraph, Contrast, default_contrasts
from causal_cxr.readers.reader import Reader

if TYPE_CHECKING:
    from causal_cxr.audits.report import Report


class SpecError(ValueError):
    """The file does not describe an audit; the message names file, line, key and mend."""


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FolderBlock(_Block):
    """A table and a folder of pictures, see :class:`~causal_cxr.data.FolderDataset`."""

    type: Literal["folder"]
    csv: Path
    images: Path
    patient: str
    columns: dict[str, str] = {}
    file: str = "file"
    text: str | None = None
    size: int | None = Field(default=None, gt=0)


class NIHBlock(_Block):
    """The ChestX-ray14 layout, see :class:`~causal_cxr.data.NIHChestXray14`."""

    type: Literal["nih"]
    root: Path
    size: int | None = Field(default=None, gt=0)


class ModelBlock(_Block):
    """A saved editor or reader (``path``), the shipped one (no ``path``), or your own.

    ``type: diffusion`` also opens text-to-image pipelines as they are published, in a folder (``path``) or on the hub
    (``hub: owner/name``); captions then name what the graph does, and ``options`` may hold ``template``, ``variant`` and
    ``revision``.

    ``type: python`` calls ``target: "module:function"`` with ``options`` as keywords; the module may lie beside the file.
    """

    type: Literal["diffusion", "scm", "clip", "probe", "python"]
    path: Path | None = None
    hub: str | None = Field(default=None, pattern=r"^\w[\w.-]*/\w[\w.-]*$")
    target: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$")
    options: dict[str, Any] = {}


class AuditSpec(_Block):
    """What ``SPEC.yaml`` may say; paths are relative to the file.

    Attributes:
        graph: the block that :meth:`CausalGraph.from_dict` reads.
        dataset: ``type: folder`` or ``type: nih``.
        editors, readers: name -> model.
        concepts: names to keep of what the readers read; all unless given.
        interventions: names of attributes to set, or ``{age: 20}`` for the shift of a continuous one; every labelled
            attribute unless given.
        n_edited: edit at most this many images.
        labelled_outcomes: decide about what attributes do to each other, too.
        out: run folder.
    """

    graph: dict[str, Any]
    dataset: Annotated[FolderBlock | NIHBlock, Field(discriminator="type")]
    editors: dict[str, ModelBlock] = Field(min_length=1)
    readers: dict[str, ModelBlock] = Field(min_length=1)
    concepts: list[str] | None = None
    interventions: list[str | dict[str, float]] | None = None
    alpha: float = Field(default=0.05, gt=0, lt=1)
    smallest_effect: float = Field(default=0.10, gt=0, lt=1)
    n_edited: int | None = Field(default=None, gt=0)
    labelled_outcomes: bool = False
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=64, gt=0)
    out: Path

    @classmethod
    def from_yaml(cls, file: str | Path) -> "AuditSpec":
        """Read and check a specification.

        Raises:
            SpecError: names the file, the line, the key and what is awaited.
        """
        spec = read_yaml(file, cls, error=SpecError, check=_check_graph)
        return spec._relative_to(Path(file).parent)

    def _relative_to(self, folder: Path) -> "AuditSpec":
        def moved(block: _Block) -> Any:
            paths = {k: folder / v for k, v in block if isinstance(v, Path)}
            return block.model_copy(update=paths)

        return self.model_copy(
            update={
                "dataset": moved(self.dataset),
                "editors": {name: moved(block) for name, block in self.editors.items()},
                "readers": {name: moved(block) for name, block in self.readers.items()},
                "out": folder / self.out,
            }
        )

    def run(self) -> "Report":
        """Carry the audit out; see :meth:`causal_cxr.audits.Audit.run`.

        Raises:
            SpecError: an intervention on what is no labelled attribute, a model of an unsuited type.
        """
        from causal_cxr.audits.audit import Audit

        graph = CausalGraph.from_dict(self.graph)
        dataset, readers = self.open_dataset(graph), self.open_readers()
        kinds = ("diffusion", "scm")
        editors: dict[str, Editor] = {name: _model(name, block, kinds, graph) for name, block in self.editors.items()}
        audit = Audit(
            graph, readers, interventions=self.contrasts(graph), alpha=self.alpha,
            smallest_effect=self.smallest_effect, n_edited=self.n_edited, concepts=self.concepts,
            labelled_outcomes=self.labelled_outcomes,
        )  # fmt: skip
        return audit.run(editors, dataset, seed=self.seed, batch_size=self.batch_size, out=self.out)

    def open_readers(self) -> list[Reader]:
        """The readers, loaded."""
        return [_model(name, block, ("clip", "probe")) for name, block in self.readers.items()]

    def open_dataset(self, graph: CausalGraph) -> Dataset:
        """The dataset, typed by the graph."""
        from causal_cxr.data import FolderDataset, NIHChestXray14

        block = self.dataset
        if isinstance(block, NIHBlock):
            return NIHChestXray14(block.root, size=block.size, graph=graph)
        return FolderDataset(
            block.csv, block.images, patient=block.patient, graph=graph, columns=block.columns, file=block.file,
            text=block.text, size=block.size,
        )  # fmt: skip

    def contrasts(self, graph: CausalGraph) -> tuple[Contrast, ...]:
        """What is asked of the attributes.

        Raises:
            SpecError: an intervention on what is no labelled attribute.
        """
        wanted: dict[str, float | None] = {}
        for entry in self.interventions or graph.labelled:
            wanted |= {entry: None} if isinstance(entry, str) else entry
        unknown = sorted(set(wanted) - set(graph.labelled))
        if unknown:
            raise SpecError(f"interventions: {unknown} are no labelled attributes; those are {list(graph.labelled)}.")
        shifts = {name: shift for name, shift in wanted.items() if shift is not None}
        return tuple(c for c in default_contrasts(graph, shifts) if c.attribute in wanted)


_DIFFUSION_OPTIONS = {"template", "variant", "revision"}


def _model(name: str, block: ModelBlock, suited: tuple[str, ...], graph: CausalGraph | None = None) -> Any:
    if block.type == "python":
        if block.target is None:
            raise SpecError(f"{name}: type: python needs target: module:function.")
        module, function = block.target.split(":")
        return getattr(importlib.import_module(module), function)(**block.options)
    if block.type not in suited:
        raise SpecError(f"{name}: type {block.type!r} does not suit here; use one of {[*suited, 'python']}.")
    from causal_cxr.editors import DiffusionEditor
    from causal_cxr.editors.scm import SCMEditor
    from causal_cxr.readers import CLIPReader, ProbeReader

    models: dict[str, Any] = {"clip": CLIPReader, "diffusion": DiffusionEditor, "probe": ProbeReader, "scm": SCMEditor}
    if block.type == "diffusion" and (block.path or block.hub):
        unknown = sorted(set(block.options) - _DIFFUSION_OPTIONS)
        if unknown:
            raise SpecError(
                f"{name}: type: diffusion has no options {unknown}; there are {sorted(_DIFFUSION_OPTIONS)}."
            )
        return DiffusionEditor.from_pretrained(block.path or str(block.hub), graph=graph, **block.options)
    if block.hub:
        raise SpecError(f"{name}: hub: is for type: diffusion; give path: the folder of a saved {block.type} model.")
    model = models[block.type]
    return model.from_pretrained(block.path) if block.path else model.from_shipped()


def _check_graph(spec: AuditSpec) -> None:
    try:
        CausalGraph.from_dict(spec.graph)
    except ValueError as problem:
        raise BadKey(("graph",), str(problem)) from None
