"""Does the table contradict the declared graph? Its implied independences among labelled attributes, tested.

:func:`independence_tests` asks of each statement whether the data contradict it; :func:`falsify_graph` whether the graph
as a whole does better than its own shape with the names swapped (Eulig et al., arXiv:2305.09565, by DoWhy), and says so in
words.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import networkx as nx
import numpy as np
import pandas as pd

from causal_cxr.audits.effects import Effect, covariate_columns, holm, paired_effect
from causal_cxr.graphs import CausalGraph
from causal_cxr.graphs.identification import dowhy_quietly
from causal_cxr.graphs.separation import explicit_dag, minimal_separator, selection

SMALLEST_CORRELATION = 0.05  #: partial correlations up to this contradict nothing: in 100,000 rows all differ from 0
MOST_TESTS = 20_000  #: of one permutation test; with more, fewer relabellings are drawn
COLUMNS = ("a", "b", "given", "correlation", "low", "high", "p", "rejected", "n")


def independence_tests(
    graph: CausalGraph,
    table: pd.DataFrame,
    patients: np.ndarray,
    *,
    alpha: float = 0.05,
    statements: Iterable[tuple[str, str, frozenset[str]]] | None = None,
) -> pd.DataFrame:
    """Test every independence that the graph implies and the labelled columns could refute.

    Each by the generalised covariance measure (Shah & Peters, Ann. Stat. 2020): the mean product of the residuals of
    both attributes given the separating set, here in units of their spread, so that it is a partial correlation;
    patient-clustered. Rejected is "at most :data:`SMALLEST_CORRELATION` in size", Holm's correction over all statements.

    Args:
        graph: declared.
        table: ``n`` rows, typed by the graph; a statement's test leaves out rows that miss one of its attributes.
        patients: ``(n,)`` ids.
        alpha: family-wise level.
        statements: (a, b, given) to test in place of what the graph implies; it then only says how columns are typed.

    Returns:
        One row a statement: attributes ``a`` and ``b``, ``given`` (comma-separated), the correlation with its 95% interval,
        Holm-corrected ``p`` and whether it is rejected. For attributes of more than two levels: the level pair furthest
        from 0, Bonferroni-corrected for their number. NaN where there are too few rows.
    """
    rows = []
    for a, b, given in graph.implied_independences() if statements is None else statements:
        effects, n = _dependences(graph, table, patients, a, b, given)
        found = max(effects, key=lambda e: abs(e.value) / e.se, default=None)
        if found is None:
            rows.append([a, b, ", ".join(sorted(given)), *[np.nan] * 4, False, n])
            continue
        p = min(1.0, found.p_yes(SMALLEST_CORRELATION) * len(effects))
        rows.append([a, b, ", ".join(sorted(given)), found.value, *found.interval(), p, False, found.n])
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    tested = frame["p"].notna().to_numpy()
    if tested.any():
        corrected = holm(frame.loc[tested, "p"].to_numpy(dtype=float))
        frame.loc[tested, "p"], frame.loc[tested, "rejected"] = corrected, corrected <= alpha
    return frame.astype({"rejected": bool})


def rejected_at(falsification: pd.DataFrame) -> dict[str, str]:
    """Attribute -> the first rejected statement about it."""
    found: dict[str, str] = {}
    for row in falsification[falsification["rejected"]].to_dict("records"):
        given = f" given {row['given']}" if row["given"] else ""
        for name in (row["a"], row["b"]):
            found.setdefault(name, f"{row['a']} and {row['b']} are not independent{given}")
    return found


@dataclass(frozen=True)
class GraphTest:
    """What a table says of a declared graph as a whole.

    Attributes:
        verdict: ``falsified`` (it contradicts no fewer of its implied independences than random relabellings do),
            ``not falsified``, ``not informative`` (so many relabellings imply the same that nothing could falsify it) or
            ``not testable`` (it implies no independence among labelled attributes, or none that these data could contradict).
        violated, tests: contradicted statements, of all local Markov statements that could be tested.
        p: share of relabelled graphs that contradict no larger share of theirs; small speaks *for* the graph.
        p_same: share of relabelled graphs that imply just the same independences; small: the test is informative.
        permutations: relabelled graphs.
        n, patients: images and patients used.
        contradicted: (a, b, given) of the violated statements.
        edges: one row a declared arrow between labelled attributes: ``cause``, ``effect``, ``given``, the partial correlation
            that is left with its 95% interval, and ``needed``: ``yes`` (larger than :data:`SMALLEST_CORRELATION`), ``no``
            (shown to be smaller), ``undecided``, ``cannot be asked`` (without the arrow the pair would still be tied).
        untested: what no test here can see, in words.
        words: all of it in plain words.
    """

    verdict: Literal["falsified", "not falsified", "not informative", "not testable"]
    violated: int
    tests: int
    p: float
    p_same: float
    permutations: int
    n: int
    patients: int
    contradicted: tuple[tuple[str, str, frozenset[str]], ...]
    edges: pd.DataFrame
    untested: tuple[str, ...]
    words: str


def falsify_graph(
    graph: CausalGraph,
    table: pd.DataFrame,
    patients: np.ndarray,
    *,
    alpha: float = 0.05,
    permutations: int = 100,
    most_images: int = 5_000,
    seed: int = 0,
) -> GraphTest:
    """DoWhy's permutation test of the declared graph, with this package's independence test (mixed types, clustered).

    DoWhy tests a DAG without hidden nodes. So the graph is replaced by the smallest DAG over labelled attributes, in its
    causal order, that implies nothing which the graph does not imply in the collected data: the graph itself, unless
    attributes are hidden, confounded or selected on (see :func:`markov_dag`).

    Args:
        graph: declared.
        table: ``n`` rows, typed by the graph; a test leaves out rows that miss one of its attributes.
        patients: ``(n,)`` ids.
        alpha: level of each independence test, and of the permutation test.
        permutations: relabelled graphs; at least ``1 / alpha`` of them unless there are fewer. No more than
            :data:`MOST_TESTS` allows.
        most_images: whole patients are drawn until about so many images are in.
        seed: of patients and relabellings.

    Raises:
        ValueError: fewer relabellings than ``alpha`` needs.
    """
    if permutations < 1 / alpha:
        raise ValueError(
            f"{permutations} permutations cannot reach alpha={alpha}; give {math.ceil(1 / alpha)} or more."
        )
    chosen = _draw_patients(patients, most_images, seed)
    table, patients = table[chosen], np.unique(patients[chosen], return_inverse=True)[1]
    whole = bool(table[list(graph.labelled)].notna().all(axis=None))
    columns = lru_cache(maxsize=None)(partial(attribute_columns, graph, table)) if whole else None
    dag = markov_dag(graph)
    edges, untested = _edges(graph, table, patients, alpha), _untested(graph, dag)
    count = len(np.unique(patients))

    unasked: set[tuple[frozenset[str], frozenset[str]]] = set()

    def p_value(x: np.ndarray, y: np.ndarray, given: np.ndarray | None = None) -> float:
        names = frozenset() if given is None else frozenset(map(str, given[0]))
        effects, _ = _dependences(graph, table, patients, str(x[0]), str(y[0]), names, columns)
        if not effects:
            unasked.add((frozenset({str(x[0]), str(y[0])}), names))
            return 1.0  # DoWhy takes a number; it is no test passed, and not told as one
        return min([1.0, *(effect.p_yes(SMALLEST_CORRELATION) * len(effects) for effect in effects)])

    with dowhy_quietly(seed):
        from dowhy.gcm import falsify
        from dowhy.gcm.falsify import FalsifyConst

        local = sum(len(dag) - 1 - len(nx.descendants(dag, name)) - dag.in_degree(name) for name in dag)
        drawn = max(math.ceil(1 / alpha), min(permutations, MOST_TESTS // max(local, 1)))
        # DoWhy hands a test bare columns. These hold nothing but their own name, by which the test finds the attribute.
        names = pd.DataFrame({name: [name] for name in dag}, dtype=object)
        result = falsify.falsify_graph(
            dag, names, independence_test=p_value, conditional_independence_test=p_value, significance_level=alpha,
            significance_ci=alpha, n_permutations=drawn, show_progress_bar=False, n_jobs=1,
        ) if len(dag) > 1 and local else None  # fmt: skip
    if result is None or not result.can_evaluate:
        words = f"No data could contradict the declared graph: it implies no independence among labelled attributes. {' '.join(untested)}"
        return GraphTest("not testable", 0, 0, np.nan, np.nan, 0, len(table), count, (), edges, untested, words.strip())
    markov, same = result.summary[FalsifyConst.VALIDATE_LMC], result.summary[FalsifyConst.VALIDATE_TPA]
    wrong: dict[tuple[frozenset[str], frozenset[str]], tuple[str, str, frozenset[str]]] = {}
    tests, blank = int(markov[FalsifyConst.N_TESTS]), dict[str, None]()
    for (node, other), (_, violated) in markov[FalsifyConst.LOCAL_VIOLATION_INSIGHT].items():
        given = frozenset(dag.predecessors(node))
        a, b = graph.in_order(node, other)
        if violated:
            wrong.setdefault((frozenset({node, other}), given), (a, b, given))
        elif (frozenset({node, other}), given) in unasked:
            tests -= 1
            blank.setdefault(f"{a} and {b}" + (f" given {', '.join(sorted(given))}" if given else ""))
    if blank:
        untested = (
            *untested,
            f"Independence of {'; '.join(blank)} was not tested: too few patients vary in all of these.",
        )
    if not tests:
        words = f"These data cannot contradict the declared graph. {' '.join(untested)}"
        return GraphTest("not testable", 0, 0, np.nan, np.nan, 0, len(table), count, (), edges, untested, words)
    verdict: Literal["falsified", "not falsified", "not informative"] = (
        "falsified" if result.falsified else "not falsified" if result.falsifiable else "not informative"
    )
    numbers = (int(markov[FalsifyConst.GIVEN_VIOLATIONS]), tests,
               float(markov[FalsifyConst.P_VALUE]), float(same[FalsifyConst.P_VALUE]),
               len(markov[FalsifyConst.PERM_VIOLATIONS]))  # fmt: skip
    found = tuple(sorted(wrong.values(), key=lambda s: (s[0], s[1], sorted(s[2]))))
    words = _words(graph, verdict, numbers, found, edges, untested, len(table), count)
    return GraphTest(verdict, *numbers, len(table), count, found, edges, untested, words)


def markov_dag(graph: CausalGraph) -> nx.DiGraph:
    """A DAG over the labelled attributes whose every implied independence the graph implies in the collected data.

    The parents of an attribute are its Markov boundary among the labelled ones before it in causal order, given the
    selection (ordered Markov property; Verma & Pearl 1990, Richardson 2003). It is the graph itself where nothing is hidden,
    confounded or selected on; else it has more arrows, which mean nothing causal.
    """
    dag, always = explicit_dag(graph), selection(graph)
    order = [name for name in graph.topological_order() if name in graph.labelled]
    stand_in = nx.DiGraph()
    stand_in.add_nodes_from(order)
    for i, name in enumerate(order):
        before = set(order[:i])
        stand_in.add_edges_from(
            (v, name) for v in order[:i] if not nx.is_d_separator(dag, {name}, {v}, (before - {v}) | always)
        )
    return stand_in


def _draw_patients(patients: np.ndarray, most_images: int, seed: int) -> np.ndarray:
    """``(n,)`` bool: all images of patients drawn at random until ``most_images`` are in; of all if there are fewer."""
    _, groups, sizes = np.unique(patients, return_inverse=True, return_counts=True)
    if len(patients) <= most_images:
        return np.ones(len(patients), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(sizes))
    return np.isin(groups, order[: int((np.cumsum(sizes[order]) <= most_images).sum()) or 1])


def _edges(graph: CausalGraph, table: pd.DataFrame, patients: np.ndarray, alpha: float) -> pd.DataFrame:
    """Whether each declared arrow is needed: what is left between its ends given what would separate them without it."""
    always, rows = selection(graph), []
    for cause, effect in graph.edges:
        if {cause, effect} & set(graph.hidden):
            continue
        without = explicit_dag(graph)
        without.remove_edge(cause, effect)
        given = minimal_separator(without, cause, effect, {*graph.labelled, *always} - {cause, effect}, always)
        effects = [] if given is None else _dependences(graph, table, patients, cause, effect, given)[0]
        if given is None or not effects:
            rows.append([cause, effect, "", *[np.nan] * 3, "cannot be asked"])
            continue
        found = max(effects, key=lambda e: abs(e.value) / e.se)
        yes = min(e.p_yes(SMALLEST_CORRELATION) for e in effects) * len(effects) <= alpha
        no = max(e.p_no(SMALLEST_CORRELATION) for e in effects) <= alpha
        rows.append([cause, effect, ", ".join(sorted(given)), found.value, *found.interval(),
                     "yes" if yes else "no" if no else "undecided"])  # fmt: skip
    return pd.DataFrame(rows, columns=["cause", "effect", "given", "correlation", "low", "high", "needed"])


def _untested(graph: CausalGraph, dag: nx.DiGraph) -> tuple[str, ...]:
    said = []
    if graph.hidden:
        said.append(f"What is declared of {', '.join(graph.hidden)} (no column) was not tested.")
    if graph.confounded:
        pairs = ", ".join(f"{a} and {b}" for a, b in graph.confounded)
        said.append(f"A hidden common cause of {pairs} is taken on trust: it only removes statements.")
    if graph.selected_on:
        said.append(f"All statements are about the collected images, selected on {', '.join(graph.selected_on)}.")
    tied = [(a, b) for a, b, _ in graph.implied_independences() if dag.has_edge(a, b) or dag.has_edge(b, a)]
    if tied:
        pairs = ", ".join(f"{a} and {b}" for a, b in tied)
        said.append(f"Independence of {pairs} is tested by itself, not against relabellings.")
    return tuple(said)


def _words(
    graph: CausalGraph, verdict: str, numbers: tuple[int, int, float, float, int],
    contradicted: tuple[tuple[str, str, frozenset[str]], ...], edges: pd.DataFrame, untested: tuple[str, ...], n: int, patients: int,
) -> str:  # fmt: skip
    violated, tests, p, p_same, permutations = numbers
    parts = [
        f"In {n:,} images of {patients:,} patients the declared graph violates {violated} of {tests} implied independences; "
        f"{p:.0%} of {permutations} graphs of the same shape with the names swapped do as well or better."
    ]
    if verdict == "falsified":
        parts.append("A graph that is right would beat nearly all of them: this one is falsified.")
    elif verdict == "not informative":
        parts.append(f"But {p_same:.0%} of them imply just the same, so the test cannot tell this graph from them.")
    elif violated:
        parts.append("It is far better than chance, and still wrong where it is violated.")
    else:
        parts.append("Nothing contradicts it, which is no proof: other graphs imply the same independences.")
    tier = {name: i for i, names in enumerate(graph.tiers or ()) for name in names}
    pairs: dict[tuple[str, str], list[str]] = {}
    for a, b, given in contradicted:
        pairs.setdefault((a, b), []).append(f"given {', '.join(sorted(given))}" if given else "given nothing")
    for (a, b), givens in pairs.items():
        known = a in tier and b in tier and tier[a] != tier[b]
        first, second = (a, b) if not known or tier[a] < tier[b] else (b, a)
        arrow = f"an arrow {first} -> {second}" if known else f"an arrow between {a} and {b}"
        parts.append(
            f"{a} and {b} are tied though they should not be ({'; '.join(givens)}): {arrow}, or a hidden common cause, may be missing."
        )
    needless = [
        f"{cause} -> {effect}" for cause, effect in edges.loc[edges["needed"] == "no", ["cause", "effect"]].to_numpy()
    ]
    if needless:
        parts.append(f"Shown to be of no consequence: {', '.join(needless)}.")
    return " ".join([*parts, *untested])


def _dependences(
    graph: CausalGraph, table: pd.DataFrame, patients: np.ndarray, a: str, b: str, given: frozenset[str],
    columns: Callable[[str, bool], dict[str, np.ndarray]] | None = None,
) -> tuple[list[Effect], int]:  # fmt: skip
    """Partial correlations of ``a`` and ``b``, one a pair of levels, and the rows that have all; see :func:`independence_tests`.

    Args:
        columns: :func:`attribute_columns` of this table, if it lacks no value and they are wanted many times.
    """
    if columns is None:
        known = table[[a, b, *sorted(given)]].notna().all(axis=1).to_numpy()
        table, patients = table[known], patients[known]
        columns = partial(attribute_columns, graph, table)
    covariates = [column for name in sorted(given) for column in columns(name, True).values()]
    design = np.column_stack([np.ones(len(table)), *covariates])
    effects = []
    for left in columns(a, False).values():
        for right in columns(b, False).values():
            residuals = [y - design @ np.linalg.lstsq(design, y, rcond=None)[0] for y in (left, right)]
            spread = residuals[0].std() * residuals[1].std()
            if spread > 1e-12:
                effects.append(paired_effect(residuals[0] * residuals[1] / spread, patients))
    return [effect for effect in effects if effect.n], len(table)


def attribute_columns(
    graph: CausalGraph, table: pd.DataFrame, name: str, flexible: bool = True
) -> dict[str, np.ndarray]:
    """Centred numbers that stand for an attribute: dummies, or powers (only the first unless ``flexible``)."""
    codes = graph.attributes[name].encode(table[name])
    columns = covariate_columns(table[name], codes)
    if flexible or isinstance(table[name].dtype, pd.CategoricalDtype):
        return columns
    return {key: column for key, column in columns.items() if key.endswith("^1")}
