"""Skeletons and separating sets, by causal-learn's fast adjacency search and greedy equivalence search."""

import contextlib
import io
import warnings
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from causal_cxr.graphs.discovery.independence import (
    Columns,
    IndependenceTest,
    LibraryTest,
    LikelihoodRatioTest,
    TestByName,
    TooFewRowsError,
)
from causal_cxr.graphs.discovery.marks import ARROW, NONE
from causal_cxr.graphs.discovery.orientation import (
    Knowledge,
    Oriented,
    orient_ancestral,
    orient_dag,
    skeleton_marks,
    unshielded_colliders,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what importing causal-learn warns of is not the user's to mend
    from causallearn.graph.GraphNode import GraphNode
    from causallearn.utils.cit import CIT_Base
    from causallearn.utils.FAS import fas

Pair = tuple[int, int]
Parted = dict[Pair, tuple[frozenset[int], float]]  #: (i, j), i < j -> the set that parted them, and its p


@dataclass(frozen=True)
class Problem:
    """What is searched, and how; the rows come with :func:`solve`."""

    columns: Columns
    known: Knowledge
    method: str
    test: "str | TestByName"
    alpha: float
    depth: int | None
    bins: int


@dataclass(frozen=True)
class Solution:
    """What a search ended with.

    Attributes:
        oriented: the graph.
        parted: what parted those that are not adjacent.
        tests: that were carried out.
        unasked: (x, y, given) that too few rows know all of: it parted nothing.
    """

    oriented: Oriented
    parted: Parted
    tests: int
    unasked: tuple[tuple[int, int, tuple[int, ...]], ...] = ()


def solve(problem: Problem, rows: np.ndarray) -> Solution:
    """Search the given rows."""
    columns = problem.columns.part(rows)
    for name, values in zip(columns.names, columns.codes.T, strict=True):
        if len(np.unique(values[~np.isnan(values)])) < 2:
            raise ValueError(
                f"{name!r} does not vary in the {len(rows)} rows searched; leave it out of variables=[...]."
            )
    if problem.method == "ges":
        return _greedy(problem, columns)
    test = CountedTest(_test(problem, columns), len(columns.names), problem.known)
    adjacent, parted = _skeleton(test, problem.alpha, problem.depth)
    if problem.method == "fci":
        adjacent, parted = _beyond_neighbours(test, adjacent, parted, problem)
        sets = {pair: given for pair, (given, _) in parted.items()}
        oriented = orient_ancestral(adjacent, unshielded_colliders(adjacent, sets), sets, problem.known)
    else:
        colliders = unshielded_colliders(adjacent, {pair: given for pair, (given, _) in parted.items()})
        surest_first = sorted(colliders, key=lambda triple: (-parted[triple[0], triple[2]][1], triple))
        oriented = orient_dag(adjacent, surest_first, problem.known)
    return Solution(oriented, parted, test.count, tuple(test.unasked))


def _test(problem: Problem, columns: Columns) -> IndependenceTest:
    if callable(problem.test):
        return _ByName(problem.test, columns.names)
    if problem.test == "likelihood_ratio":
        return LikelihoodRatioTest(columns)
    values = columns.codes if problem.test == "fisherz" else columns.binned(problem.bins)
    return LibraryTest(values, columns.names, problem.test)


class _ByName:
    """A caller's own test, which knows columns by name."""

    def __init__(self, test: TestByName, names: tuple[str, ...]) -> None:
        self.name, self._test, self._names = getattr(test, "__name__", type(test).__name__), test, names

    def __call__(self, x: int, y: int, given: tuple[int, ...]) -> float:
        return float(self._test(self._names[x], self._names[y], tuple(self._names[i] for i in given)))


class CountedTest(CIT_Base):
    """A test as causal-learn asks it: cached, counted, and silent where knowledge has the answer.

    A required edge is never parted (causal-learn would part it: py-why/causal-learn#76), and a pair not by what comes
    after both: the set that parts two lies among the causes of the two, or of the selection. Nor by a set that too few rows
    know: that two depend on each other was seen without it.

    Attributes:
        unasked: questions of that kind.
    """

    def __init__(self, test: IndependenceTest, k: int, known: Knowledge) -> None:
        super().__init__(np.zeros((1, k)))
        self.method = test.name  # causal-learn asks
        self._test, self._known = test, known
        self._ps: dict[tuple[int, int, tuple[int, ...]], float] = {}
        self.unasked: list[tuple[int, int, tuple[int, ...]]] = []

    @property
    def count(self) -> int:
        return len(self._ps) - len(self.unasked)

    def may_part(self, x: int, y: int, given: int) -> bool:
        known = self._known
        return bool(known.selecting[given] or not (known.not_causing[given, x] and known.not_causing[given, y]))

    def __call__(self, X: int, Y: int, condition_set: tuple[int, ...] | None = None) -> float:
        x, y = sorted((int(X), int(Y)))
        given = tuple(sorted(int(i) for i in condition_set or ()))
        if self._known.required[x, y] or self._known.required[y, x] or not all(self.may_part(x, y, i) for i in given):
            return 0.0
        if (x, y, given) not in self._ps:
            try:
                self._ps[x, y, given] = self._test(x, y, given)
            except TooFewRowsError:
                if not given:
                    raise  # nothing at all is known of the two
                self._ps[x, y, given] = 0.0
                self.unasked.append((x, y, given))
        return self._ps[x, y, given]

    def accepted(self, alpha: float) -> Parted:
        """Of each pair that was parted, the surest set: the largest p (Ramsey 2016, arXiv:1610.00378)."""
        best: Parted = {}
        for (x, y, given), p in sorted(self._ps.items()):
            if p > alpha and ((x, y) not in best or p > best[x, y][1]):
                best[x, y] = (frozenset(given), p)
        return best


def _skeleton(test: CountedTest, alpha: float, depth: int | None) -> tuple[np.ndarray, Parted]:
    """``(k, k)`` bool, and what parted the rest."""
    k = test.num_features
    nodes = [GraphNode(f"X{i}") for i in range(k)]
    limit = -1 if depth is None else depth
    graph, _, _ = fas(np.zeros((1, k)), nodes, test, float(alpha), depth=limit, show_progress=False)
    adjacent = np.asarray(graph.graph) != 0
    return adjacent, {pair: found for pair, found in test.accepted(alpha).items() if not adjacent[pair]}


def _beyond_neighbours(
    test: CountedTest, adjacent: np.ndarray, parted: Parted, problem: Problem
) -> tuple[np.ndarray, Parted]:
    """FCI's second pass: with latent causes, what parts two may be beside neither.

    The sets are those of Possible-D-SEP (Spirtes, Glymour & Scheines 2000, ch. 6), no larger than ``depth``.

    causal-learn's own second pass heeds no depth; its cost grows with two to the power of all nodes.
    """
    colliders = unshielded_colliders(adjacent, {pair: given for pair, (given, _) in parted.items()})
    marks = skeleton_marks(adjacent)
    for a, b, c in colliders:
        marks[a, b] = marks[c, b] = ARROW
    reach = [_possible_d_sep(marks, x) for x in range(len(marks))]
    adjacent, parted = adjacent.copy(), dict(parted)
    for x, y in zip(*np.nonzero(np.triu(adjacent)), strict=True):
        pools = [[v for v in sorted(reach[end] - {x, y}) if test.may_part(x, y, v)] for end in (x, y)]
        most = max(map(len, pools))
        for size in range(1, 1 + (most if problem.depth is None else min(most, problem.depth))):
            sets = dict.fromkeys(given for pool in pools for given in combinations(pool, size))
            best_p, best = max(((test(x, y, given), given) for given in sets), default=(0.0, ()))
            if best_p > problem.alpha:
                adjacent[x, y] = adjacent[y, x] = False
                parted[int(x), int(y)] = (frozenset(best), best_p)
                break
    return adjacent, parted


def _possible_d_sep(marks: np.ndarray, x: int) -> set[int]:
    """What a path reaches from ``x`` on which each inner node is a collider or has its neighbours beside each other."""
    waiting = [(x, int(v)) for v in np.flatnonzero(marks[x])]
    seen = set(waiting)
    while waiting:
        a, b = waiting.pop()
        for c in map(int, np.flatnonzero(marks[b])):
            collides = marks[a, b] == ARROW and marks[c, b] == ARROW
            if c not in (a, x) and (collides or marks[a, c] != NONE) and (b, c) not in seen:
                seen.add((b, c))
                waiting.append((b, c))
    return {v for _, v in seen}


def _greedy(problem: Problem, columns: Columns) -> Solution:
    """GES; its colliders, then what is known (causal-learn's GES takes no knowledge)."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from causallearn.search.ScoreBased.GES import ges

        values = columns.codes if problem.test == "bic" else columns.binned(problem.bins)
        values = values[~np.isnan(values).any(axis=1)]
        found = ges(values, "local_score_BIC" if problem.test == "bic" else "local_score_BDeu", maxP=problem.depth)
    graph = np.asarray(found["G"].graph)  # [j, i] = 1 and [i, j] = -1: i -> j
    adjacent = graph != 0
    into = (graph.T == 1) & (graph == -1)
    colliders = [
        (a, b, c)
        for b in range(len(graph))
        for a, c in combinations(map(int, np.flatnonzero(into[:, b])), 2)
        if not adjacent[a, c]
    ]
    return Solution(orient_dag(adjacent, colliders, problem.known), {}, 0)
