"""Looking at edited images while they are at hand: what is kept of the pixels, image by image, once they are gone.

Numbers of each image, so that a limit can be told by group of patients, with an interval: changes
(:mod:`causal_cxr.audits.changes`), likeness (:mod:`causal_cxr.audits.likeness`), cycles (:mod:`causal_cxr.audits.cycles`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.audits.changes import (
    GUARDED,
    REST,
    Box,
    another_patient,
    box_mask,
    guarded_regions,
    image_changes,
)
from causal_cxr.audits.likeness import described, identities, suspicions, unexplained
from causal_cxr.editors.editor import Edit
from causal_cxr.graphs import Contrast
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.features import OrientedGradients
from causal_cxr.readers.measure.lettering import text_likeness

#: ``alone``: no other attribute moves along.
ABOUT = ("row", "patient", "contrast", "attribute", "kind", "orientation", "accepted")
CHANGES = (*ABOUT, "alone", "size", "beyond", "changed", *GUARDED, REST, "inside", "outside", "lettering", "another")
CYCLES = ("row", "patient", "contrast", "attribute", "orientation", "test", "cycles", "distance", "edit")
LIKENESS = ("row", "patient", "contrast", "attribute", "kind", "made", "to_own", "to_nearest", "to_others", "to_same",
            "recognised", "suspicion", "stratum")  # fmt: skip
DOSES = ("editor", *ABOUT, "along", "dose", "beyond", "step")
STORED = np.float16  #: features lie in [0, 1]


@dataclass(frozen=True)
class Looks:
    """What was seen of an audit's images themselves, for its editors' limits; empty where nothing was tried.

    Attributes:
        changes: a row an edited image and edit, null or total (where it applies): what
            :func:`~causal_cxr.audits.changes.image_changes` says of it (of null edits against the factual image),
            ``lettering`` of some (how much longer or shorter lines of letters are than after the null edit, as a fraction of
            the side), and of null edits ``another``, the distance to another patient's image.
        cycles: a row an image, ``test`` (``composition``, ``reversibility``) and number of cycles; ``distance`` to the factual
            image at the end, and ``edit`` that of the edit itself.
        likeness: a row an image and edit, null or total, ``made``, and a row an unedited image for each contrast that it is
            compared with: whom it looks like (:func:`~causal_cxr.audits.likeness.identities`) and how much it looks made
            (:func:`~causal_cxr.audits.likeness.suspicions`).
        doses: as measurements, of kind ``dose``: ``along`` ``strength`` or ``attribute``, the ``dose`` (1 = the edit as it is
            measured; 0 = the null edit), mean absolute change ``beyond`` the null edit, and ``step``, that from the edit at
            dose 1.
        refused: editor -> trial -> what the editor said in refusing it.
    """

    changes: pd.DataFrame
    cycles: pd.DataFrame
    likeness: pd.DataFrame
    doses: pd.DataFrame
    refused: Mapping[str, Mapping[str, str]]


def differing(a: pd.DataFrame, b: pd.DataFrame) -> np.ndarray:
    """``(n, columns of b)`` bool: where tables of the same rows and types differ; missing equals missing."""
    columns = []
    for name in b.columns:
        x, y = a[name], b[name]
        columns.append((x.to_numpy() != y.to_numpy()) & ~(x.isna() & y.isna()).to_numpy())
    return np.column_stack(columns)


class Looking:
    """Looks at one shard's images, contrast by contrast.

    Args:
        rows, patients: ``(n,)`` of the shard's images.
        images: ``(n, 1, h, w)`` factual.
        null: their null edit.
        concepts: of all readers: their regions say where attributes (and, without an attribute, burnt-in marks) show.
        featured: positions in the shard of images whose features are kept.
        lettered: positions of images whose lettering is looked for, which is slow.
    """

    def __init__(
        self, rows: np.ndarray, patients: np.ndarray, images: Tensor, null: Edit, concepts: Sequence[Concept],
        featured: np.ndarray, lettered: np.ndarray,
    ) -> None:  # fmt: skip
        self._rows, self._patients, self._images, self._null = rows, patients, images, null
        self._featured, self._lettered, self._oriented = featured, lettered, OrientedGradients()
        placed = {(concept.attribute, concept.region) for concept in concepts if concept.region is not None}
        self._places: dict[str | None, list[Box]] = {}
        for attribute, region in sorted(placed, key=str):
            assert region is not None
            self._places.setdefault(attribute, []).append(region)
        self._guarded = guarded_regions(images.shape[-2], images.shape[-1], self._places.get(None, ()))
        self._letters = text_likeness(null.images[torch.as_tensor(lettered)]).double().numpy()
        everyone = np.arange(len(rows))
        found = image_changes(null.images, images, images, self._guarded) | {"beyond": np.full(len(rows), np.nan)}
        found["another"] = another_patient(images, patients)
        frame = self._frame(everyone, found, "", "", "null", np.zeros(len(rows)), null)
        self._frames = [frame.assign(alone=True)]
        self._arrays: dict[str, np.ndarray] = {}
        if len(featured):
            self._arrays = {"rows": rows[featured], "factual": self._features(images, featured),
                            "null": self._features(null.images, featured)}  # fmt: skip

    def at(
        self, contrast: Contrast, orientation: np.ndarray, factual: pd.DataFrame, total: pd.DataFrame, edit: Edit
    ) -> None:
        """Look at one contrast's edits, of the images to which it applies.

        Args:
            contrast: that was carried out.
            orientation: ``(n,)`` of the shard's images, 0 where it does not apply.
            factual, total: ``n`` rows, attributes as they are and as they were asked for.
            edit: the answer.
        """
        at = np.flatnonzero(orientation)
        if not len(at):
            return
        chosen = torch.as_tensor(at)
        moves = differing(factual, total)
        moved = [name for name, some in zip(total.columns, moves.T, strict=True) if some.any()]
        boxes = [self._places.get(name, []) for name in moved]
        own = None
        if boxes and all(boxes):  # the place of everything that moves is declared
            own = box_mask(edit.images.shape[-2], edit.images.shape[-1], [box for some in boxes for box in some])
        images = (edit.images[chosen], self._null.images[chosen], self._images[chosen])
        found = image_changes(*images, self._guarded, own)
        letters = text_likeness(edit.images[torch.as_tensor(np.intersect1d(at, self._lettered))]).double().numpy()
        here = np.isin(at, self._lettered)
        found["lettering"] = np.full(len(at), np.nan)
        found["lettering"][here] = np.abs(letters - self._letters[np.isin(self._lettered, at)])
        frame = self._frame(at, found, contrast.name, contrast.attribute, "total", orientation[at], edit)
        others = np.flatnonzero(total.columns != contrast.attribute)
        self._frames.append(frame.assign(alone=np.logical_not(moves[at][:, others].any(axis=1))))
        featured = np.intersect1d(at, self._featured)
        if len(featured):
            self._arrays[f"rows of {contrast.name}"] = self._rows[featured]
            self._arrays[f"total of {contrast.name}"] = self._features(edit.images, featured)

    def seen(self) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        """``changes`` of a :class:`Looks`, and features for :func:`likeness`."""
        return pd.concat(self._frames, ignore_index=True).reindex(columns=list(CHANGES)), self._arrays

    def _features(self, images: Tensor, at: np.ndarray) -> np.ndarray:
        return self._oriented.features(images[torch.as_tensor(at)]).numpy().astype(STORED)

    def _frame(
        self, at: np.ndarray, found: Mapping[str, np.ndarray], contrast: str, attribute: str, kind: str,
        orientation: np.ndarray, edit: Edit,
    ) -> pd.DataFrame:  # fmt: skip
        about = {
            "row": self._rows[at].astype(np.int64), "patient": self._patients[at], "contrast": contrast,
            "attribute": attribute, "kind": kind, "orientation": orientation.astype(np.int8),
            "accepted": edit.accepted[at],
        }  # fmt: skip
        return pd.DataFrame(about | {name: values.astype(np.float32) for name, values in found.items()})


def likeness(
    features: Mapping[str, np.ndarray], patients: pd.Series, factual: pd.DataFrame,
    asked: Mapping[str, tuple[str, pd.DataFrame]], *, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """``likeness`` of a :class:`Looks`, from the features of all shards.

    Args:
        features: of :meth:`Looking.seen`, shards one after the other.
        patients: of the dataset.
        factual: the attributes as they are of the rows looked at, index = row.
        asked: contrast -> attribute, and the attributes asked for, index = row.
        seed: of the classifier's folds.
    """
    if "rows" not in features:
        return pd.DataFrame(columns=list(LIKENESS))
    rows, real = features["rows"], features["factual"].astype(np.float32)
    whose = patients.iloc[rows].astype(str).to_numpy()
    position = pd.Series(np.arange(len(rows)), index=rows)
    frames = []
    for contrast in ("", *asked):
        if contrast and f"rows of {contrast}" not in features:
            continue
        mine = features[f"rows of {contrast}"] if contrast else rows
        made = features[f"total of {contrast}" if contrast else "null"].astype(np.float32)
        own, attribute, target = position[mine].to_numpy(), "", factual.loc[mine]
        if contrast:
            attribute, asked_for = asked[contrast]
            target = asked_for.loc[mine]
        shown = described(pd.concat([factual.loc[rows, list(target.columns)], target], ignore_index=True))
        is_made = np.arange(len(rows) + len(mine)) >= len(rows)
        both, everyone = np.concatenate([real, made]), np.concatenate([whose, whose[own]])
        found = suspicions(both, is_made, everyone, shown if contrast else None, seed=seed)
        apart = unexplained(both, shown, ~is_made)
        about = pd.DataFrame({
            "row": np.concatenate([rows, mine]), "patient": everyone, "contrast": contrast,
            "attribute": attribute, "kind": np.where(is_made, "total" if contrast else "null", "factual"), "made": is_made,
        })  # fmt: skip
        alike = identities(apart[is_made], whose[own], apart[~is_made], whose, own).set_axis(np.flatnonzero(is_made))
        frames.append(pd.concat([about, alike, found], axis=1))
    return pd.concat(frames, ignore_index=True)[list(LIKENESS)]
