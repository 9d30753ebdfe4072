"""Sets of patients on paper: nothing lost, little space."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_cxr.data.patients import AtLeast, all_known, fitted_on_all, pack, unpack

NAMES = st.one_of(
    st.text(max_size=6),
    st.builds(lambda prefix, number, width: f"{prefix}{number:0{width}d}", st.sampled_from(["", "a-", "a-1-", "०"]),
              st.integers(0, 30), st.integers(1, 4)),
)  # fmt: skip


@given(st.frozensets(NAMES))
def test_every_set_comes_back_through_json(patients):
    assert unpack(json.loads(json.dumps(pack(patients)))) == patients


@given(st.frozensets(NAMES))
def test_that_there_may_be_others_comes_back_too(patients):
    back = unpack(json.loads(json.dumps(pack(AtLeast(patients)))))
    assert back == patients
    assert not all_known(back)


@given(st.lists(st.one_of(st.none(), st.frozensets(NAMES), st.frozensets(NAMES).map(AtLeast))))
def test_of_parts_all_is_known_only_if_it_is_of_each_and_nobody_known_is_lost(parts):
    whole = fitted_on_all(parts)
    assert (whole or frozenset()) == frozenset().union(*(part or () for part in parts))
    assert all_known(whole) == all(all_known(part) for part in parts)


def test_numbered_patients_take_the_space_of_their_runs():
    patients = {f"independent-7001-{n:06d}" for n in range(40_000)} - {"independent-7001-000123"}
    assert pack(patients) == [{"prefix": "independent-7001-", "digits": 6, "numbers": "0-122,124-39999"}]


@pytest.mark.parametrize(
    "patients",
    [
        {"7", "07", "007"},  # three patients
        {"9", "10", "11"},
        {"٣", "3", "³"},  # digits of other scripts are no numbers to us
        {"1" * 5000},
        {"", "a\n1"},
        set(),
    ],
)
def test_names_that_look_alike_stay_apart(patients):
    assert unpack(pack(patients)) == patients


def test_the_order_of_the_set_makes_no_difference():
    names = ["b2", "a", "b1", "c10", "b10"]
    assert pack(names) == pack(reversed(names)) == pack(frozenset(names))


def test_plain_lists_are_read_and_unknown_stays_unknown():
    assert unpack(["p1", "p2", "p10"]) == {"p1", "p2", "p10"}
    assert pack(None) is None
    assert unpack(None) is None
