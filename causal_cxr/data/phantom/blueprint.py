"""From what a world file says to a model that holds together: every contradiction is named with its key and its mend."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from itertools import combinations
from typing import Any

import networkx as nx

from causal_cxr.data.phantom.mechanisms import Mechanism
from causal_cxr.data.phantom.radiograph import DRAWABLES, Drawable
from causal_cxr.data.phantom.world_file import Shown, WorldFile
from causal_cxr.data.yaml_file import BadKey, Place
from causal_cxr.graphs import Attribute, Binary, Categorical, CausalGraph, Continuous, attribute_from_dict
from causal_cxr.graphs.graph import IMAGE
from causal_cxr.graphs.separation import SELECTION, explicit_dag

_GRAPH_KEYS = ("attributes", "edges", "confounded", "selected_on", "tiers")
COIN = Binary("selected")  #: what mechanisms of "yes or no" (selection, missingness) are the mechanism of

#: How attributes with these names show unless the file says otherwise.
USUAL: Mapping[str, Shown] = {
    "cardiomegaly": Shown(draws="cardiothoracic_ratio", forms=(0.44, 0.57), spread=0.02),
    "effusion": Shown(draws="effusion_ml", forms=(0, 900), spread=200),
    "pneumothorax": Shown(draws="pneumothorax", forms=(0, 0.4), spread=0.08),
    "consolidation": Shown(draws="consolidation", forms=(0, 0.6), spread=0.1),
    "pneumonia": Shown(draws="consolidation", forms=(0, 0.6), spread=0.1),
    "oedema": Shown(draws="oedema", forms=(0, 0.6), spread=0.1),
    "nodule": Shown(draws="nodule_mm", forms=(0, 22), spread=4),
}


@dataclass(frozen=True)
class Blueprint:
    """The checked parts of a world.

    Attributes:
        mechanisms: attribute -> mechanism.
        shown: attribute -> how it is drawn.
        graph: the true one.
        declared: the one that the collection's owner would declare.
        latents: latent common cause -> attribute -> weight in its score.
    """

    mechanisms: Mapping[str, Mechanism]
    shown: Mapping[str, tuple[Shown, ...]]
    graph: CausalGraph
    declared: CausalGraph
    latents: Mapping[str, Mapping[str, float]]


def blueprint(content: WorldFile) -> Blueprint:
    """Check what a file says and put it together.

    Raises:
        BadKey: a contradiction, with the key at fault.
    """
    attributes = _attributes(content)
    for name in attributes:
        mechanism = content.mechanisms[name]
        for cause in sorted(mechanism.causes - set(attributes)):
            raise BadKey(("mechanisms", name), f"its cause {cause!r} is no attribute; those are {list(attributes)}.")
        if name in mechanism.causes:
            raise BadKey(("mechanisms", name), f"{name!r} is its own cause; drop it from the mechanism.")
        try:
            mechanism.check(attributes[name], attributes)
        except ValueError as problem:
            raise BadKey(("mechanisms", name), str(problem)) from None
    if content.selection is not None:
        _check_rule(("selection", "probability_of"), content.selection.probability_of, attributes)
    shown = _shown(content, attributes)
    graph = _true_graph(content, attributes, shown)
    latents = _latent_strengths(content, graph)
    for name in sorted({name for weights in latents.values() for name in weights}):
        rule = content.mechanisms[name].linear
        if rule is not None and not rule.sd:
            raise BadKey(("mechanisms", name), f"{name!r} has sd: 0 and a latent common cause, which it would reveal exactly; "
                         "give it an sd above 0.")  # fmt: skip
    _check_names(content, graph)
    mechanisms = {name: content.mechanisms[name] for name in attributes}
    return Blueprint(mechanisms, shown, graph, _declared(content, graph, shown), latents)


def _attributes(content: WorldFile) -> dict[str, Attribute]:
    for key in content.graph:
        if key not in _GRAPH_KEYS:
            raise BadKey(("graph", key), f"is no key of a graph; choose from {', '.join(_GRAPH_KEYS)}.")
    for key in ("attributes", "edges", "confounded", "selected_on", "tiers"):
        if not isinstance(content.graph.get(key), list | tuple | None):
            raise BadKey(("graph", key), f"awaits a list, got {content.graph[key]!r}.")
    listed = content.graph.get("attributes")
    if not listed:
        raise BadKey(("graph",), "has no attributes; list them: attributes: [{name: view, type: binary, ...}, ...].")
    attributes: dict[str, Attribute] = {}
    for i, entry in enumerate(listed):
        try:
            _check_entry(entry)
            attribute = attribute_from_dict(entry)
        except (ValueError, TypeError) as problem:
            raise BadKey(("graph", "attributes", i), str(problem)) from None
        if attribute.name in attributes:
            raise BadKey(("graph", "attributes", i), f"{attribute.name!r} is declared twice; drop one.")
        if attribute.name == IMAGE:
            raise BadKey(("graph", "attributes", i), f"{IMAGE!r} is the image itself; rename the attribute.")
        attributes[attribute.name] = attribute
    for name in content.mechanisms:
        if name not in attributes:
            raise BadKey(("mechanisms", name), f"is no attribute of the graph; those are {list(attributes)}.")
    for i, name in enumerate(attributes):
        if name not in content.mechanisms:
            raise BadKey(("graph", "attributes", i), f"{name!r} has no mechanism; write mechanisms: {{{name}: ...}}.")
    if content.metadata is not None:
        for i, name in enumerate(content.metadata):
            if name not in attributes:
                raise BadKey(("metadata", i), f"{name!r} is no attribute; those are {list(attributes)}.")
            if attributes[name].hidden:
                raise BadKey(("metadata", i), f"{name!r} is marked hidden: true; drop one of the two.")
            if name in content.metadata[:i]:
                raise BadKey(("metadata", i), f"{name!r} is listed twice; drop one.")
        gone = set(attributes) - set(content.metadata)
        attributes = {
            name: attribute_from_dict({**a.to_dict(), "hidden": True}) if name in gone else a
            for name, a in attributes.items()
        }
    if all(a.hidden for a in attributes.values()):
        raise BadKey(("graph",), "every attribute is hidden; the metadata needs at least one column.")
    return attributes


def _check_entry(entry: Any) -> None:
    """Refuse unknown and missing keys of an attribute in the file's words."""
    kinds: dict[Any, Any] = {"binary": Binary, "categorical": Categorical, "continuous": Continuous}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str) or entry["type"] not in kinds:
        return  # attribute_from_dict says it
    what, keys = entry["type"], {field.name: field for field in fields(kinds[entry["type"]])}
    known = [*keys, "type"]
    unknown = [key for key in entry if key not in known]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no key of a {what} attribute; those are {', '.join(known)}.")
    for name, field in keys.items():
        if name not in entry and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{entry.get('name')!r} is {what} and needs {name}; add {name}: ...")
    if not isinstance(entry.get("hidden", False), bool):
        raise ValueError(f"hidden is true or false, got {entry['hidden']!r}.")
    if not isinstance(entry.get("unit", ""), str):
        raise ValueError(f"unit is text, got {entry['unit']!r}; write unit: years.")
    phrases = entry.get("phrases") or ()
    pairs = what != "continuous" and not isinstance(phrases, Mapping) and isinstance(phrases, list | tuple)
    said = list(phrases.values()) if isinstance(phrases, Mapping) else [p[1] for p in phrases] if pairs else [phrases]
    for words in said:
        if not all(isinstance(word, str) for word in (words if isinstance(words, list | tuple) else [words])):
            raise ValueError(f"phrases are text, or lists of texts, got {words!r}.")


