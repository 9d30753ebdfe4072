"""One graph out of declaration, table and edits: who says what, where they disagree, and whether the whole holds."""

import itertools
import json

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from causal_cxr.audits.falsification import independence_tests
from causal_cxr.audits.fusion import Fused, fuse
from causal_cxr.graphs import Binary, CausalGraph
from causal_cxr.graphs.discovery import Discovered, MarkedEdge, Separation, discover, possibly_connected

A, B, C, VIEW = (Binary(name) for name in ("a", "b", "c", "view"))
CHAIN = CausalGraph([A, B, C], [("a", "b"), ("b", "c")])


def edge(attribute: str, concept: str, verdict: str, editor: str = "scm", effect: float = 0.4) -> dict[str, object]:
    return {
        "editor": editor, "attribute": attribute, "contrast": f"{attribute}: 0 to 1", "concept": concept, "verdict": verdict,
        "editor_effect": effect, "editor_low": effect - 0.1, "editor_high": effect + 0.1, "q": 0.01,
    }  # fmt: skip


def found(*edges: MarkedEdge, parted=(), variables=("a", "b", "c")) -> Discovered:
    return Discovered(tuple(variables), tuple(edges), tuple(parted), "fci", (), {})


def marks(fused: Fused) -> list[str]:
    return fused.edges["edge"].tolist()


def kinds(fused: Fused) -> list[tuple[str, str, str]]:
    return list(fused.conflicts[["a", "b", "kind"]].itertuples(index=False, name=None))


# -- edges and marks ---------------------------------------------------------------------------------------------------
def test_every_edge_says_where_it_comes_from():
    fused = fuse(
        CHAIN,
        edges=pd.DataFrame([edge("b", "leads", "hidden")]),
        discovered=found(MarkedEdge("a", "b", "circle", "arrow")),
    )
    assert fused.edges.set_index("edge")["sources"].to_dict() == {
        "a --> b": "declared, discovered", "b --> c": "declared", "b o-o leads": "revealed",
    }  # fmt: skip
    assert fused.edges["provenance"].tolist() == [
        "declared; discovered by fci", "declared", "hidden by scm: +0.40 [+0.30, +0.50]",
    ]  # fmt: skip
    assert fused.concepts == ("leads",)


def test_edits_never_orient_and_tiers_do():
    revealed = pd.DataFrame([edge("b", "leads", "hidden")])
    assert marks(fuse(CHAIN, edges=revealed))[-1] == "b o-o leads"
    tiered = CausalGraph([A, B, C, Binary("leads", hidden=True)], CHAIN.edges, tiers=[["a", "b", "c"], ["leads"]])
    last = fuse(tiered, edges=revealed).edges.iloc[-1]
    assert (last["edge"], last["oriented_by"]) == ("b o-> leads", "tiers")
    seen = found(MarkedEdge("b", "leads", "tail", "arrow"), variables=("b", "leads"))
    last = fuse(CHAIN, edges=revealed, discovered=seen).edges.iloc[-1]
    assert (last["edge"], last["oriented_by"]) == ("b --> leads", "discovered")


def test_where_declaration_and_table_disagree_about_a_mark_it_is_open_and_named():
    fused = fuse(CHAIN, discovered=found(MarkedEdge("a", "b", "arrow", "tail")))
    assert marks(fused)[0] == "a o-o b"
    assert kinds(fused) == [("a", "b", "marks differ")]
    assert fused.edges["conflict"].tolist() == ["marks differ", ""]


def test_an_edge_and_a_mark_must_last_through_the_resamples():
    seen = found(MarkedEdge("a", "b", "circle", "arrow"), MarkedEdge("a", "c", "circle", "arrow"))
    row = {"adjacent": 0.9, "arrow_at_a": 0.0, "tail_at_a": 0.0, "circle_at_a": 0.9,
           "arrow_at_b": 0.3, "tail_at_b": 0.0, "circle_at_b": 0.6}  # fmt: skip
    again = pd.DataFrame([{"a": "a", "b": "b", **row}, {"a": "a", "b": "c", **row, "adjacent": 0.4}])
    empty = CausalGraph([A, B, C])
    fused = fuse(empty, discovered=seen, frequencies=again)
    assert marks(fused) == ["a o-o b"]
    assert fused.evidence["frequency"].tolist() == [0.9]
    assert marks(fuse(empty, discovered=seen)) == ["a o-> b", "a o-> c"]
    turned = again.rename(columns={"a": "b", "b": "a"} | {f"{m}_at_a": f"{m}_at_b" for m in ("arrow", "tail", "circle")}
                          | {f"{m}_at_b": f"{m}_at_a" for m in ("arrow", "tail", "circle")})  # fmt: skip
    pd.testing.assert_frame_equal(fuse(empty, discovered=seen, frequencies=turned).edges, fused.edges)


