import numpy as np
import pytest
import torch
from skimage.feature import hog

from causal_cxr.data.phantom import Phantom
from causal_cxr.readers import OrientedGradients, Pixels, ProbeReader, load_concepts


def images_of(n=3, size=32):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(0))


def test_pixels_are_the_intensities_row_by_row():
    images = images_of()
    torch.testing.assert_close(Pixels(32).features(images), images.flatten(1), rtol=0, atol=0)


def test_oriented_gradients_are_those_of_scikit_image_beside_a_thumbnail():
    images = images_of()
    found = OrientedGradients(32).features(images)
    edges = hog(images[1, 0].numpy(), orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2))
    np.testing.assert_allclose(found[1, : len(edges)], edges, atol=1e-6)
    assert float(found[1, len(edges)]) == pytest.approx(float(images[1, 0, :4, :4].mean()), abs=1e-6)
    assert found.shape == (3, len(edges) + 64)


@pytest.mark.parametrize("features", [Pixels(16), OrientedGradients(16, cell=4)])
def test_other_sizes_are_brought_to_one(features):
    assert features.features(images_of(size=40)).shape == features.features(images_of(size=16)).shape


def test_settings_are_in_the_fingerprint():
    made = [Pixels(16), Pixels(32), OrientedGradients(32), OrientedGradients(32, cell=4)]
    assert len({features.fingerprint for features in made}) == len(made)


def test_a_probe_on_oriented_gradients_is_saved_with_its_settings(tmp_path):
    phantom = Phantom(96, "independent", seed=5, size=32)
    truth = phantom.hidden[["control_dot"]].to_numpy(dtype=float)
    probe = ProbeReader.fit(phantom, np.arange(96), truth, load_concepts(["control_dot"]), n_folds=2,
                            features=OrientedGradients(32, cell=4))  # fmt: skip
    again = ProbeReader.from_pretrained(probe.save(tmp_path))
    images = phantom.images(np.arange(6))
    torch.testing.assert_close(again.read(images), probe.read(images), rtol=0, atol=0)
    assert again.fingerprint == probe.fingerprint


def test_a_probe_on_features_of_ones_own_cannot_be_saved(tmp_path):
    class Mean:
        fingerprint, fitted_on = "mean", frozenset()

        def features(self, images):
            return images.mean(dim=(2, 3))

    probe = ProbeReader(load_concepts(["control_dot"]), np.zeros((2, 1, 1)), np.zeros((2, 1)), {}, features=Mean())
    with pytest.raises(TypeError, match="Mean"):
        probe.save(tmp_path)
