"""Which way the edges of a skeleton point: colliders, what is known, and what follows from both.

causal-learn finds the skeleton and the separating sets. Its own orientation is not used: its FCI turns "``b`` causes
nothing in ``a``'s tier" into ``a --> b``, which denies a latent cause that nobody has ruled out
(py-why/causal-learn#266), its PC draws colliders at pairs that knowledge alone has parted (#224), and the tenth rule
of its FCI takes paths that are not uncovered. Here

- DAG classes (PC, GES): colliders, then the four rules of Meek (1995, arXiv:1302.4972), complete with background
  knowledge;
- ancestral graph classes (FCI): colliders, then the rules of Zhang (2008, doi:10.1016/j.artint.2008.08.001), to which
  tiers add arrowheads (Andrews, Spirtes & Cooper 2020, PMLR 108). Rules 5 to 7, which draw what only selection can have
  caused, apply where selection is declared.

Marks are decided once: a rule decides circles and overwrites nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from causal_cxr.graphs.discovery.marks import ARROW, CIRCLE, NONE, TAIL

Collider = tuple[int, int, int]  #: (one cause, the collider, the other cause)


@dataclass(frozen=True)
class Knowledge:
    """What is known beforehand of ``k`` variables.

    Attributes:
        not_causing: ``(k, k)`` bool; ``[i, j]``: ``i`` is no cause of ``j``, direct or not.
        required: ``(k, k)`` bool; ``[i, j]``: ``i`` is a direct cause of ``j``.
        selecting: ``(k,)`` bool; what may have decided, directly or not, which images were collected.
        selects: ``(k,)`` bool; what did.
        selected: whether anything has, a variable or not.
    """

    not_causing: np.ndarray
    required: np.ndarray
    selecting: np.ndarray
    selects: np.ndarray
    selected: bool = False

    @classmethod
    def none(cls, k: int) -> "Knowledge":
        return cls(np.zeros((k, k), bool), np.zeros((k, k), bool), np.zeros(k, bool), np.zeros(k, bool))


@dataclass
class Oriented:
    """Marks as they are decided, and the colliders that could not be drawn, with the reason."""

    marks: np.ndarray  # (k, k); [i, j] is the mark at j
    dropped: list[tuple[Collider, str]] = field(default_factory=list)

    def adjacent(self, i: int, j: int) -> bool:
        return bool(self.marks[i, j] != NONE)

    def neighbours(self, i: int) -> list[int]:
        return [int(j) for j in np.flatnonzero(self.marks[i])]

    def is_(self, i: int, at_i: int | None, at_j: int | None, j: int) -> bool:
        """Whether there is an edge with these marks; ``None`` = any."""
        return (
            self.adjacent(i, j)
            and (at_i is None or self.marks[j, i] == at_i)
            and (at_j is None or self.marks[i, j] == at_j)
        )

    def decide(self, i: int, j: int, mark: int) -> bool:
        """Put a mark at ``j``, if it is open."""
        if self.marks[i, j] != CIRCLE:
            return False
        self.marks[i, j] = mark
        return True


def skeleton_marks(adjacent: np.ndarray) -> np.ndarray:
    """``(k, k)`` all circles."""
    return np.where(adjacent, CIRCLE, NONE).astype(np.int8)


def unshielded_colliders(adjacent: np.ndarray, separating: Mapping[tuple[int, int], frozenset[int]]) -> list[Collider]:
    """Triples a - b - c, ``a`` and ``c`` apart, whose ``b`` is not in the set that parted them; each once, in order."""
    found = []
    for a, c in combinations(range(len(adjacent)), 2):
        if not adjacent[a, c] and (a, c) in separating:
            between = np.flatnonzero(adjacent[a] & adjacent[c])
            found += [(a, int(b), c) for b in between if int(b) not in separating[a, c]]
    return found


# -- DAG classes -------------------------------------------------------------------------------------------------------
def orient_dag(adjacent: np.ndarray, colliders: Iterable[Collider], known: Knowledge) -> Oriented:
    """Knowledge first, then the colliders in the order given, then Meek's rules; the outcome has no directed cycle.

    Args:
        adjacent: ``(k, k)`` bool, symmetric.
        colliders: the surest first: what contradicts knowledge or an earlier one is dropped, and said.
        known: nothing is assumed selected.
    """
    graph = Oriented(skeleton_marks(adjacent))
    for i, j in zip(*np.nonzero(adjacent & (known.required | known.not_causing.T)), strict=True):
        _direct(graph, int(i), int(j))
    for a, b, c in colliders:
        against = [end for end in (a, c) if graph.is_(b, TAIL, ARROW, end)]
        if against:
            forbidden = any(known.not_causing[end, b] or known.required[b, end] for end in against)
            graph.dropped.append(((a, b, c), "knowledge" if forbidden else "other colliders"))
        elif not (_direct(graph, a, b) and _direct(graph, c, b)):
            graph.dropped.append(((a, b, c), "a cycle"))
    _meek(graph)
    return graph


def _direct(graph: Oriented, cause: int, effect: int) -> bool:
    """Draw ``cause -> effect``; False where it would contradict what is drawn or close a cycle."""
    if graph.is_(cause, TAIL, ARROW, effect):
        return True
    if not graph.is_(cause, CIRCLE, CIRCLE, effect) or _reaches(graph, effect, cause):
        return False
    graph.marks[effect, cause], graph.marks[cause, effect] = TAIL, ARROW
    return True


def _reaches(graph: Oriented, start: int, goal: int) -> bool:
    """Whether directed edges lead from ``start`` to ``goal``."""
    seen, waiting = {start}, [start]
    while waiting:
        i = waiting.pop()
        if i == goal:
            return True
        for j in graph.neighbours(i):
            if j not in seen and graph.is_(i, TAIL, ARROW, j):
                seen.add(j)
                waiting.append(j)
    return False


def _meek(graph: Oriented) -> None:
    changed = True
    while changed:
        open_edges = [(i, j) for i, j in zip(*np.nonzero(graph.marks), strict=True) if graph.is_(i, CIRCLE, CIRCLE, j)]
        changed = any(_meek_rule(graph, int(i), int(j)) and _direct(graph, int(i), int(j)) for i, j in open_edges)


def _meek_rule(graph: Oriented, a: int, b: int) -> bool:
    """Whether one of Meek's four rules asks for a -> b."""
    into_b = [c for c in graph.neighbours(b) if graph.is_(c, TAIL, ARROW, b)]
    into_a = [c for c in graph.neighbours(a) if graph.is_(c, TAIL, ARROW, a)]
    if any(c != b and not graph.adjacent(c, b) for c in into_a):
        return True  # c -> a - b, c and b apart: a -> b, or a would be a new collider
    if any(graph.is_(a, TAIL, ARROW, c) for c in into_b):
        return True  # a -> c -> b: else a cycle
    beside = [c for c in into_b if graph.is_(a, CIRCLE, CIRCLE, c)]
    if any(not graph.adjacent(c, d) for c, d in combinations(beside, 2)):
        return True
    return any(
        graph.is_(a, CIRCLE, CIRCLE, d) and graph.is_(d, TAIL, ARROW, c) and not graph.adjacent(d, b)
        for c in into_b
        if graph.adjacent(a, c)
        for d in graph.neighbours(a)
        if d not in (b, c)
    )


