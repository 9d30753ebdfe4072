"""A hidden concept edited alone: present in every image, and absent in every image, scored in the same pass."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.plans import Plan, row_seeds
from causal_cxr.data.dataset import Dataset
from causal_cxr.data.whole_file import whole_file
from causal_cxr.editors.editor import Editor
from causal_cxr.graphs import Attribute, Binary
from causal_cxr.readers.reader import Reader

FOLDER = "alone"  #: beside ``measurements``
ABSENT = "@absent"  #: ends the columns of scores with the concept absent


def edited_alone(
    dataset: Dataset,
    name: str,
    editor: Editor,
    attributes: Iterable[Binary],
    readers: Sequence[Reader],
    plan: Plan,
    rows: np.ndarray,
    folder: Path,
) -> dict[str, pd.DataFrame]:
    """Scores with a concept present, and with it absent, everything labelled held.

    Their difference needs no null edit: both are edits of the same image, asked in the same words.

    Args:
        name: of the editor.
        attributes: hidden ones that the editor can set; absent at the first level, present at the second.
        plan: whose seeds and partition into shards are kept.
        rows: of the dataset, readable ones.
        folder: shards go there, each whole or not at all; those that are there are not measured again.

    Returns:
        concept -> one row an image that both edits are accepted of, index the dataset's row: ``patient``, and scores by column
        (``<reader>/<concept>``, and the same ended by :data:`ABSENT`).
    """
    found = {}
    for attribute in attributes:
        key = hashlib.sha256(repr(attribute.to_dict()).encode()).hexdigest()[:12]
        parts = []
        for i, part in enumerate(plan.shards(rows)):
            file = folder / name / f"{key}-{i:05d}.parquet"
            if not file.exists():
                shard = _shard(dataset, editor, attribute, readers, plan, part)
                with whole_file(file) as partial:
                    shard.to_parquet(partial)
            parts.append(pd.read_parquet(file))
        whole = pd.concat(parts)
        found[attribute.name] = whole[whole["accepted"]].drop(columns="accepted")
    return found


def _shard(
    dataset: Dataset, editor: Editor, attribute: Binary, readers: Sequence[Reader], plan: Plan, rows: np.ndarray
) -> pd.DataFrame:
    factual, patients = dataset.attributes.iloc[rows], dataset.patients.iloc[rows].astype(str)
    abduction = editor.abduct(dataset.images(rows), factual, seeds=row_seeds(plan, rows))
    absent, present = (
        editor.edit(abduction, factual.assign(**{attribute.name: _all(attribute, level, factual.index)}))
        for level in attribute.levels
    )
    columns = {
        f"{reader.name}/{concept.name}{end}": scores
        for reader in readers
        for end, edit in (("", present), (ABSENT, absent))
        for concept, scores in zip(reader.concepts, reader.read(edit.images, patients.tolist()).T.numpy(), strict=True)
    }
    frame = pd.DataFrame({"patient": patients.to_numpy(), "accepted": present.accepted & absent.accepted, **columns})
    return frame.set_index(pd.Index(rows, name="row"))


def _all(attribute: Attribute, level: Any, index: pd.Index) -> pd.Series:
    return attribute.coerce(pd.Series([level] * len(index), index=index))
