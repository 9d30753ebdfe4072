"""Reading real radiographs, on a small folder in the release's layout: the parts, and all of it end to end."""

import json
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import reading_nih
from PIL import Image

from causal_cxr.data import NIHChestXray14
from causal_cxr.readers import Pixels, patches
from causal_cxr.readers.quality import auroc

PATIENTS, LABELLED, SIDE = 260, 220, 32


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A square at the left tells ``square``, which goes with AP; ``rare`` is shown by 12, ``coin`` by nobody's image."""
    folder, rng = tmp_path_factory.mktemp("release"), np.random.default_rng(0)
    (folder / "images").mkdir()
    view, sex, ill, coin = (rng.integers(0, 2, PATIENTS) for _ in range(4))
    square = (rng.uniform(size=PATIENTS) < np.where(view, 0.7, 0.15)).astype(int)
    names = [f"{i:08d}_000.png" for i in range(PATIENTS)]
    for i, name in enumerate(names):
        grey = np.full((SIDE, SIDE), 80.0) + 40 * view[i]
        grey[10:18, 3:11] += 50 * square[i]
        Image.fromarray((grey + rng.normal(0, 12, grey.shape)).clip(0, 255).astype(np.uint8)).save(
            folder / "images" / name
        )
    pd.DataFrame(
        {
            "Image Index": names,
            "Finding Labels": np.where(ill, "Pneumonia", "No Finding"),
            "Follow-up #": 0,
            "Patient ID": np.arange(PATIENTS),
            "Patient Age": rng.integers(20, 75, PATIENTS),
            "Patient Gender": np.where(sex, "M", "F"),
            "View Position": np.where(view, "AP", "PA"),
        }
    ).to_csv(folder / "Data_Entry_2017_v2020.csv", index=False)
    never_absent_in_ap = np.where(view == 1, 1, coin)
    labels = pd.DataFrame({"image": names, "square": square, "coin": coin, "arms": never_absent_in_ap})
    labels["rare"] = (np.arange(PATIENTS) < 12).astype(int)
    labels.iloc[:LABELLED].to_csv(folder / "hidden_labels.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def data(release):
    return reading_nih.labelled(NIHChestXray14(release, graph=reading_nih.graph()))


@pytest.fixture(scope="module")
def extracted(data):
    return reading_nih.Extracted(Pixels(SIDE), data.dataset, data.rows)


@pytest.fixture(scope="module")
def sources(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "PATCHES", 2_000)
        return reading_nih.features(data, seed=0)


def test_concepts_that_too_few_patients_show_are_left_out_by_name(data):
    assert [concept.name for concept in data.concepts] == ["square", "coin", "arms"]
    assert "12 patients" in data.left_out["rare"]


def test_features_are_learned_from_patients_without_labels(data, sources):
    assert set(data.rows) | set(data.others) == set(range(PATIENTS))
    for source in sources.values():
        assert not source.fitted_on & set(data.dataset.patients.iloc[data.rows])


def test_features_computed_once_are_those_of_the_images(data, extracted):
    images = data.dataset.images(data.rows[[3, 7]])
    rows = np.array([3, 7])
    np.testing.assert_array_equal(extracted.features(extracted.images(rows)), Pixels(SIDE).features(images))
    assert extracted.patients.tolist() == data.dataset.patients.iloc[data.rows].tolist()


def test_a_plain_thing_is_read_out_of_fold_and_a_coin_is_not(data, extracted):
    scores, fold = reading_nih.cross_fitted(extracted, np.arange(LABELLED), data.truth, data.concepts, seed=0)
    assert np.bincount(fold).tolist() == [LABELLED // 5] * 5
    table = reading_nih.judge(data, scores, seed=0).table
    assert table.loc["square", "auroc"] > 0.95
    assert table.loc["square", "slope"] > 0.5
    assert table.loc["coin", "auroc_low"] < 0.5 < table.loc["coin", "auroc_high"]


def test_figures_are_of_ap_images_alone(data):
    """Scores that are the view's own column: good over all, worth nothing among AP images."""
    view = (data.dataset.attributes["view"].iloc[data.rows] == "AP").to_numpy(dtype=float)
    judged = reading_nih.judge(data, np.repeat(view[:, None], 3, axis=1) * 0.8, seed=0)
    assert judged.table.loc["square", "auroc"] == 0.5
    assert judged.quality.concepts.loc["square", "auroc"] > 0.7
    assert judged.mean == 0.5
    assert judged.interval == (0.5, 0.5)


def test_all_together_is_the_mean_of_log_odds():
    odds = {"a": np.array([[0.5, 0.8]]), "b": np.array([[0.5, 0.2]]), "c": np.array([[0.9, 0.5]])}
    expected = 9 ** (1 / 3) / (1 + 9 ** (1 / 3))
    np.testing.assert_allclose(reading_nih.together(odds), [[expected, 0.5]])


def test_the_fold_that_is_read_has_no_say_in_who_reads_it(data, monkeypatch):
    """``lucky`` is right in fold 0 alone: chosen inside, it is never chosen for fold 0, where it would look perfect."""
    fold = np.arange(LABELLED) % 5
    truth = np.nan_to_num(data.truth)
    rng = np.random.default_rng(0)
    fair = np.where(truth == 1, 0.6, 0.4) + rng.normal(0, 0.15, truth.shape)
    lucky = np.where((fold == 0)[:, None], truth, 1 - truth)
    outer = {"fair": fair.clip(0, 1), "lucky": lucky, "together": np.full(truth.shape, 0.5)}
    monkeypatch.setattr(reading_nih, "cross_fitted", lambda name, rows, *others: (outer[name][rows], fold[rows]))
    scores, chosen = reading_nih.choose({"fair": "fair", "lucky": "lucky"}, data, outer, fold, seed=0)
    assert not np.array_equal(scores[fold == 0, 0], lucky[fold == 0, 0])
    assert chosen["square"]["lucky"] == 0
    assert sum(chosen["square"].values()) == 5
    assert auroc(scores[:, 0], truth[:, 0] == 1) > 0.6


def test_measures_read_only_what_they_measure_by_definition(data, sources, monkeypatch):
    monkeypatch.setattr(reading_nih, "MEASURED", {"square": "mean_exposure"})
    reader = sources[f"measures {SIDE}"]
    scores = reading_nih.untrained(data, reader)
    assert not np.isnan(scores[:, 0]).any()
    assert np.isnan(scores[:, 1:]).all()
    assert list(reading_nih.judge(data, scores, seed=0).table.index) == ["square"]


def test_a_release_without_labels_is_refused(release, tmp_path):
    (tmp_path / "images").symlink_to(release / "images")
    (tmp_path / "Data_Entry_2017_v2020.csv").symlink_to(release / "Data_Entry_2017_v2020.csv")
    with pytest.raises(ValueError, match=r"hidden_labels\.csv"):
        reading_nih.labelled(NIHChestXray14(tmp_path, graph=reading_nih.graph()))


def test_all_readers_are_recorded_with_what_belongs_beside_them(release, sources, tmp_path, monkeypatch, capsys):
    """Two readers are enough; the one without training reads ``square`` by its grey."""
    file, few = tmp_path / "reading.json", ("pixels 64", f"measures {SIDE}")
    monkeypatch.setattr(reading_nih, "features", lambda *_: {name: sources[name] for name in few})
    monkeypatch.setattr(reading_nih, "MEASURED", {"square": "mean_exposure"})
    monkeypatch.setattr(sys, "argv", ["reading_nih.py", "--data", str(release), "--json", str(file)])
    reading_nih.main()
    summary = json.loads(file.read_text())["summary"]
    readers = set(summary["nih_auroc"])
    assert {"pixels 64", "together", "chosen", "measure"} <= readers
    for key in ("nih_auroc_interval", "nih_slope", "nih_slope_interval", "nih_auroc_all_views"):
        assert set(summary[key]) == readers
    assert set(summary["nih_auroc_mean"]) == set(summary["nih_auroc_mean_interval"]) == readers - {"measure"}  # no coin
    low, high = summary["nih_auroc_interval"]["chosen"]["square"]
    assert low <= summary["nih_auroc"]["chosen"]["square"] <= high
    assert summary["nih_auroc"]["chosen"]["square"] > 0.95
    assert summary["nih_view_column_auroc"]["square"] > 0.7
    assert "0 do not" in summary["nih_left_out"]["arms"]
    assert "arms" not in summary["nih_auroc"]["chosen"]
    assert sum(Counter(summary["nih_chosen"]["square"]).values()) == 5
    shown = capsys.readouterr().out
    assert all(reader in shown for reader in readers)
    assert "left out: rare" in shown
