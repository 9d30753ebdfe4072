"""Worlds: what is sampled has the probabilities that the file says; counterfactuals obey their laws; bad files are told."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.phantom.small_worlds import linear, logistic, small
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from causal_cxr.data.phantom.blueprint import USUAL
from causal_cxr.data.phantom.expressions import FUNCTIONS
from causal_cxr.data.phantom.mechanisms import Expression, Linear, Logistic, Mechanism, Softmax, Threshold, Uniform
from causal_cxr.data.phantom.radiograph import DRAWABLES
from causal_cxr.data.phantom.truth import truth_of
from causal_cxr.data.phantom.world import World, WorldError
from causal_cxr.data.phantom.world_file import (
    Background,
    Confounding,
    Declared,
    Patients,
    Reports,
    Selection,
    Shown,
    WorldFile,
)
from causal_cxr.graphs import Continuous

N = 40_000
FOUR_SD = 4 * 0.5 / np.sqrt(N)  #: of a frequency
COUPLINGS = ("monotone", "gumbel", "independent")
DOCS = Path(__file__).parents[3] / "docs" / "worlds.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
COMPLETE = [block for block in BLOCKS if block.startswith("name:")]
FREE_STORIES = {"independent", "null", "weak"}  #: made up, not taken from the literature


def drawn(world, seed=0, n=N):
    noise, codes, _ = world.population(n, seed, iid=True)
    return noise, codes


# -- sampling ----------------------------------------------------------------------------------------------------------
def test_frequencies_are_the_probabilities_of_the_file():
    world = small({"x": {"probability": 0.3}, "y": logistic(-1, x=2)})
    _, codes = drawn(world)
    assert codes["x"].mean() == pytest.approx(0.3, abs=FOUR_SD)
    for x in (0, 1):
        rows = codes["x"] == x
        assert codes["y"][rows].mean() == pytest.approx(expit(-1 + 2 * x), abs=FOUR_SD / np.sqrt(rows.mean()))


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_levels_of_a_softmax_have_its_frequencies_under_every_coupling(coupling):
    softmax = {"softmax": {"bias": {"b": 1.0, "c": -0.5}, "weights": {"c": {"x": 2.0}}}}
    world = small(
        {"x": {"probability": 0.5}, "y": softmax}, types={"y": ["a", "b", "c"]}, coupling=coupling, hidden=("y",)
    )
    _, codes = drawn(world)
    for x in (0, 1):
        wanted = np.exp([0, 1, -0.5 + 2 * x])
        found = np.bincount(codes["y"][codes["x"] == x].astype(int), minlength=3) / (codes["x"] == x).sum()
        assert found == pytest.approx(wanted / wanted.sum(), abs=1.5 * FOUR_SD)


def test_linear_gaussian_moments():
    world = small({"x": linear(1, 2), "y": linear(3, 1, x=5)}, types={"x": (-40, 40), "y": (-90, 90)})
    _, codes = drawn(world)  # x counts in quarters of its range: 20
    assert codes["x"].mean() == pytest.approx(1, abs=0.05)
    assert codes["x"].std() == pytest.approx(2, abs=0.05)
    slope, intercept = np.polyfit(codes["x"], codes["y"], 1)
    assert slope == pytest.approx(5 / 20, abs=0.02)
    assert intercept == pytest.approx(3, abs=0.05)


def test_numbers_stay_in_their_range():
    world = small({"x": linear(0, 10)}, types={"x": (-5, 5)})
    _, codes = drawn(world)
    assert (codes["x"].min(), codes["x"].max()) == (-5, 5)


def test_the_same_seed_gives_the_same_codes_and_another_gives_others():
    world = World.load("portable")
    (_, a, p), (_, b, q), (_, c, _) = (world.population(500, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert np.array_equal(p, q)
    assert not np.array_equal(a["age"], c["age"])


def test_a_collection_has_one_image_or_more():
    with pytest.raises(ValueError, match="one image or more, got n=0"):
        World.load("portable").population(0, 0)


# -- patients ----------------------------------------------------------------------------------------------------------
def test_patients_have_as_many_images_as_the_file_says():
    world = small({"x": {"probability": 0.5}}, patients={"images": [2, 4]})
    _, _, patient = world.population(3_001, 0)
    counts = np.bincount(patient)
    assert set(counts[:-1]) == {2, 3, 4}  # the last patient may be cut short
    assert np.bincount(counts[:-1])[2:] / len(counts) == pytest.approx([1 / 3] * 3, abs=0.06)


def test_what_is_the_same_in_a_patient_is_constant_and_the_rest_is_not():
    world = small({"x": {"probability": 0.5}, "y": {"probability": 0.5}}, patients={"images": [3, 3], "same": ["x"]})
    _, codes, patient = world.population(3_000, 1)
    x, y = codes["x"].reshape(-1, 3), codes["y"].reshape(-1, 3)
    assert (np.diff(patient.reshape(-1, 3)) == 0).all()
    assert (x == x[:, :1]).all()
    assert (y != y[:, :1]).any(1).mean() == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_a_random_effect_gives_the_images_of_a_patient_its_share_in_common(share):
    world = small(
        {"x": linear(0, 1), "y": {"probability": 0.5}}, types={"x": (-9, 9)},
        patients={"images": [2, 2], "shared": {"x": share, "y": share}},
    )  # fmt: skip
    _, codes, _ = world.population(N, 2)
    x, y = codes["x"].reshape(-1, 2), codes["y"].reshape(-1, 2)
    assert np.corrcoef(x.T)[0, 1] == pytest.approx(share, abs=0.03)
    orthant = 0.25 + np.arcsin(share) / (2 * np.pi)  # of two normals with this correlation
    assert (y.sum(1) == 2).mean() == pytest.approx(orthant, abs=0.015)


# -- latent causes, selection, metadata --------------------------------------------------------------------------------
def test_a_latent_cause_makes_two_attributes_go_together_and_do_moves_neither():
    world = small(
        {"x": linear(0, 1), "y": linear(0, 1)}, types={"x": (-12, 12), "y": (-12, 12)},
        confounding=[{"pair": ["x", "y"], "strength": [1.0, 2.0]}],
    )  # fmt: skip
    assert world.graph.confounded == (("x", "y"),)
    noise, codes = drawn(world)
    assert np.corrcoef(codes["x"], codes["y"])[0, 1] == pytest.approx(2 / np.sqrt(2 * 5), abs=0.02)
    moved = world.evaluate(noise, {"x": codes["x"] + 1}, codes)
    assert np.array_equal(moved["y"], codes["y"])


def test_a_latent_cause_is_one_a_patient_and_stands_in_either_place():
    keys = {"types": {"x": (-12, 12), "y": (-12, 12)}, "patients": {"images": [2, 2]}}
    mechanisms = {"x": linear(0, 1), "y": linear(0, 1)}
    one = small(mechanisms, graph={"confounded": [["x", "y"]]}, **keys)
    other = small(mechanisms, confounding=[{"pair": ["y", "x"]}], **keys)
    assert one.graph == other.graph
    _, codes, _ = one.population(N, 0)
    x = codes["x"].reshape(-1, 2)
    assert np.corrcoef(x.T)[0, 1] == pytest.approx(0.5, abs=0.03)


def test_selection_conditions_as_bayes_says():
    world = small(
        {"x": {"probability": 0.3}, "y": {"probability": 0.6}},
        selection={"probability_of": logistic(-3, x=2, y=3)},
    )
    _, codes = drawn(world)
    joint = np.array([[0.7 * 0.4, 0.7 * 0.6], [0.3 * 0.4, 0.3 * 0.6]])
    joint *= expit(-3 + 2 * np.arange(2)[:, None] + 3 * np.arange(2))
    found = np.histogram2d(codes["x"], codes["y"], bins=2)[0] / N
    assert found == pytest.approx(joint / joint.sum(), abs=FOUR_SD)
    assert world.graph.selected_on == ("x", "y")


def test_a_selection_that_keeps_nothing_is_refused():
    world = small({"x": {"probability": 0.3}}, selection={"probability_of": {"probability": 0.0001}})
    with pytest.raises(WorldError, match=r"selection: keeps .* raise its probability"):
        world.population(100, 0)


def test_metadata_hides_what_it_leaves_out():
    world = small({"x": {"probability": 0.3}, "y": {"probability": 0.6}}, metadata=["y"])
    assert world.graph.hidden == ("x", "control_dot")
    assert world.declared.labelled == ("y",)
    assert list(world.recorded(drawn(world)[1], np.random.default_rng(0))) == ["y"]


def test_label_noise_puts_another_level_in_its_place():
    world = small(
        {"x": {"probability": {"a": 0.3, "b": 0.3, "c": 0.4}}, "y": linear(0, 1)},
        types={"x": ["a", "b", "c"], "y": (-20, 20)}, label_noise={"x": {"a": 0.2, "c": 0.5}, "y": 2.0},
    )  # fmt: skip
    _, codes = drawn(world)
    table = world.recorded(codes, np.random.default_rng(0))
    found = world.declared.attributes["x"].encode(table["x"])
    for code, rate in enumerate((0.2, 0.0, 0.5)):
        rows = codes["x"] == code
        assert (found[rows] != code).mean() == pytest.approx(rate, abs=2 * FOUR_SD)
    wrong = found[(codes["x"] == 2) & (found != 2)]
    assert wrong.mean() == pytest.approx(0.5, abs=4 * FOUR_SD)  # either of the others, alike
    assert (table["y"] - codes["y"]).std() == pytest.approx(2, abs=0.05)


def test_gaps_come_at_their_rate_or_by_their_mechanism():
    world = small(
        {"x": {"probability": 0.5}, "u": {"probability": 0.5}, "y": {"probability": 0.5}}, hidden=("u",),
        missing={"x": 0.2, "y": logistic(-2, x=1, u=2)},
    )  # fmt: skip
    _, codes = drawn(world)
    table = world.recorded(codes, np.random.default_rng(0))
    assert table["x"].isna().mean() == pytest.approx(0.2, abs=FOUR_SD)
    for x in (0, 1):
        for u in (0, 1):  # by the true x, whether or not it is written down
            rows = (codes["x"] == x) & (codes["u"] == u)
            assert table["y"][rows].isna().mean() == pytest.approx(expit(-2 + x + 2 * u), abs=2.5 * FOUR_SD)


# -- counterfactuals ---------------------------------------------------------------------------------------------------
def chain(coupling, p0=-0.5, p1=1.5):
    return small(
        {"x": {"probability": 0.4}, "m": logistic(p0, x=p1 - p0), "y": linear(0, 1, m=3), "z": logistic(0.3)},
        types={"y": (-30, 30)}, coupling=coupling, patients={"images": [1, 3], "same": ["m"], "shared": {"y": 0.5}},
    )  # fmt: skip


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("name", ["portable", "scanner-site", "selection"])
def test_setting_what_is_already_so_changes_nothing(name, coupling):
    world = World.from_dict({**World.load(name).to_dict(), "coupling": coupling})
    noise, codes, _ = world.population(2_000, 5)
    for attribute in world.order:
        again = world.evaluate(noise, {attribute: codes[attribute]}, codes)
        assert all(np.array_equal(again[other], codes[other]) for other in codes)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_an_intervention_takes_and_moves_only_what_it_causes(coupling):
    world = chain(coupling)
    noise, codes, _ = world.population(4_000, 1)
    after = world.evaluate(noise, {"m": 1 - codes["m"]}, codes)
    assert np.array_equal(after["m"], 1 - codes["m"])
    assert np.array_equal(after["x"], codes["x"])
    assert np.array_equal(after["z"], codes["z"])
    shift = after["y"] - codes["y"]
    assert shift[codes["m"] == 0].mean() == pytest.approx(3, abs=0.15)
    if coupling != "independent":  # the noise of a number is revealed
        assert shift == pytest.approx(np.where(codes["m"] == 0, 3, -3))


P0, P1 = expit(-0.5), expit(1.5)


def both(a: float, b: float) -> float:
    """P(i wins in both | shared Gumbels) for two distributions over two levels with P(i) = a and b."""
    return 1 / (1 + max((1 - a) / a, (1 - b) / b))


@pytest.mark.parametrize(
    ("coupling", "kept", "gained"),
    [
        ("monotone", 1.0, (P1 - P0) / (1 - P0)),
        ("gumbel", both(P0, P1) / P0, 1 - both(1 - P0, 1 - P1) / (1 - P0)),
        ("independent", P1, P1),
    ],
)
def test_couplings_join_image_and_counterfactual_as_their_formulas_say(coupling, kept, gained):
    """P(m(1) = 1 | m(0) = 1) and P(m(1) = 1 | m(0) = 0), from the noise itself and from its posterior."""
    world = chain(coupling)
    noise, codes, patient = world.population(N, 3)
    again = world.redraw(noise, codes, patient, np.random.default_rng(0))
    rows = codes["x"] == 0
    for source in (noise, again):
        after = world.evaluate(source, {"x": np.ones(N)}, codes)["m"]
        assert after[rows & (codes["m"] == 1)].mean() == pytest.approx(kept, abs=0.02)
        assert after[rows & (codes["m"] == 0)].mean() == pytest.approx(gained, abs=0.02)
        assert np.array_equal(after[~rows], codes["m"][~rows])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_gumbels_of_three_levels_agree_as_often_as_the_formula_says(b):
    softmax = {"softmax": {"bias": {"b": b[0], "c": b[1]}, "weights": {"b": {"x": b[2]}, "c": {"x": b[3]}}}}
    world = small(
        {"x": {"probability": 0.5}, "u": softmax}, types={"u": ["a", "b", "c"]}, hidden=("u",), coupling="gumbel"
    )
    noise, codes = drawn(world, n=8_000)
    first, second = (world.evaluate(noise, {"x": np.full(8_000, float(x))}, codes)["u"] for x in (0, 1))
    p, q = np.exp([0, b[0], b[1]]), np.exp([0, b[0] + b[2], b[1] + b[3]])
    for i in range(3):
        agreed = 1 / np.maximum(p / p[i], q / q[i]).sum()
        assert ((first == i) & (second == i)).mean() == pytest.approx(agreed, abs=0.03)


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("name", World.names())
def test_redrawn_noise_gives_the_same_codes(name, coupling):
    world = World.from_dict({**World.load(name).to_dict(), "coupling": coupling})
    noise, codes, patient = world.population(1_000, 5)
    again = world.evaluate(world.redraw(noise, codes, patient, np.random.default_rng(1)))
    assert all(np.array_equal(again[other], codes[other]) for other in codes)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_redrawn_noise_of_a_patient_fits_every_image_of_it_though_causes_differ(coupling):
    world = small(
        {"x": {"probability": 0.5}, "y": logistic(-1, x=3), "w": linear(0, 1, y=2)}, types={"w": (-9, 9)},
        patients={"images": [3, 3], "same": ["y"]}, coupling=coupling,
        confounding=[{"pair": ["y", "w"], "strength": [1.0, 1.0]}],
    )  # fmt: skip
    noise, codes, patient = world.population(3_000, 5)
    redrawn = world.redraw(noise, codes, patient, np.random.default_rng(1))
    again = world.evaluate(redrawn)
    assert np.array_equal(again["y"], codes["y"])
    assert again["w"] == pytest.approx(codes["w"], abs=1e-9)
    latent = redrawn.latent["y <-> w"].reshape(-1, 3)
    assert (latent == latent[:, :1]).all()
    assert not np.allclose(latent, noise.latent["y <-> w"].reshape(-1, 3))


@pytest.mark.parametrize("images", [1, 3])
def test_redrawn_latent_causes_have_the_posterior_of_all_images_of_the_patient(images):
    world = small(
        {"x": logistic(-0.5), "y": logistic(0.5)}, patients={"images": [images, images]},
        confounding=[{"pair": ["x", "y"], "strength": [1.5, 1.0]}],
    )  # fmt: skip
    noise, codes, patient = world.population(30_000, 5)
    latent = world.redraw(noise, codes, patient, np.random.default_rng(1)).latent["x <-> y"][::images]
    sums = np.column_stack([codes[name].reshape(-1, images).sum(1) for name in ("x", "y")])
    for x, y in ((0, 0), (images, images), (images, 0)):

        def likelihood(h, x=x, y=y):
            p, q = expit(-0.5 + 1.5 * h), expit(0.5 + h)
            return norm.pdf(h) * p**x * (1 - p) ** (images - x) * q**y * (1 - q) ** (images - y)

        mean = quad(lambda h: h * likelihood(h), -8, 8)[0] / quad(likelihood, -8, 8)[0]
        found = latent[(sums == (x, y)).all(1)]
        assert found.mean() == pytest.approx(mean, abs=4 / np.sqrt(len(found)) + 0.02)


# -- the graph that is declared ----------------------------------------------------------------------------------------
FLAT = {"probability": 0.5}
PROJECTIONS = {
    "fork through a hidden attribute": (
        {"h": FLAT, "a": logistic(0, h=1), "b": logistic(0, h=1)}, {}, set(), {("a", "b")}, (),
    ),
    "chain through a hidden attribute": (
        {"a": FLAT, "h": logistic(0, a=1), "b": logistic(0, h=1)}, {}, {("a", "b")}, set(), (),
    ),
    "chain and fork": (
        {"a": FLAT, "h": logistic(0, a=1), "b": logistic(0, h=1), "c": logistic(0, h=1)},
        {}, {("a", "b"), ("a", "c")}, {("b", "c")}, (),
    ),
    "collider that is hidden": ({"a": FLAT, "b": FLAT, "h": logistic(0, a=1, b=1)}, {}, set(), set(), ()),
    "latent cause of two labelled": (
        {"a": logistic(), "b": logistic()}, {"confounding": [{"pair": ["a", "b"]}]}, set(), {("a", "b")}, (),
    ),
    "latent cause of a labelled and a hidden cause of another": (
        {"a": logistic(), "h": logistic(), "b": logistic(0, h=1)},
        {"confounding": [{"pair": ["a", "h"]}]}, set(), {("a", "b")}, (),
    ),
    "selection, known": (
        {"a": FLAT, "b": FLAT}, {"selection": {"probability_of": logistic(0, a=1, b=1)}}, set(), set(), ("a", "b"),
    ),
    "selection through a hidden attribute": (
        {"a": FLAT, "b": FLAT, "h": logistic(0, a=1)},
        {"selection": {"probability_of": logistic(0, h=1, b=1)}}, set(), set(), ("a", "b"),
    ),
    "selection, not known": (
        {"a": FLAT, "b": FLAT}, {"selection": {"probability_of": logistic(0, a=1, b=1), "declared": False}},
        set(), set(), (),
    ),
    "the owner errs": (
        {"h": FLAT, "a": logistic(0, h=1), "b": logistic(0, h=1)},
        {"declared": {"edges": [["b", "a"]], "confounded": []}}, {("b", "a")}, set(), (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PROJECTIONS)
def test_the_declared_graph_is_the_latent_projection_or_what_the_owner_says(case):
    mechanisms, keys, edges, confounded, selected = PROJECTIONS[case]
    declared = small(mechanisms, hidden=("h",), **keys).declared
    assert set(declared.edges) == edges
    assert set(declared.confounded) == confounded
    assert declared.selected_on == selected


# -- worlds that ship, files -------------------------------------------------------------------------------------------
def test_the_worlds_that_ship():
    assert World.names() == (
        "chest-drain", "independent", "label-noise", "null", "pacemaker-age", "portable", "scanner-site", "selection",
        "sex-breast", "weak",
    )  # fmt: skip


@pytest.mark.parametrize("name", World.names())
def test_every_world_tells_a_story_from_the_literature(name):
    world = World.load(name)
    assert world.name == name
    assert len(world.story) > 40
    assert name in FREE_STORIES or "doi:" in world.story or "arXiv:" in world.story


@pytest.mark.parametrize("name", World.names())
def test_worlds_survive_a_file(name, tmp_path):
    world = World.load(name)
    assert World.from_dict(world.to_dict()).fingerprint == world.fingerprint
    file = tmp_path / "copy.yaml"
    with file.open("w") as stream:
        YAML(typ="safe", pure=True).dump(world.to_dict(), stream)
    copy = World.load(file)
    assert copy.fingerprint == world.fingerprint
    assert (copy.graph.edges, copy.declared.edges) == (world.graph.edges, world.declared.edges)
    assert World.from_dict({**world.to_dict(), "coupling": "gumbel"}).fingerprint != world.fingerprint


@pytest.mark.parametrize("name", World.names())
def test_attributes_of_a_world_can_be_freed_of_each_other(name):
    world = World.load(name).independent()
    assert not world.graph.edges
    assert world.content.coupling == "monotone"
    n = 10_000
    _, codes, _ = world.population(n, 3, iid=True)
    table = np.column_stack(list(codes.values()))
    correlations = np.corrcoef(table.T)[np.triu_indices(table.shape[1], 1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(n)
    for attribute in world.graph.attributes.values():
        if not isinstance(attribute, Continuous):
            k = len(attribute.levels)
            found = np.bincount(codes[attribute.name].astype(int), minlength=k) / n
            assert found == pytest.approx(np.full(k, 1 / k), abs=0.025)


def test_signs_are_of_what_is_hidden_and_shows():
    world = World.load("scanner-site")
    names = [sign.name for sign in world.hidden_signs]
    assert "site = south" not in names  # it shows only by what it causes
    assert {"laterality_marker = letter", "laterality_marker = stamp", "exposure_style"} <= set(names)
    assert "age > 55" in [sign.name for sign in world.labelled_signs]


def test_an_unknown_name_is_refused_with_those_that_are_known():
    with pytest.raises(WorldError, match=r"no world 'portabel'; choose from \['chest-drain', .*or give a .yaml file"):
        World.load("portabel")
    with pytest.raises(WorldError, match=r"gone\.yaml does not exist"):
        World.load("gone.yaml")


# -- bad files ---------------------------------------------------------------------------------------------------------
GOOD = """\
name: good
graph:
  attributes:
    - {name: age, type: continuous, unit: years, low: 20, high: 90}
    - {name: view, type: binary, levels: [PA, AP]}
    - {name: site, type: categorical, levels: [north, south, west], hidden: true}
    - {name: effusion, type: binary}
    - {name: pacemaker, type: binary, hidden: true}
  edges:
    - [age, effusion]
    - [effusion, view]
    - [site, view]
    - [age, pacemaker]
  selected_on: [view]
