"""Rejected edits: counted in each group, with reasons, and what they could change bounded."""

import dataclasses
import html
import re

import numpy as np
import pandas as pd
import pytest
from fakes import GRAPH, CornerDataset, CornerEditor, CornerReader
from scipy import stats

from causal_cxr.audits import Audit, Report
from causal_cxr.audits.acceptance import acceptance_rates, patient_groups
from causal_cxr.audits.effects import paired_effect, rejection_bounds
from causal_cxr.editors.editor import Edit
from causal_cxr.graphs import Binary, CausalGraph, Continuous

# Rates

AGED = CausalGraph(
    [Continuous("age", unit="years", low=0, high=100), Binary("view", levels=("PA", "AP"))], [("view", "image")]
)
TABLE = pd.DataFrame({"age": [20.0, 40.0, 60.0, 80.0, 99.0], "view": ["PA", "PA", "AP", "AP", "AP"]})


def edits(kind: str, orientation: list[int], reasons: list[str], contrast: str = "") -> pd.DataFrame:
    rows = np.arange(len(reasons))
    return pd.DataFrame(
        {"editor": "e", "row": rows, "patient": rows.astype(str), "contrast": contrast, "attribute": contrast[:4],
         "kind": kind, "orientation": orientation, "accepted": [not reason for reason in reasons], "reason": reasons}
    )  # fmt: skip


MEASURED = pd.concat(
    [
        edits("factual", [0] * 5, ["unreadable: truncated", "", "", "", ""]),
        edits("null", [0] * 4, ["", "", "", "blurred"]),
        edits(
            "total", [1, 1, -1, 0],
            ["image-image similarity 0.41 < 0.60; image-text similarity 0.10 < 0.20", "image-image similarity 0.52 < 0.60", "", "blank"],
            "view: PA -> AP",
        ),
    ]
).assign(editor=lambda frame: frame["editor"].where(frame["kind"] != "factual", ""))  # fmt: skip


def rates() -> pd.DataFrame:
    return acceptance_rates(MEASURED, AGED.coerce(TABLE), AGED)


def test_acceptance_is_counted_by_contrast_and_group_where_an_edit_applies():
    found = rates().set_index(["kind", "group", "level"])[["n", "accepted", "rate"]]
    assert {key: tuple(row) for key, row in zip(found.index, found.to_numpy(), strict=True)} == {
        ("null", "", ""): (4, 3, 0.75),
        ("null", "age", "up to 50"): (2, 2, 1.0), ("null", "age", "over 50"): (2, 1, 0.5),
        ("null", "view", "PA"): (2, 2, 1.0), ("null", "view", "AP"): (2, 1, 0.5),
        ("total", "", ""): (3, 1, 1 / 3),
        ("total", "age", "up to 50"): (2, 0, 0.0), ("total", "age", "over 50"): (1, 1, 1.0),
        ("total", "view", "PA"): (2, 0, 0.0), ("total", "view", "AP"): (1, 1, 1.0),
    }  # fmt: skip


def test_reasons_are_counted_whatever_their_numbers_the_commonest_first():
    found = rates().set_index(["kind", "group", "level"])["reasons"]
    assert found["total", "", ""] == "image-image similarity (2); image-text similarity (1)"
    assert found["null", "", ""] == "blurred (1)"
    assert found["null", "view", "PA"] == ""


def wilson(p: float, n: int, patients: int) -> np.ndarray:
    """Of n independent trials, with the t quantile of so many patients."""
    t = stats.t.ppf(0.975, patients - 1)
    centre, half = p + t**2 / (2 * n), t * np.sqrt(p * (1 - p) / n + t**2 / (4 * n**2))
    return (np.array([centre - half, centre + half])) / (1 + t**2 / n)


def test_a_rate_of_one_image_a_patient_has_wilsons_interval_with_students_quantile():
    row = rates().query("kind == 'null' and group == ''").iloc[0]
    np.testing.assert_allclose([row["low"], row["high"]], wilson(0.75, 4, 4), atol=1e-5)


def rate_of(accepted: np.ndarray, patients: np.ndarray) -> pd.Series:
    """Over null edits of so many images, all of one group."""
    reasons = ["" if kept else "blurred" for kept in accepted]
    table = AGED.coerce(pd.DataFrame({"age": np.full(len(accepted), 50.0), "view": "PA"}))
    measured = edits("null", [0] * len(accepted), reasons).assign(patient=patients.astype(str))
    return acceptance_rates(measured, table, AGED).query("group == ''").iloc[0]


