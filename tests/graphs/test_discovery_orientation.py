"""Orientation, held to the definition: every ancestral graph on four nodes is enumerated, and a class must agree on a mark."""

import itertools
from collections import defaultdict
from functools import cache

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causal_cxr.graphs.discovery import possibly_connected
from causal_cxr.graphs.discovery.marks import ARROW, CIRCLE, TAIL, marked_edges
from causal_cxr.graphs.discovery.orientation import Knowledge, orient_ancestral, orient_dag, unshielded_colliders

K = 4
NAMES = "abcd"
PAIRS = list(itertools.combinations(range(K), 2))
KINDS = {1: (ARROW, TAIL), 2: (TAIL, ARROW), 3: (ARROW, ARROW), 4: (TAIL, TAIL)}
unhurried = settings(deadline=None, max_examples=60)


@cache
def ancestral_classes(selection: bool):
    """Markov equivalence classes of maximal ancestral graphs: [(separating sets by pair, members)]."""
    classes = defaultdict(list)
    for states in itertools.product(range(5 if selection else 4), repeat=len(PAIRS)):
        marks = np.zeros((K, K), np.int8)
        for (i, j), state in zip(PAIRS, states, strict=True):
            if state:
                marks[i, j], marks[j, i] = KINDS[state]
        into, bidirected = (marks == ARROW) & (marks.T == TAIL), (marks == ARROW) & (marks.T == ARROW)
        before = into.copy()
        for _ in range(K):
            before |= before @ before
        undirected = ((marks == TAIL) & (marks.T == TAIL)).any(axis=0)
        if before.trace() or (bidirected & before).any() or (undirected & (marks == ARROW).any(axis=0)).any():
            continue
        edges = marked_edges(marks, NAMES)
        signature = tuple(separating_sets(edges, i, j) for i, j in PAIRS)
        if all(bool(sets) == (marks[i, j] == 0) for (i, j), sets in zip(PAIRS, signature, strict=True)):
            classes[signature].append(marks)
    return list(classes.items())


def separating_sets(edges, i: int, j: int):
    others = [v for v in range(K) if v not in (i, j)]
    subsets = [z for size in range(len(others) + 1) for z in itertools.combinations(others, size)]
    return tuple(z for z in subsets if not possibly_connected(edges, NAMES[i], NAMES[j], [NAMES[v] for v in z]))


def agreed(members) -> np.ndarray:
    stacked = np.stack(members)
    return np.where((stacked == stacked[0]).all(axis=0) | (stacked[0] == 0), stacked[0], CIRCLE)


def oriented(signature, members, known):
    adjacent = members[0] != 0
    sets = {pair: frozenset(found[0]) for pair, found in zip(PAIRS, signature, strict=True) if found}
    return orient_ancestral(adjacent, unshielded_colliders(adjacent, sets), sets, known)


def test_there_are_as_many_classes_as_the_literature_would_have():
    """Sanity of the enumeration: all DAGs on 4 nodes fall into 185 classes (Gillispie & Perlman 2002), MAGs into more."""
    without_arrows_at_both = [
        signature
        for signature, members in ancestral_classes(selection=False)
        if any(not ((m == ARROW) & (m.T == ARROW)).any() for m in members)
    ]
    assert len(without_arrows_at_both) == 185


def test_ancestral_marks_are_what_all_of_the_class_agree_on():
    for signature, members in ancestral_classes(selection=False):
        assert (oriented(signature, members, Knowledge.none(K)).marks == agreed(members)).all()


def test_tiers_add_just_what_they_imply():
    for tier in itertools.product(range(2), repeat=K):
        later = np.array([[a > b for b in tier] for a in tier])
        known = Knowledge(later, np.zeros((K, K), bool), np.zeros(K, bool), np.zeros(K, bool))
        for signature, members in ancestral_classes(selection=False):
            allowed = [m for m in members if not (later & (m == ARROW) & (m.T == TAIL)).any()]
            if allowed:
                found = oriented(signature, allowed, known)
                assert (found.marks == agreed(allowed)).all()
                assert not found.dropped


def test_under_selection_marks_are_sound_and_what_was_selected_on_has_tails():
    for selects in itertools.product([False, True], [False, True], [False], [False]):
        chosen = np.array(selects)
        known = Knowledge(np.zeros((K, K), bool), np.zeros((K, K), bool), np.ones(K, bool), chosen, selected=True)
        for signature, members in ancestral_classes(selection=True):
            allowed = [m for m in members if not (m == ARROW).any(axis=0)[chosen].any()]
            if allowed:
                found, truth = oriented(signature, allowed, known).marks, agreed(allowed)
                assert ((found == truth) | (found == CIRCLE)).all()
                if not chosen.any():
                    assert (found == truth).all()


