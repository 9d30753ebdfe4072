import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from clip_models import CONCEPTS, phantoms, tiny_reader

from causal_cxr.data.patients import AtLeast
from causal_cxr.data.phantom import Phantom
from causal_cxr.readers import Calibration, CLIPReader, ProbeReader, Reader, load_concepts, read_dataset
from causal_cxr.readers.calibration import Isotonic, Platt
from causal_cxr.readers.clip import Preprocess, tokenise
from causal_cxr.weights import shipped

SHIPPED_FINGERPRINT = (
    "53b202ef0605e866"  #: measurements that are taken with the shipped reader name it, on any processor
)
CALIBRATION = Calibration({"pacemaker": Platt(1.5, -0.2), "control_dot": Platt(0.7, 0.1)})


@pytest.fixture(scope="module")
def phantom():
    return phantoms()


@pytest.fixture(scope="module")
def reader(phantom):
    return tiny_reader(phantom).using(calibration=CALIBRATION, fitted_on=frozenset({"a", "b"}))


def test_scores_are_calibrated_differences_of_similarity_to_positive_and_negative_phrases(reader, phantom):
    images = phantom.images(np.arange(4))
    with torch.no_grad():
        image = reader.model.encode_image((images.expand(-1, 3, -1, -1) - 0.5) / 0.3, normalize=True)
        ends = [
            reader.model.encode_text(tokenise(reader.tokenizer, list(phrases)), normalize=True).mean(0)
            for phrases in (CONCEPTS[0].positive, CONCEPTS[0].negative)
        ]
    margin = (image @ ends[0] - image @ ends[1]) * reader.model.logit_scale.exp()
    expected = torch.sigmoid(1.5 * margin - 0.2).detach()
    torch.testing.assert_close(reader.read(images)[:, 0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reader.read(images)[:, 2], torch.sigmoid(reader.margins(images)[:, 2]))  # not calibrated
    assert isinstance(reader, Reader)


def test_images_of_any_size_and_number_are_read(reader):
    assert reader.read(torch.rand(3, 1, 40, 24)).shape == (3, 3)
    assert reader.read(torch.rand(0, 1, 16, 16)).shape == (0, 3)


def test_reading_does_not_depend_on_the_other_images_of_a_batch(reader, phantom):
    images = phantom.images(np.arange(8))
    torch.testing.assert_close(reader.read(images)[2:3], reader.read(images[2:3]), rtol=1e-4, atol=1e-5)


def test_a_dataset_is_read_a_batch_at_a_time_in_the_order_asked_for(reader, phantom):
    rows = np.array([5, 3, 9, 70, 0])
    asked = []

    class Watched:
        attributes, patients = phantom.attributes, phantom.patients

        def images(self, part):
            asked.append(len(part))
            return phantom.images(part)

    parts = list(read_dataset(reader, Watched(), rows, batch_size=2))
    assert asked == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), rows)
    torch.testing.assert_close(torch.cat([scores for _, scores in parts]), reader.read(phantom.images(rows)))
    assert sum(len(part) for part, _ in read_dataset(reader, Watched())) == 96


def test_a_saved_reader_reads_the_same_to_half_precision_and_says_the_same_of_itself(reader, phantom, tmp_path):
    again = CLIPReader.from_pretrained(reader.save(tmp_path))
    images = phantom.images(np.arange(8))
    torch.testing.assert_close(again.read(images), reader.read(images), rtol=0, atol=2e-2)
    assert again.concepts == reader.concepts
    assert again.fitted_on == reader.fitted_on
    assert again.calibration == reader.calibration
    once_more = CLIPReader.from_pretrained(again.save(tmp_path / "second"))
    assert once_more.fingerprint == again.fingerprint
    torch.testing.assert_close(once_more.read(images), again.read(images), rtol=0, atol=0)


def test_the_fingerprint_changes_with_all_that_scores_hang_on(reader):
    variants = [
        reader.using(calibration=None),
        reader.using(calibration=Calibration({"pacemaker": Isotonic((0.0, 1.0), (0.2, 0.8))})),
        reader.using(concepts=load_concepts(["pacemaker", "control_bar", "AP view"])),
        reader.using(preprocess=Preprocess((16, 16), interpolation="bicubic"), calibration=CALIBRATION),
        reader.using(regions="crop", calibration=CALIBRATION),
        reader.using(regions="tokens", calibration=CALIBRATION),
    ]
    assert len({reader.fingerprint, *(variant.fingerprint for variant in variants)}) == 7
    assert reader.using(name="another").fingerprint == reader.fingerprint


