"""An audit that searches its table too: declaration, table and edits in one graph, on worlds whose graph is known."""

import dataclasses
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from audits.fakes import CONCEPTS, GRAPH, CornerDataset, CornerEditor, CornerReader
from audits.picture_folder import picture_folder

from causal_cxr.audits import Audit, ManifestMismatch, Report, TableSearch
from causal_cxr.audits.spec import AuditSpec
from causal_cxr.audits.table_search import FEWEST_PATIENTS, search_and_fuse
from causal_cxr.audits.unedited import Unedited
from causal_cxr.data.phantom import Phantom
from causal_cxr.editors import OracleEditor
from causal_cxr.graphs import Binary, CausalGraph, Continuous, default_contrasts
from causal_cxr.graphs.discovery import discover, edge_frequencies
from causal_cxr.readers import ProbeReader
from causal_cxr.readers.concepts import Concept

QUICK = TableSearch(resamples=4)
FRAMES = ("edges", "evidence", "conflicts")


def assert_same(one, other) -> None:
    """Two fusions are equal to the last bit."""
    assert one.graph.graph == other.graph.graph
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(one.graph, name), getattr(other.graph, name), check_exact=True)
    for name in ("frequencies", "falsification"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)
    assert (one.discovered, one.untested, one.words) == (other.discovered, other.untested, other.words)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("run")
    editors = {"learnt": CornerEditor(), "controlled": CornerEditor(learnt=False)}
    audit = Audit(GRAPH, [CornerReader()], n_edited=300, discovery=dataclasses.replace(QUICK, calls=True))
    return audit.run(editors, CornerDataset(2000), out=out, seed=1), out


# -- in an audit -------------------------------------------------------------------------------------------------------
def test_declared_discovered_and_revealed_edges_stand_in_one_graph(run):
    edges = run[0].fused.graph.edges.set_index(["a", "b"])
    assert dict(edges["sources"]) == {
        ("disease", "view"): "declared, discovered",
        ("view", "leads"): "discovered, revealed",
    }
    assert edges.loc[("disease", "view"), "oriented_by"] == "declared"
    assert run[0].fused.graph.concepts == ("leads", "control")


def test_editors_that_disagree_are_both_heard(run):
    fused = run[0].fused
    assert fused.graph.conflicts[["a", "b", "kind"]].to_numpy().tolist() == [["view", "leads", "editors disagree"]]
    assert fused.said_of("leads", "view") == "missed by controlled, hidden by learnt"
    (sentence,) = fused.graph.conflicts["sentence"]
    assert sentence == "edits by learnt move leads with view, edits by controlled do not"


def test_the_whole_is_tested_on_the_unedited_images(run):
    fused = run[0].fused
    pairs = fused.falsification[["a", "b"]].to_numpy().tolist()
    assert ["disease", "control"] in pairs
    assert not fused.falsification["rejected"].any()
    assert fused.words.startswith(f"The unedited images do not contradict this graph in {len(pairs)} tests")


def test_the_search_is_the_librarys_own_of_the_same_rows(run):
    """Labels and calls as they are, one image a patient, by the audit's seed."""
    report, dataset = run[0], CornerDataset(2000)
    calls = pd.DataFrame({"leads": dataset.leads, "control": dataset.control}).astype(float)
    options = {"scores": calls, "patients": dataset.patients, "seed": 1}
    found = discover(dataset.attributes, GRAPH, **options)
    assert report.fused.discovered == found
    again = edge_frequencies(dataset.attributes, GRAPH, resamples=4, **options)
    pd.testing.assert_frame_equal(report.fused.frequencies, again)


