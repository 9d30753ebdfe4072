"""The inversions' benchmark on networks and editors whose figures are known."""

import json
import sys
import time
from types import SimpleNamespace

import editors
import inversion
import numpy as np
import pandas as pd
import pytest
import torch

from causal_cxr.data.phantom import Phantom
from causal_cxr.editors import Abduction, Edit
from causal_cxr.editors.diffusion.denoiser import Ledger
from causal_cxr.editors.diffusion.inversion import DDIM, FlowEdit, NullText
from causal_cxr.editors.diffusion.process import Process
from causal_cxr.graphs import default_contrasts

MEAN, VARIANCE = 0.3, 0.5
N = 10


@pytest.fixture(scope="module")
def phantom():
    return Phantom(N, "portable", seed=3)


def contrasts(phantom):
    return default_contrasts(phantom.graph, {"age": 20.0})


class Network(torch.nn.Module):
    """Burns processor seconds for each evaluation."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds = seconds

    def forward(self, x, *, states):
        burn(self.seconds)
        return x


def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


class Nothing:
    """Returns the image, for 3 evaluations an inversion and 2 an edit; all that it does besides takes ``idle`` seconds."""

    def __init__(self, seconds=0.0, idle=0.0):
        self.unet, self.idle, self.ledger = Network(seconds), idle, Ledger()
        self.pipeline = SimpleNamespace(device=torch.device("cpu"))

    def using(self, **ways):
        other = Nothing(idle=self.idle)
        other.unet = self.unet
        return other

    def abduct(self, images, attributes, *, seeds):
        self._asked(images, 3)
        return Abduction(attributes, images)

    def edit(self, abduction, target, **options):
        self._asked(abduction.state, 2)
        return Edit.all_accepted(abduction.state)

    def _asked(self, images, evaluations):
        for _ in range(evaluations):
            self.unet(images, states=images)
        burn(self.idle)
        self.ledger += Ledger(forward=evaluations * len(images))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_flow_told_in_noise_says_of_a_gaussian_what_is_true_of_it(prediction):
    """Of images N(m, v) the noise behind x is known in expectation under every process."""

    def gaussian(a, s, x):
        noise = s * (x - a * MEAN) / (a**2 * VARIANCE + s**2)
        return noise, (x - s * noise) / a

    def flow(x, moments, encoder_hidden_states):
        t = (moments / 1000)[:, None, None, None]
        noise, clean = gaussian(1 - t, t, x)
        return SimpleNamespace(sample=noise - clean)

    flow.config = None
    process = Process.from_scheduler({"prediction_type": prediction, **inversion.SCHEDULE})
    network = inversion.Renoised(flow, process)
    moments = torch.tensor([0.0, 1.0, 200.0, 999.0])
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    said = network(x, moments, encoder_hidden_states=None).sample
    for i, moment in enumerate(moments.tolist()):
        a, s = process.coefficients(moment)
        noise, clean = gaussian(a, s, x[i])
        torch.testing.assert_close(
            said[i], noise if prediction == "epsilon" else a * noise - s * clean, atol=2e-5, rtol=1e-4
        )


def test_each_round_asks_every_image_one_contrast_and_no_round_asks_it_again(phantom):
    rounds = inversion.hands(phantom, contrasts(phantom), 3)
    asked = [sorted((row, q.contrast.name) for q in questions for row in q.rows) for questions in rounds]
    assert len({pair for pairs in asked for pair in pairs}) == sum(map(len, asked))
    for questions in rounds:
        rows = np.concatenate([q.rows for q in questions])
        assert len(set(rows)) == len(rows)
        target = inversion.asked_for(phantom.attributes, questions)
        assert target.index.equals(phantom.attributes.index)
        pd.testing.assert_series_equal(target.dtypes, phantom.attributes.dtypes)
        for q in questions:
            pd.testing.assert_frame_equal(target.loc[q.target.index], q.target)
        unasked = phantom.attributes.drop(index=phantom.attributes.index[rows])
        pd.testing.assert_frame_equal(target.loc[unasked.index], unasked)
    with pytest.raises(SystemExit, match="asked 1 to 5 contrasts"):
        inversion.hands(phantom, contrasts(phantom), 6)


def test_doing_nothing_has_error_1_and_costs_an_inversion_and_an_edit(phantom):
    rounds = inversion.hands(phantom, contrasts(phantom), 2)
    found = inversion.edited(Nothing(seconds=0.002), phantom, rounds, DDIM())
    assert found.keys() == {1.0, 3.0}
    for figures in found.values():
        assert figures["error"]["ratio"] == pytest.approx(1)
        assert figures["evaluations"] == 5
        assert figures["seconds"] == pytest.approx(5 * 0.002 / N, rel=0.5)


def test_eight_edits_share_the_cost_of_an_inversion(phantom):
    for ratios in inversion.shared(Nothing(), phantom).values():
        assert ratios["evaluations"] == pytest.approx((3 + 8 * 2) / (8 * (3 + 2)))


@pytest.mark.parametrize(("idle", "fraction"), [(0.0, 0.0), (0.01, 0.4)])
def test_overhead_is_what_the_editor_takes_besides_its_evaluations(phantom, idle, fraction):
    """5 evaluations of 10 ms, and 2 x 10 ms besides."""
    pairs = inversion.overhead(Nothing(seconds=0.01, idle=idle), phantom, pairs=3)
    assert len(pairs) == 3
    assert np.median(pairs) == pytest.approx(fraction, abs=0.1)


def test_a_method_has_all_figures_on_both_pipelines_and_none_where_it_has_no_meaning():
    setting = inversion.Setting(3, 1, 1, seed=3, editor="shipped", second=None, prediction="epsilon", steps=2)
    for pipeline in ("inversion", "second"):
        row = inversion.figures(setting, pipeline, FlowEdit.name)
        assert row["settings"] == "FlowEdit(steps=2, carry=1.0, antithetic=False)"
        assert row["evaluations"] == {1.0: 4, 3.0: 6}[row["scale"]]
        assert row["error"] == min(each["ratio"] for each in row["errors"].values())
        assert row["round_trip"] == {kind: {"1": 0.0, "3": 0.0} for kind in ("float32", "bfloat16")}
    assert inversion.figures(setting, "inversion", "belm") is None
    assert inversion.figures(setting, "second", NullText.name)["errors"].keys() == {"3"}


def test_what_is_recorded_is_what_the_editors_benchmark_reads(tmp_path, monkeypatch):
    row = {"error": 0.2, "scale": 1.0, "evaluations": 40, "seconds": 0.5, "round_trip": {}}
    slow = {"error": 0.4, "scale": 3.0, "evaluations": 1_200, "seconds": 12.5, "round_trip": {}}
    table = {"inversion": {"coupled": row}, "second": {"coupled": row, "null_text": slow}}
    monkeypatch.setattr(inversion, "tabulated", lambda *_: table)
    monkeypatch.setattr(inversion, "overhead", lambda *_: [0.1, 0.03, 0.02])
    monkeypatch.setattr(inversion, "shared", lambda *_: {"one_evaluation_a_step": {"evaluations": 0.46}})
    file = tmp_path / "inversion.json"
    monkeypatch.setattr(sys, "argv", ["inversion.py", "--images", "2", "--json", str(file)])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)  # the other tests' too
    inversion.main()
    assert editors.inversion_figures(file) == {
        "inversion": table["inversion"], "shared_inversion_cost_ratio_k8": 0.46, "overhead_fraction": 0.03,
    }  # fmt: skip
    told = json.loads(file.read_text())["summary"]["default_over_null_text"]
    assert told == pytest.approx({"error": 0.5, "evaluations": 1 / 30, "seconds": 0.04})
