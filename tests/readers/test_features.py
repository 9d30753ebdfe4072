import numpy as np
import pytest
import torch
from skimage.feature import hog

from causal_cxr.data.patients import all_known
from causal_cxr.data.phantom import Phantom
from causal_cxr.readers import Joined, MeasureReader, OrientedGradients, Pixels, ProbeReader, load_concepts


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


def test_a_place_holds_the_features_that_its_pixels_move_and_no_others():
    gradients, images = OrientedGradients(32), images_of(1)
    places = gradients.places()
    dotted = images.clone()
    dotted[0, 0, 2, 2] = (dotted[0, 0, 2, 2] + 0.5) % 1  # in the corner block alone
    moved = np.flatnonzero((gradients.features(dotted) - gradients.features(images))[0].abs() > 1e-6)
    assert len(places) == 9
    assert set(moved) <= set(places[0])
    assert not set(moved) & set(places[-1])
    assert set(np.concatenate(places)) == set(range(gradients.features(images).shape[1]))
    with pytest.raises(ValueError, match="multiple of 4 pixels, not 6"):
        OrientedGradients(36, cell=6).places()


def test_joined_features_lie_side_by_side_and_know_whom_the_parts_saw():
    class Seen(Pixels):
        fitted_on = frozenset({"p1"})

    class Unknown(Pixels):
        fitted_on = None

    both, images = Joined(Pixels(16), OrientedGradients(32)), images_of()
    torch.testing.assert_close(
        both.features(images), torch.cat([part.features(images) for part in both.parts], dim=1), rtol=0, atol=0
    )
    assert both.fitted_on == frozenset()
    assert Joined(Seen(16), Pixels(8)).fitted_on == {"p1"}
    assert not all_known(Joined(Seen(16), Unknown(8)).fitted_on)
    assert Joined(Seen(16), Unknown(8)).fitted_on == {"p1"}
    assert both.fingerprint != Joined(OrientedGradients(32), Pixels(16)).fingerprint


def test_a_probe_on_joined_features_is_saved_with_its_parts(tmp_path):
    reference = Phantom(64, "independent", seed=5, size=32)
    measures = MeasureReader.from_reference(reference, np.arange(64))
    both = Joined(OrientedGradients(32, cell=4), measures)
    width = both.features(reference.images(np.arange(1))).shape[1]
    weights = np.random.default_rng(0).standard_normal((1, width, 1))
    probe = ProbeReader(load_concepts(["control_dot"]), weights, np.zeros((1, 1)), {}, features=both)
    again = ProbeReader.from_pretrained(probe.save(tmp_path))
    images = reference.images(np.arange(4))
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
