"""Parts of a dataset: subsets of rows, splits by patient, batches."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from torch import Tensor

from causal_cxr.data.dataset import Dataset, UnreadableImages


class Subset:
    """Some rows of a dataset, renumbered from 0; images are read through the dataset, never copied.

    Args:
        dataset: the whole.
        rows: ``(n,)`` integers in ``0..len-1``, each at most once.

    Raises:
        ValueError: a row is not in the dataset, or comes twice; rows are told by a mask.
    """

    def __init__(self, dataset: Dataset, rows: np.ndarray) -> None:
        if np.asarray(rows).dtype == bool:
            raise ValueError(
                "rows is a mask of True and False, and row numbers are awaited; pass np.flatnonzero(mask)."
            )
        self.rows = np.asarray(rows, dtype=np.int64)
        wrong = self.rows[(self.rows < 0) | (self.rows >= len(dataset.attributes))]
        if len(wrong):
            raise ValueError(f"Rows {wrong[:5].tolist()} are not in the dataset of {len(dataset.attributes)} images.")
        if len(np.unique(self.rows)) < len(self.rows):
            raise ValueError("A row is asked for twice; pass np.unique(rows).")
        self.dataset = dataset
        self.attributes: pd.DataFrame = dataset.attributes.iloc[self.rows].reset_index(drop=True)
        self.patients: pd.Series = dataset.patients.iloc[self.rows].reset_index(drop=True)
        self.texts = None if dataset.texts is None else dataset.texts.iloc[self.rows].reset_index(drop=True)
        self.fingerprint = hashlib.sha256(dataset.fingerprint.encode() + self.rows.tobytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, rows: np.ndarray) -> Tensor:
        """See :meth:`causal_cxr.data.dataset.Dataset.images`; problems are told in this subset's rows."""
        rows = np.asarray(rows, dtype=np.int64)
        try:
            return self.dataset.images(self.rows[rows])
        except UnreadableImages as error:
            here = {int(self.rows[row]): int(row) for row in rows}
            raise UnreadableImages({here[row]: why for row, why in error.problems.items()}) from None


def split_patients(
    dataset: Dataset,
    fractions: Sequence[float] | None = None,
    *,
    counts: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, ...]:
    """Split rows so that no patient is in two parts.

    Args:
        dataset: to split.
        fractions: of the patients, summing to at most 1; or
        counts: of patients, summing to at most all.
        seed: of the draw; the same patients in another order are split alike.

    Returns:
        one sorted array of rows a part; what the parts leave over is in none.

    Raises:
        ValueError: both or neither of fractions and counts, negative ones, or more than there are.
    """
    patients = np.sort(dataset.patients.astype(str).unique())
    if fractions is not None and counts is None:
        if min(fractions) < 0 or sum(fractions) > 1 + 1e-9:
            raise ValueError(f"Fractions {list(fractions)} must not be negative nor sum to more than 1.")
        edges = np.round(np.cumsum([0.0, *fractions]) * len(patients)).astype(int)
    elif counts is not None and fractions is None:
        if min(counts) < 0 or sum(counts) > len(patients):
            raise ValueError(f"Counts {list(counts)} must not be negative nor exceed the {len(patients)} patients.")
        edges = np.cumsum([0, *counts])
    else:
        raise ValueError("Give either fractions=[0.6, 0.2, 0.2] or counts=[400, 100, 100].")
    order = np.random.default_rng(seed).permutation(patients)
    ids = dataset.patients.astype(str)
    return tuple(np.flatnonzero(ids.isin(order[low:high]).to_numpy()) for low, high in pairwise(edges))


def batches(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Rows in consecutive batches, the last perhaps smaller.

    >>> [batch.tolist() for batch in batches(np.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be 1 or more.")
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]
