"""Pictures of graphs whose edges have marks, and perhaps a source each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from causal_cxr.graphs.discovery.marks import Mark, MarkedEdge
from causal_cxr.graphs.drawing import ACCENT, FAINT, INK, Drawing, coloured, finish, layout
from causal_cxr.graphs.exchange import label

_HEADS: dict[Mark, str] = {"tail": "none", "arrow": "normal", "circle": "odot"}


@dataclass(frozen=True)
class DrawnEdge:
    """An edge as a picture shows it: ``words`` on pointing at it, ``text`` beside it, ``found`` in the accent colour."""

    edge: MarkedEdge
    words: str
    text: str = ""
    found: bool = False
    doubted: bool = False


def draw_marked(nodes: Sequence[str], edges: Iterable[DrawnEdge], hidden: Iterable[str] = ()) -> Drawing:
    """Draw nodes (``hidden`` ones dashed) and edges: circles are open marks, doubted edges dotted."""
    ids, unlabelled, listed = {name: f"n{i}" for i, name in enumerate(nodes)}, set(hidden), list(edges)
    lines = [
        'digraph g { graph [rankdir=TB, nodesep=0.35, ranksep=0.5, bgcolor="transparent"];',
        f'node [fontname="Helvetica", fontsize=13, height=0.4, margin="0.12,0.06", {coloured(INK)}];',
        f'edge [fontname="Helvetica", fontsize=11, arrowsize=0.7, dir=both, {coloured(INK)}];',
    ]
    titles: dict[str, str] = {}
    for name, node in ids.items():
        style = "dashed" if name in unlabelled else "solid"
        lines.append(f'{node} [label={label(name)}, style="{style},filled", fillcolor="{INK}{FAINT}"];')
        titles[node] = f"{name}: {'hidden attribute' if name in unlabelled else 'attribute'}"
    for i, drawn in enumerate(listed):
        edge = drawn.edge.turned() if drawn.edge.at_a == "arrow" and drawn.edge.at_b != "arrow" else drawn.edge
        look = f"arrowtail={_HEADS[edge.at_a]}, arrowhead={_HEADS[edge.at_b]}, label={label(drawn.text)}"
        look += ", style=dotted, penwidth=1.6" if drawn.doubted else ", style=solid"
        look += f", {coloured(ACCENT)}" if drawn.found else ""
        lines.append(f"{ids[edge.a]} -> {ids[edge.b]} [id=e{i}, {look}];")
        titles[f"e{i}"] = drawn.words
    description = "; ".join(["Graph over " + ", ".join(nodes), *(drawn.words for drawn in listed)]) + "."
    return Drawing(finish(layout("\n".join([*lines, "}"])), titles, description), description)
