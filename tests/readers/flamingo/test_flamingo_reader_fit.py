"""What a fit asks is broad, keeps out what is held out, and can be killed in either phase."""

import sys

import numpy as np
import pytest
import torch

from causal_cxr.data.phantom import Phantom
from causal_cxr.readers.flamingo import HELD_OUT, FlamingoReader, Pool, Template, fit_flamingo_reader, training_world
from causal_cxr.readers.flamingo.compare import Comparer, choose
from causal_cxr.readers.flamingo.episodes import Bank
from causal_cxr.readers.flamingo.fit import pixels
from causal_cxr.readers.flamingo.fit_language import fit_language, trainable
from causal_cxr.readers.flamingo.learner import Learner
from causal_cxr.readers.flamingo.marks import apply_marks, draw_marks
from causal_cxr.readers.flamingo.model import pass_on, seen, small_idefics, small_tokenizer
from causal_cxr.readers.flamingo.prototypes import discriminants, start_with_prototypes
from causal_cxr.readers.flamingo.signs import signs_of, words_for


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def phantom():
    return Phantom(300, training_world(), seed=1)


@pytest.fixture(scope="module")
def pool(phantom):
    return Pool(pixels(phantom), torch.tensor(signs_of(phantom).to_numpy(), dtype=torch.float32))


@pytest.fixture(scope="module")
def bank():
    """Images that are 256 numbers, and questions about the sign of 40 of them."""
    states = torch.randn(4, 256, 1, 256, generator=generator())
    return Bank(list(states), list((states[:, :, 0, :40] > 0).float()), [(1, 1), (2, 1)])


@pytest.fixture(scope="module")
def learner():
    torch.manual_seed(0)
    words = ["this", "a drain", "wires"]
    tokenizer = small_tokenizer(words, Template())
    return Learner(small_idefics(tokenizer), tokenizer, words, Template()).eval()


def test_what_is_held_out_is_neither_drawn_nor_named_in_the_fit(phantom):
    world = training_world()
    assert not set(HELD_OUT) & set(world.graph.attributes)
    drawn = {way.draws for ways in world.shown.values() for way in ways} | set(world.content.scene)
    assert not drawn & {*HELD_OUT, "effusion_ml"}
    said = " | ".join(word for sign in signs_of(phantom) for word in words_for(str(sign))).lower()
    assert not any(name.replace("_", " ") in said for name in HELD_OUT)


def test_the_held_out_signs_are_signs_of_the_world_that_readers_are_judged_on():
    judged = Phantom(30, "independent", seed=1)
    assert {name.split(" = ")[0] for name in signs_of(judged)} >= set(HELD_OUT)
    with pytest.raises(ValueError, match="held out of the fit"):
        fit_flamingo_reader(judged)


def test_marks_change_those_who_wear_them_and_no_others():
    images = torch.full((20, 2, 32, 32), 0.5)
    worn = torch.tensor([[1.0, 0.0]]).expand(20, -1)
    drawn = apply_marks(images, draw_marks(20, generator()), worn, generator())
    assert torch.equal(drawn[:, 1], images[:, 1])
    assert float(((drawn[:, 0] - 0.5).abs().amax((1, 2)) > 0.05).float().mean()) > 0.8
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_a_group_knows_the_marks_that_its_images_wear(pool):
    """Images of one grey show nothing but marks."""
    plain = Pool(torch.full((200, 16, 16), 0.5), torch.zeros(200, 1), marks=2, variants=1)
    group = plain.draw(200, generator(3))
    assert group.truth.shape == (200, plain.questions)
    changed = (group.images != 0.5).flatten(1).any(1)
    worn = group.truth[:, 1:3].any(1)
    assert not changed[~worn].any()
    assert changed[worn].float().mean() > 0.8
    assert torch.equal(group.truth[:, 3].isnan(), group.truth[:, 1] == 0)  # a variant is asked of those that wear one
    with pytest.raises(ValueError, match="pool of 300"):
        pool.draw(301, generator())


def test_the_perceiver_begins_by_handing_on_what_the_eye_sees():
    """Beside what it draws on its own: a linear map gets most of it back, of other images."""
    torch.manual_seed(0)
    model = small_idefics(small_tokenizer(["this"], Template()))
    pass_on(model)
    states = torch.randn(3000, 1, 256, generator=generator())
    with torch.no_grad():
        given = seen(model, states, torch.nn.Identity())
    states, given = states.flatten(1), given.flatten(1)
    back = torch.linalg.lstsq(given[:2000], states[:2000]).solution
    assert (given[2000:] @ back - states[2000:]).square().mean() < 0.3 * states.square().mean()


