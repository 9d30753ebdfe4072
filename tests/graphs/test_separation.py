import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import graphs

from causal_cxr.graphs import Binary, CausalGraph


def canonical_dag(graph: CausalGraph) -> nx.DiGraph:
    """Second implementation: latents and selection as integer nodes."""
    dag = nx.DiGraph(graph.edges)
    dag.add_nodes_from(graph.attributes)
    for i, pair in enumerate(graph.confounded):
        dag.add_edges_from((i, end) for end in pair)
    dag.add_edges_from((name, -1) for name in graph.selected_on)
    return dag


def separated_by_moralisation(dag: nx.DiGraph, x, y, given) -> bool:
    """d-separation as Lauritzen (1990) has it: no path in the moral graph of the ancestors once ``given`` is gone."""
    kept = {x, y, *given}.union(*(nx.ancestors(dag, node) for node in (x, y, *given)))
    moral = nx.moral_graph(dag.subgraph(kept))
    moral.remove_nodes_from(given)
    return not nx.has_path(moral, x, y)


@given(graphs(selected=True), st.data())
def test_m_separation_is_that_of_the_moral_graph(graph, data):
    x, y, *others = data.draw(st.permutations(list(graph.attributes)))
    condition = {name for name in others if data.draw(st.booleans())}
    selected = {-1} if graph.selected_on else set()
    expected = separated_by_moralisation(canonical_dag(graph), x, y, condition | selected)
    assert graph.m_separated(x, y, condition) == expected
    assert graph.m_separated(y, x, condition) == expected


@given(graphs(hidden=True, selected=True))
@settings(deadline=None)
def test_implied_independences_hold_are_minimal_and_none_is_missing(graph):
    statements = {frozenset((x, y)): given for x, y, given in graph.implied_independences()}
    for x in graph.labelled:
        for y in set(graph.labelled) - {x}:
            separators = [given for given in subsets(set(graph.labelled) - {x, y}) if graph.m_separated(x, y, given)]
            found = statements.get(frozenset((x, y)))
            assert (found is None) == (not separators)
            if found is not None:
                assert found in separators
                assert not any(other < found for other in separators)


def subsets(names):
    found = [frozenset()]
    for name in sorted(names):
        found += [subset | {name} for subset in found]
    return found


def graph_over(names, **declared):
    return CausalGraph([Binary(name) for name in names], **declared)


def test_a_bidirected_edge_is_a_latent_common_cause():
    graph = graph_over("abc", edges=[("b", "c")], confounded=[("a", "b")])
    assert not graph.m_separated("a", "b")
    assert not graph.m_separated("a", "c")
    assert graph.m_separated("a", "c", ["b"])
    assert graph.implied_independences() == [("a", "c", frozenset("b"))]


def test_bidirected_edges_meet_in_a_collider():
    graph = graph_over("abc", confounded=[("a", "b"), ("b", "c")])
    assert graph.m_separated("a", "c")
    assert not graph.m_separated("a", "c", ["b"])


def test_selection_ties_what_it_selects_on_and_leaves_one_alone_as_it_was():
    assert not graph_over("ab", selected_on=["a", "b"]).m_separated("a", "b")
    assert graph_over("ab", selected_on=["a"]).m_separated("a", "b")
    collider = graph_over("abc", edges=[("a", "c"), ("b", "c")], selected_on=["c"])
    assert not collider.m_separated("a", "b")
    assert collider.implied_independences() == []


def test_hidden_attributes_are_never_conditioned_on():
    chain = CausalGraph([Binary("a"), Binary("m", hidden=True), Binary("b")], [("a", "m"), ("m", "b")])
    assert chain.implied_independences() == []
    assert chain.m_separated("a", "b", ["m"])


@pytest.mark.parametrize(("x", "y", "given"), [("a", "a", []), ("a", "b", ["a"])])
def test_a_question_that_names_an_attribute_twice_is_refused(x, y, given):
    with pytest.raises(ValueError, match="name each attribute once"):
        graph_over("ab").m_separated(x, y, given)


def test_an_unknown_attribute_is_refused():
    with pytest.raises(ValueError, match="Unknown attribute 'z'"):
        graph_over("ab").m_separated("a", "z")
