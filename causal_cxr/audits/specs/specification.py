"""``Specification``: what any audit is told in a file, from the graph to the run folder."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from causal_cxr.audits.specs.block import Block, SpecError
from causal_cxr.audits.specs.datasets import FolderBlock, NIHBlock
from causal_cxr.audits.specs.models import EDITORS, READERS, ModelBlock, open_model
from causal_cxr.data.folder import FolderDataset
from causal_cxr.data.yaml_file import BadKey, read_yaml
from causal_cxr.editors.editor import Editor
from causal_cxr.graphs import CausalGraph, Contrast, default_contrasts
from causal_cxr.readers.reader import Reader


class Specification(Block):
    """What ``SPEC.yaml`` may say of any audit; paths are relative to the file.

    Attributes:
        graph: the block that :meth:`CausalGraph.from_dict` reads.
        dataset: ``type: folder`` or ``type: nih``.
        editors, readers: name -> model.
        interventions: names of attributes to set, or ``{age: 20}`` for the shift of a continuous one; every labelled
            attribute unless given.
        alpha: of each test and of each verdict kind's false-discovery rate.
        n_edited: edit at most this many images.
        batch_size: images a shard.
        out: run folder.
    """

    graph: dict[str, Any]
    dataset: Annotated[FolderBlock | NIHBlock, Field(discriminator="type")]
    editors: dict[str, ModelBlock] = Field(min_length=1)
    readers: dict[str, ModelBlock] = Field(min_length=1)
    interventions: list[str | dict[str, float]] | None = None
    alpha: float = Field(default=0.05, gt=0, lt=1)
    n_edited: int | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=64, gt=0)
    out: Path

    @classmethod
    def from_yaml(cls, file: str | Path) -> Self:
        """Read and check a specification.

        Raises:
            SpecError: names the file, the line, the key and what is awaited.
        """
        return read_yaml(file, cls, error=SpecError, check=cls.check).beside(Path(file).parent)

    def check(self) -> None:
        """What is wrong though each key for itself is right.

        Raises:
            BadKey: an impossible graph, an intervention on what is no labelled attribute, a model of an unsuited type.
        """
        try:
            graph = self.open_graph()
        except ValueError as problem:
            raise BadKey(("graph",), str(problem)) from None
        try:
            self.contrasts(graph)
        except ValueError as problem:
            raise BadKey(("interventions",), str(problem)) from None
        for key, blocks, suited in (("editors", self.editors, EDITORS), ("readers", self.readers, READERS)):
            for name, block in blocks.items():
                mistake = block.mistake(suited)
                if mistake is not None:
                    raise BadKey((key, name, mistake[0]), mistake[1])

    def open_graph(self) -> CausalGraph:
        """The declared graph."""
        return CausalGraph.from_dict(self.graph)

    def open_dataset(self, graph: CausalGraph) -> FolderDataset:
        """The dataset, typed by the graph."""
        return self.dataset.open(graph)

    def open_editors(self, graph: CausalGraph) -> dict[str, Editor]:
        """The editors, loaded; captions name what the graph does."""
        return {name: open_model(f"editors.{name}", block, EDITORS, graph) for name, block in self.editors.items()}

    def open_readers(self) -> list[Reader]:
        """The readers, loaded."""
        return [open_model(f"readers.{name}", block, READERS) for name, block in self.readers.items()]

    def contrasts(self, graph: CausalGraph) -> tuple[Contrast, ...]:
        """What is asked of the attributes.

        Raises:
            ValueError: an intervention on what is no labelled attribute, or a shift of what is not continuous.
        """
        wanted: dict[str, float | None] = {}
        for entry in self.interventions or graph.labelled:
            wanted |= {entry: None} if isinstance(entry, str) else entry
        unknown = sorted(set(wanted) - set(graph.labelled))
        if unknown:
            raise ValueError(f"{unknown} are no labelled attributes; those are {list(graph.labelled)}.")
        shifts = {name: shift for name, shift in wanted.items() if shift is not None}
        return tuple(c for c in default_contrasts(graph, shifts) if c.attribute in wanted)
