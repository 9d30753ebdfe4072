"""Separation in graphs with undecided marks: apart only if apart under every way to decide the circles."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from causal_cxr.graphs.discovery.marks import Mark, MarkedEdge

_SELECTION = "\0selection"  # no attribute has a name that cannot be printed
_ARROWISH: tuple[Mark, ...] = ("arrow", "circle")
_TAILISH: tuple[Mark, ...] = ("tail", "circle")


class _Ends:
    """By node: the edges at it, seen from it, the selection's included."""

    def __init__(self, edges: Iterable[MarkedEdge], selected_on: Iterable[str]) -> None:
        self.at: dict[str, list[MarkedEdge]] = defaultdict(list)
        for edge in (*edges, *(MarkedEdge(name, _SELECTION, "tail", "arrow") for name in selected_on)):
            self.at[edge.a].append(edge)
            self.at[edge.b].append(edge.turned())
        self.always = {_SELECTION} if _SELECTION in self.at else set()

    def possible_ancestors(self, names: Iterable[str]) -> set[str]:
        """What may be a cause of one of ``names``, these included."""
        found = set(names)
        waiting = list(found)
        while waiting:
            for edge in self.at[waiting.pop()]:
                if edge.b not in found and edge.at_b in _TAILISH and edge.at_a in _ARROWISH:
                    found.add(edge.b)
                    waiting.append(edge.b)
        return found

    def connected(self, x: str, y: str, given: set[str]) -> bool:
        given = given | self.always
        opened = self.possible_ancestors(given)
        waiting = [(edge.b, edge.at_b) for edge in self.at[x]]
        seen = set(waiting)
        while waiting:
            node, came = waiting.pop()
            if node == y:
                return True
            for edge in self.at[node]:
                passes = node not in given and (came in _TAILISH or edge.at_a in _TAILISH)
                collides = node in opened and came in _ARROWISH and edge.at_a in _ARROWISH
                step = (edge.b, edge.at_b)
                if (passes or collides) and step not in seen:
                    seen.add(step)
                    waiting.append(step)
        return False


def possibly_connected(
    edges: Iterable[MarkedEdge], x: str, y: str, given: Iterable[str] = (), selected_on: Iterable[str] = ()
) -> bool:
    """Whether ``x`` and ``y`` may be dependent given ``given``: False only where every orientation separates them.

    An undecided edge is not replaced by a latent common cause: ``a <-> b`` makes colliders of its ends and implies
    independences that ``a -> b`` does not. Each circle may be arrow or tail at each passage; so this may call
    connected what no single graph connects, and never the other way round. Where no mark is a circle it is
    m-separation.

    Args:
        edges: there may be several between two nodes (a cause that is confounded too).
        given: conditioned on.
        selected_on: what the selection of the data was decided by.
    """
    return _Ends(edges, selected_on).connected(x, y, set(given))


def separator(
    edges: Iterable[MarkedEdge], x: str, y: str, allowed: Sequence[str], selected_on: Iterable[str] = ()
) -> frozenset[str] | None:
    """A set within ``allowed`` that separates ``x`` from ``y`` under every orientation; ``None`` where none was found.

    Tried are all possible causes of the two, what is beside either, and nothing; of the first that does, no element can
    be left out. Where no mark is a circle, this finds a set if there is one (then the causes of the two are one).
    """
    ends = _Ends(edges, selected_on)
    causes = ends.possible_ancestors({x, y, *ends.always})
    usable = [name for name in allowed if name not in (x, y)]
    beside = [{edge.b for edge in ends.at[end]} for end in (x, y)]
    for candidate in ([], [n for n in usable if n in causes], *([n for n in usable if n in near] for near in beside)):
        chosen = set(candidate)
        if ends.connected(x, y, chosen):
            continue
        for name in candidate:
            if not ends.connected(x, y, chosen - {name}):
                chosen.remove(name)
        return frozenset(chosen)
    return None
