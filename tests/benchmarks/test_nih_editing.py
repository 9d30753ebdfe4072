"""Editing real radiographs, on a small folder in the release's layout: the parts, and all phases end to end."""

import json
import sys

import nih_editing
import numpy as np
import pandas as pd
import pytest
import torch
from nih_sheets import contact_sheet
from PIL import Image

from causal_cxr.data import NIHChestXray14
from causal_cxr.editors.diffusion.inversion import Coupled, Heun

PATIENTS, SIDE = 200, 32


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Gradients whose slant tells the view, whose brightness the sex; one image has no legible age."""
    folder, rng = tmp_path_factory.mktemp("release"), np.random.default_rng(0)
    (folder / "images").mkdir()
    view, sex, ill = (rng.integers(0, 2, PATIENTS) for _ in range(3))
    age = rng.integers(20, 75, PATIENTS)
    names = [f"{i:08d}_000.png" for i in range(PATIENTS)]
    ramp = np.linspace(0, 60, SIDE)
    for i, name in enumerate(names):
        grey = 60 + 60 * sex[i] + (ramp[None] if view[i] else ramp[:, None]) + rng.normal(0, 10, (SIDE, SIDE))
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
    pd.DataFrame(
        {
            "Image Index": names,
            "Finding Labels": np.where(ill, "Pneumonia", "No Finding"),
            "Follow-up #": 0,
            "Patient ID": np.arange(PATIENTS),
            "Patient Age": np.where(np.arange(PATIENTS) == 5, 414, age),
            "Patient Gender": np.where(sex, "M", "F"),
            "View Position": np.where(view, "AP", "PA"),
        }
    ).to_csv(folder / "Data_Entry_2017_v2020.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def dataset(release):
    return NIHChestXray14(release, size=SIDE, graph=nih_editing.declared_graph())


def test_no_patient_is_in_two_sets_and_who_has_no_age_is_in_none(dataset):
    parts = nih_editing.split(dataset, seed=0)
    patients = [set(dataset.patients.iloc[rows]) for rows in parts.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == PATIENTS - 1
    assert 5 not in np.concatenate(list(parts.values()))


def test_one_row_a_patient_is_edited(dataset):
    patients = pd.Series(list("aabbc"))
    assert nih_editing.first_of_each(patients, np.arange(5), 2).tolist() == [0, 2]


def test_versions_keep_the_original_first_and_whose_they_are(dataset):
    many = nih_editing.Augmented(dataset, 3)
    rows = many.rows(np.array([2, 7]))
    assert rows.tolist() == [6, 7, 8, 21, 22, 23]
    images, originals = many.images(rows), dataset.images(np.array([2, 7]))
    torch.testing.assert_close(images[[0, 3]], originals)
    assert not torch.allclose(images[1], images[0], atol=1e-3)
    torch.testing.assert_close(many.images(rows[::-1].copy()), images.flip(0))
    assert many.patients.iloc[rows].tolist() == ["2"] * 3 + ["7"] * 3
    assert images.min() >= 0
    assert images.max() <= 1


def test_every_image_is_changed_to_the_other_side_and_knows_which_way(dataset):
    table = dataset.attributes.iloc[10:30]
    for concept, change in zip(nih_editing.CONCEPTS, nih_editing.changes(table).values(), strict=True):
        target, sign = change.apply(table, concept)
        before, after = concept.truth(table), concept.truth(target)
        np.testing.assert_array_equal(after, 1 - before)
        np.testing.assert_array_equal(sign, after - before)
        others = [name for name in table if name != change.attribute]
        pd.testing.assert_frame_equal(target[others], table[others])
        assert target.dtypes.equals(table.dtypes)


class Scores:
    """A reader whose scores are the means of the image's quarters."""

    concepts = nih_editing.CONCEPTS

    def __init__(self, blind_to=()):
        names = pd.Index([c.name for c in self.concepts])
        frame = pd.DataFrame({"slope": 0.2, "slope_se": 0.0, "auroc_low": 0.9}, index=names)
        frame.loc[list(blind_to), "auroc_low"] = 0.5
        self.quality = type("Quality", (), {"concepts": frame})

    def read(self, images):
        return torch.stack([images[..., i * 8 : (i + 1) * 8, :].mean(dim=(1, 2, 3)) for i in range(4)], 1)


