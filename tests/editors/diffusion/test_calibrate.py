"""Guidance calibrated by readings, against effects that are known functions of the weights."""

import pytest
from guided import made

from causal_cxr.data.patients import AtLeast
from causal_cxr.editors.diffusion import DiffusionEditor, calibrated
from causal_cxr.editors.diffusion.guidance import ClassifierFree, PerAttribute


class Read:
    """Effects as functions of the attribute's weight; remembers the weights of what it was asked of."""

    patients = frozenset({"p1", "p2"})

    def __init__(self, **effects) -> None:
        self.effects, self.asked, self.told = effects, [], frozenset(effects)

    def __call__(self, editor: DiffusionEditor, *, attributes) -> dict[str, float]:
        weights = {name: editor.guidance.weights.get(name, 1.0) for name in attributes}
        self.asked.append(weights)
        said = {f"effectiveness_{name}": self.effects[name](weight) for name, weight in weights.items()}
        return {"effectiveness": 0.0, "leak_view": 9.0, **said}


@pytest.fixture(scope="module")
def editor() -> DiffusionEditor:
    return made()


def test_what_is_done_by_less_or_more_than_asked_is_weighed_until_it_is_done_as_asked(editor):
    read = Read(view=lambda w: 0.5 * w, edema=lambda w: 1.5 * w, age=lambda w: 0.95 * w)
    guidance = calibrated(editor, read).guidance
    assert guidance == PerAttribute({"view": 2.0, "edema": pytest.approx(2 / 3)})  # age does as asked: not weighed
    assert [set(asked) for asked in read.asked] == [{"view", "edema", "age"}, {"view", "edema"}]


def test_an_effect_that_grows_more_slowly_than_its_weight_takes_more_rounds(editor):
    read = Read(view=lambda w: 0.3 * w**0.8)
    weight = calibrated(editor, read).guidance.weights["view"]
    assert 0.9 <= 0.3 * weight**0.8 <= 1.1
    assert read.asked[1] == {"view": 2.5}  # no weight is jumped to
    assert calibrated(editor, Read(view=lambda w: 0.3 * w**0.8), rounds=2).guidance.weights["view"] == 2.5


def test_borders_are_kept_to_and_what_is_moved_the_wrong_way_is_left_alone(editor):
    read = Read(view=lambda w: 0.1 * w, edema=lambda w: -0.2 * w)
    assert calibrated(editor, read, most=3.0).guidance == PerAttribute({"view": 3.0})
    assert len(read.asked) == 3  # at the border there is nothing more to read


def test_of_the_weights_that_were_tried_the_best_is_kept(editor):
    overdone = {1.0: 0.5, 2.0: 1.8}  # a weight that overdoes it, whose mend overdoes it the other way
    read = Read(view=lambda w: overdone.get(w, 0.2))
    assert calibrated(editor, read, rounds=3).guidance == PerAttribute({})


def test_weights_go_on_from_those_that_the_editor_has(editor):
    start = editor.using(guidance=PerAttribute({"view": 2.0, "age": 3.0}))
    read = Read(view=lambda w: 0.25 * w)
    assert calibrated(start, read).guidance == PerAttribute({"view": 4.0, "age": 3.0})


def test_the_patients_who_chose_the_weights_are_known_to_the_editor_and_the_given_one_is_left_as_it_is(editor):
    before = editor.fingerprint
    editor.fitted_on = frozenset({"p0"})
    chosen = calibrated(editor, Read(view=lambda w: 0.5 * w))
    assert chosen.fitted_on == {"p0", "p1", "p2"}
    assert chosen.fingerprint != before
    assert (editor.fitted_on, editor.fingerprint, editor.guidance) == ({"p0"}, before, ClassifierFree())
    editor.fitted_on = None
    assert calibrated(editor, Read(view=lambda w: 0.5 * w)).fitted_on == AtLeast({"p1", "p2"})
    assert (
        calibrated(editor, Read(view=lambda w: 0.5 * w)).provenance == {}
    )  # there is none of an editor that was not fitted here
    editor.provenance = {"dataset": "d"}
    told = calibrated(editor, Read(view=lambda w: 0.5 * w)).provenance
    assert told == {"dataset": "d", "guidance": {"view": 2.0}, "weighed_on": {"p1", "p2"}}
    editor.provenance = {}


def test_what_is_not_read_well_enough_keeps_its_weight(editor):
    read = Read(view=lambda w: 0.5 * w, age=lambda w: 0.1 * w)
    read.told = frozenset({"view"})
    assert calibrated(editor, read).guidance == PerAttribute({"view": 2.0})
    read.told = frozenset({"site"})  # which the editor does not set
    with pytest.raises(
        ValueError, match=r"'view'\], nothing is read well enough to choose a weight by; calibrate with readers"
    ):
        calibrated(editor, read)


def test_a_guidance_that_weights_would_replace_is_refused_and_borders_hold_1(editor):
    for guidance in (ClassifierFree(2.0), PerAttribute(default=2.0)):
        with pytest.raises(ValueError, match="would replace the guidance"):
            calibrated(editor.using(guidance=guidance), Read(view=lambda w: w))
    for options in ({"rounds": 0}, {"least": 1.5}, {"most": 0.9}, {"least": 0.0}):
        with pytest.raises(ValueError, match="within 0 < least <= 1 <= most"):
            calibrated(editor, Read(view=lambda w: w), **options)
