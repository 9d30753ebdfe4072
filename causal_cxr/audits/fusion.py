"""One graph out of three sources: what was declared, what the table shows, what edits reveal; with who says what.

An editor's edge has no direction: its ends are circles unless the tiers or a search of the table decide them. A source
is never overruled in silence: where two disagree about a mark it becomes a circle, where they disagree about an edge
the edge stays, and the conflict is named.

The fused graph is then falsified on the unedited images. Its undecided edges make that delicate. A latent common cause
in their place (``a <-> b``) would *not* imply the fewest independences: it makes colliders of its ends, so ``x -> a
<-> b`` has ``x`` and ``b`` independent, which ``x -> a -> b`` denies. Hence an independence is tested only if every
way to decide the circles implies it (:func:`causal_cxr.graphs.discovery.possible.possibly_connected`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import pandas as pd

from causal_cxr.audits.falsification import independence_tests
from causal_cxr.graphs import Binary, CausalGraph, Continuous
from causal_cxr.graphs.discovery import Discovered, Mark, MarkedEdge, Separation, ancestral_edges, separator
from causal_cxr.graphs.discovery.discovered import contradict

if TYPE_CHECKING:
    from causal_cxr.graphs import Drawing

EVIDENCE = (
    "a", "b", "source", "at_a", "at_b", "by", "contrast", "verdict", "frequency", "effect", "low", "high", "q",
)  # fmt: skip
CONFLICTS = ("a", "b", "kind", "sentence")
#: What a pair's conflicts are called.
KINDS = {
    "undeclared": "adjacent in the table, and the declared graph separates them",
    "declared but separated": "declared, and the table parts them",
    "marks differ": "declared and table disagree about an end",
    "revealed but separated": "edits join them, and the unedited images part them, perhaps given labelled attributes",
    "adjacent but not moved": "adjacent in the unedited images, and edits do not move the concept",
    "mediated by nothing": "edits act through labelled attributes only, and none of these is joined to the concept",
    "editors disagree": "one editor reveals the edge, another finds none",
    "unsupported": "declared, and neither the data nor the editor shows it",
}
NOT_MOVED = ("missed", "spurious", "none", "unsupported")  #: verdicts in which the editor does not move the concept


@dataclass(frozen=True)
class Fused:
    """A graph whose every edge says where it comes from.

    Attributes:
        graph: the declaration with every concept of ``edges`` as a hidden attribute, unconnected; it types the columns
            and knows tiers and selection.
        edges: one row an adjacency: ``a``, ``b``, ``at_a``, ``at_b`` (``tail``, ``arrow``, ``circle``), ``edge`` (in
            words), ``sources`` (comma-separated), ``oriented_by`` (of the decided marks: ``declared``, ``discovered``,
            ``tiers``), ``provenance`` (a sentence), ``conflict`` (its kind, or empty).
        evidence: one row a source and pair, edges or not: :data:`EVIDENCE`. ``by`` is the method or the editor,
            ``frequency`` a share of resamples, ``effect`` the editor's with its interval.
        conflicts: :data:`CONFLICTS`; the kinds are those of :data:`KINDS`.
    """

    graph: CausalGraph
    edges: pd.DataFrame
    evidence: pd.DataFrame
    conflicts: pd.DataFrame

    @property
    def concepts(self) -> tuple[str, ...]:
        """Nodes that no column of the table has."""
        return self.graph.hidden

    def marked_edges(self) -> tuple[MarkedEdge, ...]:
        """The edges, and a ``<->`` more for each declared latent cause of a pair that has another edge too."""
        edges = [_marked(row) for row in self.edges.to_dict("records")]
        drawn = {frozenset(edge.pair): edge for edge in edges}
        beside = [
            MarkedEdge(a, b, "arrow", "arrow")
            for a, b in self.graph.confounded
            if (found := drawn.get(frozenset((a, b)))) is None or (found.at_a, found.at_b) != ("arrow", "arrow")
        ]
        return (*edges, *beside)

    def evidence_of(self, a: str, b: str) -> pd.DataFrame:
        """The rows of :attr:`evidence` about a pair, in either order; there may be some where no edge is."""
        return _about(self.evidence, a, b)

    def independences(self, readable: Iterable[str] = ()) -> list[tuple[str, str, frozenset[str]]]:
        """What the unedited images could refute: one (a, b, given) a pair that every orientation separates.

        ``given`` has labelled attributes only: a reader's score errs, so to hold it fixed does not hold the concept
        fixed.

        Args:
            readable: concepts that have a column of scores.
        """
        edges, selected = self.marked_edges(), self.graph.selected_on
        labelled = self.graph.labelled
        statements = []
        for a, b in combinations([*labelled, *readable], 2):
            given = separator(edges, a, b, labelled, selected)
            if given is not None:
                statements.append((a, b, given))
        return statements

    def falsify(
        self, table: pd.DataFrame, patients: np.ndarray, *, scores: pd.DataFrame | None = None, alpha: float = 0.05
    ) -> pd.DataFrame:
        """Test the fused graph on unedited images.

        Args:
            table: ``n`` rows, typed by the graph.
            patients: ``(n,)`` ids.
            scores: ``n`` rows of readers' scores in [0, 1], a column a concept.
            alpha: family-wise.

        Returns:
            As :func:`causal_cxr.audits.falsification.independence_tests`, with Holm's correction over all statements.

        Raises:
            ValueError: a column of scores that is no concept of this graph.
        """
        read = [] if scores is None else [str(name) for name in scores]
        unknown = [name for name in read if name not in self.concepts]
        if unknown:
            raise ValueError(f"The scores {unknown} are of no concept in this graph; it has {list(self.concepts)}.")
        columns = table[list(self.graph.labelled)]
        if scores is not None:
            columns = pd.concat([columns, scores.set_axis(table.index)], axis=1)
        typed = [self.graph.attributes[name] for name in self.graph.labelled]
        typed += [Continuous(name, unit="score", low=0.0, high=1.0) for name in read]
        return independence_tests(
            CausalGraph(typed), columns, patients, alpha=alpha, statements=self.independences(read)
        )

    def to_causal_graph(self) -> CausalGraph:
        """The fused graph as a declaration, if every mark is decided.

        Raises:
            ValueError: an end is undecided, an edge has two tails, or the arrows make a cycle; it names the edges.
        """
        undecided = [str(e) for e in self.marked_edges() if "circle" in (e.at_a, e.at_b) or e.at_a == e.at_b == "tail"]
        if undecided:
            raise ValueError(f"{undecided} have no decided direction; give the graph tiers that decide them.")
        directed, confounded = [], []
        for edge in self.marked_edges():
            if edge.at_a == edge.at_b:
                confounded.append(edge.pair)
            else:
                directed.append(edge.pair if edge.at_b == "arrow" else edge.pair[::-1])
        return CausalGraph(
            self.graph.attributes.values(), directed, confounded, self.graph.selected_on, self.graph.tiers
        )

    def to_networkx(self) -> nx.DiGraph:
        """An edge runs from ``a`` to ``b`` with all columns of :attr:`edges`, and its evidence as JSON."""
        copy = nx.DiGraph(declaration=json.dumps(self.graph.to_dict()))
        for name, attribute in self.graph.attributes.items():
            copy.add_node(name, hidden=attribute.hidden, selected=name in self.graph.selected_on)
        for row in self.edges.to_dict("records"):
            edge = _marked(row)
            out = edge.turned() if edge.at_a == "arrow" and edge.at_b != "arrow" else edge
            said = self.evidence_of(out.a, out.b)
            copy.add_edge(
                out.a, out.b, source_mark=out.at_a, target_mark=out.at_b, edge=str(out), sources=row["sources"],
                oriented_by=row["oriented_by"], conflict=row["conflict"], provenance=row["provenance"],
                evidence=said.to_json(orient="records"),
            )  # fmt: skip
        return copy

    def to_graphml(self) -> str:
        """GraphML text of :meth:`to_networkx`."""
        return "\n".join(nx.generate_graphml(self.to_networkx(), named_key_ids=True))

    def draw(self) -> "Drawing":
        """A picture: what only edits or the table have found in the accent colour, what is in conflict dotted.

        Concepts that nothing is joined to are left out.
        """
        from causal_cxr.graphs.discovery.drawing import DrawnEdge, draw_marked

        drawn = [
            DrawnEdge(
                _marked(row),
                f"{row['edge']}: {row['provenance']}" + (f" ({row['conflict']})" if row["conflict"] else ""),
                found="declared" not in row["sources"],
                doubted=bool(row["conflict"]),
            )
            for row in self.edges.to_dict("records")
        ]
        joined = {name for row in drawn for name in row.edge.pair}
        shown = [name for name in self.graph.attributes if name in joined or name not in self.concepts]
        return draw_marked(shown, drawn, hidden=self.concepts)


def fuse(
    graph: CausalGraph,
    *,
    edges: pd.DataFrame | None = None,
    reads: Mapping[str, str] | None = None,
    discovered: Discovered | None = None,
    frequencies: pd.DataFrame | None = None,
    least_frequency: float = 0.5,
) -> Fused:
    """Join what was declared, discovered and revealed.

    An adjacency comes from: a declared edge or latent cause; an edge of ``discovered`` that is found in
    ``least_frequency`` of the resamples or more (all, without ``frequencies``), whose marks are kept where as many
    agree; a verdict ``hidden``, or ``mediated`` where no labelled effect of the attribute is joined to the concept.
    Other verdicts are kept as evidence.

    Args:
        graph: declared.
        edges: an audit's (:attr:`causal_cxr.audits.Report.edges`), of one editor or several.
        reads: concept of ``edges`` -> the labelled attribute that it reads (audits of ``labelled_outcomes`` have such).
        discovered: by :func:`causal_cxr.graphs.discovery.discover`, over labelled attributes and perhaps concepts'
            scores.
        frequencies: by :func:`causal_cxr.graphs.discovery.edge_frequencies`, with the same options.
        least_frequency: in [0, 1].

    Raises:
        ValueError: an audited attribute that the graph does not have.
    """
    revealed = pd.DataFrame(columns=["attribute", "concept"]) if edges is None else edges
    revealed = revealed.assign(concept=revealed["concept"].replace(dict(reads or {})))
    revealed = revealed[revealed["attribute"] != revealed["concept"]]  # that an edit does what it is asked is no edge
    full = _with_concepts(graph, revealed, discovered)
    for name in dict.fromkeys([*revealed["attribute"], *(reads or {}).values()]):
        graph.known(name)
    found = _lasting(discovered, frequencies, least_frequency)
    evidence = pd.DataFrame(
        [
            *_declared_evidence(graph),
            *_discovered_evidence(found, discovered, frequencies),
            *_revealed_evidence(revealed),
        ],
        columns=list(EVIDENCE),
    )
    conflicts = pd.DataFrame(_conflicts(graph, found, discovered, revealed), columns=list(CONFLICTS))
    joined = [_edge_row(full, a, b, evidence, found, conflicts) for a, b in _adjacencies(graph, full, found, revealed)]
    columns = ["a", "b", "at_a", "at_b", "edge", "sources", "oriented_by", "provenance", "conflict"]
    return Fused(full, pd.DataFrame(joined, columns=columns), evidence, conflicts)


def _marked(row: Mapping[Any, Any]) -> MarkedEdge:
    return MarkedEdge(row["a"], row["b"], row["at_a"], row["at_b"])


def _about(frame: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """The rows about this pair, in either order."""
    one, other = frame["a"], frame["b"]
    return frame[((one == a) & (other == b)) | ((one == b) & (other == a))]


def _with_concepts(graph: CausalGraph, revealed: pd.DataFrame, discovered: Discovered | None) -> CausalGraph:
    names = [*revealed["concept"], *(discovered.variables if discovered else ())]
    for name in dict.fromkeys(names):
        if name not in graph.attributes:
            graph = graph.with_hidden(Binary(name))
    return graph


def _lasting(
    discovered: Discovered | None, frequencies: pd.DataFrame | None, least: float
) -> dict[frozenset[str], MarkedEdge]:
    """The edges, and of these the marks, that resamples find again often enough."""
    edges = discovered.edges if discovered else ()
    if frequencies is None:
        return {frozenset(edge.pair): edge for edge in edges}
    share = _shares(frequencies)
    lasting = {}
    for edge in edges:
        again = share.get(frozenset(edge.pair), {})
        if again.get("adjacent", 0.0) >= least:
            marks: list[Mark] = [
                mark if again[f"{mark}_at_{name}"] >= least else "circle"
                for name, mark in ((edge.a, edge.at_a), (edge.b, edge.at_b))
            ]
            lasting[frozenset(edge.pair)] = MarkedEdge(edge.a, edge.b, *marks)
    return lasting


def _shares(frequencies: pd.DataFrame | None) -> dict[frozenset[str], dict[str, float]]:
    """Pair -> ``adjacent`` and, by the variables' names, ``arrow_at_<name>`` and so on."""
    shares = {}
    for row in [] if frequencies is None else frequencies.to_dict("records"):
        named = {
            f"{mark}_at_{row[end]}": float(row[f"{mark}_at_{end}"])
            for end in "ab"
            for mark in ("arrow", "tail", "circle")
        }
        shares[frozenset((row["a"], row["b"]))] = {"adjacent": float(row["adjacent"]), **named}
    return shares


