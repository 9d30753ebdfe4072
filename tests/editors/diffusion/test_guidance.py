"""Guidance around a tiny network that was never fitted: what holds for any weights."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from guided import ATTRIBUTES, FACTUAL, TARGET, VIEW, made, request
from tiny_pipelines import stable_diffusion

from causal_cxr.editors.diffusion import DiffusionEditor
from causal_cxr.editors.diffusion.denoiser import Captioned, Condition, Denoiser
from causal_cxr.editors.diffusion.guidance import (
    ClassifierFree,
    NaivePrompt,
    Orthogonal,
    PerAttribute,
    PromptToPrompt,
    Region,
    Request,
)
from causal_cxr.editors.diffusion.guidance.changes import changes
from causal_cxr.editors.diffusion.guidance.directions import without
from causal_cxr.editors.diffusion.inversion import INVERSIONS, Coupled
from causal_cxr.editors.diffusion.inversion.ddim import DDIM
from causal_cxr.editors.diffusion.masks import Drawn, Estimated

SEEDS = np.arange(3)
CLOSE = {"atol": 2e-5, "rtol": 0.0}
HALF = torch.cat([torch.ones(16, 8), torch.zeros(16, 8)], dim=1)
ALL = [
    ClassifierFree(2.0),
    PerAttribute({"view": 1.5}),
    Orthogonal(ATTRIBUTES),
    NaivePrompt(),
    PromptToPrompt(),
    PromptToPrompt(words={"AP": 2.0}, scale=1.5),
    Region(PerAttribute(), Estimated()),
    Region(Orthogonal(ATTRIBUTES), Drawn(HALF), keep=Drawn(HALF.flip(0).T)),
]


@pytest.fixture(scope="module")
def editor():
    return made()


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3


def edited(editor, images, guidance, target=TARGET, **options):
    editor = editor.using(guidance=guidance)
    return editor.edit(editor.abduct(images, FACTUAL, seeds=SEEDS), target, **options).images


def cost(editor, images, guidance, target):
    """Network evaluations of one point, all images together."""
    asked = request(editor, images, target)
    field = guidance.target(asked)
    asked.denoiser.ledger.forward = 0
    with torch.no_grad():
        field(asked.trajectory.latents[-1], asked.trajectory.times[-1])
    return asked.denoiser.ledger.forward


# What all of them owe


@pytest.mark.parametrize("guidance", ALL, ids=lambda g: type(g).__name__)
@pytest.mark.parametrize("predicts", ["flow", "epsilon"])
def test_who_asks_for_nothing_gets_the_image_and_who_asks_gets_another(predicts, guidance, images):
    editor = made(predicts)
    if isinstance(guidance, ClassifierFree):  # leads away from the empty caption even then
        guidance = ClassifierFree()
    if isinstance(guidance, PromptToPrompt):
        guidance = dataclasses.replace(guidance, words={}, scale=1.0)
    torch.testing.assert_close(edited(editor, images, guidance, FACTUAL), images, **CLOSE)
    assert float((edited(editor, images, guidance) - images).abs().max()) > 1e-3


@pytest.mark.parametrize(
    "guidance",
    [ClassifierFree(), PerAttribute(), PerAttribute({"view": 2.0}), Orthogonal(ATTRIBUTES), NaivePrompt(), PromptToPrompt(),
     Region(PromptToPrompt(), Drawn(HALF))],
    ids=lambda g: type(g).__name__,
)  # fmt: skip
def test_a_dose_of_nothing_returns_the_image_and_doses_between_lie_between(editor, images, guidance):
    torch.testing.assert_close(edited(editor, images, guidance, strength=0.0), images, **CLOSE)
    half, full = (edited(editor, images, guidance, strength=dose) for dose in (0.5, 1.0))
    for end in (images, full):
        assert 0 < float((half - end).abs().mean()) < float((full - images).abs().mean())


def test_rows_may_lie_on_the_cpu_where_the_network_does_not():
    told = Condition(torch.zeros(3, 2, 4, device="meta"))
    changed = told.changed(torch.tensor([0, 2]), Condition(torch.ones(2, 2, 4, device="meta")))
    assert changed.text.device.type == "meta"


def test_each_has_a_fingerprint_of_its_own(editor):
    more = [PerAttribute(), Orthogonal(ATTRIBUTES, held=("age",)), Region(PerAttribute(), Drawn(HALF)),
            Region(PerAttribute(), Drawn(HALF.T)), NaivePrompt("nothing"), PromptToPrompt(cross=0.5)]  # fmt: skip
    prints = [editor.using(guidance=guidance).fingerprint for guidance in ALL + more]
    assert len(set(prints)) == len(prints)
    assert prints == [made().using(guidance=guidance).fingerprint for guidance in ALL + more]


# Changes


def test_a_change_is_told_row_by_row_and_missing_is_a_value():
    before = pd.DataFrame({"age": [30.0, np.nan, np.nan], "view": ["PA", "AP", "PA"], "edema": ["none"] * 3})
    after = pd.DataFrame({"age": [30.0, np.nan, 20.0], "view": ["AP", "AP", None]})
    assert {name: rows.tolist() for name, rows in changes(before, after).items()} == {
        "age": [False, False, True], "view": [True, False, True],
    }  # fmt: skip
    unknown = changes(before[["age"]], after[["view"]])  # without a column all are missing
    assert unknown["view"].tolist() == [True, True, False]
    typed = pd.Series(pd.Categorical(["PA", "AP", "PA"], categories=["PA", "AP"]))
    assert changes(before.assign(view=typed), before) == {}


# A weight an attribute


def test_one_attribute_with_a_weight_extrapolates_from_the_factual_caption(editor, images):
    asked = request(editor, images, VIEW)
    guided = PerAttribute({"view": 1.5}).target(asked)
    source, target = asked.caption(FACTUAL), asked.caption(VIEW)
    linear = Captioned(asked.denoiser, target, source, 1.5)
    with torch.no_grad():
        for t, x in zip(asked.trajectory.times[1:], asked.trajectory.latents[1:], strict=True):
            torch.testing.assert_close(guided(x, t).clean, linear(x, t).clean, **CLOSE)


def test_strength_scales_the_directions_as_a_weight_does(editor, images):
    dosed = edited(editor, images, PerAttribute({"view": 2.0}), VIEW, strength=0.75)
    torch.testing.assert_close(dosed, edited(editor, images, PerAttribute(default=1.5), VIEW), **CLOSE)


def test_a_weight_of_0_leaves_its_attribute_alone(editor, images):
    torch.testing.assert_close(
        edited(editor, images, PerAttribute({"age": 0.0}), TARGET),
        edited(editor, images, PerAttribute(), VIEW),
        **CLOSE,
    )


def test_weights_for_what_the_images_do_not_have_are_refused(editor, images):
    with pytest.raises(ValueError, match=r"weights for \['sex'\]"):
        edited(editor, images, PerAttribute({"sex": 1.5}))


def test_an_image_costs_one_evaluation_and_one_a_change_but_one_in_all_where_a_caption_says_it(editor, images):
    weighed = PerAttribute({"view": 2.0})
    assert cost(editor, images, weighed, FACTUAL) == 3
    assert cost(editor, images, weighed, VIEW) == 3 * 2
    assert cost(editor, images, weighed, TARGET) == 3 + 3 + 2  # the second image keeps its age
    assert cost(editor, images, PerAttribute(), VIEW) == 3  # nothing but the view changes, at a weight of 1
    assert cost(editor, images, PerAttribute(), TARGET) == 3 + 2 + 2


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_one_attribute_at_a_weight_of_1_is_as_its_caption_says_whatever_else_is_weighed(editor, images, strength):
    plain = edited(editor, images, ClassifierFree(), VIEW)
    directed = edited(editor, images, PerAttribute({"age": 3.0, "view": 1 / strength}), VIEW, strength=strength)
    torch.testing.assert_close(directed, plain, rtol=0, atol=1e-6)


# Orthogonal directions


def test_what_is_left_is_orthogonal_to_all_that_is_held():
    generator = torch.Generator().manual_seed(0)
    edit = torch.randn(4, 300, generator=generator)
    held = torch.randn(4, 300, 3, generator=generator)
    held = torch.cat([held, held[:, :, :1] * 2, torch.zeros(4, 300, 1)], dim=2)  # one is spanned, one is nothing
    left = without(edit, held)
    cosine = torch.einsum("nd,ndk->nk", left, held) / (left.norm(dim=1)[:, None] * held.norm(dim=1).clamp_min(1e-9))
    assert float(cosine.abs().max()) < 1e-5
    for row in range(4):  # least squares says the same
        best = torch.linalg.lstsq(held[row, :, :3], edit[row, :, None]).solution
        torch.testing.assert_close(left[row], edit[row] - (held[row, :, :3] @ best)[:, 0], atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("region", [None, HALF])
def test_the_edit_is_orthogonal_to_changing_a_held_attribute(editor, images, region):
    asked = request(editor, images, VIEW)
    within = torch.ones(3, 1, 4, 4)
    if region is not None:
        within = Drawn(region)(asked, None, None)
        asked = dataclasses.replace(asked, region=within)
    t, x = asked.trajectory.times[2], asked.trajectory.latents[2]
    with torch.no_grad():

        def said(table):
            return asked.denoiser.output(x, t, asked.caption(table))

        base = said(FACTUAL)
        process = asked.denoiser.process
        left = Orthogonal(ATTRIBUTES).target(asked)(x, t).velocity - process.split(base, x, t).velocity
        edema = list(ATTRIBUTES["edema"].levels)
        other = FACTUAL.assign(edema=[edema[(edema.index(level) + 1) % 3] for level in FACTUAL["edema"]])
        older = FACTUAL.assign(age=[47.5, 67.5, 62.5])  # a quarter of the range on, back where that leaves it
        for table in (other, older):
            held = (within * (said(table) - base)).flatten(1)
            cosine = (left.flatten(1) * held).sum(1) / (left.flatten(1).norm(dim=1) * held.norm(dim=1))
            assert float(cosine.abs().max()) < 1e-4
        plain = (within * (said(VIEW) - base)).flatten(1)
    assert (left.flatten(1).norm(dim=1) <= plain.norm(dim=1) + 1e-5).all()
    assert (left.flatten(1) * plain).sum() > 0
    assert float((left * (1 - within)).abs().max()) < 1e-5


def test_with_nothing_held_directions_stay_as_they_are(editor, images):
    torch.testing.assert_close(
        edited(editor, images, Orthogonal(ATTRIBUTES, held=(), weights={"age": 1.5})),
        edited(editor, images, PerAttribute({"age": 1.5})),
        **CLOSE,
    )


def test_each_other_value_of_what_is_held_costs_an_evaluation(editor, images):
    assert cost(editor, images, Orthogonal(ATTRIBUTES), FACTUAL) == 3
    assert cost(editor, images, Orthogonal(ATTRIBUTES), VIEW) == 3 * (
        1 + 1 + 1 + 2
    )  # age, and two other degrees of edema
    assert cost(editor, images, Orthogonal(ATTRIBUTES, held=("age",)), TARGET) == 3 + 3 + 2 + 1  # held where it is


def test_only_attributes_can_be_held():
    with pytest.raises(ValueError, match=r"Cannot hold \['sex'\]"):
        Orthogonal(ATTRIBUTES, held=("sex",))


# The naive prompt


def test_the_naive_prompt_names_what_changes_and_nothing_else(editor, images):
    asked = request(editor, images, TARGET)
    field = NaivePrompt().target(asked)
    only = editor.describe(pd.DataFrame({"age": [80.0, np.nan, 30.0], "view": ["AP", "PA", "AP"]}))
    torch.testing.assert_close(field.condition.text, only.text)
    one = NaivePrompt(named=("view",)).target(asked)
    torch.testing.assert_close(one.condition.text, editor.describe(TARGET[["view"]]).text)


def test_an_image_that_is_to_stay_is_asked_for_as_it_was_inverted(editor, images):
    partly = FACTUAL.assign(age=[30.0, 50.0, 60.0])
    asked = request(editor, images, partly)
    text = NaivePrompt().target(asked).condition.text
    torch.testing.assert_close(text[:2], asked.caption(FACTUAL).text[:2])
    torch.testing.assert_close(NaivePrompt("nothing").target(asked).condition.text[:2], asked.describe.nothing(2).text)


# Regions


def test_no_region_returns_the_image_and_all_of_it_the_plain_edit(editor, images):
    def region(mask, keep=None):
        return edited(editor, images, Region(ClassifierFree(), Drawn(mask), keep))

    everywhere, nowhere = torch.ones(16, 16), torch.zeros(16, 16)
    plain = edited(editor, images, ClassifierFree())
    torch.testing.assert_close(region(nowhere), images, **CLOSE)
    torch.testing.assert_close(region(everywhere, Drawn(everywhere)), images, **CLOSE)
    torch.testing.assert_close(region(everywhere), plain, **CLOSE)
    torch.testing.assert_close(region(everywhere, Drawn(nowhere)), plain, **CLOSE)


@pytest.mark.parametrize("guidance", [ClassifierFree(), Orthogonal(ATTRIBUTES), PromptToPrompt()], ids=repr)
def test_outside_the_region_nothing_moves_and_inside_it_does(editor, images, guidance):
    moved = (edited(editor, images, Region(guidance, Drawn(HALF))) - images).abs()
    assert float(moved[..., 8:].max()) < 2e-6
    assert float(moved[..., :8].mean()) > 1e-4


@pytest.mark.parametrize("predicts", ["flow", "epsilon"])
@pytest.mark.parametrize("name", [name for name, method in INVERSIONS.items() if method.exact])
def test_outside_the_region_every_exact_inversion_goes_back_the_way_it_came(name, predicts, images):
    """In the latents already, EDICT's two coupled ones among them: what is inside is drawn into what is there."""
    if predicts == "flow" and name in ("belm", "ddpm"):
        return
    editor = made(predicts).using(inversion=INVERSIONS[name](8))
    guidance = Region(ClassifierFree(), Drawn(HALF))
    state = editor.abduct(images, FACTUAL, seeds=SEEDS).state
    with torch.no_grad():
        asked = Request(Denoiser(editor.unet, editor.pipeline.process), editor.describe, FACTUAL, TARGET, state)
        moved = (editor.inversion.redraw(state, guidance.target(asked)) - state.image).abs()
    assert float(moved[..., 2:].max()) < 1e-4  # latents of unit variance
    assert float(moved[..., :2].mean()) > 1e-2
    torch.testing.assert_close(edited(editor, images, guidance)[..., 8:], images[..., 8:], atol=1e-6, rtol=0)
    torch.testing.assert_close(edited(editor, images, guidance, FACTUAL), images, **CLOSE)


