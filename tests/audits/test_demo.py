"""The demonstration, on few images with the truth as editor."""

import json

import pandas as pd
import pytest

from causal_cxr.audits import Report, demo

KEYS = {
    "hidden_planted", "hidden_found", "hidden_false", "error_ratio", "composition_10", "reader_auroc_min", "seconds",
    "peak_rss_gb", "images", "concepts",
}  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "UNEDITED", 1500)
        patch.setattr(demo, "SCORED", 16)
        return demo.run_demo(out, ["oracle"], images=96), out


def test_the_statistics_find_what_is_planted_when_the_editor_is_the_truth(done):
    summary, _ = done
    assert summary["hidden_planted"] == 5
    assert summary["hidden_found"] >= 4
    assert summary["hidden_false"] == 0
    assert summary["composition_10"] == 0


def test_the_summary_is_written_flat_with_its_keys(done):
    summary, out = done
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary.keys() >= KEYS
    assert set(summary["error_ratio"]) == {"age", "sex", "view", "cardiomegaly", "effusion"}


def test_the_report_holds_the_truth_beside_the_verdicts(done):
    report = Report.load(done[1])
    truth = pd.DataFrame(report.provenance["truth"])
    assert len(report.edges.merge(truth, on=["contrast", "concept"])) == len(report.edges)
    assert demo.score_edges(report, truth, "oracle")["hidden_found"] == done[0]["hidden_found"]


def test_a_verdict_against_the_truth_counts_as_false(done):
    report = Report.load(done[1])
    truth = pd.DataFrame(report.provenance["truth"]).assign(relation="none")
    scores = demo.score_edges(report, truth, "oracle")
    assert scores["hidden_false"] == done[0]["hidden_found"]
    assert scores["hidden_found"] == 0
    assert demo.score_rival(report, truth, "oracle")["false"] >= scores["hidden_false"]


def test_an_editor_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="no demo editor 'magic'"):
        demo.run_demo("unused", ["magic"], images=32)
