import re
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from random_graphs import ODD_NAMES, graphs, rich_graph

from causal_cxr.graphs import Binary, CausalGraph, Drawing

SVG = "{http://www.w3.org/2000/svg}"
GRAPH = CausalGraph(
    [Binary("age"), Binary("view"), Binary("drain", hidden=True)],
    [("age", "view"), ("view", "image")],
    confounded=[("view", "drain")],
    selected_on=["view"],
)


def groups(drawing: Drawing) -> dict[str, ElementTree.Element]:
    """What is drawn, by its tooltip."""
    return {group.findtext(f"{SVG}title"): group for group in ElementTree.fromstring(drawing.svg).iter(f"{SVG}g")}


@given(graphs(names=ODD_NAMES, hidden=True, selected=True))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_every_attribute_and_edge_is_drawn_under_its_own_name(graph):
    drawing = graph.draw()
    texts = [element.text for element in ElementTree.fromstring(drawing.svg).iter(f"{SVG}text")]
    assert sorted(texts) == sorted([*graph.attributes, "image"])
    drawn = groups(drawing)
    for cause, effect in graph.edges:
        assert f"{cause} causes {effect}" in drawn
    for a, b in graph.confounded:
        assert f"{a} and {b} share a latent cause" in drawn
    for name in graph.image_parents:
        assert f"{name} shows in the image" in drawn


def test_kinds_of_attributes_and_edges_look_different():
    drawn = groups(GRAPH.draw())
    shape = drawn["drain: hidden attribute"].find(f"{SVG}ellipse")
    assert "stroke-dasharray" in shape.attrib
    assert "stroke-dasharray" not in drawn["age: attribute"].find(f"{SVG}ellipse").attrib
    assert drawn["view: attribute, selected on"].find(f"{SVG}polygon") is not None
    latent = drawn["view and drain share a latent cause"]
    assert "stroke-dasharray" in latent.find(f"{SVG}path").attrib
    assert len(latent.findall(f"{SVG}polygon")) == 2  # two arrow heads
    assert len(drawn["age causes view"].findall(f"{SVG}polygon")) == 1


def test_revealed_edges_are_dotted_circles_in_the_accent_colour_with_their_label():
    drawing = GRAPH.draw(revealed=[("view", "ECG <leads>", "+0.31"), ("age", "drain", "")])
    edge = groups(drawing)["view o-o ECG <leads> revealed: +0.31"]
    assert len(edge.findall(f"{SVG}ellipse")) == 2
    assert edge.findtext(f"{SVG}text") == "+0.31"
    assert "var(--cxr-accent" in edge.find(f"{SVG}path").attrib["stroke"]
    assert "ECG <leads>: hidden attribute, not in the declared graph" in groups(drawing)
    assert "age o-o drain revealed" in groups(drawing)
    assert "ECG <leads> revealed: +0.31" in drawing.description


def test_a_concept_may_be_called_like_anything():
    concepts = ["image", 'x" onload="alert(1)', "<script>", "n0"]
    drawing = GRAPH.draw(revealed=[("age", concept, concept) for concept in concepts])
    root = ElementTree.fromstring(drawing.svg)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "g", "title", "polygon", "ellipse", "path", "text", "polyline",
    }  # fmt: skip
    assert not any(name.startswith("on") for element in root.iter() for name in element.attrib)


def test_a_revealed_edge_starts_at_an_attribute():
    with pytest.raises(ValueError, match="did you mean 'view'"):
        GRAPH.draw(revealed=[("veiw", "pacemaker", "")])


def test_a_drawing_takes_the_colours_of_its_page_and_leaves_nothing_behind_in_it():
    svg = GRAPH.draw(revealed=[("view", "pacemaker", "+0.3")]).svg
    literal = set(re.findall(r'(?:fill|stroke)="([^"]*)"', svg))
    assert literal <= {"none", "transparent", "currentColor", "var(--cxr-accent, #d9480f)"}
    assert " id=" not in svg
    assert "<style" not in svg
    assert 'role="img"' in svg


def test_a_saved_drawing_stands_alone_in_light_and_dark(tmp_path):
    drawing = rich_graph().draw(revealed=[("age & sex", "pacemaker", "+0.3")])
    path = drawing.save(tmp_path / "graph.svg")
    text = path.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    assert "prefers-color-scheme: dark" in text
    assert "var(" not in text


def test_notebooks_show_the_drawing():
    drawing = GRAPH.draw()
    assert drawing._repr_svg_() == drawing.svg
    assert drawing.svg in GRAPH._repr_html_()
    assert GRAPH.draw() == drawing


def test_what_fills_a_node_leaves_its_name_readable():
    drawing = GRAPH.draw(revealed=[("view", "pacemaker", "+0.3")])
    shapes = ElementTree.fromstring(drawing.svg).iter(f"{SVG}ellipse")
    filled = [shape for shape in shapes if shape.attrib["fill"] not in {"none", "transparent"}]
    assert len(filled) == 3  # age, drain, pacemaker; view is a box, and circles at an edge's ends are open
    assert all(float(shape.attrib["fill-opacity"]) < 0.15 for shape in filled)