@pytest.mark.parametrize("verdict", ["declared", "confounded", "spurious", "missed", "artifact", "none", "undecided"])
def test_other_verdicts_are_evidence_and_no_edge(verdict):
    fused = fuse(CHAIN, edges=pd.DataFrame([edge("b", "leads", verdict)]))
    assert marks(fused) == ["a --> b", "b --> c"]
    assert fused.evidence["verdict"].tolist()[-1] == verdict


def test_a_mediated_relation_is_an_edge_only_where_nothing_labelled_carries_it():
    alone = fuse(CHAIN, edges=pd.DataFrame([edge("a", "leads", "mediated")]))
    assert "a o-o leads" in marks(alone)
    assert kinds(alone) == [("a", "leads", "mediated by nothing")]
    carried = fuse(CHAIN, edges=pd.DataFrame([edge("a", "leads", "mediated"), edge("b", "leads", "hidden")]))
    assert marks(carried) == ["a --> b", "b --> c", "b o-o leads"]
    assert not kinds(carried)


# -- conflicts ---------------------------------------------------------------------------------------------------------
def test_conflicts_are_named():
    parted = [Separation("a", "b", (), 0.6), Separation("b", "leads", ("c",), 0.3)]
    seen = found(MarkedEdge("a", "c", "circle", "circle"), MarkedEdge("c", "leads", "circle", "circle"),
                 parted=parted, variables=("a", "b", "c", "leads"))  # fmt: skip
    table = pd.DataFrame([
        edge("b", "leads", "hidden", "scm"), edge("b", "leads", "none", "diffusion", 0.0), edge("c", "leads", "missed"),
    ])  # fmt: skip
    fused = fuse(CHAIN, edges=table, discovered=seen)
    assert kinds(fused) == [
        ("a", "b", "declared but separated"),
        ("a", "c", "undeclared"),
        ("b", "leads", "revealed but separated"),
        ("b", "leads", "editors disagree"),
        ("c", "leads", "adjacent but not moved"),
    ]
    assert "given c (p = 0.3" in fused.conflicts["sentence"][2]
    without = fuse(CausalGraph([A, B, C], [("a", "b")]), discovered=found(MarkedEdge("b", "c", "circle", "circle")))
    assert kinds(without) == [("b", "c", "undeclared")]


def test_a_concept_that_reads_a_labelled_attribute_is_that_attribute():
    fused = fuse(CHAIN, edges=pd.DataFrame([edge("a", "reads c", "hidden")]), reads={"reads c": "c"})
    assert "a o-o c" in marks(fused)
    assert fused.concepts == ()
    with pytest.raises(ValueError, match="Unknown attribute 'x'"):
        fuse(CHAIN, edges=pd.DataFrame([edge("x", "leads", "hidden")]))


# -- what it implies ---------------------------------------------------------------------------------------------------
def resolutions(edges):
    """Every graph that decides all circles, without a directed cycle."""
    choices = []
    for e in edges:
        ends = [("tail", "arrow") if mark == "circle" else (mark,) for mark in (e.at_a, e.at_b)]
        choices.append([MarkedEdge(e.a, e.b, x, y) for x in ends[0] for y in ends[1] if (x, y) != ("tail", "tail")])
    for chosen in itertools.product(*choices):
        dag = nx.DiGraph((e.pair if e.at_b == "arrow" else e.pair[::-1]) for e in chosen if e.at_a != e.at_b)
        if nx.is_directed_acyclic_graph(dag):
            yield chosen


@st.composite
def open_graphs(draw):
    pairs = list(itertools.combinations("abcd", 2))
    kept = [pair for pair in pairs if draw(st.integers(0, 2))]
    ends = [("tail", "arrow"), ("circle", "arrow"), ("circle", "circle"), ("arrow", "arrow"), ("arrow", "tail")]
    return [MarkedEdge(*pair, *draw(st.sampled_from(ends))) for pair in kept]


@given(open_graphs())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_called_separate_is_separate_under_every_orientation(edges):
    graphs = list(resolutions(edges))
    for x, y in itertools.combinations("abcd", 2):
        others = [n for n in "abcd" if n not in (x, y)]
        for size in range(3):
            for chosen in itertools.combinations(others, size):
                if not possibly_connected(edges, x, y, chosen):
                    assert not any(possibly_connected(graph, x, y, chosen) for graph in graphs)


@st.composite
def declared_graphs(draw):
    """Over five labelled attributes, one of them perhaps selected on."""
    pairs = list(itertools.combinations("abcde", 2))
    edges = [pair for pair in pairs if draw(st.booleans())]
    confounded = [pair for pair in pairs if draw(st.integers(0, 4)) == 0]
    return CausalGraph(
        [Binary(n) for n in "abcde"], edges, confounded, draw(st.lists(st.sampled_from("abcde"), max_size=2))
    )


@given(declared_graphs())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_a_declaration_alone_implies_what_it_always_did(graph):
    fused = fuse(graph)
    statements = {(frozenset((a, b)), given) for a, b, given in fused.independences()}
    assert {pair for pair, _ in statements} == {frozenset((a, b)) for a, b, _ in graph.implied_independences()}
    assert all(graph.m_separated(*sorted(pair), given) for pair, given in statements)
    assert fused.to_causal_graph() == graph


