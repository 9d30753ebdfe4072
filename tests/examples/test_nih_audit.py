"""The example on real radiographs, end to end on a small folder in the release's layout."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from causal_cxr.audits import Report
from causal_cxr.data import Phantom, World

EXAMPLE = Path(__file__).parents[2] / "examples" / "nih_audit.py"
REAL = Path(__file__).parents[3] / "shared" / "data" / "nih-1000"


def example():
    spec = importlib.util.spec_from_file_location("nih_audit", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments])
    example().main()


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """120 phantoms as the release would have them: half with hidden labels, one torn, one too small, one in no row."""
    folder = tmp_path_factory.mktemp("release")
    phantom = Phantom(120, World.load("portable").changed(patients={"images": [1, 1]}), seed=9)
    pixels = (phantom.images(np.arange(120))[:, 0].numpy() * 255).astype(np.uint8)
    names = [f"{i:08d}_000.png" for i in range(120)]
    (folder / "images").mkdir()
    for name, picture in zip(names, pixels, strict=True):
        Image.fromarray(picture).save(folder / "images" / name)
    torn = folder / "images" / names[3]
    torn.write_bytes(torn.read_bytes()[:200])
    Image.fromarray(pixels[4]).resize((40, 40)).save(folder / "images" / names[4])
    Image.fromarray(pixels[5]).save(folder / "images" / "99999999_000.png")
    table = phantom.attributes
    pd.DataFrame(
        {
            "Image Index": names,
            "Finding Labels": np.where(table["effusion"] == 1, "Pneumonia", "No Finding"),
            "Follow-up #": 0,
            "Patient ID": np.arange(120),
            "Patient Age": table["age"].astype(int),
            "Patient Gender": table["sex"].map({"male": "M", "female": "F"}),
            "View Position": table["view"],
        }
    ).to_csv(folder / "Data_Entry_2017_v2020.csv", index=False)
    hidden = phantom.hidden[["ecg_leads", "portable_marker"]].rename(columns={"ecg_leads": "wires"})
    hidden.assign(image=names, rare=0).iloc[50:].to_csv(folder / "hidden_labels.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def done(release, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, "--data", str(release), "--steps", "2", "--scm-steps", "5", "--edit-steps", "3", "--out", str(out))
    return out


def test_it_ends_with_a_report_and_a_summary(done):
    summary = json.loads((done / "summary.json").read_text())
    assert {"view", "sex"} <= {name.split("/")[1] for name in summary["effectiveness"]}
    assert summary["reader_auroc"]["AP view"] > 0.9  # phantoms are easy
    assert summary["seconds"] > 0
    for value, interval in (("reader_auroc", "reader_auroc_interval"), ("effectiveness", "effectiveness_interval")):
        assert summary[value].keys() == summary[interval].keys()
    report = Report.load(done)
    assert set(report.edges["editor"]) == {"diffusion", "scm"}
    assert {"wires", "portable_marker", "control_dot"} <= set(report.edges["concept"])
    assert set(report.graph.selected_on) == {"view", "pneumonia"}


def test_what_took_no_part_is_named_with_its_reason(done):
    left_out = Report.load(done).provenance["left_out"]
    assert "cannot be decoded" in left_out["00000003_000.png"]
    assert "40x40 pixels where most are 64x64" in left_out["00000004_000.png"]
    assert "no row" in left_out["99999999_000.png"]
    assert "present in 0" in left_out["rare"]
    page = (done / "report.html").read_text()
    assert all(name in page for name in left_out)


def test_nobody_is_audited_whom_an_editor_was_fitted_on(done, release):
    labelled = set(pd.read_csv(release / "hidden_labels.csv")["image"].str[:8].astype(int).astype(str))
    audited = set(Report.load(done).measurements["patient"])
    assert audited == labelled


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the thousand real radiographs are not at hand")
def test_real_radiographs_end_with_a_report(monkeypatch, tmp_path):
    run(monkeypatch, "--data", str(REAL), "--steps", "20", "--scm-steps", "20", "--out", str(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["reader_auroc"]["AP view"] > 0.9
    assert summary["reader_auroc"]["female"] > 0.8
