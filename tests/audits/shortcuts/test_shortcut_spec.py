"""A shortcut audit from a file: what is refused, with its line, and what the models of a file are."""

import re
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from audits.picture_folder import picture_folder
from safetensors.torch import save_file
from xrv_densenet import densenet_state

from causal_cxr.audits.shortcuts import ShortcutSpec, as_predictor
from causal_cxr.audits.shortcuts.classifiers import PatientsBlock, PythonClassifier, XRVBlock, open_classifier
from causal_cxr.audits.shortcuts.xrv import XRVClassifier
from causal_cxr.audits.spec import SpecError
from causal_cxr.readers.xrv import XRVReader, prepared

DOCS = Path(__file__).parents[3] / "docs" / "shortcuts.md"
IMAGES = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
MINE = """
from causal_cxr.audits import as_predictor


def corner(column=0):
    return lambda images: images[:, 0, 0, column]


def two():
    return lambda images: images[:, 0, 0, :2]


def ready():
    return as_predictor(corner(), "effusion")


def nothing():
    return "densenet121"


number = 3
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return picture_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def file(pictures, tmp_path):
    """The example, its folder left as it is."""
    copy = tmp_path / "folder_shortcuts.yaml"
    text = (pictures / "folder_shortcuts.yaml").read_text()
    for name in ("audit.csv", "images: pictures"):
        key, _, value = name.rpartition(": ")
        text = text.replace(name, f"{key}: {pictures / value}" if key else str(pictures / name))
    copy.write_text(text)
    return copy


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Functions of the user's own, beside the file."""
    (tmp_path / "mine_of_tests.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine_of_tests", raising=False)


def own(function: str, **said):
    return PythonClassifier(type="python", target=f"mine_of_tests:{function}", **said)


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("largest_leak: 0.10", "larges_leak: 0.10", "larges_leak: Extra inputs.*did you mean 'largest_leak'"),
        ("largest_leak: 0.10", "largest_leak: 1.5", "largest_leak: .*less than 1"),
        ("target: effusion", "target: fracture", "target: .*'fracture' is no labelled Binary.*'effusion'"),
        ("target: effusion", "target: age", "target: .*'age' is no labelled Binary"),
        ("type: python\n    target: folder_models:classifier", "type: pickle\n    path: m.pkl", "models.pixels: .*'python', 'xrv'"),
        ("type: python\n    target: folder_models:classifier", "type: xrv", "models.pixels.path: is missing"),
        ("target: folder_models:classifier", "target: folder_models.classifier", "models.pixels.target: .*pattern"),
        ("options: {size: 16}\n", "scale: percent\n", "models.pixels.scale: .*'probability', 'logit' or 'softmax'"),
        ("options: {size: 16}\n", "fitted_on: [12]\n", r"models.pixels.fitted_on.0: awaits text, got 12"),
        ("interventions: [view]", "interventions: [mood]", r"interventions: \['mood'\] are no labelled"),
        ("interventions: [view]", "interventions: [{view: 3}]", "interventions: Shifts are given for"),
        ("carriers: {view: [mark]}", "carriers: {mood: [mark]}", "carriers.mood: 'mood' is no labelled attribute"),
        ("threshold: 0.5", "threshold: {other: 0.5}", r"threshold: names \['other'\]; the models are \['pixels'\]"),
        ("threshold: 0.5", "threshold: 2", "threshold"),
        ("type: python\n    target: folder_models:corner", "type: scm", "readers.corner.type: type 'scm' does not suit"),
    ],
)  # fmt: skip
def test_a_wrong_specification_is_refused_with_line_and_key(file, was, becomes, message):
    text = file.read_text()
    assert was in text
    file.write_text(text.replace(was, becomes, 1))
    with pytest.raises(SpecError, match=rf"folder_shortcuts.yaml:\d+: {message}"):
        ShortcutSpec.from_yaml(file)


def test_the_line_named_is_the_line_of_the_key(file):
    file.write_text(file.read_text().replace("target: effusion", "target: age", 1))
    line = file.read_text().splitlines().index("target: age") + 1
    with pytest.raises(SpecError, match=f"yaml:{line}: target"):
        ShortcutSpec.from_yaml(file)


def test_paths_are_relative_to_the_file(file):
    text = file.read_text().replace("options: {size: 16}\n", "fitted_on: {csv: seen.csv, patient: id}\n", 1)
    file.write_text(text + "report: run\n")
    spec = ShortcutSpec.from_yaml(file)
    assert spec.out == spec.report == file.parent / "run"
    assert spec.models["pixels"].fitted_on == PatientsBlock(csv=file.parent / "seen.csv", patient="id")