# -- evidence ----------------------------------------------------------------------------------------------------------
def _declared_evidence(graph: CausalGraph) -> list[dict[str, object]]:
    marks: list[tuple[str, str, Mark, Mark]] = [(a, b, "tail", "arrow") for a, b in graph.edges]
    marks += [(a, b, "arrow", "arrow") for a, b in graph.confounded]
    return [{"a": a, "b": b, "source": "declared", "at_a": x, "at_b": y, "by": "graph"} for a, b, x, y in marks]


def _discovered_evidence(
    found: Mapping[frozenset[str], MarkedEdge], discovered: Discovered | None, frequencies: pd.DataFrame | None
) -> list[dict[str, object]]:
    share = _shares(frequencies)
    return [
        {"a": e.a, "b": e.b, "source": "discovered", "at_a": e.at_a, "at_b": e.at_b,
         "by": discovered.method if discovered else "", "frequency": share.get(pair, {}).get("adjacent", np.nan)}
        for pair, e in found.items()
    ]  # fmt: skip


def _revealed_evidence(revealed: pd.DataFrame) -> list[dict[str, object]]:
    return [
        {"a": row["attribute"], "b": row["concept"], "source": "revealed", "at_a": "circle", "at_b": "circle",
         "by": row["editor"], "contrast": row["contrast"], "verdict": row["verdict"], "effect": row["editor_effect"], "low": row["editor_low"],
         "high": row["editor_high"], "q": row["q"]}
        for row in revealed.to_dict("records")
    ]  # fmt: skip


