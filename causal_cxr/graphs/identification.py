"""What identifies an effect in unedited images: what to adjust for, mediators, instruments.

DoWhy checks every set that leaves here. It knows nothing of selection, so what it finds is checked again given that.
"""

import itertools
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import networkx as nx
import numpy as np

from causal_cxr.graphs.separation import SELECTION, explicit_dag, minimal_separator, selection

if TYPE_CHECKING:
    from causal_cxr.graphs.graph import CausalGraph

LARGEST_FRONT_DOOR = 3  #: mediators in one front-door set: beyond, sets are many and no estimator here takes them
CONCEPT = ("concept",)  # a hidden attribute that the graph does not have; a tuple cannot be an attribute's name


@dataclass(frozen=True)
class Estimand:
    """One way to write the effect in terms of what was recorded.

    Attributes:
        kind: ``backdoor`` (adjust for ``variables``), ``frontdoor`` (through the mediators ``variables``; Pearl 1995) or
            ``iv`` (``variables`` is one instrument).
        role: ``chosen`` (what :func:`adjustment_set` gives, and audits use), ``minimal`` (nothing can be left out) or
            ``maximal`` (no labelled attribute can be added) for a back-door set; empty otherwise.
        variables: labelled attributes.
        statement: what must be true for it to hold, in words.
    """

    kind: Literal["backdoor", "frontdoor", "iv"]
    role: Literal["chosen", "minimal", "maximal", ""]
    variables: frozenset[str]
    statement: str


@dataclass(frozen=True)
class Identification:
    """What the declared graph lets one learn of an effect from unedited images.

    Attributes:
        treatment: attribute that is set.
        outcome: attribute that answers; ``None``: a concept outside the graph.
        estimands: all that were found; empty if nothing was.
        reasons: kind -> why there is none of that kind.
        no_directed_path: the graph itself says that the effect is zero.
    """

    treatment: str
    outcome: str | None
    estimands: tuple[Estimand, ...]
    reasons: Mapping[str, str]
    no_directed_path: bool

    def of(self, kind: str) -> tuple[Estimand, ...]:
        """The estimands of one kind."""
        return tuple(estimand for estimand in self.estimands if estimand.kind == kind)

    @property
    def sentence(self) -> str:
        """All of it in plain words."""
        about = f"{self.treatment} on {self.outcome or 'a concept outside the graph'}"
        if not self.estimands:
            return f"The effect of {about} cannot be learnt from unedited images: {'; '.join(self.reasons.values())}."
        ways = "; or ".join(e.statement for e in self.estimands if e.role in ("chosen", ""))
        zero = " (the graph declares no directed path, so it should come out as 0)" if self.no_directed_path else ""
        return f"The effect of {about} is identified{zero}: {ways}."


@lru_cache(maxsize=256)
def identify(graph: "CausalGraph", treatment: str, outcome: str | None = None) -> Identification:
    """Every way that is searched for to learn the effect of ``treatment`` on ``outcome`` from unedited images.

    Args:
        graph: declared.
        treatment: labelled attribute that is set.
        outcome: attribute that answers; ``None``: a concept outside the graph, which may hang on the treatment and on all
            its declared ancestors, so that nothing can be its front door or its instrument.

    Returns:
        back-door sets (chosen, minimal, maximal); front-door sets of the fewest mediators; instruments, one by one
        (unconditional: what would be one only given covariates is not found). With declared selection a front door or an
        instrument counts only if what was selected on has nothing to do with any attribute in the formula, and is
        otherwise refused. Effects that only further do-calculus identifies (the "napkin") are not found.

    Raises:
        ValueError: unknown attribute; a hidden treatment or outcome; treatment and outcome are the same.

    >>> from causal_cxr.graphs import Binary, CausalGraph
    >>> graph = CausalGraph([Binary("smoking"), Binary("tar"), Binary("cancer")],
    ...     [("smoking", "tar"), ("tar", "cancer")], confounded=[("smoking", "cancer")])
    >>> [(found.kind, sorted(found.variables)) for found in identify(graph, "smoking", "cancer").estimands]
    [('frontdoor', ['tar'])]
    """
    if graph.known(treatment) in graph.hidden or (outcome is not None and graph.known(outcome) in graph.hidden):
        raise ValueError(f"{treatment!r} and {outcome!r} must both have a column; hidden are {list(graph.hidden)}.")
    chosen = adjustment_set(graph, treatment, outcome)
    estimands, reasons = _back_doors(graph, treatment, outcome, chosen), {}
    if not estimands:
        reasons["backdoor"] = _why_no_back_door(graph, treatment, outcome)
    if outcome is None:
        may_hang = "a concept outside the graph may hang on {0} directly and on every declared cause of it"
        reasons["frontdoor"] = reasons["iv"] = may_hang.format(treatment)
        return Identification(treatment, None, tuple(estimands), MappingProxyType(reasons), False)

    declared_zero = outcome not in graph.descendants(treatment)
    for kind, search, absent in (
        (
            "frontdoor",
            _front_doors,
            f"no labelled mediators carry all of {treatment}'s effect and share no cause with it",
        ),
        ("iv", _instruments, f"nothing labelled moves {treatment} and is otherwise unrelated to {outcome}"),
    ):
        if declared_zero:
            reasons[kind] = f"the graph declares no directed path from {treatment} to {outcome}"
            continue
        found = search(graph, treatment, outcome)
        kept = [
            estimand for estimand in found if _apart_from_selection(graph, {treatment, outcome, *estimand.variables})
        ]
        estimands += kept
        if not found:
            reasons[kind] = absent
        elif not kept:
            names = ", ".join(sorted(found[0].variables))
            reasons[kind] = (
                f"{names} would do, but the collection was selected on {', '.join(graph.selected_on)}, which is tied to it"
            )
    return Identification(treatment, outcome, tuple(estimands), MappingProxyType(reasons), declared_zero)


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
        return boundary if _does_for_concepts(graph, treatment, boundary) else None

    if always and SELECTION in _after(dag, _causal_nodes(dag, treatment, graph.known(outcome))):
        return None  # selected on the outcome or on the way to it: no covariate undoes that
    candidate = boundary - {outcome}
    if _blocks(dag, treatment, graph.known(outcome), candidate | always):
        return candidate
    allowed = set(graph.labelled) - graph.descendants(treatment) - {treatment, outcome}
    found = minimal_separator(_without_causal_edges(dag, treatment, outcome), treatment, outcome, allowed, always)
    return found if found is not None and _blocks(dag, treatment, outcome, found | always) else None


