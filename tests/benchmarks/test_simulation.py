"""Simulated editors and readers: what they say is the truth, but for the faults that they were given."""

import numpy as np
import pytest
from simulation import Fault, Marked, SimulatedEditor, SimulatedReader

from causal_cxr.data.phantom.world import World

N = 400


@pytest.fixture(scope="module")
def world():
    return World.load("portable")


@pytest.fixture(scope="module")
def phantom(world):
    return Marked(N, world, seed=3, pixels=False)


def edit(phantom, editor, rows, **changes):
    factual = phantom.attributes.iloc[rows]
    abduction = editor.abduct(phantom.images(rows), factual, seeds=rows)
    target = factual.assign(**{k: phantom.graph.attributes[k].coerce(v) for k, v in changes.items()})
    return editor.edit(abduction, target).images


def flipped(phantom, name, rows):
    attribute, column = phantom.graph.attributes[name], phantom.attributes[name].iloc[rows]
    return column.map(dict(zip(attribute.levels, reversed(attribute.levels), strict=True)))


def test_a_perfect_reader_reads_what_is_there(world, phantom):
    scores = SimulatedReader.perfect(world, 0).read(phantom.images(np.arange(N))).numpy()
    truth = world.presence(phantom.codes, phantom.signs).to_numpy()
    np.testing.assert_allclose(scores, truth, atol=1e-5)


def test_pictures_change_no_score(world, phantom):
    reader, rows = SimulatedReader.perfect(world, 0), np.arange(20)
    drawn = Marked(N, world, seed=3, size=32, pixels=True)
    assert drawn.images(rows).shape == (20, 1, 33, 32)
    np.testing.assert_array_equal(reader.read(drawn.images(rows)), reader.read(phantom.images(rows)))


def test_an_imperfect_reader_is_judged_to_have_the_slopes_that_it_has(world):
    reader = SimulatedReader.imperfect(world, 4)
    judged = reader.quality.concepts
    assert ((reader.slopes > 0.4) & (reader.slopes < 0.8)).all()
    assert (np.abs(judged["slope"].to_numpy() - reader.slopes) < 4 * judged["slope_se"].to_numpy()).all()


def test_the_oracle_draws_true_counterfactuals_and_its_null_edit_changes_nothing(world, phantom):
    oracle, rows = SimulatedEditor(phantom, "oracle"), np.arange(50)
    target = phantom.attributes.iloc[rows].assign(view=flipped(phantom, "view", rows))
    np.testing.assert_array_equal(
        edit(phantom, oracle, rows, view=flipped(phantom, "view", rows)), phantom.counterfactual(target)
    )
    np.testing.assert_array_equal(edit(phantom, oracle, rows), phantom.images(rows))


def test_noop_gives_back_what_it_got(phantom):
    rows = np.arange(10)
    images = edit(phantom, SimulatedEditor(phantom, "noop"), rows, view=flipped(phantom, "view", rows))
    np.testing.assert_array_equal(images, phantom.images(rows))


def test_drift_has_no_mean_the_size_asked_for_and_is_shared_by_half_among_a_patients_images(world, phantom):
    editor, rows = SimulatedEditor(phantom, "drift", drift=0.05, seed=1), np.arange(N)
    reader = SimulatedReader.perfect(world, 0)
    drift = reader.read(edit(phantom, editor, rows)).numpy() - reader.read(phantom.images(rows)).numpy()
    assert abs(drift.mean()) < 0.005
    assert drift.std() == pytest.approx(0.05, rel=0.1)
    patients = phantom.patients.to_numpy()
    pairs = np.flatnonzero(patients[1:] == patients[:-1])
    together = np.corrcoef(drift[pairs].ravel(), drift[pairs + 1].ravel())[0, 1]
    assert together == pytest.approx(0.5, abs=0.08)


def test_drift_is_the_same_when_asked_again(phantom):
    rows = np.arange(30)
    one, two = (edit(phantom, SimulatedEditor(phantom, "drift", drift=0.05, seed=1), rows) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_a_leak_moves_its_sign_with_its_cause_in_its_share_of_images_and_nothing_else(world, phantom):
    sign = next(s for s in phantom.signs if s.name == "control_dot")
    leaky = SimulatedEditor(phantom, "leaky", faults=[Fault("effusion", sign, share=0.6)], seed=2)
    reader, rows = SimulatedReader.perfect(world, 0), np.arange(N)
    oracle = SimulatedEditor(phantom, "oracle")
    change = flipped(phantom, "effusion", rows)
    scores, true = (reader.read(edit(phantom, e, rows, effusion=change)).numpy() for e in (leaky, oracle))
    j = [c.name for c in reader.concepts].index("control_dot")
    others = np.delete(np.arange(scores.shape[1]), j)
    np.testing.assert_array_equal(scores[:, others], true[:, others])
    follows = np.isclose(scores[:, j], (change == 1).to_numpy(), atol=1e-5)
    assert follows.mean() == pytest.approx(0.6 + 0.4 * 0.5, abs=0.08)
    np.testing.assert_array_equal(edit(phantom, leaky, rows), phantom.images(rows))


def test_drift_is_another_for_every_question_and_does_not_cancel_in_edit_less_null(world, phantom):
    """Beyond its null edit, an edit drifts by twice the variance; and what one contrast drifts tells nothing of another."""
    editor, rows, reader = (
        SimulatedEditor(phantom, "drift", drift=0.05, seed=1),
        np.arange(N),
        SimulatedReader.perfect(world, 0),
    )
    factual = phantom.attributes.iloc[rows]
    abduction = editor.abduct(phantom.images(rows), factual, seeds=rows)
    null = reader.read(editor.edit(abduction, factual, phrasing=1).images)
    beyond = []
    for name in ("sex", "weekday"):  # neither moves anything hidden in this world
        target = factual.assign(**{name: phantom.graph.attributes[name].coerce(flipped(phantom, name, rows))})
        hidden = len(world.hidden_signs)
        beyond.append((reader.read(editor.edit(abduction, target).images) - null).numpy()[:, :hidden].ravel())
    assert [b.std() for b in beyond] == pytest.approx([0.05 * np.sqrt(2)] * 2, rel=0.08)
    assert np.corrcoef(*beyond)[0, 1] == pytest.approx(0.5, abs=0.08)  # they share the null edit alone
