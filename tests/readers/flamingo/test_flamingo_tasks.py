"""Episodes are broad, keep out what is held out, and fits on them can be killed."""

import numpy as np
import pytest
import torch

from causal_cxr.data.phantom import Phantom
from causal_cxr.readers.flamingo import HELD_OUT, Tasks, Template, fit_flamingo_reader, training_world
from causal_cxr.readers.flamingo.fit import pool, trainable
from causal_cxr.readers.flamingo.learner import Learner
from causal_cxr.readers.flamingo.marks import apply_marks, apply_tone, draw_marks
from causal_cxr.readers.flamingo.model import small_idefics, small_tokenizer
from causal_cxr.readers.flamingo.tasks import signs_of


@pytest.fixture(scope="module")
def phantom():
    return Phantom(120, training_world(), seed=1)


@pytest.fixture(scope="module")
def tasks(phantom):
    return Tasks(pool(phantom, "cpu"), signs_of(phantom), compositions=20)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(wordings):
    torch.manual_seed(0)
    tokenizer = small_tokenizer(wordings, Template())
    return small_idefics(
        tokenizer, patch=16, vision_width=32, vision_layers=1, latents=3, width=32, layers=2
    ), tokenizer


def test_what_is_held_out_is_neither_drawn_nor_named_in_the_fit(tasks):
    world = training_world()
    assert not set(HELD_OUT) & set(world.graph.attributes)
    drawn = {way.draws for ways in world.shown.values() for way in ways} | set(world.content.scene)
    assert not drawn & {*HELD_OUT, "effusion_ml"}
    said = " | ".join(tasks.wordings).lower()
    assert not any(name.replace("_", " ") in said for name in HELD_OUT)


def test_the_held_out_signs_are_signs_of_the_world_that_readers_are_judged_on():
    signs = signs_of(Phantom(30, "independent", seed=1))
    assert {name.split(" = ")[0] for name in signs} >= set(HELD_OUT)


def test_answers_about_a_sign_are_true_of_the_images(phantom):
    signs = signs_of(phantom)
    tasks = Tasks(pool(phantom, "cpu"), signs, made_up=0, compositions=0, named=1)
    position = list(signs).index("arms")
    episode, truth = tasks.draw(40, 5, generator(), task=position)
    # Unnamed questions may be turned round, named ones never are.
    assert (episode.answers == truth[..., position].bool())[episode.named].all()
    assert {tasks.wordings[i] for i in episode.words[episode.named]} <= {"arms", "arms in the field"} | set(
        tasks.wordings
    )
    assert 0.7 < float(episode.named.float().mean()) < 1


def test_what_has_gone_before_does_not_tell_the_next_answer(phantom):
    plain = Tasks(pool(phantom, "cpu"), signs_of(phantom), made_up=0, compositions=0)
    answers = plain.draw(2000, 4, generator())[0].answers.float()
    assert abs(float(np.corrcoef(answers[:, :3].mean(1), answers[:, 3])[0, 1])) < 0.07


def test_the_same_generator_draws_the_same_episodes(tasks):
    one, other = (tasks.draw(3, 4, generator(5))[0] for _ in range(2))
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.answers, other.answers)
    assert not torch.equal(one.images, tasks.draw(3, 4, generator(6))[0].images)


