"""The command line, but for ``audit``: the version, and the report of a finished run."""

import re
import shutil
from importlib.metadata import version

import pandas as pd
import pytest
from audits.fakes import GRAPH, CornerDataset, CornerEditor, CornerReader
from typer.testing import CliRunner

from causal_cxr.audits import Audit
from causal_cxr.cli import app


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    report = Audit(GRAPH, [CornerReader()], n_edited=300).run(CornerEditor(), CornerDataset(2000), out=out, seed=1)
    return out, report


@pytest.fixture
def run(finished, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(finished[0], tmp_path / "run")


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"})


def words(text: str) -> str:
    """Without the frame that typer may draw around an error."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", text)


def test_the_version_is_that_of_the_package():
    done = invoke("--version")
    assert done.exit_code == 0
    assert done.output == f"causal-cxr {version('causal_cxr')}\n"


def test_without_a_command_the_commands_are_shown():
    done = invoke()
    assert all(f" {command} " in words(done.output) for command in ("audit", "demo", "finetune", "report"))


def test_an_unknown_command_is_refused():
    done = invoke("audti")
    assert done.exit_code == 2
    assert "No such command 'audti'" in words(done.output)


def test_report_prints_the_findings_and_where_the_page_is(run, finished):
    done = invoke("report", run)
    assert done.exit_code == 0, done.output
    sentences = finished[1].revealed()["sentence"].tolist()
    assert len(sentences) >= 2  # one hidden, one mediated
    assert done.output.splitlines() == [*sentences, f"report: {run / 'report.html'}"]


def test_report_writes_the_page_again_to_the_same_bytes(run):
    page = (run / "report.html").read_bytes()
    (run / "report.html").write_text("spoilt")
    (run / "edges.csv").unlink()
    assert invoke("report", run).exit_code == 0
    assert (run / "report.html").read_bytes() == page
    assert "leads" in set(pd.read_csv(run / "edges.csv")["concept"])


def test_report_measures_nothing(run):
    before = {p: p.stat().st_mtime_ns for p in (run / "measurements").rglob("*")}
    assert invoke("report", run).exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in (run / "measurements").rglob("*")} == before


def test_a_folder_without_a_report_is_refused_by_its_name(tmp_path):
    done = invoke("report", tmp_path)
    assert done.exit_code == 2
    assert f"{tmp_path} holds no report.json; was the audit killed? Run it again, it will go on." in words(done.output)
    assert "Traceback" not in done.output
    assert not list(tmp_path.iterdir())


def test_a_run_whose_measurements_are_gone_is_refused(run):
    shutil.rmtree(run / "measurements")
    done = invoke("report", run)
    assert done.exit_code == 2
    assert "holds no measurements" in words(done.output)


# Fine-tuning


@pytest.fixture(scope="module")
def small_base(tmp_path_factory):
    """A base of the world ``portable`` in a folder."""
    from causal_cxr.data.phantom import VERSION, Phantom
    from causal_cxr.editors.diffusion import fit_diffusion

    phantom = Phantom(16, "independent", seed=3, size=32)
    named = dict(Phantom(8, "portable", size=32).graph.attributes)
    options = {"steps": 1, "batch_size": 4, "channels": (16, 32), "renderer_version": VERSION}
    return fit_diffusion(phantom, range(16), named, **options).save(tmp_path_factory.mktemp("base"))


def tune(base, out, *arguments: object):
    small = ("--images", 24, "--size", 32, "--steps", 2, "--batch", 4, "--seed", 9)
    return invoke("finetune", "--base", base, "--out", out, *small, *arguments)


def test_finetune_writes_an_adapter_of_one_attribute_and_its_card(small_base, tmp_path):
    from causal_cxr.editors import DiffusionEditor

    own = ("--attribute", "view", "--balanced", "--captions", "own", "--validate-every", 0)
    done = tune(small_base, tmp_path, "--world", "portable", *own)
    assert done.exit_code == 0, done.output
    card = (tmp_path / "card.md").read_text()
    assert card in done.output
    for told in ('`Phantom(24, "portable", size=32, seed=9)`', "effective sample size", "- captions: view;", "LoRA(rank=8",
                 "`causal-cxr finetune --world portable --images 24 --size 32 --base ", "--balanced --out DIR`"):  # fmt: skip
        assert told in card
    assert DiffusionEditor.from_pretrained(small_base, adapter=tmp_path).attributes == {"view"}


def test_finetune_names_attributes_by_a_template_that_the_adapter_brings_along(small_base, tmp_path):
    from causal_cxr.editors import DiffusionEditor

    template = "[{view}][ of {sex}]"
    done = tune(small_base, tmp_path, "--world", "portable", "--validate-every", 0, "--template", template)
    assert done.exit_code == 0, done.output
    assert f" --template '{template}' --steps 2" in done.output
    editor = DiffusionEditor.from_pretrained(small_base, adapter=tmp_path)
    assert (editor.template, editor.attributes) == (template, {"view", "sex"})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--template", "{lamp}"], "The template '{lamp}' has a slot {lamp} for no attribute"),
        (["--template", "chest x-ray"], "The template 'chest x-ray' names none of ["),
        (["--template", "{sex}", "--attribute", "view", "--balanced"], "The template '{sex}' names none of ['view']"),
    ],
)
def test_finetune_refuses_a_template_that_cannot_name_what_is_learnt(small_base, tmp_path, arguments, says):
    done = tune(small_base, tmp_path / "out", "--world", "portable", *arguments)
    assert done.exit_code == 2
    assert says in words(done.output)
    assert not (tmp_path / "out").exists()


def test_finetune_learns_words_and_is_judged_on_held_out_patients(small_base, tmp_path, monkeypatch):
    from causal_cxr.audits import finetuning
    from causal_cxr.editors import DiffusionEditor

    monkeypatch.setattr(finetuning, "HELD_OUT", 8)
    arguments = ("--what", "tokens", "--attribute", "view", "--captions", "own", "--validate-every", 2)
    done = tune(small_base, tmp_path, "--world", "portable", *arguments)
    assert done.exit_code == 0, done.output
    assert re.search(r"- kept: the average after step 2: score .*, effectiveness .*, leak ", done.output)
    phrases = DiffusionEditor.from_pretrained(tmp_path).graph_attributes["view"].phrases
    assert phrases == {"PA": "<view-pa>", "AP": "<view-ap>"}
    assert (tmp_path / "checkpoint" / "validation.jsonl").is_file()


def test_finetune_calibrates_guidance_on_held_out_patients_and_writes_it_down(small_base, tmp_path, monkeypatch):
    from causal_cxr.audits import finetuning
    from causal_cxr.editors import DiffusionEditor
    from causal_cxr.editors.diffusion.guidance import PerAttribute

    monkeypatch.setattr(finetuning, "WEIGHED", 8)
    own = ("--attribute", "view", "--captions", "own", "--validate-every", 0)
    done = tune(small_base, tmp_path, "--world", "portable", *own, "--calibrate")
    assert done.exit_code == 0, done.output
    assert re.search(r"- guidance: (view \d\.\d\d|all 1), as \d held-out patients are read\n", done.output)
    assert "--calibrate --out DIR`" in done.output
    editor = DiffusionEditor.from_pretrained(small_base, adapter=tmp_path)
    assert isinstance(editor.guidance, PerAttribute)
    monkeypatch.setattr("causal_cxr.audits.validation.SURE", 2.0)  # no slope is
    refused = tune(small_base, tmp_path / "out", "--world", "portable", *own, "--calibrate")
    assert refused.exit_code == 2
    assert "--calibrate: no reader reads ['view'] well enough to choose a weight by" in words(refused.output)
    assert not (tmp_path / "out").exists()
    assert any(
        patient.startswith("portable-10-") for patient in editor.fitted_on
    )  # the next seed's, who chose the weights


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--world", "portable", "--balanced"), "name it with --attribute"),
        (("--world", "portable", "--attribute", "mood"), "--attribute mood is no labelled attribute"),
        (
            ("--world", "portable", "--what", "tokens", "--attribute", "age"),
            "Tokens name levels, and 'age' is a number",
        ),
        (("--world", "nowhere"), "nowhere"),
        (("--world", "portable", "--spec", "audit.yaml"), "Give either --world or --spec."),
        ((), "Give either --world or --spec."),
        (("--spec", "missing.yaml"), "missing.yaml"),
    ],
)
def test_finetune_refuses_by_name(arguments, message, small_base, tmp_path):
    done = tune(small_base, tmp_path / "out", *arguments)
    assert done.exit_code == 2, done.output
    assert message in words(done.output)
    assert "Traceback" not in done.output
