"""Verdicts come from rejections, and a ranking from amount, prevalence and confidence."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causal_cxr.audits.shortcuts.verdicts import decide, rank

ROW = {
    "contrast": "view: PA -> AP", "legitimate": False, "gate": "", "bars_invariant": "", "p_yes": 1.0, "p_no": 1.0,
    "p_unmoved": 1e-9, "leak": "unmoved", "leak_why": "", "needed_gain": 500.0, "needed_leak": np.nan, "n_patients": 100,
    "gain": 0.3, "beyond": np.nan, "prevalence": 0.5, "p_zero": 1e-9, "missing": np.nan, "missing_shown": False,
    "made_up_p_zero": np.nan, "made_up_p_no": np.nan, "p_beyond": 1e-9, "attribute": "view", "effectiveness": 1.0,
    "beyond_low": np.nan, "beyond_high": np.nan,
}  # fmt: skip


def verdict(**changes) -> pd.Series:
    return decide(pd.DataFrame([ROW | changes]), 0.05).iloc[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"p_yes": 0.001}, "reliance"),
        ({"p_no": 0.001}, "invariant"),
        ({}, "undecided"),
        ({"p_yes": 0.001, "p_unmoved": 1.0, "leak": "moved"}, "reliance confounded by leak"),
        ({"p_yes": 0.001, "p_unmoved": 0.3, "leak": "open"}, "reliance confounded by leak"),
        ({"p_yes": 0.001, "p_beyond": 0.3}, "reliance confounded by leak"),  # a small movement may explain a large gain
        ({"p_yes": 0.001, "p_unmoved": 1.0, "leak": "reader blind"}, "undecided"),
        ({"p_yes": 0.001, "gate": "editor not effective on view"}, "undecided"),
        ({"p_no": 0.001, "bars_invariant": "nothing reads view"}, "undecided"),
        ({"p_yes": 0.001, "legitimate": True}, "legitimate"),
        ({"p_yes": np.nan, "p_no": np.nan}, "undecided"),
    ],
)
def test_one_attribute(changes, expected):
    assert verdict(**changes)["verdict"] == expected


def test_an_undecided_row_says_why_and_how_many_patients_would_decide():
    assert "about 500 patients would decide" in verdict()["reason"]
    assert "patients would decide" not in verdict(needed_gain=1e6)["reason"]
    assert verdict(p_yes=0.001, p_unmoved=1.0, leak="reader blind", leak_why="fluid cannot be read")[
        "reason"
    ].startswith("reader blind: fluid")


def test_an_unmoved_target_that_may_explain_the_gain_all_the_same_is_told_with_its_numbers():
    row = {"p_yes": 0.001, "p_beyond": 0.3, "leak_why": "fluid stays: +0.06 [+0.03, +0.09]"}
    known = verdict(**row, beyond=0.01, beyond_low=-0.02, beyond_high=0.04)
    assert known["reason"].endswith("; of the gain it leaves +0.010 [-0.020, +0.040] unexplained")
    assert "no edit moves the target" in verdict(**row)["reason"]


def test_where_half_is_done_an_open_gain_says_so():
    assert "of view itself the edit does 0.40" in verdict(effectiveness=0.4)["reason"]
    assert "itself" not in verdict()["reason"]


def test_an_attribute_among_many_needs_a_smaller_p():
    alone = pd.DataFrame([ROW | {"p_yes": 0.02}])
    many = pd.DataFrame([ROW | {"p_yes": 0.02}] + [ROW] * 5)
    assert decide(alone, 0.05)["verdict"].iloc[0] == "reliance"
    assert decide(many, 0.05)["verdict"].iloc[0] == "undecided"
    assert "number of attributes" in decide(many, 0.05)["reason"].iloc[0]


def test_what_is_legitimate_is_no_member_of_the_family():
    rows = pd.DataFrame([ROW | {"p_yes": 0.02}] + [ROW | {"legitimate": True}] * 5)
    assert decide(rows, 0.05)["verdict"].tolist() == ["reliance"] + ["legitimate"] * 5


def test_rank_is_amount_times_prevalence_times_confidence():
    rows = pd.DataFrame(
        [
            ROW | {"contrast": "a", "gain": 0.2, "prevalence": 0.5},
            ROW | {"contrast": "b", "gain": -0.4, "prevalence": 0.5},
            ROW | {"contrast": "c", "gain": 0.9, "prevalence": 0.5, "legitimate": True},
            ROW | {"contrast": "d", "gain": 0.9, "prevalence": 0.5, "p_zero": 1.0},
        ]
    )
    found = rank(rows).set_index("contrast")
    assert found["rank"].to_dict() == {"b": 1, "a": 2, "d": 3, "c": 0}
    assert found["score"]["b"] == pytest.approx(0.2, rel=1e-6)
    assert found["score"]["d"] == 0


def test_a_leak_takes_off_what_it_may_explain():
    def amount(**changes):
        return rank(pd.DataFrame([ROW | {"leak": "moved"} | changes]))["amount"].iloc[0]

    assert amount(beyond=0.1) == pytest.approx(0.1)
    assert amount(beyond=-0.1) == 0  # all of it, and more
    assert amount(beyond=0.5) == pytest.approx(0.3)
    assert amount(beyond=np.nan) == pytest.approx(0.3)
    assert amount(beyond=0.1, leak="unmoved") == pytest.approx(0.3)


def test_what_an_edit_is_shown_to_move_too_little_is_made_up_in_the_ranking():
    short = {"gain": 0.01, "p_zero": 0.8, "missing": 0.4, "missing_shown": True, "made_up_p_zero": 1e-9}
    rows = pd.DataFrame([ROW | {"contrast": "a", "gain": 0.2}, ROW | {"contrast": "b"} | short])
    found = rank(rows).set_index("contrast")
    assert found["rank"].to_dict() == {"b": 1, "a": 2}
    assert found["amount"]["b"] == pytest.approx(0.41)
    unshown = rank(rows.assign(missing_shown=False)).set_index("contrast")
    assert unshown["rank"].to_dict() == {"a": 1, "b": 2}


def test_made_up_gains_make_no_verdict_and_may_bar_one():
    short = {"missing": 0.4, "missing_shown": True, "made_up_p_zero": 1e-9, "made_up_p_no": 1.0}
    assert verdict(**short)["verdict"] == "undecided"
    assert verdict(p_no=0.001, **short)["verdict"] == "undecided"
    assert verdict(p_no=0.001, **short | {"made_up_p_no": 0.001})["verdict"] == "invariant"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, -0.1, 0.3]), min_size=2, max_size=6), st.randoms())
def test_ties_are_broken_the_same_way_in_any_order(gains, random):
    rows = [ROW | {"contrast": f"c{i}", "gain": gain, "p_zero": 1.0 - abs(gain)} for i, gain in enumerate(gains)]
    shuffled = rows.copy()
    random.shuffle(shuffled)
    one, other = (rank(pd.DataFrame(r)).set_index("contrast")["rank"] for r in (rows, shuffled))
    assert one.to_dict() == other.to_dict()
    assert sorted(one) == list(range(1, len(rows) + 1))
