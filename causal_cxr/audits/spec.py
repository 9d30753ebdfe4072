"""``causal-cxr audit SPEC.yaml``: an audit written down in one file."""

import importlib
from collections.abc import Sequence
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
    from causal_cxr.audits.unnamed import UnnamedSearch
    from causal_cxr.readers.concepts import Concept


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

    ``type: clip`` also opens open_clip's checkpoints, in a folder or on the hub; ``options`` then say what to read: ``bank``
    (``phantom``, ``radiographs`` or a YAML file), ``names`` of it (all unless given), ``regions`` and ``revision``.

    ``type: measure``, ``xrv`` and ``flamingo`` open what these readers' ``save`` wrote.

    ``type: python`` calls ``target: "module:function"`` with ``options`` as keywords; the module may lie beside the file.
    """

    type: Literal["diffusion", "scm", "clip", "probe", "measure", "xrv", "flamingo", "python"]
    path: Path | None = None
    hub: str | None = Field(default=None, pattern=r"^\w[\w.-]*/\w[\w.-]*$")
    target: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$")
    options: dict[str, Any] = {}


class UnnamedBlock(_Block):
    """A search for concepts without a name, see :class:`~causal_cxr.audits.UnnamedSearch`.

    Attributes:
        features: which of the ``readers`` lends its features: one of ``type: clip``, or your own that has them.
        phrases: which of the ``readers`` names the nearest phrases: one of ``type: clip``.
        without: concepts whose names are withheld.
        resamples: halves of the patients on which the search is done anew.
    """

    features: str
    phrases: str | None = None
    without: list[str] = []
    resamples: int = Field(default=10, ge=2, multiple_of=2)


class TrialsBlock(_Block):
    """What is tried of editors beside the audit's own edits, see :class:`~causal_cxr.audits.Trials`."""

    reversed: int = Field(default=32, gt=0)
    doses: list[float] = []
    dosed: int = Field(default=32, gt=0)


class StoppingBlock(_Block):
    """Edits that stop where verdicts stand, see :class:`~causal_cxr.audits.Anytime`."""

    check_every: int = Field(default=1, gt=0)
    images_per_patient: int | None = Field(default=1, gt=0)


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
        unnamed: look for concepts that no reader has a name for, too.
        trials: how many images are edited back and at other doses, see :class:`~causal_cxr.audits.Trials`.
        steps: other shifts of continuous attributes to ask for, as multiples.
        may_touch: attribute -> regions that its edit may change (``corners``, ``border``, ``markers``, ``lettering``).
        observational: set estimators side by side on unedited images, refute them, and test the graph.
        stopping: stop editing where verdicts stand, see :class:`~causal_cxr.audits.Anytime`; ``{}`` for its defaults.
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
    unnamed: UnnamedBlock | None = None
    trials: TrialsBlock = TrialsBlock()
    steps: list[float] = []
    may_touch: dict[str, list[Literal["corners", "border", "markers", "lettering"]]] | None = None
    observational: bool = False
    stopping: StoppingBlock | None = None
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
            paths: dict[str, Any] = {k: folder / v for k, v in block if isinstance(v, Path)}
            if isinstance(block, ModelBlock) and str(block.options.get("bank", "")).endswith((".yaml", ".yml")):
                paths["options"] = block.options | {"bank": folder / block.options["bank"]}
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
        from causal_cxr.audits.anytime import Anytime
        from causal_cxr.audits.audit import Audit
        from causal_cxr.audits.trials import Trials

        graph = CausalGraph.from_dict(self.graph)
        dataset, readers = self.open_dataset(graph), self.open_readers()
        editors: dict[str, Editor] = {name: _model(name, block, EDITORS, graph) for name, block in self.editors.items()}
        audit = Audit(
            graph, readers, interventions=self.contrasts(graph), alpha=self.alpha,
            smallest_effect=self.smallest_effect, n_edited=self.n_edited, concepts=self.concepts,
            labelled_outcomes=self.labelled_outcomes, unnamed=self.search(readers),
            trials=Trials(**{**dict(self.trials), "doses": tuple(self.trials.doses)}),
            steps=self.steps, may_touch=self.may_touch, observational=self.observational,
            stopping=None if self.stopping is None else Anytime(**dict(self.stopping)),
        )  # fmt: skip
        return audit.run(editors, dataset, seed=self.seed, batch_size=self.batch_size, out=self.out)

    def open_readers(self) -> list[Reader]:
        """The readers, loaded."""
        return [_model(name, block, READERS) for name, block in self.readers.items()]

    def search(self, readers: Sequence[Reader]) -> "UnnamedSearch | None":
        """The search for concepts without a name, if there is to be one.

        Args:
            readers: in the order of the file.

        Raises:
            SpecError: no such reader, or one that lends no features or phrases.
        """
        from causal_cxr.audits.unnamed import UnnamedSearch
        from causal_cxr.readers import ComponentSearch

        if self.unnamed is None:
            return None
        by_name = dict(zip(self.readers, readers, strict=True))

        def lent(key: str, name: str, method: str) -> Any:
            reader = by_name.get(name)
            if reader is None or not callable(getattr(reader, method, None)):
                able = [n for n, r in by_name.items() if callable(getattr(r, method, None))]
                raise SpecError(f"unnamed.{key}: {name!r} is no reader that has {method}; choose from {able}.")
            return reader

        phrases = self.unnamed.phrases
        return UnnamedSearch(
            lent("features", self.unnamed.features, "features"), ComponentSearch(resamples=self.unnamed.resamples),
            phrases=None if phrases is None else lent("phrases", phrases, "margins"), without=frozenset(self.unnamed.without),
        )  # fmt: skip

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


