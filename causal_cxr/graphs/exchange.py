"""Causal graphs in other people's formats.

networkx, GraphML, DOT and DoWhy graphs carry the whole declaration as one graph attribute (JSON text), beside nodes
and edges that other tools can read: the round trip is exact. Files written elsewhere have no declaration; their readers
take ``attributes=`` and keep what the format can say. causal-learn's background knowledge carries edges and tiers only.
"""

import io
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import networkx as nx

from causal_cxr.graphs.attributes import Attribute, attribute_from_dict
from causal_cxr.graphs.graph import IMAGE, CausalGraph

_KEYS = ("attributes", "edges", "confounded", "selected_on", "tiers")


def to_dict(graph: CausalGraph) -> dict[str, Any]:
    """The ``graph:`` block of ``graph``; see :meth:`CausalGraph.from_dict`."""
    data: dict[str, Any] = {
        "attributes": [attribute.to_dict() for attribute in graph.attributes.values()],
        "edges": [list(edge) for edge in graph.declared_edges],
    }
    if graph.confounded:
        data["confounded"] = [list(pair) for pair in graph.confounded]
    if graph.selected_on:
        data["selected_on"] = list(graph.selected_on)
    if graph.tiers is not None:
        data["tiers"] = [list(tier) for tier in graph.tiers]
    return data


def from_dict(data: Mapping[str, Any]) -> CausalGraph:
    """The graph of a ``graph:`` block; see :meth:`CausalGraph.from_dict`."""
    if not isinstance(data, Mapping):
        raise ValueError(f"A graph is written as a mapping with keys {list(_KEYS)}, got {type(data).__name__}.")
    unknown = [key for key in data if key not in _KEYS]
    if unknown:
        raise ValueError(f"The graph has unknown keys {unknown}; choose from {list(_KEYS)}.")
    blank = {key: value for key, value in data.items() if value is not None}  # a YAML key with nothing after it
    attributes = [attribute_from_dict(attribute) for attribute in blank.pop("attributes", ())]
    return CausalGraph(attributes, **blank)


def to_yaml(graph: CausalGraph) -> str:
    """YAML text of :func:`to_dict`."""
    from ruamel.yaml import YAML

    stream, yaml = io.StringIO(), YAML(typ="safe", pure=True)
    yaml.allow_unicode = True
    yaml.dump(to_dict(graph), stream)
    return stream.getvalue()