def _shown(content: WorldFile, attributes: Mapping[str, Attribute]) -> dict[str, tuple[Shown, ...]]:
    for name in content.shows:
        if name not in attributes:
            raise BadKey(("shows", name), f"is no attribute; those are {list(attributes)}.")
    found: dict[str, tuple[Shown, ...]] = {}
    drawn_by: dict[str, str] = {}
    for name, attribute in attributes.items():
        if name in content.shows:
            given = content.shows[name]
            ways = () if given is None else tuple(given) if isinstance(given, list) else (given,)
        elif name in USUAL and _has_levels(attribute, 2):
            ways = (USUAL[name],)
        elif name in DRAWABLES:
            ways = (Shown(draws=name),)
        else:
            ways = ()
        for way in ways:
            _check_way(_says_how(content, attributes, name), attribute, way)
            if way.draws in drawn_by:
                raise BadKey(
                    _says_how(content, attributes, name),
                    f"{way.draws!r} is drawn by {drawn_by[way.draws]!r} already; choose another.",
                )
            drawn_by[way.draws] = name
        if ways:
            found[name] = ways
    if not found:
        raise BadKey(("graph",), f"nothing shows in the image; name attributes like drawables ({', '.join(DRAWABLES)}) or "
                     "write shows: {attribute: {draws: ...}}.")  # fmt: skip
    for name, background in content.scene.items():
        if name in drawn_by:
            raise BadKey(("scene", name), f"is drawn by the attribute {drawn_by[name]!r}; drop one.")
        drawn_value(("scene", name), name, background.value)
    return found


