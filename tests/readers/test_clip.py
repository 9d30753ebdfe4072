import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from causal_cxr.data.phantom import Phantom
from causal_cxr.readers import CLIPReader, ProbeReader, Reader, load_concepts, train_clip
from causal_cxr.readers.clip import platt, tokenise

TINY = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
CONCEPTS = load_concepts(["pacemaker", "control_dot", "AP view"])


@pytest.fixture(scope="module")
def phantom():
    return Phantom(96, "independent", seed=5, size=16)


def train(phantom, steps=6, **options):
    return train_clip(phantom, np.arange(96), steps=steps, batch_size=16, vision=TINY, **options)


@pytest.fixture(scope="module")
def reader(phantom):
    model, tokenizer, _ = train(phantom)
    calibration = np.array([[1.5, -0.2], [0.7, 0.1], [1.0, 0.0]])
    return CLIPReader(model, tokenizer, CONCEPTS, calibration=calibration, fitted_on=frozenset({"a", "b"}))


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
    assert isinstance(reader, Reader)


def test_images_of_any_size_are_read(reader):
    assert reader.read(torch.rand(3, 1, 40, 24)).shape == (3, 3)


def test_reading_does_not_depend_on_the_other_images_of_a_batch(reader, phantom):
    images = phantom.images(np.arange(8))
    torch.testing.assert_close(reader.read(images)[2:3], reader.read(images[2:3]), rtol=1e-4, atol=1e-5)


def test_a_saved_reader_reads_the_same_to_half_precision_and_says_the_same_of_itself(reader, phantom, tmp_path):
    again = CLIPReader.from_pretrained(reader.save(tmp_path))
    images = phantom.images(np.arange(8))
    torch.testing.assert_close(again.read(images), reader.read(images), rtol=0, atol=2e-2)
    assert again.concepts == reader.concepts
    assert again.fitted_on == reader.fitted_on
    once_more = CLIPReader.from_pretrained(again.save(tmp_path / "second"))
    assert once_more.fingerprint == again.fingerprint
    torch.testing.assert_close(once_more.read(images), again.read(images), rtol=0, atol=0)


def test_the_fingerprint_changes_with_prompts_and_calibration(reader):
    other = load_concepts(["pacemaker", "control_bar", "AP view"])
    variants = [
        CLIPReader(reader.model, reader.tokenizer, CONCEPTS),
        CLIPReader(reader.model, reader.tokenizer, other, calibration=reader.calibration),
    ]
    assert len({reader.fingerprint, *(variant.fingerprint for variant in variants)}) == 3


def test_fitting_twice_gives_the_same_tokenizer_and_weights(phantom):
    first, words, _ = train(phantom)
    second, words_again, taken = train(phantom)
    assert taken == 6
    assert words.get_vocab() == words_again.get_vocab()
    for name, weight in first.state_dict().items():
        torch.testing.assert_close(weight, second.state_dict()[name], rtol=0, atol=0)


def test_a_fit_can_go_on_from_a_reader_with_its_tokenizer(reader, phantom):
    model, tokenizer, _ = train(phantom, steps=1, start=reader)
    assert tokenizer is reader.tokenizer
    scratch, _, _ = train(phantom, steps=1)

    def distance(other):
        return sum(float((a - b).detach().abs().sum()) for a, b in
                   zip(model.parameters(), other.parameters(), strict=True))  # fmt: skip

    assert distance(reader.model) < distance(scratch)


def test_a_dataset_without_texts_is_refused(phantom):
    class Silent:
        texts = None

    with pytest.raises(ValueError, match="no texts"):
        train_clip(Silent(), np.arange(3), steps=1)


def test_platt_scaling_is_logistic_regression_and_leaves_unlabelled_columns_alone():
    rng = np.random.default_rng(0)
    margins = rng.normal(size=(500, 2))
    truth = np.column_stack([rng.uniform(size=500) < 1 / (1 + np.exp(-2 * margins[:, 0] + 1)), np.full(500, np.nan)])
    found = platt(margins, truth.astype(float))
    reference = LogisticRegression(C=1e4).fit(margins[:, :1], truth[:, 0])
    np.testing.assert_allclose(found[0], [reference.coef_[0, 0], reference.intercept_[0]])
    np.testing.assert_allclose(found[0], [2, -1], atol=0.4)
    np.testing.assert_array_equal(found[1], [1, 0])


def test_a_probe_on_the_image_tower_is_saved_with_it(reader, phantom, tmp_path):
    encoder = CLIPReader.from_pretrained(reader.save(tmp_path / "encoder"))  # in half precision, as a probe keeps it
    truth = phantom.hidden[["control_dot"]].to_numpy(dtype=float)
    probe = ProbeReader.fit(phantom, np.arange(96), truth, CONCEPTS[1:2], features=encoder, n_folds=2)
    again = ProbeReader.from_pretrained(probe.save(tmp_path / "probe"))
    images = phantom.images(np.arange(6))
    torch.testing.assert_close(again.read(images), probe.read(images), rtol=0, atol=0)
    assert again.fingerprint == probe.fingerprint


def test_a_folder_without_a_reader_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no reader\.json"):
        CLIPReader.from_pretrained(tmp_path)


def test_the_shipped_reader_reads_new_phantoms_as_well_as_its_card_says():
    shipped = CLIPReader.from_shipped()
    new = Phantom(300, "independent", seed=77)
    scores = shipped.read(new.images(np.arange(300))).numpy()
    table = pd.concat([new.attributes, new.hidden], axis=1)
    for j, concept in enumerate(shipped.concepts):
        truth, said = concept.truth(table), shipped.quality.concepts.loc[concept.name]
        slope = scores[truth == 1, j].mean() - scores[truth == 0, j].mean()
        assert slope == pytest.approx(said.slope, abs=0.1), concept.name