def test_another_search_measures_nothing_anew_and_the_same_gives_the_same(run, tmp_path):
    """Beside the measurements of another search, and of none."""
    report, out = run
    stamps = {file: file.stat().st_mtime_ns for file in (out / "measurements").rglob("*.parquet")}
    editors = {"learnt": CornerEditor(), "controlled": CornerEditor(learnt=False)}
    labelled = Audit(GRAPH, [CornerReader()], n_edited=300, discovery=QUICK).run(
        editors, CornerDataset(2000), out=out, seed=1
    )
    assert labelled.fused.discovered.variables == ("disease", "view")
    assert labelled.provenance["specification"]["discovery"] == dataclasses.asdict(QUICK)
    assert labelled.provenance["specification_hash"] != report.provenance["specification_hash"]
    again = Audit(GRAPH, [CornerReader()], n_edited=300, discovery=dataclasses.replace(QUICK, calls=True))
    assert_same(again.run(editors, CornerDataset(2000), out=out, seed=1).fused, report.fused)
    assert stamps == {file: file.stat().st_mtime_ns for file in (out / "measurements").rglob("*.parquet")}
    with pytest.raises(ManifestMismatch):
        again.run(editors, CornerDataset(2000), out=out, seed=2)


def test_it_is_saved_and_read_back_exactly_and_that_of_an_earlier_report_goes(run, tmp_path):
    report = run[0]
    report.save(tmp_path)
    loaded = Report.load(tmp_path)
    assert_same(loaded.fused, report.fused)
    assert loaded.to_html() == report.to_html()
    graph = nx.read_graphml(tmp_path / "fused.graphml")
    assert graph.edges["view", "leads"]["sources"] == "discovered, revealed"
    dataclasses.replace(report, fused=None).save(tmp_path)
    assert Report.load(tmp_path).fused is None
    assert not (tmp_path / "fused.graphml").exists()


def test_nothing_is_searched_unless_asked_for(run):
    report = Audit(GRAPH, [CornerReader()], n_edited=100).run(CornerEditor(), CornerDataset(400))
    assert report.fused is None
    assert 'id="fused"' not in report.to_html()


def test_an_audit_that_stops_may_search_too_without_editing_again(tmp_path):
    from causal_cxr.audits import Anytime

    audits = [Audit(GRAPH, [CornerReader()], n_edited=200, stopping=Anytime(), discovery=d) for d in (None, QUICK)]
    for audit in audits:
        report = audit.run(CornerEditor(), CornerDataset(800), out=tmp_path, seed=0)
    assert "disease --> view" in set(report.fused.graph.edges["edge"])


def test_a_phantoms_hidden_edges_are_joined_and_oriented_where_the_table_tells():
    """portable: view -> ecg_leads and others; the oracle reveals them, calls of the shipped reader orient them."""
    phantom = Phantom(1500, "portable", seed=0)
    contrasts = [c for c in default_contrasts(phantom.graph) if c.attribute in ("view", "weekday")]
    audit = Audit(
        phantom.graph, [ProbeReader.from_shipped()], interventions=contrasts, n_edited=150, trials=None,
        concepts=["ecg_leads", "laterality_marker", "control_dot"], discovery=TableSearch(resamples=6, calls=True),
    )  # fmt: skip
    fused = audit.run(OracleEditor(phantom), phantom, seed=0).fused
    edges = fused.graph.edges.set_index(["a", "b"])
    for concept in ("ecg_leads", "laterality_marker"):
        assert edges.loc[("view", concept), "sources"] == "discovered, revealed"
        assert edges.loc[("view", concept), "at_a"] != "arrow", "the view causes the sign"
    assert not {"control_dot", "weekday", "sex"} & {name for pair in edges.index for name in pair}
    assert set(phantom.graph.edges) <= {p for a, b in edges.index for p in ((a, b), (b, a))}
    assert not fused.falsification["rejected"].any()


