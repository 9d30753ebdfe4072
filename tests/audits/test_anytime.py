"""An audit that stops: the same verdicts from fewer edits, resumed to the same numbers, without a p-value left over."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from audits.fakes import CONCEPTS, GRAPH, CornerDataset, CornerEditor, CornerReader

from causal_cxr.audits import Anytime, Audit, Report, UnnamedSearch
from causal_cxr.audits.anytime import StoppingRule, replay
from causal_cxr.audits.measure import measure as measure_audit
from causal_cxr.audits.plans import plan
from causal_cxr.audits.store import load_measurements
from causal_cxr.graphs import default_contrasts
from causal_cxr.graphs.scm import SCM
from causal_cxr.readers.quality import FOLLOWS, ReaderQuality

KEY = ["editor", "contrast", "concept"]


def audit(dataset=None, editor=None, *, stopping=True, readers=None, n_edited=300, out=None, **options):
    settings = (stopping if isinstance(stopping, Anytime) else Anytime()) if stopping else None
    made = Audit(GRAPH, readers or [CornerReader()], n_edited=n_edited, stopping=settings, **options)
    return made.run(editor or CornerEditor(), dataset or CornerDataset(2000), out=out, seed=1, batch_size=32)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return audit(out=out), out


def verdicts(report: Report) -> dict[str, str]:
    return report.edges.set_index(KEY)["verdict"].to_dict()


@pytest.mark.parametrize("learnt", [True, False])
def test_the_verdicts_are_those_of_all_edits_from_less_than_half_of_them(learnt):
    some = audit(editor=CornerEditor(learnt=learnt))
    assert verdicts(some) == verdicts(audit(editor=CornerEditor(learnt=learnt), stopping=False))
    assert "undecided" not in verdicts(some).values()
    edits = some.provenance["stopping"]
    assert edits["planned"] == 3 * 300
    assert edits["edits"] < edits["planned"] / 2
    assert edits["edits"] == some.measurements["kind"].isin(["null", "total"]).sum()


def test_a_contrast_whose_cells_are_decided_is_edited_no_more(stopped):
    by_contrast = stopped[0].provenance["stopping"]["by_contrast"]["editor"]
    nulls = (stopped[0].measurements["kind"] == "null").sum()
    assert by_contrast["view: PA -> AP"] < by_contrast["disease: 0 -> 1"] == nulls  # mediated takes longer than hidden


def test_no_number_is_left_that_supposes_a_fixed_number_of_patients(stopped):
    report = stopped[0]
    for table in (report.edges, report.second_readings):
        assert not [c for c in table.columns if "_p_" in c]
    assert report.edges[["q", "editor_se", "direct_se", "bound_low_95", "bound_high_95"]].isna().all(axis=None)
    assert report.leak[["low", "high"]].isna().all(axis=None)
    decided = report.edges[report.edges["verdict"] != "undecided"]
    assert (decided["e"] >= 1 / 0.05).all()
    assert decided["sentence"].str.contains(r"e = [\d.]+ after \d+ patients").all()


def test_confidence_sequences_hold_the_effects_that_were_planted(stopped):
    edges = stopped[0].edges.set_index(["contrast", "concept"])
    planted = {
        ("view: PA -> AP", "leads"): 0.7,
        ("view: PA -> AP", "control"): 0.0,
        ("disease: 0 -> 1", "control"): 0.0,
    }
    for cell, effect in planted.items():
        assert edges.loc[cell, "editor_low"] < effect < edges.loc[cell, "editor_high"]
        assert edges.loc[cell, "editor_low"] < edges.loc[cell, "editor_effect"] < edges.loc[cell, "editor_high"]


def test_the_report_is_saved_read_back_and_drawn(stopped):
    report, out = stopped
    loaded = Report.load(out)
    pd.testing.assert_frame_equal(loaded.edges, report.edges, check_dtype=False)
    assert loaded.provenance["specification"]["stopping"] == {"check_every": 1, "images_per_patient": 1}
    assert "hidden" in (out / "report.html").read_text()


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_run_that_was_killed_goes_on_to_the_same_numbers(stopped, tmp_path, kept):
    report, out = stopped
    shutil.copytree(out / "measurements", tmp_path / "measurements")
    shards = sorted((tmp_path / "measurements" / "editor").glob("shard-*.parquet"))
    assert len(shards) > kept
    for shard in shards[kept:]:
        shard.unlink()
    audit(out=tmp_path)
    assert (tmp_path / "edges.csv").read_bytes() == (out / "edges.csv").read_bytes()
    pd.testing.assert_frame_equal(load_measurements(tmp_path / "measurements"), report.measurements)


def test_a_finished_run_edits_nothing_again(stopped, tmp_path):
    class Broken(CornerEditor):
        def abduct(self, *args, **kwargs):
            raise AssertionError("an image was edited again")

    shutil.copytree(stopped[1], tmp_path / "run")
    again = audit(editor=Broken(), out=tmp_path / "run")
    assert again.edges.equals(stopped[0].edges)


def test_other_thresholds_are_another_measurement(stopped):
    """Where it stops depends on what is decided, so nothing measured can be decided anew."""
    from causal_cxr.audits import ManifestMismatch

    with pytest.raises(ManifestMismatch, match="alpha"):
        audit(out=stopped[1], alpha=0.01)


@pytest.fixture(scope="module")
def in_full(tmp_path_factory):
    """All edits of an audit in random order, and what a stopping rule needs to know of it."""
    dataset, reader, settings = CornerDataset(2000), CornerReader(), Anytime()
    rows = settings.order(np.arange(2000), dataset.patients.to_numpy(), 300, 1)
    contrasts = default_contrasts(GRAPH)
    made = plan(GRAPH, dataset, contrasts, rows, SCM(GRAPH).fit(dataset.attributes), seed=1, batch_size=32)
    folder = tmp_path_factory.mktemp("full")
    measure_audit(dataset, {"editor": CornerEditor()}, [reader], made, folder, manifest={})
    about = (made, ["editor"], dataset.patients, dataset.attributes, GRAPH, contrasts)
    return about, reader, load_measurements(folder)


def rule(in_full, quality=None, **settings) -> StoppingRule:
    about, reader, _ = in_full
    return StoppingRule(Anytime(**settings), *about, {"corners": CONCEPTS}, {"corners": quality or reader.quality})


def test_a_stopped_audit_is_a_full_one_seen_shard_by_shard(stopped, in_full):
    analysis, kept = replay(rule(in_full), in_full[2])
    assert analysis.edges.equals(stopped[0].edges)
    assert len(kept) == len(stopped[0].measurements)


def test_looking_less_often_edits_more_and_says_the_same(stopped, in_full):
    analysis, kept = replay(rule(in_full, check_every=4), in_full[2])
    assert len(kept) > len(stopped[0].measurements)
    assert analysis.edges["verdict"].tolist() == stopped[0].edges["verdict"].tolist()


def test_where_no_edit_could_decide_one_shard_judges_the_editor_and_no_more_is_made(in_full):
    unknown = ReaderQuality.unknown(CONCEPTS)
    analysis, kept = replay(rule(in_full, unknown), in_full[2])
    assert (kept["kind"] == "null").sum() == 32
    assert (analysis.edges["verdict"] == "undecided").all()
    assert set(analysis.edges["refusal"]) == {"reader unknown"}
    assert len(analysis.effectiveness) > 0


def test_a_reader_that_may_be_blind_never_says_no(in_full):
    reader = in_full[1]
    blind = ReaderQuality(reader.quality.concepts.assign(slope_low=0.2), reader.quality.within, reader.quality.follows)
    edges = replay(rule(in_full, blind), in_full[2])[0].edges.set_index(["contrast", "concept"])
    assert (edges["editor_e_no"] == 0).all()
    assert edges.loc[("view: PA -> AP", "control"), "refusal"] == "reader blind"
    assert edges.loc[("view: PA -> AP", "leads"), "verdict"] == "hidden"  # needs no "no"


def test_a_slope_known_with_error_makes_every_claim_harder(in_full):
    reader = in_full[1]
    vague = ReaderQuality(reader.quality.concepts.assign(slope_se=0.08), reader.quality.within, reader.quality.follows)
    sure, unsure = (replay(rule(in_full, q, check_every=100), in_full[2])[0].edges for q in (None, vague))
    width = [edges["editor_high"] - edges["editor_low"] for edges in (sure, unsure)]
    moved = sure["editor_effect"] != 0
    assert (width[0] < width[1])[moved].all()
    assert (sure["editor_e_no"] >= unsure["editor_e_no"]).all()
    assert (sure["editor_e_yes"] >= unsure["editor_e_yes"]).all()


def test_what_a_reader_may_see_of_the_view_makes_every_claim_harder_and_moves_the_bounds(in_full):
    reader = in_full[1]
    rows = [["leads", "view", 0.016, 0.004, 0.008, 0.024, "view: PA -> AP", np.nan],
            ["control", "view", 0.0, 0.08, -0.16, 0.16, "view: PA -> AP", np.nan]]  # fmt: skip
    seen = ReaderQuality(reader.quality.concepts, reader.quality.within, pd.DataFrame(rows, columns=list(FOLLOWS)))
    sure, unsure = (
        replay(rule(in_full, q, check_every=100), in_full[2])[0].edges.set_index(["contrast", "concept"])
        for q in (None, seen)
    )
    leads, control = ("view: PA -> AP", "leads"), ("view: PA -> AP", "control")
    assert unsure.loc[leads, "editor_effect"] == pytest.approx(sure.loc[leads, "editor_effect"] - 0.016 / 0.8)
    assert unsure.loc[leads, "editor_e_yes"] <= sure.loc[leads, "editor_e_yes"]
    assert unsure.loc[control, "editor_e_no"] < sure.loc[control, "editor_e_no"]
    middle = [(e.loc[leads, "editor_low"] + e.loc[leads, "editor_high"]) / 2 for e in (sure, unsure)]
    assert middle[0] - middle[1] == pytest.approx(0.016 / 0.8, abs=0.002)
    wide = [e.loc[control, "editor_high"] - e.loc[control, "editor_low"] for e in (sure, unsure)]
    assert wide[1] > wide[0]


def test_no_is_said_of_the_whole_that_was_asked_at_any_time_too(in_full):
    """Edits that do a tenth of it say so later; ones that do none of it never do."""
    table = in_full[2]
    null = table[table["kind"] == "null"].set_index("row")["corners/AP view"]
    total = (table["kind"] != "null") & (table["kind"] != "factual") & (table["contrast"] == "view: PA -> AP")
    found = []
    for done in (1.0, 0.1, 0.0):
        weak = table.copy()
        before = table.loc[total, "row"].map(null)
        weak.loc[total, "corners/AP view"] = before + done * (table.loc[total, "corners/AP view"] - before)
        edges = replay(rule(in_full, check_every=100), weak)[0].edges.set_index(["contrast", "concept"])
        found.append(edges.loc[("view: PA -> AP", "control"), "editor_e_no"])
    assert found[0] > found[1] > found[2]
    assert found[2] < 1


def test_where_nothing_reads_the_attribute_it_is_not_said_that_nothing_follows(in_full):
    about, reader, table = in_full
    fewer = tuple(c for c in CONCEPTS if c.attribute != "view")
    edges = replay(StoppingRule(Anytime(), *about, {"corners": fewer}, {"corners": reader.quality}), table)[0].edges
    assert (edges.loc[edges["attribute"] == "view", "editor_e_no"] == 0).all()
    assert edges.set_index(["contrast", "concept"]).loc[("view: PA -> AP", "leads"), "verdict"] == "hidden"


def test_two_editors_are_one_family_and_each_stops_by_itself():
    both = Audit(GRAPH, [CornerReader()], n_edited=300, stopping=Anytime()).run(
        {"blank": CornerEditor(learnt=False), "learnt": CornerEditor()}, CornerDataset(2000), seed=1, batch_size=32
    )
    found = verdicts(both)
    assert found["learnt", "view: PA -> AP", "leads"] == "hidden"
    assert found["blank", "view: PA -> AP", "leads"] == "missed"
    nulls = both.measurements[both.measurements["kind"] == "null"].groupby("editor").size()
    assert (nulls < 300).all()


def test_patients_come_whole_in_a_seeded_order():
    rows, patients = np.arange(90), np.repeat([f"p{i}" for i in range(40)], [1, 2, 3, 3] * 10)
    all_images = Anytime(images_per_patient=None)
    order = all_images.order(rows, patients, None, 0)
    assert sorted(order) == rows.tolist()
    runs = pd.Series(patients[order])
    assert (runs != runs.shift()).sum() == 40  # nobody comes twice
    assert order.tolist() == all_images.order(rows, patients, None, 0).tolist()
    assert order.tolist() != all_images.order(rows, patients, None, 1).tolist()
    some = all_images.order(rows, patients, 50, 0)
    assert some.tolist() == order[: len(some)].tolist()
    assert 47 < len(some) <= 50  # the patient who does not fit is left out whole
    assert np.unique(patients[Anytime().order(rows, patients, None, 0)], return_counts=True)[1].tolist() == [1] * 40


def test_shards_are_whole_patients():
    dataset = CornerDataset(400)
    rows = Anytime(images_per_patient=None).order(np.arange(400), dataset.patients.to_numpy(), None, 0)
    contrasts = default_contrasts(GRAPH)
    made = plan(GRAPH, dataset, contrasts, rows, SCM(GRAPH).fit(dataset.attributes), seed=0, batch_size=31)
    parts = StoppingRule(
        Anytime(), made, ["e"], dataset.patients, dataset.attributes, GRAPH, contrasts, {"corners": CONCEPTS},
        {"corners": CornerReader().quality},
    ).parts()  # fmt: skip
    assert np.concatenate(parts).tolist() == list(range(400))
    people = [set(dataset.patients.iloc[rows[part]]) for part in parts]
    assert sum(map(len, people)) == 200
    assert {len(part) for part in parts[:-1]} == {32}


def test_what_cannot_go_together_is_refused():
    with pytest.raises(ValueError, match="unnamed concepts needs every edit"):
        Audit(GRAPH, [CornerReader()], stopping=Anytime(), unnamed=UnnamedSearch(CornerReader()))
    with pytest.raises(ValueError, match="from 1"):
        Anytime(check_every=0)
    only_labelled = {"corners": tuple(c for c in CONCEPTS if c.attribute is not None)}
    with pytest.raises(ValueError, match="candidate hidden attribute"):
        StoppingRule(Anytime(), None, [], pd.Series(dtype=str), pd.DataFrame(), GRAPH, (), only_labelled, {})


def test_the_specification_says_how_it_stops(stopped):
    specification = json.loads((stopped[1] / "report.json").read_text())["provenance"]["specification"]
    assert specification["stopping"]["images_per_patient"] == 1