def test_what_is_kept_in_part_of_a_position_is_kept(editor, images):
    """Burnt-in text does not end where a position of the latents does."""
    text = torch.zeros(16, 16)
    text[5:7, 2:11] = 1
    moved = (edited(editor, images, Region(ClassifierFree(), Drawn(torch.ones(16, 16)), Drawn(text))) - images).abs()
    assert float((moved * text).max()) < 1e-6
    assert float(moved[..., 4:8, :12].max()) < 1e-6  # all of the positions that the text touches
    assert float(moved[..., 8:, :].mean()) > 1e-4


def test_outside_the_region_an_autoencoder_spills_nothing_of_what_is_inside(images, tmp_path):
    """A pixel is decoded from many positions; outside, all of them are to be the image's own."""
    stable_diffusion(tmp_path)
    editor = DiffusionEditor.from_pretrained(tmp_path, attributes=ATTRIBUTES, inversion=Coupled(3))
    editor = editor.using(guidance=Region(ClassifierFree(), Drawn(HALF)))
    abduction = editor.abduct(images, FACTUAL, seeds=SEEDS)
    null, edit = (editor.edit(abduction, table).images for table in (FACTUAL, TARGET))
    assert torch.equal(edit[..., 8:], null[..., 8:])
    assert float((edit - null)[..., :8].abs().max()) > 0
    assert editor.ledger.decode == 2 * (3 + 3)  # the edit, and the image to hold on to


