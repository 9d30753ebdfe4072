"""``CausalGraph``: what a user declares about the attributes and the image."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import networkx as nx
import pandas as pd

from causal_cxr.graphs.attributes import Attribute, Value, attribute_from_dict

if TYPE_CHECKING:
    from causal_cxr.graphs.drawing import Drawing

IMAGE = "image"  #: reserved node: the radiograph, a child of the attributes that show in it


class CausalGraph:
    """A DAG over attributes, with declared latent confounding, selection and tiers; immutable.

    Args:
        attributes: ``Binary``, ``Categorical`` or ``Continuous``; names are unique, ``"image"`` is reserved.
        edges: (cause, effect) pairs. Edges into ``"image"`` say what shows in the image; if there is none, every
            attribute shows.
        confounded: pairs that share an undeclared common cause (bidirected edges; the graph is then an ADMG).
        selected_on: attributes that the collection was selected on.
        tiers: groups of names; nothing in a later tier causes anything in an earlier one.

    Raises:
        ValueError: cycle, unknown or duplicate name, self-edge, the image as a cause, an edge against the tiers, no
            attribute; the message names the offence and the mend.

    >>> from causal_cxr.graphs import Binary, Continuous
    >>> graph = CausalGraph(
    ...     [Continuous("age", unit="years", low=18, high=100), Binary("view", levels=("PA", "AP"))], [("age", "view")])
    >>> sorted(graph.parents("view"))
    ['age']
    """

    def __init__(
        self,
        attributes: Iterable[Attribute],
        edges: Iterable[Sequence[str]] = (),
        confounded: Iterable[Sequence[str]] = (),
        selected_on: Iterable[str] = (),
        tiers: Iterable[Iterable[str]] | None = None,
    ) -> None:
        listed = tuple(attributes)
        if not listed:
            raise ValueError("A graph needs at least one attribute; pass attributes=[Binary('view', ...), ...].")
        self.attributes: Mapping[str, Attribute] = {}
        for attribute in listed:
            if attribute.name == IMAGE:
                raise ValueError(f"{IMAGE!r} is the image itself; rename the attribute.")
            if attribute.name in self.attributes:
                raise ValueError(f"Attribute {attribute.name!r} is declared twice; drop one.")
            self.attributes = {**self.attributes, attribute.name: attribute}

        graph, shows = nx.DiGraph(), []
        graph.add_nodes_from(self.attributes)
        for cause, effect in (tuple(edge) for edge in edges):
            if cause == IMAGE:
                raise ValueError(
                    f"{effect!r} is declared as a child of the image; attributes cause the image: ({effect!r}, 'image')."
                )
            self._known(cause)
            if effect == IMAGE:
                shows.append(cause)
                continue
            self._known(effect)
            if cause == effect:
                raise ValueError(f"{cause!r} has an edge to itself; drop it.")
            if graph.has_edge(cause, effect):
                raise ValueError(f"Edge {cause} -> {effect} is declared twice; drop one.")
            graph.add_edge(cause, effect)
        if not nx.is_directed_acyclic_graph(graph):
            cycle = [edge[0] for edge in nx.find_cycle(graph)]
            raise ValueError(
                f"graph has a cycle: {' -> '.join([*cycle, cycle[0]])}; drop one of these edges, or declare the pair in "
                "confounded=[...] if neither causes the other."
            )
        self._graph = nx.freeze(graph)
        self.edges: tuple[tuple[str, str], ...] = tuple(graph.edges)
        self.image_parents: tuple[str, ...] = tuple(n for n in self.attributes if n in shows) or tuple(self.attributes)
        self._image_declared = bool(shows)
        pairs = []
        for a, b in (tuple(pair) for pair in confounded):
            self._known(a), self._known(b)
            if a == b:
                raise ValueError(f"{a!r} is declared as confounded with itself; name two attributes.")
            pairs.append(tuple(sorted((a, b))))
        self.confounded: tuple[tuple[str, str], ...] = tuple(dict.fromkeys((a, b) for a, b in pairs))
        self.selected_on: tuple[str, ...] = tuple(dict.fromkeys(self._known(name) for name in selected_on))
        self.tiers = None if tiers is None else tuple(tuple(self._known(n) for n in tier) for tier in tiers)
        if self.tiers is not None:
            tier_of = {name: i for i, tier in enumerate(self.tiers) for name in tier}
            for cause, effect in self.edges:
                if cause in tier_of and effect in tier_of and tier_of[cause] > tier_of[effect]:
                    raise ValueError(f"Edge {cause} -> {effect} runs against the tiers; turn it, or move {cause!r} up.")

    # -- structure -----------------------------------------------------------------------------------------------------
    @property
    def labelled(self) -> tuple[str, ...]:
        """Names of the attributes that the metadata has a column for."""
        return tuple(name for name, attribute in self.attributes.items() if not attribute.hidden)

    @property
    def hidden(self) -> tuple[str, ...]:
        """Names of the attributes that only the image shows."""
        return tuple(name for name, attribute in self.attributes.items() if attribute.hidden)

    def parents(self, name: str) -> frozenset[str]:
        """Declared direct causes."""
        return frozenset(self._graph.predecessors(self._known(name)))

    def children(self, name: str) -> frozenset[str]:
        """Declared direct effects, the image aside."""
        return frozenset(self._graph.successors(self._known(name)))

    def ancestors(self, name: str) -> frozenset[str]:
        """Declared causes, direct or not."""
        return frozenset(nx.ancestors(self._graph, self._known(name)))

    def descendants(self, name: str) -> frozenset[str]:
        """Declared effects, direct or not, the image aside."""
        return frozenset(nx.descendants(self._graph, self._known(name)))

    def has_directed_path(self, cause: str, effect: str) -> bool:
        """Whether the graph declares a causal path; False for a concept that the graph does not have."""
        return effect in self.attributes and effect in self.descendants(cause)

    def district(self, name: str) -> frozenset[str]:
        """The attribute and all that bidirected edges connect it to."""
        bidirected = nx.Graph(self.confounded)
        bidirected.add_node(self._known(name))
        return frozenset(nx.node_connected_component(bidirected, name))

    def topological_order(self) -> tuple[str, ...]:
        """Causes before effects; ties in the order of declaration."""
        rank = {name: i for i, name in enumerate(self.attributes)}
        return tuple(nx.lexicographical_topological_sort(self._graph, key=rank.__getitem__))

    def do(self, **values: Value) -> "CausalGraph":
        """The graph after an intervention: the named attributes lose the arrows into them.

        >>> from causal_cxr.graphs import Binary
        >>> graph = CausalGraph([Binary("pneumonia"), Binary("view", levels=("PA", "AP"))], [("pneumonia", "view")])
        >>> graph.do(view="AP").edges
        ()
        """
        for name, value in values.items():
            self.attributes[self._known(name)].check(value)
        return self._replace(
            edges=[edge for edge in self._all_edges() if edge[1] not in values],
            confounded=[pair for pair in self.confounded if not set(pair) & set(values)],
        )

    def with_hidden(self, attribute: Attribute, *, parents: Iterable[str] = (), children: Iterable[str] = ()) -> "CausalGraph":
        """The graph with one more attribute, hidden as a rule, and edges to and from it."""
        new = [(p, attribute.name) for p in parents] + [(attribute.name, c) for c in children]
        if self._image_declared:
            new.append((attribute.name, IMAGE))
        return self._replace(attributes=[*self.attributes.values(), attribute], edges=[*self._all_edges(), *new])

    def m_separated(self, x: str, y: str, given: Iterable[str] = ()) -> bool:
        """Whether ``x`` and ``y`` are independent given ``given`` in every distribution of this ADMG.

        Selection is conditioned on. networkx's d-separation on the DAG with one explicit latent a bidirected edge.
        """
        condition = {self._known(name) for name in given} | set(self.selected_on)
        condition -= {self._known(x), self._known(y)}
        return nx.is_d_separator(self._with_latents, {x}, {y}, condition)

    def implied_independences(self) -> list[tuple[str, str, frozenset[str]]]:
        """(x, y, given) statements that data could refute: for each non-adjacent pair its parents, where they separate."""
        statements = []
        order = self.topological_order()
        for i, x in enumerate(order):
            for y in order[i + 1 :]:
                given = (self.parents(x) | self.parents(y)) - {x, y}
                if not self._graph.has_edge(x, y) and self.m_separated(x, y, given):
                    statements.append((x, y, given))
        return statements

    def adjustment_set(self, treatment: str, outcome: str | None = None) -> frozenset[str] | None:
        """What to adjust for to read the effect of ``treatment`` off unedited images; ``None`` if not identifiable.

        See :func:`causal_cxr.graphs.identification.adjustment_set`.
        """
        from causal_cxr.graphs.identification import adjustment_set

        return adjustment_set(self, self._known(treatment), outcome)

    # -- tables --------------------------------------------------------------------------------------------------------
    def coerce(self, table: pd.DataFrame) -> pd.DataFrame:
        """The labelled attributes' columns of ``table``, typed; the index is kept.

        Raises:
            ValueError: a labelled attribute has no column, or a value is not one of its.
        """
        absent = [name for name in self.labelled if name not in table.columns]
        if absent:
            raise ValueError(f"The table has no column for {absent}; it has {list(table.columns)}.")
        return pd.DataFrame({name: self.attributes[name].coerce(table[name]) for name in self.labelled}, index=table.index)

    # -- exchange ------------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Plain data: the ``graph:`` block of audit specifications and world files."""
        data: dict[str, Any] = {
            "attributes": [attribute.to_dict() for attribute in self.attributes.values()],
            "edges": [list(edge) for edge in self._all_edges()],
        }
        if self.confounded:
            data["confounded"] = [list(pair) for pair in self.confounded]
        if self.selected_on:
            data["selected_on"] = list(self.selected_on)
        if self.tiers is not None:
            data["tiers"] = [list(tier) for tier in self.tiers]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "CausalGraph":
        """The graph of a ``graph:`` block.

        >>> graph = CausalGraph.from_dict({
        ...     "attributes": [{"name": "age", "type": "continuous", "unit": "years", "low": 18, "high": 100},
        ...                    {"name": "view", "type": "binary", "levels": ["PA", "AP"]}],
        ...     "edges": [["age", "view"], ["view", "image"]]})
        >>> graph.image_parents
        ('view',)
        """
        unknown = set(data) - {"attributes", "edges", "confounded", "selected_on", "tiers"}
        if unknown:
            raise ValueError(f"graph has unknown keys {sorted(unknown)}; see CausalGraph.from_dict.")
        return cls([attribute_from_dict(a) for a in data.get("attributes", ())], **{k: v for k, v in data.items() if k != "attributes"})

    def to_yaml(self) -> str:
        """YAML text of :meth:`to_dict`."""
        import io

        from ruamel.yaml import YAML

        stream = io.StringIO()
        YAML(typ="safe").dump(self.to_dict(), stream)
        return stream.getvalue()

    @classmethod
    def from_yaml(cls, text: str) -> "CausalGraph":
        """Inverse of :meth:`to_yaml`."""
        from ruamel.yaml import YAML

        return cls.from_dict(YAML(typ="safe").load(text))

    def to_networkx(self) -> nx.DiGraph:
        """A copy with the image as a node; attributes as node data, everything else as graph data (JSON text)."""
        graph = nx.DiGraph(declaration=json.dumps(self.to_dict()))
        for name, attribute in self.attributes.items():
            graph.add_node(name, kind=type(attribute).__name__, hidden=attribute.hidden)
        graph.add_node(IMAGE, kind="Image", hidden=False)
        graph.add_edges_from(self.edges, kind="directed")
        graph.add_edges_from(((name, IMAGE) for name in self.image_parents), kind="shows")
        return graph

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph) -> "CausalGraph":
        """Inverse of :meth:`to_networkx`; edges and nodes that were added since are refused, not dropped."""
        declaration = graph.graph.get("declaration")
        if declaration is None:
            raise ValueError("This networkx graph has no 'declaration'; build it with CausalGraph.to_networkx().")
        restored = cls.from_dict(json.loads(declaration))
        if set(restored.to_networkx().edges) != set(graph.edges):
            raise ValueError("The networkx graph's edges differ from its declaration; declare them in CausalGraph(...).")
        return restored

    def to_graphml(self) -> str:
        """GraphML text; the declaration travels as graph data, so the round trip is exact."""
        return "\n".join(nx.generate_graphml(self.to_networkx(), named_key_ids=True))

    @classmethod
    def from_graphml(cls, text: str) -> "CausalGraph":
        """Inverse of :meth:`to_graphml`."""
        return cls.from_networkx(nx.parse_graphml(text))

    def to_dot(self) -> str:
        """Graphviz text; the declaration travels as a graph attribute, so the round trip is exact."""
        graph = nx.nx_agraph.to_agraph(self.to_networkx())
        for a, b in self.confounded:
            graph.add_edge(a, b, key=f"{a}--{b}", dir="both", style="dashed")
        return str(graph.to_string())

    @classmethod
    def from_dot(cls, text: str) -> "CausalGraph":
        """Inverse of :meth:`to_dot`."""
        import pygraphviz

        declaration = pygraphviz.AGraph(text).graph_attr["declaration"]
        if not declaration:
            raise ValueError("This DOT text has no 'declaration'; write it with CausalGraph.to_dot().")
        return cls.from_dict(json.loads(declaration))

    def to_dowhy(self) -> nx.DiGraph:
        """The DAG that DoWhy takes: a networkx graph with one node marked ``observed="no"`` a bidirected edge."""
        graph = nx.DiGraph(self._with_latents)
        latents = set(graph) - set(self.attributes)
        nx.set_node_attributes(graph, {n: "no" if n in latents else "yes" for n in graph}, "observed")
        return graph

    def to_background_knowledge(self) -> Any:
        """causal-learn ``BackgroundKnowledge``: declared edges required, their reverses and later tiers' causes forbidden."""
        from causallearn.graph.GraphNode import GraphNode
        from causallearn.utils.PCUtils.BackgroundKnowledge import BackgroundKnowledge

        knowledge, nodes = BackgroundKnowledge(), {name: GraphNode(name) for name in self.attributes}
        for cause, effect in self.edges:
            knowledge.add_required_by_node(nodes[cause], nodes[effect])
            knowledge.add_forbidden_by_node(nodes[effect], nodes[cause])
        for i, tier in enumerate(self.tiers or ()):
            for name in tier:
                knowledge.add_node_to_tier(nodes[name], i)
        return knowledge

    def draw(self, revealed: Sequence[tuple[str, str, str]] = ()) -> "Drawing":
        """A picture; ``revealed`` are (attribute, concept, label) adjacencies to draw as ``A o-o U`` beside the declared edges."""
        from causal_cxr.graphs.drawing import draw

        return draw(self, revealed)

    def _repr_html_(self) -> str:
        return self.draw().svg

    # -- identity ------------------------------------------------------------------------------------------------------
    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the content."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CausalGraph) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        arrows = ", ".join(f"{a} -> {b}" for a, b in self.edges)
        return f"CausalGraph({len(self.attributes)} attributes: {', '.join(self.attributes)}; {arrows or 'no edges'})"

    def _known(self, name: str) -> str:
        if name in self.attributes:
            return name
        near = difflib.get_close_matches(str(name), self.attributes, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "add it to CausalGraph(attributes=[...])."
        raise ValueError(f"Unknown attribute {name!r}; the graph has {list(self.attributes)}; {hint}")

    def _all_edges(self) -> list[tuple[str, str]]:
        shows = [(name, IMAGE) for name in self.image_parents] if self._image_declared else []
        return [*self.edges, *shows]

    def _replace(self, **changes: Any) -> "CausalGraph":
        content = {"attributes": list(self.attributes.values()), "edges": self._all_edges(), "confounded": self.confounded,
                   "selected_on": self.selected_on, "tiers": self.tiers}  # fmt: skip
        return CausalGraph(**{**content, **changes})

    @cached_property
    def _with_latents(self) -> nx.DiGraph:
        graph = nx.DiGraph(self._graph)
        for a, b in self.confounded:
            latent = f"latent({a},{b})"
            graph.add_edges_from([(latent, a), (latent, b)])
        return graph
