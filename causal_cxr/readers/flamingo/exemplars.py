"""Exemplars: a few labelled images that say what a sign looks like."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from causal_cxr.data.dataset import Dataset


@dataclass(frozen=True)
class Exemplars:
    """Images with and without a sign, in the order in which they are shown.

    Attributes:
        images: ``(k, 1, h, w)`` in [0, 1]; kept in half precision, as they are saved.
        answers: ``k`` of whether the sign shows.
        patients: whose images they are, so that an audit leaves them out; ``None`` = unknown.

    Raises:
        ValueError: images and answers are not equally many.
    """

    images: Tensor
    answers: tuple[bool, ...]
    patients: frozenset[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", self.images.detach().cpu().half())
        object.__setattr__(self, "answers", tuple(bool(a) for a in self.answers))
        if self.images.ndim != 4 or len(self.images) != len(self.answers):
            raise ValueError(
                f"Exemplars are (k, 1, h, w) images with k answers, got {tuple(self.images.shape)} and "
                f"{len(self.answers)} answers."
            )

    @property
    def fingerprint(self) -> str:
        """Of images, answers and their order."""
        return hashlib.sha256(self.images.numpy().tobytes() + bytes(self.answers)).hexdigest()[:16]

    def shuffled(self, rng: np.random.Generator) -> "Exemplars":
        """The same in another order."""
        order = rng.permutation(len(self.answers))
        return Exemplars(self.images[torch.as_tensor(order)], tuple(self.answers[i] for i in order), self.patients)


def choose_exemplars(dataset: Dataset, rows: np.ndarray, truth: np.ndarray, k: int, *, seed: int = 0) -> Exemplars:
    """Half with the sign, half without, one image a patient, in random order.

    Args:
        dataset: of the images.
        rows: ``(n,)`` labelled rows.
        truth: ``(n,)`` 1 / 0 / NaN unknown, of these rows.
        k: how many; one more without the sign if odd.
        seed: of choice and order.

    Raises:
        ValueError: rows and labels do not fit; too few patients with the sign or without.
    """
    rows, truth = np.asarray(rows), np.asarray(truth, dtype=float)
    if rows.shape != truth.shape or k < 0:
        raise ValueError(f"Give one label a row and k of 0 or more; got {len(rows)} rows, {truth.shape} labels, k={k}.")
    rng = np.random.default_rng([seed, 5])
    patients = dataset.patients.astype(str).to_numpy()
    taken: set[str] = set()
    chosen: list[tuple[int, bool]] = []
    for present, many in ((True, k // 2), (False, k - k // 2)):
        found: list[tuple[int, bool]] = []
        for row in rng.permutation(rows[truth == float(present)]):
            if len(found) < many and patients[row] not in taken:
                taken.add(patients[row])
                found.append((int(row), present))
        if len(found) < many:
            raise ValueError(
                f"{k} exemplars need {many} patients {'with' if present else 'without'} the sign; the labelled rows have "
                f"{len(found)}. Label more, or pass a smaller k."
            )
        chosen += found
    chosen = [chosen[i] for i in rng.permutation(len(chosen))]
    if not chosen:
        return Exemplars(torch.zeros(0, 1, 1, 1), (), frozenset())
    images = dataset.images(np.array([row for row, _ in chosen]))
    return Exemplars(images, tuple(answer for _, answer in chosen), frozenset(taken))