def test_images_of_a_patient_that_go_together_say_no_more_than_one():
    accepted = np.arange(40) % 4 != 0
    once = rate_of(accepted, np.arange(40))
    thrice = rate_of(np.repeat(accepted, 3), np.repeat(np.arange(40), 3))
    assert (once["n"], thrice["n"], thrice["accepted"]) == (40, 120, 90)
    np.testing.assert_allclose([thrice["low"], thrice["high"]], [once["low"], once["high"]])
    np.testing.assert_allclose([once["low"], once["high"]], wilson(0.75, 40, 40), atol=1e-9)


@pytest.mark.parametrize("kept", [True, False])
def test_where_all_or_none_are_accepted_the_patients_bound_what_others_may_show(kept):
    row = rate_of(np.full(60, kept), np.repeat(np.arange(20), 3))
    assert row["rate"] == kept
    np.testing.assert_allclose([row["low"], row["high"]], wilson(float(kept), 20, 20), atol=1e-9)


def test_two_patients_tell_nothing_of_others_however_many_their_images():
    row = rate_of(np.arange(40) % 4 != 0, np.arange(40) % 2)
    assert (row["rate"], row["low"], row["high"]) == (0.75, 0.0, 1.0)


@pytest.mark.parametrize("bands", [2, 4])
@pytest.mark.parametrize(
    "values",
    [np.arange(2010, 2018).repeat(25), np.linspace(69_990, 70_010, 200), np.linspace(20, 90, 200), np.linspace(0, 1e-9, 200)],
)  # fmt: skip
def test_bands_of_a_number_are_about_equally_large_and_told_apart_whatever_its_size(values, bands):
    graph = CausalGraph([Continuous("x", unit="", low=0, high=1e6)])
    groups = list(patient_groups(pd.DataFrame({"x": values.astype(float)}), graph, bands))
    assert len({level for _, level, _ in groups}) == len(groups) == bands
    assert all(len(rows) == pytest.approx(200 / bands, abs=5) for _, _, rows in groups)
    told = float(groups[0][1].removeprefix("up to "))
    assert (values[groups[0][2]] <= told).all()
    assert len(groups[0][1].removeprefix("up to ")) <= 8


def test_without_edits_there_are_no_rates():
    found = acceptance_rates(MEASURED[MEASURED["kind"] == "factual"], AGED.coerce(TABLE), AGED)
    assert found.empty
    assert "rate" in found.columns


# Bounds

PATIENTS = np.arange(4)


def bounds(edited, null, orientation, edited_known, null_known):
    both = rejection_bounds(
        np.array(edited), np.array(null), np.array(orientation), np.array(edited_known, dtype=bool),
        np.array(null_known, dtype=bool), PATIENTS,
    )  # fmt: skip
    return tuple(effect.value for effect in both)


EDITED, NULL = [0.9, 0.8, 0.3, 0.7], [0.1, 0.2, 0.6, 0.1]


@pytest.mark.parametrize(
    ("orientation", "edited_known", "null_known", "low", "high"),
    [
        (1, 1, 1, 0.3, 0.3),
        (1, 0, 1, -0.2, 0.8),  # in [0 - 0.2, 1 - 0.2]
        (-1, 0, 1, -0.8, 0.2),  # in [0.2 - 1, 0.2 - 0]
        (1, 1, 0, -0.5, 0.5),  # in [0.5 - 1, 0.5 - 0]
        (-1, 1, 0, -0.5, 0.5),
        (1, 0, 0, -1.0, 1.0),
        (-1, 0, 0, -1.0, 1.0),
    ],
)
def test_a_rejected_score_may_be_anything_in_0_to_1(orientation, edited_known, null_known, low, high):
    """Edited 0.5, null 0.2, of one image; the three others are accepted and differ by 0."""
    found = bounds(
        [0.5, 0.5, 0.5, 0.5], [0.5] * 3 + [0.2], [1, 1, 1, orientation], [1, 1, 1, edited_known], [1, 1, 1, null_known]
    )
    np.testing.assert_allclose(found, np.array([low, high]) / 4, atol=1e-12)


def test_what_a_rejected_image_scores_is_not_looked_at():
    known = [1, 0, 1, 1]
    assert bounds(EDITED, NULL, [1] * 4, known, [1] * 4) == bounds(
        [0.9, np.nan, 0.3, 0.7], NULL, [1] * 4, known, [1] * 4
    )