def test_an_open_edge_is_not_read_as_a_latent_cause():
    """a -> b <-> c would have a and c independent; a -> b -> c would not. So nothing is asked of them, but given b neither."""
    fused = fuse(CausalGraph([A, B, C], [("a", "b")]), discovered=found(MarkedEdge("b", "c", "circle", "circle")))
    assert fused.independences() == []
    with pytest.raises(ValueError, match=r"b o-o c.*no decided direction"):
        fused.to_causal_graph()


def test_a_decided_graph_becomes_a_declaration():
    tiered = CausalGraph([A, B, Binary("leads", hidden=True)], [("a", "b")], tiers=[["a"], ["b"], ["leads"]])
    seen = found(MarkedEdge("b", "leads", "tail", "arrow"), variables=("a", "b", "leads"))
    graph = fuse(tiered, discovered=seen).to_causal_graph()
    assert graph.edges == (("a", "b"), ("b", "leads"))
    assert graph.hidden == ("leads",)


# -- falsified again ---------------------------------------------------------------------------------------------------
def world(n: int = 3000, seed: int = 0, shortcut: float = 0.0):
    """a -> view -> leads; with a ``shortcut``, a acts on the leads as well."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 2, n)
    view = (rng.uniform(size=n) < 0.2 + 0.6 * a).astype(int)
    leads = rng.uniform(size=n) < 0.1 + 0.6 * view + shortcut * a
    graph = CausalGraph([A, VIEW], [("a", "view")])
    table = graph.coerce(pd.DataFrame({"a": a, "view": view}))
    return graph, table, pd.DataFrame({"leads": np.clip(leads + rng.normal(0, 0.1, n), 0, 1)})


@pytest.mark.parametrize("shortcut", [0.0, 0.25])
def test_readings_falsify_a_fused_graph_that_lacks_an_edge(shortcut):
    graph, table, scores = world(shortcut=shortcut)
    tiered = graph.with_hidden(Binary("leads"))
    tiered = CausalGraph(tiered.attributes.values(), graph.edges, tiers=[["a"], ["view"], ["leads"]])
    seen = found(MarkedEdge("view", "leads", "tail", "arrow"), variables=("view", "leads"))
    fused = fuse(tiered, edges=pd.DataFrame([edge("view", "leads", "hidden")]), discovered=seen)
    frame = fused.falsify(table, np.arange(3000), scores=scores)
    assert frame[["a", "b", "given"]].to_numpy().tolist() == [["a", "leads", "view"]]
    assert frame["rejected"].tolist() == [shortcut > 0]
    assert fused.falsify(table, np.arange(3000)).empty  # without scores, nothing is implied that labels could refute
    with pytest.raises(ValueError, match="of no concept"):
        fused.falsify(table, np.arange(3000), scores=scores.rename(columns={"leads": "wires"}))


def test_its_tests_are_those_of_the_declared_graph_where_it_is_that():
    rng = np.random.default_rng(0)
    graph = CausalGraph([A, B, C, VIEW], [("a", "b")])
    table = graph.coerce(pd.DataFrame(rng.integers(0, 2, (400, 4)), columns=["a", "b", "c", "view"]))
    mine, theirs = fuse(graph).falsify(table, np.arange(400)), independence_tests(graph, table, np.arange(400))
    pd.testing.assert_frame_equal(
        mine.sort_values(["a", "b"], ignore_index=True), theirs.sort_values(["a", "b"], ignore_index=True)
    )


def test_found_in_a_table_with_scores_and_fused_it_holds():
    graph, table, scores = world()
    tiered = CausalGraph([A, VIEW, Binary("leads", hidden=True)], graph.edges, tiers=[["a"], ["view"], ["leads"]])
    seen = discover(table, tiered, scores=scores)
    fused = fuse(tiered, edges=pd.DataFrame([edge("view", "leads", "hidden")]), discovered=seen)
    assert marks(fused) == ["a --> view", "view --> leads"]
    assert not fused.falsify(table, np.arange(3000), scores=scores)["rejected"].any()


# -- exchange ----------------------------------------------------------------------------------------------------------
def test_graphml_carries_the_provenance_and_the_picture_the_words():
    fused = fuse(CHAIN, edges=pd.DataFrame([edge("b", "<leads>", "hidden")]),
                 discovered=found(MarkedEdge("b", "a", "circle", "arrow")))  # fmt: skip
    back = nx.parse_graphml(fused.to_graphml())
    kept = back.edges["b", "<leads>"]
    assert (kept["sources"], kept["source_mark"], kept["target_mark"]) == ("revealed", "circle", "circle")
    assert json.loads(kept["evidence"])[0]["verdict"] == "hidden"
    assert back.nodes["<leads>"]["hidden"]
    assert CausalGraph.from_dict(json.loads(back.graph["declaration"])) == fused.graph
    picture = fused.draw()
    assert "<leads>" not in picture.svg
    assert "hidden by scm" in picture.svg
