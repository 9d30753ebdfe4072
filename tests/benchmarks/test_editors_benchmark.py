"""The editors' benchmark on editors whose figures are known: the oracle, and one that does nothing."""

import json

import contact_sheet
import editors
import fitted
import levers
import numpy as np
import pytest
import torch
from fitted import fitted_editor
from PIL import Image
from sign_network import SignNetwork, fit_sign_network

from causal_cxr.data.phantom.world import World
from causal_cxr.editors import Abduction, Edit
from causal_cxr.readers import Concept, ProbeReader

ROWS = 10  # of 4 patients: intervals need three


class Nothing:
    """Returns the image."""

    def abduct(self, images, attributes, *, seeds):
        return Abduction(attributes, images)

    def edit(self, abduction, target, **options):
        return Edit.all_accepted(abduction.state)


class Truth(Nothing):
    """Draws the truth, whichever image it is given."""

    phantom = None

    def edit(self, abduction, target, **options):
        return Edit.all_accepted(self.phantom.counterfactual(target))


@pytest.fixture(scope="module")
def judge():
    patch = pytest.MonkeyPatch()
    probe = ProbeReader.from_shipped()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SignNetwork(probe.concepts).eval().requires_grad_(False)
    patch.setattr(editors, "fitted_network", lambda world: network)
    patch.setattr(editors, "fitted_reader", lambda world: probe)
    made = editors.Judge(World.load("portable"), ROWS, seed=77, k=2)
    patch.undo()
    return made


def test_the_truth_and_doing_nothing_have_the_figures_they_must_have(judge):
    truth = Truth()
    truth.phantom = judge.phantom
    oracle, detail, made = editors.judged(truth, judge, cycled=2)
    nothing, undone, _ = editors.judged(Nothing(), judge, cycled=2)
    assert nothing["error_ratio_nothing"] == pytest.approx(1)
    assert oracle["error_ratio_nothing"] < 0.6  # a few images, two members: chance is large
    assert oracle["tea_effectiveness"] == pytest.approx(1, abs=0.15)
    assert nothing["tea_effectiveness"] == nothing["tea_amplification"] == 0
    for figure in ("composition_1", "composition_10", "reversibility"):
        assert oracle[figure] == pytest.approx(0, abs=1e-6)
        assert nothing[figure] == 0
    assert oracle["fid"] < nothing["fid"]
    assert undone["leak"]["probe"]["effectiveness"]["view"] == 0
    assert detail["leak"]["probe"]["effectiveness"]["view"] == pytest.approx(1, abs=0.1)
    assert detail["attributes"]["view"]["effectiveness"] == pytest.approx(1, abs=0.05)
    assert {one["left_out"] for one in detail["attributes"].values()} == {""}
    assert set(detail["directions"]["effusion"]) <= {"forth", "back"}
    assert detail["outside_the_change"]["effusion"]["ssim"] > 0.99
    assert undone["outside_the_change"]["effusion"]["ssim"] == pytest.approx(1, abs=1e-5)
    json.dumps(editors._plain(detail), allow_nan=False)
    assert len(made) == len(judge.asked)


def test_a_change_outside_of_what_truth_changes_is_seen_there(judge):
    (k,) = [i for i, one in enumerate(judge.asked) if one.contrast.attribute == "effusion"]
    one = judge.asked[k]
    grain = 0.1 * torch.randn(one.images.shape, generator=torch.Generator().manual_seed(0))
    clean, noisy = (
        editors._outside([one], [edited], judge.network)["effusion"]
        for edited in (one.redraw, (one.redraw + grain).clamp(0, 1))
    )
    assert noisy["ssim"] < clean["ssim"] - 0.1
    assert noisy["distance"] > clean["distance"]


def test_the_sheet_has_a_block_a_contrast_and_in_it_a_column_for_each_editor_beside_the_truth(judge, tmp_path):
    made = {"nothing": [one.images for one in judge.asked], "other": [one.redraw for one in judge.asked]}
    contact_sheet.contact_sheet(tmp_path / "sheet.png", judge.asked, made)
    with Image.open(tmp_path / "sheet.png") as sheet:
        block = 4 * (2 * 64 + contact_sheet.GAP), 2 * contact_sheet.EACH * (2 * 64 + contact_sheet.TEXT)
        lines = -(-len(judge.asked) // contact_sheet.ACROSS)
        assert sheet.size == (2 * block[0] + 4 * contact_sheet.GAP, lines * block[1])


def test_seconds_are_of_what_was_done():
    timed = editors.Timed(Nothing())
    table = np.arange(4)
    timed.edit(timed.abduct(torch.zeros(4, 1, 8, 8), table, seeds=table), table)
    timed.edit(timed.abduct(torch.zeros(4, 1, 8, 8), table, seeds=table), table)
    assert (timed.abducted, timed.edited) == (8, 8)
    seconds = timed.seconds()
    assert seconds["both"] == pytest.approx(seconds["inversion"] + seconds["edit"])


def test_each_world_sets_editors_beside_its_best_scm():
    def figures(ratio, worst):
        return {"error_ratio_nothing": ratio, "leak_worst": worst}

    by_world = {
        "a": {"diffusion": figures(0.3, 0.1), "scm": figures(0.6, 0.2), "scm-hvae": figures(0.5, 0.4)},
        "b": {"diffusion": figures(0.2, 0.3), "scm": figures(0.4, 0.2), "scm-hvae": figures(0.8, 0.3)},
    }
    summary = editors.summarised(by_world, ["diffusion", "scm", "scm-hvae"])
    assert set(summary["scm"]) == set(editors.FIGURES)
    assert summary["diffusion"]["error_ratio_scm"] == pytest.approx((0.3 / 0.5 + 0.2 / 0.4) / 2)
    assert summary["diffusion"]["error_ratio_nothing"] == pytest.approx(0.25)
    assert summary["diffusion"]["leak_worst"] == 0.3
    assert summary["diffusion"]["fid"] is None
    alone = editors.summarised({"a": {"diffusion": figures(0.3, 0.1)}}, ["diffusion"])
    assert alone["diffusion"]["error_ratio_scm"] is None


def test_figures_of_the_inversions_come_from_their_own_benchmark(tmp_path):
    file = tmp_path / "inversion.json"
    given = {"inversion": {"ddim": {"error": 0.1, "seconds": 2.0}}, "shared_inversion_cost_ratio_k8": 0.56,
             "overhead_fraction": 0.02}  # fmt: skip
    file.write_text(json.dumps({"summary": given | {"more": 1}}))
    assert editors.inversion_figures(file) == given
    assert editors.inversion_figures(None) == dict.fromkeys(given)
    file.write_text(json.dumps({"summary": {"inversion": {}}}))
    with pytest.raises(SystemExit, match="overhead_fraction"):
        editors.inversion_figures(file)


def test_an_unknown_editor_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"no editor 'diffusion-teleport'.*diffusion-"):
        fitted_editor("diffusion-teleport", World.load("portable"))


