"""Several datasets as one, such as phantoms of several worlds."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.dataset import Dataset, UnreadableImages


class Joined:
    """Rows of several datasets one after the other; a :class:`~causal_cxr.data.dataset.Dataset`.

    An attribute that a part does not have is missing in its rows. Patients are told apart by their names alone: parts that
    share a name share the patient.

    Args:
        parts: whose images have one size.

    Raises:
        ValueError: there is no part.
    """

    texts: pd.Series | None = None

    def __init__(self, parts: Sequence[Dataset]) -> None:
        if not parts:
            raise ValueError("There is no dataset to join; pass Joined([dataset, ...]).")
        self.parts = tuple(parts)
        self.attributes = _stacked([part.attributes for part in parts])
        self.patients = pd.concat([part.patients for part in parts], ignore_index=True)
        if all(part.texts is not None for part in parts):
            self.texts = pd.concat([part.texts for part in parts if part.texts is not None], ignore_index=True)
        self.fingerprint = hashlib.sha256("|".join(part.fingerprint for part in parts).encode()).hexdigest()[:16]
        self._starts = np.cumsum([0, *(len(part.attributes) for part in parts)])

    def __len__(self) -> int:
        return len(self.attributes)

    def images(self, rows: np.ndarray) -> Tensor:
        """See :class:`~causal_cxr.data.dataset.Dataset`."""
        rows = np.asarray(rows, dtype=np.int64)
        of = np.searchsorted(self._starts, rows, side="right") - 1
        found: list[tuple[np.ndarray, Tensor]] = []
        problems: dict[int, str] = {}
        for k in np.unique(of):
            here = np.flatnonzero(of == k)
            try:
                found.append((here, self.parts[k].images(rows[here] - self._starts[k])))
            except UnreadableImages as unreadable:
                problems |= {int(row + self._starts[k]): why for row, why in unreadable.problems.items()}
        if problems:
            raise UnreadableImages(problems)
        if not found:
            return self.parts[0].images(rows)
        together = torch.empty((len(rows), *found[0][1].shape[1:]))
        for here, images in found:
            together[here] = images
        return together


def _stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One under the other; a column that a table lacks is missing there, of the type that it has elsewhere."""
    types: dict[Any, Any] = {}
    for table in tables:
        types = table.dtypes.to_dict() | types
    names = dict.fromkeys(name for table in tables for name in table)
    whole = [
        pd.DataFrame(
            {name: table.get(name, pd.Series(index=table.index, dtype=types[name])) for name in names},
            index=table.index,
        )
        for table in tables
    ]
    return pd.concat(whole, ignore_index=True)