# -- classes of ancestral graphs ---------------------------------------------------------------------------------------
def orient_ancestral(
    adjacent: np.ndarray,
    colliders: Iterable[Collider],
    separating: Mapping[tuple[int, int], frozenset[int]],
    known: Knowledge,
) -> Oriented:
    """Knowledge, colliders, Zhang's rules.

    "``i`` causes no ``j``" draws an arrow at ``i`` only where ``i`` cannot have caused the selection either, as an
    arrow denies both. What the data were selected on has tails only.

    Args:
        adjacent: ``(k, k)`` bool, symmetric.
        colliders: that contradict each other are no trouble here: an edge may have two arrows.
        separating: what parted the pairs ``(i, j)``, ``i < j``; the discriminating paths ask it.
        known: beforehand.
    """
    graph = Oriented(skeleton_marks(adjacent))
    for i, j in zip(*np.nonzero(adjacent), strict=True):
        if known.required[i, j] or known.selects[i]:
            graph.decide(j, i, TAIL)
        if (known.not_causing[i, j] or known.required[j, i]) and not known.selecting[i]:
            graph.decide(j, i, ARROW)
    for a, b, c in colliders:
        if any(graph.is_(end, None, TAIL, b) for end in (a, c)):
            graph.dropped.append(((a, b, c), "knowledge"))
        else:
            graph.decide(a, b, ARROW)
            graph.decide(c, b, ARROW)
    rules = [_rule_1, _rule_2, _rule_3, _rule_4, *([_rules_5_to_7] if known.selected else []), _rules_8_to_10]
    while any(rule(graph, separating) for rule in rules):
        pass
    return graph