def test_an_edit_that_moves_its_own_score_by_the_slope_is_effective_and_leaks_nothing_else():
    factual = torch.full((6, 1, 32, 32), 0.5)
    signs = np.array([1.0, -1, 1, -1, 1, 1])
    images = {}
    for i, concept in enumerate(nih_editing.CONCEPTS):
        images[concept.name] = factual.clone()
        images[concept.name][..., i * 8 : (i + 1) * 8, :] += (
            0.2 * torch.tensor(signs, dtype=torch.float32)[:, None, None, None]
        )
    images["female"][..., :8, :] += 0.1 * torch.tensor(signs, dtype=torch.float32)[:, None, None, None]
    edited = nih_editing.Edited(images, dict.fromkeys(images, signs), 0.1)
    found = nih_editing.judged(edited, factual, np.arange(6), {"means": Scores()})
    for value in found["means"]["effectiveness"].values():
        assert value == pytest.approx([1, 1, 1], abs=1e-3)
    assert found["means"]["leak"]["female"]["AP view"] == pytest.approx([0.5] * 3, abs=1e-3)
    assert found["means"]["leak_worst"][0] == pytest.approx(0.5, abs=1e-3)
    assert found["means"]["leak_mean"][0] == pytest.approx(0.5 / 12, abs=1e-3)
    assert found["l1"]["pneumonia"][0] == pytest.approx(0.2 / 4, abs=1e-4)


def test_nothing_is_said_of_what_a_reader_does_not_see():
    factual, signs = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0)), np.ones(6)
    images = {concept.name: factual.clamp(0.1, 0.9) for concept in nih_editing.CONCEPTS}
    edited = nih_editing.Edited(images, dict.fromkeys(images, signs), 0.1)
    found = nih_editing.judged(edited, factual, np.arange(6), {"means": Scores(["aged over 45", "female"])})["means"]
    assert found["blind"] == ["female", "aged over 45"]
    assert set(found["effectiveness"]) == set(found["leak"]) == {"AP view", "pneumonia"}
    assert set(found["leak"]["AP view"]) == {"pneumonia"}


def test_kid_is_near_nothing_between_alike_sets_and_grows_with_a_shift():
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 300, 8, generator=generator)
    assert abs(nih_editing.kid(one, two)) < 0.05
    assert nih_editing.kid(one, two + 1) > 0.5


def test_all_phases_end_with_numbers_and_sheets(monkeypatch, release, tmp_path):
    for name, value in {
        "GUIDANCES": (1.0, 2.0), "INVERSIONS": (Coupled(1), Heun(1)), "SAMPLING": Heun(1), "RESAMPLES": 40, "CYCLED": 2,
        "LOOKS": 1,
    }.items():  # fmt: skip
        monkeypatch.setattr(nih_editing, name, value)
    common = ["--data", str(release), "--size", str(SIDE), "--folder", str(tmp_path / "left")]
    fitting = ["--steps", "2", "--batch", "4", "--versions", "2", "--scm-steps", "2", "--phase", "fit", "scm"]
    scoring = [
        "--phase",
        "score",
        "--edited",
        "8",
        "--json",
        str(tmp_path / "x.json"),
        "--figure",
        str(tmp_path / "x.png"),
    ]
    for arguments in (fitting, scoring):
        monkeypatch.setattr(sys, "argv", ["nih_editing.py", *common, *arguments])
        nih_editing.main()
    found = json.loads((tmp_path / "x.json").read_text())["summary"]
    assert set(found["editors"]) == {"coupled 1", "coupled 2", "coupled calibrated", "heun 1", "scm"}
    assert set(found["weights"]) <= {"age", "sex", "view", "pneumonia"}
    assert found["steps"] == 2
    assert found["images"]["edited"] == 8
    assert set(found["copies"]) == {"pixels", "gradients"}
    assert {"samples", "real", "edits: female"} <= set(found["copies"]["pixels"])
    for sheet in ("x.png", "x-neighbours.png"):
        with Image.open(tmp_path / sheet) as picture:
            assert picture.size[0] > 96
    assert sum(f.stat().st_size for f in (tmp_path / "left" / "editor").rglob("*") if f.is_file()) < 16e6


def test_a_sheet_has_a_column_for_every_edit_and_one_difference_a_change(tmp_path, dataset):
    images = dataset.images(np.arange(3))
    made = {"a": {"x": images, "y": images}, "b": {"x": images, "y": images}}
    contact_sheet(tmp_path / "s.png", images, dataset.attributes.iloc[:3], made, {"x": None, "y": None})
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size[0] == 7 * 100
