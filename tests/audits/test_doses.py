"""Dose and response: known curves are told apart, editors that ignore the dose are found, tests are scipy's."""

import numpy as np
import pandas as pd
import pytest
from audits.test_limits import CONCEPTS, CONTRASTS, DATASET, GRAPH, BlockReader, Perfect
from scipy import stats

from causal_cxr.audits import doses as module
from causal_cxr.audits.doses import dose_curves, dose_responses, ignored
from causal_cxr.audits.measure import measure
from causal_cxr.audits.plans import plan
from causal_cxr.audits.store import load_looks
from causal_cxr.audits.trials import Trials, trial_settings

DOSES = (0.25, 0.5, 0.75, 1.0, 1.25)


def curves(response, *, noise=0.02, patients=30, step=1.0, seed=0) -> pd.DataFrame:
    """Scores of view's reading that follow ``response(dose)``, both directions alike, two images a patient."""
    rng = np.random.default_rng(seed)
    rows = []
    for row in range(2 * patients):
        sign = 1 if row % 2 else -1
        start = 0.1 if sign > 0 else 0.9
        for dose in (0.0, *DOSES):
            change = response(dose) + (rng.normal(0, noise) if dose else 0.0)
            rows.append({"editor": "e", "row": row, "patient": f"p{row // 2}", "contrast": "view", "attribute": "view",
                         "kind": "dose", "orientation": sign, "accepted": True, "along": "strength", "dose": dose,
                         "beyond": 0.02 * dose, "step": 0.02 * abs(dose - 1) * step,
                         "blocks/AP view": start + sign * change})  # fmt: skip
    return pd.DataFrame(rows)


def responses(frame: pd.DataFrame, **options) -> pd.Series:
    (row,) = dose_responses(frame, {"blocks": CONCEPTS[2:]}, {"blocks": BlockReader().quality}, **options).to_dict(
        "records"
    )
    return pd.Series(row)


CASES = [
    (lambda d: 0.5 * d, "rises"), (lambda d: -0.5 * d, "falls"), (lambda d: 0.0, "flat"),
    (lambda d: 0.5 * min(d, 0.5), "rises"), (lambda d: 0.6 * d * (1.25 - d), "not monotone"),
]  # fmt: skip


@pytest.mark.parametrize(("response", "expected"), CASES)
def test_the_shape_of_a_response_is_told(response, expected):
    assert responses(curves(response))["response"] == expected


def test_the_slope_is_that_of_the_line_on_the_scale_of_the_concept():
    found = responses(curves(lambda d: 0.4 * d))
    assert found["slope"] == pytest.approx(0.4 / 0.8, abs=0.01)  # the reader's slope is 0.8
    assert found["low"] < found["slope"] < found["high"]
    assert (found["n"], found["patients"], found["doses"]) == (60, 30, 6)


def test_a_trend_is_pages_on_patient_means_and_needs_no_direction():
    frame = curves(lambda d: 0.02 * d, noise=0.05, patients=8)
    changes = np.array([
        one["orientation"].iloc[0] * (one["blocks/AP view"] - one["blocks/AP view"].iloc[0]).to_numpy()
        for _, one in frame.groupby("row")
    ])  # fmt: skip
    table = changes.reshape(8, 2, -1).mean(axis=1)
    up, down = stats.page_trend_test(table).pvalue, stats.page_trend_test(-table).pvalue
    assert responses(frame)["p_trend"] == pytest.approx(min(1, 2 * min(up, down)))


def test_under_no_response_trends_and_breaks_are_rare():
    found = [
        responses(curves(lambda d: 0.0, noise=0.2, patients=12, seed=s))[["p_trend", "p_break"]] for s in range(200)
    ]
    table = pd.DataFrame(found).to_numpy(dtype=float) <= 0.05
    assert (table.sum(axis=0) <= stats.binom.ppf(0.999, 200, 0.05)).all()


def test_a_monotone_response_is_rarely_called_broken():
    broken = [
        responses(curves(lambda d: 0.3 * min(d, 0.5), noise=0.1, patients=12, seed=s))["p_break"] <= 0.05
        for s in range(200)
    ]
    assert sum(broken) <= stats.binom.ppf(0.999, 200, 0.05)


def test_few_patients_are_undecided():
    found = responses(curves(lambda d: 0.5 * d, patients=2))
    assert found["response"] == "undecided"
    assert np.isnan(found["slope"])


def test_images_rejected_at_one_dose_are_left_out_of_all():
    frame = curves(lambda d: 0.5 * d)
    frame.loc[(frame["row"] < 10) & (frame["dose"] == 0.5), "accepted"] = False
    assert responses(frame)["n"] == 50


