"""What to adjust for, to read an effect off unedited images. DoWhy checks every set that leaves here."""

import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import networkx as nx

from causal_cxr.graphs.separation import SELECTION, explicit_dag, minimal_separator, selection

if TYPE_CHECKING:
    from causal_cxr.graphs.graph import CausalGraph

CONCEPT = ("concept",)  # a hidden attribute that the graph does not have; a tuple cannot be an attribute's name


@lru_cache(maxsize=256)
def adjustment_set(graph: "CausalGraph", treatment: str, outcome: str | None = None) -> frozenset[str] | None:
    """Labelled attributes that identify the total effect of ``treatment``; ``None`` if none do.

    For a concept U outside the graph (``outcome=None``) this is the design's Z(A): the :func:`markov_boundary` of A.
    It is ``None`` when

    - U hanging on A and on every declared ancestor of A would still be confounded with A (DoWhy finds so; a declared
      hidden common cause is one case), or
    - A shares a latent cause with one of its declared descendants, directly or through its district: U may hang on that
      descendant (DoWhy, with U hanging on A's descendants as well).

    For an outcome that the graph has: Z(A) without the outcome where DoWhy finds it valid, else a minimal valid set. An
    outcome that causes A has none, as nothing blocks that arrow.

    Raises:
        ValueError: unknown attribute; treatment and outcome are the same.

    >>> from causal_cxr.graphs import Binary, CausalGraph, Continuous
    >>> age, view = Continuous("age", "years", 18, 100), Binary("view", levels=("PA", "AP"))
    >>> CausalGraph([age, view], [("age", "view")]).adjustment_set("view")
    frozenset({'age'})
    """
    if treatment == outcome:
        raise ValueError(f"Treatment and outcome are both {treatment!r}; name two attributes, or outcome=None.")
    boundary = markov_boundary(graph, graph.known(treatment))
    dag, always = explicit_dag(graph), selection(graph)
    if outcome is None:
        causes = {treatment, *graph.ancestors(treatment)}
        on_causes = _with_concept(dag, causes)
        on_effects = _with_concept(dag, causes | graph.descendants(treatment))
        # Which of A's effects were selected on is no matter of adjustment; hence no selection in the second check.
        unconfounded = _blocks(on_causes, treatment, CONCEPT, boundary | always)
        return boundary if unconfounded and _blocks(on_effects, treatment, CONCEPT, boundary) else None

    if always and SELECTION in _after(dag, _causal_nodes(dag, treatment, graph.known(outcome))):
        return None  # selected on the outcome or on the way to it: no covariate undoes that
    candidate = boundary - {outcome}
    if _blocks(dag, treatment, graph.known(outcome), candidate | always):
        return candidate
    allowed = set(graph.labelled) - graph.descendants(treatment) - {treatment, outcome}
    found = minimal_separator(_without_causal_edges(dag, treatment, outcome), treatment, outcome, allowed, always)
    return found if found is not None and _blocks(dag, treatment, outcome, found | always) else None


def markov_boundary(graph: "CausalGraph", name: str) -> frozenset[str]:
    """The smallest set of labelled non-descendants that separates ``name`` from all other ones, given the selection.

    It is unique, and ``v`` is in it exactly if ``name`` and ``v`` stay connected given all the others (intersection
    property of d-separation). Without selection and hidden nodes: the parents; with bidirected edges, the district
    among the non-descendants and its parents.
    """
    dag, always = explicit_dag(graph), selection(graph)
    others = set(graph.labelled) - graph.descendants(name) - {name}
    return frozenset(v for v in others if not nx.is_d_separator(dag, {name}, {v}, (others - {v}) | always))


def _with_concept(dag: nx.DiGraph, causes: Iterable[Any]) -> nx.DiGraph:
    extended = nx.DiGraph(dag)
    extended.add_edges_from((cause, CONCEPT) for cause in causes)
    return extended


def _causal_nodes(dag: nx.DiGraph, treatment: str, outcome: Any) -> set:
    """What lies on a directed path from treatment to outcome, the outcome included and the treatment not."""
    return nx.descendants(dag, treatment) & (nx.ancestors(dag, outcome) | {outcome})


def _after(dag: nx.DiGraph, nodes: set) -> set:
    return nodes.union(*(nx.descendants(dag, node) for node in nodes))


def _without_causal_edges(dag: nx.DiGraph, treatment: str, outcome: Any) -> nx.DiGraph:
    """The proper back-door graph: the first edges of causal paths are gone, the treatment's other effects stay.

    Without selection that is as good as the usual removal of all edges out of the treatment; with it, the treatment's
    own edge into the selection must stay to be blocked.
    """
    cut = nx.DiGraph(dag)
    cut.remove_edges_from([(treatment, node) for node in _causal_nodes(dag, treatment, outcome)])
    return cut


def _blocks(dag: nx.DiGraph, treatment: str, outcome: Any, given: Iterable[Any]) -> bool:
    """Whether DoWhy accepts ``given`` as a back-door set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what importing DoWhy warns of is not the user's to mend
        from dowhy.graph import check_valid_backdoor_set  # seconds to import: only when asked

    cut = _without_causal_edges(dag, treatment, outcome)
    answer = check_valid_backdoor_set(dag, [treatment], [outcome], set(given), new_graph=cut)
    return bool(answer["is_dseparated"])
