"""Editing along CLIP's directions, with a toy CLIP whose directions are known: brightness and contrast of halves."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from causal_cxr.data.patients import all_known
from causal_cxr.data.tokenizer import build_tokenizer
from causal_cxr.editors import Editor
from causal_cxr.editors.clip_guided import CLIPGuidance, CLIPGuidedEditor
from causal_cxr.editors.diffusion import DiffusionEditor, captions
from causal_cxr.editors.diffusion.fit import build
from causal_cxr.editors.diffusion.inversion import Coupled
from causal_cxr.editors.diffusion.latents import Unshuffled
from causal_cxr.editors.diffusion.pipeline import Pipeline
from causal_cxr.editors.diffusion.process import Process
from causal_cxr.editors.diffusion.text import CLIPText
from causal_cxr.graphs import Binary, Continuous

VIEW = Binary("view", levels=("PA", "AP"), phrases={"PA": ("PA view", "seen as PA"), "AP": ("AP view", "seen as AP")})
LAMP = Binary("lamp", levels=("left", "right"), phrases={"left": "lamp left", "right": "lamp right"})
ATTRIBUTES = {"view": VIEW, "lamp": LAMP}
FACTUAL = pd.DataFrame({"view": ["PA", "AP", "PA"], "lamp": ["left", "right", "left"]}, index=[5, 2, 9])
TARGET = FACTUAL.assign(lamp=["right", "left", "left"])  # the last row is not to change
SEEDS = np.arange(3)
SIDE = 16


class ToyCLIP(nn.Module):
    """Text and image features are axes that one can name: light on the left, light on the right, light at the top, one."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = SimpleNamespace(image_size=SIDE)
        left, top = torch.zeros(SIDE, SIDE), torch.zeros(SIDE, SIDE)
        left[4:12, :6], top[:3, 6:10] = 1.0, 1.0
        masks = torch.stack([left, left.flip(1), top]).flatten(1)
        self.masks = nn.Parameter(masks / masks.sum(1, keepdim=True))

    def encode_image(self, x: Tensor, normalize: bool = False) -> Tensor:
        light = x.mean(1).flatten(1) @ self.masks.T
        return nn.functional.normalize(torch.cat([light, torch.ones(len(x), 1)], 1), dim=1)

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        return nn.functional.normalize(nn.functional.one_hot(tokens[:, 0], 4).float() + torch.eye(4)[3], dim=1)


def tokenise(texts: list[str]) -> Tensor:
    """open_clip's tokenizers are called with the texts alone."""
    return torch.tensor(
        [[0 if "left" in text else 1 if "right" in text else 2 if "AP" in text else 3] for text in texts]
    )


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base() -> DiffusionEditor:
    torch.manual_seed(0)
    texts = captions(FACTUAL, {"view": VIEW}) + captions(FACTUAL, {"view": VIEW}, 1)
    tokenizer = build_tokenizer(texts * 20, 16)
    unet, text_encoder = build(tokenizer, SIDE, (16, 32))
    pipeline = Pipeline(unet, CLIPText(text_encoder, tokenizer), Unshuffled(4), Process("flow"))
    return DiffusionEditor(
        pipeline, {"view": VIEW}, size=SIDE, autocast=None, inversion=Coupled(4), fitted_on=frozenset({"a"})
    )


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.3


def made(base: DiffusionEditor, **options) -> CLIPGuidedEditor:
    settings = {"steps": 12, **options}
    return CLIPGuidedEditor(base, ToyCLIP(), tokenise, attributes=ATTRIBUTES, guidance=CLIPGuidance(**settings))


@pytest.fixture(scope="module")
def editor(base) -> CLIPGuidedEditor:
    return made(base)


@pytest.fixture(scope="module")
def abduction(editor, images):
    return editor.abduct(images, FACTUAL, seeds=SEEDS)


def lights(editor: CLIPGuidedEditor, images: Tensor) -> Tensor:
    """What the toy CLIP sees left, right and at the top."""
    return (images.flatten(1) @ editor.model.masks.T).detach()


def test_it_is_an_editor_of_whatever_it_has_phrases_for(editor, base):
    assert isinstance(editor, Editor)
    assert editor.method == f"{editor.guidance!r}, {base.method}"
    assert editor.attributes == {"view", "lamp"}
    assert CLIPGuidedEditor(base, ToyCLIP(), tokenise).attributes == {"view"}
    assert not all_known(editor.fitted_on)  # whose images CLIP has seen is unknown
    known = CLIPGuidedEditor(base, ToyCLIP(), tokenise, clip_fitted_on=frozenset({"b"}))
    assert known.fitted_on == {"a", "b"}


def test_the_image_moves_as_the_words_do(editor, images, abduction):
    moved = lights(editor, editor.edit(abduction, TARGET).images) - lights(editor, images)
    assert moved[0, 1] > 0.02 > -0.02 > moved[0, 0]  # from left to right
    assert moved[1, 0] > 0.02 > -0.02 > moved[1, 1]
    assert (moved[:2, 2].abs() < 0.5 * moved[:2, :2].abs().amin(1)).all()  # and not at the top