def test_what_the_documentation_shows_is_a_specification(tmp_path):
    (shown,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    (tmp_path / "spec.yaml").write_text(shown)
    assert set(ShortcutSpec.from_yaml(tmp_path / "spec.yaml").models) == {"published", "ours"}


def test_a_report_that_is_not_there_is_refused(file):
    file.write_text(file.read_text() + "report: nowhere\n")
    with pytest.raises(SpecError, match=r"report: .*nowhere holds no report.json"):
        ShortcutSpec.from_yaml(file).run()


# Models


def test_a_model_of_ones_own_is_called_with_its_options(mine):
    model = open_classifier("models.m", own("corner", options={"column": 5}), "effusion")
    torch.testing.assert_close(model.probabilities(IMAGES), IMAGES[:, 0, 0, 5])
    assert model.fitted_on is None
    named = open_classifier("models.m", own("two", classes=["normal", "effusion"], fitted_on=["p1"]), "effusion")
    torch.testing.assert_close(named.probabilities(IMAGES), IMAGES[:, 0, 0, 1])
    assert named.fitted_on == {"p1"}
    numbered = open_classifier("models.m", own("two", output=0, scale="logit", fitted_on=[]), "effusion")
    torch.testing.assert_close(numbered.logits(IMAGES), IMAGES[:, 0, 0, 0])
    assert numbered.fitted_on == frozenset()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (PythonClassifier(type="python", target="nowhere_to_be_found:f"), "target: there is no module 'nowhere_to_be"),
        (own("cornre"), "target: the module 'mine_of_tests' has no function 'cornre'"),
        (own("number"), "target: the module 'mine_of_tests' has no function 'number'"),
        (own("corner", options={"row": 1}), "options: corner cannot be called so: got an unexpected keyword.*'row'"),
        (own("nothing"), "A str is no model"),
        (own("two", classes=["normal", "fracture"]), r"no output 'effusion'; it has \['normal', 'fracture'\]"),
        (own("ready", scale="logit"), "is a Predictor already; say scale where it is made"),
        (own("corner", fitted_on=PatientsBlock(csv="none.csv", patient="id")), "fitted_on: none.csv does not exist"),
    ],
)
def test_what_cannot_be_opened_is_told_by_its_name(mine, block, message):
    with pytest.raises(SpecError, match=f"^models.m: .*{message}"):
        open_classifier("models.m", block, "effusion")


def test_patients_of_the_training_are_spelt_as_a_dataset_spells_them(tmp_path):
    pd.DataFrame({"id": ["007", "12"], "age": [1, 2]}).to_csv(tmp_path / "seen.csv", index=False)
    assert PatientsBlock(csv=tmp_path / "seen.csv", patient="id").open("models.m") == {"007", "12"}
    with pytest.raises(SpecError, match=r"no column 'patient'; it has \['id', 'age'\]"):
        PatientsBlock(csv=tmp_path / "seen.csv", patient="patient").open("models.m")


LABELS = ["Cardiomegaly", "", "Effusion"]


@pytest.fixture(scope="module")
def state():
    return densenet_state(len(LABELS))


def test_a_torchxrayvision_classifier_is_opened_from_its_weights(state, tmp_path):
    save_file(state, tmp_path / "weights.safetensors")
    block = XRVBlock(type="xrv", path=tmp_path / "weights.safetensors", pathologies=LABELS, size=64, fitted_on=[])
    model = open_classifier("models.m", block, "pleural_effusion")
    reader = XRVReader.from_weights(block.path, pathologies=LABELS, size=64)
    torch.testing.assert_close(model.probabilities(IMAGES), reader.read(IMAGES)[:, reader.names.index("effusion")])
    assert model.fitted_on == frozenset()
    with pytest.raises(SpecError, match=r"models\.m: The model has no output 'fracture'"):
        open_classifier("models.m", block, "fracture")


def test_operating_points_in_a_file_bend_scores_as_torchxrayvision_does(state, tmp_path):
    xrv = pytest.importorskip("torchxrayvision")
    points = torch.tensor([0.02, torch.nan, 0.3])
    file = tmp_path / "weights.safetensors"
    save_file(state | {"op_threshs": points}, file)
    theirs = xrv.models.DenseNet(weights=None, num_classes=len(LABELS), op_threshs=points)
    theirs.load_state_dict(state, strict=False)
    with torch.no_grad(), warnings.catch_warnings():
        expected = theirs.eval()(prepared(IMAGES, 224))
    ours = XRVClassifier.from_weights(file, pathologies=LABELS)
    with torch.no_grad():
        torch.testing.assert_close(ours(IMAGES), expected, rtol=1e-4, atol=1e-5)
    model = as_predictor(ours, "effusion")
    torch.testing.assert_close(model.probabilities(IMAGES), expected[:, 2], rtol=1e-4, atol=1e-5)


def test_published_operating_points_are_those_of_the_named_weights(state, tmp_path):
    models = pytest.importorskip("torchxrayvision").models
    entry = models.model_urls["densenet121-res224-chex"]
    wide = dict(state)
    wide["classifier.weight"], wide["classifier.bias"] = torch.zeros(18, 1024), torch.zeros(18)
    save_file(wide, tmp_path / "chex.safetensors")
    model = XRVClassifier.from_weights(tmp_path / "chex.safetensors", "densenet121-res224-chex")
    torch.testing.assert_close(model.operating_points, torch.tensor(entry["op_threshs"]), equal_nan=True)
    known = [label.lower() for label in entry["labels"] if label]
    assert [name for name in model.pathologies if name] == [name.replace(" ", "_") for name in known]


def test_a_pickled_file_is_not_run(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    block = XRVBlock(type="xrv", path=tmp_path / "model.pt", pathologies=LABELS)
    with pytest.raises(SpecError, match=r"models\.m: .*holds more than tensors"):
        open_classifier("models.m", block, "effusion")
