import networkx as nx
import numpy as np
import pytest
from dowhy.causal_identifier.auto_identifier import BackdoorAdjustment, identify_backdoor
from hypothesis import HealthCheck, given, settings
from random_graphs import graphs

from causal_cxr.graphs import Binary, CausalGraph
from causal_cxr.graphs.identification import identify, markov_boundary, selected_effects

unhurried = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def graph_over(names, edges=(), hidden=(), **declared):
    attributes = [Binary(name, hidden=name in hidden) for name in names]
    return CausalGraph(attributes, edges, **declared)


def test_the_designs_own_case():
    graph = graph_over(["age", "view"], [("age", "view")])
    assert graph.adjustment_set("view") == {"age"}
    assert graph.adjustment_set("age") == set()


ABC_M = graph_over("abcm", [("b", "a"), ("c", "b"), ("a", "m")])


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (ABC_M, {"b"}),
        (graph_over("abc", [("c", "b")], confounded=[("a", "b")]), {"b", "c"}),  # district and its parents
        (graph_over("abcd", confounded=[("a", "b"), ("b", "c")]), {"b", "c"}),
        (graph_over("am", [("a", "m")], confounded=[("a", "m")]), None),  # latent cause shared with a descendant
        (graph_over("abm", [("a", "m")], confounded=[("a", "b"), ("b", "m")]), None),  # by way of the district
        (graph_over("amb", [("a", "m"), ("b", "m")]), set()),  # the other parent of a child is no concern
        (graph_over("ha", [("h", "a")], hidden="h"), None),  # a hidden cause, on which the concept may hang
        (graph_over("hgba", [("h", "b"), ("h", "a"), ("g", "b")], hidden="h"), None),
        (graph_over("ab", selected_on=["a", "b"]), {"b"}),  # selection ties them
        (graph_over("amb", [("a", "m"), ("b", "m")], selected_on=["m"]), {"b"}),
        (graph_over("ab", selected_on=["a"]), set()),
    ],
)
def test_what_a_concept_outside_the_graph_needs(graph, expected):
    assert graph.adjustment_set("a") == expected


@given(graphs())
def test_the_boundary_is_the_district_among_non_descendants_and_its_parents(graph):
    for name in graph.attributes:
        kept = CausalGraph(graph.attributes.values(), graph.edges, graph.confounded).without(graph.descendants(name))
        district = kept.district(name)
        expected = district.union(*(kept.parents(member) for member in district)) - {name}
        assert markov_boundary(graph, name) == expected


@given(graphs(confounded=False))
@unhurried
def test_in_a_dag_the_adjustment_set_is_the_parents(graph):
    for name in graph.attributes:
        assert graph.adjustment_set(name) == graph.parents(name)


@given(graphs())
@unhurried
def test_without_hidden_causes_a_set_lacks_exactly_if_a_descendant_is_in_the_district(graph):
    for name in graph.attributes:
        confounded = latent_path_to_descendant(graph, name)
        assert (graph.adjustment_set(name) is None) == confounded


def latent_path_to_descendant(graph, name):
    """Bidirected edges from ``name`` through non-descendants to a descendant."""
    bidirected = nx.Graph(graph.confounded)
    bidirected.add_nodes_from(graph.attributes)
    below = graph.descendants(name)
    inside = nx.node_connected_component(bidirected.subgraph(set(bidirected) - below), name)
    return any(bidirected.has_edge(a, b) for a in inside for b in below)


@given(graphs(hidden=True))
@unhurried
def test_a_set_for_a_declared_outcome_exists_exactly_if_dowhy_finds_one(graph):
    treatment = graph.topological_order()[0]
    if treatment in graph.hidden:
        return
    dag = graph.to_dowhy()
    for outcome in set(graph.attributes) - {treatment}:
        sets = identify_backdoor(
            dag, [treatment], [outcome], list(graph.labelled), BackdoorAdjustment.BACKDOOR_EXHAUSTIVE
        )
        found = graph.adjustment_set(treatment, outcome)
        assert (found is None) == (not sets)
        if (
            found is not None
        ):  # DoWhy does not list all valid sets, so networkx judges this one by the back-door criterion
            back_door = nx.DiGraph(dag)
            back_door.remove_edges_from(list(dag.out_edges(treatment)))
            assert nx.is_d_separator(back_door, {treatment}, {outcome}, set(found))
            assert not found & graph.descendants(treatment)


