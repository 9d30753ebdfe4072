"""Datasets as a specification names them."""

from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from causal_cxr.audits.specs.block import Block, SpecError
from causal_cxr.data.folder import FolderDataset, read_table
from causal_cxr.graphs import CausalGraph


class FolderBlock(Block):
    """A table and a folder of pictures, see :class:`~causal_cxr.data.FolderDataset`."""

    type: Literal["folder"]
    csv: Path
    images: Path
    patient: str
    columns: dict[str, str] = Field(default_factory=dict)
    file: str = "file"
    text: str | None = None
    size: int | None = Field(default=None, gt=0)

    def open(self, graph: CausalGraph) -> FolderDataset:
        """The dataset, typed by the graph."""
        return FolderDataset(
            self.csv, self.images, patient=self.patient, graph=graph, columns=self.columns, file=self.file,
            text=self.text, size=self.size,
        )  # fmt: skip


class NIHBlock(Block):
    """The ChestX-ray14 layout, see :class:`~causal_cxr.data.NIHChestXray14`."""

    type: Literal["nih"]
    root: Path
    size: int | None = Field(default=None, gt=0)

    def open(self, graph: CausalGraph) -> FolderDataset:
        """The dataset, typed by the graph."""
        from causal_cxr.data import NIHChestXray14

        return NIHChestXray14(self.root, size=self.size, graph=graph)


class LabelsBlock(Block):
    """What is known of concepts in some images: a table with a row an image.

    Attributes:
        csv: 1 or 0, empty where nobody looked.
        file: its column of the pictures' names, as the dataset has them.
        columns: concept -> column.
    """

    csv: Path
    file: str = "file"
    columns: dict[str, str] = Field(min_length=1)

    def of(self, dataset: FolderDataset) -> pd.DataFrame:
        """A row an image of the dataset, a column a concept; NaN for images that the table does not have.

        Raises:
            SpecError: a column is missing, or an image has several rows.
        """
        table = read_table(self.csv, ids=(self.file,))
        missing = [column for column in (self.file, *self.columns.values()) if column not in table]
        if missing:
            raise SpecError(f"labels: {self.csv} has no columns {missing}; it has {list(table.columns)}.")
        twice = table[self.file][table[self.file].duplicated()].unique()
        if len(twice):
            raise SpecError(f"labels: {len(twice)} image(s) have several rows: {twice[:5].tolist()}; keep one each.")
        rows = table.set_index(self.file)[list(self.columns.values())]
        labels = rows.set_axis(list(self.columns), axis=1).astype(float).reindex(list(dataset.names))
        if labels.isna().all(axis=None):
            raise SpecError(
                f"labels: no image of the dataset has a label in {self.csv}; its files are named {table[self.file].head(3).tolist()}."
            )
        return labels.reset_index(drop=True)
