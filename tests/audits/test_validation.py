"""Effectiveness and leak of an editor under fitting, on a world of corners that are the attributes."""

import numpy as np
import pytest
from audits.fakes import CONCEPTS, GRAPH, CornerDataset, CornerEditor, CornerReader

from causal_cxr.audits.validation import Validation
from causal_cxr.editors import Edit
from causal_cxr.editors.finetune import Watch
from causal_cxr.graphs import default_contrasts
from causal_cxr.readers import Concept

CONTRASTS = default_contrasts(GRAPH)
ROWS = np.arange(100)


class HalfEditor(CornerEditor):
    """Does half of what is asked of the view, and lets a share of the disease go along."""

    def __init__(self, share: float, attributes: tuple[str, ...] = ("view", "disease")) -> None:
        super().__init__(learnt=False)
        self.share, self.attributes = share, frozenset(attributes)

    def edit(self, abduction, target, *, phrasing=0, strength=1.0):
        images = super().edit(abduction, target).images
        before = abduction.state[0]
        moved = images[:, 0, 0, 0] - before[:, 0, 0, 0]
        images[:, 0, 0, 0] = before[:, 0, 0, 0] + 0.5 * moved
        images[:, 0, 0, 7] += self.share * moved
        return Edit.all_accepted(images, 0)


def validation(readers=None, rows=ROWS, contrasts=CONTRASTS, **options) -> Validation:
    return Validation(readers or [CornerReader()], CornerDataset(200), rows, GRAPH, contrasts, **options)


def test_an_editor_that_does_what_is_asked_and_no_more_is_whole():
    said = validation()(CornerEditor(learnt=False))
    assert said == pytest.approx(
        {
            "effectiveness": 1, "effectiveness_view": 1, "effectiveness_disease": 1,
            "leak": 0, "leak_worst": 0, "leak_view": 0, "leak_disease": 0,
        },
        abs=1e-5,
    )  # fmt: skip


def test_changes_are_measured_on_the_scale_of_the_attribute_and_relative_to_what_was_asked():
    said = validation()(HalfEditor(0.2))
    assert said["effectiveness_view"] == pytest.approx(0.5, abs=1e-5)
    assert said["effectiveness_disease"] == pytest.approx(1, abs=1e-5)
    assert said["effectiveness"] == pytest.approx(0.75, abs=1e-5)
    assert said["leak_view"] == pytest.approx(
        0.2, abs=1e-5
    )  # a contrast of 0.8 moves the disease by 0.16, over J = 0.8
    assert said["leak"] == pytest.approx(0.1, abs=1e-5)
    assert said["leak_worst"] == pytest.approx(0.2, abs=1e-5)


def test_an_editor_that_does_nothing_has_no_effect_and_no_leak():
    class Idle(CornerEditor):
        def edit(self, abduction, target, *, phrasing=0, strength=1.0):
            return Edit.all_accepted(abduction.state[0], 0)

    said = validation()(Idle())
    assert said["effectiveness"] == said["leak"] == 0


def test_batches_do_not_matter_and_a_watch_takes_its_numbers():
    editor = HalfEditor(0.2)
    one, other = (validation(batch_size=n)(editor) for n in (100, 7))
    assert one == pytest.approx(other)
    assert Watch(validation()).score(one) == pytest.approx(0.65, abs=1e-5)


def test_one_attribute_may_be_asked_of_alone():
    one, every = (validation()(HalfEditor(0.2), attributes=which) for which in (["disease"], None))
    assert set(one) == {"effectiveness", "leak", "leak_worst", "effectiveness_disease", "leak_disease"}
    assert {name: every[name] for name in ("effectiveness_disease", "leak_disease")}.items() <= one.items()


def test_an_editor_of_one_attribute_is_asked_of_that_one():
    said = validation()(HalfEditor(0.2, ("view",)))
    assert set(said) == {"effectiveness", "leak", "leak_worst", "effectiveness_view", "leak_view"}
    assert said["leak"] == pytest.approx(0.2, abs=1e-5)
    with pytest.raises(ValueError, match="none of the contrasts' attributes"):
        validation()(HalfEditor(0.2, ("age",)))


def test_each_concept_is_read_by_the_reader_that_reads_it_best():
    class Blind(CornerReader):
        name = "blind"

        def __init__(self) -> None:
            super().__init__()
            self.quality.concepts["slope_low"] = 0.1

        def read(self, images, patients=None):
            return super().read(images) * 0

    assert validation([Blind(), CornerReader()])(HalfEditor(0.2)) == validation()(HalfEditor(0.2))


def test_it_tells_of_which_attributes_readings_say_how_far_an_edit_goes():
    reader = CornerReader()
    assert validation([reader]).told == {"view", "disease"}
    of_view = next(concept.name for concept in CONCEPTS if concept.attribute == "view")
    reader.quality.concepts.loc[of_view, ["slope", "slope_low"]] = [0.05, 0.01]  # may as well be a fifth of it
    assert validation([reader]).told == {"disease"}
    reader.quality.concepts.loc[of_view, ["slope", "slope_low"]] = np.nan
    assert validation([reader]).told == {"disease"}


def test_patients_that_anyone_has_seen_are_refused():
    seen = frozenset({"p3", "elsewhere"})
    with pytest.raises(ValueError, match=r"editor was fitted on 1 of the 50 validation patients, e\.g\. 'p3'"):
        validation()(CornerEditor(fitted_on=seen))
    reader = CornerReader()
    reader.fitted_on = seen
    with pytest.raises(ValueError, match="reader 'corners' was fitted on 1"):
        validation([reader])


def test_an_attribute_that_no_reader_reads_is_refused():
    class ViewReader(CornerReader):
        concepts: tuple[Concept, ...] = CONCEPTS[:1]

    with pytest.raises(ValueError, match=r"No reader reads \['disease'\]"):
        validation([ViewReader()])
