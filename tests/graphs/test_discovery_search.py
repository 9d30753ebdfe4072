"""Discovery from end to end: with an oracle for a test, and on tables of known models."""

import json

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from random_graphs import graphs

from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous
from causal_cxr.graphs.discovery import Discovered, ancestral_edges, discover, edge_frequencies, one_per_patient
from causal_cxr.graphs.discovery.discovered import broken_knowledge, contradict
from causal_cxr.graphs.discovery.marks import MarkedEdge

unhurried = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def number(name: str) -> Continuous:
    return Continuous(name, unit="", low=-1e3, high=1e3)


def placeholder(graph: CausalGraph) -> pd.DataFrame:
    """A table that the oracle does not look at."""
    return pd.DataFrame({name: [0, 1] * 3 for name in graph.labelled})


def by_oracle(graph: CausalGraph, believed: CausalGraph | None = None, **options) -> Discovered:
    """Search with the truth for a test."""

    def oracle(x, y, given):
        return float(graph.m_separated(x, y, given))

    return discover(placeholder(graph), believed or graph, test=oracle, depth=None, **options)


def words(found: Discovered) -> list[str]:
    return [str(edge) for edge in found.edges]


def binary_graph(edges, names="abcd", **declared) -> CausalGraph:
    return CausalGraph([Binary(name, hidden=name.isupper()) for name in names], edges, **declared)


TEXTBOOK = {
    "chain: nothing is oriented": ([("a", "b"), ("b", "c")], "abc", ["a o-o b", "b o-o c"], ["a o-o b", "b o-o c"]),
    "collider": ([("a", "b"), ("c", "b")], "abc", ["a --> b", "b <-- c"], ["a o-> b", "b <-o c"]),
    "Y structure: what follows a collider is caused by it": (
        [("a", "c"), ("b", "c"), ("c", "d")], "abcd",
        ["a --> c", "b --> c", "c --> d"], ["a o-> c", "b o-> c", "c --> d"]),
    "M bias: c joins two latent causes, and causes neither": (
        [("U", "a"), ("U", "c"), ("V", "c"), ("V", "b")], "acbUV",
        ["a --> c", "c <-- b"], ["a o-> c", "c <-o b"]),
    "latent cause between colliders (Spirtes et al. 2000, ch. 6)": (
        [("a", "b"), ("U", "b"), ("U", "c"), ("d", "c")], "abcdU", None, ["a o-> b", "b <-> c", "c <-o d"]),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTBOOK)
def test_textbook_graphs(name):
    edges, names, by_pc, by_fci = TEXTBOOK[name]
    graph = binary_graph(edges, names)
    assert words(by_oracle(graph, method="fci")) == by_fci
    if by_pc is not None:
        assert words(by_oracle(graph, method="pc")) == by_pc


def test_what_selection_alone_has_joined_has_two_tails():
    """Two independent causes of being collected; each with a cause of its own, which tells."""
    graph = binary_graph([("c", "a"), ("d", "b")], selected_on=["a", "b"])
    found = by_oracle(graph)
    assert found.edge("a", "b") == MarkedEdge("a", "b", "tail", "tail")
    assert any("selected on ['a', 'b']" in note.text for note in found.notes)


def test_a_tier_draws_no_arrow_at_what_may_have_caused_the_selection():
    graph = binary_graph([("a", "b"), ("b", "c")], "abc", selected_on=["c"], tiers=[["a"], ["b"], ["c"]])
    assert by_oracle(graph).edge("a", "b").at_b == "tail"  # a cause of the selection, by way of c
    early = binary_graph([("a", "b"), ("b", "c")], "abc", selected_on=["a"], tiers=[["a"], ["b"], ["c"]])
    assert by_oracle(early).edge("a", "b") == MarkedEdge("a", "b", "tail", "arrow")


