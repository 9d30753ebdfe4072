"""Images on another scale are refused by whoever reads them, not read without complaint."""

import numpy as np
import pytest
import torch
from clip_models import CONCEPTS, phantoms, tiny_reader
from hypothesis import given
from hypothesis import strategies as st

from causal_cxr.readers import Joined, MeasureReader, OrientedGradients, Pixels, ProbeReader
from causal_cxr.readers.images import ROUNDING, check_images
from causal_cxr.readers.xrv import prepared

GOOD = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
READ = ("clip", "clip features", "measure", "measure units", "probe on pixels", "probe on gradients", "joined", "xrv")


def with_pixel(value):
    images = GOOD.clone()
    images[1, 0, 2, 3] = value
    return images


@pytest.fixture(scope="module")
def reads():
    phantom = phantoms(40)
    clip, measure = tiny_reader(phantom), MeasureReader.from_reference(phantom, np.arange(40), measures=["noise_level"])

    def probe(features):
        width = features.features(GOOD).shape[1]
        return ProbeReader(CONCEPTS[:1], np.zeros((2, width, 1)), np.zeros((2, 1)), {}, features=features).read

    gradients = OrientedGradients(16, cell=4)
    functions = [clip.read, clip.features, measure.read, measure.measure, probe(Pixels(8)), probe(gradients),
                 Joined(Pixels(8), gradients).features, lambda images: prepared(images, 8)]  # fmt: skip
    return dict(zip(READ, functions, strict=True))


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize(
    ("images", "said"),
    [
        (GOOD * 255, r"Images go from 0\.\d+ to 25\d\.?\d*; give intensities in \[0, 1\].* by 255"),
        (GOOD - 0.5, r"Images go from -0\.4\d+ to 0\.4"),
        (with_pixel(float("nan")), "1 of 3 images have pixels that are no finite numbers, the first is image 1"),
        (with_pixel(float("inf")), "no finite numbers, the first is image 1"),
        (GOOD.expand(-1, 3, -1, -1), r"shape \(3, 3, 16, 16\).* one grey channel"),
        ((GOOD * 255).to(torch.uint8), r"type torch\.uint8; give .* floats"),
    ],
)
def test_what_is_no_image_in_the_unit_range_is_refused_by_every_reader(reads, name, images, said):
    with pytest.raises(ValueError, match=said):
        reads[name](images)


@pytest.mark.parametrize("name", READ)
def test_images_in_the_unit_range_are_read_by_every_reader(reads, name):
    for images in (GOOD, torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)):
        assert len(reads[name](images)) == len(images)


@given(st.floats(allow_nan=True, allow_infinity=True, width=32), st.sampled_from([torch.float16, torch.float32]))
def test_a_pixel_may_miss_the_unit_range_by_rounding_and_no_more(value, dtype):
    images = with_pixel(value).to(dtype)
    pixel = float(images[1, 0, 2, 3])
    if -ROUNDING <= pixel <= 1 + ROUNDING:
        check_images(images)
    else:
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            check_images(images)


def test_no_images_are_well():
    check_images(torch.empty(0, 1, 16, 16))
