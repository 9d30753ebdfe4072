import json

import dowhy
import networkx as nx
import numpy as np
import pandas as pd
import pygraphviz
import pytest
from hypothesis import HealthCheck, given, settings
from random_graphs import ODD_NAMES, graphs, rich_graph

from causal_cxr.graphs import Binary, CausalGraph

ANY = graphs(names=ODD_NAMES, hidden=True, selected=True, tiers=True)
unhurried = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
A, B, C = Binary("a"), Binary("b"), Binary("c")


@given(ANY)
@unhurried
def test_every_exact_format_gives_the_graph_back(graph):
    assert CausalGraph.from_dict(json.loads(json.dumps(graph.to_dict()))) == graph
    assert CausalGraph.from_yaml(graph.to_yaml()) == graph
    assert CausalGraph.from_networkx(graph.to_networkx()) == graph
    assert CausalGraph.from_graphml(graph.to_graphml()) == graph
    assert CausalGraph.from_dot(graph.to_dot()) == graph
    assert CausalGraph.from_dowhy(graph.to_dowhy()) == graph


@pytest.mark.parametrize("fmt", ["dict", "yaml", "networkx", "graphml", "dot", "dowhy"])
def test_phrases_units_levels_and_references_survive(fmt):
    graph = rich_graph()
    back = getattr(CausalGraph, f"from_{fmt}")(getattr(graph, f"to_{fmt}")())
    assert back == graph
    assert list(back.attributes.values()) == list(graph.attributes.values())


@given(ANY)
@unhurried
def test_without_the_declaration_the_structure_still_survives(graph):
    attributes = list(graph.attributes.values())
    structure = CausalGraph(attributes, graph.to_networkx().edges, graph.confounded)
    assert CausalGraph.from_graphml(graph.to_graphml(), attributes) == structure
    assert CausalGraph.from_dot(graph.to_dot(), attributes) == structure
    plain = nx.DiGraph(graph.to_networkx().edges)
    assert CausalGraph.from_networkx(plain, attributes) == CausalGraph(attributes, plain.edges)
    dag = graph.to_dowhy()
    del dag.graph["declaration"]
    assert CausalGraph.from_dowhy(dag, attributes) == CausalGraph(attributes, graph.edges, graph.confounded)


@given(ANY)
@unhurried
def test_background_knowledge_carries_edges_and_tiers(graph):
    from causallearn.graph.GraphNode import GraphNode

    knowledge = graph.to_background_knowledge()
    attributes = list(graph.attributes.values())
    tiers = graph.tiers if any(graph.tiers[1:]) else [graph.tiers[0]]  # causal-learn keeps no empty last tier
    assert CausalGraph.from_background_knowledge(knowledge, attributes) == CausalGraph(
        attributes, graph.edges, tiers=tiers
    )
    for cause, effect in graph.edges:
        assert knowledge.is_required(GraphNode(cause), GraphNode(effect))
        assert knowledge.is_forbidden(GraphNode(effect), GraphNode(cause))
        assert not knowledge.is_forbidden(GraphNode(cause), GraphNode(effect))
    for late in graph.tiers[1]:
        assert all(knowledge.is_forbidden(GraphNode(late), GraphNode(early)) for early in graph.tiers[0])


def test_causal_learn_heeds_the_knowledge():
    from causallearn.search.ConstraintBased.PC import pc

    rng = np.random.default_rng(0)
    a = rng.normal(size=2000)
    b = a + rng.normal(size=2000)
    knowledge = CausalGraph([A, B], tiers=[["b"], ["a"]]).to_background_knowledge()
    found = pc(
        np.column_stack([a, b]),
        node_names=["a", "b"],
        background_knowledge=knowledge,
        show_progress=False,
        verbose=False,
    ).G
    assert [str(edge) for edge in found.get_graph_edges()] == ["b --> a"]


