"""The saved page: one offline file that runs no script, stays small, is usable by keyboard and escapes its data.

It says what an audit found and what makes one wary of it; the record beside it is strict JSON and reads back exactly.
"""

import base64
import dataclasses
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from audits.fakes import CONCEPTS, GRAPH, CornerDataset, CornerEditor, CornerReader

from causal_cxr.audits import Audit, Report, TableSearch, observational_side
from causal_cxr.audits.report import GalleryItem
from causal_cxr.audits.report.checks import checks, editor_null, placebo_attributes
from causal_cxr.audits.report.frames import frame_from_json, frame_to_json
from causal_cxr.audits.report.page import MOST_CELLS, PER_CONTRAST, signed
from causal_cxr.audits.report.pictures import difference
from causal_cxr.audits.report.report import FRAMES
from causal_cxr.audits.table_search import search_and_fuse
from causal_cxr.audits.unedited import Unedited
from causal_cxr.graphs import Binary, CausalGraph, default_contrasts
from causal_cxr.readers.quality import ReaderQuality

EVIL = "<script>alert('x')</script>\"'&"


class SecondReader(CornerReader):
    """Another name for the same corners, known with less certainty: it is heard, not chosen."""

    name, fingerprint = "second", "second-reader"

    def __init__(self) -> None:
        super().__init__()
        self.quality = dataclasses.replace(self.quality, concepts=self.quality.concepts.assign(slope_low=0.7))


@pytest.fixture(scope="module")
def report() -> Report:
    editors = {"learnt": CornerEditor(), "controlled": CornerEditor(learnt=False)}
    audit = Audit(GRAPH, [CornerReader(), SecondReader()], n_edited=300)
    return audit.run(editors, CornerDataset(2000), seed=1)


def changed(report: Report, **provenance: object) -> Report:
    return dataclasses.replace(report, provenance={**report.provenance, **provenance})


def marked(frame: pd.DataFrame, where: pd.Series, **values: object) -> pd.DataFrame:
    """The frame with other values in some rows."""
    frame = frame.copy()
    for column, value in values.items():
        frame.loc[where, column] = value
    return frame


def words(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def section(page: str, name: str) -> str:
    """The words of a section."""
    return words(re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL).group(1))


def cell(page: str, contrast: str, concept: str, editor: str = "") -> str:
    """The words of one cell's entry."""
    start = f"{contrast} · {concept} {editor}".rstrip()
    entries = re.findall(r'<details class="cell.*?</details>', page, re.DOTALL)
    (found,) = [said for said in map(words, entries) if said.startswith(start)]
    return found


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


# -- the file ----------------------------------------------------------------------------------------------------------
def test_the_policy_allows_the_pages_own_style_and_nothing_else(report):
    page = report.to_html()
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in page
    assert "unsafe" not in page


def test_nothing_is_fetched_and_nothing_runs(report):
    for tag, attributes in Tags(report.to_html()).found:
        assert tag not in {"script", "link", "iframe", "object", "embed", "form"}
        assert "style" not in attributes, "the policy would block it"
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("src") or "data:image/webp").startswith("data:image/webp")
        assert (attributes.get("href") or "#").startswith("#")


def test_every_link_leads_to_a_place_on_the_page(report):
    tags = Tags(changed(report, left_out={"a.png": "no patient"}).to_html()).found
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"].removeprefix("#") for tag, attributes in tags if tag == "a" and "href" in attributes}
    assert targets <= set(ids)


def test_every_cell_stands_under_its_verdict_and_can_be_filtered_by_its_editor(report):
    page = report.to_html()
    groups = re.split(r'<details class="group"', page)[1:]
    listed = 0
    for group in groups:
        verdict = re.search(r'class="v (\w+)"', group).group(1)
        found = re.findall(r'<details class="cell is-(\w+) by-(\d)"', group)
        assert {v for v, _ in found} == {verdict}
        for _, editor in found:
            assert f'id="by-{editor}"' in page
            assert f"#by-{editor}:checked) .cell:not(.by-{editor})" in page
        listed += len(found)
    assert listed == len(report.edges)


def test_the_matrix_has_every_cell_and_leads_to_its_evidence(report):
    tags = Tags(report.to_html()).found
    leads = [a["href"] for tag, a in tags if tag == "a" and (a.get("class") or "").startswith("m ")]
    assert sorted(leads) == sorted(f"#cell-{i}" for i in range(len(report.edges)))


