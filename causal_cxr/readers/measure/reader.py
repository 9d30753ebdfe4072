"""``MeasureReader``: plain measurements as a reader."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.patients import pack, unpack
from causal_cxr.data.splits import batches
from causal_cxr.data.whole_file import whole_file, write_json
from causal_cxr.readers.calibration import Calibration, calibrated_on
from causal_cxr.readers.concepts import Concept, concept_from_dict
from causal_cxr.readers.images import check_images
from causal_cxr.readers.measure.measures import MEASURES
from causal_cxr.readers.quality import ReaderQuality

READER = "reader.json"
BATCH = 64
FEWEST = 20  #: reference images under which a rank says little


class MeasureReader:
    """A score is the share of reference images that measure less: 0.5 is usual, 0.95 more than in 19 of 20.

    Nothing is trained and no label is seen, so that no network's bias can be shared; but another reader of the same measure, with
    whatever reference, is no second witness. :meth:`measure` has the numbers in their units. With :meth:`calibrated`, a measure becomes the reader of a labelled concept.

    Where a measure cannot be taken (an even image has no heart), the score is that of an image that measures as is usual, the
    rank 0.5: it says nothing, and it is no measurement. ``measure(images).isna()`` says where.

    Args:
        reference: measure -> what the reference images measured, NaN where it could not be taken. Which measures there are:
            :data:`~causal_cxr.readers.measure.MEASURES`.
        concepts: measure -> what it is taken to read; those of its own name unless given.
        calibration: of the log odds of the rank, by concept; unless given, a score is the rank.
        name: of this reader in an audit.
        fitted_on: patients of the reference and of the calibration.
        quality: on other patients.

    Raises:
        ValueError: an unknown measure, none at all, or one with too few reference images.
    """

    def __init__(
        self,
        reference: Mapping[str, np.ndarray],
        *,
        concepts: Mapping[str, Concept] | None = None,
        calibration: Calibration | None = None,
        name: str = "measure",
        fitted_on: frozenset[str] | None = None,
        quality: ReaderQuality | None = None,
    ) -> None:
        self.measures = self.rules = _known(reference)
        values = {name: np.asarray(reference[name], dtype=np.float64) for name in self.measures}
        self.reference = {name: np.sort(found[~np.isnan(found)]) for name, found in values.items()}
        few = {name: len(found) for name, found in self.reference.items() if len(found) < FEWEST}
        if few:
            raise ValueError(f"A rank among so few reference images says little: {few}; give {FEWEST} or more of each.")
        given = dict(concepts or {})
        if set(given) - set(self.measures):
            raise ValueError(f"concepts= names {sorted(set(given) - set(self.measures))}; measured is {self.measures}.")
        self.concepts = tuple(given.get(name) or measure_concept(name) for name in self.measures)
        self.names = [concept.name for concept in self.concepts]
        self.calibration, self.name, self.fitted_on = calibration, name, fitted_on
        self.quality = quality or ReaderQuality.unknown(self.concepts)
        digest = hashlib.sha256(f"{self.measures}|{self.names}".encode())
        for found in self.reference.values():
            digest.update(found.tobytes())
        digest.update(b"" if calibration is None else calibration.digest(self.names))
        self.fingerprint = digest.hexdigest()[:16]

    @classmethod
    def from_reference(
        cls, dataset: Dataset, rows: np.ndarray, *, measures: Iterable[str] = tuple(MEASURES), name: str = "measure"
    ) -> "MeasureReader":
        """A reader that knows how much is usual in these images.

        Args:
            dataset: read once, in batches.
            rows: ``(n,)``, 20 or more, of the kind of images that will be read, at the size at which they will be.
            measures: which.
            name: see the class.

        Raises:
            ValueError: an unknown measure; too few images.
            UnreadableImages: some cannot be read.
        """
        rows, chosen = np.asarray(rows), _known(measures)
        parts = [_measured(dataset.images(part), chosen) for part in batches(rows, BATCH)]
        table = pd.concat(parts) if parts else pd.DataFrame(columns=list(chosen), dtype=float)
        patients = frozenset(dataset.patients.iloc[rows].astype(str))
        return cls({measure: table[measure].to_numpy() for measure in chosen}, name=name, fitted_on=patients)

    def measure(self, images: Tensor) -> pd.DataFrame:
        """One row an image, one column a measure, in its unit; NaN where it cannot be taken.

        Args:
            images: ``(n, 1, h, w)`` in [0, 1], any h and w.

        Raises:
            ValueError: see :func:`~causal_cxr.readers.images.check_images`.
        """
        return _measured(images, self.measures)

    def features(self, images: Tensor) -> Tensor:
        """``(n, k)`` measures in units of the reference's spread about its median: frozen features for probes."""
        table, columns = self.measure(images), []
        for name, reference in self.reference.items():
            spread = float(reference.std()) or 1.0
            columns.append(np.nan_to_num((table[name].to_numpy() - np.median(reference)) / spread))
        return torch.as_tensor(np.column_stack(columns), dtype=torch.float32)

    def margins(self, images: Tensor) -> Tensor:
        """``(n, k)`` log odds of the rank among the reference images, ties in the middle; 0 where it cannot be taken."""
        return self._log_odds(images).nan_to_num()

    def _log_odds(self, images: Tensor) -> Tensor:
        """The same, NaN where it cannot be taken."""
        table, columns = self.measure(images), []
        for name, reference in self.reference.items():
            found = table[name].to_numpy()
            below, up_to = (np.searchsorted(reference, found, side) for side in ("left", "right"))
            # half an image on either side: more than all of the reference is much, not certain
            rank = ((below + up_to) / 2 + 0.5) / (len(reference) + 1)
            columns.append(np.where(np.isnan(found), np.nan, np.log(rank / (1 - rank))))
        return torch.as_tensor(np.column_stack(columns), dtype=torch.float32)

    def read(self, images: Tensor, patients: Any = None) -> Tensor:
        """``(n, k)`` scores in [0, 1]; ``patients`` make no difference.

        Where a measure cannot be taken: 0.5, or once calibrated what the calibration makes of the rank 0.5.
        """
        margins = self.margins(images)
        return torch.sigmoid(margins) if self.calibration is None else self.calibration(margins, self.names)

    def calibrated(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        truth: np.ndarray,
        concepts: Mapping[str, Concept],
        *,
        method: str = "platt",
    ) -> "MeasureReader":
        """The named measures alone, as calibrated readers of labelled concepts; quality is to be judged on other patients.

        Args:
            dataset: with the images.
            rows: ``(n,)`` labelled rows; each patient counts once. An image of which a measure cannot be taken calibrates
                nothing.
            truth: ``(n, len(concepts))`` 1 / 0 / NaN unknown.
            concepts: measure -> the concept that more of it speaks for, in the order of the truth's columns.
            method: ``"platt"``, ``"temperature"`` or ``"isotonic"``.

        Raises:
            ValueError: a measure that this reader does not take; a truth of another shape; see also :meth:`Calibration.fit`.
            UnreadableImages: some cannot be read.

        Warns:
            UserWarning: a measure cannot be taken of some labelled images.
        """
        lacking = [measure for measure in concepts if measure not in self.measures]
        if lacking:
            raise ValueError(f"This reader does not measure {lacking}; it measures {list(self.measures)}.")
        reference = {measure: self.reference[measure] for measure in concepts}
        plain = MeasureReader(reference, concepts=concepts, name=self.name, fitted_on=self.fitted_on)
        seen = self.fitted_on
        known = np.array(truth, dtype=float)
        if known.shape != (len(rows), len(concepts)):
            raise ValueError(
                f"The truth has shape {known.shape}; give ({len(rows)}, {len(concepts)}): one row an image, one column a concept."
            )
        labels = iter(
            np.split(known, range(BATCH, len(known), BATCH))
        )  # views, in step with the batches that are measured

        def margins(images: Tensor) -> Tensor:
            found = plain._log_odds(images)
            next(labels)[found.isnan().numpy()] = np.nan  # a rank of 0.5 that stands for "not taken" is no evidence
            return found.nan_to_num()

        made = calibrated_on(margins, plain.names, dataset, rows, known, method, seen, batch_size=BATCH)
        lost = {
            name: int(n) for name, n in zip(concepts, (np.isnan(known) & ~np.isnan(truth)).sum(0), strict=True) if n
        }
        if lost:
            warnings.warn(
                f"Labelled images of which a measure cannot be taken calibrate nothing: {lost}.", stacklevel=2
            )
        return MeasureReader(reference, concepts=concepts, name=self.name, **made)

    def save(self, folder: str | Path) -> Path:
        """Write ``model.safetensors`` (the reference) and ``reader.json``."""
        from safetensors.numpy import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "name": self.name,
            "measures": list(self.measures),
            "concepts": [asdict(concept) for concept in self.concepts],
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "fitted_on": pack(self.fitted_on),
            "quality": self.quality.to_dict(),
            "renderer_version": None,
        }
        with whole_file(folder / "model.safetensors") as partial:
            save_file(dict(self.reference), partial)
        write_json(folder / READER, content)
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "MeasureReader":
        """Load what :meth:`save` wrote.

        Raises:
            FileNotFoundError: nothing was saved there.
        """
        from safetensors.numpy import load_file

        folder = Path(folder)
        if not (folder / READER).is_file():
            raise FileNotFoundError(f"{folder} has no {READER}; save a reader there with MeasureReader.save(folder).")
        content = json.loads((folder / READER).read_text())
        arrays = load_file(folder / "model.safetensors")
        concepts = map(concept_from_dict, content["concepts"])
        return cls(
            {measure: arrays[measure] for measure in content["measures"]},
            concepts=dict(zip(content["measures"], concepts, strict=True)),
            calibration=None if content["calibration"] is None else Calibration.from_dict(content["calibration"]),
            name=content["name"],
            fitted_on=unpack(content["fitted_on"]),
            quality=ReaderQuality.from_dict(content["quality"]),
        )


def measure_concept(name: str) -> Concept:
    """The concept "much of it" of a measure, under the measure's own name."""
    measure = MEASURES[name]
    return Concept(name, (measure.much,), (measure.little,))


def _known(measures: Iterable[str]) -> tuple[str, ...]:
    chosen = tuple(measures)
    unknown = [name for name in chosen if name not in MEASURES]
    if unknown or not chosen:
        raise ValueError(f"There is no measure {unknown}; choose some of {list(MEASURES)}.")
    return chosen


def _measured(images: Tensor, measures: Iterable[str]) -> pd.DataFrame:
    check_images(images)
    return pd.DataFrame({name: MEASURES[name].function(images).double().numpy() for name in measures})
