"""Concepts and their banks: what a concept may be, what the shipped vocabularies hold, what a bank file may say."""

import dataclasses
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from causal_cxr.data.controls import MARKS
from causal_cxr.data.phantom import World
from causal_cxr.readers import Concept, load_concepts
from causal_cxr.readers.banks.bank import BANKS, PHRASINGS, BankError
from causal_cxr.readers.concepts import concept_from_dict

HIDDEN_IN_NIH = ("arrow_marker", "circled_marker", "portable_text", "ap_text", "film_marker", "wires", "tube_or_line",
                 "collimation_edge", "breast_shadow", "arms_visible")  # fmt: skip
GROUPS = {"devices", "lines and tubes", "markers and text", "technique", "habitus", "anatomy variants", "nuisance",
          "negative controls"}  # fmt: skip
RADIOGRAPHS = load_concepts(bank="radiographs")


@pytest.fixture
def write(tmp_path):
    def write(text, name="bank.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


# Concept


def test_a_concept_needs_phrases_of_both_kinds():
    with pytest.raises(ValueError, match="'valve' has no negative phrase"):
        Concept("valve", ("valve",), ())


def test_one_text_is_no_ensemble_of_its_letters():
    with pytest.raises(ValueError, match=r"one text for positive; write \('a valve',\)"):
        Concept("valve", "a valve", ("no valve",))


def test_no_phrase_speaks_for_and_against():
    with pytest.raises(ValueError, match="'valve' as a positive and as a negative"):
        Concept("valve", ("a valve", "valve"), ("no valve", "valve"))


@pytest.mark.parametrize("region", [(0.5, 0, 0.5, 1), (0, 0, 1.1, 1), (0, 0.6, 1, 0.4), (float("nan"), 0, 1, 1)])
def test_a_region_lies_in_the_image(region):
    with pytest.raises(ValueError, match=r"'valve' has the region .* \[top, left, bottom, right\]"):
        Concept("valve", ("a valve",), ("no valve",), region=region)


@pytest.mark.parametrize("how", [{}, {"level": 1, "above": 2.0}])
def test_a_concept_of_an_attribute_says_by_level_or_by_threshold(how):
    with pytest.raises(ValueError, match="either level"):
        Concept("old", ("old",), ("young",), attribute="age", **how)


@pytest.mark.parametrize(("levels", "level"), [(["PA", "AP"], "ap"), ([0, 1], "1")])
def test_a_level_that_the_attribute_has_not_is_named_and_counts_no_image_as_absent(levels, level):
    table = pd.DataFrame({"view": pd.Categorical(levels * 2, categories=levels)})
    concept = Concept("frontal", ("a",), ("b",), attribute="view", level=level)
    with pytest.raises(
        ValueError, match=rf"reads 'view' at the level '{level}', which it has not; it has \[.*Write level="
    ):
        concept.truth(table)
    found = Concept("frontal", ("a",), ("b",), attribute="view", level=levels[1]).truth(table)
    assert found.tolist() == [0, 1, 0, 1]


def test_truth_comes_from_the_column_that_the_concept_is_about_and_missing_stays_missing():
    table = pd.DataFrame({"age": [50.0, 70.0, np.nan], "view": pd.Categorical(["AP", None, "PA"]), "leads": [1, 0, 1]})
    old = Concept("old", ("old",), ("young",), attribute="age", above=60)
    supine = Concept("AP view", ("AP",), ("PA",), attribute="view", level="AP")
    leads = Concept("leads", ("leads",), ("no leads",))
    np.testing.assert_array_equal(old.truth(table), [0, 1, np.nan])
    np.testing.assert_array_equal(supine.truth(table), [1, np.nan, 0])
    np.testing.assert_array_equal(leads.truth(table), [1, 0, 1])


@pytest.mark.parametrize("bank", BANKS)
def test_concepts_are_the_same_after_json(bank):
    concepts = load_concepts(bank=bank)
    written = json.loads(json.dumps([dataclasses.asdict(concept) for concept in concepts]))
    assert tuple(concept_from_dict(entry) for entry in written) == concepts


def test_concepts_that_were_written_before_there_were_groups_are_still_read():
    entry = {"name": "valve", "positive": ["a valve"], "negative": ["no valve"], "region": [0, 0, 1, 1],
             "control": False, "attribute": None, "level": None, "above": None}  # fmt: skip
    assert concept_from_dict(entry) == Concept("valve", ("a valve",), ("no valve",), region=(0, 0, 1, 1))


def test_concepts_of_a_newer_version_are_refused():
    with pytest.raises(ValueError, match=r"'valve' has \['sound'\].*update causal_cxr"):
        concept_from_dict({"name": "valve", "positive": ["a valve"], "negative": ["no valve"], "sound": "click"})


# The shipped vocabularies


def test_the_phantoms_bank_names_everything_a_phantom_hides_and_its_controls():
    bank = {concept.name: concept for concept in load_concepts()}
    assert set(World.load("portable").graph.hidden) <= set(bank)
    assert {name for name, concept in bank.items() if concept.control} == set(MARKS)


def test_the_radiographs_bank_covers_its_groups_and_the_hidden_labels_of_nih():
    assert len(RADIOGRAPHS) >= 60
    assert {concept.group for concept in RADIOGRAPHS} == GROUPS
    named = {concept.name: concept for concept in load_concepts(HIDDEN_IN_NIH, bank="radiographs")}
    assert all(f"nih-1000: {name}" in concept.sources for name, concept in named.items())


@pytest.mark.parametrize("concept", RADIOGRAPHS, ids=lambda c: c.name)
def test_each_concept_of_radiographs_says_all_that_is_asked_of_it(concept):
    assert len(concept.synonyms) >= 2
    assert len(concept.positive) >= 3
    assert len(concept.negative) >= 3
    assert concept.consequence is not None
    assert concept.attribute is None
    assert concept.control == (concept.group == "negative controls")


@pytest.mark.parametrize("concept", RADIOGRAPHS, ids=lambda c: c.name)
def test_phrases_are_english(concept):
    for phrase in (*concept.positive, *concept.negative):
        assert not re.search(r"\b(no|an?|the) (an?|the) |\ba [aeio]|  |[{}]", phrase, re.IGNORECASE), phrase


def test_no_phrase_of_radiographs_names_two_concepts():
    owners = defaultdict(set)
    for concept in RADIOGRAPHS:
        for phrase in (*concept.positive, *concept.negative):
            owners[phrase.lower()].add(concept.name)
    assert {phrase: names for phrase, names in owners.items() if len(names) > 1} == {}


def test_controls_are_looked_for_where_they_are_burnt_in():
    for concept in load_concepts(MARKS, bank="radiographs"):
        top, left, bottom, right = concept.region
        _, down, across = MARKS[concept.name]
        assert top < down < bottom
        assert left < across < right


def cited(vocabulary):
    return {
        s.removeprefix(f"{vocabulary}: ") for c in RADIOGRAPHS for s in c.sources if s.startswith(f"{vocabulary}: ")
    }


def test_radlex_terms_are_cited_with_their_identifier_and_no_identifier_for_two_terms():
    terms = [re.fullmatch(r"(.+) \((RID\d+)\)", term) for term in cited("RadLex")]
    assert len(terms) >= 30
    assert all(terms)
    assert len({term[2] for term in terms}) == len({term[1] for term in terms}) == len(terms)


def test_labels_of_padchest_are_cited_as_its_table_spells_them():
    xrv = pytest.importorskip("torchxrayvision", reason="torchxrayvision carries PadChest's table; it is not installed")
    folder = Path(xrv.__file__).parent / "data"
    table = next(iter(folder.glob("PADCHEST*.csv.gz")), None)
    if table is None:
        pytest.skip("this torchxrayvision does not carry PadChest's table")
    labels = pd.read_csv(table, usecols=["Labels"], dtype=str)["Labels"].dropna()
    there = {label.strip() for found in labels.unique() for label in re.findall(r"'([^']*)'", found)}
    assert len(cited("PadChest")) >= 40
    assert cited("PadChest") <= there


def test_every_vocabulary_that_is_cited_is_described_at_the_top_of_the_bank():
    head = BANKS["radiographs"].read_text().split("concepts:")[0]
    for vocabulary in {source.split(": ")[0] for concept in RADIOGRAPHS for source in concept.sources}:
        assert f"#   {vocabulary} " in head


# Bank files


def test_names_become_phrases_by_the_ensemble_which_is_alike_for_and_against(write):
    file = write("concepts: {valve: {synonyms: [valve, ECG lead]}}")
    (valve,) = load_concepts(bank=file)
    assert valve.positive == (
        "a valve", "a valve is seen", "there is a valve", "chest radiograph with a valve",
        "an ECG lead", "an ECG lead is seen", "there is an ECG lead", "chest radiograph with an ECG lead",
    )  # fmt: skip
    assert valve.negative[:4] == (
        "no valve",
        "no valve is seen",
        "there is no valve",
        "chest radiograph without a valve",
    )
    assert all(len(phrasing.positive) == len(phrasing.negative) for phrasing in PHRASINGS.values())


def test_antonyms_speak_for_the_contrary_and_phrases_of_ones_own_come_first(write):
    (turned,) = load_concepts(bank=write(
        "concepts:\n"
        "  turned: {phrasing: clause, synonyms: [the patient is turned], antonyms: [the patient is straight],"
        " positive: [rotation], negative: [straight]}\n"
    ))  # fmt: skip
    assert turned.positive[:2] == ("rotation", "the patient is turned")
    assert turned.negative[:2] == ("straight", "the patient is straight")
    assert not any("turned" in phrase for phrase in turned.negative)


def test_a_bank_may_have_ensembles_of_its_own(write):
    (valve,) = load_concepts(bank=write(
        "phrasings: {short: {positive: ['{name}!'], negative: ['not {a_name}']}}\n"
        "concepts: {valve: {synonyms: [valve], phrasing: short}}\n"
    ))  # fmt: skip
    assert (valve.positive, valve.negative) == (("valve!",), ("not a valve",))


def test_a_users_bank_replaces_the_packages_own(write):
    file = write("concepts: {valve: {positive: [a prosthetic valve], negative: [no valve]}}\n")
    assert load_concepts(bank=file) == (Concept("valve", ("a prosthetic valve",), ("no valve",)),)
    assert load_concepts(bank=str(file)) == load_concepts(bank=file)


def test_a_bank_that_extends_others_has_their_concepts_and_its_own(write):
    write("concepts: {valve: {synonyms: [valve]}}", "first.yaml")
    file = write("extends: [radiographs, first.yaml]\nconcepts: {clip: {synonyms: [clip]}}", "second.yaml")
    assert [c.name for c in load_concepts(bank=file)] == [*(c.name for c in RADIOGRAPHS), "valve", "clip"]
    assert [c.name for c in load_concepts(["clip", "wires"], bank=file)] == ["clip", "wires"]


def test_banks_are_merged_and_one_that_is_met_twice_is_read_once(write):
    file = write("extends: radiographs\nconcepts: {valve: {synonyms: [valve]}}")
    assert {c.name for c in load_concepts(bank=["radiographs", file])} == {"valve", *(c.name for c in RADIOGRAPHS)}


def test_a_name_that_two_banks_have_is_refused_with_both_files(write):
    file = write("concepts:\n  clip: {synonyms: [clip]}\n  wires: {synonyms: [wire]}\n")
    with pytest.raises(
        BankError, match=rf"{re.escape(str(file))}:3: concepts.wires: is in .*radiographs\.yaml too; rename"
    ):
        load_concepts(bank=["radiographs", file])
    with pytest.raises(BankError, match=r"phantom\.yaml:\d+: concepts\.pacemaker: is in .*radiographs\.yaml too"):
        load_concepts(bank=["radiographs", "phantom"])


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"no \['pacemakr'\].*pacemaker"):
        load_concepts(["pacemakr"])


