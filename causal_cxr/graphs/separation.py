"""m-separation, and what a graph implies that data could refute.

An ADMG is separated as networkx's d-separation on the DAG with its latents explicit: each bidirected edge is a common
cause of its two ends, and selection is one conditioned common effect of what the collection was selected on.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import networkx as nx

if TYPE_CHECKING:
    from causal_cxr.graphs.graph import CausalGraph

# Nodes that are no attributes are tuples, so that no attribute's name can be mistaken for one.
SELECTION = ("selection",)


def explicit_dag(graph: "CausalGraph") -> nx.DiGraph:
    """The DAG over attributes, one ``("latent", a, b)`` a bidirected edge, and ``SELECTION`` if there is any."""
    dag = nx.DiGraph()
    dag.add_nodes_from(graph.attributes)
    dag.add_edges_from(graph.edges)
    for a, b in graph.confounded:
        dag.add_edges_from([(("latent", a, b), a), (("latent", a, b), b)])
    dag.add_edges_from((name, SELECTION) for name in graph.selected_on)
    return dag


def selection(graph: "CausalGraph") -> set:
    """What every statement about the collected data is conditioned on: ``{SELECTION}`` or nothing."""
    return {SELECTION} if graph.selected_on else set()


def m_separated(graph: "CausalGraph", x: str, y: str, given: Iterable[str] = ()) -> bool:
    """Whether ``x`` and ``y`` are independent given ``given``, in the collected data, whatever the mechanisms.

    Raises:
        ValueError: unknown attribute, ``x`` is ``y``, or one of them is in ``given``.
    """
    condition = {graph.known(name) for name in given}
    if graph.known(x) == graph.known(y) or {x, y} & condition:
        raise ValueError(f"Cannot separate {x!r} from {y!r} given {sorted(condition)}: name each attribute once.")
    return bool(nx.is_d_separator(explicit_dag(graph), {x}, {y}, condition | selection(graph)))


def implied_independences(graph: "CausalGraph") -> list[tuple[str, str, frozenset[str]]]:
    """The (x, y, given) statements that the labelled columns could refute: one for each pair that can be separated.

    ``given`` is a minimal set of labelled attributes that separates them (van der Zander, Liśkiewicz & Textor 2019,
    doi:10.1016/j.artint.2018.12.006); pairs that no labelled set separates are left out. ``x`` comes before ``y`` in
    :meth:`CausalGraph.topological_order`.
    """
    dag, always = explicit_dag(graph), selection(graph)
    allowed = {*graph.labelled, *always}
    order = [name for name in graph.topological_order() if name in allowed]
    statements = []
    for i, x in enumerate(order):
        for y in order[i + 1 :]:
            separator = minimal_separator(dag, x, y, allowed - {x, y}, always)
            if separator is not None:
                statements.append((x, y, separator))
    return statements


def minimal_separator(dag: nx.DiGraph, x: str, y: str, allowed: set, always: set) -> frozenset[str] | None:
    """A minimal set within ``allowed`` that, with ``always``, separates ``x`` from ``y``; ``None`` if none does."""
    found = nx.find_minimal_d_separator(dag, x, y, included=always, restricted=allowed | always)
    return None if found is None else frozenset(found - always)