@st.composite
def dags(draw, k: int = 5):
    order = draw(st.permutations(range(k)))
    matrix = np.zeros((k, k), bool)
    for i, j in itertools.combinations(range(k), 2):
        matrix[order[i], order[j]] = draw(st.booleans())
    return matrix


def dags_of_the_class(adjacent, colliders, later):
    """All DAGs on the skeleton with just these unshielded colliders, and no edge against the tiers."""
    pairs = [(i, j) for i, j in itertools.combinations(range(len(adjacent)), 2) if adjacent[i, j]]
    for turns in itertools.product([False, True], repeat=len(pairs)):
        dag = np.zeros(adjacent.shape, bool)
        for (i, j), turn in zip(pairs, turns, strict=True):
            dag[(j, i) if turn else (i, j)] = True
        acyclic = nx.is_directed_acyclic_graph(nx.from_numpy_array(dag, create_using=nx.DiGraph))
        if acyclic and not (dag & later).any() and colliders_of(dag) == colliders:
            yield dag


def colliders_of(dag):
    adjacent = dag | dag.T
    return {
        (a, b, c)
        for b in range(len(dag))
        for a, c in itertools.combinations(np.flatnonzero(dag[:, b]).tolist(), 2)
        if not adjacent[a, c]
    }


@given(dags(), st.lists(st.integers(0, 1), min_size=5, max_size=5), st.booleans())
@unhurried
def test_meeks_rules_with_tiers_direct_just_what_the_class_agrees_on(dag, tier, tiered):
    later = np.array([[a > b for b in tier] for a in tier]) & tiered
    adjacent, colliders = dag | dag.T, colliders_of(dag)
    members = list(dags_of_the_class(adjacent, colliders, later))
    if not members or adjacent.sum() > 16:
        return
    known = Knowledge(later, np.zeros((5, 5), bool), np.zeros(5, bool), np.zeros(5, bool))
    found = orient_dag(adjacent, sorted(colliders), known)
    always = np.stack(members).all(axis=0)
    assert ((found.marks == ARROW) == always).all()
    assert not found.dropped


@given(st.randoms(use_true_random=False), dags(), st.lists(st.integers(0, 2), min_size=5, max_size=5))
@unhurried
def test_whatever_the_tests_say_the_outcome_has_no_cycle_and_heeds_the_tiers(random, dag, tier):
    adjacent = dag | dag.T
    later = np.array([[a > b for b in tier] for a in tier])
    triples = [
        (a, b, c)
        for b in range(5)
        for a, c in itertools.combinations(np.flatnonzero(adjacent[b]).tolist(), 2)
        if not adjacent[a, c]
    ]
    wrong = [triple for triple in triples if random.random() < 0.5]
    known = Knowledge(later, np.zeros((5, 5), bool), np.zeros(5, bool), np.zeros(5, bool))
    found = orient_dag(adjacent, wrong, known)
    directed = (found.marks == ARROW) & (found.marks.T == TAIL)
    assert nx.is_directed_acyclic_graph(nx.from_numpy_array(directed, create_using=nx.DiGraph))
    assert not (directed & later).any()
    assert (directed & later.T)[adjacent & later.T].all()
    sets = {(a, c): frozenset() for a, _, c in wrong}
    marks = orient_ancestral(adjacent, wrong, sets, known).marks
    assert not (later & (marks == ARROW) & (marks.T == TAIL)).any()


def test_a_collider_against_the_tiers_is_dropped_and_said():
    adjacent = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    later = np.zeros((3, 3), bool)
    later[0, 1] = True  # 0 is no cause of 1
    known = Knowledge(later, np.zeros((3, 3), bool), np.zeros(3, bool), np.zeros(3, bool))
    found = orient_dag(adjacent, [(0, 1, 2)], known)
    assert found.dropped == [((0, 1, 2), "knowledge")]
    assert [str(e) for e in marked_edges(found.marks, "xyz")] == ["x <-- y", "y o-o z"]


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_colliders_that_contradict_each_other_the_surer_stands(first):
    adjacent = np.zeros((4, 4), bool)
    for i, j in ((0, 1), (1, 2), (2, 3)):
        adjacent[i, j] = adjacent[j, i] = True
    both = [(0, 1, 2), (1, 2, 3)]
    found = orient_dag(adjacent, both if first == 0 else both[::-1], Knowledge.none(4))
    assert found.dropped == [(both[1 - first], "other colliders")]
