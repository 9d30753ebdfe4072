"""The benchmark of calls: it errs as it says, and counts edges by the world's truth."""

import calls
import pytest

from causal_cxr.data.phantom import Phantom
from causal_cxr.graphs.discovery import MarkedEdge


@pytest.mark.parametrize(("turned", "follows"), [(0.0, 0.0), (0.2, 0.0), (0.05, 0.2)])
def test_calls_err_as_often_as_asked_and_follow_the_view_where_a_sign_is_absent(turned, follows):
    phantom = Phantom(4000, calls.WORLD, seed=0)
    wrong = calls.erring(phantom, turned, follows, seed=0).to_numpy() != (phantom.hidden.to_numpy() > 0.5)
    absent, ap = phantom.hidden.to_numpy() <= 0.5, (phantom.attributes["view"] == "AP").to_numpy()
    assert wrong[~absent].mean() == pytest.approx(turned, abs=0.02)
    assert wrong[~ap][absent[~ap]].mean() == pytest.approx(turned, abs=0.02)
    assert wrong[ap][absent[ap]].mean() == pytest.approx(turned + follows, abs=0.02)


def test_edges_are_counted_by_the_truth_in_whichever_order_they_are_written():
    planted = {("view", "leads"), ("view", "marker")}
    edges = [
        MarkedEdge("leads", "view", "arrow", "tail"),  # right
        MarkedEdge("view", "marker", "arrow", "circle"),  # denies that the view is the cause
        MarkedEdge("age", "leads", "circle", "circle"),  # false
        MarkedEdge("age", "view", "tail", "arrow"),  # at no sign
    ]
    assert calls.counted(edges, planted, {"leads", "marker"}) == {"found": 2, "false": 1, "wrong_marks": 1}


def test_the_planted_edges_are_the_worlds_own():
    phantom = Phantom(10, calls.WORLD, seed=0)
    assert calls.planted(phantom) == {
        ("view", "ecg_leads"), ("view", "laterality_marker"), ("view", "portable_marker"),
        ("cardiomegaly", "pacemaker"), ("effusion", "chest_drain"),
    }  # fmt: skip
