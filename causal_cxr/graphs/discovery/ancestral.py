"""What perfect data could show of a declared graph: its maximal ancestral graph over the columns there are."""

from collections.abc import Iterable

import networkx as nx

from causal_cxr.graphs.discovery.marks import Mark, MarkedEdge
from causal_cxr.graphs.graph import CausalGraph
from causal_cxr.graphs.separation import explicit_dag, minimal_separator, selection


def ancestral_edges(graph: CausalGraph, variables: Iterable[str] | None = None) -> tuple[MarkedEdge, ...]:
    """The maximal ancestral graph of ``graph`` over ``variables``, hidden ones marginalised (Richardson & Spirtes 2002).

    Two are adjacent where no set of the others separates them; a tail is at what causes the other or the selection.

    Args:
        graph: with latent confounding and selection as declared.
        variables: the labelled attributes unless given.

    >>> from causal_cxr.graphs import Binary
    >>> graph = CausalGraph([Binary("a"), Binary("b"), Binary("c")], [("a", "b"), ("b", "c")], confounded=[("b", "c")])
    >>> print(*ancestral_edges(graph), sep="; ")
    a --> b; a --> c; b --> c
    """
    names = [graph.known(name) for name in (graph.labelled if variables is None else variables)]
    dag, always = explicit_dag(graph), selection(graph)
    allowed = {*names, *always}
    before = {name: nx.ancestors(dag, name) for name in {*names, *always}}
    edges = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            if minimal_separator(dag, a, b, allowed - {a, b}, always) is None:
                edges.append(MarkedEdge(a, b, _mark(a, {b, *always}, before), _mark(b, {a, *always}, before)))
    return tuple(edges)


def _mark(name: str, effects: set, before: dict) -> Mark:
    return "tail" if any(name in before[effect] for effect in effects) else "arrow"
