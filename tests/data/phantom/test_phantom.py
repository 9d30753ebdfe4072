"""The phantom as a dataset, and its true counterfactuals."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from torch import Tensor

from causal_cxr.data import Dataset
from causal_cxr.data.phantom import CONTROLS, HIDDEN_NAMES, LABELLED, WORLDS, Mechanism, Phantom, World

N = 300
ROWS = np.arange(N)


@pytest.fixture(scope="module")
def phantom():
    return Phantom(N, "portable", seed=5)


def top_left(images: Tensor) -> Tensor:
    """Where the portable marker is burnt in, and nothing else reaches."""
    side = images.shape[-1]
    return images[..., : side // 10, : side * 2 // 5]


def marked(images: Tensor) -> np.ndarray:
    """Does the portable marker show? Its letters are white, what is behind them is dark."""
    return (top_left(images).amax((-1, -2, -3)) > 0.9).numpy()


# As a dataset


def test_it_is_a_dataset_whose_table_is_typed_by_its_graph(phantom):
    assert isinstance(phantom, Dataset)
    assert len(phantom) == len(phantom.patients) == len(phantom.texts) == N
    assert tuple(phantom.attributes.columns) == tuple(attribute.name for attribute in LABELLED)
    assert list(phantom.attributes.index) == list(range(N))
    pd.testing.assert_frame_equal(phantom.attributes, phantom.graph.coerce(phantom.attributes))
    assert phantom.graph == WORLDS["portable"].graph


def test_the_table_tells_nothing_hidden(phantom):
    assert not set(phantom.attributes) & set(HIDDEN_NAMES)
    assert tuple(phantom.hidden.columns) == HIDDEN_NAMES
    assert set(np.unique(phantom.hidden)) == {0, 1}


def test_the_same_seed_gives_the_same_dataset(phantom):
    again = Phantom(N, "portable", seed=5)
    pd.testing.assert_frame_equal(again.attributes, phantom.attributes)
    pd.testing.assert_frame_equal(again.hidden, phantom.hidden)
    pd.testing.assert_series_equal(again.patients, phantom.patients)
    pd.testing.assert_series_equal(again.texts, phantom.texts)
    assert torch.equal(again.images(ROWS[:20]), phantom.images(ROWS[:20]))
    assert again.fingerprint == phantom.fingerprint


def test_another_seed_and_another_world_have_other_patients(phantom):
    for other in (Phantom(N, "portable", seed=6), Phantom(N, "null", seed=5)):
        assert not set(other.patients) & set(phantom.patients)
    assert not torch.equal(Phantom(1, seed=6).images(ROWS[:1]), phantom.images(ROWS[:1]))


@pytest.mark.parametrize(
    "change", [{"n": N + 1}, {"world": "null"}, {"size": 32}, {"seed": 6}, {"images_per_patient": 1}], ids=str
)
def test_the_fingerprint_follows_everything_that_is_drawn(phantom, change):
    assert Phantom(**({"n": N, "world": "portable", "seed": 5} | change)).fingerprint != phantom.fingerprint


def test_the_fingerprint_follows_the_mechanisms_of_a_world_of_ones_own(phantom):
    world = WORLDS["portable"]
    own = World(world.name, world.story, {**world.mechanisms, "control_dot": Mechanism(1.0)})
    assert Phantom(N, own, seed=5).fingerprint != phantom.fingerprint
    assert Phantom(N, World(world.name, world.story, world.mechanisms), seed=5).fingerprint == phantom.fingerprint


def test_images_come_in_the_order_asked_for(phantom):
    images = phantom.images(np.array([7, 2, 7]))
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])
    torch.testing.assert_close(images[1:2], phantom.images(np.array([2])), atol=1e-6, rtol=0)


def test_images_have_the_size_asked_for():
    assert Phantom(2, size=48).images(ROWS[:2]).shape == (2, 1, 48, 48)


def test_an_unknown_world_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"no world 'portble'; choose from \['independent', 'null', 'portable'\]"):
        Phantom(4, "portble")


# Patients


def test_a_patient_has_one_to_three_images_or_as_many_as_asked_for(phantom):
    assert set(phantom.patients.value_counts()[:-1]) == {1, 2, 3}
    assert (Phantom(50, images_per_patient=1).patients.value_counts() == 1).all()


def test_what_a_patient_brings_along_is_the_same_in_all_images_of_the_patient(phantom):
    table = pd.concat([phantom.attributes.astype(object), phantom.hidden], axis=1)
    values = table.groupby(phantom.patients).nunique().max()
    brought = ["age", "sex", "cardiomegaly", "pacemaker", *CONTROLS]
    assert (values[brought] == 1).all()
    assert (values.drop(brought) > 1).all()  # view, effusion and the like belong to the examination


def test_the_second_image_of_a_patient_shares_nine_tenths_of_the_anatomy():
    bare = World("bare", "Nothing but bodies.", {name: Mechanism(-50.0) for name in WORLDS["null"].mechanisms})
    phantom = Phantom(1200, bare, seed=0, size=32)
    bodies = phantom.counterfactual(phantom.attributes.assign(age=55.0))  # only anatomy and speckle are left to differ
    first = np.flatnonzero(~phantom.patients.duplicated() & phantom.patients.eq(phantom.patients.shift(-1)))
    brightness = bodies.mean((1, 2, 3)).numpy()
    assert np.corrcoef(brightness[first], brightness[first + 1])[0, 1] == pytest.approx(0.9, abs=0.04)
    stranger = np.roll(first, 1) + 1
    assert abs(np.corrcoef(brightness[first], brightness[stranger])[0, 1]) < 0.2


# Counterfactuals


def test_under_the_factual_table_the_counterfactual_is_the_image_bit_for_bit(phantom):
    rows = np.array([9, 250, 3, 4])
    assert torch.equal(phantom.counterfactual(phantom.attributes.iloc[rows]), phantom.images(rows))


def test_what_shows_in_no_image_changes_no_bit(phantom):
    flipped = phantom.attributes["weekday"].map({"weekday": "weekend", "weekend": "weekday"})
    assert torch.equal(phantom.counterfactual(phantom.attributes.assign(weekday=flipped)), phantom.images(ROWS))


def test_what_is_no_descendant_stays_bit_for_bit(phantom):
    """A pacemaker follows the heart and a drain the effusion; both lie below the markers, which follow the view alone."""
    images = phantom.images(ROWS)
    for name in ("cardiomegaly", "effusion"):
        target = phantom.attributes.assign(**{name: 1 - phantom.attributes[name].astype(int)})
        moved = (phantom.counterfactual(target) - images)[:, 0]
        assert (moved[:, :3] == 0).all()
        assert (moved.abs().amax((1, 2)) > 0.05).all()


def test_a_world_without_the_edge_leaves_the_marker_as_it_is():
    null = Phantom(N, "null", seed=5)
    has = null.hidden["portable_marker"].to_numpy() == 1
    for view in ("PA", "AP"):
        np.testing.assert_array_equal(marked(null.counterfactual(null.attributes.assign(view=view))), has)


def test_hidden_attributes_follow_their_true_mechanism(phantom):
    has = phantom.hidden["portable_marker"].to_numpy() == 1
    np.testing.assert_array_equal(marked(phantom.images(ROWS)), has)
    under = {v: marked(phantom.counterfactual(phantom.attributes.assign(view=v))) for v in ("PA", "AP")}
    mechanism = WORLDS["portable"].mechanisms["portable_marker"]
    for view, ap in (("PA", 0), ("AP", 1)):
        factually = (phantom.attributes["view"] == view).to_numpy()
        np.testing.assert_array_equal(under[view][factually], has[factually])
        p = expit(mechanism.bias + ap * mechanism.weights["view"])
        assert under[view].mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / N))
    assert (under["AP"] >= under["PA"]).all()  # the same noise: a higher threshold takes no marker away


def test_a_counterfactual_row_is_found_by_the_index(phantom):
    target = phantom.attributes.assign(age=30.0)
    some = phantom.counterfactual(target.loc[[11, 4]])
    torch.testing.assert_close(some, phantom.counterfactual(target)[[11, 4]], atol=1e-6, rtol=0)


# Sets of counterfactuals


@pytest.fixture(scope="module")
def appearing(phantom):
    """Sixteen counterfactuals under AP of PA images, and whether the portable marker was there before."""
    target = phantom.attributes[phantom.attributes["view"] == "PA"].assign(view="AP")
    before = phantom.hidden.loc[target.index, "portable_marker"].to_numpy() == 1
    return phantom.counterfactual_set(target, k=16), before


def test_a_set_has_k_members_an_image_and_is_the_same_for_the_same_seed(phantom):
    target = phantom.attributes.iloc[:6].assign(view="AP", effusion=1)
    members = phantom.counterfactual_set(target, k=4)
    assert members.shape == (4, 6, 1, 64, 64)
    assert torch.equal(members, phantom.counterfactual_set(target, k=4))
    assert not torch.equal(members, phantom.counterfactual_set(target, k=4, seed=1))


def test_under_the_factual_table_every_member_is_the_image(phantom):
    members = phantom.counterfactual_set(phantom.attributes.iloc[:100], k=3)
    assert all(torch.equal(member, phantom.images(ROWS[:100])) for member in members)


def test_an_object_that_is_there_stays_at_its_place_in_all_members(appearing):
    members, before = appearing
    there = members[:, before]
    assert before.sum() >= 5
    assert marked(there.flatten(0, 1)).all()
    torch.testing.assert_close(top_left(there), top_left(there[:1]).expand(16, -1, -1, -1, -1), atol=1e-5, rtol=0)


def test_an_appearing_object_moves_among_members(appearing):
    members, before = appearing
    for row in np.flatnonzero(~before)[:20]:
        one = members[:, row]
        shown = top_left(one[torch.as_tensor(marked(one))])
        assert len(shown) >= 5
        assert float((shown - shown[:1]).abs().amax()) > 0.1


def test_an_object_appears_as_often_as_its_noise_being_on_the_factual_side_allows(appearing):
    members, before = appearing
    absent = members[:, ~before]
    mechanism = WORLDS["portable"].mechanisms["portable_marker"]
    pa, ap = expit(mechanism.bias), expit(mechanism.bias + mechanism.weights["view"])
    p = (ap - pa) / (1 - pa)
    shows = marked(absent.flatten(0, 1))
    assert shows.mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / len(shows)))


def test_members_differ_only_where_something_can_appear_or_vanish(phantom):
    """Anatomy, exposure and speckle are shared: with nothing hidden to move, all members are one."""
    null = Phantom(60, "null", seed=5)
    members = null.counterfactual_set(null.attributes.assign(view="AP", age=80.0), k=3)
    assert torch.equal(members[1], members[0])
    assert torch.equal(members[2], members[0])
    torch.testing.assert_close(members[0], null.counterfactual(null.attributes.assign(view="AP", age=80.0)))


def test_an_appearing_effusion_takes_either_side_and_an_existing_one_keeps_its_own():
    null = Phantom(60, "null", seed=5)  # no drain comes along
    members = null.counterfactual_set(null.attributes.assign(effusion=1), k=12)
    base = members[..., 36:41, :]  # between the domes and the lungs' lower borders
    right_less_left = (base[..., 12:25].mean((-1, -2)) - base[..., 39:52].mean((-1, -2)))[..., 0]
    had = null.attributes["effusion"].to_numpy() == 1
    spread = right_less_left.std(0).numpy()
    assert (spread[had] < 1e-6).all()
    assert (spread[~had] > 0.02).all()


def test_rows_with_missing_attributes_are_not_drawn():
    phantom = Phantom(4, "portable", seed=1, size=32)
    target = phantom.attributes.copy()
    target.loc[2, "view"] = None
    for draw in (phantom.counterfactual, phantom.counterfactual_set):
        with pytest.raises(ValueError, match=r"missing attributes: \{'view': \[2\]\}"):
            draw(target)
