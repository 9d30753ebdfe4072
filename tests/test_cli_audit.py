"""``causal-cxr audit`` on a folder of PNGs, as examples/folder_audit.yaml has it."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from audits.picture_folder import picture_folder
from PIL import Image
from typer.testing import CliRunner

from causal_cxr.audits.spec import AuditSpec, SpecError
from causal_cxr.audits.specs.models import READERS, ModelBlock, open_model
from causal_cxr.cli import app
from causal_cxr.editors import DiffusionEditor
from causal_cxr.graphs import Binary, CausalGraph
from causal_cxr.readers import CLIPReader, load_concepts


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "folder_models", raising=False)
    return picture_folder(tmp_path)


def test_a_folder_of_pngs_is_audited_from_one_file(folder):
    done = CliRunner().invoke(app, ["audit", str(folder / "folder_audit.yaml")])
    assert done.exit_code == 0, done.output
    assert (folder / "run" / "report.html").is_file()
    edges = pd.read_csv(folder / "run" / "edges.csv").set_index("concept")
    assert edges.loc["mark", "editor_effect"] > 0.3
    assert edges.loc["mark", "verdict"] == "hidden"
    assert edges.loc["lower mark", "verdict"] != "hidden"


def test_a_file_may_ask_for_doses_for_estimators_without_edits_and_for_edits_that_stop(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    file = folder / "folder_audit.yaml"
    more = "trials: {reversed: 8, doses: [0.5], dosed: 8}\nmay_touch: {view: [corners]}\nobservational: true\n"
    file.write_text(file.read_text() + more)
    report = AuditSpec.from_yaml(file).run()
    assert set(report.dose_curves["dose"]) == {0.0, 0.5, 1.0}
    assert "mark" in set(report.observational.estimates["concept"])
    assert report.provenance["specification"]["may_touch"] == {"view": ["corners"]}
    file.write_text(file.read_text().replace("out: run", "out: stopped\nstopping: {}").replace(more, ""))
    stopped = AuditSpec.from_yaml(file).run()
    assert stopped.edges["q"].isna().all(), "nothing there supposes a number of patients fixed in advance"
    assert stopped.edges.set_index("concept").loc["mark", "verdict"] == "hidden"


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("smallest_effect: 0.10", "smallest_effect: 2", r"yaml:\d+: smallest_effect: .*less than 1"),
        ("seed: 0", "sede: 0", r"yaml:\d+: sede: Extra inputs"),
        ("type: folder", "type: flder", r"dataset: .*folder"),
        ("- [age, view]", "- [view, age]\n    - [age, view]", "graph: .*cycle"),
    ],
)
def test_a_wrong_specification_is_refused_with_line_and_key(folder, was, becomes, message):
    file = folder / "folder_audit.yaml"
    file.write_text(file.read_text().replace(was, becomes))
    with pytest.raises(SpecError, match=message):
        AuditSpec.from_yaml(file)
    done = CliRunner().invoke(app, ["audit", str(file)])
    assert done.exit_code == 2


def test_the_line_named_is_the_line_of_the_key(folder):
    file = folder / "folder_audit.yaml"
    file.write_text(file.read_text().replace("seed: 0", "seed: minus"))
    line = file.read_text().splitlines().index("seed: minus") + 1
    with pytest.raises(SpecError, match=f"yaml:{line}: seed"):
        AuditSpec.from_yaml(file)


@pytest.mark.parametrize(("kind", "name"), [("clip", "CLIPReader"), ("probe", "ProbeReader")])
def test_a_reader_without_a_path_is_the_shipped_one(kind, name):
    made = open_model("mine", ModelBlock(type=kind), ("clip", "probe"))
    assert type(made).__name__ == name
    assert made.fingerprint == type(made).from_shipped().fingerprint


def test_an_editor_is_no_reader():
    with pytest.raises(SpecError, match="mine: type 'scm' does not suit"):
        open_model("mine", ModelBlock(type="scm"), ("clip", "probe"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"type": "clip", "target": "my_models:my_reader"}, "target: is for type: python, and type: clip would not call"),
        ({"type": "clip", "path": "here", "hub": "owner/name"}, "path: and hub: name two models, here and owner/name"),
        ({"type": "python", "target": "my_models:my_reader", "path": "here"}, "path: is not for type: python; give it to"),
        ({"type": "python", "target": "my_models:my_reader", "hub": "o/n"}, "hub: is not for type: python"),
        ({"type": "python", "target": "my_models:my_reader", "adapter": "here"}, "adapter: is not for type: python"),
    ],
)  # fmt: skip
def test_a_key_that_the_type_would_pass_over_is_refused_where_it_is_written(folder, keys, message):
    with pytest.raises(SpecError, match=message):
        open_model("mine", ModelBlock(**keys), READERS)
    file, own = folder / "folder_audit.yaml", ", ".join(f"{key}: {value!r}" for key, value in keys.items())
    file.write_text(
        re.sub(
            r"readers:\n.*?(?=^interventions)",
            f"readers:\n  mine: {{{own}}}\n",
            file.read_text(),
            flags=re.DOTALL | re.MULTILINE,
        )
    )
    with pytest.raises(SpecError, match=r"yaml:\d+: readers.mine"):
        AuditSpec.from_yaml(file)


def test_a_published_pipeline_is_opened_with_what_the_graph_names(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(DiffusionEditor, "from_pretrained", lambda source, **options: asked.append((source, options)))
    graph, options = CausalGraph([Binary("view", levels=("PA", "AP"))]), {"template": "{view}", "variant": "fp16"}
    for place in ({"path": tmp_path}, {"hub": "owner/name"}):
        open_model("mine", ModelBlock(type="diffusion", options=options, **place), ("diffusion", "scm"), graph)
    given = {"graph": graph, "adapter": None} | options
    assert asked == [(tmp_path, given), ("owner/name", given)]
    with pytest.raises(
        SpecError, match=r"mine: type: diffusion has no options \['steps'\] here; there are \['revision'"
    ):
        open_model("mine", ModelBlock(type="diffusion", path=tmp_path, options={"steps": 3}), ("diffusion",), graph)
    with pytest.raises(SpecError, match="mine: hub: is for diffusion and clip"):
        open_model("mine", ModelBlock(type="scm", hub="owner/name"), ("diffusion", "scm"), graph)


def test_an_adapter_is_opened_on_the_shipped_base_or_on_the_one_that_is_named(tmp_path, monkeypatch):
    asked, mine = [], tmp_path / "mine"
    monkeypatch.setattr(
        DiffusionEditor, "from_pretrained", lambda source, *, adapter, graph: asked.append((source, adapter))
    )
    for place in ({"path": tmp_path / "base"}, {"hub": "owner/name"}):
        open_model("mine", ModelBlock(type="diffusion", adapter=mine, **place), ("diffusion",))
    monkeypatch.setattr(
        DiffusionEditor,
        "from_shipped",
        lambda name: SimpleNamespace(adapted=lambda adapter: asked.append((name, adapter))),
    )
    open_model("mine", ModelBlock(type="diffusion", adapter=mine), ("diffusion",))
    assert asked == [(source, mine) for source in (tmp_path / "base", "owner/name", "diffusion-base")]
    with pytest.raises(SpecError, match="mine: adapter: is for diffusion; give path"):
        open_model("mine", ModelBlock(type="scm", adapter=tmp_path), ("diffusion", "scm"))
    beside = ModelBlock(type="diffusion", adapter="mine").beside(tmp_path)
    assert beside.adapter == mine  # a path of the file's, as others are


def test_a_published_clip_model_is_asked_about_a_bank(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(CLIPReader, "from_pretrained", lambda *given, **options: asked.append((*given, options)))
    options = {"bank": "radiographs", "names": ["wires"], "regions": "crop"}
    wires = load_concepts(["wires"], bank="radiographs")
    for place in ({"path": tmp_path}, {"hub": "owner/name"}):
        open_model("mine", ModelBlock(type="clip", options=options, **place), READERS)
    assert asked == [(tmp_path, wires, {"regions": "crop"}), ("hf-hub:owner/name", wires, {"regions": "crop"})]
    with pytest.raises(SpecError, match=r"type: clip has no options \['bnak'\]"):
        open_model("mine", ModelBlock(type="clip", path=tmp_path, options={"bnak": "phantom"}), READERS)


def test_a_bank_of_ones_own_lies_beside_the_file(folder):
    file, own = folder / "folder_audit.yaml", "readers:\n  named: {type: clip, path: model, options: {bank: mine.yaml}}"
    file.write_text(
        re.sub(r"readers:\n.*?(?=^interventions)", f"{own}\n", file.read_text(), flags=re.DOTALL | re.MULTILINE)
    )
    assert AuditSpec.from_yaml(file).readers["named"].options == {"bank": folder / "mine.yaml"}


def test_a_kind_of_which_none_ships_needs_a_path():
    with pytest.raises(SpecError, match="mine: no measure model ships; give path"):
        open_model("mine", ModelBlock(type="measure"), READERS)


def test_an_editor_is_fine_tuned_on_the_dataset_of_a_specification(folder):
    from causal_cxr.data.phantom import Phantom
    from causal_cxr.editors import DiffusionEditor
    from causal_cxr.editors.diffusion import fit_diffusion

    phantom = Phantom(8, "independent", size=32)
    fit = fit_diffusion(phantom, np.arange(8), dict(phantom.graph.attributes), steps=1, batch_size=4, channels=(16, 32))
    base, spec, out = fit.save(folder / "base"), folder / "folder_audit.yaml", folder / "tuned"
    arguments = [
        "finetune",
        "--spec",
        spec,
        "--base",
        base,
        "--steps",
        2,
        "--batch",
        4,
        "--validate-every",
        0,
        "--out",
        out,
    ]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    card = (out / "card.md").read_text()
    assert "FolderDataset of `folder_audit.yaml`; by patient, 50% fitted on, 10% judged on" in card
    assert "- fitted on: 200 images of 200 patients" in card
    tuned = DiffusionEditor.from_pretrained(
        base, adapter=out
    )  # the base named other attributes: the adapter learns its own
    assert tuned.attributes == {"age", "view"}
    assert len({patient for patient in tuned.fitted_on if patient.startswith("audit-")}) == 200


def test_a_table_of_labels_corrects_the_reader(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    pictures = pd.read_csv(folder / "audit.csv")
    bright = [np.asarray(Image.open(folder / "pictures" / name))[0, 0] == 255 for name in pictures["picture"]]
    labels = pd.DataFrame({"image": pictures["picture"], "seen": np.array(bright, dtype=int)})[::2]
    labels.to_csv(folder / "labels.csv", index=False)
    file = folder / "folder_audit.yaml"
    file.write_text(file.read_text() + "labels: {csv: labels.csv, file: image, columns: {mark: seen}}\n")
    edges = AuditSpec.from_yaml(file).run().edges.set_index("concept")
    assert edges.loc["mark", "labelled"] == 200
    labels.assign(image="elsewhere/" + labels["image"]).to_csv(folder / "labels.csv", index=False)
    with pytest.raises(SpecError, match="no image of the dataset has a label"):
        AuditSpec.from_yaml(file).run()
    labels.rename(columns={"seen": "saw"}).to_csv(folder / "labels.csv", index=False)
    with pytest.raises(SpecError, match=r"has no columns \['seen'\]"):
        AuditSpec.from_yaml(file).run()
