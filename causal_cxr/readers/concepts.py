"""Concepts: what a reader looks for, with the phrases that name it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
    """

    name: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    region: tuple[float, float, float, float] | None = None
    control: bool = False
    attribute: str | None = None
    level: Value | None = None
    above: float | None = None

    def __post_init__(self) -> None:
        for field in ("positive", "negative"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
            if not getattr(self, field):
                raise ValueError(f"Concept {self.name!r} has no {field} phrase; give at least one.")
        if self.attribute is not None and (self.level is None) == (self.above is None):
            raise ValueError(f"Concept {self.name!r} reads {self.attribute!r}: give either level=... or above=....")

    def truth(self, table: pd.DataFrame) -> np.ndarray:
        """``(n,)`` 1.0 present, 0.0 absent, NaN unknown, from the column that this concept is about."""
        column = table[self.attribute or self.name]
        if self.attribute is None:
            return column.to_numpy(dtype=float)
        values = column > self.above if self.above is not None else column == self.level
        return np.where(column.isna(), np.nan, values.astype(float))


def concept_from_dict(entry: Mapping[str, Any]) -> Concept:
    """A concept from ``dataclasses.asdict`` by way of JSON, where tuples have become lists."""
    content: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
    return Concept(**content)


def load_concepts(names: Iterable[str] | None = None, path: Path | None = None) -> tuple[Concept, ...]:
    """Concepts of a YAML bank: the package's own for phantoms, or the user's ``path``.

    Raises:
        ValueError: a name is not in the bank.
    """
    from ruamel.yaml import YAML

    bank: dict[str, Any] = YAML(typ="safe").load((path or Path(__file__).with_name("concepts.yaml")).read_text())
    chosen = list(bank) if names is None else list(names)
    unknown = [name for name in chosen if name not in bank]
    if unknown:
        raise ValueError(f"The concept bank has no {unknown}; it has {list(bank)}.")
    return tuple(Concept(name=name, **bank[name]) for name in chosen)


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
