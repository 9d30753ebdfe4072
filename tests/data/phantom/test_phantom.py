"""``Phantom``: a dataset as any other, whose counterfactuals are true."""

import numpy as np
import pandas as pd
import pytest
import torch
from data.phantom.small_worlds import logistic, small

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.phantom.phantom import Phantom
from causal_cxr.data.phantom.radiograph import DRAWABLES
from causal_cxr.data.phantom.world import World

SIZE = 48


@pytest.fixture(scope="module")
def portable():
    return World.load("portable").sample(80, seed=1, size=SIZE)


def set_to(phantom, rows, **values):
    """The recorded table of some rows with a column set."""
    return phantom.attributes.loc[rows].assign(**values)


def outside(name):
    """``(SIZE, SIZE)`` True where a drawable changes no pixel."""
    top, left, bottom, right = DRAWABLES[name].region
    free = torch.ones(SIZE, SIZE, dtype=torch.bool)
    free[int(top * SIZE) : int(np.ceil(bottom * SIZE)) + 1, int(left * SIZE) : int(np.ceil(right * SIZE)) + 1] = False
    return free


# -- as any dataset ----------------------------------------------------------------------------------------------------
def test_it_is_a_dataset(portable):
    assert isinstance(portable, Dataset)
    assert len(portable) == len(portable.attributes) == len(portable.patients) == len(portable.texts) == 80
    assert list(portable.attributes) == list(portable.graph.labelled)
    assert list(portable.attributes.index) == list(range(80))
    pd.testing.assert_frame_equal(portable.graph.coerce(portable.attributes), portable.attributes)
    images = portable.images(np.array([5, 3, 5]))
    assert images.shape == (3, 1, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])
    assert (portable.texts.str.len() > 5).all()


def test_the_same_seed_gives_the_same_dataset(portable):
    again = Phantom(80, "portable", seed=1, size=SIZE)
    rows = np.arange(6)
    assert again.attributes.equals(portable.attributes)
    assert again.texts.equals(portable.texts)
    assert again.patients.equals(portable.patients)
    assert again.hidden.equals(portable.hidden)
    assert torch.equal(again.images(rows), portable.images(rows))


def test_fingerprints_tell_datasets_apart():
    recipes = [
        (9, "portable", 48, 0),
        (8, "portable", 48, 0),
        (9, "null", 48, 0),
        (9, "portable", 64, 0),
        (9, "portable", 48, 1),
    ]
    prints = [Phantom(n, world, size=size, seed=seed).fingerprint for n, world, size, seed in recipes]
    assert len(set(prints)) == len(prints)
    assert Phantom(9, "portable", size=48).fingerprint == prints[0]


def test_datasets_of_different_seeds_share_no_patient(portable):
    other = Phantom(80, "portable", seed=2, size=SIZE)
    assert not set(portable.patients) & set(other.patients)
    assert 80 / 3 <= portable.patients.nunique() < 80


@pytest.mark.parametrize("name", World.names())
def test_every_world_can_be_drawn(name):
    phantom = World.load(name).sample(4, seed=0, size=SIZE)
    assert phantom.images(np.arange(4)).isfinite().all()
    assert list(phantom.hidden) == [sign.name for sign in phantom.world.hidden_signs]


def test_images_of_a_patient_show_the_same_body():
    mechanisms = {"x": {"probability": 0.5}}
    world = small(mechanisms, patients={"images": [3, 3], "anatomy": 0.8})
    anatomy = world.sample(900, seed=0)._picture.anatomy.reshape(300, 3, -1)
    for a, b in ((0, 1), (1, 2)):
        assert np.corrcoef(anatomy[:, a].ravel(), anatomy[:, b].ravel())[0, 1] == pytest.approx(0.8, abs=0.03)
    assert anatomy.std() == pytest.approx(1, abs=0.03)


def test_what_is_hidden_is_told_for_judging_and_in_no_column(portable):
    assert not set(portable.hidden) & set(portable.attributes)
    assert portable.hidden["pacemaker"].to_numpy() == pytest.approx(portable.codes["pacemaker"])


def test_reports_say_what_shows_and_nothing_else():
    world = World.from_dict(
        {**World.load("portable").to_dict(), "reports": {"mentions": {"pacemaker": {"present": 1, "absent": 0}}}}
    )
    phantom = world.sample(60, seed=3)
    said = phantom.texts.str.lower().str.contains("pacemaker")
    assert (said == (phantom.hidden["pacemaker"] == 1)).all()
    assert not phantom.texts.str.contains("week").any()  # the day does not show


# -- counterfactuals ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("coupling", ["monotone", "gumbel", "independent"])
@pytest.mark.parametrize("name", ["portable", "label-noise", "scanner-site"])
def test_the_recorded_table_is_no_intervention_even_where_it_is_wrong(name, coupling):
    world = World.from_dict({**World.load(name).to_dict(), "coupling": coupling})
    phantom = world.sample(60, seed=0, size=SIZE)
    if name == "label-noise":
        true = phantom.graph.attributes["effusion"].decode(phantom.codes["effusion"])
        assert (true != phantom.attributes["effusion"]).any()
        assert phantom.attributes["age"].isna().any()
    factual = phantom.images(np.arange(60))
    assert torch.equal(phantom.counterfactual(phantom.attributes), factual)
    assert torch.equal(phantom.counterfactual(phantom.attributes[[]]), factual)
    factual = phantom.images(np.arange(20))
    for member in phantom.counterfactual_set(phantom.attributes.iloc[:20], k=2):
        assert torch.equal(member, factual)


