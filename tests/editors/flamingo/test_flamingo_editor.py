"""Editing by exemplars: what holds for any weights."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from causal_cxr.data.patients import all_known
from causal_cxr.editors import Editor
from causal_cxr.editors.diffusion.denoiser import Condition
from causal_cxr.editors.flamingo import Exemplars, FlamingoEditor
from causal_cxr.editors.flamingo.gated import ExemplarUNet

ROWS = np.arange(3)
SEEDS = np.arange(3)


def opened(base, seed: int = 1) -> ExemplarUNet:
    """Layers whose gates are open, as after a fit."""
    torch.manual_seed(seed)
    network = ExemplarUNet(base.unet)
    with torch.no_grad():
        for layer in network.layers.values():
            layer.alpha_cross_attn.fill_(0.5)
            layer.alpha_dense.fill_(0.5)
    return network


def exemplars(lamps, rows=range(10, 22), patients=frozenset({"b"})) -> Exemplars:
    return Exemplars(lamps.images(np.array(rows)), lamps.lamp[list(rows)].tolist(), patients)


def tables(lamps) -> tuple[pd.DataFrame, pd.DataFrame]:
    factual = lamps.attributes.iloc[ROWS].assign(lamp=lamps.lamp[ROWS])
    return factual, factual.assign(lamp=["left" if lamp == "right" else "right" for lamp in factual["lamp"]])


def encoded_and_back(editor, images):
    """The images within the rounding of the latents."""
    space = editor.base.pipeline.latents
    return space.decode(space.encode(images))


@pytest.fixture(scope="module")
def editor(base, lamps) -> FlamingoEditor:
    return FlamingoEditor(base, opened(base), {"lamp": exemplars(lamps)}, fitted_on=frozenset({"c"}))


def test_it_is_an_editor_of_what_the_base_names_and_of_what_is_shown(editor):
    assert isinstance(editor, Editor)
    assert editor.method.startswith(f"{editor.inversion!r}, Contrasted(")
    assert editor.method.endswith("exemplars of ['lamp']")
    assert editor.attributes == {"view", "lamp"}
    assert editor.fitted_on == {"a", "b", "c"}


def test_what_is_neither_named_nor_shown_is_refused(editor, base, lamps):
    factual, target = tables(lamps)
    abduction = editor.abduct(lamps.images(ROWS), factual, seeds=SEEDS)
    with pytest.raises(ValueError, match=r"Cannot set \['age'\]: captions name \['lamp', 'view'\]"):
        editor.edit(abduction, factual.assign(age=50.0))
    with pytest.raises(ValueError, match=r"Cannot set \['lamp'\]"):
        base.edit(base.abduct(lamps.images(ROWS), factual, seeds=SEEDS), target)


def test_closed_gates_are_the_base_bit_for_bit(base, lamps):
    closed = FlamingoEditor(base, ExemplarUNet(base.unet), {"lamp": exemplars(lamps)})
    factual, target = tables(lamps)
    target = target.assign(view=["AP", "AP", "PA"])
    with_them, without = (
        e.edit(e.abduct(lamps.images(ROWS), factual, seeds=SEEDS), target).images for e in (closed, base)
    )
    assert torch.equal(with_them, without)


def test_nothing_to_see_is_the_base_bit_for_bit_though_the_gates_are_open(base):
    network, x = opened(base), torch.randn(2, 16, 4, 4)
    text = base.describe(pd.DataFrame({"view": ["PA", "AP"]})).text
    for visual in (None, network.blind(2)):
        kwargs = {} if visual is None else {"cross_attention_kwargs": {"visual": visual}}
        with torch.no_grad():
            plain = base.unet(x, torch.full((2,), 500.0), encoder_hidden_states=text).sample
            seen = network(x, torch.full((2,), 500.0), encoder_hidden_states=text, **kwargs).sample
        assert torch.equal(plain, seen)


def test_nothing_stays_attached_to_the_base(base, editor, lamps):
    factual, _ = tables(lamps)
    editor.abduct(lamps.images(ROWS), factual, seeds=SEEDS)
    assert not any(module._forward_hooks for module in base.unet.modules())


def test_exemplars_of_another_value_change_the_image_and_those_of_the_same_do_not(editor, lamps):
    factual, target = tables(lamps)
    images = lamps.images(ROWS)
    abduction = editor.abduct(images, factual, seeds=SEEDS)
    assert torch.equal(editor.edit(abduction, factual).images, encoded_and_back(editor, images))
    moved = (editor.edit(abduction, target).images - images).abs().amax((1, 2, 3))
    assert (moved > 1e-3).all()


def test_strength_doses_the_exemplars(editor, lamps):
    factual, target = tables(lamps)
    images = lamps.images(ROWS)
    abduction = editor.abduct(images, factual, seeds=SEEDS)
    moved = [(editor.edit(abduction, target, strength=s).images - images).norm() for s in (0.0, 0.5, 1.0)]
    assert moved[0] < 1e-5 < moved[1] < moved[2]


def test_guidance_away_from_the_factual_exemplars_amplifies_and_leaves_the_null_edit_alone(editor, lamps):
    factual, target = tables(lamps)
    images, guided = lamps.images(ROWS), editor.shown(editor.exemplars, scale=2.0)
    abduction = guided.abduct(images, factual, seeds=SEEDS)
    assert torch.equal(guided.edit(abduction, factual).images, encoded_and_back(guided, images))
    plain = editor.edit(abduction, target).images - images
    assert (guided.edit(abduction, target).images - images).norm() > 1.3 * plain.norm()


def test_an_attribute_that_the_table_does_not_know_can_be_set(editor, lamps):
    factual, target = tables(lamps)
    abduction = editor.abduct(lamps.images(ROWS), factual.drop(columns="lamp"), seeds=SEEDS)
    assert (editor.edit(abduction, target).images - lamps.images(ROWS)).abs().max() > 1e-3


def test_a_worded_attribute_that_is_shown_is_no_longer_named(base, lamps):
    views = Exemplars(lamps.images(np.arange(10, 22)), lamps.attributes["view"].iloc[10:22].tolist())
    closed = FlamingoEditor(base, ExemplarUNet(base.unet), {"view": views})
    factual = lamps.attributes.iloc[ROWS]
    target = pd.DataFrame({"view": [{"PA": "AP", "AP": "PA"}[v] for v in factual["view"]]}, index=factual.index)
    abduction = closed.abduct(lamps.images(ROWS), factual, seeds=SEEDS)
    assert torch.equal(closed.edit(abduction, target).images, encoded_and_back(closed, lamps.images(ROWS)))
    assert not all_known(closed.fitted_on)  # whose the exemplars are is unknown


def test_a_row_does_not_depend_on_its_neighbours(editor, lamps):
    factual, target = tables(lamps)
    together = editor.edit(editor.abduct(lamps.images(ROWS), factual, seeds=SEEDS), target).images
    alone = editor.edit(editor.abduct(lamps.images(ROWS[1:2]), factual.iloc[1:2], seeds=SEEDS[1:2]), target.iloc[1:2])
    torch.testing.assert_close(alone.images, together[1:2], atol=2e-5, rtol=0)


def test_the_fingerprint_tells_exemplars_weights_and_guidance_apart(base, lamps, editor):
    others = [
        editor.shown({"lamp": exemplars(lamps, range(11, 23))}),
        editor.shown(editor.exemplars, scale=2.0),
        FlamingoEditor(base, opened(base, seed=2), editor.exemplars),
    ]
    assert len({editor.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert editor.shown(editor.exemplars).fingerprint == editor.fingerprint


def test_saved_layers_edit_as_before_on_their_base_and_on_no_other(base, editor, lamps, tmp_path):
    factual, target = tables(lamps)
    folder = editor.save(tmp_path, half=False)
    assert sorted(path.name for path in folder.iterdir()) == ["editor.json", "exemplar_layers.safetensors"]
    back = FlamingoEditor.from_pretrained(folder, base=base, exemplars=editor.exemplars)
    assert (back.fingerprint, back.fitted_on) == (editor.fingerprint, editor.fitted_on)
    one, other = (e.edit(e.abduct(lamps.images(ROWS), factual, seeds=SEEDS), target).images for e in (editor, back))
    assert torch.equal(one, other)
    other = copy.copy(base)
    other.weights_fingerprint = "another"
    with pytest.raises(ValueError, match=r"fitted to the base .*, this one is another"):
        FlamingoEditor.from_pretrained(folder, base=other)
    with pytest.raises(FileNotFoundError, match=r"exemplar_layers\.safetensors"):
        FlamingoEditor.from_pretrained(tmp_path / "nowhere", base=base)


def test_visual_tokens_travel_in_the_condition(editor, lamps):
    factual, target = tables(lamps)
    described = [editor._editor.describe(table) for table in (factual, target)]
    assert torch.equal(described[0].text, described[1].text)
    assert not torch.equal(described[0].visual, described[1].visual)
    assert isinstance(described[0], Condition)
    assert described[0].visual.shape == (3, 16, 64)


def test_refusals_say_what_is_missing(base, editor, lamps):
    images = lamps.images(np.arange(2))
    with pytest.raises(ValueError, match="2 values"):
        Exemplars(images[:1], ["left", "right"])
    with pytest.raises(ValueError, match="All exemplars have the value 'left'"):
        Exemplars(images, ["left", "left"])
    with pytest.raises(ValueError, match="missing"):
        Exemplars(images, ["left", None])
    factual, _ = tables(lamps)
    with pytest.raises(ValueError, match=r"Of 'lamp': No exemplar shows 'above'; they show \['"):
        editor.abduct(lamps.images(ROWS), factual.assign(lamp="above"), seeds=SEEDS)
    with pytest.raises(ValueError, match="another UNet"):
        FlamingoEditor(base, ExemplarUNet(copy.deepcopy(base.unet)))
