"""``PerAttributeEditor``: each attribute is set by an editor of its own."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.patients import fitted_on_all
from causal_cxr.editors.editor import Abduction, Edit, Editor


@dataclass
class _Kept:
    """Images and seeds, and what the editors have made of them so far."""

    images: Tensor
    seeds: np.ndarray
    abductions: dict[str | None, Abduction] = field(default_factory=dict)


class PerAttributeEditor:
    """Sets each attribute by the editor that was fitted for it: one adapter an attribute (balanced fine-tuning).

    Which editor is asked follows from what differs between the factual and the target table, row by row. Where several
    attributes differ (an intervention and what follows from it), their editors come one after the other in the mapping's
    order, each inverting what the one before has drawn: give causes before effects. A row in which nothing differs, a null
    edit, says nothing of which attribute was meant: ``rest`` redraws it. To audit an attribute's editor against its own
    null edit, audit it under its own name.

    Args:
        editors: attribute -> editor that sets it.
        rest: sets all other attributes, last, and redraws null edits.

    Raises:
        ValueError: an editor cannot set its attribute.
    """

    def __init__(self, editors: Mapping[str, Editor], rest: Editor) -> None:
        unable = [name for name, editor in editors.items() if name not in editor.attributes]
        if unable:
            raise ValueError(f"The editors given for {unable} cannot set them; fit them to captions that name these.")
        self.editors, self.rest = dict(editors), rest
        all_of_them = [*self.editors.values(), rest]
        self.attributes = frozenset(self.editors) | rest.attributes
        kinds = {editor.semantics for editor in all_of_them}
        self.semantics: Literal["observational", "structural"] = (
            "structural" if kinds == {"structural"} else "observational"
        )
        self.fitted_on = fitted_on_all(editor.fitted_on for editor in all_of_them)

    @property
    def fingerprint(self) -> str:
        """Of all these editors."""
        parts = [f"{name}={editor.fingerprint}" for name, editor in self.editors.items()]
        return hashlib.sha256("|".join([*parts, self.rest.fingerprint]).encode()).hexdigest()[:16]

    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        """Keep the images: each editor inverts them when it is first asked, and once."""
        return Abduction(attributes, _Kept(images, np.asarray(seeds)))

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        """Set what differs; a rejection by any of the editors rejects the image."""
        kept: _Kept = abduction.state
        factual, evaluations = abduction.factual, 0
        differs = {name: _differs(factual[name], target[name]) for name in target if name in factual}
        strange = sorted(str(name) for name, rows in differs.items() if rows.any() and name not in self.attributes)
        if strange:
            raise ValueError(f"No editor here sets {strange}; there are editors for {sorted(self.attributes)}.")
        others = [rows for name, rows in differs.items() if name not in self.editors]
        anything = np.logical_or.reduce([np.zeros(len(target), dtype=bool), *differs.values()])
        by_rest = np.logical_or.reduce([~anything, *others])
        stages: list[tuple[str | None, Editor, np.ndarray]] = [
            (name, editor, differs.get(name, np.zeros_like(anything))) for name, editor in self.editors.items()
        ]
        images, now = kept.images.clone(), factual.copy()
        accepted, reasons = np.ones(len(target), dtype=bool), [""] * len(target)
        untouched = True
        for name, editor, rows in [*stages, (None, self.rest, by_rest)]:
            if not rows.any():
                continue
            aim = target if name is None else now.assign(**{name: target[name]})
            if untouched:
                if name not in kept.abductions:
                    kept.abductions[name] = editor.abduct(kept.images, factual, seeds=kept.seeds)
                    evaluations += kept.abductions[name].evaluations
                inverted = kept.abductions[name]
            else:
                inverted = editor.abduct(images, now, seeds=kept.seeds)
                evaluations += inverted.evaluations
            edit = editor.edit(inverted, aim[list(target.columns)], phrasing=phrasing, strength=strength)
            evaluations += edit.evaluations
            images[torch.as_tensor(rows)] = edit.images[torch.as_tensor(rows)]
            now, untouched = aim, False
            accepted &= edit.accepted | ~rows
            for i in np.flatnonzero(rows):
                reasons[i] = reasons[i] or edit.reasons[i]
        return Edit(images, accepted, tuple(reasons), evaluations)


def _differs(one: pd.Series, other: pd.Series) -> np.ndarray:
    a: Any = one.astype(object).to_numpy()
    b: Any = other.astype(object).to_numpy()
    return ~((a == b) | (one.isna().to_numpy() & other.isna().to_numpy()))
