"""The Morpho-MNIST benchmark: the values it sets, what it exports, what it shows."""

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scm_morphomnist as benchmark
import torch
from counterfactual_metrics import Counterfactuals
from morphomnist import GRAPH
from scm_morphomnist import PUBLISHED, RECIPES, SUPPORTED, TEST_ROWS, Task
from torch.distributions import Categorical, Normal

from causal_cxr.editors.editor import Abduction, Edit
from causal_cxr.editors.scm.editor import SCMEditor, n_conditions
from causal_cxr.editors.scm.vae import ConditionalVAE
from causal_cxr.graphs import Binary, CausalGraph
from causal_cxr.graphs.scm import SCM

RECORDED = Path(benchmark.__file__).parent / "results"


def sampled(n, seed):
    """Attributes by the generating law of the data set."""
    rng = np.random.default_rng(seed)
    thickness = rng.gamma(10, 0.15, n) + 1
    intensity = 64 + 191 / (1 + np.exp(-(2 * thickness - 5 + 0.5 * rng.standard_normal(n))))
    columns = {"thickness": thickness, "intensity": intensity, "digit": rng.integers(0, 10, n)}
    return GRAPH.coerce(pd.DataFrame(columns))


@pytest.fixture(scope="module")
def task():
    training, factual = sampled(600, 0), sampled(40, 1).set_axis(np.arange(8_000, 8_040))
    images = torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    settings = {"digit": factual["digit"].cat.set_categories(range(10)), SUPPORTED: factual["intensity"]}
    return Task(images, factual, settings, np.zeros(40, dtype=int), training, images, seed=0)


@pytest.fixture(scope="module")
def editor(task):
    torch.manual_seed(0)
    return SCMEditor(SCM(GRAPH).fit(task.training), ConditionalVAE(n_conditions(GRAPH), width=16), residual=0.1)


def test_supported_intensities_go_with_the_thickness(task):
    drawn = benchmark.supported_intensities(task.factual, task.training, seed=0)
    residual = np.log((drawn - 64) / (255 - drawn)) - (2 * task.factual["thickness"] - 5)
    assert residual.abs().max() < 0.5 * benchmark.WITHIN * 1.2
    assert residual.abs().max() > 0.5
    assert drawn.isin(task.training["intensity"]).all()


def test_temperature_one_returns_the_image_and_zero_the_reconstruction(task, editor):
    def null(temperature):
        one = benchmark.at_temperature(editor, temperature)
        return one.edit(one.abduct(task.images, task.factual, seeds=task.factual.index.to_numpy()), task.factual).images

    torch.testing.assert_close(null(1.0), task.images, rtol=0, atol=1e-5)
    far = [float((null(t) - task.images).abs().mean()) for t in (0.1, 0.0)]
    assert 0 < far[0] < far[1]


def test_an_export_holds_all_that_is_needed_to_score_it(task, tmp_path):
    target = task.factual.assign(digit=GRAPH.attributes["digit"].coerce((task.factual["digit"].astype(int) + 1) % 10))
    made = {name: Counterfactuals(name, target, task.images * k) for name, k in (("digit", 0.5), (SUPPORTED, 0.25))}
    benchmark.export(tmp_path / "deep" / "cf.npz", task, made)
    with np.load(tmp_path / "deep" / "cf.npz", allow_pickle=False) as read:
        assert {len(read[name]) for name in read.files} == {80}
        second = read["intervention"] == SUPPORTED
        np.testing.assert_array_equal(read["rows"][second], task.factual.index)
        np.testing.assert_array_equal(read["images"][second], 0.25 * task.images[:, 0].numpy())
        np.testing.assert_array_equal(read["digit"], (read["factual_digit"] + 1) % 10)
        np.testing.assert_array_equal(read["thickness"], read["factual_thickness"])


def test_a_contact_sheet_has_a_row_an_image(task, editor):
    assert benchmark.contact_sheet(editor, task, images=4, zoom=2).size == (2 * 32 * 9, 2 * 32 * 4)


def test_times_are_of_a_thousand_images(task, editor):
    seen = []

    class Counting:
        scm = editor.scm

        def abduct(self, images, attributes, *, seeds):
            seen.append(len(images))
            return Abduction(attributes, images)

        def edit(self, abduction, target, **options):
            return Edit.all_accepted(abduction.state)

    assert benchmark.seconds_per_1000(Counting(), task) > 0
    assert sum(seen) == 3 * 1_000