Separating = Mapping[tuple[int, int], frozenset[int]]


def _triples(graph: Oriented, b: int) -> Iterator[tuple[int, int]]:
    """Ordered pairs of neighbours of ``b``."""
    around = graph.neighbours(b)
    return ((a, c) for a in around for c in around if a != c)


def _rule_1(graph: Oriented, separating: Separating) -> bool:
    """a *-> b o-* c, a and c apart: b -> c."""
    changed = False
    for b in range(len(graph.marks)):
        for a, c in _triples(graph, b):
            if graph.is_(a, None, ARROW, b) and graph.is_(b, CIRCLE, None, c) and not graph.adjacent(a, c):
                graph.decide(c, b, TAIL)
                graph.decide(b, c, ARROW)
                changed = True
    return changed


def _rule_2(graph: Oriented, separating: Separating) -> bool:
    """a -> b *-> c or a *-> b -> c, and a *-o c: a *-> c."""
    changed = False
    for b in range(len(graph.marks)):
        for a, c in _triples(graph, b):
            chain = graph.is_(a, None, ARROW, b) and graph.is_(b, None, ARROW, c)
            if chain and (graph.marks[b, a] == TAIL or graph.marks[c, b] == TAIL) and graph.is_(a, None, CIRCLE, c):
                changed |= graph.decide(a, c, ARROW)
    return changed


def _rule_3(graph: Oriented, separating: Separating) -> bool:
    """a *-> b <-* c, a *-o d o-* c, a and c apart, d *-o b: d *-> b."""
    changed = False
    for b in range(len(graph.marks)):
        for a, c in _triples(graph, b):
            if graph.adjacent(a, c) or not (graph.is_(a, None, ARROW, b) and graph.is_(c, None, ARROW, b)):
                continue
            for d in graph.neighbours(b):
                if graph.is_(d, None, CIRCLE, b) and graph.is_(a, None, CIRCLE, d) and graph.is_(c, None, CIRCLE, d):
                    changed |= graph.decide(d, b, ARROW)
    return changed


def _rule_4(graph: Oriented, separating: Separating) -> bool:
    """A discriminating path for b: b -> c if b helped to part its ends, else a <-> b <-> c."""
    changed = False
    for b in range(len(graph.marks)):
        for a, c in _triples(graph, b):
            if not (graph.is_(b, CIRCLE, None, c) and graph.is_(a, TAIL, ARROW, c) and graph.is_(b, None, ARROW, a)):
                continue
            end = _far_end(graph, a, b, c)
            parted = None if end is None else separating.get((min(end, c), max(end, c)))
            if parted is None:
                continue
            if b in parted:
                graph.decide(c, b, TAIL)
                graph.decide(b, c, ARROW)
            else:
                graph.decide(a, b, ARROW)
                graph.decide(c, b, ARROW)
                graph.decide(b, c, ARROW)
            changed = True
    return changed


