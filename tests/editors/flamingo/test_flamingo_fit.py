"""Fitting layers that read exemplars: what is trained, to the same bits whenever it is killed, and that exemplars tell."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from causal_cxr.data.phantom import Phantom
from causal_cxr.editors.diffusion import DiffusionEditor
from causal_cxr.editors.diffusion.inversion import Coupled
from causal_cxr.editors.finetune.loop import History
from causal_cxr.editors.flamingo import Exemplars, FlamingoEditor, fit_flamingo
from causal_cxr.editors.flamingo.episodes import Episodes
from causal_cxr.editors.flamingo.gated import ExemplarUNet
from causal_cxr.editors.flamingo.marks import apply_marks, draw_marks
from causal_cxr.editors.flamingo.measure import measured
from causal_cxr.fitting.resumable import ResumableFit

ROWS = np.arange(40)
TINY = {"batch_size": 4, "exemplars": 2, "width": 16, "tokens": 4}
STEPS = 5


class PowerCutError(Exception):
    pass


def fitted(base, lamps, **options) -> FlamingoEditor:
    return fit_flamingo(lamps, ROWS, base, lamps.labels, **({"steps": STEPS} | TINY | options))


def weights(editor: FlamingoEditor) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in editor.network.added.items()}


def test_only_the_new_layers_are_trained_and_the_base_is_left_as_it_is(base, lamps):
    before = {name: p.clone() for name, p in base.unet.state_dict().items()}
    editor = fitted(base, lamps, learning_rate=0.1)
    assert editor.base is base
    assert all(torch.equal(before[name], p) for name, p in base.unet.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in base.unet.parameters())
    gates = [layer.alpha_cross_attn for layer in editor.network.layers.values()]
    assert all((gate != 0).any() for gate in gates)
    assert editor.fitted_on == frozenset({"a"} | {f"lamps-0-{i}" for i in ROWS})


def test_a_killed_fit_goes_on_to_the_same_bits(base, lamps, tmp_path, monkeypatch):
    descend, left = ResumableFit.descend, iter(range(3))
    monkeypatch.setattr("causal_cxr.editors.finetune.loop.SAVED_EVERY", 2)
    whole = fitted(base, lamps, checkpoint=tmp_path / "whole")

    def descend_once_more(self, loss, learning_rate):
        if next(left, None) is None:
            raise PowerCutError
        descend(self, loss, learning_rate)

    monkeypatch.setattr(ResumableFit, "descend", descend_once_more)
    with pytest.raises(PowerCutError):
        fitted(base, lamps, checkpoint=tmp_path / "killed")
    monkeypatch.setattr(ResumableFit, "descend", descend)
    resumed = fitted(base, lamps, checkpoint=tmp_path / "killed")
    one, other = weights(whole), weights(resumed)
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    with pytest.raises(ValueError, match="state of another fit"):
        fitted(base, lamps, checkpoint=tmp_path / "killed", exemplars=3)
    with pytest.raises(ValueError, match="state of another fit"):
        fitted(base.using(template="A [view] chest film."), lamps, checkpoint=tmp_path / "killed")
    logs = [
        [json.loads(line) for line in (tmp_path / name / "loss.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1]
    assert [entry["step"] for entry in logs[0]] == [2, 4, 5]
    assert resumed.provenance["history"] == whole.provenance["history"] == History(5, logs[0][-1]["loss"])


def test_exemplars_come_to_tell_what_no_word_does(base, lamps, monkeypatch):
    """Edited by exemplars of the other lamp, the light moves to the other side."""
    monkeypatch.setattr("causal_cxr.editors.finetune.loop.WARM_UP", 10)
    editor = fitted(base, lamps, steps=90, batch_size=16, learning_rate=1e-2, together=1, marked=0.0)
    rows = np.arange(40, 60)
    shown = editor.shown({"lamp": Exemplars(lamps.images(ROWS[:12]), lamps.lamp[:12].tolist())})
    factual = lamps.attributes.iloc[rows].assign(lamp=lamps.lamp[rows])
    target = factual.assign(lamp=["left" if lamp == "right" else "right" for lamp in factual["lamp"]])
    images = lamps.images(rows)
    moved = shown.edit(shown.abduct(images, factual, seeds=rows), target).images - images
    to_the_left = (moved[..., :8].mean((1, 2, 3)) - moved[..., 8:].mean((1, 2, 3))).numpy()
    assert np.where(target["lamp"] == "left", to_the_left, -to_the_left).mean() > 0.05


@pytest.mark.parametrize("options", [{"marked": 1.0}, {"together": 1}, {"marked": 0.0}])
def test_every_kind_of_episode_can_be_fitted(base, lamps, options):
    assert all(torch.isfinite(weight).all() for weight in weights(fitted(base, lamps, steps=1, **options)).values())


def test_what_exemplars_show_goes_unsaid(base, lamps, monkeypatch):
    """Of a worded attribute too: else the caption answers for them."""
    table = lamps.attributes.astype(object)
    told, describe = [], type(base.describe).__call__

    def listen(self, table, phrasing=0):
        told.append(table["view"])
        return describe(self, table, phrasing)

    monkeypatch.setattr(type(base.describe), "__call__", listen)
    fit_flamingo(lamps, ROWS, base, table[["view"]], steps=2, marked=0.0, **TINY)
    assert pd.concat(told).isna().all()


# Episodes


def test_exemplars_share_the_images_value_or_lack_it_and_are_of_other_patients():
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({"a": rng.choice(["x", "y", "z"], 60), "b": rng.choice([0.0, 1.0, np.nan], 60)})
    patients = pd.Series([f"p{i // 3}" for i in range(60)])
    episodes = Episodes(labels, patients)
    picked = rng.integers(0, 60, 200)
    drawn = episodes.draw(picked, 3, 2, rng)
    assert len(drawn) == 2
    for episode in drawn:
        for image, a, having, lacking in zip(picked, episode.attribute, episode.having, episode.lacking, strict=True):
            if a < 0:
                continue
            own = labels[episodes.names[a]]
            assert (own.iloc[having] == own.iloc[image]).all()
            assert (own.iloc[lacking] != own.iloc[image]).all()
            assert own.iloc[lacking].notna().all()
            assert patients.iloc[image] not in set(patients.iloc[[*having, *lacking]])
    both = (drawn[0].attribute >= 0) & (drawn[1].attribute >= 0)
    assert both.any()
    assert (drawn[0].attribute != drawn[1].attribute)[both].all()


def test_marks_are_worn_by_those_who_wear_them_alone():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(5, 3, 16, 4, 4, generator=generator)
    worn = torch.tensor([[True, False, True]]).expand(5, -1)
    marked = apply_marks(latents, draw_marks(5, generator), worn, 4, generator)
    changed = (marked != latents).flatten(2).any(-1)
    assert torch.equal(changed, worn)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (pd.DataFrame({"age": np.arange(64.0)}), "40 levels"),
        (pd.DataFrame({"lamp": ["left"] * 64}), "1 levels"),
        (pd.DataFrame({"lamp": ["left", *["right"] * 63]}), "one patient alone"),
        (pd.DataFrame({"lamp": ["left"] * 3}), "3 rows of labels for 64 images"),
    ],
)
def test_labels_that_cannot_be_contrasted_are_refused(base, lamps, labels, words):
    with pytest.raises(ValueError, match=words):
        fit_flamingo(lamps, ROWS, base, labels, steps=1, **TINY)


# Measuring


def test_each_attribute_of_a_world_is_flipped_and_compared_with_its_true_counterfactual():
    """By closed gates nothing moves, so the error is all there was to change; what does not show has none."""
    base = DiffusionEditor.from_shipped("diffusion-base").using(inversion=Coupled(2))
    closed = FlamingoEditor(base, ExemplarUNet(base.unet))
    table = measured(closed, Phantom(4, "independent", seed=1), Phantom(24, "independent", seed=2), k=2)
    assert {"sex", "pacemaker"} < set(table.index)
    assert table.drop(index="weekday")["moved"].abs().max() < 1e-3
    assert table.drop(index="weekday")["error"].to_numpy() == pytest.approx(1.0, abs=1e-3)
    assert np.isnan(table.loc["weekday", "error"])
