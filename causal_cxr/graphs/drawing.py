"""Pictures of causal graphs: SVG by Graphviz, which pygraphviz brings along."""

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from causal_cxr.graphs.exchange import label
from causal_cxr.graphs.graph import IMAGE

if TYPE_CHECKING:
    from causal_cxr.graphs.graph import CausalGraph

# Graphviz takes literal colours only; these two stand in for what the page decides, and occur nowhere else.
INK, ACCENT = "#010203", "#040506"
FAINT = "10"  # opacity of what fills a node, in hexadecimal
ACCENT_VARIABLE = "var(--cxr-accent, #d9480f)"  # the default reads on white and on near-black alike
_STANDALONE = "<style>svg { color: #1f2933 } @media (prefers-color-scheme: dark) { svg { color: #e4e7eb } }</style>"


@dataclass(frozen=True)
class Drawing:
    """A picture of a graph.

    Attributes:
        svg: an ``<svg>`` element to set into a page. Lines and text take the page's text colour (``currentColor``),
            revealed edges its ``--cxr-accent``; so it suits light and dark pages. No script, no style, no links.
        description: the same in words, for those who do not see it.
    """

    svg: str
    description: str

    def save(self, path: str | Path) -> Path:
        """Write a file of its own, with colours for light and dark viewers; returns the path."""
        path = Path(path)
        opening_end = self.svg.index(">") + 1
        alone = self.svg[:opening_end] + _STANDALONE + self.svg[opening_end:]
        path.write_text(alone.replace(ACCENT_VARIABLE, "#d9480f"), encoding="utf-8")
        return path

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x:auto">{self.svg}</div>'


def draw(graph: "CausalGraph", revealed: Iterable[tuple[str, str, str]] = ()) -> Drawing:
    """Draw a graph.

    Hidden attributes are dashed, attributes that the collection was selected on boxed, bidirected edges dashed with two
    heads, edges into the image thin.

    Args:
        graph: what to draw.
        revealed: (attribute, concept, label) adjacencies that an audit found, drawn dotted as ``A o-o U`` in an accent
            colour; concepts that the graph does not have are added as hidden ones.

    Raises:
        ValueError: a revealed edge starts at what is no attribute of the graph.
    """
    found = [(graph.known(attribute), concept, str(text)) for attribute, concept, text in revealed]
    concepts = list(dict.fromkeys(concept for _, concept, _ in found if concept not in graph.attributes))
    nodes = {name: f"n{i}" for i, name in enumerate((*graph.attributes, IMAGE))}
    # Apart from the attributes: a concept may be called like the image node.
    concept_nodes = {**nodes, **{concept: f"u{i}" for i, concept in enumerate(concepts)}}
    hidden = set(graph.hidden)

    lines = [
        'digraph g { graph [rankdir=TB, nodesep=0.35, ranksep=0.5, bgcolor="transparent"];',
        f'node [fontname="Helvetica", fontsize=13, height=0.4, margin="0.12,0.06", {coloured(INK)}];',
        f'edge [fontname="Helvetica", fontsize=11, arrowsize=0.7, {coloured(INK)}];',
    ]
    titles: dict[str, str] = {}
    for name, node in nodes.items():
        shape = "note" if name == IMAGE else "box" if name in graph.selected_on else "ellipse"
        style = "dashed" if name in hidden else "solid"
        lines.append(f'{node} [label={label(name)}, shape={shape}, style="{style},filled", fillcolor="{INK}{FAINT}"];')
        kind = "hidden attribute" if name in hidden else "the radiograph" if name == IMAGE else "attribute"
        titles[node] = f"{name}: {kind}" + (", selected on" if name in graph.selected_on else "")
    for concept in concepts:
        node = concept_nodes[concept]
        lines.append(
            f'{node} [label={label(concept)}, style="dashed,filled", fillcolor="{ACCENT}{FAINT}", {coloured(ACCENT)}];'
        )
        titles[node] = f"{concept}: hidden attribute, not in the declared graph"

    edges: list[tuple[str, str, str, str]] = []  # (from, to, Graphviz attributes, words)
    edges += [(nodes[a], nodes[b], "penwidth=1.2", f"{a} causes {b}") for a, b in graph.edges]
    edges += [
        (nodes[a], nodes[IMAGE], "penwidth=0.4, arrowsize=0.5", f"{a} shows in the image") for a in graph.image_parents
    ]
    dashed = "dir=both, style=dashed, constraint=false"
    edges += [(nodes[a], nodes[b], dashed, f"{a} and {b} share a latent cause") for a, b in graph.confounded]
    circles = f"dir=both, arrowhead=odot, arrowtail=odot, style=dotted, penwidth=1.8, {coloured(ACCENT)}"
    for attribute, concept, text in found:
        words = f"{attribute} o-o {concept} revealed" + (f": {text}" if text else "")
        edges.append((nodes[attribute], concept_nodes[concept], f"{circles}, label={label(text)}", words))
    for i, (tail, head, style, words) in enumerate(edges):
        lines.append(f"{tail} -> {head} [id=e{i}, {style}];")
        titles[f"e{i}"] = words

    description = "; ".join(["Causal graph over " + ", ".join(graph.attributes), *(edge[3] for edge in edges)]) + "."
    return Drawing(finish(layout("\n".join([*lines, "}"])), titles, description), description)


def coloured(colour: str) -> str:
    return f'color="{colour}", fontcolor="{colour}"'


def layout(dot: str) -> str:
    import pygraphviz

    return pygraphviz.AGraph(dot).draw(format="svg", prog="dot").decode("utf-8")


def finish(svg: str, titles: dict[str, str], description: str) -> str:
    """Graphviz's SVG as a fragment for a page: the page's colours, words as tooltips, no identifiers to collide."""
    svg = re.sub(r"<!--.*?-->\n?", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="graph0" class="graph"([^>]*)>\s*<title>.*?</title>', r'<g class="graph"\1>', svg)

    def titled(match: re.Match[str]) -> str:
        identifier, kind, title = match.groups()
        words = titles[title if kind == "node" else identifier]  # Graphviz titles a node by its id
        return f'<g class="{kind}">\n<title>{html.escape(words)}</title>'

    svg = re.sub(r'<g id="([^"]*)" class="(node|edge)">\s*<title>(.*?)</title>', titled, svg)
    named = f'<svg role="img" aria-label="{html.escape(description)}"'
    svg = re.sub(
        r'<svg width="(\d+)(?:\.\d+)?pt" height="(\d+)(?:\.\d+)?pt"',
        lambda size: f'{named} width="{size[1]}" height="{size[2]}"',
        svg,
    )
    svg = svg.replace(INK, "currentColor").replace(ACCENT, ACCENT_VARIABLE)
    return svg.replace("Helvetica,sans-Serif", "system-ui, Helvetica, Arial, sans-serif").strip()