def _says_how(content: WorldFile, attributes: Mapping[str, Attribute], name: str) -> Place:
    """Where the file says how an attribute shows; the attribute itself where it shows by its name."""
    return ("shows", name) if name in content.shows else ("graph", "attributes", list(attributes).index(name))


def _true_graph(
    content: WorldFile, attributes: Mapping[str, Attribute], shown: Mapping[str, tuple[Shown, ...]]
) -> CausalGraph:
    causal = [(cause, effect) for effect, m in content.mechanisms.items() for cause in sorted(m.causes)]
    pairs = _confounded_pairs(content, attributes)
    selected = list(content.graph.get("selected_on") or ())
    causes_of_selection = sorted(content.selection.probability_of.causes) if content.selection else []
    if selected and sorted(selected) != causes_of_selection:
        raise BadKey(("graph", "selected_on"), f"says {sorted(selected)}, the selection's mechanism {causes_of_selection}; "
                     "name the same attributes (or leave selected_on out).")  # fmt: skip
    given = content.graph.get("edges")
    if not nx.is_directed_acyclic_graph(nx.DiGraph(causal)):
        cycle = [cause for cause, _ in nx.find_cycle(nx.DiGraph(causal))]
        raise BadKey(("mechanisms", cycle[0]), f"is part of a cycle, {' -> '.join([*cycle, cycle[0]])}; drop one of these "
                     "causes, or write confounding: [{pair: [...]}] if neither causes the other.")  # fmt: skip
    if given is not None:
        for i, edge in enumerate(given):
            if not isinstance(edge, list | tuple) or len(edge) != 2 or not all(isinstance(end, str) for end in edge):
                raise BadKey(("graph", "edges", i), f"{edge!r} is no pair; write [cause, effect].")
            cause, effect = edge
            for end in edge:
                if end not in attributes and end != IMAGE:
                    raise BadKey(("graph", "edges", i), f"{end!r} is no attribute; those are {list(attributes)}.")
            if cause == IMAGE:
                raise BadKey(("graph", "edges", i), f"attributes cause the image; write [{effect}, {IMAGE}].")
            if effect == IMAGE and cause not in shown:
                raise BadKey(("graph", "edges", i), f"nothing draws {cause!r}; write shows: {{{cause}: {{draws: ...}}}} with "
                             f"one of {', '.join(DRAWABLES)}.")  # fmt: skip
            if effect != IMAGE and (cause, effect) not in causal:
                raise BadKey(("graph", "edges", i), f"{cause} -> {effect} has no part in the mechanism of {effect!r}; give "
                             "it a weight there, or drop the edge.")  # fmt: skip
        listed = [tuple(edge) for edge in given]
        for cause, effect in causal:
            if any(b != IMAGE for _, b in listed) and (cause, effect) not in listed:
                raise BadKey(("mechanisms", effect), f"depends on {cause!r}, but the graph has no edge {cause} -> {effect}; "
                             "add it to graph: edges (or leave the edges out).")  # fmt: skip
        for name in shown:
            if any(b == IMAGE for _, b in listed) and (name, IMAGE) not in listed:
                raise BadKey(("graph", "edges"), f"{name!r} is drawn, but has no edge into the image; add [{name}, image], or "
                             f"write shows: {{{name}: null}}.")  # fmt: skip
    try:
        return CausalGraph(
            attributes.values(), [*causal, *((name, IMAGE) for name in shown)], confounded=pairs,
            selected_on=causes_of_selection, tiers=content.graph.get("tiers"),
        )  # fmt: skip
    except (ValueError, TypeError) as problem:
        raise BadKey(("graph",), str(problem)) from None


