import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from causal_cxr.data.phantom import Phantom, World
from causal_cxr.readers import Concept, PatchDictionary, Pixels, ProbeReader


class Stamped:
    """Grey noise; a random half has a small cross, anywhere."""

    def __init__(self, n, seed):
        rng = np.random.default_rng(seed)
        self.patients = pd.Series(np.arange(n).astype(str)) + f"-{seed}"
        self.stamped = rng.integers(0, 2, n)
        pixels = 0.5 + 0.05 * rng.normal(size=(n, 32, 32))
        for image, stamped, (y, x) in zip(pixels, self.stamped, rng.integers(2, 25, (n, 2)), strict=True):
            if stamped:
                image[y : y + 5, x + 2] = image[y + 2, x : x + 5] = 1.0
        self._images = torch.as_tensor(pixels.clip(0, 1)).float()[:, None]
        self.attributes = pd.DataFrame(index=range(n))
        self.fingerprint, self.texts = str(seed), None

    def images(self, rows):
        return self._images[torch.as_tensor(rows)]


@pytest.fixture(scope="module")
def unlabelled():
    return Stamped(120, seed=1)


def dictionary(dataset, **settings):
    defaults = {"size": 32, "patch": 5, "atoms": 24, "stride": 1, "grid": 2}
    return PatchDictionary.fit(dataset, np.arange(len(dataset.patients)), **(defaults | settings))


@pytest.fixture(scope="module")
def learned(unlabelled):
    return dictionary(unlabelled)


def test_a_small_thing_anywhere_is_read_where_pixels_read_nothing(learned):
    labelled = Stamped(160, seed=2)
    truth, rows = labelled.stamped[:, None].astype(float), np.arange(160)
    found = {}
    for name, features in (("patches", learned), ("pixels", Pixels(32))):
        probe = ProbeReader.fit(labelled, rows, truth, [Concept("cross", ("cross",), ("none",))], features=features)
        found[name] = roc_auc_score(truth, probe.read(labelled.images(rows), labelled.patients.tolist()))
    assert found["patches"] > 0.95
    assert found["pixels"] < 0.75


@pytest.mark.parametrize("unit_length", [False, True])
def test_features_are_the_strongest_responses_of_whitened_patches(unlabelled, unit_length):
    """A second computation: patch by patch, as the fit sees them."""
    fitted = dictionary(unlabelled, unit_length=unit_length, stride=3)
    image = unlabelled.images(np.array([4]))
    patches = functional.unfold(image, 5, stride=3)[0].T
    patches = patches - patches.mean(1, keepdim=True)
    patches = patches / (patches.std(1, correction=0, keepdim=True) + 0.04)
    white = patches @ fitted.whitening.flatten(1).T - fitted.shift
    if unit_length:
        white = white / white.norm(dim=1, keepdim=True)
    responses = white @ fitted.atoms.T
    found = fitted.features(image)[0]
    assert found.shape == (24 * 5,)
    torch.testing.assert_close(found[-24:], responses.amax(0), rtol=1e-3, atol=1e-3)


def test_the_same_seed_learns_the_same_and_another_another(unlabelled, learned):
    assert dictionary(unlabelled).fingerprint == learned.fingerprint
    assert dictionary(unlabelled, seed=1).fingerprint != learned.fingerprint


def test_other_sizes_are_brought_to_one_and_batches_make_no_difference(learned, unlabelled):
    images = unlabelled.images(np.arange(11))
    torch.testing.assert_close(learned.features(images[3:4]), learned.features(images)[3:4])
    assert learned.features(functional.interpolate(images, (40, 40))).shape == learned.features(images).shape
    assert learned.features(images[:0]).shape == (0, 24 * 5)


def test_a_probe_on_patches_is_saved_with_them(learned, tmp_path):
    labelled = Stamped(60, seed=3)
    truth = labelled.stamped[:, None].astype(float)
    probe = ProbeReader.fit(labelled, np.arange(60), truth, [Concept("cross", ("cross",), ("none",))], features=learned)
    again = ProbeReader.from_pretrained(probe.save(tmp_path))
    images = labelled.images(np.arange(60))
    torch.testing.assert_close(again.features.features(images), learned.features(images), rtol=0, atol=0)
    torch.testing.assert_close(again.read(images), probe.read(images), rtol=1e-5, atol=1e-7)
    assert again.fitted_on == learned.fitted_on
    assert again.features.fingerprint == learned.fingerprint


def test_a_probe_refuses_features_that_were_fitted_on_its_labelled_patients(learned, unlabelled):
    truth = unlabelled.stamped[:, None].astype(float)
    with pytest.raises(ValueError, match="fitted on 120 of the labelled patients"):
        ProbeReader.fit(unlabelled, np.arange(120), truth, [Concept("cross", ("cross",), ("none",))], features=learned)


def test_phantoms_can_be_learned_from_and_even_images_do_no_harm():
    phantom = Phantom(20, World.load("independent").changed(patients={"images": [1, 1]}), seed=3, size=32)
    fitted = dictionary(phantom)
    assert fitted.fitted_on == frozenset(phantom.patients)
    assert fitted.features(torch.full((2, 1, 32, 32), 0.5)).isfinite().all()


def test_no_images_or_too_large_patches_are_refused(unlabelled):
    with pytest.raises(ValueError, match="from 0 images"):
        PatchDictionary.fit(unlabelled, np.array([], dtype=int))
    with pytest.raises(ValueError, match="patches of 64 pixels"):
        dictionary(unlabelled, patch=64)


def test_a_folder_without_features_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no features\.json"):
        PatchDictionary.from_pretrained(tmp_path)
