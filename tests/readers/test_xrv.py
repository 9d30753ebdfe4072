"""``XRVReader``: torchxrayvision's classifiers from local files, held against torchxrayvision itself where it is installed."""

import os
import re
import sys
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from xrv_densenet import densenet_state

from causal_cxr.data.patients import AtLeast, all_known
from causal_cxr.data.phantom import Phantom
from causal_cxr.graphs import Binary, Categorical, CausalGraph
from causal_cxr.readers import Concept, Reader, XRVReader, assess_reader
from causal_cxr.readers.calibration import Calibration, Platt
from causal_cxr.readers.xrv import pathology_concepts, prepared
from causal_cxr.readers.xrv_weights import convert_weights, published, read_weights

LABELS = ("Cardiomegaly", "", "Effusion", "Lung Opacity")


@pytest.fixture(scope="module")
def state():
    return densenet_state(len(LABELS))


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "densenet.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def reader(file):
    return XRVReader.from_weights(file, pathologies=LABELS, size=64)


@pytest.fixture(scope="module")
def phantom():
    return Phantom(60, "independent", seed=3, size=32)


@pytest.fixture(scope="module")
def labels(reader, phantom):
    """``(60, 3)`` what the classifier says in four images of five, so that there is something to calibrate to."""
    margins = reader.margins(phantom.images(np.arange(60))).numpy()
    lied = np.random.default_rng(0).uniform(size=margins.shape) < 0.2
    return ((margins > np.median(margins, axis=0)) ^ lied).astype(float)


@pytest.fixture
def xrv():
    with warnings.catch_warnings():
        return pytest.importorskip("torchxrayvision", reason="torchxrayvision is not installed (the extra xrv)")


@pytest.fixture
def densenet(xrv, state):
    """torchxrayvision's own network with these weights."""
    network = xrv.models.DenseNet(num_classes=len(LABELS))
    network.load_state_dict(state)
    return network.eval()


# Against torchxrayvision


@pytest.mark.parametrize("shape", [(64, 64), (50, 71), (90, 80)])
def test_logits_are_torchxrayvisions_for_images_that_it_prepared(shape, densenet, reader, xrv):
    grey = np.random.default_rng(0).uniform(size=(2, *shape)).astype(np.float32)
    theirs = np.stack([xrv.datasets.XRayCenterCrop()(xrv.utils.normalize(image, 1.0)[None]) for image in grey])
    with torch.no_grad():
        theirs = densenet(xrv.utils.fix_resolution(torch.as_tensor(theirs), 64, densenet))
    mine = reader.margins(torch.as_tensor(grey)[:, None])
    assert theirs.std(dim=0).min() > 1e-3
    torch.testing.assert_close(mine, theirs[:, [0, 2, 3]], rtol=1e-3, atol=1e-4)


def test_the_residual_network_is_torchxrayvisions(xrv, tmp_path, monkeypatch):
    import torchvision

    network = torchvision.models.resnet50(num_classes=18)
    network.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    torch.save(network.state_dict(), tmp_path / "resnet.pt")
    monkeypatch.setattr(xrv.models, "get_weights", lambda *_, **__: tmp_path / "resnet.pt")
    theirs = xrv.models.ResNet(weights="resnet50-res512-all")
    theirs.op_threshs = None
    mine = XRVReader.from_weights(tmp_path / "resnet.pt", "resnet50-res512-all")
    assert mine.size == 512
    images = torch.rand(1, 1, 512, 512)
    with torch.no_grad():
        torch.testing.assert_close(mine.margins(images), theirs((2 * images - 1) * 1024), rtol=1e-4, atol=1e-4)


