"""Endpoint marks, and the matrix that the orientation rules work on.

An arrow at ``a`` on the edge between ``a`` and ``b``: ``a`` is no cause of ``b`` (nor of the selection, if there is
any). A tail: it is. A circle: undecided. An edge that PC or GES leave without direction has two circles.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Mark = Literal["tail", "arrow", "circle"]
NONE, CIRCLE, ARROW, TAIL = 0, 1, 2, 3  #: entries of a matrix of marks
_NAMES: dict[int, Mark] = {CIRCLE: "circle", ARROW: "arrow", TAIL: "tail"}
_CODES = {name: code for code, name in _NAMES.items()}
_LEFT = {"tail": "-", "arrow": "<", "circle": "o"}
_RIGHT = {"tail": "-", "arrow": ">", "circle": "o"}


@dataclass(frozen=True)
class MarkedEdge:
    """An adjacency of ``a`` and ``b`` with what is known of its two ends.

    >>> print(MarkedEdge("age", "view", "circle", "arrow"))
    age o-> view
    """

    a: str
    b: str
    at_a: Mark
    at_b: Mark

    def __str__(self) -> str:
        return f"{self.a} {_LEFT[self.at_a]}-{_RIGHT[self.at_b]} {self.b}"

    @property
    def pair(self) -> tuple[str, str]:
        return self.a, self.b

    def mark(self, name: str) -> Mark:
        """The mark at one of the two."""
        return {self.a: self.at_a, self.b: self.at_b}[name]

    def turned(self) -> "MarkedEdge":
        """The same edge, written from the other end."""
        return MarkedEdge(self.b, self.a, self.at_b, self.at_a)


def marked_edges(marks: np.ndarray, names: Sequence[str]) -> tuple[MarkedEdge, ...]:
    """The edges of a matrix, in the order of ``names``.

    Args:
        marks: ``(k, k)``; ``marks[i, j]`` is the mark at ``j`` on the edge between ``i`` and ``j``.
        names: ``k``.
    """
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names)) if marks[i, j] != NONE]
    return tuple(MarkedEdge(names[i], names[j], _NAMES[marks[j, i]], _NAMES[marks[i, j]]) for i, j in pairs)


def mark_matrix(edges: Iterable[MarkedEdge], names: Sequence[str]) -> np.ndarray:
    """Inverse of :func:`marked_edges`."""
    at = {name: i for i, name in enumerate(names)}
    marks = np.zeros((len(at), len(at)), dtype=np.int8)
    for edge in edges:
        marks[at[edge.a], at[edge.b]] = _CODES[edge.at_b]
        marks[at[edge.b], at[edge.a]] = _CODES[edge.at_a]
    return marks