def test_what_scrolls_can_be_reached_by_keyboard_and_pictures_have_words(report):
    for tag, attributes in Tags(report.to_html()).found:
        if attributes.get("class") == "wide":
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
        if tag == "img":
            assert attributes["alt"]


@pytest.mark.parametrize("column", ["concept", "contrast", "editor", "reason", "sentence", "reader", "adjustment"])
def test_hostile_names_are_text(report, column):
    edges = report.edges.assign(**{column: EVIL})
    hostile = changed(dataclasses.replace(report, edges=edges), left_out={EVIL: EVIL}, unreadable={EVIL: EVIL})
    if column == "editor":
        about = {EVIL: next(iter(report.provenance["editors"].values()))}
        hostile = changed(hostile, editors=about, ledger={EVIL: 1})
    for page in (hostile.to_html(), hostile._repr_html_()):
        assert "script" not in {tag for tag, _ in Tags(page).found}


def test_hostile_names_in_every_other_frame_are_text(report):
    names = {"contrast": EVIL, "concept": EVIL, "target": EVIL, "reader": EVIL, "attribute": EVIL, "level": EVIL, "a": EVIL, "given": EVIL}  # fmt: skip

    def spoilt(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**{k: v for k, v in names.items() if k in frame})

    quality = ReaderQuality(report.quality["corners"].concepts.rename(index={"leads": EVIL}), WITHIN, FOLLOWS)
    frames = {name: spoilt(getattr(report, name)) for name in ("falsification", "effectiveness", "leak")}
    falsification = pd.DataFrame([TESTED], columns=report.falsification.columns).assign(rejected=True)
    hostile = dataclasses.replace(report, **{**frames, "falsification": spoilt(falsification)}, quality={EVIL: quality})
    assert "script" not in {tag for tag, _ in Tags(hostile.to_html()).found}


# -- its weight --------------------------------------------------------------------------------------------------------
def test_many_galleries_show_fewer_pictures_rather_than_a_heavy_page(report):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    item = dataclasses.replace(report.gallery[0], factual=noise, null=noise[::-1], counterfactual=noise.T)
    found = report.revealed().iloc[:1]
    names = [f"contrast {i}" for i in range(14)]
    heavy = dataclasses.replace(
        report,
        edges=pd.concat([found.assign(contrast=name, editor=item.editor) for name in names], ignore_index=True),
        gallery=tuple(dataclasses.replace(item, contrast=name) for name in names for _ in range(PER_CONTRAST)),
    )
    page = heavy.to_html()
    assert len(page.encode()) < 2_000_000
    assert f"of {PER_CONTRAST} images an intervention" in page
    assert page.count("<img") > 0


def test_a_large_audit_lists_its_findings_and_names_the_rest(report):
    rows = [
        {**row, "contrast": f"attribute {i}: no -> yes", "concept": f"concept {j}"}
        for row in report.edges[report.edges["editor"] == "learnt"].iloc[:1].to_dict("records")
        for i in range(14)
        for j in range(60)
    ]
    edges = pd.DataFrame(rows).assign(verdict="none")
    edges.loc[len(edges) - 1, "verdict"] = "hidden"
    page = dataclasses.replace(report, edges=edges).to_html()
    assert len(page.encode()) < 2_000_000
    assert cell(page, "attribute 13: no → yes", "concept 59")
    assert f"{len(edges) - MOST_CELLS} more cells, without finding, are in edges.csv" in section(page, "edges")


# -- what it says ------------------------------------------------------------------------------------------------------
def test_the_answer_stands_first(report):
    answer = section(report.to_html(), "answer")
    assert answer.startswith("2 edges revealed view: PA → AP o–o leads learnt")
    none = dataclasses.replace(report, edges=report.edges.assign(verdict="undecided", refusal="more patients"))
    assert section(none.to_html(), "answer").startswith("No edge revealed That is no evidence of absence")