def _confounded_pairs(content: WorldFile, attributes: Mapping[str, Attribute]) -> list[tuple[str, str]]:
    """Pairs with a latent common cause; each may stand in ``graph: confounded``, in ``confounding``, or in both."""
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    places: list[tuple[Place, Any]] = [
        *((("graph", "confounded", i), pair) for i, pair in enumerate(content.graph.get("confounded") or ())),
        *((("confounding", i), c.pair) for i, c in enumerate(content.confounding)),
    ]
    before: set[tuple[str | int, frozenset[str]]] = set()
    for place, pair in places:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(end, str) for end in pair):
            raise BadKey(place, f"{pair!r} is no pair; write [one, other].")
        one, other = pair
        for end in pair:
            if end not in attributes:
                raise BadKey(place, f"{end!r} is no attribute; those are {list(attributes)}.")
            kind = content.mechanisms[end].kind
            if kind in ("probability", "uniform", "expression"):
                raise BadKey(place, f"a latent cause cannot enter {end!r}, which comes about by {kind}; use logistic, "
                             "threshold, softmax or linear.")  # fmt: skip
        if one == other:
            raise BadKey(place, f"{one!r} is confounded with itself; name two attributes.")
        if (place[0], frozenset(pair)) in before:
            raise BadKey(place, f"{one!r} and {other!r} are confounded twice; drop one.")
        before.add((place[0], frozenset(pair)))
        pairs[frozenset(pair)] = (one, other)
    return list(pairs.values())


def _latent_strengths(content: WorldFile, graph: CausalGraph) -> dict[str, dict[str, float]]:
    """Latent -> attribute -> weight."""
    given = {frozenset(c.pair): dict(zip(c.pair, c.strength, strict=True)) for c in content.confounding}
    latents = {}
    for a, b in graph.confounded:
        latents[f"{a} <-> {b}"] = given.get(frozenset((a, b)), {a: 1.0, b: 1.0})
    return latents


def _check_names(content: WorldFile, graph: CausalGraph) -> None:
    labelled, every = set(graph.labelled), set(graph.attributes)
    continuous = {name for name, a in graph.attributes.items() if isinstance(a, Continuous)}
    patients = content.patients
    for loc, names, allowed, what in (
        (("patients", "same"), patients.same, every, "attribute"),
        (("patients", "shared"), patients.shared, every - set(patients.same), "attribute with a noise of its own"),
        (("missing",), content.missing, labelled, "attribute of the metadata"),
        (("label_noise",), content.label_noise, labelled, "attribute of the metadata"),
        (("reports", "mentions"), content.reports.mentions, every, "attribute"),
        (("shifts",), content.shifts, labelled & continuous, "continuous attribute of the metadata"),
    ):
        for i, name in enumerate(names):
            if name not in allowed:
                at = i if isinstance(names, tuple) else name
                raise BadKey((*loc, at), f"{name!r} is no {what}; those are {sorted(allowed)}.")
    for name, shift in content.shifts.items():
        attribute = graph.attributes[name]
        if not isinstance(attribute, Continuous) or not 0 < abs(shift) < attribute.high - attribute.low:
            raise BadKey(("shifts", name), f"a shift is not 0 and smaller than the range of {name!r}, got {shift}.")
    for name, rule in content.missing.items():
        _check_rule(("missing", name), rule, graph.attributes)
    for name, noise in content.label_noise.items():
        attribute = graph.attributes[name]
        if isinstance(noise, Mapping) == isinstance(attribute, Continuous):
            raise BadKey(
                ("label_noise", name), "numbers have an SD (one number), levels a probability each: {level: p}."
            )
        if not isinstance(noise, Mapping) and noise < 0:
            raise BadKey(("label_noise", name), f"an SD is 0 or more, got {noise}.")
        for level, p in noise.items() if isinstance(noise, Mapping) else ():
            try:
                attribute.check(level)
            except ValueError as problem:
                raise BadKey(("label_noise", name), str(problem)) from None
            if not 0 <= p <= 1:
                raise BadKey(("label_noise", name), f"a probability lies in [0, 1], got {p}.")


