"""One editor an attribute: which is asked, in which order, and how often it inverts."""

import numpy as np
import pandas as pd
import pytest
import torch

from causal_cxr.data.patients import AtLeast, all_known
from causal_cxr.editors import Abduction, Edit, Editor
from causal_cxr.editors.finetune import PerAttributeEditor

SEEDS = np.arange(3)


class Adder:
    """Adds a number to where the target differs from the factual table, and says what it was asked."""

    semantics = "observational"

    def __init__(self, name: str, amount: float, attributes: set[str], fitted_on=frozenset(), rejects=()) -> None:
        self.fingerprint, self.amount, self.attributes = name, amount, frozenset(attributes)
        self.fitted_on, self.rejects, self.log = fitted_on, list(rejects), []

    def abduct(self, images, attributes, *, seeds):
        self.log.append("abduct")
        return Abduction(attributes, images, 10)

    def edit(self, abduction, target, *, phrasing=0, strength=1.0):
        self.log.append((phrasing, strength))
        accepted = np.array([i not in self.rejects for i in range(len(target))])
        reasons = tuple("" if ok else f"{self.fingerprint} refuses" for ok in accepted)
        return Edit(abduction.state + self.amount, accepted, reasons, 1)


@pytest.fixture
def parts():
    view, sick = Adder("view", 0.1, {"view"}), Adder("sick", 0.2, {"sick"}, frozenset({"p1"}))
    rest = Adder("rest", 0.4, {"view", "sick", "age"}, frozenset({"p0"}))
    return view, sick, rest, PerAttributeEditor({"sick": sick, "view": view}, rest)


@pytest.fixture
def factual():
    return pd.DataFrame({"view": ["AP", "PA", "PA"], "sick": [0, 0, 1], "age": [40.0, 50.0, np.nan]}, index=[7, 8, 9])


def values(edit: Edit) -> list[float]:
    return [round(float(image.mean()), 3) for image in edit.images]


def test_each_row_is_drawn_by_the_editors_of_what_differs_in_it(parts, factual):
    editor = parts[3]
    abduction = editor.abduct(torch.zeros(3, 1, 2, 2), factual, seeds=SEEDS)
    assert values(editor.edit(abduction, factual.assign(view=["PA", "PA", "PA"]))) == [0.1, 0.4, 0.4]
    assert values(editor.edit(abduction, factual.assign(sick=[1, 1, 1]))) == [0.2, 0.2, 0.4]
    assert values(editor.edit(abduction, factual.assign(age=60.0))) == [0.4, 0.4, 0.4]
    assert not abduction.state.images.any()


def test_several_follow_each_other_in_the_mappings_order(parts, factual):
    view, sick, _, editor = parts
    abduction = editor.abduct(torch.zeros(3, 1, 2, 2), factual, seeds=SEEDS)
    edit = editor.edit(abduction, factual.assign(sick=[1, 0, 1], view=["PA", "AP", "PA"]), strength=0.5)
    assert values(edit) == [0.3, 0.1, 0.4]
    assert sick.log == ["abduct", (0, 0.5)]
    assert view.log == ["abduct", (0, 0.5)]
    assert edit.evaluations == 3 * 11


def test_an_editor_inverts_an_image_once(parts, factual):
    view, _, rest, editor = parts
    abduction = editor.abduct(torch.zeros(3, 1, 2, 2), factual, seeds=SEEDS)
    first, second = (editor.edit(abduction, factual.assign(view=["PA", "AP", "AP"])) for _ in range(2))
    assert (first.evaluations, second.evaluations) == (11, 1)
    assert view.log.count("abduct") == 1
    null = editor.edit(abduction, factual, phrasing=1)
    assert values(null) == [0.4, 0.4, 0.4]
    assert rest.log == ["abduct", (1, 1.0)]


def test_a_rejection_by_one_of_them_is_kept_with_its_reason(factual):
    view = Adder("view", 0.1, {"view"}, rejects=[0, 1])
    editor = PerAttributeEditor({"view": view}, Adder("rest", 0.4, {"view", "sick", "age"}))
    abduction = editor.abduct(torch.zeros(3, 1, 2, 2), factual, seeds=SEEDS)
    edit = editor.edit(abduction, factual.assign(view=["PA", "PA", "PA"]))
    assert edit.accepted.tolist() == [False, True, True]  # row 1 was not asked of it
    assert edit.reasons == ("view refuses", "", "")


def test_it_is_an_editor_with_the_patients_and_the_fingerprint_of_all(parts):
    view, _, rest, editor = parts
    assert isinstance(editor, Editor)
    assert editor.attributes == {"view", "sick", "age"}
    assert editor.fitted_on == {"p0", "p1"}
    assert editor.fingerprint != PerAttributeEditor({"view": view}, rest).fingerprint
    unknown = PerAttributeEditor({"view": Adder("x", 0.1, {"view"}, None)}, rest)
    assert unknown.fitted_on == AtLeast(rest.fitted_on)
    assert not all_known(unknown.fitted_on)


def test_refusals(parts, factual):
    view, _, rest, editor = parts
    with pytest.raises(ValueError, match=r"given for \['age'\] cannot set them"):
        PerAttributeEditor({"age": view}, rest)
    abduction = editor.abduct(torch.zeros(3, 1, 2, 2), factual.assign(site="a"), seeds=SEEDS)
    with pytest.raises(ValueError, match=r"No editor here sets \['site'\]"):
        editor.edit(abduction, factual.assign(site="b"))
