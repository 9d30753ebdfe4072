"""Images read, and scores as rows of the measurement table; an image that cannot be read is a row with its reason."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.dataset import Dataset, UnreadableImages
from causal_cxr.readers.quality import check_scores
from causal_cxr.readers.reader import Reader


def read_scores(readers: Sequence[Reader], images: Tensor, patients: pd.Series) -> dict[str, np.ndarray]:
    """A column a reader and concept.

    Raises:
        ValueError: a score is no finite number. (Outside [0, 1] it may lie: features and log odds are read here as well.)
    """
    columns = {}
    for reader in readers:
        scores = reader.read(images, patients.astype(str).tolist()).numpy().astype(np.float32)
        check_scores(scores, [concept.name for concept in reader.concepts], reader=reader.name, bounded=False)
        for j, concept in enumerate(reader.concepts):
            columns[f"{reader.name}/{concept.name}"] = scores[:, j]
    return columns


def measured(
    dataset: Dataset, rows: np.ndarray, scores: Mapping[str, np.ndarray], *, editor: str = "", contrast: str = "",
    attribute: str = "", kind: str, orientation: Any = 0, accepted: Any = True, reason: Any = "",
) -> pd.DataFrame:  # fmt: skip
    patients = dataset.patients.iloc[rows].astype(str).to_numpy()
    about = {
        "editor": editor, "row": rows.astype(np.int64), "patient": patients, "contrast": contrast, "attribute": attribute,
        "kind": kind, "orientation": np.broadcast_to(np.asarray(orientation, dtype=np.int8), len(rows)),
        "accepted": accepted, "reason": reason,
    }  # fmt: skip
    return pd.DataFrame(about | dict(scores))


def readable(dataset: Dataset, rows: np.ndarray) -> tuple[Tensor, dict[int, str]]:
    """Those of the images that can be read, in order, and what is wrong with the others."""
    try:
        return dataset.images(rows), {}
    except UnreadableImages as error:
        good = without(rows, error.problems)
        return dataset.images(good) if len(good) else torch.empty(0, 1, 1, 1), error.problems


def without(rows: np.ndarray, problems: Mapping[int, str]) -> np.ndarray:
    return rows[np.array([int(row) not in problems for row in rows], dtype=bool)]
