"""Tables in words."""

import numpy as np
import pandas as pd
import pytest

from causal_cxr.data.phantom import Phantom
from causal_cxr.editors.diffusion import captions
from causal_cxr.editors.diffusion.captions import named
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


# Templates

SEED_PAPER = "Chest X-ray of a {age} {sex} subject with {findings}."
OPTIONAL = "Chest X-ray[ of a[ {age}] {sex} subject][ with {findings}]."
CLINICAL = {
    attribute.name: attribute
    for attribute in (
        Continuous("age", unit="years", low=18, high=98, phrases="{value:.0f}-year-old"),
        Binary("sex", levels=("M", "F"), phrases={"M": "male", "F": "female"}),
        Binary("effusion", phrases={1: "pleural effusion"}),
        Binary("device", phrases={1: ("a pacemaker", "a cardiac device")}),
    )
}


def one(template: str, phrasing: int = 0, **values) -> str:
    (text,) = captions(pd.DataFrame({name: [value] for name, value in values.items()}), CLINICAL, phrasing, template)
    return text


def test_the_sentence_of_the_seed_paper_can_be_said():
    said = one(SEED_PAPER, age=63.2, sex="F", effusion=1, device=1)
    assert said == "Chest X-ray of a 63-year-old female subject with pleural effusion, a pacemaker."
    assert one(SEED_PAPER, 1, age=63.2, sex="F", effusion=0, device=1).endswith("subject with a cardiac device.")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"age": 63.0, "sex": "M", "effusion": 1}, "Chest X-ray of a 63-year-old male subject with pleural effusion."),
        ({"age": np.nan, "sex": "M", "effusion": 1}, "Chest X-ray of a male subject with pleural effusion."),
        ({"age": 63.0, "effusion": 1}, "Chest X-ray of a 63-year-old subject with pleural effusion."),
        ({"age": 63.0, "sex": "F", "effusion": 0, "device": 0}, "Chest X-ray of a 63-year-old female subject."),
        ({"sex": None, "effusion": None}, "Chest X-ray."),
        ({"device": 1}, "Chest X-ray with a pacemaker."),
    ],
)
def test_what_is_missing_takes_the_words_around_it_along(values, text):
    assert one(OPTIONAL, **values) == text


def test_the_list_of_everything_says_what_has_no_slot_of_its_own():
    assert one("{sex} : {}", age=40.0, sex="M", effusion=1) == "male : 40-year-old , pleural effusion"


def test_levels_without_words_of_their_own_are_unsaid_among_findings_only():
    assert one("{findings}", effusion=0, device=1) == "a pacemaker"
    assert one("{}", effusion=0, device=1) == "effusion 0 , a pacemaker"
    table = pd.DataFrame({"site": ["b"]})  # no level has words: they go by their names
    assert captions(table, ATTRIBUTES, template="{findings}") == ["site b"]


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{}", set(CLINICAL)),
        ("x[ with {findings}]", set(CLINICAL)),
        ("{age}[ and {sex}]", {"age", "sex"}),
        ("nothing", set()),
    ],
)
def test_what_a_template_can_name_is_known(template, names):
    assert named(CLINICAL, template) == names


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("a {mood} image", r"slot \{mood\} for no attribute; there are \['age', 'device'"),
        ("a [ {age}", "opens a bracket that it does not close"),
        ("a {age} ]", "closes a bracket that it has not opened"),
        ("a {age", "brace without its counterpart"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused(template, problem):
    with pytest.raises(ValueError, match=problem):
        captions(pd.DataFrame({"age": [40.0]}), CLINICAL, template=template)
