"""What an audit asks of an attribute: a contrast, carried out on every image from what it is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from causal_cxr.graphs.attributes import Attribute, Binary, Categorical, Continuous, Value
from causal_cxr.graphs.graph import CausalGraph

_KINDS = {"flip": Binary, "level": Categorical, "shift": Continuous}


@dataclass(frozen=True)
class Contrast:
    """One question about one attribute.

    Attributes:
        attribute: the one that is set.
        kind: ``flip`` (Binary: each image gets the level it does not have), ``level`` (Categorical: images at
            ``reference`` go to ``level`` and back), ``shift`` (Continuous: by ``shift`` units).
        level, reference: for ``flip`` and ``level``; effects are oriented from ``reference`` to ``level``.
        shift: for ``shift``, in the attribute's unit.
        unit: of the shift, for the name.
    """

    attribute: str
    kind: Literal["flip", "level", "shift"]
    level: Value | None = None
    reference: Value | None = None
    shift: float | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"Contrast on {self.attribute!r} has kind {self.kind!r}; choose from {list(_KINDS)}.")
        if self.kind == "shift":
            if self.shift is None or self.shift == 0 or not math.isfinite(self.shift):
                raise ValueError(f"Contrast on {self.attribute!r} shifts by {self.shift}; give a number other than 0.")
        elif self.level is None or self.reference is None or self.level == self.reference:
            raise ValueError(
                f"Contrast on {self.attribute!r} goes from {self.reference!r} to {self.level!r}; give two levels, "
                "reference=... and level=...."
            )

    @property
    def name(self) -> str:
        """Unique within an audit.

        >>> Contrast("age", "shift", shift=20, unit="years").name
        'age + 20 years'
        >>> Contrast("view", "flip", level="AP", reference="PA").name
        'view: PA -> AP'
        """
        if self.shift is not None:
            sign = "+" if self.shift > 0 else "-"
            return f"{self.attribute} {sign} {abs(self.shift):g} {self.unit}".rstrip()
        return f"{self.attribute}: {self.reference} -> {self.level}"

    def treatment(self, attribute: Attribute, codes: np.ndarray) -> np.ndarray:
        """What unedited images have of the contrast.

        Args:
            attribute: the graph's.
            codes: ``(n,)`` as its :meth:`Attribute.encode` gives them.

        Returns:
            ``(n,)`` 1 at the level and 0 at the reference; of a number, how often the shift goes into it. NaN where the value
            is missing, or is a level that the question is not about.
        """
        if isinstance(attribute, Continuous):
            return codes / float(self.shift or 1.0)
        level, reference = (attribute.levels.index(attribute.check(v)) for v in (self.level, self.reference))
        return np.where(codes == level, 1.0, np.where(codes == reference, 0.0, np.nan))

    def apply(self, attribute: Attribute, values: pd.Series) -> tuple[pd.Series, np.ndarray]:
        """New values and the direction of the move.

        Args:
            attribute: the graph's.
            values: ``(n,)`` factual values.

        Returns:
            typed new values (as they were where not applicable) and ``(n,)`` int8 orientation: +1 from reference to
            level (or by the shift), -1 the other way, 0 not applicable (missing; another level; a shift that leaves the
            observed support, the range of ``values``, either way).

        Raises:
            ValueError: the contrast is of another attribute, does not suit its type, or a level is not one of its.
        """
        if attribute.name != self.attribute or not isinstance(attribute, _KINDS[self.kind]):
            raise ValueError(
                f"Contrast {self.name!r} is a {self.kind} of {self.attribute!r}, asked of {type(attribute).__name__} "
                f"{attribute.name!r}; a {self.kind} needs {_KINDS[self.kind].__name__} {self.attribute!r}."
            )
        codes = attribute.encode(values)
        if isinstance(attribute, Continuous):
            shift = float(self.shift or 0.0)
            known = codes[~np.isnan(codes)]
            low, high = (known.min(), known.max()) if len(known) else (np.nan, np.nan)
            ahead, back = codes + shift, codes - shift
            sign = np.where((ahead >= low) & (ahead <= high), 1, np.where((back >= low) & (back <= high), -1, 0))
            moved = codes + sign * shift
        else:
            level, reference = (attribute.levels.index(attribute.check(v)) for v in (self.level, self.reference))
            sign = np.where(codes == reference, 1, np.where(codes == level, -1, 0))
            moved = np.where(sign == 1, level, np.where(sign == -1, reference, codes))
        new = attribute.decode(moved)
        new.index = values.index
        return new, sign.astype(np.int8)


def default_contrasts(graph: CausalGraph, shifts: Mapping[str, float] | None = None) -> tuple[Contrast, ...]:
    """What an audit asks unless told otherwise, of every labelled attribute in turn.

    Args:
        graph: the declared graph.
        shifts: attribute -> shift, for ``Continuous``; a quarter of the declared range unless given.

    Returns:
        A flip for each ``Binary``, each level against the reference for ``Categorical``, a shift for ``Continuous``.

    Raises:
        ValueError: a shift is given for what is not a labelled ``Continuous`` attribute.
    """
    shifts = dict(shifts or {})
    shiftable = [name for name in graph.labelled if isinstance(graph.attributes[name], Continuous)]
    wrong = [name for name in shifts if name not in shiftable]
    if wrong:
        raise ValueError(f"Shifts are given for {wrong}; labelled continuous attributes are {shiftable}.")
    contrasts: list[Contrast] = []
    for name in graph.labelled:
        attribute = graph.attributes[name]
        if isinstance(attribute, Continuous):
            shift = shifts.get(name, (attribute.high - attribute.low) / 4)
            contrasts.append(Contrast(name, "shift", shift=shift, unit=attribute.unit))
        elif isinstance(attribute, Binary):
            contrasts.append(Contrast(name, "flip", level=attribute.levels[1], reference=attribute.levels[0]))
        else:
            others = [level for level in attribute.levels if level != attribute.reference]
            contrasts += [Contrast(name, "level", level=level, reference=attribute.reference) for level in others]
    return tuple(contrasts)