EDITORS = ("diffusion", "scm")
READERS = ("clip", "probe", "measure", "xrv", "flamingo")
#: What is also opened as others publish it, and what may be said about it.
PUBLISHED = {"diffusion": {"template", "variant", "revision"}, "clip": {"bank", "names", "regions", "revision"}}


def _model(name: str, block: ModelBlock, suited: tuple[str, ...], graph: CausalGraph | None = None) -> Any:
    if block.type == "python":
        if block.target is None:
            raise SpecError(f"{name}: type: python needs target: module:function.")
        module, function = block.target.split(":")
        return getattr(importlib.import_module(module), function)(**block.options)
    if block.type not in suited:
        raise SpecError(f"{name}: type {block.type!r} does not suit here; use one of {[*suited, 'python']}.")
    allowed = PUBLISHED.get(block.type, set()) if block.path or block.hub else set()
    unknown = sorted(set(block.options) - allowed)
    if unknown:
        raise SpecError(f"{name}: type: {block.type} has no options {unknown} here; there are {sorted(allowed)}.")
    if block.hub and block.type not in PUBLISHED:
        raise SpecError(
            f"{name}: hub: is for {' and '.join(PUBLISHED)}; give path: the folder of a saved {block.type} model."
        )
    model = _class(block.type)
    if block.type == "diffusion" and (block.path or block.hub):
        return model.from_pretrained(block.path or block.hub, graph=graph, **block.options)
    if block.type == "clip" and (block.path or block.hub):
        return model.from_pretrained(block.path or f"hf-hub:{block.hub}", _asked(block.options), **_rest(block.options))
    if block.path:
        return model.from_pretrained(block.path)
    if not hasattr(model, "from_shipped"):
        raise SpecError(f"{name}: no {block.type} model ships; give path: the folder of a saved one.")
    return model.from_shipped()


def _class(kind: str) -> Any:
    from causal_cxr import editors, readers

    return {
        "diffusion": editors.DiffusionEditor, "scm": editors.SCMEditor, "clip": readers.CLIPReader,
        "probe": readers.ProbeReader, "measure": readers.MeasureReader, "xrv": readers.XRVReader,
        "flamingo": readers.FlamingoReader,
    }[kind]  # fmt: skip


def _asked(options: dict[str, Any]) -> "tuple[Concept, ...] | None":
    from causal_cxr.readers import load_concepts

    return load_concepts(options.get("names"), bank=options["bank"]) if "bank" in options else None


def _rest(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in ("bank", "names")}


def _check_graph(spec: AuditSpec) -> None:
    try:
        CausalGraph.from_dict(spec.graph)
    except ValueError as problem:
        raise BadKey(("graph",), str(problem)) from None
