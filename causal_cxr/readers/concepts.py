"""Concepts: what a reader looks for, with the phrases that name it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.data.phantom.world import World
from causal_cxr.graphs import Value


@dataclass(frozen=True)
class Concept:
    """A candidate hidden attribute, or a labelled attribute's own appearance.

    Attributes:
        name: unique in an audit.
        positive: phrases for "it shows"; an ensemble.
        negative: phrases for "it does not".
        region: (top, left, bottom, right) as fractions of the image, where it usually shows; ``None`` = anywhere.
        control: a negative control; nothing should move it.
        attribute: the labelled attribute it reads (for effectiveness and leak); ``None``: a candidate hidden one.
        level: with ``attribute``: the score is P(attribute == level).
        above: with a continuous ``attribute``: the score is P(attribute > above).
        group: the kind of thing it is, as "devices" or "technique"; ``None`` = not said.
        consequence: whether disease or its treatment can bring it about, as effusion does a chest drain: then that an
            edited disease moves it may be medicine; else it is a shortcut of the collection. ``None`` = not said.
        synonyms: what it is called, the usual word first.
        sources: where it is defined or labelled, as ``"PadChest: pacemaker"``.

    Raises:
        ValueError: no phrase of one kind, a phrase of both, a region outside the image, or an attribute without
            ``level`` or ``above``.
    """

    name: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    region: tuple[float, float, float, float] | None = None
    control: bool = False
    attribute: str | None = None
    level: Value | None = None
    above: float | None = None
    group: str | None = None
    consequence: bool | None = None
    synonyms: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("positive", "negative", "synonyms", "sources"):
            given = getattr(self, field)
            if isinstance(given, str):
                raise ValueError(f"Concept {self.name!r} has one text for {field}; write ({given!r},).")
            object.__setattr__(self, field, tuple(given))
        for field in ("positive", "negative"):
            if not getattr(self, field):
                raise ValueError(f"Concept {self.name!r} has no {field} phrase; give at least one.")
        both = set(self.positive) & set(self.negative)
        if both:
            raise ValueError(f"Concept {self.name!r} has {min(both)!r} as a positive and as a negative phrase.")
        if self.region is not None:
            top, left, bottom, right = self.region
            if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
                raise ValueError(
                    f"Concept {self.name!r} has the region {list(self.region)}; give [top, left, bottom, right] as "
                    "fractions of the image, top < bottom and left < right."
                )
        if self.attribute is not None and (self.level is None) == (self.above is None):
            raise ValueError(f"Concept {self.name!r} reads {self.attribute!r}: give either level=... or above=....")

    def truth(self, table: pd.DataFrame) -> np.ndarray:
        """``(n,)`` 1.0 present, 0.0 absent, NaN unknown, from the column that this concept is about.

        Raises:
            ValueError: the column has no such level, so that every image would count as absent.
        """
        column = table[self.attribute or self.name]
        if self.attribute is None:
            return column.to_numpy(dtype=float)
        if self.level is not None and isinstance(column.dtype, pd.CategoricalDtype):
            levels = column.cat.categories
            if self.level not in levels:
                raise ValueError(
                    f"Concept {self.name!r} reads {self.attribute!r} at the level {self.level!r}, which it has not; it has "
                    f"{levels.tolist()}. Write level= as the graph does."
                )
        values = column > self.above if self.above is not None else column == self.level
        return np.where(column.isna(), np.nan, values.astype(float))


def concept_from_dict(entry: Mapping[str, Any]) -> Concept:
    """A concept from ``dataclasses.asdict`` by way of JSON, where tuples have become lists.

    Fields that were not yet there when it was written may be missing.

    Raises:
        ValueError: it has a field that this version does not know.
    """
    unknown = sorted(set(entry) - {field.name for field in fields(Concept)})
    if unknown:
        raise ValueError(
            f"Concept {entry.get('name')!r} has {unknown}, which this version does not know; it was written by a newer "
            "one: update causal_cxr."
        )
    content: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
    return Concept(**content)


def load_concepts(
    names: Iterable[str] | None = None, bank: str | Path | Sequence[str | Path] = "phantom"
) -> tuple[Concept, ...]:
    """Concepts of a bank.

    Args:
        names: which, in this order; all unless given.
        bank: ``"phantom"`` (what shows in the phantoms, in the words of their reports), ``"radiographs"`` (frontal chest
            radiographs), a YAML file of one's own, which may extend these, or several banks, which are merged.

    Raises:
        ValueError: no such bank, a name is not in the bank or in two of them, or a file is wrong: then with file, line
            and key.

    >>> [concept.group for concept in load_concepts(["wires", "portable_text"], bank="radiographs")]
    ['devices', 'markers and text']
    """
    from causal_cxr.readers.banks.bank import read_banks

    found = read_banks([bank] if isinstance(bank, str | Path) else bank)
    chosen = list(found) if names is None else list(names)
    unknown = [name for name in chosen if name not in found]
    if unknown:
        raise ValueError(f"The concept bank has no {unknown}; it has {list(found)}.")
    return tuple(found[name] for name in chosen)


def world_concepts(world: World) -> tuple[Concept, ...]:
    """One concept a sign of a world: first what is hidden, then how labelled attributes show themselves."""
    concepts = []
    for sign in (*world.hidden_signs, *world.labelled_signs):
        about: dict[str, Any] = {}
        if not world.graph.attributes[sign.attribute].hidden:
            about = {"attribute": sign.attribute, "level": sign.level, "above": sign.above}
        control = sign.attribute.startswith("control_")
        concepts.append(Concept(sign.name, (sign.name,), (f"no {sign.name}",), control=control, **about))
    return tuple(concepts)