def test_tables_show_published_figures_first(task):
    cell = {"changed": 0.1, "intended": 0.0, "beyond": 0.1, "amplified": None}
    scores = {
        **PUBLISHED["hvae"],
        "effectiveness_clean": {"digit": {"thickness": 1.0}},
        "changes": {"digit": {"thickness": cell}},
    }
    page = benchmark.shown("hvae", {"after": scores})
    assert page.index("published hvae") < page.index("after")
    assert "0.438" in page


def test_numbers_are_rounded_wherever_they_lie():
    assert benchmark._rounded({"a": {"b": 0.123456}, "n": 3, "none": None}) == {
        "a": {"b": 0.1235},
        "n": 3,
        "none": None,
    }


def test_the_task_cannot_be_changed(task):
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.seed = 1


class Sampled:
    """Rows of attributes with images of noise."""

    texts, fingerprint = None, "sampled"

    def __init__(self, n):
        self.attributes = sampled(n, 0).set_axis(np.arange(n))
        self.patients = pd.Series([str(row) for row in range(n)])

    def images(self, rows):
        return torch.rand(len(rows), 1, 32, 32, generator=torch.Generator().manual_seed(0))


class Thickness(torch.nn.Module):
    def forward(self, images):
        return Normal(images.mean((1, 2, 3)), 1.0)


class Digit(torch.nn.Module):
    def forward(self, images):
        return Categorical(logits=images[:, 0, 0, :10])


@pytest.mark.parametrize("model", RECIPES)
def test_a_recipe_is_one_that_the_fits_take_stage_by_stage(model, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "FIT_ROWS", np.arange(12))
    monkeypatch.setattr(benchmark, "family_of", lambda *_: {"thickness": Thickness(), "digit": Digit()})
    asked = argparse.Namespace(
        model=model, checkpoint=None, stages=tmp_path, steps=1, fine_tune_steps=1, minutes=None, seed=0, device="cpu", threads=1
    )  # fmt: skip
    data = Sampled(12)
    data.patients = pd.Series([str(row) for row in range(TEST_ROWS[-1] + 1)])
    stages = benchmark.fitted(asked, data)
    assert list(stages) == (["before", "tuned", "detailed"] if model == "hvae" else ["before", "tuned"])
    assert len({stage.editor.fingerprint for stage in stages.values()}) == len(stages)
    assert all(stage.seconds > 0 and stage.hardware == "1 CPU thread" for stage in stages.values())
    if model == "hvae":
        assert stages["detailed"].editor.image_model.settings["divergence_weights"] == [0.04, 1, 1, 0.25]

    # What is kept is found again, and only what is not is fitted.
    again = benchmark.fitted(asked, data)
    assert {name: stage.editor.fingerprint for name, stage in again.items()} == {
        name: stage.editor.fingerprint for name, stage in stages.items()
    }
    assert [stage.seconds for stage in again.values()] == [stage.seconds for stage in stages.values()]
    (tmp_path / "tuned" / benchmark.STAGE).unlink()
    third = benchmark.fitted(asked, data)
    assert third["before"].seconds == stages["before"].seconds
    assert third["tuned"].seconds != stages["tuned"].seconds

    # One that was fitted otherwise is not taken for it.
    if model == "hvae":
        with monkeypatch.context() as other:
            other.setitem(
                benchmark.RECIPES, model, dataclasses.replace(RECIPES[model], detail_weights=(0.5, 1, 1, 0.25))
            )
            with pytest.raises(ValueError, match=r"detailed was fitted by .* give --stages another folder"):
                benchmark.fitted(asked, data)
    asked.seed = 1
    with pytest.raises(ValueError, match="give --stages another folder"):
        benchmark.fitted(asked, data)


@pytest.mark.parametrize("model", RECIPES)
def test_the_recorded_editor_is_of_the_recipe(model):
    recorded = json.loads((RECORDED / f"scm_morphomnist-{model}.json").read_text())["summary"]["conditions"]
    built = RECIPES[model].build(n_conditions(GRAPH))
    if recorded.get("seconds_detail") is not None or "detailed" in recorded.get("stages", ()):
        built = built.reweighted(RECIPES[model].detail_weights)
    assert json.loads(json.dumps(built.settings)) == recorded["settings"]
    assert sum(p.numel() for p in built.parameters()) == recorded["parameters"]


def kept(editor, folder, how="so"):
    benchmark.keep(benchmark.Stage(editor, 7.0, "a GPU", how), folder)
    return folder