def test_a_gallery_shows_each_intervention_once_with_all_that_it_revealed(report):
    of_view = report.edges["attribute"] == "view"
    edges = marked(report.edges, of_view & (report.edges["editor"] == "learnt"), verdict="hidden")
    page = dataclasses.replace(report, edges=marked(edges, ~of_view, verdict="none")).to_html()
    assert page.count("<img") == 4 * PER_CONTRAST
    heading = re.search(r"<figcaption><b>view: PA → AP</b>.*?</figcaption>", page, re.DOTALL).group()
    assert re.fullmatch(r"view: PA → AP learnt leads \S+ hidden control \S+ hidden", words(heading))


def test_a_picture_says_how_strongly_the_concept_shows_before_and_after(report):
    item = next(g for g in report.gallery if (g.editor, g.contrast) == ("learnt", "view: PA -> AP"))
    mine = report.measurements[report.measurements["row"] == item.row]
    null = mine[(mine["kind"] == "null") & (mine["editor"] == "learnt")]["corners/leads"].iloc[0]
    edit = mine[(mine["kind"] == "total") & (mine["editor"] == "learnt") & (mine["contrast"] == item.contrast)].iloc[0]
    way = ", set the other way" if edit["orientation"] < 0 else ""
    expected = f"Image {item.row}{way} · leads {null:.2f} → {edit['corners/leads']:.2f}"
    assert expected in section(report.to_html(), "gallery")


def test_data_and_editor_that_disagree_can_be_looked_at(report):
    where = (report.edges["editor"] == "controlled") & (report.edges["concept"] == "leads")
    odd = dataclasses.replace(report, edges=marked(report.edges, where, verdict="contradicted"))
    assert "view: PA → AP controlled leads" in section(odd.to_html(), "gallery")


def test_other_readers_stand_beside_the_chosen_one(report):
    other = report.second_readings
    where = (other["editor"] == "learnt") & (other["attribute"] == "view") & (other["concept"] == "leads")
    heard = dataclasses.replace(
        report, second_readings=marked(other, where, editor_effect=-0.123, editor_low=-0.2, editor_high=-0.05)
    )
    said = cell(heard.to_html(), "view: PA → AP", "leads", "learnt")
    assert "corners chosen" in said
    assert "second −0.12 [ −0.20, −0.05 ]".replace("[ ", "[").replace(" ]", "]") in said


@pytest.mark.parametrize(
    ("agreement", "expected"),
    [
        ("agree", "The other readers agree."),
        ("differ", "The readers contradict each other."),
        ("open", "The other readers leave it open."),
        ("", "No other reader reads this well enough to be heard."),
    ],
)
def test_a_cell_says_whether_readers_agree(report, agreement, expected):
    page = dataclasses.replace(report, edges=report.edges.assign(agreement=agreement)).to_html()
    assert expected in cell(page, "view: PA → AP", "leads", "learnt")


def test_a_cell_says_how_often_the_concept_appears_and_disappears(report):
    page = dataclasses.replace(report, edges=report.edges.assign(gained=0.37, lost=np.nan)).to_html()
    said = cell(page, "view: PA → AP", "leads", "learnt")
    assert "appears in 37% of the edited images that lack it" in said
    assert "could not disappear, since none has it" in said


def test_an_undecided_cell_gives_its_reason_without_being_opened(report):
    odd = dataclasses.replace(
        report, edges=report.edges.assign(verdict="undecided", refusal="no overlap", reason="no overlap")
    )
    summaries = re.findall(r'<summary class="row">.*?</summary>', odd.to_html(), re.DOTALL)
    assert len(summaries) == len(report.edges)
    assert all("no overlap" in words(summary) for summary in summaries)


TESTED = ["age", "view", "sex", 0.21, 0.17, 0.25, 1e-9, True, 4000]


@pytest.mark.parametrize(
    ("rows", "expected", "state"),
    [
        ([], "It could not: the graph implies no independence", "look"),
        ([TESTED], "Yes. 1 of 1 independences that the graph implies do not hold", "look"),
        ([[*TESTED[:6], 0.4, False, 4000]], "Not in 1 tests. Every independence", "fine"),
    ],
)
def test_the_page_says_whether_the_table_contradicts_the_graph(report, rows, expected, state):
    frame = pd.DataFrame(rows, columns=report.falsification.columns).astype({"rejected": bool})
    asked = dataclasses.replace(report, falsification=frame)
    assert expected in section(asked.to_html(), "falsification")
    assert {c.state for c in checks(asked) if c.where == "falsification"} == {state}
    if state == "look" and rows:
        said = "age and view should be independent given sex, but their partial correlation is +0.21 [+0.17, +0.25]"
        assert said in section(asked.to_html(), "falsification")


