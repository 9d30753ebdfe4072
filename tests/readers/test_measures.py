"""The measures against images whose answer is known in closed form, and against what the phantoms were drawn with."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage.filters import gaussian
from skimage.graph import MCP
from torch.nn import functional

from causal_cxr.data.phantom.radiograph import Noise, render
from causal_cxr.readers.measure import (
    MEASURES,
    best_path,
    blur,
    border_straightness,
    cardiothoracic_ratio,
    corner_brightness,
    lung_lucency,
    mean_exposure,
    noise_level,
    text_likeness,
)
from causal_cxr.readers.measure.chest import outline
from causal_cxr.readers.quality import auroc

N = 60


def drawn(size=128, **values):
    return render(values, Noise.draw(N, np.random.default_rng(5)), size)


def spread(low, high):
    return np.random.default_rng(6).uniform(low, high, N)


def coin(seed=7):
    return np.random.default_rng(seed).integers(0, 2, N)


def rank_correlation(measured, truth):
    return spearmanr(measured.numpy(), truth).statistic


def schematic_chest(heart_right, heart_left, outer_right, outer_left, lungs=0.2, rest=0.8):
    """Square lungs in a bright body with dark air at the sides; columns of 128, rows 16 to 100."""
    image = np.full((128, 128), rest)
    image[:, :6] = image[:, -6:] = 0.0
    image[16:100, outer_right:52] = lungs
    image[16:100, 76:outer_left] = lungs
    image[60:100, heart_right:heart_left] = rest
    return torch.as_tensor(gaussian(image, 0.7)).float()[None, None]


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_is_one_number_an_image_inside_its_range_and_does_not_depend_on_the_batch(name):
    images = drawn(64)[:5]
    measure = MEASURES[name]
    values = measure.function(images)
    assert values.shape == (5,)
    assert ((values >= measure.low) & (values <= measure.high)).all()
    torch.testing.assert_close(measure.function(images[2:3]), values[2:3])
    assert measure.function(images[:0]).shape == (0,)


@pytest.mark.parametrize("name", MEASURES)
def test_an_even_image_has_neither_chest_nor_border_nor_letters(name):
    expected = {"mean_exposure": 0.3, "corner_brightness": 0.3, "noise_level": 0, "border_straightness": 0,
                "text_likeness": 0}  # fmt: skip
    found = float(MEASURES[name].function(torch.full((1, 1, 64, 64), 0.3)))
    assert found == pytest.approx(expected.get(name, np.nan), abs=1e-6, nan_ok=True)


def test_the_cardiothoracic_ratio_of_a_schematic_chest_is_that_of_its_widths():
    # the midline is at 64; the heart reaches 19 to the right of it and 31 to the left, the thorax from 20 to 108
    found = cardiothoracic_ratio(schematic_chest(45, 95, 20, 108))
    assert float(found) == pytest.approx((19 + 31) / 88, abs=0.03)


def test_a_path_gathers_as_much_as_scikit_images_cheapest_path():
    gain = np.random.default_rng(0).uniform(size=(4, 20, 15))
    low, high = np.full((4, 20), 3), np.full((4, 20), 11)
    paths = best_path(gain, low, high)
    assert ((paths >= 3) & (paths <= 11)).all()
    assert (np.abs(np.diff(paths, axis=1)) <= 1).all()
    for image, path in zip(gain, paths, strict=True):
        cost = 1.001 - image[:, 3:12]
        total, _ = MCP(cost, offsets=[(1, -1), (1, 0), (1, 1)]).find_costs([(0, c) for c in range(9)])
        assert (1.001 - image[np.arange(20), path]).sum() == pytest.approx(total[-1].min())


def test_lung_lucency_of_a_schematic_chest_is_the_step_between_mediastinum_and_lung():
    found = lung_lucency(schematic_chest(52, 76, 20, 108, lungs=0.35, rest=0.8))
    assert float(found) == pytest.approx(0.45, abs=0.03)


def test_a_cardiothoracic_ratio_lies_in_its_range_or_is_not_measured_where_there_is_no_chest():
    blots = torch.rand(32, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    images = functional.interpolate(blots, (128, 128), mode="bicubic").clamp(0, 1)
    edges, found = outline(images[:, 0].double().numpy()), cardiothoracic_ratio(images)
    assert edges.found.all()
    assert 0 < found.isnan().sum() < 8
    known = found[~found.isnan()]
    assert ((known > 0) & (known <= 1)).all()


def test_the_cardiothoracic_ratio_follows_the_phantoms_heart():
    truth = spread(0.38, 0.68)
    plain = cardiothoracic_ratio(drawn(cardiothoracic_ratio=truth))
    assert rank_correlation(plain, truth) > 0.94
    assert abs(float((plain - torch.as_tensor(truth)).mean())) < 0.04
    # What else varies in real life costs accuracy: the view magnifies, breasts hide the dome.
    varied = drawn(cardiothoracic_ratio=truth, view=coin(), sex=coin(8), age=spread(20, 90))
    assert rank_correlation(cardiothoracic_ratio(varied), truth) > 0.5


def test_lungs_that_fill_with_fluid_are_less_lucent():
    severity = spread(0, 1)
    assert rank_correlation(lung_lucency(drawn(oedema=severity)), severity) < -0.7


def test_fewer_quanta_make_more_noise_and_a_brighter_film():
    exposure = spread(-2, 2)
    images = drawn(exposure=exposure)
    assert rank_correlation(noise_level(images), exposure) < -0.95
    assert rank_correlation(mean_exposure(images), exposure) < -0.5


@pytest.mark.parametrize("size", [64, 256])
def test_a_collimated_phantom_has_the_longer_straight_border(size):
    border = coin()
    assert auroc(border_straightness(drawn(size, collimation_border=border)).numpy(), border == 1) > 0.98


def test_burnt_in_words_look_like_text_and_a_chest_does_not():
    words = coin()
    found = text_likeness(drawn(256, portable_marker=words)).numpy()
    assert auroc(found, words == 1) > 0.98
    assert found[words == 1].mean() == pytest.approx(0.29, abs=0.12)  # PORTABLE is 11.5 of 40 cm long
    assert found[words == 0].max() < 0.05


@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.08])
def test_noise_of_known_deviation_is_measured_on_a_slope(sigma):
    rng = np.random.default_rng(0)
    slope = np.linspace(0.3, 0.7, 200)[None] + np.linspace(-0.1, 0.1, 200)[:, None]
    image = torch.as_tensor(slope + rng.normal(0, sigma, (200, 200))).float()[None, None]
    assert float(noise_level(image)) == pytest.approx(sigma, rel=0.03)


def test_blur_rises_as_an_image_is_blurred():
    image = drawn(128)[0, 0].numpy()
    steps = torch.as_tensor(np.stack([gaussian(image, s) for s in (0.3, 1, 2, 4)])).float()[:, None]
    assert (blur(steps).diff() > 0).all()


def test_corner_brightness_sees_the_corners_alone():
    images = torch.zeros(2, 1, 50, 100)
    images[0, :, :5, :5] = 1  # one of four corners; a tenth of 50
    images[1, :, 10:40, 20:80] = 1
    np.testing.assert_allclose(corner_brightness(images), [0.25, 0.0], atol=1e-6)


def test_mean_exposure_is_the_mean():
    images = torch.rand(3, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mean_exposure(images), images.mean(dim=(1, 2, 3)))


@pytest.mark.parametrize(("sides", "length"), [((), 0.0), ((0,), 1.0), ((0, 1), 2.0), ((0, 1, 2, 3), 4.0)])
def test_border_straightness_adds_up_the_sides(sides, length):
    image = np.full((256, 256), 0.5)
    for turns in sides:
        np.rot90(image, turns)[:, :20] = 0.0
    expected = length - len(sides) * 40 / 256 if len(sides) == 4 else length  # beside a border, borders are shorter
    found = float(border_straightness(torch.as_tensor(image).float()[None, None]))
    assert found == pytest.approx(expected, abs=0.18)


def test_a_border_narrower_than_a_hundredth_does_not_count_and_a_tilted_one_does():
    narrow = torch.full((1, 1, 256, 256), 0.5)
    narrow[..., :1] = 0
    assert float(border_straightness(narrow)) == 0
    rows = np.arange(256)[:, None]
    tilted = torch.as_tensor(np.where(np.arange(256)[None] < 12 + 0.07 * rows, 0.0, 0.5)).float()  # 4 degrees
    assert float(border_straightness(tilted[None, None])) == pytest.approx(1.0, abs=0.15)


def test_strokes_in_a_line_are_text_and_one_blob_or_a_long_wire_is_not():
    images = torch.zeros(3, 1, 256, 256)
    for letter in range(8):  # strokes of 3 x 6, a letter every 5 pixels: 38 pixels long
        images[0, :, 40:46, 60 + 5 * letter : 63 + 5 * letter] = 1
    images[1, :, 100:130, 100:130] = 1
    images[2, :, 20:240, 50:52] = 1
    np.testing.assert_allclose(text_likeness(images), [38 / 256, 0, 0], atol=1e-6)


def test_an_image_too_small_for_a_noise_level_is_refused():
    with pytest.raises(ValueError, match="3 a side"):
        noise_level(torch.zeros(1, 1, 2, 5))
