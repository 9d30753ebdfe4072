import numpy as np
import pandas as pd
import pytest

from causal_cxr.data.phantom import World
from causal_cxr.readers import Concept, load_concepts


def test_the_bank_names_everything_a_phantom_hides_and_its_controls():
    bank = {concept.name: concept for concept in load_concepts()}
    assert set(World.load("portable").graph.hidden) <= set(bank)
    assert {name for name, concept in bank.items() if concept.control} == {"control_dot", "control_bar", "control_ring"}


def test_a_users_bank_replaces_the_packages_own(tmp_path):
    path = tmp_path / "bank.yaml"
    path.write_text("valve: {positive: [a prosthetic valve], negative: [no valve]}\n")
    assert load_concepts(path=path) == (Concept("valve", ("a prosthetic valve",), ("no valve",)),)


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"no \['pacemakr'\].*pacemaker"):
        load_concepts(["pacemakr"])


def test_a_concept_needs_phrases_of_both_kinds():
    with pytest.raises(ValueError, match="'valve' has no negative phrase"):
        Concept("valve", ("valve",), ())


@pytest.mark.parametrize("how", [{}, {"level": 1, "above": 2.0}])
def test_a_concept_of_an_attribute_says_by_level_or_by_threshold(how):
    with pytest.raises(ValueError, match="either level"):
        Concept("old", ("old",), ("young",), attribute="age", **how)


def test_truth_comes_from_the_column_that_the_concept_is_about_and_missing_stays_missing():
    table = pd.DataFrame({"age": [50.0, 70.0, np.nan], "view": pd.Categorical(["AP", None, "PA"]), "leads": [1, 0, 1]})
    old = Concept("old", ("old",), ("young",), attribute="age", above=60)
    supine = Concept("AP view", ("AP",), ("PA",), attribute="view", level="AP")
    leads = Concept("leads", ("leads",), ("no leads",))
    np.testing.assert_array_equal(old.truth(table), [0, 1, np.nan])
    np.testing.assert_array_equal(supine.truth(table), [1, np.nan, 0])
    np.testing.assert_array_equal(leads.truth(table), [1, 0, 1])