def test_edits_that_are_the_same_at_every_dose_are_no_response():
    frame = curves(lambda d: 0.5 * (d > 0), step=0.0)
    assert responses(frame)["response"] == "dose ignored"
    assert ignored(frame) == [
        "e ignores the strength: do(view) gives the same images at 0.25, 0.5, 0.75, 1.25 as at 1."
    ]
    assert ignored(curves(lambda d: 0.5 * d)) == []


class IgnoresStrength(Perfect):
    def redraw(self, images, factual, target, strength):
        return self.blocks(images, factual, target, 1.0)


def measured(editor, folder, steps=()):
    made = plan(GRAPH, DATASET, CONTRASTS, np.arange(60), None, seed=1, batch_size=32, steps=steps)
    measure(DATASET, {"one": editor}, [BlockReader()], made, folder, manifest={}, trials=Trials(1, DOSES, 60))
    return load_looks(folder, trial_settings(Trials(1, DOSES, 60), made.ladders)).doses


def answered(doses: pd.DataFrame) -> pd.DataFrame:
    return dose_responses(doses, {"blocks": CONCEPTS}, {"blocks": BlockReader().quality})


def test_an_audit_measures_the_response_to_strength_and_to_the_attribute(tmp_path):
    doses = measured(Perfect(DATASET), tmp_path, steps=(0.5, 1.0, 1.5))
    assert set(doses["kind"]) == {"dose"}
    found = answered(doses).set_index(["along", "contrast", "concept"])["response"].sort_index()
    for concept, contrast in (("old", CONTRASTS[0]), ("female", CONTRASTS[1]), ("AP view", CONTRASTS[2])):
        assert found["strength", contrast.name, concept] == "rises"
        others = found.xs(("strength", contrast.name)).drop(concept)
        assert set(others) == {"flat"}
    assert found["attribute", CONTRASTS[0].name, "old"] == "rises"
    assert set(found.xs("attribute").index.get_level_values("contrast")) == {CONTRASTS[0].name}
    assert ignored(doses) == []


def test_an_audit_without_doses_has_no_responses(tmp_path):
    made = plan(GRAPH, DATASET, CONTRASTS, np.arange(8), None, seed=1, batch_size=32)
    measure(DATASET, {"one": Perfect(DATASET)}, [BlockReader()], made, tmp_path, manifest={})
    doses = load_looks(tmp_path, {}).doses
    assert answered(doses).empty
    assert ignored(doses) == []


def test_a_curve_is_the_mean_change_at_each_dose(tmp_path):
    doses = measured(Perfect(DATASET), tmp_path)
    curve = dose_curves(doses, {"blocks": CONCEPTS}, {"blocks": BlockReader().quality})
    view = curve[(curve["contrast"] == CONTRASTS[2].name) & (curve["concept"] == "AP view")].set_index("dose")["change"]
    np.testing.assert_allclose(view[[0, 0.25, 0.5, 1.0]], [0, 0.25, 0.5, 1.0], atol=0.01)  # 0.8 d over a slope of 0.8


def test_an_editor_that_ignores_strength_is_said_to(tmp_path):
    doses = measured(IgnoresStrength(DATASET), tmp_path)
    assert set(answered(doses)["response"]) == {"dose ignored"}
    assert len(ignored(doses)) == 3


class DoesNothing(Perfect):
    def redraw(self, images, factual, target, strength):
        return images.clone()


def test_an_editor_that_changes_nothing_is_not_said_to_ignore_the_dose(tmp_path):
    doses = measured(DoesNothing(DATASET), tmp_path)
    assert set(answered(doses)["response"]) == {"changes nothing"}
    assert ignored(doses) == []


def test_steps_that_would_leave_the_support_the_other_way_are_left_out(tmp_path):
    made = plan(GRAPH, DATASET, CONTRASTS, np.arange(60), None, seed=1, batch_size=32, steps=(0.5, 2.0))
    (ladder,) = made.ladders.values()
    doses = measured(Perfect(DATASET), tmp_path, steps=(0.5, 2.0))
    far = doses[(doses["along"] == "attribute") & (doses["dose"] == 2.0)]
    assert (
        0 < len(far) < (doses[(doses["along"] == "attribute") & (doses["dose"] == 1.0)]["orientation"] != 0).sum() + 1
    )
    target = dict(ladder)[2.0]
    for row, orientation in zip(far["row"], far["orientation"], strict=True):
        shifted = float(target.total["age"].iloc[row]) - float(DATASET.attributes["age"].iloc[row])
        assert shifted == pytest.approx(40.0 * orientation, abs=1e-6)


@pytest.mark.parametrize("bad", [(0.0,), (-1.0, 1.0)])
def test_a_dose_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="above 0"):
        Trials(doses=bad)


def test_a_fall_for_sure_breaks_and_no_step_at_all_does_not():
    certain = np.tile([0.0, 1.0, 0.5], (5, 1))
    assert module._break(certain, 1.0) == (0.0, 0.5)
    assert module._break(np.zeros((5, 3)), 1.0) == (1.0, 0.0)