@given(graphs(confounded=False, tiers=True, most=5))
@unhurried
def test_pc_with_a_perfect_test_finds_the_skeleton_and_no_false_direction(graph):
    found = by_oracle(graph, method="pc")
    assert {frozenset(e.pair) for e in found.edges} == {frozenset(e) for e in graph.edges}
    for edge in found.edges:
        if "circle" not in (edge.at_a, edge.at_b):
            assert (edge.pair if edge.at_b == "arrow" else edge.pair[::-1]) in graph.edges


@given(graphs(hidden=True, tiers=True, most=6))
@unhurried
def test_fci_with_a_perfect_test_finds_the_ancestral_graph_and_no_false_mark(graph):
    if len(graph.labelled) < 2:
        return
    truth = {frozenset(e.pair): e for e in ancestral_edges(graph)}
    found = by_oracle(graph)
    assert {frozenset(e.pair) for e in found.edges} == set(truth)
    for edge in found.edges:
        there = truth[frozenset(edge.pair)]
        assert not any(contradict(edge.mark(name), there.mark(name)) for name in edge.pair)
    assert not broken_knowledge(found.edges, graph)


@given(graphs(hidden=True, selected=True, most=5))
@unhurried
def test_under_declared_selection_no_mark_is_false(graph):
    if len(graph.labelled) < 2:
        return
    truth = {frozenset(e.pair): e for e in ancestral_edges(graph)}
    for edge in by_oracle(graph).edges:
        there = truth[frozenset(edge.pair)]
        assert not any(contradict(edge.mark(name), there.mark(name)) for name in edge.pair)


@given(graphs(confounded=False, most=5))
@unhurried
def test_without_knowledge_causal_learn_agrees(graph):
    """Its own PC and FCI, with its own oracle, on the same graph; only their rule 9 and 10 may go further or less far."""
    from causallearn.search.ConstraintBased.PC import pc

    names = list(graph.labelled)
    dag = nx.DiGraph()
    dag.add_nodes_from(range(len(names)))
    dag.add_edges_from((names.index(a), names.index(b)) for a, b in graph.edges)
    theirs = pc(np.zeros((len(names), len(names))), 0.05, "d_separation", true_dag=dag, show_progress=False).G.graph
    mine = by_oracle(graph, method="pc")
    for i, a in enumerate(names):
        for j, b in enumerate(names[:i]):
            edge = mine.edge(b, a)
            there = {(0, 0): None, (-1, 1): ("tail", "arrow"), (1, -1): ("arrow", "tail")}.get(
                (theirs[j, i], theirs[i, j]), ("circle", "circle")
            )
            assert (None if edge is None else (edge.at_a, edge.at_b)) == there


def test_a_tier_says_not_a_cause_and_does_not_deny_a_latent_one():
    """causal-learn's FCI returns z --> y here (py-why/causal-learn#266): the latent cause U of z and y is denied."""
    graph = CausalGraph(
        [Binary(name, hidden=name == "U") for name in "xzqyU"],
        [("x", "z"), ("x", "y"), ("U", "z"), ("U", "y"), ("z", "q"), ("q", "y")],
        tiers=[["x", "z", "q"], ["y"]],
    )
    assert by_oracle(graph).edge("z", "y") == MarkedEdge("z", "y", "circle", "arrow")
    assert broken_knowledge([MarkedEdge("z", "y", "arrow", "tail")], graph) == ["y --> z runs against the tiers"]


def test_required_edges_are_kept_and_forbidden_ones_are_no_colliders():
    """causal-learn drops required edges that a test parts (#76)."""
    truth = binary_graph([("a", "b")], "abc")
    believed = binary_graph([("a", "b"), ("a", "c")], "abc")
    assert words(by_oracle(truth, believed)) == ["a o-o b"]
    assert words(by_oracle(truth, believed, require_edges=True)) == ["a --> b", "a --> c"]
    assert broken_knowledge([], believed, require_edges=True) == [
        "a --> b is required and not there", "a --> c is required and not there",
    ]  # fmt: skip