@given(graphs(hidden=True, selected=True))
@unhurried
def test_a_set_never_has_a_descendant_a_hidden_attribute_or_the_outcome(graph):
    first, *rest = graph.topological_order()
    for treatment, outcome in [(first, None), (first, rest[0]), (rest[-1], None), (rest[-1], first)]:
        found = graph.adjustment_set(treatment, outcome) or frozenset()
        assert found <= set(graph.labelled) - graph.descendants(treatment) - {treatment, outcome}


def test_the_set_recovers_the_effect_in_a_linear_model():
    """b -> a -> m -> y, b -> y, a <-> c <- latent: regression on Z(a) gives the product of path coefficients."""
    rng = np.random.default_rng(0)
    n = 200_000
    b, latent = rng.normal(size=(2, n))
    c = latent + rng.normal(size=n)
    a = 0.7 * b + latent + rng.normal(size=n)
    m = 0.5 * a + rng.normal(size=n)
    y = 0.8 * m + 1.5 * b + rng.normal(size=n)
    graph = graph_over("abcmy", [("b", "a"), ("a", "m"), ("m", "y"), ("b", "y")], confounded=[("a", "c")])
    columns = {"b": b, "c": c}
    for outcome in ("y", None):
        adjusted = graph.adjustment_set("a", outcome)
        design = np.column_stack([a, np.ones(n), *(columns[name] for name in sorted(adjusted))])
        assert np.linalg.lstsq(design, y, rcond=None)[0][0] == pytest.approx(0.5 * 0.8, abs=0.02)


def test_when_the_boundary_fails_another_set_may_do():
    hidden_cause = graph_over("haby", [("h", "a"), ("h", "b"), ("b", "y")], hidden="h")
    assert hidden_cause.adjustment_set("a") is None  # a concept may hang on h
    assert hidden_cause.adjustment_set("a", "y") == {"b"}  # y does not
    m_bias = graph_over("acy", [("a", "y")], confounded=[("a", "c"), ("c", "y")])
    assert m_bias.adjustment_set("a") is None  # a concept may hang on c or on y: c must be held and must not
    assert m_bias.adjustment_set("a", "y") == set()  # holding c would tie the latent causes of a and y


@pytest.mark.parametrize(
    ("graph", "outcome"),
    [
        (graph_over("ya", [("y", "a")]), "y"),  # the outcome is a cause
        (graph_over("ay", [("a", "y")], confounded=[("a", "y")]), "y"),
        (graph_over("ay", [("a", "y")], selected_on=["y"]), "y"),  # selected on the outcome
        (graph_over("amy", [("a", "m"), ("m", "y")], selected_on=["m"]), "y"),
        (graph_over("ay", selected_on=["a", "y"]), "y"),
    ],
)
def test_what_no_covariate_can_mend_is_none(graph, outcome):
    assert graph.adjustment_set("a", outcome) is None


def test_selection_on_treatment_and_a_confounder_is_adjusted_for():
    graph = graph_over("aby", [("a", "y"), ("b", "y")], selected_on=["a", "b"])
    assert graph.adjustment_set("a", "y") == {"b"}


@pytest.mark.parametrize(
    ("treatment", "outcome", "message"), [("a", "a", "both 'a'"), ("z", None, "Unknown"), ("a", "z", "Unknown")]
)
def test_a_question_about_nothing_is_refused(treatment, outcome, message):
    with pytest.raises(ValueError, match=message):
        graph_over("ab").adjustment_set(treatment, outcome)


