"""``CausalGraph``: what a user declares about the attributes and the image."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import networkx as nx
import pandas as pd

from causal_cxr.graphs import separation
from causal_cxr.graphs.attributes import Attribute, Value

if TYPE_CHECKING:
    from causal_cxr.graphs.drawing import Drawing

IMAGE = "image"  #: reserved node: the radiograph, a child of the attributes that show in it


class CausalGraph:
    """A DAG over attributes, with declared latent confounding, selection and tiers; immutable.

    Args:
        attributes: ``Binary``, ``Categorical`` or ``Continuous``; names are unique, ``"image"`` is reserved.
        edges: (cause, effect) pairs. Edges into ``"image"`` say what shows in the image; if there is none, every
            attribute shows.
        confounded: pairs that share a latent common cause (bidirected edges; the graph is then an ADMG).
        selected_on: attributes that decided what entered the collection: they share one common effect, on which all
            data are conditioned.
        tiers: groups of names; nothing in a later tier causes anything in an earlier one. Names may be left out.

    Two graphs are equal if they declare the same; the order of edges does not count, that of attributes does, since it
    is the order of a table's columns.

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
        declared: dict[str, Attribute] = {}
        for attribute in listed:
            if not isinstance(attribute, Attribute):
                raise ValueError(
                    f"{attribute!r} is no attribute; pass Binary(...), Categorical(...) or Continuous(...)."
                )
            if attribute.name == IMAGE:
                raise ValueError(f"{IMAGE!r} is the image itself; rename the attribute.")
            if attribute.name in declared:
                raise ValueError(f"Attribute {attribute.name!r} is declared twice; drop one.")
            declared[attribute.name] = attribute
        self.attributes: Mapping[str, Attribute] = MappingProxyType(declared)

        rank = {name: i for i, name in enumerate(self.attributes)}
        graph = nx.DiGraph()
        graph.add_nodes_from(self.attributes)
        shows: set[str] = set()
        for cause, effect in (_pair(edge, "edges") for edge in edges):
            if cause == IMAGE:
                raise ValueError(
                    f"{effect!r} is a child of the image; attributes cause the image: ({effect!r}, {IMAGE!r})."
                )
            self.known(cause)
            if cause == effect:
                raise ValueError(f"{cause!r} has an edge to itself; drop it.")
            if graph.has_edge(cause, effect) or (effect == IMAGE and cause in shows):
                raise ValueError(f"Edge {cause} -> {effect} is declared twice; drop one.")
            if effect == IMAGE:
                shows.add(cause)
            else:
                graph.add_edge(cause, self.known(effect))
        if not nx.is_directed_acyclic_graph(graph):
            cycle = [edge[0] for edge in nx.find_cycle(graph)]
            raise ValueError(
                f"graph has a cycle: {' -> '.join([*cycle, cycle[0]])}; drop one of these edges, "
                "or declare the pair in confounded=[...] if neither causes the other."
            )
        self._graph = nx.freeze(graph)
        self._shows_declared = bool(shows)
        self.edges: tuple[tuple[str, str], ...] = tuple(sorted(graph.edges, key=lambda e: (rank[e[0]], rank[e[1]])))
        self.image_parents: tuple[str, ...] = tuple(n for n in self.attributes if n in shows) or tuple(self.attributes)

        pairs: set[tuple[str, str]] = set()
        for one, other in (_pair(pair, "confounded") for pair in confounded):
            a, b = self.in_order(self.known(one), self.known(other))
            if a == b:
                raise ValueError(f"{a!r} is declared as confounded with itself; name two attributes.")
            if (a, b) in pairs:
                raise ValueError(f"{a!r} and {b!r} are declared as confounded twice; drop one.")
            pairs.add((a, b))
        self.confounded: tuple[tuple[str, str], ...] = tuple(sorted(pairs, key=lambda e: (rank[e[0]], rank[e[1]])))

        selected = {self.known(name) for name in _listed(selected_on, "selected_on")}
        self.selected_on: tuple[str, ...] = tuple(sorted(selected, key=rank.__getitem__))
        self.tiers: tuple[tuple[str, ...], ...] | None = None
        if tiers is not None:
            groups = [_listed(tier, "a tier") for tier in _listed(tiers, "tiers")]
            self.tiers = tuple(tuple(sorted(map(self.known, tier), key=rank.__getitem__)) for tier in groups)
            tier_of: dict[str, int] = {}
            for i, tier in enumerate(self.tiers):
                for name in tier:
                    if name in tier_of:
                        raise ValueError(f"{name!r} is in tiers {tier_of[name] + 1} and {i + 1}; keep one.")
                    tier_of[name] = i
            for cause, effect in self.edges:
                if cause in tier_of and effect in tier_of and tier_of[cause] > tier_of[effect]:
                    raise ValueError(
                        f"Edge {cause} -> {effect} runs against the tiers ({cause!r} is in tier {tier_of[cause] + 1}, "
                        f"{effect!r} in tier {tier_of[effect] + 1}); turn it round, or move {cause!r} up."
                    )
        self._sealed = True

    def __setattr__(self, name: str, value: Any) -> None:
        if "_sealed" in self.__dict__:
            raise AttributeError(f"A CausalGraph is immutable: cannot set {name!r}; build a new one.")
        super().__setattr__(name, value)

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
        return frozenset(self._graph.predecessors(self.known(name)))

    def children(self, name: str) -> frozenset[str]:
        """Declared direct effects, the image aside."""
        return frozenset(self._graph.successors(self.known(name)))

    def ancestors(self, name: str) -> frozenset[str]:
        """Declared causes, direct or not."""
        return frozenset(nx.ancestors(self._graph, self.known(name)))

    def descendants(self, name: str) -> frozenset[str]:
        """Declared effects, direct or not, the image aside."""
        return frozenset(nx.descendants(self._graph, self.known(name)))

    def has_directed_path(self, cause: str, effect: str) -> bool:
        """Whether the graph declares a causal path; False for a concept that the graph does not have."""
        return effect in self.attributes and effect in self.descendants(cause)

    def district(self, name: str) -> frozenset[str]:
        """The attribute and all that bidirected edges connect it to, directly or by way of others."""
        bidirected = nx.Graph(self.confounded)
        bidirected.add_node(self.known(name))
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
            self.attributes[self.known(name)].check(value)
        return self._replace(
            edges=[edge for edge in self.declared_edges if edge[1] not in values],
            confounded=[pair for pair in self.confounded if not set(pair) & set(values)],
        )

    def with_hidden(
        self, attribute: Attribute, parents: Iterable[str] = (), children: Iterable[str] = ()
    ) -> "CausalGraph":
        """The graph with one more attribute that no column names and the image shows; with edges, or without.

        >>> from causal_cxr.graphs import Binary
        >>> graph = CausalGraph([Binary("view", levels=("PA", "AP"))])
        >>> graph.with_hidden(Binary("pacemaker"), parents=["view"]).hidden
        ('pacemaker',)
        """
        hidden = replace(attribute, hidden=True)
        new = [(parent, hidden.name) for parent in _listed(parents, "parents")]
        new += [(hidden.name, child) for child in _listed(children, "children")]
        if self._shows_declared and (hidden.name, IMAGE) not in new:
            new.append((hidden.name, IMAGE))
        return self._replace(attributes=[*self.attributes.values(), hidden], edges=[*self.declared_edges, *new])

    def with_placebo(self, attribute: Attribute) -> "CausalGraph":
        """The graph with one more labelled attribute that nothing causes, that causes nothing, and that shows nowhere.

        >>> from causal_cxr.graphs import Binary
        >>> graph = CausalGraph([Binary("view", levels=("PA", "AP"))]).with_placebo(Binary("coin"))
        >>> graph.labelled, graph.image_parents
        (('view', 'coin'), ('view',))
        """
        shows = [(name, IMAGE) for name in self.image_parents]
        return self._replace(attributes=[*self.attributes.values(), attribute], edges=[*self.edges, *shows])

    def without(self, names: Iterable[str]) -> "CausalGraph":
        """The graph with these attributes erased, and every edge, tier and selection that names them.

        An erased common cause leaves no bidirected edge behind: declare that in ``confounded`` if it should.
        """
        gone = {self.known(name) for name in _listed(names, "names")}
        edges = [edge for edge in self.declared_edges if not set(edge) & gone]
        if self._shows_declared and not any(effect == IMAGE for _, effect in edges) and gone < set(self.attributes):
            raise ValueError(
                f"Without {sorted(gone)} nothing shows in the image; keep one of {list(self.image_parents)}."
            )
        return self._replace(
            attributes=[attribute for name, attribute in self.attributes.items() if name not in gone],
            edges=edges,
            confounded=[pair for pair in self.confounded if not set(pair) & gone],
            selected_on=[name for name in self.selected_on if name not in gone],
            tiers=None if self.tiers is None else [[n for n in tier if n not in gone] for tier in self.tiers],
        )

    # -- separation and identification ---------------------------------------------------------------------------------
    def m_separated(self, x: str, y: str, given: Iterable[str] = ()) -> bool:
        """See :func:`causal_cxr.graphs.separation.m_separated`."""
        return separation.m_separated(self, x, y, _listed(given, "given"))

    def implied_independences(self) -> list[tuple[str, str, frozenset[str]]]:
        """See :func:`causal_cxr.graphs.separation.implied_independences`."""
        return separation.implied_independences(self)

    def adjustment_set(self, treatment: str, outcome: str | None = None) -> frozenset[str] | None:
        """See :func:`causal_cxr.graphs.identification.adjustment_set`; no outcome: a concept outside the graph."""
        from causal_cxr.graphs import identification

        return identification.adjustment_set(self, treatment, outcome)

    # -- tables --------------------------------------------------------------------------------------------------------
    def coerce(self, table: pd.DataFrame) -> pd.DataFrame:
        """The labelled attributes' columns of ``table``, typed; the index is kept.

        Raises:
            ValueError: a labelled attribute has no column, or a value is not one of its.
        """
        absent = [name for name in self.labelled if name not in table.columns]
        if absent:
            raise ValueError(f"The table has no column for {absent}; it has {list(table.columns)}.")
        return pd.DataFrame(
            {name: self.attributes[name].coerce(table[name]) for name in self.labelled}, index=table.index
        )

    # -- exchange ------------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Plain data (JSON can hold it): the ``graph:`` block of audit specifications and world files."""
        from causal_cxr.graphs import exchange

        return exchange.to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "CausalGraph":
        """The graph of a ``graph:`` block, which is the same in audit specifications and in world files.

        In YAML; all keys but ``attributes`` may be left out::

            graph:
              attributes:
                - {name: age, type: continuous, unit: years, low: 18, high: 100, phrases: "{value:.0f}-year-old"}
                - name: view
                  type: binary              # two levels; effects run from the first to the second
                  levels: [PA, AP]          # 0 and 1 unless given
                  phrases: {PA: upright PA view, AP: [portable AP view, bedside AP view]}   # several: paraphrases
                - {name: race, type: categorical, levels: [white, black, asian], reference: white}
                - {name: pacemaker, type: binary, hidden: true}   # no column has it
              edges:                        # [cause, effect]
                - [age, view]
                - [view, image]             # what shows in the image; if no edge says so, everything does
              confounded: [[race, view]]    # pairs with a latent common cause
              selected_on: [view]           # what decided which images were collected
              tiers: [[age, race], [view]]  # nothing causes what stands in an earlier tier

        Raises:
            ValueError: unknown keys, and all that :class:`CausalGraph` refuses.

        >>> graph = CausalGraph.from_dict({
        ...     "attributes": [{"name": "age", "type": "continuous", "unit": "years", "low": 18, "high": 100},
        ...                    {"name": "view", "type": "binary", "levels": ["PA", "AP"]}],
        ...     "edges": [["age", "view"], ["view", "image"]]})
        >>> graph.image_parents
        ('view',)
        """
        from causal_cxr.graphs import exchange

        return exchange.from_dict(data)

    def to_yaml(self) -> str:
        """See :func:`causal_cxr.graphs.exchange.to_yaml`."""
        from causal_cxr.graphs import exchange

        return exchange.to_yaml(self)

    @classmethod
    def from_yaml(cls, text: str) -> "CausalGraph":
        """See :func:`causal_cxr.graphs.exchange.from_yaml`."""
        from causal_cxr.graphs import exchange

        return exchange.from_yaml(text)

    def to_networkx(self) -> nx.DiGraph:
        """See :func:`causal_cxr.graphs.exchange.to_networkx`."""
        from causal_cxr.graphs import exchange

        return exchange.to_networkx(self)

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph, attributes: Iterable[Attribute] | None = None) -> "CausalGraph":
        """See :func:`causal_cxr.graphs.exchange.from_networkx`."""
        from causal_cxr.graphs import exchange

        return exchange.from_networkx(graph, attributes)

    def to_graphml(self) -> str:
        """See :func:`causal_cxr.graphs.exchange.to_graphml`."""
        from causal_cxr.graphs import exchange

        return exchange.to_graphml(self)

    @classmethod
    def from_graphml(cls, text: str, attributes: Iterable[Attribute] | None = None) -> "CausalGraph":
        """See :func:`causal_cxr.graphs.exchange.from_graphml`."""
        from causal_cxr.graphs import exchange

        return exchange.from_graphml(text, attributes)

    def to_dot(self) -> str:
        """See :func:`causal_cxr.graphs.exchange.to_dot`."""
        from causal_cxr.graphs import exchange

        return exchange.to_dot(self)

    @classmethod
    def from_dot(cls, text: str, attributes: Iterable[Attribute] | None = None) -> "CausalGraph":
        """See :func:`causal_cxr.graphs.exchange.from_dot`."""
        from causal_cxr.graphs import exchange

        return exchange.from_dot(text, attributes)

    def to_dowhy(self) -> nx.DiGraph:
        """See :func:`causal_cxr.graphs.exchange.to_dowhy`."""
        from causal_cxr.graphs import exchange

        return exchange.to_dowhy(self)

    @classmethod
    def from_dowhy(cls, model: Any, attributes: Iterable[Attribute] | None = None) -> "CausalGraph":
        """See :func:`causal_cxr.graphs.exchange.from_dowhy`."""
        from causal_cxr.graphs import exchange

        return exchange.from_dowhy(model, attributes)

    def to_background_knowledge(self) -> Any:
        """See :func:`causal_cxr.graphs.exchange.to_background_knowledge`."""
        from causal_cxr.graphs import exchange

        return exchange.to_background_knowledge(self)

    @classmethod
    def from_background_knowledge(cls, knowledge: Any, attributes: Iterable[Attribute]) -> "CausalGraph":
        """See :func:`causal_cxr.graphs.exchange.from_background_knowledge`."""
        from causal_cxr.graphs import exchange

        return exchange.from_background_knowledge(knowledge, attributes)

    def draw(self, revealed: Iterable[tuple[str, str, str]] = ()) -> "Drawing":
        """See :func:`causal_cxr.graphs.drawing.draw`; ``revealed`` are (attribute, concept, label) adjacencies."""
        from causal_cxr.graphs import drawing

        return drawing.draw(self, revealed)

    def _repr_html_(self) -> str:
        return self.draw()._repr_html_()

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

    def known(self, name: str) -> str:
        """``name``, if the graph has it; else ValueError, which suggests the nearest name."""
        if name in self.attributes:
            return name
        near = difflib.get_close_matches(str(name), self.attributes, n=1)
        mend = f"did you mean {near[0]!r}?" if near else "add it to CausalGraph(attributes=[...]) or correct the name."
        raise ValueError(f"Unknown attribute {name!r}; the graph has {list(self.attributes)}; {mend}")

    def in_order(self, a: str, b: str) -> tuple[str, str]:
        """The two names in the order of declaration."""
        names = list(self.attributes)
        return (a, b) if names.index(a) <= names.index(b) else (b, a)

    @property
    def declared_edges(self) -> tuple[tuple[str, str], ...]:
        """All directed edges as declared, those into ``"image"`` included (none if everything shows by default)."""
        shows = tuple((name, IMAGE) for name in self.image_parents) if self._shows_declared else ()
        return (*self.edges, *shows)

    def _replace(self, **changes: Any) -> "CausalGraph":
        content: dict[str, Any] = {
            "attributes": self.attributes.values(),
            "edges": self.declared_edges,
            "confounded": self.confounded,
            "selected_on": self.selected_on,
            "tiers": self.tiers,
        }
        return CausalGraph(**{**content, **changes})

    def __reduce__(self) -> tuple[Any, ...]:
        return CausalGraph.from_dict, (self.to_dict(),)


def _listed(names: Iterable[Any], what: str) -> list[Any]:
    if isinstance(names, str):
        raise ValueError(f"{what} is the text {names!r}; give a list: [{names!r}].")
    return list(names)


def _pair(edge: Sequence[str], what: str) -> tuple[str, str]:
    if isinstance(edge, str) or len(edge) != 2:
        raise ValueError(f"{what} has {edge!r}; write each as a pair of names, such as ('age', 'view').")
    return edge[0], edge[1]