def noisy(seed: int, n: int = 400, k: int = 5) -> pd.DataFrame:
    """Few rows of a dense linear model: tests err, and colliders contradict tiers and each other."""
    rng = np.random.default_rng(seed)
    weights = np.triu(rng.normal(size=(k, k)) * (rng.uniform(size=(k, k)) < 0.7), 1)
    values = np.zeros((n, k))
    for i in range(k):
        values[:, i] = values @ weights[:, i] + rng.normal(size=n)
    return pd.DataFrame(values, columns=list("abcde"))


@pytest.mark.parametrize("method", ["pc", "fci", "ges"])
def test_tiers_are_heeded_when_tests_err_and_the_tiers_are_false(method):
    graph = CausalGraph([number(name) for name in "abcde"], tiers=[["d", "e"], ["b"], ["a", "c"]])
    dropped = 0
    for seed in range(8):
        found = discover(noisy(seed, n=150), graph, method=method, alpha=0.1)
        assert not broken_knowledge(found.edges, graph)
        for edge in found.edges:
            for one in (edge, edge.turned()):
                if (one.a, one.b) in {("d", "b"), ("e", "a"), ("b", "c")}:
                    assert one.at_b == "arrow"
        dropped += sum(note.kind == "collider dropped" for note in found.notes)
    if method == "pc":
        assert dropped


# -- tables ------------------------------------------------------------------------------------------------------------
MIXED = CausalGraph(
    [Continuous("age", "years", 0, 100), Binary("sick"), Binary("view", levels=("PA", "AP")),
     Categorical("stage", levels=("none", "mild", "severe"), ordered=True)],
    [("age", "sick"), ("sick", "view"), ("sick", "stage")],
    tiers=[["age"], ["sick"], ["view", "stage"]],
)  # fmt: skip


def mixed_table(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 90, n)
    sick = rng.uniform(size=n) < 1 / (1 + np.exp(-(age - 55) / 10))
    view = rng.uniform(size=n) < np.where(sick, 0.7, 0.3)
    stage = np.digitize(1.2 * sick + rng.normal(size=n), [0.3, 1.2])
    return pd.DataFrame(
        {
            "age": age,
            "sick": sick.astype(int),
            "view": np.where(view, "AP", "PA"),
            "stage": np.array(["none", "mild", "severe"])[stage],
        }
    )


def test_a_table_of_all_types_gives_its_graph_back():
    found = discover(mixed_table(2000), MIXED, method="pc")
    assert found.provenance["test"] == "likelihood_ratio"
    assert words(found) == ["age --> sick", "sick --> view", "sick --> stage"]
    assert found.compare(MIXED)["agreement"].tolist() == ["same"] * 3
    by_fci = discover(mixed_table(2000), MIXED)
    assert words(by_fci) == ["age o-> sick", "sick --> view", "sick --> stage"]
    assert set(by_fci.compare(MIXED)["agreement"]) == {"open", "same"}


@pytest.mark.parametrize("method", ["pc", "ges"])
def test_numbers_and_levels_by_tests_and_by_scores(method):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 1500))
    c = a + b + rng.normal(size=1500)
    table = pd.DataFrame({"a": a, "b": b, "c": c, "d": c + rng.normal(size=1500)})
    numbers = CausalGraph([number(name) for name in "abcd"])
    wanted = ["a --> c", "b --> c", "c --> d"]
    found = discover(table, numbers, method=method)
    assert words(found) == wanted
    assert found.provenance["test"] == {"pc": "fisherz", "ges": "bic"}[method]
    levels = CausalGraph([Binary(name) for name in "abcd"])
    a, b = rng.integers(0, 2, (2, 4000))
    c = rng.uniform(size=4000) < 0.1 + 0.4 * a + 0.4 * b
    d = rng.uniform(size=4000) < 0.2 + 0.6 * c
    found = discover(pd.DataFrame({"a": a, "b": b, "c": c, "d": d}).astype(int), levels, method=method)
    assert words(found) == wanted
    assert found.provenance["test"] == {"pc": "chisq", "ges": "bdeu"}[method]


