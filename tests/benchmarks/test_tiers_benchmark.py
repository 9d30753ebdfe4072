"""The benchmark of tiers: its tables are what they are said to be, and both ways are read alike."""

import json
import sys

import pytest
import tiers

from causal_cxr.graphs import CausalGraph, Continuous


@pytest.mark.parametrize("search", tiers.SEARCHES)
def test_each_search_finds_edges_whose_marks_heed_the_tiers(search):
    graph = CausalGraph([Continuous(name, "", -1e3, 1e3) for name in tiers.NAMES], tiers=tiers.TIERS)
    edges = tiers.found(search, graph, tiers.table(0))
    assert edges
    assert not tiers.broken_knowledge(edges, graph)


def test_what_was_counted_is_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["tiers.py", "--tables", "3", "--json", str(tmp_path / "out.json")])
    tiers.main()
    summary = json.loads((tmp_path / "out.json").read_text())["summary"]
    assert all(0 <= summary[s]["tail_at_earlier"] <= summary[s]["between_tiers"] for s in tiers.SEARCHES)
    assert summary["ours fci"]["between_tiers"] > 0