def test_what_took_no_part_is_named_and_long_lists_are_folded(report):
    left = {f"study-{i}.png": "no patient" for i in range(6)}
    page = changed(report, left_out=left, unreadable={"7": "truncated file"}).to_html()
    said = section(page, "left-out")
    assert all(f"{name} : no patient" in said for name in left)
    assert "7 : truncated file" in said
    folded = dict(re.findall(r"<details( open)?><summary>(Files|Unreadable)", page))
    assert folded == {"": "Files", " open": "Unreadable"}
    assert 'id="left-out"' not in report.to_html()


def test_the_page_says_what_shows_only_as_it_is_left_among_the_collected(report):
    edges = report.edges
    assert "Selection" not in {c.about for c in checks(report)}
    told = marked(edges, edges["attribute"] == "disease", selected_through="view")
    (check,) = (c for c in checks(dataclasses.replace(report, edges=told)) if c.about == "Selection")
    assert (check.state, check.answer.split(": ")[-1]) == ("look", "disease by way of view")


def test_arrows_of_contrasts_are_arrows_wherever_the_page_names_them(report):
    limits = report.limits.assign(state="limit")
    trust = re.search(r'<ul class="checks">.*?</ul>', dataclasses.replace(report, limits=limits).to_html(), re.S)
    assert "→" in trust[0]
    assert "-&gt;" not in trust[0]


def test_the_editors_null_is_its_largest_effect_where_nothing_should_move(report):
    edges = report.edges
    where = (edges["editor"] == "learnt") & edges["control"] & (edges["attribute"] == "disease")
    moved = marked(edges, where, editor_effect=-0.4, editor_low=-0.5, editor_high=-0.3)
    odd = dataclasses.replace(report, edges=moved)
    null = {(n.editor, n.kind): n for n in editor_null(odd)}
    assert null["learnt", "negative controls"].largest["editor_effect"] == -0.4
    assert null["learnt", "negative controls"].counting == 1
    assert null["controlled", "negative controls"].counting == 0
    assert "−0.40 [−0.50, −0.30]" in section(odd.to_html(), "null")
    states = {c.about: c.state for c in checks(odd) if c.where == "null"}
    assert states == {"Editor learnt": "look", "Editor controlled": "fine"}


def test_a_placebo_is_an_attribute_that_shows_nowhere_and_is_related_to_nothing(report):
    names = [Binary(name) for name in ("shown", "sampled", "cause", "effect", "twin", "coin")]
    graph = CausalGraph(
        names, [("shown", "image"), ("cause", "effect"), ("effect", "image")], [("twin", "effect")], ["sampled"]
    )
    assert placebo_attributes(graph) == ("coin",)
    assert {n.largest is None for n in editor_null(report) if n.kind == "placebo"} == {True}
    coin = report.edges[report.edges["attribute"] == "disease"].assign(
        attribute="coin", contrast="coin: 0 -> 1", editor_effect=0.07, editor_low=0.01, editor_high=0.13
    )
    with_coin = dataclasses.replace(
        report, graph=GRAPH.with_placebo(Binary("coin")), edges=pd.concat([report.edges, coin], ignore_index=True)
    )
    (null,) = [n for n in editor_null(with_coin) if n.kind == "placebo" and n.editor == "learnt"]
    assert null.effects == (0.07,) * 2
    assert null.excluding_zero == 2
    assert "coin: 0 → 1" in section(with_coin.to_html(), "null")


WITHIN = pd.DataFrame(
    [["leads", "disease", "1", 0.83, 0.61, 40, 50, 0.75, 0.9, 0.5, 0.7, 0.82, 0.74, 0.89]],
    columns=ReaderQuality.unknown(()).within.columns,
)
FOLLOWS = pd.DataFrame(
    [["leads", "disease", 0.12, 0.02, 0.08, 0.16, "disease: 0 -> 1", np.nan]],
    columns=ReaderQuality.unknown(()).follows.columns,
)