def test_a_reader_score_is_one_more_column_and_has_the_tier_of_its_hidden_attribute():
    table = mixed_table(2000)
    rng = np.random.default_rng(3)
    wires = rng.uniform(size=2000) < np.where(table["view"] == "AP", 0.8, 0.2)
    scores = pd.DataFrame({"wires": np.clip(wires + rng.normal(0, 0.3, 2000), 0, 1)})
    graph = CausalGraph([*MIXED.attributes.values(), Binary("wires", hidden=True)], MIXED.edges,
                        tiers=[["age"], ["sick"], ["view", "stage"], ["wires"]])  # fmt: skip
    found = discover(table, graph, scores=scores)
    assert found.edge("view", "wires").at_b == "arrow"
    assert found.edge("age", "wires") is None
    with pytest.raises(ValueError, match="called like a labelled attribute"):
        discover(table, graph, scores=scores.rename(columns={"wires": "view"}))
    with pytest.raises(ValueError, match="other rows"):
        discover(table, graph, scores=scores.iloc[::-1])


def test_one_row_a_patient_unless_asked_and_then_it_is_said():
    """Copies of 100 patients' rows make chance look certain."""
    rng = np.random.default_rng(5)
    small = pd.DataFrame(rng.integers(0, 2, (100, 4)), columns=list("abcd"))
    table, ids = pd.concat([small] * 30, ignore_index=True), np.tile(np.arange(100), 30)
    graph = binary_graph([])
    assert not discover(table, graph, patients=ids).edges
    naive = discover(table, graph, patients=ids, one_per_patient=False)
    assert len(naive.edges) >= 3
    assert [note.kind for note in naive.notes] == ["rows"]
    assert discover(table, graph, patients=ids).provenance["rows"] == 100


def test_rows_are_drawn_once_a_patient_and_by_the_seed():
    ids = np.repeat(np.arange(50), 4)
    rows = one_per_patient(ids, seed=1)
    assert (np.diff(rows) > 0).all()
    assert ids[rows].tolist() == list(range(50))
    assert rows.tolist() == one_per_patient(ids, seed=1).tolist() != one_per_patient(ids, seed=2).tolist()


def test_missing_values_leave_out_rows_of_the_tests_that_ask_for_them():
    table = mixed_table(3000)
    table.loc[:1499, "stage"] = None
    found = discover(table, MIXED, method="pc", variables=["sick", "view", "stage"])
    assert words(found) == ["sick --> view", "sick --> stage"]
    assert found.provenance["complete_rows"] == 1500
    assert any("missing" in note.text for note in found.notes)
    apart = table.assign(view=table["view"].where(table["stage"].isna()))
    with pytest.raises(ValueError, match="Only 0 rows know all of view, stage"):
        discover(apart, MIXED, variables=["sick", "view", "stage"])


@pytest.mark.parametrize("method", ["pc", "fci"])
def test_a_set_that_nobody_knows_with_the_two_parts_nothing_and_is_told(method):
    """Each row lacks one of three: every pair can be asked about, and nothing given the third."""
    table = mixed_table(3000)[["sick", "view", "stage"]]
    lacking = np.arange(len(table)) % 3
    table = table.assign(**{name: table[name].where(lacking != i) for i, name in enumerate(table)})
    found = discover(table, MIXED, method=method, variables=["sick", "view", "stage"])
    assert {frozenset((e.a, e.b)) for e in found.edges} == {
        frozenset(pair) for pair in (("sick", "view"), ("sick", "stage"), ("view", "stage"))
    }, "view and stage depend on each other by way of sick"
    (note,) = (note for note in found.notes if "not carried out" in note.text)
    assert set(note.about) == {"sick", "view", "stage"}
    assert found.provenance["tests"] == 3


def test_what_pc_assumes_away_is_said():
    graph = binary_graph([("a", "b")], "abc", confounded=[("b", "c")], selected_on=["c"])
    notes = by_oracle(graph, method="pc").notes
    assert [note.about for note in notes if note.kind == "assumption"] == [("b", "c"), ("c",)]


