"""Concepts without a name in an audit of the world of corners, whose hidden sign no reader reads."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from audits.fakes import GRAPH, CornerDataset, CornerEditor, CornerReader

from causal_cxr.audits import Audit, Report
from causal_cxr.audits.spec import AuditSpec, SpecError
from causal_cxr.audits.unnamed import UnnamedSearch, halves, regions_of
from causal_cxr.readers.component_settings import ComponentSearch
from causal_cxr.readers.components import ComponentReader
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.features import OrientedGradients, Pixels


class Pointless(CornerReader):
    """Reads the corners of labelled attributes and the control: nobody told it of the leads."""

    fingerprint = "no-leads"
    concepts = tuple(c for c in CornerReader.concepts if c.name != "leads")

    def __init__(self):
        super().__init__()
        self.quality = dataclasses.replace(self.quality, concepts=self.quality.concepts.drop("leads"))

    def read(self, images, patients=None):
        return super().read(images)[:, [0, 1, 3]]


class Words:
    """Phrases of corners."""

    concepts = (Concept("a wire", ("wire",), ("none",)), Concept("a dot", ("dot",), ("none",)))

    def margins(self, images):
        return images[:, 0, 7, [0, 7]]


SEARCH = UnnamedSearch(Pixels(8), ComponentSearch(resamples=2, atoms=4), phrases=Words(), local=None)


def audit(unnamed=SEARCH, reader=Pointless, learnt=True, out=None, dataset=None):
    return Audit(GRAPH, [reader()], n_edited=400, unnamed=unnamed).run(
        CornerEditor(learnt), dataset or CornerDataset(1000), out=out, seed=1
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("unnamed")
    return audit(out=out), out


def component(report):
    (only,) = report.provenance["unnamed"]["components"]
    return only


def test_the_hidden_sign_is_found_and_its_edge_decided_on(made):
    report, _ = made
    name = component(report)["name"]
    assert name == "unnamed 1 (view)"
    mine = report.edges[report.edges["concept"] == name].set_index("attribute")
    assert mine["verdict"].to_dict() == {"view": "hidden", "disease": "mediated"}
    assert abs(mine.loc["view", "editor_effect"]) == pytest.approx(0.7, abs=0.1)


def test_it_is_found_on_one_half_of_the_patients_and_decided_on_the_other(made):
    report, out = made
    reader = ComponentReader.from_pretrained(out / "unnamed")
    mine = report.edges[report.edges["reader"] == "unnamed"]
    rows = report.measurements[report.measurements["kind"] == "null"]
    others = rows[~rows["patient"].isin(reader.fitted_on)]
    assert 0 < len(others) < len(rows)
    assert set(mine["n_edited"]) == {len(others)}
    assert set(mine["n_patients"]) == {others["patient"].nunique()}
    said = report.provenance["unnamed"]
    assert (said["searched"], said["tested"]) == (250, 250)


def test_the_components_hash_is_in_the_frozen_specification(made):
    report, out = made
    frozen = report.provenance["specification"]["unnamed"]
    assert frozen["components"] == ComponentReader.from_pretrained(out / "unnamed").fingerprint
    assert frozen["features"] == Pixels(8).fingerprint


def test_nearest_phrase_and_region_say_where_and_what(made):
    report, _ = made
    found = component(report)
    name, growth = found["phrases"][0]
    assert name == "a wire"
    assert abs(growth) > 3 * abs(found["phrases"][1][1])
    ((top, left, bottom, right),) = found["regions"]
    assert top < 7.5 / 8 < bottom
    assert left < 0.5 / 8 < right


def test_a_thing_on_either_side_has_two_regions_and_one_in_its_place_has_one():
    rng = np.random.default_rng(0)
    change = 0.1 * rng.standard_normal((24, 32, 32))
    one_place = change.copy()
    one_place[:12, 8:14, 4:10] += 1
    change[0:12:2, 8:14, 4:10] += 1
    change[1:12:2, 18:24, 22:28] += 1

    def within(region, box):
        return np.abs(np.array(region) * 32 - np.array(box)).max() <= 2

    (only,) = regions_of(one_place, 12)
    assert within(only, (8, 4, 14, 10))
    upper, lower = sorted(regions_of(change, 12))
    assert within(upper, (8, 4, 14, 10))
    assert within(lower, (18, 22, 24, 28))
    assert regions_of(np.zeros((24, 32, 32)), 12) == ()


class Grainy(CornerDataset):
    """Corners under noise, as a place in which nothing varies has no features."""

    def __init__(self, n):
        super().__init__(n)
        self._images += 0.05 * torch.rand(self._images.shape, generator=torch.Generator().manual_seed(0))


class Brightness:
    """Features in which no corner shows alone."""

    fingerprint, fitted_on = "brightness", frozenset()

    def features(self, images):
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


def test_what_the_features_do_not_hold_is_found_place_by_place():
    images, blurred = Grainy(1000), dataclasses.replace(SEARCH, features=Brightness())
    assert audit(blurred, dataset=images).provenance["unnamed"]["components"] == []
    found = audit(dataclasses.replace(blurred, local=OrientedGradients(16, cell=4)), dataset=images)
    strongest = found.provenance["unnamed"]["components"][0]
    edge = found.edges.set_index(["attribute", "concept"]).loc["view", strongest["name"]]
    assert edge["verdict"] == "hidden"
    assert edge["editor_effect"] == pytest.approx(0.7, abs=0.1)
    assert strongest["prevalence"] == pytest.approx(images.leads.mean(), abs=0.03)


def test_a_withheld_phrase_is_not_said():
    search = dataclasses.replace(SEARCH, without={"a wire"})
    assert [name for name, _ in component(audit(search))["phrases"]] == ["a dot"]


def test_the_report_shows_it_and_comes_back(made):
    report, out = made
    page = (out / "report.html").read_text()
    assert 'id="unnamed"' in page
    assert "unnamed 1 (view)" in page
    assert "found again in" in page
    loaded = Report.load(out)
    assert len(loaded.pictures) == len(report.pictures) == 3
    for one, other in zip(loaded.pictures, report.pictures, strict=True):
        assert (one.component, one.row, one.after) == (other.component, other.row, other.after)
        np.testing.assert_array_equal(one.counterfactual, other.counterfactual)
        assert abs(one.after - one.before) > 0.5
    assert loaded.to_html() == page
    json.loads((out / "report.json").read_text())


def test_the_same_audit_gives_the_same_bytes_and_goes_on_from_what_was_measured(made, tmp_path):
    _, out = made
    shards = {file: file.stat().st_mtime_ns for file in (out / "measurements").glob("*/*.parquet")}
    audit(out=out)
    assert {file: file.stat().st_mtime_ns for file in shards} == shards
    assert not list(tmp_path.iterdir())
    audit(out=tmp_path)
    assert (tmp_path / "edges.csv").read_bytes() == (out / "edges.csv").read_bytes()
    assert (tmp_path / "report.html").read_text().count("unnamed 1 (view)") > 3


def test_what_a_reader_names_is_no_unnamed_component_unless_its_name_is_withheld():
    report = audit(reader=CornerReader)
    assert report.provenance["unnamed"]["components"] == []
    assert any("read already as leads" in left["why"] for left in report.provenance["unnamed"]["left"])
    withheld = audit(dataclasses.replace(SEARCH, without={"leads"}), reader=CornerReader)
    assert component(withheld)["attribute"] == "view"


def test_an_editor_that_moves_nothing_hidden_reveals_no_component():
    report = audit(learnt=False)
    assert report.provenance["unnamed"]["components"] == []
    assert "None was found that held on resampled patients" in report.to_html()


def test_an_audit_without_a_search_is_as_before(made):
    plain = audit(unnamed=None)
    page = plain.to_html()
    assert 'id="unnamed"' not in page
    assert "outlined" not in page
    assert "unnamed" not in plain.provenance
    assert not [c for c in plain.measurements if c.startswith("features/")]
    named = made[0].edges[made[0].edges["reader"] != "unnamed"]
    pd.testing.assert_frame_equal(plain.edges, named, check_dtype=False)


def test_names_and_patients_that_are_taken_are_refused():
    class Taken(CornerReader):
        name = "unnamed"

    with pytest.raises(ValueError, match=r"takes the names \['unnamed'\]"):
        Audit(GRAPH, [Taken()], unnamed=SEARCH)

    class Seen(Pixels):
        fitted_on = frozenset({"p0"})

    with pytest.raises(ValueError, match="used to fit the features of the unnamed"):
        audit(dataclasses.replace(SEARCH, features=Seen(8)))


def test_halves_share_no_patient_and_both_have_edited_images():
    patients = pd.Series([f"p{i // 2}" for i in range(100)])
    edited = np.arange(0, 40)
    first, second = halves(patients, edited, seed=4)
    assert not first & second
    assert first | second == set(patients)
    for half in (first, second):
        assert sum(p in half for p in set(patients.iloc[edited])) == 10
    assert halves(patients, edited, seed=4)[0] == first
    assert halves(patients, edited, seed=5)[0] != first


SPEC = """
graph: {attributes: [{name: view, type: binary, levels: [PA, AP]}], edges: []}
dataset: {type: folder, csv: t.csv, images: i, patient: id}
editors: {mine: {type: python, target: "m:editor"}}
readers: {plain: {type: python, target: "m:plain"}, words: {type: python, target: "m:words"}}
unnamed: {features: %s, phrases: %s, without: [leads], resamples: 4, local: %s}
out: run
"""


def spec(tmp_path, features="words", phrases="words", local="true"):
    file = tmp_path / "audit.yaml"
    file.write_text(SPEC % (features, phrases, local))
    return AuditSpec.from_yaml(file)


class Lending(CornerReader, Words):
    def features(self, images):
        return images.flatten(1)


def test_a_file_says_which_reader_lends_features_and_phrases(tmp_path):
    lending = Lending()
    search = spec(tmp_path).search([CornerReader(), lending])
    assert search.features is search.phrases is lending
    assert (search.search.resamples, search.without) == (4, {"leads"})
    assert isinstance(search.local, OrientedGradients)
    assert spec(tmp_path, local="false").search([CornerReader(), lending]).local is None


@pytest.mark.parametrize(("key", "name"), [("features", "plain"), ("phrases", "nobody")])
def test_a_file_that_names_a_reader_without_them_is_refused(tmp_path, key, name):
    with pytest.raises(SpecError, match=rf"unnamed\.{key}: '{name}' .*choose from \['words'\]"):
        spec(tmp_path, **{key: name}).search([CornerReader(), Lending()])
