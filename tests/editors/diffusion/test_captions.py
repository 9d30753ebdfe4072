"""Tables in words."""

import numpy as np
import pandas as pd
import pytest

from causal_cxr.data.phantom import Phantom
from causal_cxr.editors.diffusion import captions
from causal_cxr.graphs import Binary, Categorical, Continuous

ATTRIBUTES = {
    attribute.name: attribute
    for attribute in (
        Continuous("age", unit="years", low=18, high=98, phrases=("{value:.0f} year old", "aged {value:.0f}")),
        Binary("view", levels=("PA", "AP"), phrases={"PA": ("PA view", "PA projection"), "AP": ("AP view",)}),
        Categorical("site", levels=("a", "b", "c")),
    )
}


def test_a_caption_names_the_attributes_of_a_row_in_the_order_declared():
    table = pd.DataFrame({"site": ["b", "c"], "view": ["AP", "PA"], "age": [63.4, 20.0]})
    assert captions(table, ATTRIBUTES) == [
        "chest x-ray , 63 year old , AP view , site b",
        "chest x-ray , 20 year old , PA view , site c",
    ]


def test_the_second_phrasing_is_a_paraphrase_where_there_is_one():
    table = pd.DataFrame({"age": [63.0, 63.0], "view": ["PA", "AP"], "site": ["a", "a"]})
    assert captions(table, ATTRIBUTES, phrasing=1) == [
        "chest x-ray , aged 63 , PA projection , site a",
        "chest x-ray , aged 63 , AP view , site a",
    ]


def test_missing_values_are_left_out():
    table = pd.DataFrame(
        {"age": [np.nan, 63.0, np.nan], "view": ["AP", None, None], "site": pd.Categorical([None, "a", None])}
    )
    assert captions(table, ATTRIBUTES) == [
        "chest x-ray , AP view",
        "chest x-ray , 63 year old , site a",
        "chest x-ray , ",
    ]


def test_columns_that_are_absent_and_columns_without_an_attribute_are_left_out():
    table = pd.DataFrame({"view": ["AP"], "mood": ["good"]}, index=[7])
    assert captions(table, ATTRIBUTES) == ["chest x-ray , AP view"]


def test_a_value_that_the_attribute_cannot_have_is_refused():
    with pytest.raises(ValueError, match="'view' cannot be 'lateral'"):
        captions(pd.DataFrame({"view": ["lateral"]}), ATTRIBUTES)


@pytest.mark.parametrize("phrasing", [0, 1])
def test_phantoms_whose_labels_differ_have_different_captions(phrasing):
    phantom = Phantom(500, seed=0)
    rounded = phantom.attributes.assign(age=phantom.attributes["age"].round())
    texts = pd.Series(captions(phantom.attributes, phantom.graph.attributes, phrasing))
    assert texts.nunique() == len(rounded.drop_duplicates())
    assert (texts == pd.Series(captions(rounded, phantom.graph.attributes, phrasing))).all()


def test_a_table_without_any_of_the_attributes_gets_a_caption_a_row():
    assert captions(pd.DataFrame(index=[0, 1]), ATTRIBUTES) == ["chest x-ray , "] * 2