def found(graph, treatment="x", outcome="y"):
    return {(e.kind, e.role, "".join(sorted(e.variables))) for e in identify(graph, treatment, outcome).estimands}


BACKDOOR_Z = {("backdoor", role, "z") for role in ("chosen", "minimal", "maximal")}


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (graph_over("zxy", [("z", "x"), ("z", "y"), ("x", "y")]), BACKDOOR_Z),
        # Pearl's smoking, tar and cancer
        (graph_over("xmy", [("x", "m"), ("m", "y")], confounded=[("x", "y")]), {("frontdoor", "", "m")}),
        # two mediators side by side: only both together
        (graph_over("xmny", [("x", "m"), ("m", "y"), ("x", "n"), ("n", "y")], confounded=[("x", "y")]), {("frontdoor", "", "mn")}),
        # a mediator that shares a hidden cause with the outcome is no front door
        (graph_over("xmy", [("x", "m"), ("m", "y")], confounded=[("x", "y"), ("m", "y")]), set()),
        (graph_over("wxy", [("w", "x"), ("x", "y")], confounded=[("x", "y")]), {("iv", "", "w")}),
        (graph_over("wxy", [("w", "x"), ("x", "y"), ("w", "y")], confounded=[("x", "y")]), set()),  # acts by itself
        (graph_over("wxy", [("w", "x"), ("x", "y")], confounded=[("x", "y"), ("w", "y")]), set()),  # not as if random
        (graph_over("wxy", [("w", "x"), ("x", "y")], hidden="w", confounded=[("x", "y")]), set()),  # no column
        # the napkin: do-calculus identifies it, no formula here does
        (graph_over("uwxy", [("u", "w"), ("w", "x"), ("x", "y")], confounded=[("u", "x"), ("u", "y")]), set()),
    ],
)  # fmt: skip
def test_textbook_graphs(graph, expected):
    assert found(graph) == expected


def test_a_collider_of_two_hidden_causes_is_left_alone():
    m_bias = graph_over("cxy", [("x", "y")], confounded=[("x", "c"), ("c", "y")])
    assert found(m_bias) == {("backdoor", role, "") for role in ("chosen", "minimal", "maximal")}


def test_what_may_be_added_and_what_can_be_left_out():
    # b is chosen with c (both are parents); c leads nowhere, d only serves precision
    graph = graph_over("bcdxy", [("b", "x"), ("c", "x"), ("b", "y"), ("d", "y"), ("x", "y")])
    sets = {role: names for kind, role, names in found(graph) if kind == "backdoor"}
    assert sets == {"chosen": "bc", "minimal": "b", "maximal": "bcd"}


@pytest.mark.parametrize(
    ("selected", "kinds"),
    [
        ((), {"frontdoor"}),
        (("n",), {"frontdoor"}),  # what was selected on has nothing to do with any of the three
        (("x",), set()),
        (("m",), set()),
    ],
)
def test_a_front_door_counts_under_selection_only_if_that_is_unrelated(selected, kinds):
    graph = graph_over("xmyn", [("x", "m"), ("m", "y")], confounded=[("x", "y")], selected_on=selected)
    assert {e.kind for e in identify(graph, "x", "y").estimands} == kinds


def test_an_instrument_under_selection_on_the_treatment_is_refused_and_the_reason_given():
    graph = graph_over("wxy", [("w", "x"), ("x", "y")], confounded=[("x", "y")], selected_on=["x"])
    answer = identify(graph, "x", "y")
    assert answer.estimands == ()
    assert "w would do, but the collection was selected on x" in answer.reasons["iv"]
    assert "cannot be learnt" in answer.sentence


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (graph_over("xy", [("x", "y")], confounded=[("x", "y")]), "hidden common cause of x and y"),
        (graph_over("hxy", [("h", "x"), ("h", "y"), ("x", "y")], hidden="h"), "h (no column)"),
        (graph_over("xy", [("y", "x")]), "y is declared as a cause of x"),
        (graph_over("xy", [("x", "y")], selected_on=["y"]), "selected on y, which x acts on"),
    ],
)
def test_why_there_is_no_back_door_is_said(graph, words):
    assert words in identify(graph, "x", "y").reasons["backdoor"]