def _check_rule(loc: tuple[str | int, ...], rule: float | Mechanism, attributes: Mapping[str, Attribute]) -> None:
    """A rate or a mechanism of two levels over the world's attributes."""
    if not isinstance(rule, Mechanism):
        if not 0 <= rule <= 1:
            raise BadKey(loc, f"a probability lies in [0, 1], got {rule}.")
        return
    unknown = sorted(rule.causes - set(attributes))
    if unknown:
        raise BadKey(loc, f"{unknown} are no attributes; those are {list(attributes)}.")
    try:
        rule.check(COIN, attributes)
    except ValueError as problem:
        raise BadKey(loc, str(problem)) from None


def _declared(content: WorldFile, truth: CausalGraph, shown: Mapping[str, tuple[Shown, ...]]) -> CausalGraph:
    """The latent projection on the labelled attributes (Verma & Pearl 1990), or what the file says instead."""
    labelled, dag = set(truth.labelled), explicit_dag(truth)

    def ends(source: Any) -> set[Any]:
        """Where directed paths lead that run through nothing labelled."""
        inner = dag.subgraph((set(dag) - labelled) | {source})
        return {child for node in (source, *nx.descendants(inner, source)) for child in dag.successors(node)}

    def reached(source: Any) -> list[str]:
        return [name for name in truth.labelled if name in ends(source)]

    edges = [(a, b) for a in truth.labelled for b in reached(a)]
    confounded = {pair for node in set(dag) - labelled for pair in combinations(reached(node), 2)}
    said = content.declared
    shows = [(name, IMAGE) for name in shown if name in labelled]
    selected = [a for a in truth.labelled if SELECTION in ends(a)]
    known = content.selection is not None and content.selection.declared
    try:
        return CausalGraph(
            [truth.attributes[name] for name in truth.labelled],
            [*(edges if said.edges is None else said.edges), *shows],
            confounded=sorted(confounded) if said.confounded is None else said.confounded,
            selected_on=selected if known else (),
        )
    except ValueError as problem:
        raise BadKey(("declared",), str(problem)) from None


def _has_levels(attribute: Attribute, count: int) -> bool:
    return not isinstance(attribute, Continuous) and len(attribute.levels) == count


def _check_way(loc: Place, attribute: Attribute, way: Shown) -> None:
    name = attribute.name
    if way.draws not in DRAWABLES:
        raise BadKey((*loc, "draws"), f"{way.draws!r} cannot be drawn; choose from {', '.join(DRAWABLES)}.")
    drawable: Drawable = DRAWABLES[way.draws]
    count = 2 if isinstance(attribute, Continuous) else len(attribute.levels)
    if way.forms is not None:
        if len(way.forms) != count:
            what = (
                "the two ends of its range"
                if isinstance(attribute, Continuous)
                else f"each of {list(attribute.levels)}"
            )
            raise BadKey((*loc, "as"), f"give a value for {what}; got {list(way.forms)}.")
        for value in way.forms:
            drawn_value((*loc, "as"), way.draws, value)
        return
    mend = (
        f"write shows: {{{name}: {{draws: {way.draws}, as: [...]}}}}, or shows: {{{name}: null}} if it does not show."
    )
    if isinstance(attribute, Continuous):
        if drawable.kind != "number" or attribute.low < drawable.low or attribute.high > drawable.high:
            raise BadKey(loc, f"{name!r} cannot be drawn as {way.draws!r} with its own values; {mend}")
    elif drawable.kind != "level" or count > len(drawable.levels):
        raise BadKey(loc, f"{name!r} has {count} levels and {way.draws!r} takes other values; {mend}")


def drawn_value(loc: tuple[str | int, ...], name: str, value: float | str) -> float:
    """What the renderer takes for a value of a drawable."""
    if name not in DRAWABLES:
        raise BadKey(loc, f"{name!r} cannot be drawn; choose from {', '.join(DRAWABLES)}.")
    drawable: Drawable = DRAWABLES[name]
    if drawable.kind == "level":
        if isinstance(value, str) and value in drawable.levels:
            return float(drawable.levels.index(value))
        if not isinstance(value, str) and value in range(len(drawable.levels)):
            return float(value)
        raise BadKey(loc, f"{name!r} cannot be {value!r}; its levels are {list(drawable.levels)}.")
    if isinstance(value, str) or not drawable.low <= value <= drawable.high:
        raise BadKey(
            loc,
            f"{name!r} cannot be {value!r}; give a number in [{drawable.low:g}, {drawable.high:g}] {drawable.unit}.",
        )
    return float(value)
