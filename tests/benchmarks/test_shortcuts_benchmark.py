"""The benchmark of shortcuts: how its figures come about, and that its training images hold what they should."""

import numpy as np
import pandas as pd
import pytest
import shortcuts

from causal_cxr import Phantom


def trained(name: str, shortcut: str = "", attribute: str = "") -> shortcuts.Trained:
    return shortcuts.Trained(name, "effusion", shortcut, attribute, None, 1.0)


CLASSIFIERS = [trained("a", "view", "view"), trained("b", "sex", "sex"), trained("c"), trained("d")]
TRUTH = pd.DataFrame(
    {"effusion": 0.9, "view": [0.3, 0.0, 0.0, 0.2], "sex": [0.0, 0.01, 0.0, 0.0]}, index=["a", "b", "c", "d"]
)


def ranked(first: dict[str, tuple[str, float]]) -> dict[str, pd.DataFrame]:
    other = {"view": "sex", "sex": "view"}
    rows = [(m, a, 1, s) for m, (a, s) in first.items()] + [(m, other[a], 2, 0.0) for m, (a, _) in first.items()]
    return {"effusion": pd.DataFrame(rows, columns=["model", "attribute", "rank", "score"])}


def test_planted_ones_count_whether_or_not_they_took_the_shortcut_up():
    first = {"a": ("view", 0.3), "b": ("view", 0.05), "c": ("sex", 0.1), "d": ("view", 0.2)}
    found = shortcuts.summarise(CLASSIFIERS, ranked(first), TRUTH)
    assert found["auroc"] == 0.5  # 0.3 is above both clean ones, 0.05 above none
    assert found["ranked_first"] == 0.5
    assert found["wrong"] == {"b": "effusion: view, not sex"}
    assert found["by_shortcut"] == {"view": {"share": 1.0, "of": 1}, "sex": {"share": 0.0, "of": 1}}
    assert found["ranked_first_taken_up"] == {"share": 1.0, "of": 1}  # "b" did not


def test_by_truth_a_clean_one_that_relies_on_something_is_positive():
    first = {"a": ("view", 0.3), "b": ("view", 0.05), "c": ("sex", 0.1), "d": ("view", 0.2)}
    found = shortcuts.summarise(CLASSIFIERS, ranked(first), TRUTH)
    assert found["auroc_by_truth"] == 1.0
    assert found["ranked_first_by_truth"] == {"share": 1.0, "of": 2}


def test_without_an_editor_the_same_formula_is_put_to_associations():
    rows = pd.DataFrame(
        {
            "model": ["m"] * 3, "contrast": ["u", "v", "w"], "attribute": ["u", "v", "w"], "legitimate": [False, False, True],
            "association": [0.1, -0.3, 0.9], "association_p": [1e-9, 1e-9, 1e-9], "prevalence": 0.5,
        }
    )  # fmt: skip
    found = shortcuts.no_editor(rows).set_index("attribute")
    assert found["rank"].to_dict() == {"v": 1, "u": 2}
    assert found.loc["v", "score"] == pytest.approx(0.15)


@pytest.mark.parametrize("shortcut", shortcuts.PLANTED)
@pytest.mark.parametrize("target", shortcuts.TARGETS)
def test_in_the_training_images_the_target_goes_with_what_is_planted_and_with_nothing_else(target, shortcut):
    phantom = Phantom(1500, shortcuts.training_world(target, shortcut, 4.0), seed=1)
    codes = pd.DataFrame(phantom.codes)
    together = codes.corr()[target].drop(target).abs()
    planted = {"view": "view", "portable marker": "portable_marker", "sex": "sex", "age": "age"}
    other = next(name for name in shortcuts.TARGETS if name != target)
    planted |= {"comorbidity": other, "device": "pacemaker" if target == "effusion" else "chest_drain"}
    with_it = {planted[shortcut]} | ({*shortcuts.COMPANIONS} if shortcut == "view" else set())
    assert together[planted[shortcut]] > 0.5
    assert together.drop(list(with_it)).max() < 0.12
    assert phantom.patients.is_unique


def test_clean_training_images_have_no_shortcut():
    codes = pd.DataFrame(Phantom(1500, shortcuts.training_world("effusion", "", 4.0), seed=2).codes)
    assert codes.corr()["effusion"].drop("effusion").abs().max() < 0.12


def test_a_classifier_is_the_same_for_the_same_seed():
    images = Phantom(64, shortcuts.training_world("effusion", "sex", 4.0), seed=3).images(np.arange(64))
    present = np.arange(64) % 2 == 0
    one, other = (shortcuts.fit_network(images, present, 5)(images) for _ in range(2))
    assert (one == other).all()