def test_a_stage_that_is_kept_must_not_have_seen_the_test_images(task, editor, tmp_path):
    data = Sampled(TEST_ROWS[-1] + 1)
    for patients, message in ((None, "2000 test images"), ({"5", "8000"}, "1 test images")):
        folder = kept(SCMEditor(editor.scm, editor.image_model, fitted_on=patients), tmp_path)
        with pytest.raises(ValueError, match=message):
            benchmark.opened(folder, data, "so")
    stage = benchmark.opened(
        kept(SCMEditor(editor.scm, editor.image_model, fitted_on={"5", "7999"}), tmp_path), data, "so"
    )
    assert stage.editor.fitted_on == {"5", "7999"}
    assert (stage.seconds, stage.hardware) == (7.0, "a GPU")


def test_an_editor_of_other_attributes_is_refused(tmp_path):
    graph = CausalGraph([Binary("side")], [("side", "image")])
    scm = SCM(graph).fit(pd.DataFrame({"side": [0, 1, 1, 0]}))
    folder = kept(SCMEditor(scm, ConditionalVAE(1, width=16), fitted_on={"5"}), tmp_path)
    with pytest.raises(ValueError, match=r"other attributes; give one of \['thickness', 'intensity', 'digit'\]"):
        benchmark.opened(folder, Sampled(2), "so")


@pytest.fixture
def scored(task, editor, tmp_path, monkeypatch):
    """Score stages that are kept; the figures are not measured."""
    figures = dict.fromkeys(benchmark.SUMMARY, 0.0) | {
        "effectiveness": PUBLISHED["hvae"]["effectiveness"],
        "changes": {"digit": {"thickness": {"changed": 0.1}}},
    }

    for setting in ("set_flush_denormal", "set_num_threads"):  # of the whole process, other tests' too
        monkeypatch.setattr(torch, setting, lambda _: None)
    judges = argparse.Namespace(readings={}, fid=lambda *_: 0.0)
    rows = pd.Series([str(row) for row in range(TEST_ROWS[-1] + 1)])
    monkeypatch.setattr(benchmark, "MorphoMNIST", lambda folder: argparse.Namespace(patients=rows))
    monkeypatch.setattr(Task, "draw", classmethod(lambda *_, **__: task))
    monkeypatch.setattr(benchmark.Judges, "fit", lambda *_, **__: judges)
    monkeypatch.setattr(benchmark, "score", lambda *_: (figures, {}))
    monkeypatch.setattr(benchmark, "seconds_per_1000", lambda *_: 1.0)

    def run(model, stages):
        asked = argparse.Namespace(model=model, seed=0, steps=None, fine_tune_steps=None)
        for stage in stages:
            fitted = SCMEditor(editor.scm, editor.image_model, fitted_on={"5"})
            kept(fitted, tmp_path / "stages" / stage, benchmark.told(asked, stage))
        file = tmp_path / "result.json"
        told = ["--data", "d", "--json", str(file), "--stages", str(tmp_path / "stages"), "--model", model]
        monkeypatch.setattr(sys, "argv", ["scm_morphomnist.py", *told])
        benchmark.main()
        return json.loads(file.read_text())["summary"]

    return run


@pytest.mark.parametrize(
    ("model", "stages", "before"),
    [("cvae", ["before", "tuned"], ["before"]), ("hvae", ["before", "tuned", "detailed"], ["before detail", "before"])],
)
def test_each_stage_is_scored_and_how_it_was_fitted_is_said(scored, model, stages, before):
    found = scored(model, stages)
    assert list(found["scores"]) == ["after", *before, "after, temperature 0", "after, temperature 1"]
    assert found["conditions"]["stages"] == {name: {"seconds": 7.0, "hardware": "a GPU"} for name in stages}
    assert found["seconds_fit"] == 7.0 * len(stages)
    assert found["conditions"]["fitted_on"] == 1


def test_a_killed_fit_counts_until_it_last_saved_its_state_and_a_finished_one_once(tmp_path):
    folder = tmp_path / "fit"

    def killed():
        with benchmark.timed(folder):
            (folder / benchmark.STATE).touch()
            saved = time.time() + 30
            os.utime(folder / benchmark.STATE, (saved, saved))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    with benchmark.timed(folder) as timing:
        assert timing.seconds == pytest.approx(30, abs=1)
    assert timing.seconds == pytest.approx(30, abs=1)
    with benchmark.timed(folder) as again:
        pass
    assert again.seconds == timing.seconds
    with benchmark.timed(None) as alone:
        time.sleep(0.01)
    assert 0.01 <= alone.seconds < 1
