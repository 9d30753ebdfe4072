"""``causal-cxr shortcuts`` on a folder of PNGs, as examples/folder_shortcuts.yaml has it."""

import re
import sys

import pytest
from audits.picture_folder import picture_folder
from typer.testing import CliRunner

from causal_cxr.audits.shortcuts import ShortcutReport
from causal_cxr.cli import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return picture_folder(tmp_path_factory.mktemp("folder"))


@pytest.fixture(autouse=True)
def own_modules(monkeypatch):
    """The commands let modules be found beside their file."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "folder_models", raising=False)


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def done(folder):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "path", [*sys.path])
        return invoke("shortcuts", folder / "folder_shortcuts.yaml")


def test_the_example_names_the_view_that_its_classifier_was_trained_into(folder, done):
    assert done.exit_code == 0, done.output
    report = ShortcutReport.load(folder / "run")
    row = report.about("view")
    assert row["verdict"] == "reliance"
    assert row["gain_low"] > 0.05
    assert row["leak"] == "unmoved"
    assert report.carriers["concept"].tolist() == ["mark"]
    assert report.provenance["models"]["pixels"]["trained_on"] == 200
    page = folder / "run" / "shortcuts.html"
    assert done.output.splitlines() == ["1 reliance", row["sentence"], f"report: {page}"]
    assert "report.html" not in page.read_text()


def test_an_editor_that_brings_effusions_along_makes_no_reliance(folder):
    """Not compared within levels of the effusion, means differ by it, too."""
    file = folder / "leaky.yaml"
    text = (folder / "folder_shortcuts.yaml").read_text()
    file.write_text(text.replace(", within: effusion", "").replace("out: run", "out: leaky"))
    told = invoke("shortcuts", file)
    assert told.exit_code == 0, told.output
    assert told.output.startswith("1 reliance confounded by leak\n")
    assert "reliance confounded by leak (effusion moves: +0.1" in told.output.splitlines()[1]


def test_one_run_folder_holds_both_audits_and_their_pages_are_told_together(folder, done):
    assert invoke("audit", folder / "folder_audit.yaml").exit_code == 0
    audited = (folder / "run" / "report.html").read_bytes()
    again = invoke("shortcuts", folder / "folder_shortcuts.yaml")
    assert again.output == done.output, "nothing was measured anew"
    page = (folder / "run" / "shortcuts.html").read_text()
    assert '<a href="report.html">' in page
    assert (folder / "run" / "report.html").read_bytes() == audited
    (folder / "run" / "shortcuts.html").unlink()
    told = invoke("report", folder / "run")
    assert told.exit_code == 0, told.output
    assert (folder / "run" / "shortcuts.html").read_text() == page
    assert told.output.splitlines()[-2:] == done.output.splitlines()[-2:]
    assert f"report: {folder / 'run' / 'report.html'}" in told.output


def test_candidate_carriers_may_come_from_a_finished_audit(folder):
    assert invoke("audit", folder / "folder_audit.yaml").exit_code == 0
    file, text = folder / "after.yaml", (folder / "folder_shortcuts.yaml").read_text()
    text = text.replace("carriers: {view: [mark]}", "report: run").replace("out: run", "out: after")
    file.write_text(text.replace("[view AP, mark, effusion]", "[view AP, mark, lower mark, effusion]"))
    told = invoke("shortcuts", file)
    assert told.exit_code == 0, told.output
    report = ShortcutReport.load(folder / "after")
    assert report.carriers["concept"].tolist() == ["mark"]
    assert report.provenance["specification"]["audit"]


def test_a_run_of_shortcuts_alone_is_reported_again(folder, tmp_path):
    shortcuts = ShortcutReport.load(folder / "run")
    shortcuts.save(tmp_path)
    (tmp_path / "shortcuts.html").unlink()
    told = invoke("report", tmp_path)
    assert told.exit_code == 0, told.output
    assert told.output.splitlines() == [shortcuts.about("view")["sentence"], f"report: {tmp_path / 'shortcuts.html'}"]
    assert (tmp_path / "shortcuts.html").read_text() == shortcuts.to_html()


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("seed: 0", "sede: 0", "sede: Extra inputs"),
        ("csv: audit.csv", "csv: train.csv", "The model 'pixels' was trained on 200 of the audited patients"),
        ("csv: audit.csv", "csv: none.csv", "none.csv"),
        ("[mark]", "[marc]", "carriers: no reader reads 'marc'"),
        ("seed: 0", "seed: 1", "holds measurements of another audit; these differ: .*seed"),
    ],
)
def test_what_can_be_mended_is_told_in_one_line(folder, done, was, becomes, message):
    file, text = folder / "wrong.yaml", (folder / "folder_shortcuts.yaml").read_text()
    assert was in text
    file.write_text(text.replace(was, becomes))
    told = invoke("shortcuts", file)
    assert told.exit_code == 2, told.output
    (line,) = told.stderr.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)