def test_a_find_survives_json_and_is_seen_by_networkx():
    found = discover(mixed_table(500), MIXED)
    assert Discovered.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    back = nx.parse_graphml(found.to_graphml())
    assert back.edges["age", "sick"]["edge"] == "age o-> sick"
    assert back.edges["age", "sick"]["target_mark"] == "arrow"
    picture = found.draw()
    assert "age o-> sick" in picture.description
    assert picture.svg.startswith("<svg")


def test_comparison_tells_what_each_alone_has():
    chain = binary_graph([("a", "b"), ("b", "c")], "abc")
    other = binary_graph([("b", "a"), ("a", "c")], "abc", tiers=[["b"], ["a", "c"]])
    frame = by_oracle(other, method="pc").compare(chain).set_index(["a", "b"])
    assert frame["agreement"].to_dict() == {
        ("a", "b"): "marks differ",
        ("a", "c"): "only found",
        ("b", "c"): "only other",
    }
    assert set(by_oracle(chain).compare(by_oracle(chain))["agreement"]) == {"same"}


# -- frequencies -------------------------------------------------------------------------------------------------------
def test_true_edges_are_found_again_and_chance_ones_are_not():
    table = mixed_table(1200)
    ids = np.arange(1200) // 2
    frame = edge_frequencies(
        table, MIXED, method="pc", variables=["sick", "view", "stage"], patients=ids, resamples=10, size=500
    )
    shares = frame.set_index(["a", "b"])
    assert shares.loc[("sick", "view"), ["adjacent", "arrow_at_b", "tail_at_a"]].tolist() == [1.0, 1.0, 1.0]
    assert shares.loc[("sick", "stage"), "adjacent"] == 1.0
    assert shares["adjacent"].get(("view", "stage"), 0.0) <= 0.2
    ends = [f"{mark}_at_{end}" for end in "ab" for mark in ("arrow", "tail", "circle")]
    assert np.allclose(frame[ends].sum(axis=1), 2 * frame["adjacent"])


def test_frequencies_are_the_same_in_one_process_and_in_two():
    table, options = (mixed_table(300)[["sick", "view"]], {"variables": ["sick", "view"], "resamples": 2, "seed": 7})
    one = edge_frequencies(table, MIXED, **options)
    done = []
    two = edge_frequencies(table, MIXED, processes=2, progress=lambda n, total: done.append((n, total)), **options)
    pd.testing.assert_frame_equal(one, two)
    assert done == [(1, 2), (2, 2)]


def test_a_bootstrap_takes_patients_whole_and_no_more_than_there_are_without():
    table = mixed_table(200)[["sick", "view"]]
    frame = edge_frequencies(table, MIXED, variables=["sick", "view"], resamples=2, replace=True)
    assert frame["size"].tolist() == [200] * len(frame)
    with pytest.raises(ValueError, match="there are 200 patients"):
        edge_frequencies(table, MIXED, variables=["sick", "view"], size=201)


REFUSALS = [
    ({"method": "lingam"}, "Unknown method 'lingam'"),
    ({"test": "kci"}, "no test 'kci'"),
    ({"test": "fisherz"}, "have levels"),
    ({"method": "ges", "test": lambda x, y, z: 1.0}, "tests nothing"),
    ({"variables": ["age"]}, "two variables or more"),
    ({"variables": ["age", "age"]}, "twice in variables"),
    ({"variables": ["age", "sik"]}, "did you mean 'sick'"),
    ({"alpha": 1.0}, "between 0 and 1"),
    ({"patients": [1, 2]}, "one a row"),
]


@pytest.mark.parametrize(("options", "message"), REFUSALS)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        discover(mixed_table(60), MIXED, **options)


def test_what_does_not_vary_or_has_no_column_is_refused_by_name():
    table = mixed_table(60)
    with pytest.raises(ValueError, match="'sick' does not vary"):
        discover(table.assign(sick=1), MIXED)
    with pytest.raises(ValueError, match="no column for 'view'"):
        discover(table.drop(columns="view"), MIXED)
    with pytest.raises(ValueError, match="'wires' is hidden"):
        discover(table, MIXED.with_hidden(Binary("wires")), variables=["sick", "wires"])
