"""A reader, a dataset and what is known of it: scores beside truth, on patients that the reader was not fitted on."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.patients import all_known
from causal_cxr.graphs import CausalGraph
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality, assess, check_truth
from causal_cxr.readers.reader import Reader, read_dataset

BATCH = 256


def read_rows(reader: Reader, dataset: Dataset, rows: np.ndarray, *, batch_size: int = BATCH) -> np.ndarray:
    """``(n, k)`` float64 scores of a dataset's rows; cross-fitted readers are told whom they read.

    Raises:
        UnreadableImages: some of the rows cannot be read.
    """
    with torch.no_grad():
        parts = [scores.double().numpy() for _, scores in read_dataset(reader, dataset, rows, batch_size=batch_size)]
    return np.concatenate(parts) if parts else np.empty((0, len(reader.concepts)))


def known_truth(
    concepts: Sequence[Concept], dataset: Dataset, rows: np.ndarray, labels: pd.DataFrame | None = None
) -> np.ndarray:
    """``(n, k)`` 1 present, 0 absent, NaN unknown.

    Args:
        concepts: the ``k`` columns. One of a labelled attribute is known from the dataset's table, another from ``labels``.
        dataset: whose rows.
        rows: ``(n,)``.
        labels: a column a concept, a row an image *of the dataset*, in whatever order, by its number, the index of
            ``dataset.attributes`` (as ``phantom.hidden`` or ``nih.hidden``); a concept that has no column is unknown.

    Raises:
        ValueError: ``labels`` has not a row for each image, by its number, or a label is neither 0, 1 nor NaN.
    """
    if labels is not None:
        labels = _in_order(labels, dataset.attributes.index)
    table, unknown = dataset.attributes.iloc[rows], np.full(len(rows), np.nan)
    columns = []
    for concept in concepts:
        if labels is not None and concept.name in labels:
            columns.append(labels[concept.name].iloc[rows].to_numpy(dtype=float))
        elif concept.attribute in table:
            columns.append(concept.truth(table))
        else:
            columns.append(unknown)
    truth = np.column_stack(columns) if columns else np.empty((len(rows), 0))
    check_truth(truth, [concept.name for concept in concepts])
    return truth


def _in_order(labels: pd.DataFrame, images: pd.Index) -> pd.DataFrame:
    """One row an image, in the order of the images.

    Raises:
        ValueError: the rows are of other images, or it is not said of which.
    """
    if len(labels) != len(images):
        raise ValueError(
            f"The labels have {len(labels)} rows and the dataset {len(images)} images; give one row an image, "
            "NaN where nothing is known."
        )
    if labels.index.equals(images):
        return labels
    if not labels.index.is_unique or not labels.index.isin(images).all():
        strange = labels.index[~labels.index.isin(images) | labels.index.duplicated()]
        raise ValueError(
            f"The labels have the row {strange[0]!r}, which is not the number of one image: those are {images[0]!r} to "
            f"{images[-1]!r}, once each. If the rows are in the order of the images, pass labels.set_axis(dataset.attributes.index)."
        )
    return labels.loc[images]


def assess_reader(
    reader: Reader,
    dataset: Dataset,
    rows: np.ndarray,
    truth: np.ndarray | pd.DataFrame | None,
    graph: CausalGraph,
    *,
    shifts: Mapping[str, float] | None = None,
    batch_size: int = BATCH,
    seed: int = 0,
) -> ReaderQuality:
    """Let a reader read patients it was not fitted on, and judge it (:func:`~causal_cxr.readers.quality.assess`).

    A reader that is cross-fitted (:class:`~causal_cxr.readers.ProbeReader`) does not name the patients of its folds in
    ``fitted_on``: each is read by a head that has not seen them.

    Args:
        reader: to judge.
        dataset: with labels.
        rows: ``(n,)`` of it.
        truth: ``(n, k)`` 1 / 0 / NaN unknown; or labels of the whole dataset, or ``None`` (see :func:`known_truth`).
        graph: whose labelled attributes are looked at.
        shifts: of continuous attributes, as in the audit's contrasts.
        batch_size: images at a time.
        seed: see :func:`~causal_cxr.readers.quality.assess`.

    Raises:
        ValueError: the reader was fitted on patients of these rows; ``truth`` has another shape.
        UnreadableImages: some of the rows cannot be read.

    Warns:
        RuntimeWarning: it is not known whom the reader was fitted on.
    """
    rows = np.asarray(rows)
    refuse_seen(reader, dataset, rows)
    known = truth if isinstance(truth, np.ndarray) else known_truth(reader.concepts, dataset, rows, truth)
    if known.shape != (len(rows), len(reader.concepts)):
        raise ValueError(
            f"The truth has shape {known.shape}; {len(rows)} rows x {len(reader.concepts)} concepts are read. Give one row an "
            "image, one column a concept, NaN where nothing is known."
        )
    scores = read_rows(reader, dataset, rows, batch_size=batch_size)
    return assess(scores, known, dataset.attributes.iloc[rows], dataset.patients.iloc[rows], graph, reader.concepts,
                  shifts=shifts, seed=seed)  # fmt: skip


def refuse_seen(reader: Reader, dataset: Dataset, rows: np.ndarray) -> None:
    """Raise ValueError where a reader was fitted on patients of these rows, RuntimeWarning where nobody knows."""
    warn_of_unknown(reader)
    here = frozenset(dataset.patients.iloc[rows].astype(str))
    seen = sorted(here & (reader.fitted_on or frozenset()))
    if seen:
        raise ValueError(
            f"The reader {reader.name!r} was fitted on {len(seen)} of the {len(here)} patients of these rows, e.g. {seen[0]!r}; "
            "pass rows of other patients (split_patients), or a reader that is cross-fitted by patients (ProbeReader)."
        )


def warn_of_unknown(reader: Reader) -> None:
    """RuntimeWarning where nobody knows whom a reader was fitted on."""
    if not all_known(reader.fitted_on):
        warnings.warn(
            f"It is not known on which patients the reader {reader.name!r} was fitted; what is measured here may be too good.",
            RuntimeWarning,
            stacklevel=4,
        )