def test_outside_the_region_an_inexact_inversion_returns_no_worse_than_without_an_edit(editor, images):
    editor = editor.using(inversion=DDIM(8))
    back = (edited(editor, images, ClassifierFree(), FACTUAL) - images).abs()[..., 8:].mean()
    assert (
        float((edited(editor, images, Region(ClassifierFree(), Drawn(HALF))) - images).abs()[..., 8:].mean())
        <= float(back) * 1.1
    )


# Prompt-to-prompt


def test_prompt_to_prompt_without_control_is_the_plain_edit(editor, images):
    free = PromptToPrompt(cross=0.0, self_attention=0.0)
    torch.testing.assert_close(edited(editor, images, free), edited(editor, images, ClassifierFree()), **CLOSE)
    torch.testing.assert_close(
        edited(editor, images, PromptToPrompt(0.0, 0.0, scale=2.0)),
        edited(editor, images, ClassifierFree(2.0)),
        **CLOSE,
    )


def test_more_control_changes_the_edit_more(editor, images):
    plain = edited(editor, images, ClassifierFree())
    some, more = (edited(editor, images, PromptToPrompt(share, 0.0)) for share in (0.25, 1.0))
    assert 0 < float((some - plain).abs().mean()) < float((more - plain).abs().mean())
    assert float((edited(editor, images, PromptToPrompt(0.0, 0.5)) - plain).abs().mean()) > 0


