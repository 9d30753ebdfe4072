"""A user's own table and pictures."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from causal_cxr.data import Dataset, FolderDataset, UnreadableImages
from causal_cxr.data.folder import as_ids
from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous

GRAPH = CausalGraph(
    [Continuous("age", unit="years", low=0, high=120), Binary("view", levels=("PA", "AP"))], [("age", "view")]
)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "colour.png")
    Image.fromarray(np.stack([grey, grey, grey, np.full_like(grey, 9)], axis=-1)).save(tmp_path / "alpha.png")
    Image.fromarray(grey).save(tmp_path / "grey.jpg", quality=100)
    table = pd.DataFrame(
        {
            "file": ["grey8.png", "grey16.png", "colour.png", "alpha.png", "grey.jpg"],
            "pid": [1, 1, 2, 3, 3],
            "years": [50.0, np.nan, 60, 70, 80],
            "view": ["PA", "AP", None, "PA", "AP"],
        }
    )
    return tmp_path, table, grey


def dataset(folder, table, **options):
    return FolderDataset(table, folder, patient="pid", columns={"age": "years"}, graph=GRAPH, **options)


def test_all_bit_depths_and_colour_modes_read_as_the_same_grey_values(folder):
    path, table, grey = folder
    images = dataset(path, table).images(np.arange(5))
    assert images.shape == (5, 1, 8, 8)
    for row in range(4):
        np.testing.assert_allclose(images[row, 0], grey / 255, atol=1e-6)
    assert np.abs(images[4, 0].numpy() - grey / 255).mean() < 0.02  # JPEG is lossy


def test_rows_come_in_the_order_asked_for_and_missing_stays_missing(folder):
    path, table, _ = folder
    made = dataset(path, table)
    assert isinstance(made, Dataset)
    assert (made.images(np.array([4, 0]))[1] == made.images(np.array([0]))[0]).all()
    assert made.attributes["age"].isna().tolist() == [False, True, False, False, False]
    assert made.attributes["view"].isna().tolist() == [False, False, True, False, False]
    assert made.patients.tolist() == ["1", "1", "2", "3", "3"]


def test_an_image_without_a_report_has_none_and_not_the_word_nan(folder):
    path, table, _ = folder
    texts = dataset(path, table.assign(report=["Clear.", None, np.nan, "Wires.", ""]), text="report").texts
    assert texts.isna().tolist() == [False, True, True, False, False]
    assert "nan" not in texts.tolist()


def test_every_bad_image_is_named_and_the_others_are_not(folder):
    path, table, _ = folder
    (path / "colour.png").write_bytes((path / "colour.png").read_bytes()[:60])
    (path / "grey.jpg").unlink()
    made = dataset(path, table)
    with pytest.raises(UnreadableImages, match=r"colour\.png cannot be decoded") as caught:
        made.images(np.arange(5))
    assert set(caught.value.problems) == {2, 4} == set(made.check())
    assert "no such file" in caught.value.problems[4]


def test_mixed_sizes_are_named_unless_a_size_is_given(folder):
    path, table, _ = folder
    Image.fromarray(np.full((4, 12), 200, dtype=np.uint8)).save(path / "colour.png")
    with pytest.raises(UnreadableImages, match=r"colour\.png is 12x4 pixels where row 0 is 8x8; pass size="):
        dataset(path, table).images(np.arange(5))
    wide = dataset(path, table, size=12).images(np.arange(5))[2, 0]
    assert wide.shape == (12, 12)
    assert float(wide[0].max()) == 0.0  # padded, not stretched
    assert float(wide[6].min()) == pytest.approx(200 / 255)


def test_pictures_without_a_row_are_named(folder):
    path, table, _ = folder
    assert dataset(path, table.iloc[1:]).unlisted == ("grey8.png",)


def test_the_fingerprint_follows_table_files_and_size(folder):
    path, table, _ = folder
    first = dataset(path, table).fingerprint
    assert first == dataset(path, table).fingerprint
    assert first != dataset(path, table, size=4).fingerprint
    assert first != dataset(path, table.assign(years=1.0)).fingerprint
    (path / "grey8.png").write_bytes(b"")
    assert first != dataset(path, table).fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"view": "lateral"}, "view"),
        ({"pid": None}, "'pid' is empty in row"),
        ({"file": "grey8.png"}, "several rows"),
    ],
)
def test_a_bad_table_is_refused_with_the_offence_named(folder, change, message):
    path, table, _ = folder
    with pytest.raises(ValueError, match=message):
        dataset(path, table.assign(**change))


def test_an_absent_column_is_refused_with_the_columns_there_are(folder):
    path, table, _ = folder
    with pytest.raises(ValueError, match=r"no column 'years'; it has \['file', 'pid', 'view'\]"):
        dataset(path, table.drop(columns="years"))


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        (["007", "7", "12E3", "12000", " 5"], ["007", "7", "12E3", "12000", "5"]),
        (["7", "8", "9", "10", "11"], ["7", "8", "9", "10", "11"]),
        (["7.0", "8.0", "9.0", "10.0", "11.0"], ["7", "8", "9", "10", "11"]),
    ],
)
def test_ids_in_a_file_are_told_apart_as_they_are_written(folder, written, ids):
    path, table, _ = folder
    text = table.assign(pid=written).to_csv(index=False)
    (path / "table.csv").write_text(text)
    assert dataset(path, path / "table.csv").patients.tolist() == ids
    assert as_ids(pd.Series([7.0, 8.0])).tolist() == ["7", "8"]


def test_a_picture_called_by_a_number_is_found(folder):
    path, table, _ = folder
    (path / "grey8.png").rename(path / "0042")
    table.iloc[:1].assign(file="0042").to_csv(path / "one.csv", index=False)
    assert dataset(path, path / "one.csv").check() == {}


@pytest.mark.parametrize("level", ["None", "NA", "null", "1"])
def test_a_declared_level_is_that_level_though_pandas_knows_the_word_otherwise(folder, level):
    path, table, _ = folder
    table.assign(device=[level, "tube", level, "", "nan"]).to_csv(path / "table.csv", index=False)
    graph = CausalGraph([Categorical("device", levels=(level, "tube"))])
    made = FolderDataset(path / "table.csv", path, patient="pid", graph=graph)
    assert made.attributes["device"].tolist()[:3] == [level, "tube", level]
    assert made.attributes["device"].isna().tolist() == [False, False, False, True, True]


def test_an_empty_id_in_a_file_is_refused_however_it_is_written(folder):
    path, table, _ = folder
    table.assign(pid=["1", "NA", "", "3", "3"]).to_csv(path / "table.csv", index=False)
    with pytest.raises(ValueError, match=r"'pid' is empty in row\(s\) \[1, 2\]"):
        dataset(path, path / "table.csv")