def test_hidden_effects_follow_and_the_rest_stays(portable):
    rows = np.arange(80)
    codes = portable.counterfactual_codes(set_to(portable, rows, view="AP"))
    assert (codes["view"] == 1).all()
    for name in portable.graph.labelled:
        if name != "view":
            assert np.array_equal(codes[name], portable.codes[name])
    assert np.array_equal(codes["pacemaker"], portable.codes["pacemaker"])
    assert (codes["portable_marker"] >= portable.codes["portable_marker"]).all()
    assert codes["portable_marker"].mean() > portable.codes["portable_marker"].mean() + 0.2


def test_labelled_descendants_are_as_the_target_says(portable):
    """An audit's target table has them; they do not follow by themselves."""
    codes = portable.counterfactual_codes(portable.attributes[["cardiomegaly"]].assign(cardiomegaly=1))
    assert np.array_equal(codes["effusion"], portable.codes["effusion"])


def test_hidden_attributes_can_be_set_and_change_their_own_region_alone(portable):
    rows = np.flatnonzero(portable.codes["control_ring"] == 0)[:10]
    after = portable.counterfactual(set_to(portable, rows, control_ring=1))
    changed = (after - portable.images(rows)).abs()
    assert (changed[:, 0, outside("control_ring")] == 0).all()
    assert (changed.amax((1, 2, 3)) > 0.02).all()


def test_a_target_of_some_rows_is_of_those_rows(portable):
    rows = np.array([40, 3, 17])
    every = portable.counterfactual(set_to(portable, np.arange(80), sex="female"))
    some = portable.counterfactual(set_to(portable, rows, sex="female"))
    torch.testing.assert_close(some, every[rows], atol=1e-5, rtol=0)  # in another batch sums round otherwise


# -- sets of counterfactuals -------------------------------------------------------------------------------------------
def test_sets_have_their_shape_and_their_seed(portable):
    target = set_to(portable, np.arange(5), view="AP")
    one = portable.counterfactual_set(target, k=3, seed=4)
    assert one.shape == (3, 5, 1, SIZE, SIZE)
    assert torch.equal(one, portable.counterfactual_set(target, k=3, seed=4))
    assert portable.counterfactual_set(target).shape[0] == 16


def test_what_appears_lies_elsewhere_in_each_member_and_all_else_is_shared(portable):
    rows = np.flatnonzero(portable.codes["pacemaker"] == 0)[:6]
    members = portable.counterfactual_set(set_to(portable, rows, pacemaker=1), k=5)
    factual = portable.images(rows)
    free = outside("pacemaker")
    for i, member in enumerate(members):
        assert torch.equal(member[:, 0, free], factual[:, 0, free])
        for other in members[:i]:
            assert ((member - other).abs().amax((1, 2, 3)) > 0.02).all()


def test_what_is_there_stays_where_it_is(portable):
    rows = np.flatnonzero((portable.codes["laterality_marker"] == 1) & (portable.codes["control_dot"] == 0))[:6]
    members = portable.counterfactual_set(set_to(portable, rows, control_dot=1), k=4)
    factual = portable.images(rows)
    for member in members:
        assert torch.equal(member[:, 0, outside("control_dot")], factual[:, 0, outside("control_dot")])


def test_what_goes_leaves_one_image(portable):
    rows = np.flatnonzero(portable.codes["control_bar"] == 1)[:6]
    members = portable.counterfactual_set(set_to(portable, rows, control_bar=0), k=4)
    assert all(torch.equal(member, members[0]) for member in members)
    assert torch.equal(members[0], portable.counterfactual(set_to(portable, rows, control_bar=0)))


def test_members_differ_in_what_the_image_does_not_say():
    """Given view PA without leads, AP has leads in some members and not in others, as often as the posterior says."""
    world = small(
        {"view": {"probability": 0.5}, "ecg_leads": logistic(-1, view=2)}, hidden=("ecg_leads",),
        types={"view": ["PA", "AP"]},
    )  # fmt: skip
    phantom = world.sample(60, seed=0, size=SIZE)
    rows = np.flatnonzero((phantom.codes["view"] == 0) & (phantom.codes["ecg_leads"] == 0))
    target = set_to(phantom, rows, view="AP")
    without = phantom.counterfactual(target.assign(ecg_leads=0))
    leads = [(member - without).abs().amax((1, 2, 3)) > 0 for member in phantom.counterfactual_set(target, k=40)]
    low, high = 1 / (1 + np.e), np.e / (1 + np.e)
    assert torch.stack(leads).float().mean() == pytest.approx((high - low) / (1 - low), abs=0.05)


# -- refusals ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pacemakers": 1}, r"Cannot set \['pacemakers'\]; the world has \['age'"),
        ({"view": "LL"}, r"'view' cannot be 'LL'; choose from \['PA', 'AP'\]"),
        ({"pacemaker": 2}, r"'pacemaker' cannot be .*2"),
        ({"age": 140}, r"'age' cannot be .*140.*; give a number of years"),
        ({"age": float("nan")}, r"missing values: {'age': \[0, 1, 2\]}; leave those rows out or impute"),
    ],
)
def test_what_cannot_be_set_is_refused(portable, values, message):
    for ask in (portable.counterfactual, portable.counterfactual_set):
        with pytest.raises(ValueError, match=message):
            ask(set_to(portable, np.arange(4), **values))


def test_rows_that_are_not_there_and_empty_sets_are_refused(portable):
    with pytest.raises(ValueError, match=r"no rows \[80\]; the target's index names rows 0 to 79"):
        portable.counterfactual(portable.attributes.iloc[:1].set_axis([80]))
    with pytest.raises(ValueError, match="one counterfactual or more, got k=0"):
        portable.counterfactual_set(portable.attributes.iloc[:1], k=0)
    with pytest.raises(ValueError, match="one image or more"):
        Phantom(0)