def test_a_word_that_is_weighed_by_1_is_as_it_was_and_by_another_factor_is_not(editor, images):
    def weighed(**words):
        return edited(editor, images, PromptToPrompt(words=words))

    same = edited(editor, images, PromptToPrompt())
    torch.testing.assert_close(weighed(view=1.0), same, **CLOSE)
    assert float((weighed(view=8.0) - same).abs().max()) > 1e-5
    assert torch.equal(weighed(effusion=8.0), same)  # in none of these captions


def test_it_costs_two_evaluations_where_maps_are_taken_over_and_one_where_not(editor, images):
    assert cost(editor, images, PromptToPrompt(), TARGET) == 2 * 3
    assert cost(editor, images, PromptToPrompt(cross=0.0, self_attention=0.0), TARGET) == 3
    editor = editor.using(guidance=PromptToPrompt(cross=0.5, self_attention=0.25))
    abduction = editor.abduct(images, FACTUAL, seeds=SEEDS)
    assert editor.edit(abduction, TARGET).evaluations == 3 * (2 + 2 + 1 + 1)
    assert editor.edit(abduction, TARGET, strength=0.5).evaluations == 3 * (3 + 3 + 2 + 2)


def test_it_works_on_the_latents_of_an_inversion_that_draws_no_noise(editor, images):
    editor = editor.using(inversion=DDIM(8))
    null, plain = (edited(editor, images, how, FACTUAL) for how in (PromptToPrompt(), ClassifierFree()))
    assert float((null - images).abs().mean()) < 1.1 * float((plain - images).abs().mean())


def test_shares_are_shares():
    with pytest.raises(ValueError, match="cross is the share"):
        PromptToPrompt(cross=1.2)