def test_scores_are_sigmoids_of_logits_and_not_bent_to_operating_points(densenet, reader, xrv):
    images = torch.rand(8, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    scores = reader.read(images)
    torch.testing.assert_close(scores, torch.sigmoid(reader.margins(images)))
    points = scores.sort(dim=0).values[3:5].mean(dim=0)
    bent = xrv.models.op_norm(scores, points)
    clear = (bent - 0.5).abs() > 1e-3  # nearer to a point rounding decides
    assert torch.equal((bent > 0.5)[clear], (scores > points)[clear])
    assert bool(((bent > 0.5) & (scores < 0.1)).any())  # "more likely than not" of what is hardly ever there


def test_names_of_outputs_come_from_the_published_weights(xrv):
    labels, size = published("densenet121-res224-chex")
    assert size == 224
    assert labels.index("Cardiomegaly") == 10
    assert labels[2] == ""
    with pytest.raises(ValueError, match=r"no classifier 'densenet121'; it has .*'densenet121-res224-all'"):
        published("densenet121")


def test_importing_torchxrayvision_does_not_silence_the_warnings_of_the_process(xrv, monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "torchxrayvision"]:
        monkeypatch.delitem(sys.modules, module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        published("all")
        assert warnings.filters == before


def test_without_torchxrayvision_weights_are_read_and_published_names_ask_for_the_extra(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    assert XRVReader.from_weights(file, pathologies=LABELS).names == ["cardiomegaly", "effusion", "lung_opacity"]
    with pytest.raises(ImportError, match=r"pip install 'causal_cxr\[xrv\]'"):
        XRVReader.from_weights(file, "densenet121-res224-all")


# Weight files


def test_state_dicts_are_read_as_they_are(state, file, tmp_path):
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pt")
    prints = {XRVReader.from_weights(path, pathologies=LABELS).fingerprint
              for path in (file, tmp_path / "plain.pt", tmp_path / "nested.pt")}  # fmt: skip
    assert len(prints) == 1


@pytest.mark.parametrize("zipped", [True, False], ids=["PyTorch 1.6 and later", "before"])
def test_a_pickled_module_is_refused_and_converted_to_the_same_weights(zipped, densenet, state, tmp_path):
    torch.save(densenet, tmp_path / "module.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"more than tensors .*xrv_weights .*module\.pt .*module\.safetensors"):
        read_weights(tmp_path / "module.pt")
    converted = load_file(convert_weights(tmp_path / "module.pt", tmp_path / "module.safetensors"))
    assert set(converted) == set(state)
    assert all(torch.equal(converted[name], tensor) for name, tensor in state.items())


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "within a classifier"])
def test_code_in_a_file_never_runs(zipped, inside, densenet, tmp_path):
    content = Malice(tmp_path / "ran")
    if inside:
        densenet.extra = content
        content = densenet
    torch.save(content, tmp_path / "bad.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="more than tensors"):
        read_weights(tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"not converted: it asks for .*mkdir"):
        convert_weights(tmp_path / "bad.pt", tmp_path / "bad.safetensors")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "bad.safetensors").exists()


def test_what_is_no_module_is_not_converted(xrv, state, tmp_path):
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="it can be used as it is"):
        convert_weights(tmp_path / "state.pt", tmp_path / "out.safetensors")
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as program:
        program.writestr("program/constants.pkl", b"")
    with pytest.raises(ValueError, match="TorchScript program"):
        convert_weights(tmp_path / "program.pt", tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match=r"end in \.safetensors"):
        convert_weights(tmp_path / "state.pt", tmp_path / "out.pt")


@pytest.mark.parametrize("name", ["bad.pt", "bad.safetensors"])
def test_a_damaged_file_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=re.escape(name)):
        read_weights(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pt does not exist"):
        read_weights(tmp_path / "gone.pt")


def test_weights_of_another_network_are_refused(tmp_path):
    save_file(torch.nn.Linear(3, 2).state_dict(), tmp_path / "linear.safetensors")
    with pytest.raises(ValueError, match=r"no weights of densenet121.*'(weight|bias)'"):
        XRVReader.from_weights(tmp_path / "linear.safetensors", pathologies=LABELS)


def test_outputs_need_names_one_each(file):
    with pytest.raises(ValueError, match="4 outputs, there are 2 names"):
        XRVReader.from_weights(file, pathologies=LABELS[:2])
    with pytest.raises(ValueError, match="either weights="):
        XRVReader.from_weights(file)
    with pytest.raises(ValueError, match=r"predicts no \['Hernia'\]; it predicts \['Cardiomegaly'"):
        XRVReader.from_weights(file, pathologies=LABELS, concepts={"Hernia": Concept("h", ("a",), ("b",))})


# Reading


def test_pixels_go_from_minus_1024_to_1024_and_the_middle_square_is_seen():
    image = torch.zeros(1, 1, 4, 8)
    image[..., 2:6] = 1
    assert prepared(image, 4).eq(1024).all()
    assert prepared(image.transpose(2, 3), 4).eq(1024).all()
    assert prepared(torch.zeros(1, 1, 2, 2), 4).eq(-1024).all()


@pytest.mark.parametrize("images", [torch.rand(1, 1, 8, 8) * 255, torch.full((1, 1, 8, 8), float("nan"))])
def test_images_in_another_range_are_refused(images, reader):
    with pytest.raises(ValueError, match=r"intensities in \[0, 1\]"):
        reader.read(images)


def test_it_is_a_reader_whose_scores_do_not_hang_on_the_batch(reader):
    assert isinstance(reader, Reader)
    images = torch.rand(35, 1, 40, 40)
    scores = reader.read(images)
    assert scores.shape == (35, 3)
    torch.testing.assert_close(scores[33:], reader.read(images[33:]), rtol=1e-4, atol=1e-5)
    assert reader.read(images[:0]).shape == (0, 3)


def test_logits_are_the_last_layer_of_the_features(reader):
    images = torch.rand(3, 1, 64, 64)
    features = reader.features(images)
    assert features.shape == (3, 1024)
    torch.testing.assert_close(reader.network.classifier(features)[:, [0, 2, 3]], reader.margins(images))


def test_a_saved_reader_is_the_same_to_the_last_bit(reader, phantom, labels, tmp_path):
    fitted = reader.using(fitted_on=frozenset({"a-1"})).calibrated(phantom, np.arange(60), labels)
    again = XRVReader.from_pretrained(fitted.save(tmp_path))
    images = phantom.images(np.arange(6))
    assert torch.equal(again.read(images), fitted.read(images))
    assert again.fingerprint == fitted.fingerprint != reader.fingerprint
    assert (again.concepts, again.fitted_on, again.size) == (fitted.concepts, fitted.fitted_on, 64)
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_without_a_reader_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no reader\.json.*from_weights"):
        XRVReader.from_pretrained(tmp_path)


def test_the_fingerprint_changes_with_what_is_read_and_how(reader):
    variants = [reader, reader.using(size=32), reader.using(concepts={0: reader.concepts[0]}),
                reader.using(calibration=Calibration.fit("platt", np.arange(6.0)[:, None].repeat(3, 1),
                                                         np.tile([[0.0], [1], [0], [1], [0], [1]], 3), reader.names))]  # fmt: skip
    assert len({variant.fingerprint for variant in variants}) == len(variants)


def test_a_network_is_asked_for_outputs_that_it_has(reader):
    with pytest.raises(ValueError, match=r"4 outputs; it has none at \[7\]"):
        reader.using(concepts={7: reader.concepts[0]})
    with pytest.raises(ValueError, match="each of its own name"):
        reader.using(concepts={0: reader.concepts[0], 1: reader.concepts[0]})


# Calibration


def test_a_calibration_stays_with_output_and_concept_and_its_loss_is_said(reader, phantom):
    heart, effusion, _ = reader.concepts
    maps = {heart.name: Platt(2.0, 1.0), effusion.name: Platt(5.0, 3.0)}
    calibrated, images = reader.using(calibration=Calibration(maps)), phantom.images(np.arange(4))
    with pytest.warns(UserWarning, match=rf"does not hold for \['{effusion.name}', 'heart_size'\]"):
        other = calibrated.using(concepts={0: heart, 3: effusion, 2: replace(effusion, name="heart_size")})
    margins = other.margins(images)
    assert other.calibration.maps == {heart.name: maps[heart.name]}
    assert torch.equal(other.read(images)[:, 1:], torch.sigmoid(margins[:, 1:]))  # none is another output's
    assert torch.allclose(other.read(images)[:, 0], torch.sigmoid(2 * margins[:, 0] + 1))
    with pytest.warns(UserWarning, match="at another size"):
        assert calibrated.using(size=32).calibration is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calibrated.using(name="other", concepts={2: effusion}).calibration.maps == {
            effusion.name: maps[effusion.name]
        }


def test_calibration_is_fitted_to_the_logits_of_labelled_patients_who_are_then_known(reader, phantom, labels):
    rows = np.arange(40)
    patients = phantom.patients.iloc[rows].astype(str).tolist()
    margins = reader.margins(phantom.images(rows))
    expected = Calibration.fit("platt", margins.numpy(), labels[rows], reader.names, patients=patients)
    clean = reader.using(fitted_on=frozenset()).calibrated(phantom, rows, labels[rows])
    torch.testing.assert_close(clean.read(phantom.images(rows)), expected(margins, reader.names), rtol=1e-4, atol=1e-5)
    assert (expected.affine(reader.names)[:, 0] > 0).all()
    assert clean.fitted_on == frozenset(patients)
    assert clean.quality.concepts["auroc"].isna().all()
    with pytest.raises(ValueError, match="was fitted on"):
        assess_reader(clean, phantom, rows, labels[rows], phantom.graph)


def test_a_calibrated_score_is_a_frequency(reader, phantom, labels):
    rows = np.arange(60)
    fitted = reader.using(fitted_on=frozenset()).calibrated(phantom, rows, labels)
    once = 1 / phantom.patients.groupby(phantom.patients).transform("size").to_numpy()
    scores = fitted.read(phantom.images(rows)).numpy()
    for score, present in zip(scores.T, labels.T, strict=True):  # logistic regression's mean is that of the labels
        assert np.average(score, weights=once) == pytest.approx(np.average(present, weights=once), abs=0.01)
    raw = reader.read(phantom.images(rows)).numpy()
    assert abs(raw.mean(axis=0) - labels.mean(axis=0)).max() > 0.1


def test_a_network_of_unknown_training_patients_stays_unknown(reader, phantom, labels):
    assert reader.fitted_on is None
    with pytest.warns(RuntimeWarning, match="not known on which patients"):
        assess_reader(reader, phantom, np.arange(60), labels, phantom.graph)


def test_whom_a_network_of_unknown_training_patients_was_calibrated_on_is_known_all_the_same(reader, phantom, labels):
    calibrated = reader.calibrated(phantom, np.arange(60), labels)
    assert calibrated.fitted_on == AtLeast(phantom.patients[:60])
    assert not all_known(calibrated.fitted_on)
    with pytest.warns(RuntimeWarning, match="not known on which"), pytest.raises(ValueError, match="was fitted on"):
        assess_reader(calibrated, phantom, np.arange(60), labels, phantom.graph)


# Concepts


def test_pathologies_are_the_graphs_attributes_where_it_has_them():
    graph = CausalGraph([
        Binary("cardiomegaly"), Binary("Pleural Effusion", levels=("no", "yes")), Binary("lung-opacity", hidden=True),
    ])  # fmt: skip
    found = pathology_concepts(["Cardiomegaly", "Effusion", "Lung Opacity", "", "Pleural_Thickening"], graph)
    about = {pathology: (c.name, c.attribute, c.level) for pathology, c in found.items()}
    assert about == {
        "Cardiomegaly": ("cardiomegaly", "cardiomegaly", 1),
        "Effusion": ("Pleural Effusion", "Pleural Effusion", "yes"),
        "Lung Opacity": ("lung-opacity", None, None),
        "Pleural_Thickening": ("pleural_thickening", None, None),
    }
    assert found["Pleural_Thickening"].positive == ("pleural thickening",)


def test_an_attribute_of_many_levels_must_be_told_which_one_is_present():
    graph = CausalGraph([Categorical("edema", levels=("none", "mild", "severe"))])
    with pytest.raises(ValueError, match="'edema', which is not Binary"):
        pathology_concepts(["Edema"], graph)


def test_a_concept_of_ones_own_is_read_at_its_pathologys_output(file, reader):
    mine = Concept("opacity", ("opacity",), ("no opacity",))
    chosen = XRVReader.from_weights(file, pathologies=LABELS, size=64, concepts={"Lung Opacity": mine})
    images = torch.rand(4, 1, 64, 64)
    assert chosen.concepts == (mine,)
    torch.testing.assert_close(chosen.margins(images), reader.margins(images)[:, 2:])
