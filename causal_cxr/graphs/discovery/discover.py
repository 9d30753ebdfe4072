"""``discover``: a table and a declaration in, a graph with its evidence out."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.graphs.attributes import Attribute
from causal_cxr.graphs.discovery.discovered import Discovered, Method, Note, Separation, broken_knowledge
from causal_cxr.graphs.discovery.independence import Columns, TestByName
from causal_cxr.graphs.discovery.marks import marked_edges
from causal_cxr.graphs.discovery.orientation import Knowledge
from causal_cxr.graphs.discovery.sampling import one_per_patient as one_row_each
from causal_cxr.graphs.discovery.search import Problem, Solution, solve
from causal_cxr.graphs.graph import CausalGraph

METHODS = ("pc", "fci", "ges")
TESTS = ("chisq", "gsq", "fisherz", "likelihood_ratio")
SCORES = ("bdeu", "bic")  #: of GES
REASONS = {
    "knowledge": "what is known forbids",
    "other colliders": "surer colliders forbid",
    "a cycle": "would close a cycle",
}


@dataclass(frozen=True)
class Setting:
    """A question that is ready to be put to any rows of its table."""

    problem: Problem
    patients: np.ndarray | None
    once: bool
    graph: CausalGraph
    require_edges: bool
    notes: tuple[Note, ...]

    def rows(self, seed: int) -> np.ndarray:
        n = len(self.problem.columns.codes)
        return one_row_each(self.patients, seed) if self.once and self.patients is not None else np.arange(n)


def discover(
    table: pd.DataFrame,
    graph: CausalGraph,
    *,
    method: Method = "fci",
    test: str | TestByName = "auto",
    scores: pd.DataFrame | None = None,
    variables: Iterable[str] | None = None,
    patients: Iterable[Any] | None = None,
    one_per_patient: bool = True,
    alpha: float = 0.01,
    depth: int | None = 3,
    bins: int = 4,
    require_edges: bool = False,
    seed: int = 0,
) -> Discovered:
    """Search a table for its causal graph, as far as it and the tiers decide it.

    Of the declaration only tiers and selection enter: edges forced upon the search would hide that they are false.
    Tiers orient, and they keep what comes after two out of the sets that may part them. ``selected_on`` matters to FCI
    alone: an arrow at an attribute says that it caused neither its neighbour nor the selection. So what was selected
    on has tails, tiers draw arrows only at what comes after all of that, and edges that selection alone has drawn
    (``---``) may appear. Declared ``confounded`` pairs enter nowhere: FCI allows latent causes everywhere, PC and GES deny them.

    Args:
        table: ``n`` rows with a column for each of ``variables``. Missing values: each test leaves out the rows that
            miss one of its variables (``ges``: rows that miss any). A set that too few rows know parts nothing, and a note
            says so.
        graph: declares types, tiers and selection.
        method: ``fci`` allows latent common causes and selection; ``pc`` and ``ges`` assume that there are none.
        test: ``auto`` is ``chisq`` where all columns have levels, ``fisherz`` where all are numbers, else
            ``likelihood_ratio`` (:class:`causal_cxr.graphs.discovery.independence.LikelihoodRatioTest`); ``chisq`` and
            ``gsq`` take quantile bins of numbers. For ``ges`` a score: ``bdeu`` (levels; numbers are binned) or
            ``bic`` (numbers). Or any callable ``(x, y, given) -> p`` of column names.
        scores: readers' scores, ``n`` rows with the table's index: more columns, numbers. One that is called like a
            hidden attribute of the graph has that one's tier; others may come anywhere. A score errs: given it, its
            concept still varies, so what only the concept separates may stay adjacent.
        variables: labelled attributes to search; all of the graph's unless given.
        patients: ``(n,)`` ids; every row is another patient unless given.
        one_per_patient: draw one row of each patient; False takes all, whose tests find too much.
        alpha: two are parted where p is above it.
        depth: most variables in a set that parts two (``ges``: parents); None is no limit.
        bins: quantile bins of a number.
        require_edges: take the declared edges for true as well.
        seed: of the row of each patient.

    Raises:
        ValueError: unknown method, test or variable; a column that is missing, constant or twice there; two
            columns that too few rows know both of; scores of other rows.

    >>> from causal_cxr.graphs import Binary
    >>> rng = np.random.default_rng(0)
    >>> sick = rng.integers(0, 2, 2000)
    >>> table = pd.DataFrame({"sick": sick, "view": np.where(rng.uniform(size=2000) < 0.2 + 0.5 * sick, "AP", "PA")})
    >>> graph = CausalGraph([Binary("sick"), Binary("view", levels=("PA", "AP"))], tiers=[["sick"], ["view"]])
    >>> print(*discover(table, graph).edges)
    sick o-> view
    """
    setting = prepare(
        table, graph, method=method, test=test, scores=scores, variables=variables, patients=patients,
        one_per_patient=one_per_patient, alpha=alpha, depth=depth, bins=bins, require_edges=require_edges,
    )  # fmt: skip
    rows = setting.rows(seed)
    return _found(setting, solve(setting.problem, rows), rows, seed)


def prepare(
    table: pd.DataFrame,
    graph: CausalGraph,
    *,
    method: str = "fci",
    test: str | TestByName = "auto",
    scores: pd.DataFrame | None = None,
    variables: Iterable[str] | None = None,
    patients: Iterable[Any] | None = None,
    one_per_patient: bool = True,
    alpha: float = 0.01,
    depth: int | None = 3,
    bins: int = 4,
    require_edges: bool = False,
) -> Setting:
    """Check, type and encode once; see :func:`discover`."""
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}; choose from {list(METHODS)}.")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; give a number between 0 and 1.")
    columns = _columns(table, graph, scores, variables)
    chosen = _chosen_test(test, method, columns)
    ids = None if patients is None else np.asarray(list(patients))
    if ids is not None and len(ids) != len(table):
        raise ValueError(f"There are {len(ids)} patient ids for {len(table)} rows; give one a row.")
    known = _knowledge(graph, columns.names, require_edges)
    notes = _notes(graph, columns, method, chosen, ids, one_per_patient, require_edges, known)
    problem = Problem(columns, known, method, chosen, float(alpha), depth, bins)
    return Setting(problem, ids, one_per_patient, graph, require_edges, tuple(notes))


def _columns(
    table: pd.DataFrame, graph: CausalGraph, scores: pd.DataFrame | None, variables: Iterable[str] | None
) -> Columns:
    names = list(graph.labelled if variables is None else variables)
    typed: dict[str, pd.Series] = {}
    attributes: dict[str, Attribute] = {}
    for name in names:
        attribute = graph.attributes[graph.known(name)]
        if attribute.hidden:
            raise ValueError(f"{name!r} is hidden; pass its reader's scores in scores=, or leave it out of variables=.")
        if name not in table.columns:
            raise ValueError(f"The table has no column for {name!r}; it has {list(table.columns)}.")
        if name in typed:
            raise ValueError(f"{name!r} is twice in variables; drop one.")
        typed[name], attributes[name] = attribute.coerce(table[name]), attribute
    if scores is not None:
        if not scores.index.equals(table.index):
            raise ValueError("The scores are of other rows than the table: their indexes differ; reindex one of them.")
        for name in scores.columns:
            if name in typed or name in graph.labelled:
                raise ValueError(f"The score {name!r} is called like a labelled attribute; rename its column.")
            typed[name] = scores[name].astype(float)
    if len(typed) < 2:
        raise ValueError(f"There is only {list(typed)} to search; give two variables or more.")
    return Columns(pd.DataFrame(typed), attributes)


def _chosen_test(test: str | TestByName, method: str, columns: Columns) -> str | TestByName:
    numbers = [kind == "number" for kind in columns.kinds]
    if callable(test):
        if method == "ges":
            raise ValueError(f"GES scores graphs and tests nothing; choose its score from {list(SCORES)}.")
        return test
    allowed = SCORES if method == "ges" else TESTS
    if test == "auto":
        if method == "ges":
            return "bic" if all(numbers) else "bdeu"
        return "fisherz" if all(numbers) else "likelihood_ratio" if any(numbers) else "chisq"
    if test not in allowed:
        raise ValueError(f"{method} has no test {test!r}; choose from {list(allowed)}.")
    if test in ("fisherz", "bic") and not all(numbers):
        levelled = [name for name, number in zip(columns.names, numbers, strict=True) if not number]
        raise ValueError(f"{test} takes numbers, and {levelled} have levels; choose another test.")
    return test


def _knowledge(graph: CausalGraph, names: tuple[str, ...], require_edges: bool) -> Knowledge:
    from causallearn.graph.GraphNode import GraphNode

    edges = graph.edges if require_edges else ()
    background = CausalGraph(graph.attributes.values(), edges, tiers=graph.tiers).to_background_knowledge()
    nodes = {name: GraphNode(name) for name in {*names, *graph.selected_on}}
    k = len(names)
    not_causing, required = np.zeros((k, k), bool), np.zeros((k, k), bool)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            not_causing[i, j] = i != j and background.is_forbidden(nodes[a], nodes[b])
            required[i, j] = i != j and background.is_required(nodes[a], nodes[b])
    selecting = [
        name in graph.selected_on or any(not background.is_forbidden(nodes[name], nodes[s]) for s in graph.selected_on)
        for name in names
    ]
    selects = np.array([name in graph.selected_on for name in names], bool)
    return Knowledge(not_causing, required, np.array(selecting, bool), selects, bool(graph.selected_on))


def _notes(
    graph: CausalGraph, columns: Columns, method: str, test: str | TestByName, ids: np.ndarray | None, once: bool,
    require_edges: bool, known: Knowledge,
) -> list[Note]:  # fmt: skip
    notes = []
    if graph.tiers is not None or require_edges:
        what = "tiers and edges" if require_edges else "tiers"
        notes.append(
            Note("knowledge", f"The declared {what} were taken for true; nothing else of the declaration was.")
        )
    if method != "fci":
        for pairs, word in ((graph.confounded, "latent common causes"), ((graph.selected_on,), "selection")):
            about = tuple(dict.fromkeys(name for pair in pairs for name in pair))
            if about:
                notes.append(
                    Note(
                        "assumption", f"{method} assumes no {word}, and {list(about)} are declared so; use fci.", about
                    )
                )
    elif known.selected:
        chosen_by = list(graph.selected_on)
        text = (
            f"The images were declared as selected on {chosen_by}: these have tails, for their edges or the selection."
        )
        notes.append(Note("knowledge", text, graph.selected_on))
        late = np.atleast_1d(known.not_causing.any(axis=1)) & known.selecting & ~known.selects
        open_ = tuple(columns.names[i] for i in np.flatnonzero(late))
        if open_:
            notes.append(
                Note(
                    "knowledge",
                    f"{list(open_)} may have caused the selection, so their tiers draw no arrow at them.",
                    open_,
                )
            )
    if ids is not None and not once and len(np.unique(ids)) < len(ids):
        notes.append(
            Note("rows", "Patients have several rows, which the tests take for independent: they find too much.")
        )
    missing = np.isnan(columns.codes)
    if missing.any():
        about = tuple(name for name, any_ in zip(columns.names, list(missing.any(axis=0)), strict=True) if any_)
        what = (
            "rows that miss any variable were left out"
            if method == "ges"
            else "each test left out the rows that miss one of its variables"
        )
        notes.append(Note("rows", f"{list(about)} have missing values: {what}.", about))
    numbers = tuple(name for name, kind in zip(columns.names, columns.kinds, strict=True) if kind == "number")
    if numbers and test in ("chisq", "gsq", "bdeu"):
        notes.append(
            Note(
                "assumption",
                f"{list(numbers)} were cut into quantile bins: what varies within a bin is not held fixed.",
                numbers,
            )
        )
    return notes


def _found(setting: Setting, solution: Solution, rows: np.ndarray, seed: int) -> Discovered:
    problem, names = setting.problem, setting.problem.columns.names
    edges = marked_edges(solution.oriented.marks, names)
    broken = broken_knowledge(edges, setting.graph, require_edges=setting.require_edges)
    if broken:
        raise RuntimeError(f"The search broke what is declared: {'; '.join(broken)}. Please report this.")
    dropped = [
        Note(
            "collider dropped",
            f"{names[a]} *-> {names[b]} <-* {names[c]} was asked for; {REASONS[why]}.",
            (names[a], names[b], names[c]),
        )
        for (a, b, c), why in solution.oriented.dropped
    ]
    if solution.unasked:
        x, y, given = solution.unasked[0]
        about = tuple(names[i] for i in sorted({i for a, b, some in solution.unasked for i in (a, b, *some)}))
        dropped.append(
            Note(
                "rows",
                f"{len(solution.unasked)} tests were not carried out, as too few rows know all of their variables, such as "
                f"{names[x]}, {names[y]} and {', '.join(names[i] for i in given)}: these sets parted nothing.",
                about,
            )
        )
    separations = tuple(
        Separation(names[i], names[j], tuple(names[g] for g in sorted(given)), p)
        for (i, j), (given, p) in sorted(solution.parted.items())
    )
    values = problem.columns.codes[rows]
    test = (
        problem.test
        if isinstance(problem.test, str)
        else getattr(problem.test, "__name__", type(problem.test).__name__)
    )
    provenance = {
        "method": problem.method, "test": test, "alpha": problem.alpha, "depth": problem.depth,
        "rows": len(rows), "complete_rows": int((~np.isnan(values).any(axis=1)).sum()),
        "patients": len(rows) if setting.patients is None else len(np.unique(setting.patients[rows])),
        "tests": solution.tests, "required_edges": setting.require_edges,
        "tiers": [[n for n in tier if n in names] for tier in setting.graph.tiers or ()],
        "graph": setting.graph.fingerprint, "seed": seed,
        "versions": {package: version(package) for package in ("causal-learn", "scipy", "scikit-learn", "statsmodels")},
    }  # fmt: skip
    return Discovered(names, edges, separations, problem.method, (*setting.notes, *dropped), provenance)  # type: ignore[arg-type]