def test_readers_are_judged_within_levels_of_each_attribute(report):
    quality = ReaderQuality(report.quality["corners"].concepts, WITHIN, FOLLOWS)
    page = dataclasses.replace(report, quality={"corners": quality}).to_html()
    assert "leads disease 1 0.83 0.61 +0.12 [+0.08, +0.16]" in section(page, "readers")
    assert "<details><summary>Within levels of each attribute, and whether corners follows it" in page


def test_a_reader_that_may_be_blind_is_named(report):
    where = report.edges["concept"] == "leads"
    page = dataclasses.replace(report, edges=marked(report.edges, where, slope_low=0.1))
    assert "Readers may be blind to leads" in section(page.to_html(), "answer")
    assert "Readers see all 2 concepts" in section(report.to_html(), "answer")


def test_an_editor_that_does_too_little_is_named(report):
    where = (report.effectiveness["editor"] == "learnt") & (report.effectiveness["attribute"] == "view")
    weak = dataclasses.replace(report, effectiveness=marked(report.effectiveness, where, ratio=0.1))
    assert "Editor learnt does too little where asked for view: PA → AP" in section(weak.to_html(), "answer")
    assert "too little" not in section(report.to_html(), "answer")


def test_the_limits_of_editors_have_intervals_and_costs(report):
    said = section(changed(report, ledger={"learnt": 12345, "controlled": 7}).to_html(), "limits")
    row = report.effectiveness.iloc[0]
    assert f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" in said
    assert "12,345" in said
    leak = report.leak[(report.leak["editor"] == "learnt") & (report.leak["contrast"] == "view: PA -> AP")]
    assert f"{leak.set_index('target').loc['view', 'effect'].mean():+.2f}" in said


def test_a_report_says_how_an_editor_edits_where_the_editor_does(report):
    class Said(CornerEditor):
        method = "Corners(size=<8>)"

    editors = {"learnt": Said(), "controlled": CornerEditor()}
    made = Audit(GRAPH, [CornerReader()], n_edited=50, trials=None).run(editors, CornerDataset(300), seed=1)
    assert {name: about["method"] for name, about in made.provenance["editors"].items()} == {
        "learnt": "Corners(size=<8>)", "controlled": None,
    }  # fmt: skip
    assert "Corners(size=<8>)" in section(made.to_html(), "limits")
    without = {
        name: {k: v for k, v in about.items() if k != "method"} for name, about in made.provenance["editors"].items()
    }
    assert "Corners" not in section(changed(made, editors=without).to_html(), "limits")  # a report of before


def test_difference_is_white_where_nothing_changed_red_where_brighter_blue_where_darker():
    null, edited = np.array([[100, 0, 255]], dtype=np.uint8), np.array([[100, 255, 0]], dtype=np.uint8)
    same, brighter, darker = difference(null, edited)[0]
    assert same.tolist() == [255, 255, 255]
    assert brighter.tolist() == [178, 24, 43]
    assert darker.tolist() == [33, 102, 172]


def test_a_notebook_gets_a_few_lines_and_keeps_its_own_style(report):
    shown = report._repr_html_()
    assert "2 revealed edges" in words(shown)
    assert "leads" in words(shown)
    tags = Tags(shown).found
    assert not {tag for tag, _ in tags} & {"style", "script", "link", "body", "html"}
    assert not [attributes for _, attributes in tags if "id" in attributes]
    assert len(shown) < 20_000


# -- the record --------------------------------------------------------------------------------------------------------
def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def assert_same(loaded: Report, saved: Report) -> None:
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(saved, name), obj=name, check_exact=True)
    assert loaded.quality.keys() == saved.quality.keys()
    for reader, quality in saved.quality.items():
        for name in ("concepts", "within", "follows"):
            pd.testing.assert_frame_equal(
                getattr(loaded.quality[reader], name), getattr(quality, name), obj=f"{reader} {name}", check_exact=True
            )


def test_a_report_is_strict_json_and_is_read_back_exactly(report, tmp_path):
    report.save(tmp_path)
    json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    loaded = Report.load(tmp_path)
    assert_same(loaded, report)
    assert loaded.graph == report.graph
    assert loaded.provenance == report.provenance
    assert loaded.to_html() == report.to_html()
    pd.testing.assert_frame_equal(loaded.measurements, report.measurements)