def _far_end(graph: Oriented, a: int, b: int, c: int) -> int | None:
    """``d`` of a discriminating path d, ..., a, b, c: all between d and b are colliders on it and parents of c."""
    waiting, seen = [a], {a, b, c}
    while waiting:
        inner = waiting.pop(0)
        for d in graph.neighbours(inner):
            if d in seen or not graph.is_(d, None, ARROW, inner):
                continue
            if not graph.adjacent(d, c):
                return d
            if graph.is_(d, TAIL, ARROW, c) and graph.is_(inner, None, ARROW, d):
                seen.add(d)
                waiting.append(d)
    return None


def _rules_5_to_7(graph: Oriented, separating: Separating) -> bool:
    """Edges that only selection can have drawn: a --- b."""
    changed = False
    k = len(graph.marks)
    for a, b in combinations(range(k), 2):
        if graph.is_(a, CIRCLE, CIRCLE, b):
            for path in _uncovered_paths(graph, a, b, circles=True):
                if len(path) > 3 and not graph.adjacent(a, path[-2]) and not graph.adjacent(b, path[1]):
                    for i, j in zip([*path], [*path[1:], a], strict=True):
                        changed |= graph.decide(i, j, TAIL) | graph.decide(j, i, TAIL)
                    break
    for b in range(k):
        for a, c in _triples(graph, b):
            undirected = graph.is_(a, TAIL, TAIL, b)
            leaning = graph.is_(a, TAIL, CIRCLE, b) and not graph.adjacent(a, c)
            if (undirected or leaning) and graph.is_(b, CIRCLE, None, c):
                changed |= graph.decide(c, b, TAIL)
    return changed


def _rules_8_to_10(graph: Oriented, separating: Separating) -> bool:
    """a o-> c: a -> c where all members of the class agree."""
    changed = False
    for a, c in zip(*np.nonzero(graph.marks == ARROW), strict=True):
        if graph.marks[c, a] == CIRCLE and (
            _rule_8(graph, a, c) or _rule_9(graph, int(a), int(c)) or _rule_10(graph, int(a), int(c))
        ):
            changed |= graph.decide(c, a, TAIL)
    return changed


def _rule_8(graph: Oriented, a: int, c: int) -> bool:
    """a -> b -> c, or a -o b -> c."""
    return any(
        graph.is_(b, TAIL, ARROW, c) and (graph.is_(a, TAIL, ARROW, b) or graph.is_(a, TAIL, CIRCLE, b))
        for b in graph.neighbours(a)
    )


def _rule_9(graph: Oriented, a: int, c: int) -> bool:
    """An uncovered possibly directed path from a to c whose second node is not beside c."""
    return any(len(path) > 3 and not graph.adjacent(path[1], c) for path in _uncovered_paths(graph, a, c))


def _rule_10(graph: Oriented, a: int, c: int) -> bool:
    """b -> c <- d, and uncovered possibly directed paths from a to b and to d that set out to nodes apart."""
    causes = [b for b in graph.neighbours(c) if b != a and graph.is_(b, TAIL, ARROW, c)]
    first_steps = {b: {path[1] for path in _uncovered_paths(graph, a, b) if c not in path} for b in causes}
    return any(
        m != w and not graph.adjacent(m, w)
        for b, d in combinations(causes, 2)
        for m in first_steps[b]
        for w in first_steps[d]
    )


def _uncovered_paths(graph: Oriented, start: int, goal: int, circles: bool = False) -> Iterator[list[int]]:
    """Paths with no triangle along them: possibly directed ones, or ones of o-o edges only."""
    waiting = [[start]]
    while waiting:
        path = waiting.pop()
        here = path[-1]
        for j in graph.neighbours(here):
            possible = (
                graph.is_(here, CIRCLE, CIRCLE, j)
                if circles
                else graph.marks[j, here] != ARROW and graph.marks[here, j] != TAIL
            )
            if j in path or not possible or (len(path) > 1 and graph.adjacent(path[-2], j)):
                continue
            if j == goal:
                yield [*path, j]
            else:
                waiting.append([*path, j])
