import numpy as np
import pandas as pd
import pytest
import torch

from causal_cxr.audits.effects import paired_ratio
from causal_cxr.audits.fidelity import (
    Question,
    Readings,
    answers,
    composition,
    counterfactual_errors,
    error_ratios,
    errors,
    leak,
    mean_error_ratio,
    mean_true_effect_agreement,
    questions,
    reversibility,
    true_effect_agreement,
    true_readings,
)
from causal_cxr.data.phantom import Phantom
from causal_cxr.editors import Abduction, Edit, OracleEditor
from causal_cxr.graphs import Contrast, default_contrasts
from causal_cxr.readers import Concept

ROWS = np.arange(12)


@pytest.fixture(scope="module")
def phantom():
    return Phantom(40, "portable", seed=3, size=32)


class Share(OracleEditor):
    """Makes a share of the true change: 0 does nothing."""

    def __init__(self, phantom, share):
        super().__init__(phantom)
        self.share = share

    def edit(self, abduction, target, **options):
        true, images = super().edit(abduction, target).images, self.phantom.images(target.index.to_numpy())
        return Edit.all_accepted(images + self.share * (true - images))


def errors_of(editor, phantom):
    return counterfactual_errors(editor, phantom, ROWS, default_contrasts(phantom.graph, {"age": 20.0}), k=4)


def test_doing_nothing_has_ratio_one_and_the_truth_about_zero(phantom):
    nothing = error_ratios(errors_of(Share(phantom, 0.0), phantom))
    np.testing.assert_allclose(nothing["ratio"], 1)
    truth = error_ratios(errors_of(OracleEditor(phantom), phantom))
    assert truth["ratio"].max() < 0.35  # it is one more draw of what the image does not tell
    assert (truth["low"] <= truth["ratio"]).all()
    assert (truth["ratio"] <= truth["high"]).all()


def test_half_the_change_is_half_the_effectiveness_and_amplifies_nothing_where_truth_is_one(phantom):
    errors = errors_of(Share(phantom, 0.5), phantom).query("attribute == 'sex'")  # nothing unrevealed hangs on sex
    np.testing.assert_allclose(errors["along"] / errors["true"] ** 2, 0.5, atol=1e-4)
    found = true_effect_agreement(errors).loc["sex"]
    assert found["effectiveness"] == pytest.approx(0.5, abs=1e-4)
    assert found["amplification"] == pytest.approx(0, abs=1e-3)
    assert found["size"] == pytest.approx(0.5, abs=1e-4)
    assert error_ratios(errors)["ratio"].item() == pytest.approx(0.5, abs=1e-3)


def test_errors_are_root_mean_squares_to_the_nearest_member(phantom):
    errors = errors_of(Share(phantom, 0.0), phantom).query("attribute == 'view'")
    target = phantom.attributes.iloc[ROWS].assign(view=lambda t: np.where(t["view"] == "AP", "PA", "AP"))
    members = phantom.counterfactual_set(target, 4, seed=0)
    distances = torch.stack([(m - phantom.images(ROWS)).square().mean(dim=(1, 2, 3)).sqrt() for m in members])
    np.testing.assert_allclose(errors["nothing"], distances.min(0).values, rtol=1e-5)


def test_an_attribute_that_shows_nowhere_and_images_beyond_the_support_are_left_out(phantom):
    errors = errors_of(OracleEditor(phantom), phantom)
    assert set(errors["attribute"]) == {"age", "sex", "view", "cardiomegaly", "effusion"}
    applies = default_contrasts(phantom.graph, {"age": 20.0})[0].apply(
        phantom.graph.attributes["age"], phantom.attributes["age"]
    )[1][ROWS]
    assert (errors["attribute"] == "age").sum() == (applies != 0).sum()


def test_intervals_resample_patients_not_images():
    rng = np.random.default_rng(0)
    one = pd.DataFrame({"attribute": "a", "edited": rng.uniform(0.3, 0.7, 30), "nothing": 1.0, "floor": 0.0})
    apart = error_ratios(one.assign(patient=np.arange(30)))
    together = error_ratios(pd.concat([one.assign(patient=np.arange(30))] * 5))
    assert (together["high"] - together["low"]).item() == pytest.approx((apart["high"] - apart["low"]).item(), rel=1e-6)


def asked(phantom, names, **options):
    contrasts = [c for c in default_contrasts(phantom.graph, {"age": 20.0}) if c.attribute in names]
    return questions(phantom, ROWS, contrasts, k=4, **options)


def made_by(editor, phantom, asked):
    return answers(editor, phantom.images(ROWS), phantom.attributes.iloc[ROWS], [one.target for one in asked])