# -- edges -------------------------------------------------------------------------------------------------------------
def _adjacencies(
    graph: CausalGraph, full: CausalGraph, found: Mapping[frozenset[str], MarkedEdge], revealed: pd.DataFrame
) -> list[tuple[str, str]]:
    """Pairs in the order of the graph's attributes."""
    pairs = {frozenset(pair) for pair in (*graph.edges, *graph.confounded)} | set(found)
    for row in revealed.to_dict("records"):
        if row["verdict"] == "hidden" or (
            row["verdict"] == "mediated" and not _mediators(graph, row["attribute"], row["concept"], found, revealed)
        ):
            pairs.add(frozenset((row["attribute"], row["concept"])))
    rank = {name: i for i, name in enumerate(full.attributes)}
    ordered = [tuple(sorted(pair, key=rank.__getitem__)) for pair in pairs]
    return sorted(((a, b) for a, b in ordered), key=lambda pair: (rank[pair[0]], rank[pair[1]]))


def _mediators(
    graph: CausalGraph, attribute: str, concept: str, found: Mapping[frozenset[str], MarkedEdge], revealed: pd.DataFrame
) -> list[str]:
    """Labelled effects of the attribute that are joined to the concept themselves."""
    shown = {(row["attribute"], row["concept"]) for row in revealed.to_dict("records") if row["verdict"] == "hidden"}
    return [
        name
        for name in sorted(graph.descendants(attribute))
        if (name, concept) in shown or frozenset((name, concept)) in found or concept in graph.children(name)
    ]


