"""What an audit asks of an attribute: a contrast, carried out on every image from what it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from causal_cxr.graphs.attributes import Attribute, Binary, Categorical, Continuous, Value
from causal_cxr.graphs.graph import CausalGraph


@dataclass(frozen=True)
class Contrast:
    """One question about one attribute.

    Attributes:
        attribute: the one that is set.
        kind: ``flip`` (Binary: each image gets the level it does not have), ``level`` (Categorical: ``level`` against
            ``reference``), ``shift`` (Continuous: by ``shift`` units).
    """

    attribute: str
    kind: Literal["flip", "level", "shift"]
    level: Value | None = None
    reference: Value | None = None
    shift: float | None = None

    @property
    def name(self) -> str:
        """Unique within an audit."""
        if self.kind == "shift":
            return f"{self.attribute} {self.shift:+g}"
        return f"{self.attribute}: {self.reference} -> {self.level}"

    def apply(self, attribute: Attribute, values: pd.Series) -> tuple[pd.Series, np.ndarray]:
        """New values and the direction of the move.

        Args:
            attribute: the graph's.
            values: ``(n,)`` typed factual values.

        Returns:
            typed new values (as they were where not applicable) and ``(n,)`` int8 orientation: +1 from reference to
            level (or up), -1 the other way, 0 not applicable (missing; another level; a shift that leaves the observed
            support either way).
        """
        codes = attribute.encode(values)
        if isinstance(attribute, Continuous):
            assert self.shift is not None
            low, high = np.nanmin(codes), np.nanmax(codes)  # inside the observed support only
            up, down = codes + self.shift, codes - self.shift
            sign = np.where((up <= high) & (up >= low), 1, np.where((down >= low) & (down <= high), -1, 0))
            new = codes + sign * self.shift
        else:
            level, reference = (attribute.levels.index(attribute.check(v)) for v in (self.level, self.reference))
            sign = np.where(codes == reference, 1, np.where(codes == level, -1, 0))
            new = np.where(sign == 1, level, np.where(sign == -1, reference, codes))
        moved = attribute.decode(new)
        moved.index = values.index
        return moved, np.where(np.isnan(codes), 0, sign).astype(np.int8)


def default_contrasts(graph: CausalGraph, shifts: Mapping[str, float] | None = None) -> tuple[Contrast, ...]:
    """Every labelled attribute: flips, each level against the reference, shifts (a quarter of the range unless given)."""
    contrasts: list[Contrast] = []
    for name in graph.labelled:
        attribute = graph.attributes[name]
        if isinstance(attribute, Continuous):
            shift = (shifts or {}).get(name, (attribute.high - attribute.low) / 4)
            contrasts.append(Contrast(name, "shift", shift=shift))
        elif isinstance(attribute, Binary):
            contrasts.append(Contrast(name, "flip", level=attribute.levels[1], reference=attribute.levels[0]))
        elif isinstance(attribute, Categorical):
            others = [level for level in attribute.levels if level != attribute.reference]
            contrasts += [Contrast(name, "level", level=level, reference=attribute.reference) for level in others]
    return tuple(contrasts)