def test_a_tuned_scm_has_the_plain_one_s_attributes_and_another_image_model_and_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("FIT_IMAGES", "TUNING_IMAGES"):
        monkeypatch.setattr(fitted, name, 40)
    monkeypatch.setitem(fitted.STEPS, "scm-map", 2)
    world = World.load("portable")
    plain, tuned = fitted_editor("scm-map", world), fitted_editor("scm-tuned", world, steps=2)
    assert tuned.scm.fingerprint == plain.scm.fingerprint
    assert tuned.image_model.settings == plain.image_model.settings
    assert tuned.fingerprint != plain.fingerprint

    def again(*_, **__):
        raise AssertionError("fitted again")

    monkeypatch.setattr(fitted, "fit_attribute_networks", again)
    assert fitted_editor("scm-tuned", world, steps=2).fingerprint == tuned.fingerprint


@pytest.mark.parametrize(("kind", "latents"), [("scm", [(16, 1, 1)]), ("scm-map", [(2, 4, 4)])])
def test_an_scm_is_fitted_with_a_vector_or_a_map(kind, latents, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fitted, "FIT_IMAGES", 40)
    assert fitted_editor(kind, World.load("portable"), steps=2).image_model.noise_shapes((64, 64)) == latents


# -- the network ---------------------------------------------------------------------------------------------------------
CONCEPT = Concept("bright", ("bright",), ("dark",))


def squares(n):
    generator = torch.Generator().manual_seed(0)
    images, there = 0.5 * torch.rand(n, 1, 32, 32, generator=generator), torch.rand(n, generator=generator) < 0.5
    images[there, :, 8:16, 8:16] += 0.5
    return images, there.numpy()[:, None].astype(float)


def test_the_network_learns_a_sign_knows_its_slope_and_comes_back_from_disk(tmp_path):
    images, truth = squares(320)
    network = fit_sign_network(images, truth, [CONCEPT], epochs=8)
    assert network.slopes[0] > 0.8
    again = fit_sign_network(images, truth, [CONCEPT], epochs=8)
    torch.testing.assert_close(again.read(images[:4]), network.read(images[:4]), rtol=0, atol=0)
    network.save(tmp_path)
    back = SignNetwork.from_pretrained(tmp_path)
    torch.testing.assert_close(back.read(images[:4]), network.read(images[:4]))
    assert back.slopes[0] == network.slopes[0]
    assert network.features(images[:4]).shape == (4, network.n_features)


def test_the_local_distance_sees_only_what_is_inside_the_mask():
    images, _ = squares(4)
    network = SignNetwork([CONCEPT]).eval().requires_grad_(False)
    other, left = images.clone(), torch.zeros(images.shape, dtype=torch.bool)
    other[..., 24:] = 1.0
    left[..., :12] = True
    assert network.distance(images, images, ~left).abs().max() == 0
    near, far = network.distance(images, other, ~left), network.distance(images, other, left)
    assert (far == 0).all()
    assert (near > 0.01).all()
    assert network.distance(images, other, left & False).isnan().all()


# -- levers --------------------------------------------------------------------------------------------------------------
def test_the_scm_target_keeps_what_is_set_and_lets_its_effects_follow(judge):
    scm = fitted_editor("scm", World.load("portable")).scm
    for one in judge.asked:
        name, target = one.contrast.attribute, levers.predicted(scm, one, seed=0)
        assert (target[name] == one.target[name]).all()
        assert (target.dtypes == one.target.dtypes).all()
        free = [n for n in target if n != name and n not in judge.phantom.graph.descendants(name)]
        assert target[free].equals(one.factual[free])


def test_levers_are_known_by_name():
    with pytest.raises(ValueError, match=r"no levers \['crowbar'\].*scm target"):
        levers.lever_editors(World.load("portable"), ["crowbar"])


def test_a_balanced_adapter_that_was_never_fitted_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"balanced\|.*--fit-missing"):
        levers.lever_editors(World.load("portable"), ["all"], fit=False)


def test_there_is_a_field_of_predictions_for_each_lever():
    made = levers.lever_editors(World.load("portable"), ["naive", "scm target", "orthogonal"])
    assert len({editor.fingerprint for editor in made.values()}) == 3