def _edge_row(
    full: CausalGraph, a: str, b: str, evidence: pd.DataFrame, found: Mapping[frozenset[str], MarkedEdge],
    conflicts: pd.DataFrame,
) -> dict[str, object]:  # fmt: skip
    said, own = _about(evidence, a, b), _about(conflicts, a, b)
    declared, oriented_by = _declared_marks(full, a, b), set()
    searched = found.get(frozenset((a, b)))
    tier = {name: i for i, group in enumerate(full.tiers or ()) for name in group}
    marks: dict[str, Mark] = {}
    for end, other in ((a, b), (b, a)):
        from_table: Mark = "circle" if searched is None else searched.mark(end)
        if from_table == "tail" and full.selected_on:
            from_table = "circle"  # there a tail says: a cause of the other or of the selection
        mark: Mark = declared.get(end, "circle")
        if mark == "circle":
            mark, source = from_table, "discovered"
        elif contradict(mark, from_table):
            mark = "circle"
        else:
            source = "declared"
        late = tier.get(end, -1) > tier.get(other, len(tier))
        if mark == "circle" and late and not contradict(from_table, "arrow"):
            mark, source = "arrow", "tiers"
        if mark != "circle":
            oriented_by.add(source)
        marks[end] = mark
    edge = MarkedEdge(a, b, marks[a], marks[b])
    sources = [source for source in ("declared", "discovered", "revealed") if source in set(said["source"])]
    return {
        "a": a, "b": b, "at_a": edge.at_a, "at_b": edge.at_b, "edge": str(edge), "sources": ", ".join(sources),
        "oriented_by": ", ".join(sorted(oriented_by)), "provenance": "; ".join(map(_words, said.to_dict("records"))),
        "conflict": ", ".join(dict.fromkeys(own["kind"])),
    }  # fmt: skip


