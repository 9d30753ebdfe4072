"""An audit end to end on a world of corners, whose hidden edge is view -> leads."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from audits.fakes import GRAPH, CornerDataset, CornerEditor, CornerReader

from causal_cxr.audits import Anytime, Audit, ManifestMismatch, Report, Trials
from causal_cxr.audits.observational import study
from causal_cxr.editors import Edit
from causal_cxr.graphs import default_contrasts


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return Audit(GRAPH, [CornerReader()], n_edited=300).run(CornerEditor(), CornerDataset(2000), out=out, seed=1), out


def verdict(report: Report, attribute: str, concept: str) -> str:
    edges = report.edges
    return edges[(edges["attribute"] == attribute) & (edges["concept"] == concept)]["verdict"].item()


def test_the_hidden_edge_is_revealed_and_the_control_is_not(report):
    assert verdict(report[0], "view", "leads") == "hidden"
    assert verdict(report[0], "view", "control") == "none"
    assert verdict(report[0], "disease", "control") == "none"


def test_what_runs_through_a_labelled_mediator_is_mediated(report):
    assert verdict(report[0], "disease", "leads") == "mediated"


def test_an_editor_that_has_not_learnt_the_edge_misses_it():
    found = Audit(GRAPH, [CornerReader()], n_edited=300).run(CornerEditor(learnt=False), CornerDataset(2000), seed=1)
    assert verdict(found, "view", "leads") == "missed"


def test_report_round_trip_is_exact(report):
    made, out = report
    loaded = Report.load(out)
    pd.testing.assert_frame_equal(loaded.edges, made.edges, check_dtype=False)
    pd.testing.assert_frame_equal(loaded.measurements, made.measurements)
    assert loaded.graph == made.graph
    assert loaded.provenance["specification_hash"] == made.provenance["specification_hash"]
    assert len(loaded.gallery) == len(made.gallery) > 0


def test_the_page_is_one_offline_file_of_less_than_2_mb(report):
    page = (report[1] / "report.html").read_text()
    assert len(page) < 2_000_000
    assert 'http-equiv="Content-Security-Policy"' in page
    assert 'src="http' not in page
    assert "<script" not in page


def test_names_from_the_data_are_escaped(report):
    import dataclasses

    edges = report[0].edges.assign(concept="<script>alert(1)</script>")
    page = dataclasses.replace(report[0], edges=edges).to_html()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_the_same_specification_gives_the_same_bytes(report, tmp_path):
    Audit(GRAPH, [CornerReader()], n_edited=300).run(CornerEditor(), CornerDataset(2000), out=tmp_path, seed=1)
    assert (tmp_path / "edges.csv").read_bytes() == (report[1] / "edges.csv").read_bytes()


def test_measurements_of_another_audit_are_refused(report):
    with pytest.raises(ManifestMismatch, match=r"seed.*Choose another"):
        Audit(GRAPH, [CornerReader()], n_edited=300).run(CornerEditor(), CornerDataset(2000), out=report[1], seed=2)


def test_another_alpha_needs_no_new_measurement(report):
    again = Audit(GRAPH, [CornerReader()], n_edited=300, alpha=0.01)
    again.run(CornerEditor(), CornerDataset(2000), out=report[1], seed=1)
    Audit(GRAPH, [CornerReader()], n_edited=300).run(CornerEditor(), CornerDataset(2000), out=report[1], seed=1)


def test_audited_patients_that_a_model_has_seen_are_refused():
    with pytest.raises(ValueError, match=r"'p0'.*used to fit editor"):
        Audit(GRAPH, [CornerReader()]).run(CornerEditor(fitted_on=frozenset({"p0"})), CornerDataset(100))


def test_unreadable_images_are_named_in_the_report_and_stop_nothing():
    """Edited or not, alone in their batch or not."""
    dataset = CornerDataset(400, unreadable=(5, 7, 8, 9, 10, 11))
    made = Audit(GRAPH, [CornerReader()]).run(CornerEditor(), dataset, batch_size=4)
    assert made.provenance["unreadable"] == {str(row): "unreadable: truncated file" for row in (5, 7, 8, 9, 10, 11)}
    edits = made.measurements[made.measurements["kind"] != "factual"]
    assert sorted(set(range(400)) - set(edits["row"])) == [5, 7, 8, 9, 10, 11]
    assert edits.filter(like="corners/").notna().all(axis=None)
    assert verdict(made, "view", "control") in {"none", "undecided"}


KILLED = """
    import sys, time
    sys.path.insert(0, {tests!r})
    from audits.fakes import *
    from causal_cxr.audits import Audit
    class Slow(CornerEditor):
        def abduct(self, images, attributes, *, seeds):
            time.sleep({pause})
            return super().abduct(images, attributes, seeds=seeds)
    Audit(GRAPH, [CornerReader()], n_edited=200).run(Slow(), CornerDataset(800), out={out!r}, batch_size=20, seed=3)