def test_marks_change_those_who_wear_them_and_no_others():
    images = torch.full((20, 2, 32, 32), 0.5)
    worn = torch.tensor([[1.0, 0.0]]).expand(20, -1)
    drawn = apply_marks(images, draw_marks(20, generator()), worn, generator())
    assert torch.equal(drawn[:, 1], images[:, 1])
    assert float(((drawn[:, 0] - 0.5).abs().amax((1, 2)) > 0.05).float().mean()) > 0.8
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_a_tone_is_a_power_of_the_brightness():
    images = torch.rand(2, 2, 8, 8, generator=generator()) * 0.9 + 0.05
    toned = apply_tone(images, torch.tensor([0.5, -0.5]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert torch.allclose(toned[0, 0], images[0, 0] ** np.exp(0.5))
    assert torch.allclose(toned[:, 1], images[:, 1])
    assert (toned[0, 0] < images[0, 0]).all()
    assert (toned[1, 0] > images[1, 0]).all()


def test_a_sign_that_nobody_has_is_refused(phantom):
    signs = signs_of(phantom).assign(arms=0.0)
    with pytest.raises(ValueError, match="arms is 1 in 0 images"):
        Tasks(pool(phantom, "cpu"), signs)


def test_only_what_is_before_an_answer_tells_it(tasks):
    model, tokenizer = tiny(tasks.wordings)
    learner = Learner(model, tokenizer, tasks.wordings, Template(), mean=0.5, std=0.25, signs=tasks.basic)
    episode, _ = tasks.draw(2, 5, generator())
    later = episode.answers.clone()
    later[:, 3:] = ~later[:, 3:]
    other = type(episode)(episode.images, later, episode.words, episode.named)
    with torch.no_grad():
        states = learner.states(episode.images)
        one, two = learner.answer(states, episode), learner.answer(states, other)
        near, far = learner.compare(states, episode.answers)[0], learner.compare(states, later)[0]
    assert torch.allclose(one[:, :4], two[:, :4], atol=1e-5)
    assert not torch.allclose(one[:, 4], two[:, 4], atol=1e-3)
    assert torch.allclose(near[:, :4], far[:, :4], atol=1e-5)


def test_the_language_model_and_the_vision_tower_stay_as_they_are_when_only_gates_are_fitted(tasks):
    model, tokenizer = tiny(tasks.wordings)
    before = {name: p.clone() for name, p in model.named_parameters()}
    fit_flamingo_reader(tasks, model, tokenizer, Template(), steps=2, batch_size=2, exemplars=2, train="gated")
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("perceiver" in name or "gated_cross_attn" in name for name in moved)
    with pytest.raises(ValueError, match='"all" or "gated"'):
        trainable(Learner(model, tokenizer, tasks.wordings, Template(), mean=0.5, std=0.25, signs=0), "some")


def test_a_killed_fit_goes_on_to_the_same_bits(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr("causal_cxr.readers.flamingo.fit.SAVED_EVERY", 2)

    def fitted(folder=None, dies_at=None):
        model, tokenizer = tiny(tasks.wordings)
        with monkeypatch.context() as patch:
            if dies_at is not None:
                draw = tasks.draw

                def draw_or_die(*args, **settings):
                    nonlocal dies_at
                    dies_at -= 1
                    if dies_at < 0:
                        raise KeyboardInterrupt
                    return draw(*args, **settings)

                patch.setattr(tasks, "draw", draw_or_die)
            fit_flamingo_reader(
                tasks, model, tokenizer, Template(), steps=4, batch_size=2, exemplars=2, checkpoint=folder
            )
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = fitted()
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, dies_at=3)
    assert torch.equal(fitted(tmp_path), whole)


def test_a_fit_learns_that_answers_are_yes_or_no(tasks, monkeypatch):
    monkeypatch.setattr("causal_cxr.readers.flamingo.fit.WARM_UP", 5)
    model, tokenizer = tiny(tasks.wordings)
    learner = Learner(model, tokenizer, tasks.wordings, Template(), mean=0.5, std=0.25, signs=tasks.basic)
    episode, truth = tasks.draw(16, 4, generator(3))
    with torch.no_grad():
        before = learner(episode, truth)[1]["answers"]
    fit_flamingo_reader(tasks, model, tokenizer, Template(), steps=60, batch_size=4, exemplars=3, learning_rate=4e-3)
    with torch.no_grad():
        after = learner(episode, truth)[1]["answers"]
    assert before > 4
    assert after < 1.2  # the coin that answers are has 0.69