def test_an_unknown_bank_is_refused_with_the_banks_there_are():
    with pytest.raises(ValueError, match=r"no bank 'radiograph'; name one of \['phantom', 'radiographs'\]"):
        load_concepts(bank="radiograph")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concepts:\n  clip:\n    synonym: [clip]\n", r":3: concepts\.clip\.synonym: .*did you mean 'synonyms'"),
        ("concepts:\n  clip:\n    synonyms: clip\n", r":3: concepts\.clip\.synonyms: awaits a list, got 'clip'"),
        ("concepts:\n  clip:\n    synonyms: [clip]\n    region: [0, 0, 1]\n", r":4: concepts\.clip\.region"),
        ("concepts:\n  clip:\n    synonyms: [clip]\n    region: [0, 0, 0, 1]\n", r":2: concepts\.clip: .*the region"),
        ("concepts:\n  clip:\n    positive: [clip]\n", r":2: concepts\.clip: .*no negative phrase"),
        ("concepts:\n  clip:\n    synonyms: [clip]\n    phrasing: many\n", r":4: concepts\.clip\.phrasing: .*'many'; there are thing"),
        ("concepts:\n  clip: {synonyms: [clip]}\n  clip: {synonyms: [clips]}\n", r":3: is no YAML: found duplicate key \"clip\""),
        ("concepts: {}\n", r":1: concepts"),
        ("clip: {synonyms: [clip]}\n", r"clip: Extra inputs are not permitted"),
        ("extends: nobody\nconcepts: {clip: {synonyms: [clip]}}\n", r":1: extends: There is no bank 'nobody'"),
        ("extends: gone.yaml\nconcepts: {clip: {synonyms: [clip]}}\n", r"gone\.yaml does not exist"),
        ("phrasings: {bad: {positive: [seen], negative: ['no {name}']}}\nconcepts: {clip: {synonyms: [clip]}}\n",
         r":1: phrasings\.bad\.positive: 'seen' has no place for the name"),
        ("phrasings: {bad: {positive: ['{nam}'], negative: ['no {name}']}}\nconcepts: {clip: {synonyms: [clip]}}\n",
         r":1: phrasings\.bad\.positive: '\{nam\}' has no place"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_with_file_line_and_key(text, message, write):
    with pytest.raises(BankError, match=message):
        load_concepts(bank=write(text))
