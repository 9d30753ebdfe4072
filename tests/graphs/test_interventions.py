import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous, Contrast, default_contrasts

AGE = Continuous("age", unit="years", low=18, high=98)
VIEW = Binary("view", levels=("PA", "AP"))
RACE = Categorical("race", levels=("white", "black", "asian"), reference="black")


def test_a_flip_gives_each_image_the_level_it_does_not_have():
    values = pd.Series(["PA", "AP", None], index=[4, 2, 9])
    new, orientation = Contrast("view", "flip", level="AP", reference="PA").apply(VIEW, values)
    assert new.tolist()[:2] == ["AP", "PA"]
    assert new.isna().tolist() == [False, False, True]
    assert list(new.index) == [4, 2, 9]
    assert orientation.dtype == np.int8
    assert orientation.tolist() == [1, -1, 0]


def test_a_level_contrast_leaves_other_levels_as_they_are():
    new, orientation = Contrast("race", "level", level="white", reference="black").apply(
        RACE, pd.Series(["white", "black", "asian"])
    )
    assert new.tolist() == ["black", "white", "asian"]
    assert orientation.tolist() == [-1, 1, 0]


def test_a_shift_stays_inside_the_observed_support():
    ages = pd.Series([20.0, 45.0, 60.0, np.nan])
    new, orientation = Contrast("age", "shift", shift=30.0).apply(AGE, ages)
    np.testing.assert_array_equal(new, [50.0, 45.0, 30.0, np.nan])
    assert orientation.tolist() == [1, 0, -1, 0]


@given(st.lists(st.floats(18, 98) | st.none(), min_size=1), st.floats(0.5, 80), st.sampled_from([1, -1]))
def test_every_shift_is_inside_the_support_and_oriented(ages, size, sign):
    values = pd.Series(ages, dtype=float)
    new, orientation = Contrast("age", "shift", shift=sign * size).apply(AGE, values)
    moved = orientation != 0
    np.testing.assert_allclose((new - values)[moved], orientation[moved] * sign * size)
    assert new[moved].between(values.min(), values.max()).all()
    pd.testing.assert_series_equal(new[~moved], AGE.coerce(values)[~moved])


def test_default_contrasts_cover_every_labelled_attribute():
    graph = CausalGraph([AGE, VIEW, RACE, Binary("pacemaker", hidden=True)])
    assert [contrast.name for contrast in default_contrasts(graph)] == [
        "age + 20 years", "view: PA -> AP", "race: black -> white", "race: black -> asian",
    ]  # fmt: skip
    assert default_contrasts(graph, {"age": -10})[0].name == "age - 10 years"


@pytest.mark.parametrize("shifts", [{"view": 1}, {"agee": 10}])
def test_a_shift_of_what_is_not_continuous_is_refused(shifts):
    with pytest.raises(ValueError, match=r"labelled continuous attributes are \['age'\]"):
        default_contrasts(CausalGraph([AGE, VIEW]), shifts)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Contrast("view", "swap"), r"kind 'swap'; choose from \['flip', 'level', 'shift'\]"),
        (lambda: Contrast("age", "shift"), "give a number other than 0"),
        (lambda: Contrast("age", "shift", shift=float("nan")), "give a number other than 0"),
        (lambda: Contrast("view", "flip"), "give two levels"),
        (lambda: Contrast("view", "flip", level="AP", reference="PA").apply(AGE, pd.Series([20.0])), "asked of"),
        (lambda: Contrast("view", "shift", shift=2).apply(VIEW, pd.Series(["PA"])), "a shift needs Continuous 'view'"),
        (lambda: Contrast("view", "flip", level="LL", reference="PA").apply(VIEW, pd.Series(["PA"])), "cannot be 'LL'"),
    ],
)
def test_a_contrast_that_cannot_be_asked_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_what_unedited_images_have_of_a_contrast_is_one_zero_or_not_asked():
    site = Categorical("site", levels=("a", "b", "c"))
    level = Contrast("site", "level", level="c", reference="a")
    np.testing.assert_array_equal(level.treatment(site, np.array([0.0, 1.0, 2.0, np.nan])), [0, np.nan, 1, np.nan])
    age = Continuous("age", "years", 0, 100)
    shift = Contrast("age", "shift", shift=20.0, unit="years")
    np.testing.assert_array_equal(shift.treatment(age, np.array([10.0, np.nan, 60.0])), [0.5, np.nan, 3.0])