def selected_effects(graph: "CausalGraph", treatment: str) -> tuple[str, ...]:
    """What the collection was selected on among the declared effects of ``treatment``.

    What it does to a concept by way of these is not what it would do: where images with ``view = AP`` are collected whatever the
    disease, the disease does not show to change the view among them. An adjusted effect and an editor fitted on the collection
    are both of the collected, so that both may be near 0 where the effect is not. Selection on the treatment itself or on its
    causes leaves the effect as it is.

    >>> from causal_cxr.graphs import Binary, CausalGraph
    >>> names, edges = ("age", "disease", "view"), [("age", "disease"), ("disease", "view")]
    >>> graph = CausalGraph([Binary(n) for n in names], edges, selected_on=["disease", "view"])
    >>> [selected_effects(graph, name) for name in names]
    [('disease', 'view'), ('view',), ()]
    """
    after = graph.descendants(treatment)
    return tuple(name for name in graph.selected_on if name in after)


def markov_boundary(graph: "CausalGraph", name: str) -> frozenset[str]:
    """The smallest set of labelled non-descendants that separates ``name`` from all other ones, given the selection.

    It is unique, and ``v`` is in it exactly if ``name`` and ``v`` stay connected given all the others (intersection
    property of d-separation). Without selection and hidden nodes: the parents; with bidirected edges, the district
    among the non-descendants and its parents.
    """
    dag, always = explicit_dag(graph), selection(graph)
    others = set(graph.labelled) - graph.descendants(name) - {name}
    return frozenset(v for v in others if not nx.is_d_separator(dag, {name}, {v}, (others - {v}) | always))


def _back_doors(
    graph: "CausalGraph", treatment: str, outcome: str | None, chosen: frozenset[str] | None
) -> list[Estimand]:
    """The chosen set, a minimal and a maximal one; none if there is no valid set."""
    if chosen is None:
        return []
    always, allowed = selection(graph), set(graph.labelled) - graph.descendants(treatment) - {treatment, outcome}
    dag = explicit_dag(graph)
    if outcome is None:
        minimal: frozenset[str] | None = chosen  # the smallest that does wherever the concept hangs
    else:
        cut = _without_causal_edges(dag, treatment, outcome)
        minimal = minimal_separator(cut, treatment, outcome, set(chosen), always)

    def works(names: frozenset[str]) -> bool:
        return (
            _does_for_concepts(graph, treatment, names)
            if outcome is None
            else _blocks(dag, treatment, outcome, names | always)
        )

    largest = chosen
    for name in sorted(allowed - chosen, key=list(graph.attributes).index):
        if works(largest | {name}):
            largest |= {name}
    found: list[Estimand] = []
    for role, names in (("chosen", chosen), ("minimal", minimal), ("maximal", largest)):
        if names is not None:
            held = f"hold {', '.join(sorted(names))} fixed" if names else "nothing needs to be held fixed"
            words = f"{held}, if the declared arrows and hidden common causes are all there are"
            if outcome is None and (through := selected_effects(graph, treatment)):
                words += f"; what {treatment} does by way of {', '.join(through)}, selected on, shows only as it is left among the collected"
            found.append(Estimand("backdoor", role, names, words))  # type: ignore[arg-type]
    return found