def test_empty_frames_and_unknown_columns_are_read_back_exactly(report, tmp_path):
    bare = dataclasses.replace(
        report,
        edges=report.edges.assign(q=np.nan, gained=np.nan, lost=np.inf, adjustment=None),
        second_readings=report.second_readings.iloc[:0],
        falsification=pd.DataFrame(columns=report.falsification.columns).astype({"rejected": bool}),
        effectiveness=report.effectiveness.iloc[:0],
        composition=pd.DataFrame(columns=report.composition.columns),
        quality={"corners": ReaderQuality.unknown(CONCEPTS), "within": ReaderQuality(report.quality["corners"].concepts, WITHIN, FOLLOWS)},
    )  # fmt: skip
    bare = changed(bare, truth=[{"attribute": "view", "concept": "leads", "relation": "causes", "total": np.float32(np.nan)}])  # fmt: skip
    bare.save(tmp_path)
    json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert_same(Report.load(tmp_path), bare)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1.5, np.nan, np.inf, -np.inf, 5e-324]),
        pd.Series([np.nan, np.nan]),
        pd.Series([0.1, 0.2], dtype="float32"),
        pd.Series([1, -(2**62)]),
        pd.Series([1, None], dtype="Int64"),
        pd.Series([True, False]),
        pd.Series(["a", None, "é"]),
        pd.Series(["a", None, np.nan, np.inf, 1, True], dtype=object),
        pd.Series([np.nan], dtype=object),
        pd.Series([], dtype="int8"),
        pd.Series([], dtype=object),
    ],
)
def test_a_frames_values_and_dtypes_outlive_json(column):
    frame = pd.DataFrame({"column": column})
    text = json.dumps(frame_to_json(frame), allow_nan=False)
    pd.testing.assert_frame_equal(frame_from_json(json.loads(text)), frame, check_exact=True)


def test_a_gallery_of_an_earlier_report_is_not_read_back(report, tmp_path):
    report.save(tmp_path)
    assert all(isinstance(item, GalleryItem) for item in Report.load(tmp_path).gallery)
    assert np.array_equal(Report.load(tmp_path).gallery[-1].counterfactual, report.gallery[-1].counterfactual)
    dataclasses.replace(report, gallery=()).save(tmp_path)
    assert Report.load(tmp_path).gallery == ()
    assert not list(tmp_path.rglob("*.partial"))


def test_measurements_of_another_audit_are_not_taken_for_these(report, tmp_path):
    report.save(tmp_path)
    other = report.measurements.assign(patient="somebody else")
    with pytest.raises(ValueError, match="measurements of another audit; save this report elsewhere"):
        dataclasses.replace(report, measurements=other).save(tmp_path)
    assert_same(Report.load(tmp_path), report)


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no report\.json"):
        Report.load(tmp_path)


def test_a_report_of_an_earlier_version_is_refused_with_the_mend(tmp_path):
    Path(tmp_path / "report.json").write_text('{"graph": {}, "edges": {}}')
    with pytest.raises(FileNotFoundError, match="has format 1, this version reads 5; run the audit again"):
        Report.load(tmp_path)


def test_witnesses_that_differ_are_listed_and_what_two_readers_share_is_said(report: Report) -> None:
    """The two editors differ in what they learnt; the second reader is the first by another name."""
    differing = report.heterogeneity[report.heterogeneity["q"] <= 0.05]
    assert set(differing["concept"]) == {"leads"}
    assert set(differing["between"]) == {"editors"}
    text = report.to_html()
    assert f"{len(differing)} of {len(report.heterogeneity)} comparisons" in text
    assert "corners and second" in text


def test_undecided_cells_are_counted_by_type_with_what_would_mend_them(report: Report) -> None:
    odd = dataclasses.replace(report, edges=report.edges.assign(verdict="undecided", refusal="no overlap"))
    assert f"<b>{len(odd.edges)} no overlap</b>: images of patients who could have had either level" in odd.to_html()


@pytest.fixture(scope="module")
def with_observations(report: Report) -> Report:
    dataset = CornerDataset(400)
    scores = pd.DataFrame({"leads": dataset.leads.astype(float), EVIL: dataset.control.astype(float)})
    side = observational_side(
        GRAPH, dataset.attributes, dataset.patients.to_numpy(), scores, default_contrasts(GRAPH), most_refuted=1
    )
    return dataclasses.replace(report, observational=side)