def test_a_row_that_is_not_to_change_is_returned_and_so_is_every_null_edit(editor, images, abduction):
    torch.testing.assert_close(editor.edit(abduction, TARGET).images[2], images[2], atol=1e-6, rtol=0)
    for null in (editor.edit(abduction, FACTUAL), editor.edit(abduction, FACTUAL, phrasing=1)):
        torch.testing.assert_close(null.images, images, atol=1e-6, rtol=0)
        assert null.evaluations == 0


def test_strength_is_a_dose(editor, images, abduction):
    doses = [(editor.edit(abduction, TARGET, strength=s).images - images)[:2].norm() for s in (0.0, 0.5, 1.0)]
    assert doses[0] < 1e-5 < doses[1] < doses[2]


def test_the_same_edit_twice_is_the_same(base, editor, images, abduction):
    again = made(base)
    assert again.fingerprint == editor.fingerprint != made(base, sparsity=0.5).fingerprint
    once, twice = (e.edit(e.abduct(images, FACTUAL, seeds=SEEDS), TARGET).images for e in (editor, again))
    assert torch.equal(once, twice)


def test_a_row_does_not_depend_on_its_neighbours(editor, images, abduction):
    alone = editor.abduct(images[1:2], FACTUAL.iloc[1:2], seeds=SEEDS[1:2])
    edited = editor.edit(alone, TARGET.iloc[1:2]).images
    torch.testing.assert_close(edited, editor.edit(abduction, TARGET).images[1:2], atol=1e-3, rtol=0)


def test_more_sparsity_changes_fewer_pixels_and_more_identity_changes_them_less(base, images):
    def change(**options) -> Tensor:
        editor = made(base, **options)
        return (editor.edit(editor.abduct(images, FACTUAL, seeds=SEEDS), TARGET).images - images)[:2].abs()

    free, sparse = change(sparsity=0.0, identity=0.0), change(sparsity=0.8, identity=0.0)
    assert (sparse > 0.01).sum() < 0.8 * (free > 0.01).sum()
    assert change(sparsity=0.0, identity=1000.0).square().sum() < 0.8 * free.square().sum()


def test_the_ledger_counts_every_evaluation(base, images):
    editor = made(base, steps=7)
    abduction = editor.abduct(images, FACTUAL, seeds=SEEDS)
    assert editor.ledger.forward == abduction.evaluations
    edit = editor.edit(abduction, TARGET)  # of two rows: unmoved, seven steps forward and back, moved
    assert edit.evaluations == 2 * (1 + 7 + 2 * 7 + 1)
    assert editor.ledger.backward == 2 * 7
    assert all(p.grad is None for p in (*base.unet.parameters(), *editor.model.parameters()))


class Judge:
    """Rejects edits that move the image."""

    def __repr__(self) -> str:
        return "Judge()"

    def __call__(self, images, edited, factual, target):
        stays = (edited - images).abs().amax(dim=(1, 2, 3)) < 1e-5
        return stays.numpy(), tuple("" if stayed else "moved" for stayed in stays)


def test_edits_are_accepted_as_the_base_accepts_its_own(base, editor, images, abduction):
    judged = made(base.using(accept=Judge()))
    assert "Judge()" in judged.method
    assert judged.fingerprint != editor.fingerprint
    inverted = judged.abduct(images, FACTUAL, seeds=SEEDS)
    edit = judged.edit(inverted, TARGET)
    assert torch.equal(edit.images, editor.edit(abduction, TARGET).images)
    assert (edit.accepted.tolist(), edit.reasons) == ([False, False, True], ("moved", "moved", ""))
    for null in (judged.edit(inverted, FACTUAL), judged.edit(inverted, TARGET, strength=0.0)):
        assert null.accepted.all()
    assert editor.edit(abduction, TARGET).accepted.all()


def test_an_unknown_value_is_left_for_what_else_it_might_be(editor, images):
    blind = editor.abduct(images, FACTUAL.drop(columns="lamp"), seeds=SEEDS)
    moved = lights(editor, editor.edit(blind, TARGET).images) - lights(editor, images)
    assert moved[0, 1] > 0.02 > -0.02 > moved[0, 0]


def test_refusals_say_what_is_missing(base, editor, images, abduction):
    with pytest.raises(ValueError, match=r"Cannot set \['age'\]: there are phrases for \['lamp', 'view'\]"):
        editor.edit(abduction, TARGET.assign(age=50.0))
    age = Continuous("age", unit="years", low=0, high=100, phrases="{value:.0f} year old")
    aged = CLIPGuidedEditor(base, ToyCLIP(), tokenise, attributes={"age": age})
    with pytest.raises(ValueError, match="'age' is missing in row 5"):
        aged.edit(aged.abduct(images, FACTUAL, seeds=SEEDS), pd.DataFrame({"age": [50.0] * 3}, index=FACTUAL.index))
    with pytest.raises(ValueError, match=r"depth in \(0, 1\]"):
        CLIPGuidance(depth=0.0)