def test_an_image_is_answered_as_its_own_question_asks_and_left_alone_by_others(phantom):
    pair = asked(phantom, {"age", "view"})
    age, view = made_by(OracleEditor(phantom), phantom, pair)
    torch.testing.assert_close(age, phantom.counterfactual(pair[0].target))
    torch.testing.assert_close(view, phantom.counterfactual(pair[1].target))


def test_the_total_effect_lets_labelled_attributes_follow_and_the_direct_one_does_not():
    phantom = Phantom(300, "portable", seed=4, size=32)
    (contrast,) = [c for c in default_contrasts(phantom.graph) if c.attribute == "cardiomegaly"]
    flow = [
        (one.redraw - phantom.counterfactual(one.target)).abs().amax(dim=(1, 2, 3))
        for one in (questions(phantom, np.arange(100), [contrast], k=1, held=held)[0] for held in (True, False))
    ]
    assert (flow[1] > 0.3).sum() > (flow[0] > 0.3).sum() + 5  # fluid came with the heart, and the view with the fluid


def test_where_members_agree_the_truth_is_wholly_effective_even_if_things_appear_at_random(phantom):
    (view,) = asked(phantom, {"view"})
    every = errors(view, view.redraw)  # another draw of what the image does not tell
    assert every["true_revealed"].notna().any()
    found = true_effect_agreement(every).loc["view"]
    assert found["effectiveness_revealed"] == pytest.approx(1, abs=0.05)
    assert found["amplification_revealed"] < min(found["amplification"], 0.35)


def test_an_appearing_thing_whose_place_is_not_in_the_image_is_no_change_that_it_reveals(phantom):
    (effusion,) = asked(phantom, {"effusion"})
    found = errors(effusion, effusion.redraw)
    appearing, going = (found.loc[found["sign"] == sign, "true_revealed"].isna().mean() for sign in (1, -1))
    assert appearing > going


def test_minimality_sees_change_where_truth_has_none(phantom):
    (effusion,) = asked(phantom, {"effusion"})
    gone = np.flatnonzero(effusion.sign == -1).tolist()
    truth = errors(effusion, effusion.redraw)
    assert truth["outside"].iloc[gone].max() < 0.01
    assert errors(effusion, (effusion.images + 0.2).clamp(0, 1))["outside"].iloc[gone].min() > 0.2
    np.testing.assert_allclose(errors(effusion, effusion.images)["made"], 0)


# -- where the truth changes nothing -------------------------------------------------------------------------------------


