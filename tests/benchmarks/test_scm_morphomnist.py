"""The Morpho-MNIST benchmark: the values it sets, what it exports, what it shows."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scm_morphomnist as benchmark
import torch
from counterfactual_metrics import Counterfactuals
from morphomnist import GRAPH
from scm_morphomnist import PUBLISHED, SUPPORTED, Task

from causal_cxr.editors.scm.editor import SCMEditor, n_conditions
from causal_cxr.editors.scm.vae import ConditionalVAE
from causal_cxr.graphs.scm import SCM


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
            return editor.abduct(images[:1], attributes[:1], seeds=seeds[:1])

        def edit(self, abduction, target):
            return editor.edit(abduction, target[: len(abduction)])

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