# -- what is searched, and what is not ---------------------------------------------------------------------------------
def world(n: int = 3000, seed: int = 0) -> tuple[CausalGraph, Unedited]:
    """a -> view -> leads, nothing -> coin; ``rare`` is the same in nearly all."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 2, n)
    view = (rng.uniform(size=n) < 0.2 + 0.6 * a).astype(int)
    leads = rng.uniform(size=n) < 0.1 + 0.7 * view
    graph = CausalGraph([Binary("a"), Binary("view"), Binary("rare")], [("a", "view")])
    table = pd.DataFrame({"a": a, "view": view, "rare": (np.arange(n) < 10).astype(int)})
    scores = pd.DataFrame({"leads": np.where(leads, 0.9, 0.1), "coin": rng.uniform(size=n), "AP": view * 0.9})
    return graph, Unedited(table, pd.Series(np.arange(n)), scores, {"AP": "view"})


def edges_of(**refusals: str) -> pd.DataFrame:
    rows = [("view", "leads", "hidden"), ("view", "coin", "none"), ("a", "leads", "missed"), ("a", "AP", "declared")]
    return pd.DataFrame(
        {"editor": "scm", "attribute": a, "contrast": f"{a}: 0 -> 1", "concept": c, "verdict": v, "editor_effect": 0.4,
         "editor_low": 0.3, "editor_high": 0.5, "q": 0.01, "refusal": refusals.get(c, ""),
         "reason": f"{refusals[c]} of {a}" if c in refusals else ""}
        for a, c, v in rows
    )  # fmt: skip


def test_what_reads_a_labelled_attribute_is_that_attribute():
    graph, seen = world()
    fusion = search_and_fuse(graph, seen, edges_of(), dataclasses.replace(QUICK, calls=True))
    assert fusion.discovered.variables == ("a", "view", "leads", "coin")
    assert fusion.said_of("a", "view") == "declared by scm"
    assert {"AP"}.isdisjoint(fusion.graph.graph.attributes)


def test_a_column_in_which_too_few_patients_differ_is_left_out_and_named():
    graph, seen = world()
    fusion = search_and_fuse(graph, seen, edges_of(), QUICK)
    assert fusion.discovered.variables == ("a", "view")
    assert "'rare' was not searched: it is the same in all but 10 patients." in [
        note.text for note in fusion.discovered.notes
    ]
    assert FEWEST_PATIENTS > 10


def test_images_of_a_patient_count_once():
    """30 images that differ, all of one patient of many images: not to be found again in half of the patients."""
    graph, seen = world()
    seen.table["rare"] = (np.arange(3000) < 30).astype(int)
    patients = pd.Series(np.where(np.arange(3000) < 30, -1, np.arange(3000)))
    one = search_and_fuse(graph, dataclasses.replace(seen, patients=patients), edges_of(), QUICK)
    assert one.discovered.variables == ("a", "view")
    assert search_and_fuse(graph, seen, edges_of(), QUICK).discovered.variables == ("a", "view", "rare")


@pytest.mark.parametrize("refusal", ["reader follows", "reader inseparable", "reader blind", "reader unknown"])
def test_a_reader_that_the_audit_doubts_is_not_heard(refusal):
    graph, seen = world()
    edges = edges_of(leads=refusal)
    fusion = search_and_fuse(graph, seen, edges, dataclasses.replace(QUICK, calls=True))
    assert "leads" not in fusion.discovered.variables
    assert "leads" not in {*fusion.falsification["a"], *fusion.falsification["b"]}
    assert fusion.untested == {"leads": f"{refusal} of view"}
    assert any("'leads' was not searched" in note.text for note in fusion.discovered.notes)
    assert search_and_fuse(graph, seen, edges_of(leads="more patients"), QUICK).untested == {}


def test_a_missing_edge_falsifies_the_whole():
    graph, seen = world()
    blank = edges_of().assign(verdict="undecided")
    fusion = search_and_fuse(graph, seen, blank, QUICK)
    wrong = fusion.falsification[fusion.falsification["rejected"]]
    assert ["view", "leads"] in wrong[["a", "b"]].to_numpy().tolist()
    assert fusion.words.startswith(f"The unedited images contradict this graph in {len(wrong)} of ")
    assert fusion.said_of("view", "leads") == "undecided by scm"


def test_where_one_column_is_left_nothing_is_searched_and_it_is_said():
    graph = CausalGraph([Binary("a"), Binary("rare")], [("a", "rare")])
    _, seen = world()
    seen = dataclasses.replace(seen, scores=seen.scores[["leads"]], reads={})
    fusion = search_and_fuse(graph, seen, edges_of()[lambda e: e["concept"] == "leads"].iloc[1:], QUICK)
    assert fusion.discovered.edges == ()
    assert "Fewer than two columns are left: nothing was searched." in [n.text for n in fusion.discovered.notes]
    assert "a --> rare" in fusion.graph.edges["edge"].tolist()


def test_nothing_to_test_is_said():
    graph = CausalGraph([Continuous("a", unit="years", low=0, high=1), Binary("view")], [("a", "view")])
    _, seen = world()
    bare = dataclasses.replace(seen, scores=seen.scores[[]], reads={})
    fusion = search_and_fuse(graph, bare, edges_of().iloc[:0], QUICK)
    assert fusion.words.startswith("No image could contradict this graph")


# -- refusals ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "notears"}, "no method 'notears'; choose from fci"),
        ({"resamples": 0}, "resamples is 0"),
        ({"least_frequency": 50}, "least_frequency is 50; give a share"),
        ({"alpha": 0}, "alpha is 0"),
        ({"depth": -1}, "depth is -1"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TableSearch(**options)


def test_what_could_not_be_searched_or_joined_is_refused_before_anything_is_measured():
    alone = CausalGraph([Binary("view", levels=("PA", "AP"))])
    with pytest.raises(ValueError, match=r"only \['view'\] to search; label another"):
        Audit(alone, [CornerReader()], discovery=QUICK)
    Audit(alone, [CornerReader()], discovery=TableSearch(calls=True))
    reader = CornerReader()
    reader.concepts = (*CONCEPTS, Concept("image", ("an image",), ("none",)))
    with pytest.raises(ValueError, match="'image' is the image itself"):
        Audit(GRAPH, [reader], discovery=QUICK)
    Audit(GRAPH, [reader], discovery=QUICK, concepts=["leads"])


# -- written down ------------------------------------------------------------------------------------------------------
def test_a_file_may_ask_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "folder_models", raising=False)
    file = picture_folder(tmp_path) / "folder_audit.yaml"
    monkeypatch.syspath_prepend(str(tmp_path))
    file.write_text(file.read_text() + "discovery: {resamples: 2, calls: true, alpha: 0.02}\n")
    report = AuditSpec.from_yaml(file).run()
    assert report.provenance["specification"]["discovery"] == dataclasses.asdict(
        TableSearch(resamples=2, calls=True, alpha=0.02)
    )
    assert "view" in {name for edge in report.fused.graph.edges[["a", "b"]].to_numpy() for name in edge}
    assert AuditSpec.model_fields["discovery"].default is None


def test_two_columns_that_nobody_has_both_of_cost_one_of_them_and_not_the_report():
    """Smoking is recorded at one site and ethnicity, in fewer patients, at the other."""
    graph, seen = world(1200)
    rng = np.random.default_rng(1)
    graph = CausalGraph([Binary("a"), Binary("view"), Binary("smoker"), Binary("ethnicity")], [("a", "view")])
    here, coins = np.arange(1200) < 700, rng.integers(0, 2, (2, 1200)).astype(float)
    recorded = {"smoker": np.where(here, coins[0], np.nan), "ethnicity": np.where(here, np.nan, coins[1])}
    seen = dataclasses.replace(seen, table=seen.table[["a", "view"]].assign(**recorded))
    found = search_and_fuse(graph, seen, edges_of(), TableSearch(resamples=3))
    assert found.discovered.variables == ("a", "view", "smoker")
    (note,) = (note for note in found.discovered.notes if "was not searched" in note.text)
    assert note.text == (
        "'ethnicity' was not searched: only 0 patients are known in both it and 'smoker'; 60 are needed."
    )
    assert not found.frequencies.empty
