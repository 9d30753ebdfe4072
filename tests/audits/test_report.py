"""The saved page: one offline file that runs no script, stays small, is usable by keyboard and escapes its data."""

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from audits.fakes import GRAPH, CornerDataset, CornerEditor, CornerReader

from causal_cxr.audits import Audit, Report
from causal_cxr.audits.report.report import PER_EDGE, _difference

EVIL = "<script>alert('x')</script>\"'&"


@pytest.fixture(scope="module")
def report() -> Report:
    editors = {"learnt": CornerEditor(), "controlled": CornerEditor(learnt=False)}
    return Audit(GRAPH, [CornerReader()], n_edited=300).run(editors, CornerDataset(2000), seed=1)


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


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


def test_every_cell_can_be_filtered_by_its_verdict_and_editor(report):
    tags = Tags(report.to_html()).found
    ids = {attributes.get("id") for tag, attributes in tags if tag == "input"}
    cells = [
        attributes["class"].split() for tag, attributes in tags if (attributes.get("class") or "").startswith("cell")
    ]
    assert len(cells) == len(report.edges)
    for _, verdict, editor in cells:
        assert {verdict.replace("is-", "only-"), editor} <= ids
        assert f"#{verdict.replace('is-', 'only-')}:checked" in report.to_html()


def test_what_scrolls_can_be_reached_by_keyboard_and_pictures_have_words(report):
    for tag, attributes in Tags(report.to_html()).found:
        if attributes.get("class") == "wide":
            assert attributes["tabindex"] == "0"
        if tag == "img":
            assert attributes["alt"]


@pytest.mark.parametrize("column", ["concept", "contrast", "editor", "reason", "sentence"])
def test_hostile_names_are_text(report, column):
    hostile = dataclasses.replace(report, edges=report.edges.assign(**{column: EVIL}))
    if column == "editor":
        about = {EVIL: next(iter(report.provenance["editors"].values()))}
        hostile = dataclasses.replace(hostile, provenance={**report.provenance, "editors": about, "ledger": {EVIL: 1}})
    for page in (hostile.to_html(), hostile._repr_html_()):
        assert "script" not in {tag for tag, _ in Tags(page).found}


def test_many_revealed_edges_show_fewer_pictures_rather_than_a_heavy_page(report):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    item = dataclasses.replace(report.gallery[0], factual=noise, null=noise[::-1], counterfactual=noise.T)
    cell = report.revealed().iloc[:1]
    names = [f"contrast {i}" for i in range(12)]
    heavy = dataclasses.replace(
        report,
        edges=pd.concat([cell.assign(contrast=name, editor=item.editor) for name in names], ignore_index=True),
        gallery=tuple(dataclasses.replace(item, contrast=name) for name in names for _ in range(PER_EDGE)),
    )
    page = heavy.to_html()
    assert len(page) < 2_000_000
    assert f"of {PER_EDGE} an edge" in page


def test_difference_is_white_where_nothing_changed_red_where_brighter_blue_where_darker():
    null, edited = np.array([[100, 0, 255]], dtype=np.uint8), np.array([[100, 255, 0]], dtype=np.uint8)
    same, brighter, darker = _difference(null, edited)[0]
    assert same.tolist() == [255, 255, 255]
    assert brighter.tolist() == [178, 24, 43]
    assert darker.tolist() == [33, 102, 172]


def test_a_gallery_of_an_earlier_report_is_not_read_back(report, tmp_path):
    report.save(tmp_path)
    dataclasses.replace(report, gallery=()).save(tmp_path)
    assert Report.load(tmp_path).gallery == ()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no report\.json"):
        Report.load(tmp_path)
