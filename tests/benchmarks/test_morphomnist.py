"""Morpho-MNIST: what the files say, and what can be measured on the pixels."""

import gzip
import struct
from pathlib import Path

import morphomnist
import numpy as np
import pandas as pd
import pytest
import torch
from morphomnist import FIT_ROWS, GRAPH, TEST_ROWS, MorphoMNIST, measured_intensity, measured_thickness

from causal_cxr.data.dataset import Dataset

REAL = Path(__file__).parents[3] / "shared" / "data" / "morphomnist"


def write(folder, n=5):
    """A small release: image i is grey level 100 + i in a square, digit i."""
    pixels = np.zeros((n, 28, 28), np.uint8)
    for i in range(n):
        pixels[i, 10:18, 10:18] = 100 + i
    with gzip.open(folder / morphomnist.IMAGES, "wb") as file:
        file.write(struct.pack(">IIII", 0x803, n, 28, 28) + pixels.tobytes())
    with gzip.open(folder / morphomnist.LABELS, "wb") as file:
        file.write(struct.pack(">II", 0x801, n) + bytes(range(n)))
    table = pd.DataFrame({"index": range(n), "thickness": np.linspace(1, 6, n), "intensity": np.linspace(70, 250, n)})
    table.sample(frac=1, random_state=0).to_csv(folder / morphomnist.TABLE, index=False)
    return pixels


def test_files_become_a_dataset(tmp_path):
    pixels = write(tmp_path)
    dataset = MorphoMNIST(tmp_path)
    assert isinstance(dataset, Dataset)
    images = dataset.images(np.array([3, 1]))
    assert images.shape == (2, 1, 32, 32)
    np.testing.assert_allclose(images[:, 0, 2:-2, 2:-2].numpy(), pixels[[3, 1]] / np.float32(255))
    assert float(images[:, :, :2].abs().sum()) == 0
    assert dataset.attributes["digit"].tolist() == [0, 1, 2, 3, 4]
    assert dataset.attributes["thickness"].is_monotonic_increasing, "rows are in the order of the images"
    assert dataset.patients.nunique() == 5


def test_another_table_is_another_dataset(tmp_path):
    write(tmp_path)
    before = MorphoMNIST(tmp_path).fingerprint
    table = pd.read_csv(tmp_path / morphomnist.TABLE)
    table.assign(thickness=table["thickness"] + 0.1).to_csv(tmp_path / morphomnist.TABLE, index=False)
    assert MorphoMNIST(tmp_path).fingerprint != before


def test_missing_files_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / morphomnist.TABLE).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no t10k-morpho.csv; point --data"):
        MorphoMNIST(tmp_path)


def test_files_of_different_releases_are_refused(tmp_path):
    write(tmp_path)
    pd.read_csv(tmp_path / morphomnist.TABLE)[:3].to_csv(tmp_path / morphomnist.TABLE, index=False)
    with pytest.raises(ValueError, match=r"5 images, 5 labels and 3 rows"):
        MorphoMNIST(tmp_path)


def test_fit_and_test_rows_share_nothing():
    assert not set(FIT_ROWS) & set(TEST_ROWS)
    assert (len(FIT_ROWS), len(TEST_ROWS)) == (8_000, 2_000)


def test_the_graph_is_that_of_the_published_benchmark():
    assert GRAPH.edges == (("thickness", "intensity"),)
    assert set(GRAPH.image_parents) == {"thickness", "intensity", "digit"}


def test_a_bar_measures_as_thick_and_as_bright_as_it_is():
    images = torch.zeros(3, 1, 32, 32)
    for i, width in enumerate((2, 4, 6)):
        images[i, :, 4:28, 12 : 12 + width] = 0.6
    np.testing.assert_allclose(measured_thickness(images), [2, 4, 6], atol=0.5)
    np.testing.assert_allclose(measured_intensity(images), 0.6 * 255, rtol=1e-5)


def test_an_empty_image_has_no_thickness():
    assert measured_thickness(torch.zeros(1, 1, 32, 32)).tolist() == [0.0]


@pytest.mark.skipif(not REAL.is_dir(), reason="the Morpho-MNIST files are not here")
def test_what_is_measured_on_real_images_is_what_the_table_says():
    dataset = MorphoMNIST(REAL)
    images, table = dataset.images(TEST_ROWS[:200]), dataset.attributes.iloc[TEST_ROWS[:200]]
    assert np.abs(measured_intensity(images) - table["intensity"]).mean() < 0.6
    assert np.abs(measured_thickness(images) - table["thickness"]).mean() < 0.13