def test_what_unedited_images_say_comes_back_as_it_was_saved(with_observations: Report, tmp_path: Path) -> None:
    again = Report.load(with_observations.save(tmp_path / "run"))
    for name in ("identification", "estimates", "refutations", "sensitivity"):
        pd.testing.assert_frame_equal(
            getattr(again.observational, name), getattr(with_observations.observational, name), check_dtype=False
        )
    assert again.observational.graph_test.words == with_observations.observational.graph_test.words
    assert again.observational.graph_test.contradicted == with_observations.observational.graph_test.contradicted
    assert again.to_html() == with_observations.to_html()


def test_the_page_sets_estimators_side_by_side_and_says_what_did_not_pass_first(with_observations: Report) -> None:
    text = with_observations.to_html()
    side = with_observations.observational
    assert side.graph_test.words in text
    assert all(f"<td>{estimator}" in text for estimator in ("regression", "ipw", "doubly robust"))
    assert f"{(side.refutations['passes'] == 'yes').sum()} more passed" in text
    assert EVIL not in text
    assert " in scores<td" in text, "nobody gave these scores' slope"


def with_fusion(report: Report, search: TableSearch, leads: str = "leads", **changes: object) -> Report:
    """The report with a search of its own images, in which ``leads`` may be called otherwise and edges changed."""
    dataset = CornerDataset(2000)
    scores = pd.DataFrame({leads: dataset.leads.astype(float), "control": dataset.control.astype(float)})
    seen = Unedited(dataset.attributes, dataset.patients, scores, {})
    edges = report.edges.assign(concept=report.edges["concept"].replace("leads", leads), **changes)
    fused = search_and_fuse(report.graph, seen, edges, search)
    asked = {**report.provenance["specification"], "discovery": dataclasses.asdict(search)}
    return dataclasses.replace(changed(report, specification=asked), fused=fused)


@pytest.fixture(scope="module")
def with_calls(report: Report) -> Report:
    return with_fusion(report, TableSearch(resamples=3, calls=True))


def test_the_page_says_of_every_edge_who_says_so(with_calls: Report) -> None:
    page = with_calls.to_html()
    said = section(page, "fused")
    assert "FCI searched 4 columns in one image of each of 1,000 patients, and was told nothing of the" in said
    assert "2 edges : 1 declared, 2 discovered, 1 revealed" in said
    assert "nothing was joined to control" in said
    rows = [words(row) for row in re.findall(r"<tr><td>.*?</tr>", page.partition('<section id="fused">')[2], re.DOTALL)]
    assert rows[0] == "disease → view ✓ 100% – declared –"
    leads = with_calls.edges[(with_calls.edges["attribute"] == "view") & (with_calls.edges["concept"] == "leads")]
    for edge in leads.to_dict("records"):
        assert f"{edge['verdict']} {signed(edge['editor_effect'])} [" in rows[1]
        assert edge["editor"] in rows[1]
    assert rows[1].endswith("editors disagree")
    assert with_calls.fused.words in said
    assert '<a href="#fused">' in page


def test_the_page_names_what_contradicts_the_graph_and_what_edits_say_of_it(report: Report) -> None:
    blind = with_fusion(report, TableSearch(resamples=3), verdict="undecided")
    said = section(blind.to_html(), "fused")
    assert blind.fused.words in said
    assert "view and leads should be independent, but their partial correlation is +0.6" in said
    assert "Edits: undecided by controlled, undecided by learnt" in said
    assert "disease → view ✓ 100%" in said


def test_hostile_names_in_the_fused_graph_are_text(report: Report, tmp_path: Path) -> None:
    hostile = with_fusion(report, TableSearch(resamples=2, calls=True), EVIL, editor=EVIL)
    page = dataclasses.replace(report, fused=hostile.fused, provenance=hostile.provenance).to_html()
    assert "script" not in {tag for tag, _ in Tags(page).found}
    assert EVIL not in page
    assert html.escape(EVIL, quote=False)[:12] in page
    again = Report.load(hostile.save(tmp_path))
    pd.testing.assert_frame_equal(again.fused.graph.edges, hostile.fused.graph.edges)
