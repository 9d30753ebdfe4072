"""What a search found, with how, and how it compares."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import networkx as nx
import pandas as pd

from causal_cxr.graphs.discovery.ancestral import ancestral_edges
from causal_cxr.graphs.discovery.marks import Mark, MarkedEdge
from causal_cxr.graphs.graph import CausalGraph

if TYPE_CHECKING:
    from causal_cxr.graphs.drawing import Drawing

Method = Literal["pc", "fci", "ges"]
NoteKind = Literal["assumption", "rows", "collider dropped", "knowledge"]


@dataclass(frozen=True)
class Separation:
    """Two that were found independent given others, with the p of that test (1 where a score decided)."""

    a: str
    b: str
    given: tuple[str, ...]
    p: float


@dataclass(frozen=True)
class Note:
    """Something that whoever reads the graph has to know.

    Attributes:
        kind: ``assumption``: the method assumes what the declaration denies; ``rows``: which rows took part;
            ``knowledge``: how the declaration entered; ``collider dropped``: tests asked for arrows that knowledge,
            other colliders or a cycle forbid.
        about: the variables concerned.
    """

    kind: NoteKind
    text: str
    about: tuple[str, ...] = ()


@dataclass(frozen=True)
class Discovered:
    """A graph found in a table: a class of DAGs (PC, GES) or of ancestral graphs (FCI).

    Attributes:
        variables: all that were searched, in order.
        edges: with their marks; see :mod:`causal_cxr.graphs.discovery.marks`.
        separations: one a pair without an edge.
        method: ``pc``, ``fci`` or ``ges``.
        notes: in plain words.
        provenance: test, alpha, depth, rows, patients, knowledge used, number of tests, seed, versions.
    """

    variables: tuple[str, ...]
    edges: tuple[MarkedEdge, ...]
    separations: tuple[Separation, ...]
    method: Method
    notes: tuple[Note, ...]
    provenance: Mapping[str, Any]

    def edge(self, a: str, b: str) -> MarkedEdge | None:
        """The edge between two, written from ``a``; ``None`` if there is none."""
        for edge in self.edges:
            if edge.pair == (a, b):
                return edge
            if edge.pair == (b, a):
                return edge.turned()
        return None

    def to_frame(self) -> pd.DataFrame:
        """One row an edge: ``a``, ``b``, ``at_a``, ``at_b``, ``edge`` (as ``age o-> view``)."""
        rows = [(e.a, e.b, e.at_a, e.at_b, str(e)) for e in self.edges]
        return pd.DataFrame(rows, columns=["a", "b", "at_a", "at_b", "edge"])

    def to_networkx(self) -> nx.DiGraph:
        """Edges carry ``source_mark`` and ``target_mark``; where one end has an arrow, it is the target."""
        graph = nx.DiGraph(method=self.method, provenance=json.dumps(self.provenance, sort_keys=True))
        graph.add_nodes_from(self.variables)
        for edge in self.edges:
            out = edge.turned() if edge.at_a == "arrow" and edge.at_b != "arrow" else edge
            graph.add_edge(out.a, out.b, source_mark=out.at_a, target_mark=out.at_b, edge=str(out))
        return graph

    def to_graphml(self) -> str:
        """GraphML text of :meth:`to_networkx`."""
        return "\n".join(nx.generate_graphml(self.to_networkx(), named_key_ids=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Discovered":
        """Inverse of :meth:`to_dict`."""
        return cls(
            variables=tuple(data["variables"]),
            edges=tuple(MarkedEdge(**edge) for edge in data["edges"]),
            separations=tuple(Separation(**{**s, "given": tuple(s["given"])}) for s in data["separations"]),
            method=data["method"],
            notes=tuple(Note(**{**note, "about": tuple(note["about"])}) for note in data["notes"]),
            provenance=data["provenance"],
        )

    def draw(self) -> "Drawing":
        """A picture; circles are undecided ends."""
        from causal_cxr.graphs.discovery.drawing import DrawnEdge, draw_marked

        return draw_marked(self.variables, [DrawnEdge(edge, str(edge)) for edge in self.edges])

    def compare(self, other: "CausalGraph | Discovered") -> pd.DataFrame:
        """Pair by pair, beside a declared graph or another find.

        A declared graph stands as its maximal ancestral graph over the shared variables
        (:func:`causal_cxr.graphs.discovery.ancestral_edges`).

        Returns:
            One row a pair that is adjacent in one of them: ``a``, ``b``, ``found``, ``other`` (edges in words, or
            empty) and ``agreement``: ``same``; ``open`` (no mark contradicts, but one is a circle on one side);
            ``marks differ``; ``only found``; ``only other``.
        """
        shared = [
            v for v in self.variables if v in (other.attributes if isinstance(other, CausalGraph) else other.variables)
        ]
        theirs = ancestral_edges(other, shared) if isinstance(other, CausalGraph) else other.edges
        by_pair = {frozenset(edge.pair): edge for edge in theirs}
        rows = []
        for i, a in enumerate(shared):
            for b in shared[i + 1 :]:
                mine, there = self.edge(a, b), by_pair.get(frozenset((a, b)))
                if there is not None and there.a != a:
                    there = there.turned()
                if mine or there:
                    rows.append((a, b, str(mine or ""), str(there or ""), _agreement(mine, there)))
        return pd.DataFrame(rows, columns=["a", "b", "found", "other", "agreement"])

    def describe(self) -> str:
        """The edges and the notes, a line each."""
        return "\n".join([*(f"{edge}" for edge in self.edges), *(f"[{note.kind}] {note.text}" for note in self.notes)])


def contradict(one: Mark, other: Mark) -> bool:
    """Whether both are decided and differ."""
    return "circle" not in (one, other) and one != other


def _agreement(mine: MarkedEdge | None, there: MarkedEdge | None) -> str:
    if mine is None or there is None:
        return "only other" if mine is None else "only found"
    ends = [(mine.at_a, there.at_a), (mine.at_b, there.at_b)]
    if any(contradict(*marks) for marks in ends):
        return "marks differ"
    return "same" if all(one == other for one, other in ends) else "open"


def broken_knowledge(edges: Iterable[MarkedEdge], graph: CausalGraph, *, require_edges: bool = False) -> list[str]:
    """How these edges break what is declared, in words; empty where they do not.

    Tiers are broken by an edge that says that something causes what stands in an earlier tier (``later --> earlier``);
    with ``require_edges`` a declared edge, both of whose ends are there, must be there and not point the other way.
    Whoever selected the data may draw ``---``, which breaks no tier.
    """
    tier_of = {name: i for i, tier in enumerate(graph.tiers or ()) for name in tier}
    listed = list(edges)
    broken = []
    for edge in (*listed, *(e.turned() for e in listed)):
        backwards = tier_of.get(edge.a, -1) > tier_of.get(edge.b, len(tier_of))
        if backwards and (edge.at_a, edge.at_b) == ("tail", "arrow"):
            broken.append(f"{edge} runs against the tiers")
    if require_edges:
        by_pair = {pair: e for e in listed for pair in (e.pair, e.pair[::-1])}
        for cause, effect in graph.edges:
            edge_there = by_pair.get((cause, effect))
            if edge_there is None:
                broken.append(f"{cause} --> {effect} is required and not there")
            elif edge_there.mark(cause) == "arrow":
                broken.append(f"{edge_there} denies the required {cause} --> {effect}")
    return broken