def planted_question(heights, *, patients=None, size=8):
    """One member: the upper half is brighter by each height, in an image each; the lower half stays."""
    images = torch.full((len(heights), 1, size, size), 0.3)
    members = images.clone()[None]
    members[0, :, :, : size // 2] += torch.tensor(heights)[:, None, None, None]
    rows, patients = np.arange(len(heights)), np.arange(len(heights)) if patients is None else np.asarray(patients)
    table, sign = pd.DataFrame({"sex": ["male"] * len(heights)}), np.ones(len(heights))
    contrast = Contrast("sex", "flip", "female", "male")
    return Question(contrast, rows, sign, patients, table, table, images, members, members[0])


def half_and_a_lower_grey(question, grey):
    """Half of the truth, and a grey in the lower half, across it."""
    edited = question.images + 0.5 * (question.members[0] - question.images)
    edited[:, :, 4:] += grey
    return edited


def test_an_image_in_which_the_truth_changes_nothing_is_added_and_not_divided_by():
    heights, grey = (0.6, 0.4, 0.2, 0.0, 1e-7) * 3, 0.1
    question = planted_question(heights)
    found = errors(question, half_and_a_lower_grey(question, grey))
    agreed = true_effect_agreement(found).loc["sex"]
    assert agreed["effectiveness"] == pytest.approx(0.5, abs=1e-5)
    assert agreed["amplification"] == pytest.approx(15 * grey / 3.6, rel=1e-5)  # halves are of equally many pixels
    assert agreed["size"] == pytest.approx(sum(np.hypot(h / 2, grey) for h in heights) / 3.6, rel=1e-5)
    assert agreed["effectiveness_revealed"] == pytest.approx(0.5, abs=1e-5)
    assert agreed["amplification_revealed"] == pytest.approx(9 * grey / 3.6, rel=1e-5)  # no change is none that shows
    assert agreed["share_revealed"] == pytest.approx(3 / 5)
    assert np.isfinite(found[["along", "across", "true", "made"]]).all(axis=None)


def test_where_all_images_change_alike_ratios_of_sums_are_means_of_ratios():
    question = planted_question((0.5,) * 6)
    agreed = true_effect_agreement(errors(question, half_and_a_lower_grey(question, 0.1))).loc["sex"]
    assert (agreed["effectiveness"], agreed["amplification"]) == pytest.approx((0.5, 0.2), rel=1e-5)
    assert agreed["left_out"] == agreed["left_out_revealed"] == ""


def test_intervals_of_agreement_are_fiellers_with_patients_as_clusters():
    rng = np.random.default_rng(0)
    heights, patients = rng.uniform(0.2, 0.6, 12), np.arange(12) // 3
    question = planted_question(heights.tolist(), patients=patients)
    edited = question.images + torch.as_tensor(rng.uniform(0.2, 1.0, 12))[:, None, None, None].float() * (
        question.members[0] - question.images
    )
    found = errors(question, edited)
    agreed = true_effect_agreement(found).loc["sex"]
    known = paired_ratio(found["along"], found["true"] ** 2, patients)
    assert tuple(agreed[["effectiveness", "effectiveness_low", "effectiveness_high"]]) == pytest.approx(
        (known.value, known.low, known.high)
    )
    apart = true_effect_agreement(found.assign(patient=np.arange(12))).loc["sex"]
    assert apart["effectiveness"] == agreed["effectiveness"]
    assert apart["effectiveness_low"] != agreed["effectiveness_low"]


@pytest.mark.parametrize(
    ("heights", "patients", "why"),
    [
        ((0.0,) * 6, range(6), "a true change of 0 an image is not told from 0"),
        ((1e-6,) * 6, range(6), "a true change of 0 an image is not told from 0"),  # alike in all, and not to be seen
        ((0.6, 0.0, 0.0, 0.0, 0.0, 0.0), range(6), "a true change of 0.57 an image is not told from 0"),
        ((0.6,) * 6, (0, 0, 0, 1, 1, 1), "fewer than three patients (6 of 6 images)"),
    ],
)
def test_an_attribute_whose_true_change_is_not_told_from_nothing_is_left_out_with_the_reason(heights, patients, why):
    question, other = planted_question(heights, patients=list(patients)), planted_question((0.5,) * 6)
    silent, plain = (errors(one, half_and_a_lower_grey(one, 0.1)) for one in (question, other))
    agreed = true_effect_agreement(silent).loc["sex"]
    assert agreed["left_out"] == why
    assert agreed[["effectiveness", "amplification", "size", "effectiveness_low"]].isna().all()
    assert agreed["left_out_revealed"]
    both = pd.concat([silent, plain.assign(attribute="age")])
    assert mean_true_effect_agreement(both) == mean_true_effect_agreement(plain)
    assert mean_true_effect_agreement(plain) == pytest.approx({"effectiveness": 0.5, "amplification": 0.2}, rel=1e-5)


def test_the_mean_ratio_is_the_mean_over_attributes(phantom):
    errors = errors_of(Share(phantom, 0.5), phantom)
    mean = mean_error_ratio(errors)
    assert mean["ratio"] == pytest.approx(error_ratios(errors)["ratio"].mean())
    assert mean["low"] <= mean["ratio"] <= mean["high"]


# -- leaks ---------------------------------------------------------------------------------------------------------------
CONCEPTS = (
    Concept("woman", ("woman",), ("man",), attribute="sex", level="female"),
    Concept("corner", ("corner",), ("no corner",)),
    Concept("elsewhere", ("elsewhere",), ("nowhere",)),
)
SLOPES = np.array([0.8, 0.5, 0.9])


def planted(effective, leaked, *, n=200, seed=0, forth_only=False):
    """Readings in which doing ``sex`` moves its own by ``effective`` of the truth, and a corner by ``leaked`` of it."""
    rng = np.random.default_rng(seed)
    sign, patients = np.where(rng.uniform(size=n) < 0.5, 1, -1), np.repeat(np.arange(n // 2), 2)
    before = rng.normal(size=(n, 3))
    true = before + sign[:, None] * np.array([1.0, 0.2, 0.0]) * SLOPES
    change = np.array([effective, 0.2 + leaked, 0.0])
    whole = before + sign[:, None] * change * SLOPES + rng.normal(scale=0.1, size=(n, 3))
    half = before + sign[:, None] * np.array([effective, 0.2, 0.0]) * SLOPES + rng.normal(scale=0.1, size=(n, 3))
    made = np.where((sign == 1)[:, None] | (not forth_only), whole, half)
    return Readings("sex", 0, sign, patients, before, true, made)


@pytest.mark.parametrize("leaked", [-0.3, 0.0, 0.3])
def test_a_planted_leak_is_measured_within_its_interval_in_units_of_the_intended_change(leaked):
    found = leak([planted(1.0, leaked, seed=1)], CONCEPTS, slopes=SLOPES)
    corner = found.cells.query("concept == 'corner'")
    assert ((corner["low"] <= leaked) & (leaked <= corner["high"])).all()
    assert ((corner["high"] - corner["low"]) < 0.15).all()
    np.testing.assert_allclose(corner["true"], 0.2, atol=1e-6)
    assert found.worst == pytest.approx(abs(leaked), abs=0.08)
    assert found.mean == pytest.approx(abs(leaked) / 2, abs=0.05)
    assert found.effectiveness()["sex"] == pytest.approx(1, abs=0.05)
    assert set(found.matrix().columns) == {"corner", "elsewhere"}


def test_intervals_hold_the_planted_leak_as_often_as_they_say():
    held = [
        (corner["low"] <= 0.2) & (corner["high"] >= 0.2)
        for corner in (
            leak([planted(1.0, 0.2, seed=seed)], CONCEPTS, slopes=SLOPES).cells.query("concept == 'corner'")
            for seed in range(40)
        )
    ]
    assert 0.88 <= np.mean(held) <= 0.99


def test_leaks_in_one_direction_do_not_hide_in_the_mean():
    found = leak([planted(1.0, 0.4, forth_only=True)], CONCEPTS, slopes=SLOPES)
    assert found.worst == pytest.approx(0.4, abs=0.08)
    assert found.worst_cell == "do(sex) forth moves corner"


def test_doing_nothing_is_not_effective_and_leaks_what_it_withholds():
    one = planted(1.0, 0.0)
    nothing = Readings(one.attribute, one.own, one.sign, one.patients, one.before, one.true, one.before)
    found = leak([nothing], CONCEPTS, slopes=SLOPES)
    assert found.effectiveness()["sex"] == 0
    np.testing.assert_allclose(found.cells.query("concept == 'corner'")["leak"], -0.2, atol=1e-6)


class Corner:
    """Reads intensities: of the breasts' height for a woman, of a corner."""

    concepts = CONCEPTS[:2]

    def read(self, images):
        return torch.stack([images[..., 16:24, :].mean(dim=(1, 2, 3)), images[..., :4, :4].mean(dim=(1, 2, 3))], dim=1)


class Brightens(OracleEditor):
    """Draws the truth, and a corner brighter by ``more`` in women, darker in men."""

    def __init__(self, phantom, more):
        super().__init__(phantom)
        self.more = more

    def edit(self, abduction, target, **options):
        images = super().edit(abduction, target).images.clone()
        images[..., :4, :4] += (
            self.more * torch.as_tensor(np.where(target["sex"] == "female", 1.0, -1.0))[:, None, None, None]
        )
        return Edit.all_accepted(images.float())


def leak_of(editor, phantom):
    (sex,) = asked(phantom, {"sex"})
    return leak([true_readings(Corner(), sex)(made_by(editor, phantom, [sex])[0])], Corner.concepts)


def test_an_oracle_leaks_nothing_and_a_leaky_editor_what_it_adds(phantom):
    truth = leak_of(OracleEditor(phantom), phantom)
    assert truth.worst < 1e-5
    assert truth.effectiveness()["sex"] == pytest.approx(1, abs=1e-5)
    leaky = leak_of(Brightens(phantom, 0.05), phantom).cells
    (sex,) = asked(phantom, {"sex"})
    readings = true_readings(Corner(), sex)(sex.redraw)
    intended = (sex.sign * (readings.true - readings.before)[:, 0]).mean()
    for sign in (1, -1):  # noqa: B007 - the query reads it
        (corner,) = leaky.query("concept == 'corner' and sign == @sign")["leak"]
        assert corner == pytest.approx(0.05 / intended, rel=1e-3)


def test_a_reader_that_does_not_read_what_is_set_is_refused(phantom):
    with pytest.raises(ValueError, match="No concept of the reader is about 'view: PA -> AP'"):
        true_readings(Corner(), asked(phantom, {"view"})[0])


# -- in a row ------------------------------------------------------------------------------------------------------------
class Drifts:
    """Adds a grey to whatever it redraws; the neutral wording adds twice that."""

    def abduct(self, images, attributes, *, seeds):
        return Abduction(attributes, images)

    def edit(self, abduction, target, *, phrasing=0, strength=1.0):
        return Edit.all_accepted(abduction.state + 0.01 * (1 + phrasing))


def test_composition_and_reversibility_add_up_what_each_edit_changes(phantom):
    images, factual = phantom.images(ROWS), phantom.attributes.iloc[ROWS]
    assert composition(Drifts(), images, factual, cycles=(1, 3)) == pytest.approx({1: 0.02, 3: 0.06}, abs=1e-6)
    assert reversibility(Drifts(), images, factual, images + 0.01, factual) == pytest.approx(0.02, abs=1e-6)