"""


def run_script(out: Path, pause: float) -> subprocess.Popen:
    tests = str(Path(__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED).format(tests=tests, out=str(out), pause=pause)]
    )


def test_a_run_killed_in_the_middle_goes_on_to_the_same_bytes(tmp_path):
    process, whole = run_script(tmp_path / "killed", pause=0.4), run_script(tmp_path / "whole", pause=0)
    shards = tmp_path / "killed" / "measurements" / "editor"
    deadline = time.monotonic() + 120
    while len(list(shards.glob("shard-*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {file.name: file.stat().st_mtime_ns for file in shards.glob("shard-*.parquet")}
    assert 3 <= len(done) < 10
    assert not (tmp_path / "killed" / "edges.csv").exists()
    assert run_script(tmp_path / "killed", pause=0).wait() == 0
    assert all((shards / name).stat().st_mtime_ns == when for name, when in done.items())
    assert whole.wait() == 0
    assert (tmp_path / "killed" / "edges.csv").read_bytes() == (tmp_path / "whole" / "edges.csv").read_bytes()


def test_only_the_concepts_asked_for_are_decided_on_and_no_others_exist(report):
    audit = Audit(GRAPH, [CornerReader()], n_edited=300, concepts=["leads"])
    made = audit.run(CornerEditor(), CornerDataset(2000), out=None, seed=1)
    assert set(made.edges["concept"]) == {"leads"}
    assert "corners/control" in made.measurements  # measured all the same: asking it later costs nothing
    with pytest.raises(ValueError, match=r"No reader reads \['lead'\]"):
        Audit(GRAPH, [CornerReader()], concepts=["lead"])


@pytest.mark.parametrize("name", ["a/b", "..", "", "factual", "/tmp", ".hidden"])
def test_a_name_that_cannot_be_a_folder_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="Editors cannot be called"):
        Audit(GRAPH, [CornerReader()]).run({name: CornerEditor()}, CornerDataset(50), out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_models_that_can_be_moved_are_and_others_are_left_alone():
    class OnDevice(CornerEditor):
        where = "cpu"

        def to(self, device):
            self.where = device

    moved, still = OnDevice(), OnDevice()
    audit = Audit(GRAPH, [CornerReader()], n_edited=20)
    audit.run({"moved": moved, "fixed": CornerEditor()}, CornerDataset(60), device="meta")
    audit.run(still, CornerDataset(60))
    assert (moved.where, still.where) == ("meta", "cpu")


def test_an_audit_may_try_nothing_beside_its_edits_and_then_knows_less_of_its_editor():
    spare = Audit(GRAPH, [CornerReader()], n_edited=100, trials=None).run(CornerEditor(), CornerDataset(400), seed=1)
    usual = Audit(GRAPH, [CornerReader()], n_edited=100).run(CornerEditor(), CornerDataset(400), seed=1)
    pd.testing.assert_frame_equal(spare.edges, usual.edges)
    assert spare.provenance["ledger"]["editor"] < usual.provenance["ledger"]["editor"]
    unknown = spare.limits[spare.limits["kind"].isin(["composition", "reversibility"])]
    assert set(unknown["state"]) == {"unknown"}


def leads_seen(dataset: CornerDataset, share: float = 0.3) -> pd.DataFrame:
    """The truth of ``leads`` in some images."""
    seen = np.random.default_rng(5).uniform(size=len(dataset.leads)) < share
    return pd.DataFrame({"leads": np.where(seen, dataset.leads, np.nan)})


def test_labels_of_a_concept_enter_the_datas_side_and_nothing_is_measured_again(report):
    dataset = CornerDataset(2000)
    labels = leads_seen(dataset)
    found = Audit(GRAPH, [CornerReader()], n_edited=300).run(
        CornerEditor(), dataset, out=report[1], seed=1, labels=labels
    )
    by_reader = report[0].edges.set_index(["attribute", "concept"])
    by_label = found.edges.set_index(["attribute", "concept"])
    assert by_label.loc[("view", "leads"), "labelled"] == labels["leads"].notna().sum()
    assert by_label.loc[("view", "control"), "labelled"] == 0
    assert by_label.loc[("view", "leads"), "adjusted_effect"] == pytest.approx(0.7, abs=0.06)
    assert "labels of the concept" in by_label.loc[("view", "leads"), "sentence"]
    assert by_label.loc[("view", "leads"), "editor_effect"] == by_reader.loc[("view", "leads"), "editor_effect"]
    pd.testing.assert_frame_equal(found.measurements, report[0].measurements)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda labels: labels.rename(columns={"leads": "wires"}), r"\['wires'\] are concepts that no reader reads"),
        (lambda labels: labels.rename(columns={"leads": "sick"}), r"\['sick'\] are concepts that no reader reads"),
        (lambda labels: labels[10:], "a row for each of the 200 images"),
        (lambda labels: 2 * labels, "outside"),
    ],
)
def test_labels_that_do_not_fit_the_audit_are_refused(change, said):
    dataset = CornerDataset(200)
    with pytest.raises(ValueError, match=said):
        Audit(GRAPH, [CornerReader()]).run(CornerEditor(), dataset, labels=change(leads_seen(dataset)))


def test_an_audit_that_stops_takes_no_labels():
    dataset = CornerDataset(200)
    with pytest.raises(ValueError, match="leave out labels= or stopping="):
        Audit(GRAPH, [CornerReader()], stopping=Anytime()).run(CornerEditor(), dataset, labels=leads_seen(dataset))


class ViewOnly(CornerEditor):
    attributes = frozenset({"view"})


def test_what_an_editor_cannot_set_is_not_asked_of_it_and_said():
    editors = {"both": CornerEditor(), "one": ViewOnly()}
    for stopping in (None, Anytime()):
        trials = None if stopping else Trials(composed=16, reversed=8)
        audit = Audit(GRAPH, [CornerReader()], n_edited=120, trials=trials, stopping=stopping)
        report = audit.run(editors, CornerDataset(800), seed=1)
        asked = report.measurements.groupby("editor")["contrast"].unique()
        assert "disease: 0 -> 1" in asked["both"]
        assert set(asked["one"]) == {"", "view: PA -> AP"}
        cells = report.edges.set_index(["editor", "contrast", "concept"])
        of_disease = cells.loc[("one", "disease: 0 -> 1", "leads")]
        assert (of_disease["verdict"], of_disease["refusal"]) == ("undecided", "no edits")
        assert of_disease["reason"] == "the editor cannot set disease, or there was no image to set it in"
        assert cells.loc[("one", "view: PA -> AP", "leads"), "verdict"] == "hidden"


def test_an_editor_that_can_set_nothing_that_is_asked_is_refused():
    disease = [c for c in default_contrasts(GRAPH) if c.attribute == "disease"]
    with pytest.raises(ValueError, match=r"'editor' can set \['view'\], and none of \['disease'\]"):
        Audit(GRAPH, [CornerReader()], interventions=disease).run(ViewOnly(), CornerDataset(400))


class Rejecting(CornerEditor):
    def edit(self, abduction, target, *, phrasing=0, strength=1.0):
        edit = super().edit(abduction, target, phrasing=phrasing, strength=strength)
        kept = target["disease"].to_numpy() == abduction.factual["disease"].to_numpy()
        return Edit(edit.images, kept, tuple("" if k else "no" for k in kept), edit.evaluations)


def test_where_every_edit_was_rejected_that_is_the_reason():
    report = Audit(GRAPH, [CornerReader()], n_edited=120, trials=None).run(Rejecting(), CornerDataset(800), seed=1)
    edge = report.edges.set_index(["contrast", "concept"]).loc[("disease: 0 -> 1", "leads")]
    assert (edge["refusal"], edge["reason"]) == ("no edits", "no edit of disease was accepted")


def test_nobody_is_edited_twice_before_everybody_is_once():
    dataset = CornerDataset(400)  # two images each
    patients = dataset.patients.to_numpy()

    def drawn(n: int, seed: int = 0) -> np.ndarray:
        return Audit(GRAPH, [CornerReader()], n_edited=n).edited_rows(dataset, seed)[0]

    assert len(np.unique(patients[drawn(150)])) == 150
    counts = np.unique(patients[drawn(260)], return_counts=True)[1]
    assert (len(counts), sorted(set(counts)), (counts == 2).sum()) == (200, [1, 2], 60)
    assert drawn(150).tolist() == drawn(150).tolist() != drawn(150, seed=1).tolist()
    assert set(drawn(150)) < set(drawn(260)), "more images are more patients, not others"
    first = np.isin(drawn(200), np.flatnonzero(~pd.Series(patients).duplicated()))
    assert 60 < first.sum() < 140, "which image of a patient is by chance"


def test_unedited_images_tell_the_same_number_beside_the_verdict_and_in_their_own_section(monkeypatch):
    monkeypatch.setattr(
        study, "refutations", lambda *_, **__: pd.DataFrame({"refuter": []})
    )  # slow, and not asked here
    found = Audit(GRAPH, [CornerReader()], trials=None, observational=True).run(CornerEditor(), CornerDataset(300))
    estimates = found.observational.estimates.query("estimator == 'regression' and estimand == 'backdoor'")
    pairs = found.edges.merge(estimates, on=["contrast", "concept"])
    assert set(pairs["concept"]) == {"leads", "control"}
    assert set(pairs["scale"]) == {"concept"}
    np.testing.assert_allclose(pairs["effect"], pairs["adjusted_effect"], atol=1e-9)
    np.testing.assert_allclose(pairs["se"], pairs["adjusted_se"], rtol=1e-9)


def test_a_contrast_that_is_asked_for_twice_is_refused_before_anything_is_measured():
    one, other = default_contrasts(GRAPH)
    with pytest.raises(ValueError, match=r"interventions= asks for \['view: PA -> AP'\] more than once"):
        Audit(GRAPH, [CornerReader()], interventions=[other, one, other])