def test_a_sign_is_told_by_a_linear_discriminant_with_the_covariance_of_all_images():
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    comparer = Comparer(
        small_idefics(small_tokenizer(["this"], Template())), torch.nn.Identity(), 1, mean=0.5, std=0.25
    )
    comparer.shrinkage.data.fill_(-3.0)  # none
    comparer.scale.data.zero_()
    x = torch.randn(60, 4, generator=generator()) @ torch.randn(4, 4, generator=generator(1))
    y = torch.arange(60) % 3 == 0
    shown = torch.arange(60) < 20
    told = comparer.compare(x, (y & shown)[:, None], (~y & shown)[:, None])[:, 0] * 4**0.5

    class OfAll:
        def fit(self, _):
            self.covariance_ = np.cov(x.numpy().T, bias=True)

    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.5, 0.5], covariance_estimator=OfAll())
    theirs.fit(x[shown].numpy(), y[shown].numpy())
    assert np.allclose(told.detach().numpy(), theirs.decision_function(x.numpy()), atol=1e-3)


def test_exemplars_are_chosen_from_their_side():
    side = torch.rand(50, 6, generator=generator()) < 0.5
    chosen = choose(side, torch.tensor([1, 2, 3, 4, 5, 50]), generator())
    assert not (chosen & ~side).any()
    assert chosen.sum(0).tolist() == [1, 2, 3, 4, 5, int(side[:, 5].sum())]


def test_answers_in_episodes_are_true_of_different_images(bank):
    drawn = bank.draw(30, 9, generator(), named=True)
    position = torch.where(drawn.words == 1, 0, 1)
    value = drawn.states[:, :, 0].gather(2, position[:, None, None].expand(-1, 9, 1))[..., 0]
    assert torch.equal(value > 0, drawn.answers)
    assert all(len(states.unique(dim=0)) == 9 for states in drawn.states[:, :, 0])


def test_what_has_gone_before_does_not_tell_the_next_answer(bank):
    answers = bank.draw(2000, 4, generator()).answers.float()
    assert abs(float(np.corrcoef(answers[:, :3].mean(1), answers[:, 3])[0, 1])) < 0.07


def test_an_episode_longer_than_a_group_is_refused(bank):
    with pytest.raises(ValueError, match="draw larger groups"):
        bank.draw(2, 200, generator())


def test_only_what_is_before_an_answer_tells_it(learner, bank):
    drawn = bank.draw(2, 5, generator())
    later = drawn.answers.clone()
    later[:, 3:] = ~later[:, 3:]
    with torch.no_grad():
        one, two = learner.answer(drawn), learner.answer(type(drawn)(drawn.states, later, drawn.words))
    assert torch.allclose(one[:, :4], two[:, :4], atol=1e-4)
    assert not torch.allclose(one[:, 4], two[:, 4], atol=1e-3)


def test_the_language_model_begins_by_comparing_prototypes(bank):
    torch.manual_seed(0)
    tokenizer = small_tokenizer(["this"], Template())
    learner = Learner(small_idefics(tokenizer), tokenizer, ["this"], Template()).eval()
    start_with_prototypes(learner.model, bank, (learner.yes, learner.no))
    drawn = bank.draw(200, 9, generator())
    directions, centre = discriminants(bank, 96)
    looks = (drawn.states[:, :, 0] - centre) @ directions
    signed = looks * (drawn.answers * 2.0 - 1)[..., None]
    expected = (signed[:, :8].mean(1) * looks[:, 8]).sum(-1)
    with torch.no_grad():
        logits = learner.answer(drawn)[:, 8]
    told = np.corrcoef(logits[:, learner.yes] - logits[:, learner.no], expected)[0, 1]
    assert told > 0.3  # by chance 0.07; it is about 0.4, a little more or less by the processor


def test_only_gates_are_fitted_where_the_language_model_is_to_stay(learner, bank):
    before = {name: p.clone() for name, p in learner.model.named_parameters()}
    tokenizer = small_tokenizer(["this", "a drain", "wires"], Template())
    fit_language(
        bank, learner.model, tokenizer, ["this", "a drain", "wires"], Template(), steps=2, batch_size=2, exemplars=2,
        train="gated",
    )  # fmt: skip
    moved = {name for name, p in learner.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("gated_cross_attn" in name for name in moved)
    with pytest.raises(ValueError, match='"all" or "gated"'):
        trainable(learner.model, "some")


@pytest.mark.parametrize("phase", ["vision", "language"])
def test_a_killed_fit_goes_on_to_the_same_bits(phantom, tmp_path, monkeypatch, phase):
    for module in ("fit_vision", "fit_language"):  # by name: the package's front door has functions of these names
        monkeypatch.setattr(sys.modules[f"causal_cxr.readers.flamingo.{module}"], "SAVED_EVERY", 2)

    def fitted(folder=None):
        return fit_flamingo_reader(phantom, vision_steps=3, language_steps=3, groups=1, seed=4, checkpoint=folder)

    whole = fitted()
    descend, done = torch.optim.AdamW.step, []

    def descend_or_die(self, *args, **settings):
        done.append(1)
        if len(done) == (3 if phase == "vision" else 6):
            raise KeyboardInterrupt
        return descend(self, *args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", descend_or_die)
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path)
    again = fitted(tmp_path)
    assert isinstance(again, FlamingoReader)
    assert again.weights_fingerprint == whole.weights_fingerprint
