"""The public release's layout, and the real thousand images where they are at hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from causal_cxr.data import NIHChestXray14, UnreadableImages, split_patients
from causal_cxr.graphs import Binary, CausalGraph, Continuous

COLUMNS = [
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
]
ROWS = [
    ("00000001_000.png", "Cardiomegaly|Pleural_Thickening", 0, "1", "058Y", "M", "PA"),
    ("00000001_001.png", "No Finding", 1, "1", "414", "M", "AP"),
    ("00000002_000.png", "Pneumonia", 0, "2", "006M", "F", "AP"),
    ("00000003_000.png", "No Finding", 0, "3", "x", "F", "PA"),
]


@pytest.fixture
def release(tmp_path):
    pd.DataFrame(ROWS, columns=COLUMNS).to_csv(tmp_path / "Data_Entry_2017_v2020.csv", index=False)
    for folder, row in (("images_001", 0), ("images_001", 1), ("images_002", 2)):
        file = tmp_path / folder / "images" / ROWS[row][0]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32), 10 * row, dtype=np.uint8)).save(file)
    return tmp_path


def test_the_table_is_typed_and_what_is_no_age_is_missing(release):
    made = NIHChestXray14(release, size=16)
    assert made.attributes["age"].tolist()[:3] == [58.0, pytest.approx(np.nan, nan_ok=True), 0.5]
    assert made.attributes["age"].isna().tolist() == [False, True, False, True]
    assert made.attributes["pleural_thickening"].tolist() == [1, 0, 0, 0]
    assert made.attributes["pneumonia"].tolist() == [0, 0, 1, 0]
    assert made.patients.tolist() == ["1", "1", "2", "3"]
    assert made.hidden is None


def test_images_are_found_in_all_folders_and_a_missing_one_is_named(release):
    made = NIHChestXray14(release, size=16)
    np.testing.assert_allclose(made.images(np.array([2, 0]))[:, 0, 0, 0], [20 / 255, 0])
    with pytest.raises(UnreadableImages, match=r"row 3: 00000003_000\.png no such file"):
        made.images(np.arange(4))
    assert set(made.check()) == {3}


def test_hidden_labels_are_one_zero_or_unknown_never_zero_for_unread(release):
    pd.DataFrame({"image": [ROWS[2][0], ROWS[0][0]], "wires": [1, 0], "ap_text": [np.nan, 1]}).to_csv(
        release / "hidden_labels.csv", index=False
    )
    hidden = NIHChestXray14(release).hidden
    np.testing.assert_array_equal(hidden["wires"], [0, np.nan, 1, np.nan])
    np.testing.assert_array_equal(hidden["ap_text"], [1, np.nan, np.nan, np.nan])


def test_a_graph_chooses_the_columns_and_unknown_ones_are_refused(release):
    graph = CausalGraph([Continuous("age", unit="years", low=0, high=120), Binary("pneumonia")])
    assert list(NIHChestXray14(release, graph=graph).attributes) == ["age", "pneumonia"]
    with pytest.raises(ValueError, match=r"no column for \['smoker'\]"):
        NIHChestXray14(release, graph=CausalGraph([Binary("smoker")]))
    with pytest.raises(FileNotFoundError, match="Data_Entry_2017_v2020"):
        NIHChestXray14(release / "images_001")


REAL = next((p for parent in Path(__file__).resolve().parents if (p := parent / "shared/data/nih-1000").is_dir()), None)


@pytest.mark.skipif(REAL is None, reason="needs shared/data/nih-1000, a thousand public radiographs")
def test_the_real_thousand_read_unchanged():
    made = NIHChestXray14(REAL, size=64)
    assert len(made) == 1000
    assert made.patients.nunique() == 682
    assert int((made.attributes["pneumonia"] == 1).sum()) == 500
    assert made.hidden.notna().any(axis=1).sum() == 360
    images = made.images(np.arange(8))
    assert images.shape == (8, 1, 64, 64)
    assert 0.2 < float(images.mean()) < 0.8
    one, other = split_patients(made, [0.5, 0.5])
    assert not set(made.patients[one]) & set(made.patients[other])