def _why_no_back_door(graph: "CausalGraph", treatment: str, outcome: str | None) -> str:
    if outcome is not None and treatment in graph.descendants(outcome):
        return f"{outcome} is declared as a cause of {treatment}"
    if outcome is not None and selection(graph):
        dag = explicit_dag(graph)
        if SELECTION in _after(dag, _causal_nodes(dag, treatment, outcome)):
            return f"the collection was selected on {', '.join(graph.selected_on)}, which {treatment} acts on"
    latent = [" and ".join(pair) for pair in graph.confounded if treatment in pair]
    unseen = [f"{name} (no column)" for name in graph.hidden if name in graph.ancestors(treatment)]
    causes = "; ".join([*(f"a hidden common cause of {pair}" for pair in latent), *unseen])
    return f"a back door stays open whatever is held fixed{f' ({causes})' if causes else ''}"


def _front_doors(graph: "CausalGraph", treatment: str, outcome: str) -> list[Estimand]:
    """All sets of the smallest size that works; DoWhy judges each."""
    with dowhy_quietly():
        from dowhy.causal_identifier.auto_identifier import identify_frontdoor

        dag = explicit_dag(graph)
        between = [n for n in graph.labelled if n in graph.descendants(treatment) & graph.ancestors(outcome)]
        for size in range(1, min(len(between), LARGEST_FRONT_DOOR) + 1):
            # DoWhy returns the last set that it comes by; offered one set at a time it says yes or no to that.
            works = [
                frozenset(names)
                for names in itertools.combinations(between, size)
                if identify_frontdoor(dag, [treatment], [outcome], list(names))
            ]
            if works:
                return [
                    Estimand("frontdoor", "", names, f"through {', '.join(sorted(names))}, if all of {treatment}'s effect "
                             "goes that way and nothing hidden acts on both it and either end")
                    for names in works
                ]  # fmt: skip
    return []


def _instruments(graph: "CausalGraph", treatment: str, outcome: str) -> list[Estimand]:
    with dowhy_quietly():
        from dowhy.graph import get_instruments

        found = set(get_instruments(explicit_dag(graph), [treatment], [outcome]))
    return [
        Estimand("iv", "", frozenset({name}), f"by the instrument {name}, if it acts on {outcome} only through {treatment} "
                 f"and {treatment} does the same to everybody")
        for name in graph.labelled if name in found
    ]  # fmt: skip


def _apart_from_selection(graph: "CausalGraph", names: set[str]) -> bool:
    """Whether being collected is independent of these attributes, so that their joint distribution is as it was."""
    dag = explicit_dag(graph)
    return SELECTION not in dag or bool(nx.is_d_separator(dag, {SELECTION}, names - {SELECTION}, set()))


def _does_for_concepts(graph: "CausalGraph", treatment: str, names: frozenset[str]) -> bool:
    """Whether this set does for a concept that hangs on the treatment, its causes, and its effects."""
    dag, causes = explicit_dag(graph), {treatment, *graph.ancestors(treatment)}
    on_causes = _with_concept(dag, causes)
    on_effects = _with_concept(dag, causes | graph.descendants(treatment))
    # That A's effects were selected on no adjustment mends (``selected_effects``); hence no selection in the second check.
    return _blocks(on_causes, treatment, CONCEPT, names | selection(graph)) and _blocks(
        on_effects, treatment, CONCEPT, names
    )


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
    with dowhy_quietly():
        from dowhy.graph import check_valid_backdoor_set  # seconds to import: only when asked

    cut = _without_causal_edges(dag, treatment, outcome)
    answer = check_valid_backdoor_set(dag, [treatment], [outcome], set(given), new_graph=cut)
    return bool(answer["is_dseparated"])


@contextmanager
def dowhy_quietly(seed: int | None = None) -> Iterator[None]:
    """Run DoWhy without its words and without moving the caller's random numbers; other packages' words stay.

    Args:
        seed: of NumPy's global generator inside, which parts of DoWhy draw from; it is put back afterwards.
    """
    logger, before = logging.getLogger("dowhy"), np.random.get_state()  # noqa: NPY002
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what importing DoWhy warns of is not the user's to mend
            if seed is not None:
                np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        logger.setLevel(level)
        np.random.set_state(before)  # noqa: NPY002
