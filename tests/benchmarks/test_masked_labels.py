"""A hidden column as the judge of an audit, on a small world whose hidden attribute is known."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from audits.fakes import CONCEPTS, GRAPH, CornerDataset, CornerEditor, CornerReader
from masked_labels import Telling, beside_the_column, told

from causal_cxr.audits import Audit, Report
from causal_cxr.graphs import default_contrasts
from causal_cxr.readers.quality import FOLLOWS

CELL = "editor: view: PA -> AP on leads"


@pytest.fixture(scope="module")
def dataset() -> CornerDataset:
    return CornerDataset(3_000)


@pytest.fixture(scope="module")
def report(dataset: CornerDataset) -> Report:
    return Audit(GRAPH, [CornerReader()], n_edited=600).run(CornerEditor(), dataset)


def judged(report: Report, dataset: CornerDataset, truth: np.ndarray) -> dict:
    hidden = pd.DataFrame({"leads": truth.astype(float), "control": dataset.control.astype(float)})
    return beside_the_column(report, dataset.attributes, hidden, default_contrasts(GRAPH))


def test_a_reader_that_reads_the_column_agrees_with_it_on_both_sides(report, dataset):
    found = judged(report, dataset, dataset.leads)
    said = found["cells"][CELL]
    assert said["adjusted"]["column"][0] == pytest.approx(0.7, abs=0.06), "0.8 of AP and 0.1 of PA have leads"
    assert said["adjusted"]["agrees"][0] == pytest.approx(0, abs=0.01)
    assert said["verdict"] == "hidden"
    assert said["column_says"] == {"adjusted": "yes", "marginal": "yes"}
    assert found["agreement"]["marginal"] == [4, 4]


def test_a_column_that_says_otherwise_is_told_from_what_the_audit_says(report, dataset):
    coin = np.random.default_rng(5).uniform(size=3_000) < 0.5
    said = judged(report, dataset, coin)["cells"][CELL]
    low, high = said["adjusted"]["agrees"][1:]
    assert low > 0.5
    assert high < 0.9
    assert said["column_says"]["adjusted"] == "no"


def test_images_whose_label_is_not_known_judge_nothing(report, dataset):
    some = np.where(np.arange(3_000) % 3 == 0, dataset.leads, np.nan)
    hidden = pd.DataFrame({"leads": some, "control": dataset.control.astype(float)})
    said = beside_the_column(report, dataset.attributes, hidden, default_contrasts(GRAPH))["cells"][CELL]
    assert said["n_labelled"] == 1_000
    assert said["adjusted"]["agrees"][0] == pytest.approx(0, abs=0.02)


def test_what_is_hidden_is_neither_told_nor_left_in_the_selection(dataset):
    graph = told().without(["view"])
    assert graph.selected_on == ("pneumonia",)
    only = Telling(dataset, GRAPH.without(["view"]))
    assert list(only.attributes) == ["disease"]
    assert CONCEPTS[2].attribute is None


def test_what_the_audit_took_off_for_a_reader_that_follows_is_taken_off_here_too(dataset):
    reader = CornerReader()
    seen = pd.DataFrame([["leads", "view", 0.2, 0.01, 0.18, 0.22, "view: PA -> AP", np.nan]], columns=list(FOLLOWS))
    reader.quality = dataclasses.replace(reader.quality, follows=seen)
    audited = Audit(GRAPH, [reader], n_edited=600).run(CornerEditor(), dataset)
    said = judged(audited, dataset, dataset.leads)["cells"][CELL]
    assert said["adjusted"]["audit"][0] - said["adjusted"]["column"][0] == pytest.approx(
        said["adjusted"]["agrees"][0], abs=0.002
    )
    assert said["adjusted"]["agrees"][0] == pytest.approx(-0.2 / 0.8, abs=0.01)