def test_dowhy_takes_the_graph_and_adjusts_for_what_it_shows():
    graph = CausalGraph([A, B, C], [("c", "a"), ("c", "b"), ("a", "b")])
    data = pd.DataFrame(np.random.default_rng(0).integers(0, 2, (50, 3)), columns=["a", "b", "c"])
    model = dowhy.CausalModel(data, "a", "b", graph=graph.to_dowhy())
    assert set(model.identify_effect().get_backdoor_variables()) == {"c"} == graph.adjustment_set("a", "b")
    assert CausalGraph.from_dowhy(model, [A, B, C]) == graph
    confounded = CausalGraph([A, B], [("a", "b")], [("a", "b")])
    model = dowhy.CausalModel(data, "a", "b", graph=confounded.to_dowhy())
    assert not model.identify_effect().get_backdoor_variables()


def test_dowhys_latents_get_names_of_their_own():
    graph = CausalGraph([A, B, Binary("U(a, b)")], confounded=[("a", "b")])
    dag = graph.to_dowhy()
    assert set(dag) == {"a", "b", "U(a, b)", "U(a, b)'"}
    assert CausalGraph.from_dowhy(dag) == graph


def test_other_tools_see_what_is_declared():
    graph = CausalGraph(
        [A, B, Binary("c", hidden=True)], [("a", "b")], [("b", "c")], selected_on=["b"], tiers=[["a"], ["b"]]
    )
    node = graph.to_networkx().nodes
    assert (node["c"]["hidden"], node["b"]["selected"], node["b"]["tier"]) == (True, True, 1)
    assert "tier" not in node["c"]
    kinds = [data["kind"] for *_, data in nx.parse_graphml(graph.to_graphml()).edges(data=True)]
    assert sorted(kinds) == ["confounded", "directed", "shows", "shows", "shows"]
    dot = pygraphviz.AGraph(graph.to_dot())
    by_label = {node.attr["label"]: node.attr for node in dot.nodes()}
    assert by_label["c"]["style"] == "dashed"
    assert by_label["b"]["shape"] == "box"
    assert [edge.attr["style"] for edge in dot.edges() if edge.attr["dir"] == "both"] == ["dashed"]


def test_a_dot_file_of_ones_own_can_be_read():
    graph = CausalGraph.from_dot("digraph { a -> b; b -> c [dir=both]; b -> image }", [A, B, C])
    assert graph == CausalGraph([A, B, C], [("a", "b"), ("b", "image")], [("b", "c")])


def test_the_block_of_the_documentation_is_read():
    block = CausalGraph.from_dict.__doc__.split("::", 1)[1].split("Raises:")[0]
    graph = CausalGraph.from_dict(_yaml(block)["graph"])
    assert graph.hidden == ("pacemaker",)
    assert graph.attributes["view"].phrase("AP", 1) == "bedside AP view"
    assert graph.confounded == (("view", "race"),)


def _yaml(text):
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(text)


def test_a_yaml_key_with_nothing_after_it_is_as_if_absent():
    graph = CausalGraph.from_yaml("attributes: [{name: view, type: binary}]\nedges:\ntiers:\n")
    assert graph == CausalGraph([Binary("view")])


def edited(graph):
    graph.remove_edge("a", "b")
    return graph


AB = CausalGraph([A, B], [("a", "b")], [("a", "b")])


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: CausalGraph.from_dict([1]), "written as a mapping with keys .*got list"),
        (lambda: CausalGraph.from_dict({"attributes": [], "edge": []}), r"unknown keys \['edge'\]; choose from"),
        (lambda: CausalGraph.from_dict({}), "at least one attribute"),
        (lambda: CausalGraph.from_yaml("a: [1"), "no valid YAML"),
        (lambda: CausalGraph.from_yaml("!!python/object/apply:os.getcwd []"), "no valid YAML"),
        (lambda: CausalGraph.from_networkx(nx.DiGraph([("a", "b")])), "no 'declaration'.*pass attributes="),
        (lambda: CausalGraph.from_networkx(edited(AB.to_networkx())), r"was edited: \[\('a', 'b'\)\]"),
        (lambda: CausalGraph.from_dot(AB.to_dot().replace(", style=dashed", "").replace("dir=both", "")), "was edited"),
        (lambda: CausalGraph.from_dot("graph of nothing"), "no DOT graph"),
        (lambda: CausalGraph.from_dot("digraph { a -> b }", [A]), "Unknown attribute 'b'"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_mend(read, message):
    with pytest.raises(ValueError, match=message):
        read()
