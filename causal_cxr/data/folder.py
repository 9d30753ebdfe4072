"""``FolderDataset``: a user's own table and pictures."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.dataset import UnreadableImages
from causal_cxr.data.images import read_grey
from causal_cxr.graphs import CausalGraph, Continuous, Value

_PICTURES = frozenset({".png", ".jpg", ".jpeg"})


class FolderDataset:
    """Radiographs in a folder, one table row each; read when asked for, none kept.

    Args:
        csv: the table, or a file to read it from (:func:`read_table`). Of a table of your own the ids are text as they stand
            in it: ``pd.read_csv`` makes 7 of 007 unless it is told ``dtype={patient: str}``.
        images: the folder that the file names are relative to.
        patient: column of patient ids.
        graph: its labelled attributes become the columns of :attr:`attributes`, typed by it.
        columns: attribute -> column of the table; an attribute's own name unless given.
        file: column of file names.
        text: column of report texts, if any; an image without one has none.
        size: pixels a side, see :func:`~causal_cxr.data.images.read_grey`; ``None`` keeps the pictures' own size, which
            must then be that of row 0 for all.

    Attributes:
        unlisted: pictures in the folder that no row names.

    Raises:
        ValueError: a column is missing, a row has no patient or no file, a file is named twice, a value is not one of
            its attribute's; the message names the offence.
    """

    def __init__(
        self,
        csv: str | Path | pd.DataFrame,
        images: str | Path,
        *,
        patient: str,
        graph: CausalGraph,
        columns: Mapping[str, str] | None = None,
        file: str = "file",
        text: str | None = None,
        size: int | None = None,
    ) -> None:
        folder, columns = Path(images), dict(columns or {})
        needed = {name: columns.get(name, name) for name in graph.labelled}
        if not isinstance(csv, pd.DataFrame):
            levels: dict[str, Collection[Value]] = {
                column: attribute.levels
                for name, column in needed.items()
                if not isinstance(attribute := graph.attributes[name], Continuous)
            }
            csv = read_table(csv, ids=(patient, file), levels=levels)
        table = csv.reset_index(drop=True)
        unknown = sorted(set(columns) - set(graph.labelled))
        if unknown:
            raise ValueError(f"columns= names {unknown}; the graph's labelled attributes are {list(graph.labelled)}.")
        for column in (patient, file, *([text] if text else []), *needed.values()):
            if column not in table:
                raise ValueError(
                    f"The table has no column {column!r}; it has {list(table.columns)}. Correct the name, map the "
                    "attribute with columns={attribute: column}, or declare it with hidden=True."
                )
        for column in (patient, file):
            empty = np.flatnonzero(table[column].isna())
            if len(empty):
                raise ValueError(f"Column {column!r} is empty in row(s) {empty[:5].tolist()}; fill or drop them.")
        twice = table[file][table[file].duplicated()].unique()
        if len(twice):
            raise ValueError(f"{len(twice)} file(s) have several rows: {twice[:5].tolist()}; keep one each.")
        attributes = graph.coerce(pd.DataFrame({name: table[column] for name, column in needed.items()}))
        patients = as_ids(table[patient])
        texts = table[text].astype(str).where(table[text].notna(), None) if text else None  # pandas 2 writes "nan"
        names = table[file].astype(str)
        self._set(graph, attributes, patients, texts, tuple(names), tuple(folder / name for name in names), size)
        listed = set(self.paths)
        self.unlisted: tuple[str, ...] = tuple(
            sorted(
                str(path.relative_to(folder))
                for path in folder.rglob("*")
                if path.suffix.lower() in _PICTURES and path not in listed
            )
        )

    def _set(
        self,
        graph: CausalGraph,
        attributes: pd.DataFrame,
        patients: pd.Series,
        texts: pd.Series | None,
        names: Sequence[str],
        paths: Sequence[Path],
        size: int | None,
    ) -> None:
        self.graph, self.attributes, self.patients, self.texts = graph, attributes, patients, texts
        self.names, self.paths, self.size = tuple(names), tuple(paths), size

    def __len__(self) -> int:
        return len(self.attributes)

    @cached_property
    def fingerprint(self) -> str:
        """Of file names and lengths, patients, the typed table and the size (not of every pixel: that reads them all)."""
        digest = hashlib.sha256(repr(self.size).encode())
        for name, path in zip(self.names, self.paths, strict=True):
            digest.update(f"{name}:{path.stat().st_size if path.is_file() else None}\n".encode())
        digest.update(self.attributes.assign(**{"": self.patients}).to_csv().encode())
        return digest.hexdigest()[:16]

    @cached_property
    def _native(self) -> tuple[int, ...]:
        return read_grey(self.paths[0], None).shape

    def _read(self, row: int) -> np.ndarray:
        grey = read_grey(self.paths[row], self.size)
        if self.size is None and grey.shape != self._native:
            (h, w), (h0, w0) = grey.shape, self._native
            raise ValueError(f"is {w}x{h} pixels where row 0 is {w0}x{h0}; pass size=")
        return grey

    def images(self, rows: np.ndarray) -> Tensor:
        """See :meth:`causal_cxr.data.dataset.Dataset.images`."""
        read: list[np.ndarray] = []
        problems: dict[int, str] = {}
        for row in np.asarray(rows).tolist():
            try:
                read.append(self._read(row))
            except ValueError as error:
                problems[row] = f"{self.names[row]} {error}"
        if problems:
            raise UnreadableImages(problems)
        height, width = (self.size, self.size) if self.size is not None else self._native
        return torch.from_numpy(np.stack(read) if read else np.empty((0, height, width), np.float32))[:, None]

    def check(self) -> dict[int, str]:
        """Read every image once, keeping none; row -> what is wrong, empty when all is well."""
        problems: dict[int, str] = {}
        for row in range(len(self)):
            try:
                self._read(row)
            except ValueError as error:
                problems[row] = f"{self.names[row]} {error}"
        return problems


def read_table(
    file: str | Path, *, ids: Collection[str], levels: Mapping[str, Collection[Value]] | None = None
) -> pd.DataFrame:
    """A CSV file, in which pandas guesses at no id and at no declared level.

    Args:
        file: to read.
        ids: columns that stay as they are written: 007 is not 7. A cell that pandas knows as a gap ("NA") stays one.
        levels: column -> declared levels. A cell that is written just as one of them is that level, though pandas knows the
            word as a gap ("None") or a number.
    """
    table, levels = pd.read_csv(file, dtype=dict.fromkeys(ids, str)), levels or {}
    written = pd.read_csv(file, dtype=str, keep_default_na=False, usecols=lambda column: column in levels)
    for column in map(str, written):
        words = [level for level in levels[column] if isinstance(level, str)]
        if words:
            table[column] = table[column].astype(object).mask(written[column].isin(words), written[column])
    return table


def as_ids(column: pd.Series) -> pd.Series:
    """Ids as text without blanks around it; whole numbers that a gap in their column once made decimal lose their ``.0``.

    Two programs may write one patient as 7 and as 7.0, and where all ids of a column end in ``.0`` it tells none apart.

    >>> as_ids(pd.Series([7.0, 12.0])).tolist(), as_ids(pd.Series(["007", "7"])).tolist()
    (['7', '12'], ['007', '7'])
    """
    text = column.astype(str).str.strip()
    return text.str.removesuffix(".0") if text.str.fullmatch(r"\d+\.0").all() else text