mechanisms:
  age: {uniform: }
  site: {probability: {north: 0.4, south: 0.3, west: 0.3}}
  effusion: {logistic: {bias: -1, weights: {age: 0.8}}}
  view: {logistic: {bias: -0.5, weights: {effusion: 1.5, site: {south: 1.0}}}}
  pacemaker: {expression: "sigmoid(age / 30 - 2)"}
selection:
  probability_of: {logistic: {bias: 0, weights: {view: 1}}}
label_noise:
  effusion: {1: 0.1}
missing:
  age: 0.1
patients:
  images: [1, 3]
  same: [age]
shows:
  effusion: {draws: effusion_ml, as: [0, 500], spread: 100}
scene:
  bmi: {value: 26, spread: 3}
reports:
  present: 0.9
"""

#: (what it was, what it becomes, text on the line that is named, words of the message)
MISTAKES = {
    "unknown key": ("reports:", "report:", "report:", "did you mean 'reports'?"),
    "unknown key inside": ("  present: 0.9", "  presence: 0.9", "presence", "did you mean 'present'?"),
    "unknown key of a mechanism": ("{uniform: }", "{unifrom: }", "unifrom", "did you mean 'uniform'?"),
    "unknown key of logistic": ("bias: -1,", "biass: -1,", "biass", "did you mean 'bias'?"),
    "unknown key of shows": ("draws: effusion_ml", "draw: effusion_ml", "draw: ", "did you mean 'draws'?"),
    "unknown key of the graph": ("  selected_on: [view]", "  selected: [view]", "selected: ", "choose from attributes"),
    "no name": ("name: good\n", "", "graph:", "name: is missing; add name: ..."),
    "name of nothing": ("name: good", "name: null", "name: null", "awaits text, got nothing"),
    "name with blanks": ("name: good", "name: good world", "name: good world", "write letters, digits"),
    "name that is YAML's null": ("name: good", "name: ~", "name: ~", "awaits text"),
    "weight is a word": ("{age: 0.8}", "{age: much}", "much", "awaits a number or keys with values, got 'much'"),
    "bias is a list": ("bias: -1,", "bias: [1],", "bias: [1]", "awaits a number, got [1]"),
    "not a number": ("bias: -1,", "bias: .nan,", "bias: .nan", "finite number"),
    "rate is a word": ("  age: 0.1", "  age: often", "often", "awaits a number or keys with values, got 'often'"),
    "rate above 1": ("  age: 0.1", "  age: 1.1", "1.1", "a probability lies in [0, 1], got 1.1"),
    "graph is a word": (GOOD[GOOD.index("graph:") : GOOD.index("mechanisms:")], "graph: none\n", "graph: none",
                        "awaits keys with values, got 'none'"),
    "attributes are a word": (GOOD[GOOD.index("  attributes") : GOOD.index("mechanisms:")], "  attributes: none\n",
                              "attributes: none", "awaits a list"),
    "attribute is a word": ("    - {name: effusion, type: binary}", "    - effusion", "- effusion", "written as a mapping"),
    "attribute without a type": ("{name: effusion, type: binary}", "{name: effusion}", "{name: effusion}", "type None"),
    "unknown key of an attribute": ("type: binary, levels: [PA, AP]", "type: binary, level: [PA, AP]", "level: [PA",
                                    "'level' is no key of a binary attribute; those are name, levels"),
    "number without a unit": ("unit: years, ", "", "name: age", "'age' is continuous and needs unit; add unit: ..."),
    "phrase that is a number": ("levels: [PA, AP]}", "levels: [PA, AP], phrases: {AP: 3}}", "phrases", "phrases are text"),
    "hidden by and by": ("levels: [PA, AP]}", "levels: [PA, AP], hidden: partly}", "partly", "hidden is true or false"),
    "attribute twice": ("{name: effusion, type: binary}", "{name: view, type: binary}", "view, type: binary}",
                        "'view' is declared twice; drop one"),
    "attribute without a mechanism": ('  pacemaker: {expression: "sigmoid(age / 30 - 2)"}\n', "", "name: pacemaker",
                                      "has no mechanism; write mechanisms: {pacemaker: ...}"),
    "mechanism of nothing": ("  age: {uniform: }", "  age: {uniform: }\n  ages: {uniform: }", "ages", "no attribute of the graph"),
    "two kinds": ("{uniform: }", "{uniform: , probability: 0.5}", "uniform: ,", "a mechanism is of one kind"),
    "no kind": ("  age: {uniform: }", "  age: {}", "age: {}", "a mechanism is of one kind, got []"),
    "unsuited kind": ("{uniform: }", "{probability: 0.5}", "age: {probability: 0.5}", "cannot come about by probability"),
    "logistic for three levels": ("{probability: {north: 0.4, south: 0.3, west: 0.3}}", "{logistic: {bias: 1}}",
                                  "site: {logistic", "choose one of ['probability', 'softmax']"),
    "unknown level": ("{south: 1.0}", "{east: 1.0}", "east", "choose from ['north', 'south', 'west']"),
    "one weight for three levels": ("site: {south: 1.0}", "site: 1.0", "site: 1.0", "give a weight for each"),
    "probabilities of 1.1": ("south: 0.3", "south: 0.4", "south: 0.4", "in all 1"),
    "probability above 1": ("{expression: \"sigmoid(age / 30 - 2)\"}", "{probability: 1.5}", "1.5",
                            "a probability lies in [0, 1]"),
    "cause is no attribute": ("{age: 0.8}", "{agee: 0.8}", "agee", "its cause 'agee' is no attribute; those are ['age'"),
    "its own cause": ("{age: 0.8}", "{age: 0.8, effusion: 1}", "effusion: 1}", "its own cause"),
    "cycle": ("{age: 0.8}", "{age: 0.8, view: 1}", "  effusion: {logistic", "cycle"),
    "cause without an edge": ("    - [site, view]\n", "", "  view: {logistic", "the graph has no edge site -> view; add it"),
    "edge without a weight": ("    - [site, view]", "    - [site, view]\n    - [site, effusion]", "[site, effusion]",
                              "give it a weight there, or drop the edge"),
    "edge is no pair": ("    - [site, view]", "    - [site]", "- [site]", "is no pair"),
    "edge of an unknown": ("    - [site, view]", "    - [sight, view]", "sight", "'sight' is no attribute"),
    "edge out of the image": ("    - [site, view]", "    - [image, view]", "- [image, view]", "attributes cause the image"),
    "edge into the image of what is not drawn": ("    - [site, view]", "    - [site, view]\n    - [site, image]",
                                                 "[site, image]", "nothing draws 'site'; write shows"),
    "bad formula": ('"sigmoid(age / 30 - 2)"', '"open(age)"', "open(age)", "allowed are numbers"),
    "unreadable formula": ('"sigmoid(age / 30 - 2)"', '"sigmoid(age"', "sigmoid(age", "cannot be read"),
    "formula that is no probability": ('"sigmoid(age / 30 - 2)"', '"age / 30"', '"age / 30"', "use sigmoid(...)"),
    "formula with an unknown level": ('"sigmoid(age / 30 - 2)"', '"0.5 * (age == \'old\')"', "old",
                                      "compare an attribute with it"),
    "selection with an unknown level": ("{logistic: {bias: 0, weights: {view: 1}}}", '{expression: "0.5 * (view == \'LL\')"}',
                                        "LL", "its levels: ['PA', 'AP']"),
    "missing by a bad formula": ("  age: 0.1", "  age: {expression: view + 1}", "view + 1", "which is no probability"),
    "selection on other things": ("  selected_on: [view]", "  selected_on: [age]", "selected_on", "name the same attributes"),
    "selection by what is not there": ("weights: {view: 1}", "weights: {vieww: 1}", "vieww", "are no attributes"),
    "label noise of what is hidden": ("  effusion: {1: 0.1}", "  pacemaker: {1: 0.1}", "pacemaker: {1: 0.1}",
                                      "no attribute of the metadata"),
    "label noise of an unknown level": ("  effusion: {1: 0.1}", "  effusion: {2: 0.1}", "{2: 0.1}", "choose from [0, 1]"),
    "label noise above 1": ("  effusion: {1: 0.1}", "  effusion: {1: 7}", "{1: 7}", "a probability lies in [0, 1], got 7"),
    "label noise of the wrong kind": ("  effusion: {1: 0.1}", "  effusion: 0.1", "  effusion: 0.1", "levels a probability each"),
    "unknown patient's attribute": ("  same: [age]", "  same: [agee]", "agee", "'agee' is no attribute"),
    "too many images": ("images: [1, 3]", "images: [1, 13]", "13", "a patient has 1 to 12 images"),
    "images is a number": ("images: [1, 3]", "images: 3", "images: 3", "awaits a list, got 3"),
    "share above 1": ("  same: [age]", "  shared: {age: 2}", "shared", "give a number in [0, 1]"),
    "unknown drawable": ("draws: effusion_ml", "draws: dragon", "dragon", "'dragon' cannot be drawn; choose from"),
    "drawn beyond its range": ("as: [0, 500]", "as: [0, 9000]", "9000", "give a number in [0, 2500] ml"),
    "one form for two levels": ("as: [0, 500]", "as: [500]", "as: [500]", "give a value for each of [0, 1]"),
    "attribute drawn as what it is not": ("effusion: {draws: effusion_ml, as: [0, 500], spread: 100}",
                                          "effusion: {draws: effusion_ml}", "draws: effusion_ml", "write shows: {effusion"),
    "two draw the same": ("shows:\n", "shows:\n  view: {draws: effusion_ml, as: [0, 100]}\n", "effusion: {draws",
                          "is drawn by 'view' already; choose another"),
    "scene draws what an attribute draws": ("  bmi: {value", "  age: {value", "  age: {value: 26", "drop one"),
    "unknown scene": ("  bmi: {value", "  bim: {value", "bim", "'bim' cannot be drawn"),
    "unknown coupling": ("reports:", "coupling: loose\nreports:", "coupling: loose", "'monotone', 'gumbel' or 'independent'"),
    "shift of nothing": ("reports:", "shifts: {age: 0}\nreports:", "shifts", "a shift is not 0"),
    "shift of levels": ("reports:", "shifts: {view: 1}\nreports:", "shifts", "no continuous attribute of the metadata"),
    "metadata of the unknown": ("reports:", "metadata: [agee]\nreports:", "metadata", "'agee' is no attribute"),
    "metadata of the hidden": ("reports:", "metadata: [pacemaker]\nreports:", "metadata", "marked hidden: true; drop one"),
    "confounding by a fixed probability": ("reports:", "confounding: [{pair: [site, view]}]\nreports:", "confounding",
                                           "a latent cause cannot enter 'site'"),
    "confounded with itself": ("reports:", "confounding: [{pair: [view, view]}]\nreports:", "confounding", "with itself"),
    "confounded twice": ("reports:", "confounding: [{pair: [view, effusion]}, {pair: [effusion, view]}]\nreports:",
                         "confounding", "twice; drop one"),
    "pair of three": ("reports:", "confounding: [{pair: [view, effusion, age]}]\nreports:", "confounding", "2 items"),
    "owner's graph has a cycle": ("reports:", "declared: {edges: [[age, view], [view, age]]}\nreports:", "declared", "cycle"),
    "mention above 1": ("  present: 0.9", "  present: 1.9", "1.9", "less than or equal to 1, got 1.9"),
    "key twice": ("reports:", "name: again\nreports:", "name: again", 'duplicate key "name"'),
    "tab": ("  present: 0.9", "\tpresent: 0.9", "\tpresent", "Indent with spaces"),
    "bracket left open": ("same: [age]", "same: [age", "shows:", "is no YAML"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_bad_file_gets_an_error_with_the_line_and_the_mend(case, tmp_path):
    was, becomes, on_line, words = MISTAKES[case]
    assert was in GOOD
    text = GOOD.replace(was, becomes, 1)
    file = tmp_path / "world.yaml"
    file.write_text(text)
    lines = [i for i, line in enumerate(text.splitlines(), start=1) if on_line in line]
    with pytest.raises(WorldError) as told:
        World.load(file)
    message = str(told.value)
    assert any(message.startswith(f"{file}:{line}: ") for line in lines), message
    assert words in message
    assert message.count(str(file)) == 1  # one mistake, one line


def test_the_good_file_is_good(tmp_path):
    (tmp_path / "world.yml").write_text(GOOD)
    world = World.load(tmp_path / "world.yml")
    assert world.graph.labelled == ("age", "view", "effusion")
    assert world.declared.edges == (("age", "effusion"), ("effusion", "view"))


def places(content, place=()):
    """Every place of plain data but the top."""
    for key, inner in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*place, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*place, key))


def test_whatever_stands_wherever_there_is_no_error_of_another_type():
    """Every 13th of the ways to put something else, or nothing, in one place of the documented example."""
    text, told = COMPLETE[0], []
    ways = list(product(places(YAML(typ="safe").load(text)), (None, 3, "x", [], {}, [1], {"a": 1}, True, -1.5, "drop")))
    for place, value in ways[::13]:
        data = inner = YAML(typ="safe").load(text)
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        if value == "drop":
            del inner[place[-1]]
        try:
            World.from_dict(data)
        except WorldError as error:
            told.append(str(error))
    assert len(told) > 200
    assert not any("valid" in message for message in told)  # pydantic's own words


def test_every_mistake_of_a_file_is_told_at_once(tmp_path):
    (tmp_path / "world.yaml").write_text(GOOD.replace("name: good", "name: 3").replace("spread: 100", "spread: -1"))
    with pytest.raises(WorldError) as told:
        World.load(Path(tmp_path / "world.yaml"))
    assert len(str(told.value).splitlines()) == 2


def test_plain_data_gets_the_same_messages_without_lines():
    data = World.load("null").to_dict()
    with pytest.raises(WorldError, match=r"^storey: Extra inputs are not permitted; did you mean 'story'\?"):
        World.from_dict({**data, "storey": "x"})
    with pytest.raises(WorldError, match=r"world 'null': missing\.age: a probability lies"):
        World.from_dict({**data, "missing": {"age": 3}})


# -- the documentation of the format -----------------------------------------------------------------------------------
def keys_of(model: type[BaseModel]) -> set[str]:
    return {field.alias or str(field.validation_alias or name) for name, field in model.model_fields.items()}


def keys_in(content: Any) -> set[str]:
    if isinstance(content, list):
        return set().union(*map(keys_in, content))
    return {str(k) for k in content}.union(*map(keys_in, content.values())) if isinstance(content, dict) else set()


@pytest.mark.parametrize("text", COMPLETE, ids=lambda text: text.split("\n")[0])
def test_complete_worlds_of_the_documentation_load_and_have_a_truth(text, tmp_path):
    (tmp_path / "world.yaml").write_text(text)
    table = truth_of(World.load(tmp_path / "world.yaml"), draws=5_000)
    assert set(table.of) == {"exposure_style", "ecg_leads", "pacemaker", "control_dot"}
    assert table.set_index(["attribute", "concept"]).relation["view", "ecg_leads"] == "causes"


def test_the_complete_example_of_the_documentation_has_every_key_and_every_kind_of_mechanism():
    found = keys_in(YAML(typ="safe").load(COMPLETE[0]))
    blocks = (WorldFile, Confounding, Selection, Declared, Shown, Background, Patients, Reports, Mechanism)
    blocks += (Logistic, Threshold, Softmax, Linear, Uniform, Expression)
    for block in blocks:
        assert keys_of(block) <= found, block.__name__
    assert {"attributes", "edges", "confounded", "selected_on", "tiers", "present", "absent"} <= found


def test_the_documentation_lists_every_drawable_function_and_world():
    text = DOCS.read_text()
    rows = {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `")}
    for drawable in DRAWABLES.values():
        cells = [cell.strip() for cell in rows[drawable.name].split("|")]
        assert cells[2] == drawable.kind
        for word in drawable.levels or (f"{drawable.low:g}", f"{drawable.high:g}", drawable.unit):
            assert word in cells[3], drawable.name
    for name in World.names():
        assert name in rows
    assert " ".join(FUNCTIONS) in text
    for name, usual in USUAL.items():
        assert usual.draws in rows[name]


@pytest.mark.parametrize(
    "text", [block for block in BLOCKS if block not in COMPLETE], ids=lambda text: text.split(":")[0]
)
def test_fragments_of_the_documentation_hold_what_a_world_file_may_say(text):
    fragment = YAML(typ="safe").load(text)
    WorldFile.model_validate({"name": "x", "graph": {}, "mechanisms": {}, **fragment})


def test_some_keys_can_be_changed_and_the_rest_stays():
    world = World.load("portable")
    changed = world.changed(coupling="gumbel", patients={"images": [2, 2]})
    assert (changed.content.coupling, changed.content.patients.images) == ("gumbel", (2, 2))
    assert changed.graph == world.graph
    assert changed.changed(coupling="monotone", patients=world.to_dict()["patients"]).fingerprint == world.fingerprint
    with pytest.raises(WorldError, match="coupling"):
        world.changed(coupling="none")


def test_a_number_cut_off_at_its_range_reveals_only_that_it_lay_beyond():
    """Half of the values are cut off at 0; their redrawn noise is that of a normal below its mean, the others' is kept."""
    world = World.from_dict({
        "name": "cut", "graph": {"attributes": [{"name": "crp", "type": "continuous", "unit": "mg/l", "low": 0, "high": 300},
                                                {"name": "pacemaker", "type": "binary", "hidden": True}]},
        "mechanisms": {"crp": {"linear": {"intercept": 0, "sd": 40}}, "pacemaker": {"probability": 0.5}},
    })  # fmt: skip
    noise, codes, patient = world.population(4_000, 1, iid=True)
    again = world.redraw(noise, codes, patient, np.random.default_rng(2))
    np.testing.assert_array_equal(world.evaluate(again)["crp"], codes["crp"])
    cut, old, new = codes["crp"] == 0, noise.own["crp"], again.own["crp"]
    np.testing.assert_array_equal(new[~cut], old[~cut])
    assert abs(np.corrcoef(new[cut], old[cut])[0, 1]) < 0.1
    assert new[cut].mean() == pytest.approx(-np.sqrt(2 / np.pi), abs=0.05)


def test_a_number_without_noise_of_its_own_cannot_have_a_latent_cause():
    with pytest.raises(WorldError, match=r"mechanisms\.crp: 'crp' has sd: 0 and a latent common cause"):
        World.from_dict({
            "name": "exact", "graph": {"attributes": [{"name": "crp", "type": "continuous", "unit": "mg/l", "low": 0, "high": 300},
                                                      {"name": "pacemaker", "type": "binary", "hidden": True}]},
            "mechanisms": {"crp": {"linear": {"intercept": 100, "sd": 0}}, "pacemaker": {"logistic": {}}},
            "confounding": [{"pair": ["crp", "pacemaker"]}],
        })  # fmt: skip
