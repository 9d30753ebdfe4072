import json

import numpy as np
import pandas as pd
import pytest

from causal_cxr.graphs import Binary, Categorical, Continuous, attribute_from_dict

AGE = Continuous("age", unit="years", low=18, high=100, phrases=["{value:.0f}-year-old", "aged {value:.0f}"])
VIEW = Binary("view", levels=("PA", "AP"), phrases={"AP": ("portable view", "bedside view")})
RACE = Categorical("race", levels=("white", "black", "asian"), reference="black")
STAGE = Categorical("stage", levels=("none", "mild", "severe"), ordered=True)
ALL = (AGE, VIEW, RACE, STAGE)


def test_phrasings_go_round_and_values_without_words_name_themselves():
    assert [VIEW.phrase("AP", phrasing) for phrasing in range(3)] == ["portable view", "bedside view", "portable view"]
    assert VIEW.phrase("PA") == "view PA"
    assert [AGE.phrase(63.2, phrasing) for phrasing in range(2)] == ["63-year-old", "aged 63"]
    assert Continuous("dose", "mSv", 0, 1).phrase(0.5) == "dose 0.5 mSv"


def test_columns_of_ordered_levels_compare_and_unordered_ones_say_nothing_new():
    stage = STAGE.coerce(pd.Series(["severe", "none", None]))
    assert (stage > "none").tolist() == [True, False, False]
    assert stage.dtype == STAGE.decode(np.array([1.0])).dtype == pd.CategoricalDtype(STAGE.levels, ordered=True)
    assert STAGE.to_dict()["ordered"] is True
    assert "ordered" not in RACE.to_dict()  # files and fingerprints of before stay
    assert not RACE.coerce(pd.Series(["black"])).cat.ordered


@pytest.mark.parametrize("value", ["LL", 1, None, float("nan"), pd.NA, ["PA"]])
def test_a_value_that_is_no_level_is_named_with_what_is_allowed(value):
    with pytest.raises(ValueError, match=r"'view' cannot be .*choose from \['PA', 'AP'\]"):
        VIEW.check(value)


@pytest.mark.parametrize("value", [17.9, 101, "old", None, float("nan"), float("inf")])
def test_a_number_outside_the_range_is_named_with_the_range(value):
    with pytest.raises(ValueError, match=r"'age' cannot be .*years in \[18, 100\]"):
        AGE.check(value)


def test_a_value_is_returned_as_the_declared_level():
    assert Binary("effusion").check(1.0) == 1
    assert isinstance(Binary("effusion").check(np.float64(1.0)), int)
    assert RACE.reference == "black"
    assert Categorical("race", levels=("white", "black")).reference == "white"


def test_columns_are_typed_and_missing_stays_missing():
    index = [7, 3, 5]
    view = VIEW.coerce(pd.Series(["AP", None, "PA"], index=index))
    assert list(view.cat.categories) == ["PA", "AP"]
    assert list(view.index) == index
    assert view.isna().tolist() == [False, True, False]
    age = AGE.coerce(pd.Series(["20", None, 63], index=index))
    assert age.dtype == np.float64
    assert age.name == "age"
    assert age.isna().tolist() == [False, True, False]


@pytest.mark.parametrize(("attribute", "values"), [(VIEW, ["PA", "LL"]), (AGE, [20, 900]), (AGE, [20, "old"])])
def test_a_bad_value_in_a_column_is_refused_never_made_missing(attribute, values):
    with pytest.raises(ValueError, match=f"'{attribute.name}' cannot be"):
        attribute.coerce(pd.Series(values))


@pytest.mark.parametrize(
    ("attribute", "values", "codes"),
    [(VIEW, ["AP", None, "PA"], [1, np.nan, 0]), (RACE, ["asian", "white"], [2, 0]), (AGE, [20, np.nan], [20, np.nan])],
)
def test_decode_inverts_encode(attribute, values, codes):
    column = attribute.coerce(pd.Series(values))
    assert attribute.encode(column).dtype == np.float64
    np.testing.assert_array_equal(attribute.encode(column), codes)
    pd.testing.assert_series_equal(attribute.decode(attribute.encode(column)), column)


@pytest.mark.parametrize("attribute", [*ALL, Binary("drain", hidden=True), Binary("x", levels=np.array([2, 3]))])
def test_attributes_survive_json(attribute):
    assert attribute_from_dict(json.loads(json.dumps(attribute.to_dict()))) == attribute
    assert hash(attribute_from_dict(attribute.to_dict())) == hash(attribute)


def test_users_may_write_phrases_as_a_mapping():
    data = {"name": "effusion", "type": "binary", "phrases": {0: "no effusion", 1: ["effusion", "pleural effusion"]}}
    assert attribute_from_dict(data).phrase(1, 1) == "pleural effusion"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Binary(""), "needs a printable name"),
        (lambda: Binary("two\nlines"), "needs a printable name"),
        (lambda: Continuous(" ", "years", 0, 1), "needs a printable name"),
        (lambda: Binary("view", levels=("PA", "PA")), "two or more different"),
        (lambda: Binary("view", levels=("PA", "AP", "LL")), "use Categorical"),
        (lambda: Binary("view", phrases={"PA": "upright"}), r"phrases for \['PA'\]; its levels are \[0, 1\]"),
        (lambda: Binary("view", phrases={0: ()}), "no words"),
        (lambda: Categorical("race", levels=("a", "b"), reference="c"), "'race' cannot be 'c'"),
        (lambda: Continuous("age", "years", 9, 9), "low below high"),
        (lambda: Continuous("age", "years", 0, float("inf")), "low below high"),
        (lambda: Continuous("age", "years", 0, 9, phrases="{age}"), r"write the value as \{value:.0f\}"),
        (lambda: attribute_from_dict({"name": "view", "type": "boolean"}), "choose from .*'binary'"),
        (lambda: attribute_from_dict({"name": "view", "type": "binary", "level": [0, 1]}), "'view'.*level"),
        (lambda: attribute_from_dict({"type": "binary"}), "needs a printable name, got None"),
        (lambda: attribute_from_dict("view"), "written as a mapping"),
    ],
)
def test_a_wrong_declaration_is_refused_with_the_mend(build, message):
    with pytest.raises(ValueError, match=message):
        build()