def test_where_all_is_accepted_both_bounds_are_the_paired_effect():
    orientation = np.array([1, -1, 1, -1])
    low, high = rejection_bounds(np.array(EDITED), np.array(NULL), orientation, *np.ones((2, 4), dtype=bool), PATIENTS)
    assert low == high == paired_effect(orientation * (np.array(EDITED) - np.array(NULL)), PATIENTS)


def test_bounds_hold_the_estimate_that_all_edits_would_have_given():
    rng = np.random.default_rng(0)
    for _ in range(20):
        edited, null = rng.uniform(size=(2, 40))
        sign, known, patients = rng.choice([-1, 1], 40), rng.uniform(size=(2, 40)) < 0.8, rng.integers(0, 15, 40)
        truth = paired_effect(sign * (edited - null), patients).value
        low, high = rejection_bounds(edited, null, sign, *known, patients)
        assert low.value <= truth <= high.value
        assert high.value - low.value <= 2 * (1 - (known[0] & known[1]).mean()) + 1e-12


# In an audit


class ChoosyEditor(CornerEditor):
    """Rejects what it makes of a third of the sick."""

    fingerprint = "choosy"

    def edit(self, abduction, target, *, phrasing=0, strength=1.0):
        edit = super().edit(abduction, target, phrasing=phrasing, strength=strength)
        bad = (abduction.factual["disease"] == 1).to_numpy() & (abduction.factual.index.to_numpy() % 3 == 0)
        return Edit(edit.images, ~bad, tuple("similarity 0.1 < 0.6" if b else "" for b in bad), edit.evaluations)


@pytest.fixture(scope="module")
def report() -> Report:
    return Audit(GRAPH, [CornerReader()], n_edited=300).run(
        {"choosy": ChoosyEditor(), "plain": CornerEditor()}, CornerDataset(1500), seed=1
    )


def test_an_audit_tells_acceptance_by_group(report):
    choosy = report.acceptance[(report.acceptance["editor"] == "choosy") & (report.acceptance["kind"] == "total")]
    by_group = choosy.groupby(["group", "level"])["rate"].min()
    assert by_group["disease", "0"] == 1
    assert by_group["disease", "1"] == pytest.approx(2 / 3, abs=0.1)
    assert set(choosy.loc[choosy["accepted"] < choosy["n"], "reasons"].str.replace(r"\d+", "n", regex=True)) == {
        "similarity (n)"
    }
    assert (report.acceptance.loc[report.acceptance["editor"] == "plain", "rate"] == 1).all()


def test_effects_come_with_bounds_over_the_rejected(report):
    choosy, plain = (report.edges[report.edges["editor"] == name] for name in ("choosy", "plain"))
    assert (choosy["bound_low"] < choosy["editor_effect"]).all()
    assert (choosy["editor_effect"] < choosy["bound_high"]).all()
    assert (choosy["bound_low_95"] < choosy["bound_low"]).all()
    assert (choosy["bound_high_95"] > choosy["bound_high"]).all()
    np.testing.assert_allclose(choosy["rejected"], 1 / 6, atol=0.05)
    width = (choosy["bound_high"] - choosy["bound_low"]) * choosy["slope"]
    np.testing.assert_allclose(width, 2 * choosy["rejected"], atol=1e-6)  # both the edits and their nulls are rejected
    assert (plain["rejected"] == 0).all()
    for bound in ("bound_low", "bound_high"):
        np.testing.assert_allclose(plain[bound], plain["editor_effect"])
    whole, other = (frame.set_index(["contrast", "concept"]) for frame in (choosy, plain))
    assert (whole["bound_low"] <= other["editor_effect"]).all()  # what the rejected would have shown is between
    assert (other["editor_effect"] <= whole["bound_high"]).all()


def test_the_page_shows_rates_reasons_and_bounds_and_says_where_there_are_none(report):
    def words(markup: str) -> str:
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())

    page = words(report.to_html())
    assert re.search(
        r"choosy view: PA → AP \d+ 8\d% \[\d+%, \d+%\] disease 1 \d+% of \d+ · disease 0 100% of \d+ similarity \(\d+\)",
        page,
    )
    assert re.search(r"1\d% of the edits were rejected ; whatever they would have shown, the effect lies between", page)
    one = report.acceptance[report.acceptance["editor"] == "plain"]
    none = dataclasses.replace(report, acceptance=one).to_html()
    assert "No edit was rejected." in none


def test_rates_are_saved_with_the_report(report, tmp_path):
    pd.testing.assert_frame_equal(Report.load(report.save(tmp_path / "r")).acceptance, report.acceptance)