def _declared_marks(graph: CausalGraph, a: str, b: str) -> dict[str, Mark]:
    if (a, b) in graph.edges:
        return {a: "tail", b: "arrow"}
    if (b, a) in graph.edges:
        return {a: "arrow", b: "tail"}
    if graph.in_order(a, b) in graph.confounded:
        return {a: "arrow", b: "arrow"}
    return {}


def _words(row: Mapping[Any, Any]) -> str:
    if row["source"] == "declared":
        return "declared"
    if row["source"] == "discovered":
        again = "" if pd.isna(row["frequency"]) else f", in {row['frequency']:.0%} of resamples"
        return f"discovered by {row['by']}{again}"
    return f"{row['verdict']} by {row['by']}: {row['effect']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"


# -- conflicts ---------------------------------------------------------------------------------------------------------
def _conflicts(
    graph: CausalGraph,
    found: Mapping[frozenset[str], MarkedEdge],
    discovered: Discovered | None,
    revealed: pd.DataFrame,
) -> list[tuple[str, str, str, str]]:
    listed: list[tuple[str, str, str, str]] = []
    parted = {frozenset((s.a, s.b)): s for s in (discovered.separations if discovered else ())}
    if discovered:
        listed += _with_the_table(graph, discovered, found, parted)
    for (attribute, concept), rows in revealed.groupby(["attribute", "concept"], sort=False):
        listed += _with_the_edits(graph, str(attribute), str(concept), rows, found, parted, revealed)
    return listed


