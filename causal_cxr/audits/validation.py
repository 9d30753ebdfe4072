"""Judging an editor while it is fitted: what is asked of it, and what it changes unasked, as readers see it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from causal_cxr.audits.plans import NULL_PHRASING
from causal_cxr.data.dataset import Dataset
from causal_cxr.data.splits import batches
from causal_cxr.editors.editor import Editor
from causal_cxr.graphs import CausalGraph, Contrast
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.reader import Reader

SURE = 0.5  #: a slope that may lie below this share of what it is said to be tells no effectiveness


class Validation:
    """Effectiveness and leak on held-out patients: what :func:`causal_cxr.editors.finetune.finetune` is watched by.

    Each contrast is carried out alone, every other attribute held, and compared with the null edit. Of attribute A,
    *effectiveness* is the change read over the change asked for (least squares over the images; ideal 1); *leak* is the mean
    change read of each other attribute, over that asked of A (ideal 0: held attributes truly do not move). Changes are
    divided by the reader's slope where it is known, each concept read by the reader that reads it best.

    Args:
        readers: whose concepts name labelled attributes.
        dataset: with images of patients that neither the editor nor the readers were fitted on.
        rows: of these.
        graph: of the attributes.
        contrasts: to carry out; of an editor that cannot set one's attribute it is passed over.
        batch_size: images at a time.
        seed: of the abductions.

    Raises:
        ValueError: no reader reads the attribute of a contrast; a reader was fitted on these patients.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        dataset: Dataset,
        rows: np.ndarray,
        graph: CausalGraph,
        contrasts: Sequence[Contrast],
        *,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        self.dataset, self.rows, self.graph = dataset, np.asarray(rows), graph
        self.contrasts, self.batch_size, self.seed = tuple(contrasts), batch_size, seed
        self.readers, self.read_by = tuple(readers), _best(readers, graph)
        self.patients = frozenset(dataset.patients.iloc[self.rows].astype(str))
        unread = sorted({c.attribute for c in contrasts} - {c.attribute for c, *_ in self.read_by if c.attribute})
        if unread:
            raise ValueError(f"No reader reads {unread}; pass one with concepts of them, or leave their contrasts out.")
        self.told = frozenset(
            str(concept.attribute) for concept, _, _, slope, low in self.read_by if low >= SURE * slope
        )  #: attributes that are read well enough to tell how far an edit of them goes
        for reader in readers:
            self._check_unseen(f"reader {reader.name!r}", reader.fitted_on)

    def __call__(self, editor: Editor, *, attributes: Collection[str] | None = None) -> Mapping[str, float]:
        """``effectiveness`` and ``leak``, means over attributes and pairs of them (an overshoot counts as 1);
        ``leak_worst``; and ``effectiveness_A``, ``leak_A`` of each attribute.

        Args:
            editor: to judge.
            attributes: whose contrasts are carried out; all unless given.

        Raises:
            ValueError: the editor was fitted on these patients, or can carry out none of the contrasts.
        """
        self._check_unseen("editor", editor.fitted_on)
        asked = editor.attributes if attributes is None else editor.attributes & frozenset(attributes)
        contrasts = [c for c in self.contrasts if c.attribute in asked]
        if not contrasts:
            raise ValueError(f"The editor sets {sorted(editor.attributes)}: none of the contrasts' attributes.")
        moved = {c.name: self._moved(c) for c in contrasts}
        read: dict[str, list[np.ndarray]] = {c.name: [] for c in contrasts}
        for part in batches(np.arange(len(self.rows)), self.batch_size):
            rows = self.rows[part]
            factual = self.dataset.attributes.iloc[rows]
            abduction = editor.abduct(self.dataset.images(rows), factual, seeds=self.seed + rows)
            null = self._read(editor.edit(abduction, factual, phrasing=NULL_PHRASING).images, rows)
            for contrast in contrasts:
                target = factual.assign(**{contrast.attribute: moved[contrast.name][0].iloc[part]})
                read[contrast.name].append(self._read(editor.edit(abduction, target).images, rows) - null)
        effects: dict[str, list[float]] = {}
        leaks: dict[str, list[float]] = {}
        for contrast in contrasts:
            effect, leak = self._judged(contrast, *moved[contrast.name], np.concatenate(read[contrast.name]))
            effects.setdefault(contrast.attribute, []).extend(effect)
            leaks.setdefault(contrast.attribute, []).extend(leak)
        numbers = {f"effectiveness_{name}": float(np.mean(values)) for name, values in effects.items() if values}
        if not numbers:
            raise ValueError("No contrast changes what is read of any of these images; validate on more, or others.")
        every = [value for values in leaks.values() for value in values] or [0.0]
        return {
            "effectiveness": float(np.mean([min(value, 1.0) for value in numbers.values()])),
            "leak": float(np.mean(every)),
            "leak_worst": float(np.max(every)),
            **numbers,
            **{f"leak_{name}": float(np.mean(values)) for name, values in leaks.items() if values},
        }

    def _moved(self, contrast: Contrast) -> tuple[pd.Series, np.ndarray]:
        """New values of the rows, and the direction of each move."""
        values = self.dataset.attributes[contrast.attribute]
        new, sign = contrast.apply(self.graph.attributes[contrast.attribute], values)
        return new.iloc[self.rows], sign[self.rows]

    def _judged(
        self, contrast: Contrast, new: pd.Series, sign: np.ndarray, change: np.ndarray
    ) -> tuple[list[float], list[float]]:
        """Effectiveness by each concept of the attribute, leak into each concept of the others."""
        table, applies = self.dataset.attributes.iloc[self.rows], sign != 0
        target, name = table.assign(**{contrast.attribute: new}), contrast.attribute
        effects, asked_of = [], []
        for j, (concept, *_) in enumerate(self.read_by):
            if concept.attribute == name:
                asked = np.nan_to_num(concept.truth(target) - concept.truth(table))[applies]
                if asked.any():
                    effects.append(float(asked @ change[applies, j] / (asked @ asked)))
                    asked_of.append(float(np.abs(asked).mean()))
        if not effects:
            return [], []
        oriented = sign[applies, None] * change[applies]
        others = [j for j, (concept, *_) in enumerate(self.read_by) if concept.attribute != name]
        return effects, [float(abs(oriented[:, j].mean()) / np.mean(asked_of)) for j in others]

    def _read(self, images: torch.Tensor, rows: np.ndarray) -> np.ndarray:
        """``(n, k)`` of the concepts of attributes, on their own scale."""
        patients = self.dataset.patients.iloc[rows].astype(str).tolist()
        scores = [reader.read(images, patients).numpy().astype(float) for reader in self.readers]
        return np.stack([scores[i][:, j] / slope for _, i, j, slope, _ in self.read_by], axis=1)

    def _check_unseen(self, who: str, fitted_on: frozenset[str] | None) -> None:
        seen = sorted(self.patients & (fitted_on or frozenset()))
        if seen:
            raise ValueError(
                f"The {who} was fitted on {len(seen)} of the {len(self.patients)} validation patients, e.g. {seen[0]!r}; "
                "hold them out (split_patients)."
            )


def _best(readers: Sequence[Reader], graph: CausalGraph) -> list[tuple[Concept, int, int, float, float]]:
    """Each concept of a labelled attribute: the reader that reads it best, its column there, the reader's slope, and what that is at least."""
    best: dict[str, tuple[float, Concept, int, int, float, float]] = {}
    for i, reader in enumerate(readers):
        for j, concept in enumerate(reader.concepts):
            if concept.attribute not in graph.labelled:
                continue
            known: Any = reader.quality.concepts.loc[concept.name]
            low, slope = float(known["slope_low"]), float(known["slope"])
            merit = low if low > 0 else -np.inf
            if concept.name not in best or merit > best[concept.name][0]:
                best[concept.name] = (merit, concept, i, j, *((slope, low) if low > 0 else (1.0, 0.0)))
    return [found[1:] for found in best.values()]