def from_yaml(text: str) -> CausalGraph:
    """Inverse of :func:`to_yaml`; the safe loader builds plain data only."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ValueError(f"The graph is no valid YAML: {error}") from error
    return from_dict(data)


def to_networkx(graph: CausalGraph) -> nx.DiGraph:
    """A copy as a DiGraph, the image included.

    Nodes carry ``kind``, ``hidden``, ``selected`` and perhaps ``tier``; edges a ``kind``: ``directed`` or ``shows``.
    """
    copy = nx.DiGraph(declaration=_declaration(graph))
    tier_of = {name: i for i, tier in enumerate(graph.tiers or ()) for name in tier}
    for name, attribute in graph.attributes.items():
        tier = {"tier": tier_of[name]} if name in tier_of else {}
        selected = name in graph.selected_on
        copy.add_node(name, kind=type(attribute).__name__, hidden=attribute.hidden, selected=selected, **tier)
    copy.add_node(IMAGE, kind="Image", hidden=False, selected=False)
    copy.add_edges_from(graph.edges, kind="directed")
    copy.add_edges_from(((name, IMAGE) for name in graph.image_parents), kind="shows")
    return copy


def from_networkx(graph: nx.DiGraph, attributes: Iterable[Attribute] | None = None) -> CausalGraph:
    """Inverse of :func:`to_networkx`; with ``attributes``, any DiGraph over their names (and ``"image"``).

    Raises:
        ValueError: no declaration and no ``attributes``; edges changed since the declaration was written.
    """
    pairs = [edge[:2] for edge in graph.edges]
    kinds = nx.get_edge_attributes(graph, "kind")
    confounded = [edge[:2] for edge, kind in kinds.items() if kind == "confounded"]
    directed = [edge for edge in pairs if edge not in confounded]
    return _restore(
        graph.graph.get("declaration"),
        attributes,
        directed,
        None if attributes is None else confounded,
        "networkx graph",
    )


def to_graphml(graph: CausalGraph) -> str:
    """GraphML text: nodes and edges as :func:`to_networkx`, and an edge of kind ``confounded`` a bidirected pair."""
    copy = nx.MultiDiGraph(to_networkx(graph))
    copy.add_edges_from(graph.confounded, kind="confounded")
    return "\n".join(nx.generate_graphml(copy, named_key_ids=True))


def from_graphml(text: str, attributes: Iterable[Attribute] | None = None) -> CausalGraph:
    """Inverse of :func:`to_graphml`; with ``attributes``, any GraphML over their names."""
    graph = nx.parse_graphml(text, force_multigraph=True)
    listed = [(a, b, data.get("kind")) for a, b, data in graph.edges(data=True)]
    directed = [(a, b) for a, b, kind in listed if kind != "confounded"]
    confounded = [(a, b) for a, b, kind in listed if kind == "confounded"]
    return _restore(graph.graph.get("declaration"), attributes, directed, confounded, "GraphML")


def to_dot(graph: CausalGraph) -> str:
    """Graphviz text: hidden attributes dashed, bidirected edges dashed with two heads, selected attributes boxed."""
    names = {name: f"n{i}" for i, name in enumerate((*graph.attributes, IMAGE))}
    lines = [f"digraph causal_graph {{\n  graph [declaration={quote(_declaration(graph))}];"]
    for name, node in names.items():
        hidden = name in graph.attributes and graph.attributes[name].hidden
        shape = "box" if name == IMAGE or name in graph.selected_on else "ellipse"
        lines.append(f"  {node} [label={label(name)}, shape={shape}, style={'dashed' if hidden else 'solid'}];")
    lines += [f"  {names[a]} -> {names[b]};" for a, b in (*graph.edges, *((p, IMAGE) for p in graph.image_parents))]
    lines += [f"  {names[a]} -> {names[b]} [dir=both, style=dashed];" for a, b in graph.confounded]
    return "\n".join([*lines, "}\n"])


def from_dot(text: str, attributes: Iterable[Attribute] | None = None) -> CausalGraph:
    """Inverse of :func:`to_dot`; with ``attributes``, any digraph over their names (``dir=both`` is bidirected).

    Raises:
        ValueError: as :func:`from_networkx`, and for text that is no DOT.
    """
    import pygraphviz

    try:
        graph = pygraphviz.AGraph(string=text)
    except (ValueError, pygraphviz.DotError) as error:
        raise ValueError(f"The text is no DOT graph: {error}") from error
    declaration = dict(graph.graph_attr).get("declaration")
    named = {node: _unescape(node.attr["label"]) if declaration else str(node) for node in graph.nodes()}
    directed: list[tuple[str, str]] = []
    confounded: list[tuple[str, str]] = []
    for edge in graph.edges():
        (confounded if edge.attr["dir"] == "both" else directed).append((named[edge[0]], named[edge[1]]))
    return _restore(declaration, attributes, directed, confounded, "DOT graph")


def to_dowhy(graph: CausalGraph) -> nx.DiGraph:
    """The DAG that ``dowhy.CausalModel(graph=...)`` takes: one unobserved common cause a bidirected edge.

    Hidden attributes are unobserved too. The image is left out, and so is selection, for which DoWhy has no word; the
    declaration carries both.
    """
    dag = nx.DiGraph(declaration=_declaration(graph))
    for name, attribute in graph.attributes.items():
        dag.add_node(name, observed="no" if attribute.hidden else "yes")
    dag.add_edges_from(graph.edges)
    for a, b in graph.confounded:
        latent = f"U({a}, {b})"
        while latent in dag:
            latent += "'"
        dag.add_node(latent, observed="no")
        dag.add_edges_from([(latent, a), (latent, b)])
    return dag


def from_dowhy(model: Any, attributes: Iterable[Attribute] | None = None) -> CausalGraph:
    """Inverse of :func:`to_dowhy`.

    Args:
        model: a DoWhy ``CausalModel``, or the networkx DAG that it takes.
        attributes: for a DAG without declaration: what its nodes are. An unobserved root that is none of them becomes
            one bidirected edge between each two of its children.
    """
    dag = model if isinstance(model, nx.DiGraph) else model._graph._graph
    declaration = dag.graph.get("declaration")
    listed = None if attributes is None else tuple(attributes)
    named = {a.name for a in listed or ()} | (
        {a["name"] for a in json.loads(declaration)["attributes"]} if declaration else set()
    )
    latents = [n for n, data in dag.nodes(data=True) if data.get("observed") == "no" and n not in named]
    confounded: dict[frozenset[str], tuple[str, str]] = {}
    for latent in latents:
        children = list(dag.successors(latent))
        for i, a in enumerate(children):
            confounded |= {frozenset((a, b)): (a, b) for b in children[i + 1 :]}
    directed = [(a, b) for a, b in dag.edges if a not in latents]
    return _restore(declaration, listed, directed, list(confounded.values()), "DoWhy graph", image=False)


def to_background_knowledge(graph: CausalGraph) -> Any:
    """causal-learn's ``BackgroundKnowledge``: edges required, their reverses and edges against the tiers forbidden.

    It carries neither bidirected edges nor selection, the image or attribute details.
    """
    from causallearn.graph.GraphNode import GraphNode
    from causallearn.utils.PCUtils.BackgroundKnowledge import BackgroundKnowledge

    knowledge, nodes = BackgroundKnowledge(), {name: GraphNode(name) for name in graph.attributes}
    for cause, effect in graph.edges:
        knowledge.add_required_by_node(nodes[cause], nodes[effect])
        knowledge.add_forbidden_by_node(nodes[effect], nodes[cause])
    for i, tier in enumerate(graph.tiers or ()):
        for name in tier:
            knowledge.add_node_to_tier(nodes[name], i)
    return knowledge


def from_background_knowledge(knowledge: Any, attributes: Iterable[Attribute]) -> CausalGraph:
    """The graph whose edges are the required ones, with the tiers; over the given attributes."""
    edges = [(cause.get_name(), effect.get_name()) for cause, effect in knowledge.required_rules_specs]
    tiers = [sorted(node.get_name() for node in knowledge.tier_map[i]) for i in sorted(knowledge.tier_map)]
    return CausalGraph(attributes, edges, tiers=tiers or None)


def quote(text: str) -> str:
    """A DOT string, for text whose backslashes before quotes and at the end come in pairs."""
    return '"' + text.replace('"', '\\"') + '"'


def label(text: str) -> str:
    """A DOT label that shows ``text`` as it is: Graphviz reads backslashes and HTML entities in labels."""
    return quote(text.replace("&", "&amp;").replace("\\", "\\\\"))


def _unescape(text: str) -> str:
    return text.replace("\\\\", "\\").replace("&amp;", "&")


def _declaration(graph: CausalGraph) -> str:
    """JSON in ASCII whose only backslashes are those of ``\\uXXXX``: what XML and DOT leave as it is."""
    escapes = {"n": "000a", "r": "000d", "t": "0009", "b": "0008", "f": "000c", '"': "0022", "\\": "005c"}
    return re.sub(r'\\(["\\nrtbf])', lambda match: "\\u" + escapes[match[1]], json.dumps(to_dict(graph)))


def _restore(
    declaration: str | None,
    attributes: Iterable[Attribute] | None,
    directed: list[tuple[str, str]],
    confounded: list[tuple[str, str]] | None,
    source: str,
    *,
    image: bool = True,
) -> CausalGraph:
    """The declared graph, if it still has these edges; with ``attributes``, the graph of these edges.

    ``confounded=None``: the format does not show bidirected edges, the declaration alone has them.
    """
    if attributes is not None:
        return CausalGraph(attributes, directed, confounded or ())
    if not declaration:
        raise ValueError(
            f"The {source} has no 'declaration', so its nodes are mere names; write it with CausalGraph, or pass "
            "attributes=[Binary('view', ...), ...]."
        )
    graph = from_dict(json.loads(declaration))
    expected = {*graph.edges, *((name, IMAGE) for name in graph.image_parents if image)}
    changed = expected ^ set(directed)
    if confounded is not None:
        changed |= set(graph.confounded) ^ {graph.in_order(*pair) for pair in confounded}
    if changed:
        raise ValueError(
            f"The {source} was edited: {sorted(changed)} differ from its declaration; pass attributes=[...] to reread."
        )
    return graph