def test_concepts_that_stay_keep_their_calibration_and_no_quality_is_taken_over(reader, phantom):
    fewer = reader.using(concepts=CONCEPTS[1:])
    images = phantom.images(np.arange(4))
    torch.testing.assert_close(fewer.read(images), reader.read(images)[:, 1:])
    assert fewer.quality.concepts["auroc"].isna().all()
    assert reader.using(regions="tokens").calibration is None  # other margins


def test_calibration_uses_labelled_patients_counts_them_as_seen_and_gives_calibrated_scores(phantom):
    rows = np.arange(60)
    truth = np.column_stack([phantom.hidden[name].to_numpy(float) for name in ("pacemaker", "control_dot")] + [
        (phantom.attributes["view"] == "AP").to_numpy(float)])[rows]  # fmt: skip
    truth[:10] = np.nan
    raw = tiny_reader(phantom)
    reader = raw.calibrated(phantom, rows, truth, method="isotonic")
    reference = Calibration.fit("isotonic", raw.margins(phantom.images(rows)).numpy(), truth, raw.names,
                                patients=phantom.patients[rows].tolist())  # fmt: skip
    for name, found in reader.calibration.maps.items():
        np.testing.assert_allclose(found.scores, reference.maps[name].scores)
    assert reader.fitted_on == frozenset(phantom.patients[rows])
    unknown = tiny_reader(phantom).using(fitted_on=None).calibrated(phantom, rows, truth)
    assert unknown.fitted_on == AtLeast(phantom.patients[rows])


def test_a_probe_on_the_image_tower_is_saved_with_it(reader, phantom, tmp_path):
    encoder = CLIPReader.from_pretrained(reader.save(tmp_path / "encoder"))  # in half precision, as a probe keeps it
    truth = phantom.hidden[["control_dot"]].to_numpy(dtype=float)
    probe = ProbeReader.fit(phantom, np.arange(96), truth, CONCEPTS[1:2], features=encoder, n_folds=2)
    again = ProbeReader.from_pretrained(probe.save(tmp_path / "probe"))
    images = phantom.images(np.arange(6))
    torch.testing.assert_close(again.read(images), probe.read(images), rtol=0, atol=0)
    assert again.fingerprint == probe.fingerprint


def test_two_concepts_of_one_name_are_refused(reader):
    with pytest.raises(ValueError, match="one name each"):
        reader.using(concepts=[CONCEPTS[0], CONCEPTS[0]])


def test_another_way_with_regions_is_refused(reader):
    with pytest.raises(ValueError, match=r"no regions='patch'; choose from \['whole', 'crop', 'tokens'\]"):
        reader.using(regions="patch")


def test_the_shipped_reader_is_the_one_that_earlier_measurements_name():
    assert CLIPReader.from_shipped().fingerprint == SHIPPED_FINGERPRINT


def test_the_earlier_list_of_platt_pairs_is_read_as_what_it_was():
    saved = json.loads((shipped("clip-reader-phantom") / "reader.json").read_text())
    reader = CLIPReader.from_shipped()
    assert isinstance(saved["calibration"], list)
    images = torch.rand(5, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    pairs = torch.tensor(saved["calibration"], dtype=torch.float32)
    expected = torch.sigmoid(reader.margins(images) * pairs[:, 0] + pairs[:, 1])
    torch.testing.assert_close(reader.read(images), expected, rtol=0, atol=0)


def test_the_shipped_reader_reads_new_phantoms_as_well_as_its_card_says():
    reader = CLIPReader.from_shipped()
    new = Phantom(300, "independent", seed=77)
    scores = torch.cat([part for _, part in read_dataset(reader, new)]).numpy()
    table = pd.concat([new.attributes, new.hidden], axis=1)
    for j, concept in enumerate(reader.concepts):
        truth, said = concept.truth(table), reader.quality.concepts.loc[concept.name]
        slope = scores[truth == 1, j].mean() - scores[truth == 0, j].mean()
        assert slope == pytest.approx(said.slope, abs=0.1), concept.name


def test_a_shipped_reader_with_other_concepts_says_nothing_of_their_quality(tmp_path):
    folder = shutil.copytree(shipped("clip-reader-phantom"), tmp_path / "copy")
    same = CLIPReader.from_pretrained(folder)
    fewer = CLIPReader.from_pretrained(folder, same.concepts[:2])
    assert same.quality.concepts["auroc"].notna().any()
    assert fewer.quality.concepts["auroc"].isna().all()
    images = torch.rand(3, 1, 64, 64)
    torch.testing.assert_close(fewer.read(images), same.read(images)[:, :2])