def _with_the_table(
    graph: CausalGraph, discovered: Discovered, found: Mapping[frozenset[str], MarkedEdge],
    parted: Mapping[frozenset[str], Separation],
) -> list[tuple[str, str, str, str]]:  # fmt: skip
    """The declared graph beside the table's: over the attributes that both have."""
    shared = [name for name in discovered.variables if name in graph.attributes]
    declared = {frozenset(e.pair): e for e in ancestral_edges(graph, shared)}
    direct = {frozenset(pair) for pair in (*graph.edges, *graph.confounded)}
    listed = []
    for a, b in combinations(shared, 2):
        pair = frozenset((a, b))
        mine, there = declared.get(pair), found.get(pair)
        if there is not None and mine is None:
            listed.append((a, b, "undeclared", f"{there} in the table, and the declared graph separates {a} and {b}"))
        elif pair in direct and pair in parted:
            listed.append(
                (a, b, "declared but separated", f"{a} and {b} are declared adjacent, and {_parted(parted[pair])}")
            )
        elif mine is not None and there is not None and any(contradict(mine.mark(n), there.mark(n)) for n in pair):
            listed.append((a, b, "marks differ", f"declared {mine}, found {there}"))
    return listed


def _with_the_edits(
    graph: CausalGraph, attribute: str, concept: str, rows: pd.DataFrame, found: Mapping[frozenset[str], MarkedEdge],
    parted: Mapping[frozenset[str], Separation], revealed: pd.DataFrame,
) -> list[tuple[str, str, str, str]]:  # fmt: skip
    pair = frozenset((attribute, concept))
    verdicts = {str(editor): set(said) for editor, said in rows.groupby("editor", sort=False)["verdict"]}
    hidden = [editor for editor, said in verdicts.items() if "hidden" in said]  # by one contrast of several
    unmoved = [editor for editor, said in verdicts.items() if said <= set(NOT_MOVED)]
    listed = []
    if hidden and pair in parted:
        listed.append(
            ("revealed but separated", f"{_edits(hidden)} move {concept} with {attribute}, and {_parted(parted[pair])}")
        )
    if unmoved and not hidden and pair in found:
        listed.append(
            (
                "adjacent but not moved",
                f"{found[pair]} in the unedited images, and {_edits(unmoved)} do not move {concept}",
            )
        )
    if hidden and unmoved:
        listed.append(
            ("editors disagree", f"{_edits(hidden)} move {concept} with {attribute}, {_edits(unmoved)} do not")
        )
    given = set().union(*verdicts.values())
    if "mediated" in given and not _mediators(graph, attribute, concept, found, revealed):
        listed.append(
            (
                "mediated by nothing",
                f"{attribute} moves {concept} through labelled attributes, of which none is joined to it",
            )
        )
    if "unsupported" in given:
        listed.append(("unsupported", f"{attribute} -> {concept} is declared, and neither side shows it"))
    return [(attribute, concept, kind, sentence) for kind, sentence in listed]


def _edits(editors: list[str]) -> str:
    return f"edits by {' and '.join(editors)}"


def _parted(found: Separation) -> str:
    given = f" given {', '.join(found.given)}" if found.given else ""
    return f"the table parts them{given} (p = {found.p:.2g} of independence)"


# -- falsification -----------------------------------------------------------------------------------------------------