def test_a_concept_outside_the_graph_has_only_back_doors():
    answer = identify(graph_over("wx", [("w", "x")]), "x")
    assert {e.kind for e in answer.estimands} == {"backdoor"}
    assert {e.variables for e in answer.estimands} == {frozenset("w")}
    assert set(answer.reasons) == {"frontdoor", "iv"}


def test_that_an_effect_of_the_attribute_was_selected_on_is_said():
    """Selected on a mediator, the adjusted effect is not the effect: by the numbers of a world, of 0.5 it leaves 0.2."""
    rng = np.random.default_rng(0)
    disease = rng.uniform(size=200_000) < 0.4
    ap = rng.uniform(size=disease.size) < np.where(disease, 0.8, 0.2)
    wires = rng.uniform(size=disease.size) < np.where(ap, 0.9, 0.1)
    kept = rng.uniform(size=disease.size) < np.where(ap, 0.95, 0.05)
    among_all, among_kept = (wires[m & disease].mean() - wires[m & ~disease].mean() for m in (kept | True, kept))
    assert among_all > 2 * among_kept
    graph = graph_over("dv", [("d", "v")], selected_on=["v"])
    assert selected_effects(graph, "d") == ("v",)
    assert "by way of v, selected on, shows only as it is left among the collected" in identify(graph, "d").sentence
    for selected in ([], ["d"]):
        assert "collected" not in identify(graph_over("dv", [("d", "v")], selected_on=selected), "d").sentence


def test_an_effect_that_the_graph_denies_is_said_to_be_zero():
    answer = identify(graph_over("zxy", [("z", "x"), ("z", "y")]), "x", "y")
    assert answer.no_directed_path
    assert "should come out as 0" in answer.sentence


def test_attributes_without_a_column_are_refused():
    with pytest.raises(ValueError, match="must both have a column"):
        identify(graph_over("hx", hidden="h"), "h", "x")


@given(graphs(hidden=True))
@unhurried
def test_back_door_sets_exist_exactly_if_dowhy_finds_one_and_are_minimal_and_maximal(graph):
    labelled = list(graph.labelled)
    if len(labelled) < 2:
        return
    treatment, outcome = labelled[0], labelled[-1]
    dag = graph.to_dowhy()
    sets = identify_backdoor(dag, [treatment], [outcome], labelled, BackdoorAdjustment.BACKDOOR_EXHAUSTIVE)
    mine = {e.role: e.variables for e in identify(graph, treatment, outcome).estimands if e.kind == "backdoor"}
    assert bool(sets) == bool(mine)
    if not mine:
        return
    back_door = nx.DiGraph(dag)
    back_door.remove_edges_from(list(dag.out_edges(treatment)))

    def works(names):
        return nx.is_d_separator(back_door, {treatment}, {outcome}, set(names))

    assert all(works(names) for names in mine.values())
    assert not any(works(mine["minimal"] - {name}) for name in mine["minimal"])
    others = set(labelled) - graph.descendants(treatment) - {treatment, outcome} - mine["maximal"]
    assert not any(works(mine["maximal"] | {name}) for name in others)


@given(graphs())
@unhurried
def test_what_may_be_held_for_a_concept_does_wherever_it_hangs(graph):
    for name in graph.attributes:
        for estimand in identify(graph, name).estimands:
            for hung in ({name, *graph.ancestors(name)}, {name, *graph.ancestors(name), *graph.descendants(name)}):
                dag = graph.to_dowhy()
                dag.add_edges_from((cause, "a concept") for cause in hung)
                dag.remove_edges_from(list(dag.out_edges(name)))
                assert nx.is_d_separator(dag, {name}, {"a concept"}, set(estimand.variables))
