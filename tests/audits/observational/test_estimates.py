import numpy as np
import pandas as pd
import pytest

from causal_cxr.audits.effects.doubly_robust import cross_fitted_effect
from causal_cxr.audits.following import Following
from causal_cxr.audits.observational import Estimates, estimate, observational_side
from causal_cxr.audits.scales import Scale
from causal_cxr.data.phantom.truth import truth_of
from causal_cxr.data.phantom.world import World
from causal_cxr.graphs import Binary, Categorical, CausalGraph, Contrast, default_contrasts
from causal_cxr.readers.quality import Shift


@pytest.fixture(scope="module")
def portable():
    """4,000 images of world portable: its declared table, patients and what truly shows."""
    world = World.load("portable")
    _, codes, patients = world.population(4000, 3)
    table = world.declared.coerce(world.recorded(codes, np.random.default_rng(0)))
    shown = world.presence(codes, world.hidden_signs).astype(float)[["chest_drain", "ecg_leads"]]
    to_ap = next(c for c in default_contrasts(world.declared) if c.attribute == "view")
    return world, table, patients, shown, to_ap


def test_every_estimator_finds_the_phantoms_adjusted_truth(portable):
    world, table, patients, shown, to_ap = portable
    found = estimate(world.declared, table, patients, shown, [to_ap])
    truth = truth_of(world, [to_ap], draws=40_000).set_index("concept")["adjusted"]
    assert set(found["estimator"]) == {"regression", "ipw", "doubly robust"}
    assert set(found["estimand"]) == {"backdoor", "backdoor (maximal)"}
    for row in found.itertuples():
        assert abs(row.effect - truth[row.concept]) < 3.5 * row.se
        assert row.low < row.effect < row.high
    apart = shown.groupby((table["view"] == "AP").to_numpy())["chest_drain"].mean().diff().iloc[-1]
    assert apart > 0.15  # unadjusted, drains seem to hang on the view


def test_columns_say_how_much_was_used(portable):
    world, table, patients, shown, to_ap = portable
    found = estimate(world.declared, table, patients, shown, [to_ap]).set_index(["estimator", "concept"])
    row = found.xs("ipw").iloc[0]
    assert row["n"] == 4000
    assert row["patients"] == len(np.unique(patients))
    assert row["ess"] < 4000
    assert 0 <= row["truncated"] < 0.05
    assert row["variables"] == "age, effusion"


def test_any_estimator_can_be_plugged_in_by_name(portable):
    world, table, patients, shown, to_ap = portable

    def cross_fitted(question, seed):
        found = cross_fitted_effect(question.outcomes, question.treatment, question.held, question.patients, seed=seed)
        return Estimates(found.effects, truncated=found.truncated)

    found = estimate(world.declared, table, patients, shown, [to_ap], estimators={"cross-fitted": cross_fitted})
    mine = found[found["estimator"] == "cross-fitted"]
    others = estimate(world.declared, table, patients, shown, [to_ap], estimators=["doubly robust"])
    others = others[others["estimator"] == "doubly robust"]
    assert np.allclose(mine["effect"], others["effect"], atol=0.01)


def simulated(graph, n=4000, seed=0):
    """w -> x -> m -> y, and a hidden common cause of x and y."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=n)
    w = rng.integers(0, 2, n)
    x = (rng.uniform(size=n) < np.clip(0.2 + 0.4 * w + 0.1 * u, 0, 1)).astype(int)
    m = (rng.uniform(size=n) < 0.2 + 0.6 * x).astype(int)
    y = (rng.uniform(size=n) < np.clip(0.2 + 0.5 * m + 0.15 * u, 0, 1)).astype(int)
    return graph.coerce(pd.DataFrame({"w": w, "x": x, "m": m, "y": y})), y


ATTRIBUTES = [Binary(name) for name in "wxmy"]
X = Contrast("x", "flip", level=1, reference=0)


def test_front_door_and_instrument_of_a_labelled_outcome():
    graph = CausalGraph(ATTRIBUTES, [("w", "x"), ("x", "m"), ("m", "y")], confounded=[("x", "y")])
    table, y = simulated(graph)
    found = estimate(graph, table, np.arange(4000), pd.DataFrame({"y": y.astype(float)}), [X], reads={"y": "y"})
    assert found["estimand"].tolist() == ["frontdoor", "iv"]
    for row in found.itertuples():
        assert abs(row.effect - 0.3) < 3 * row.se  # 0.6 * 0.5
    assert y[table["x"] == 1].mean() - y[table["x"] == 0].mean() > 0.35


def test_what_nothing_identifies_is_one_row_with_the_reason():
    graph = CausalGraph(ATTRIBUTES, [("x", "y"), ("x", "m"), ("m", "y")], confounded=[("x", "y"), ("w", "y")])
    table, y = simulated(graph)
    (row,) = estimate(graph, table, np.arange(4000), pd.DataFrame({"y": y * 1.0}), [X], reads={"y": "y"}).itertuples()
    assert np.isnan(row.effect)
    assert "hidden common cause of x and y" in row.reason


def test_a_contrast_of_three_levels_is_no_front_door():
    graph = CausalGraph(
        [Categorical("x", levels=("a", "b", "c")), Binary("m"), Binary("y")], [("x", "m"), ("m", "y")], confounded=[("x", "y")]
    )  # fmt: skip
    rng = np.random.default_rng(0)
    table = graph.coerce(
        pd.DataFrame({"x": rng.choice(list("abc"), 300), "m": rng.integers(0, 2, 300), "y": rng.integers(0, 2, 300)})
    )
    contrast = Contrast("x", "level", level="b", reference="a")
    scores = pd.DataFrame({"y": np.arange(300.0)})
    (row,) = estimate(graph, table, np.arange(300), scores, [contrast], reads={"y": "y"}).itertuples()
    assert "more than two levels" in row.reason


def test_no_overlap_is_said():
    graph = CausalGraph([Binary("z"), Binary("x")], [("z", "x")])
    z = np.repeat([0, 1], 200)
    x = z.copy()
    x[[0, 399]] = 1, 0
    table = graph.coerce(pd.DataFrame({"z": z, "x": x}))
    found = estimate(graph, table, np.arange(400), pd.DataFrame({"u": np.arange(400) / 400}), [X])
    assert found["effect"].isna().all()
    assert found["reason"].str.contains("no overlap: given z").all()


def test_bad_input_is_named():
    graph = CausalGraph(ATTRIBUTES)
    table, y = simulated(graph, 50)
    scores = pd.DataFrame({"u": y * 1.0})
    with pytest.raises(ValueError, match="rows; give one each an image"):
        estimate(graph, table, np.arange(49), scores, [X])
    with pytest.raises(ValueError, match="Unknown estimators \\['magic'\\]"):
        estimate(graph, table, np.arange(50), scores, [X], estimators=["magic"])
    with pytest.raises(ValueError, match="reads names \\['v'\\]"):
        estimate(graph, table, np.arange(50), scores, [X], reads={"v": "y"})


def test_the_side_of_an_audit_has_every_frame(portable):
    world, table, patients, shown, to_ap = portable
    part = slice(0, 900)
    side = observational_side(world.declared, table[part], patients[part], shown[part], [to_ap], most_refuted=1)
    assert side.refutations["concept"].unique().tolist() == ["ecg_leads"]  # the clearest effect
    assert set(side.refutations["passes"]) <= {"yes", "undecided"}
    assert side.unrefuted == 1
    assert set(side.sensitivity["concept"]) == {"ecg_leads", "chest_drain"}
    assert side.graph_test.verdict != "falsified"
    roles = side.identification.set_index("variables")["role"]
    assert roles["age, effusion"] == "chosen, minimal"


def test_on_the_concepts_scale_all_of_it_is_what_the_concept_itself_gives(portable):
    """A reader with slope 0.5 that sees 0.1 of the view: its scores, scaled, tell what the concept itself tells."""
    world, table, patients, shown, to_ap = portable
    part = slice(0, 900)
    u, ap = shown[part][["ecg_leads"]].astype(float), (table[part]["view"] == "AP").to_numpy(dtype=float)
    scores = 0.2 + 0.5 * u + 0.1 * ap[:, None]
    scale = Scale(0.5, 0.05, True, Following(Shift(0.1, 0.02, True), False, False), 0.1)

    def side(frame, scales):
        return observational_side(
            world.declared, table[part], patients[part], frame, [to_ap], scales=scales, most_refuted=0
        )

    read, itself = side(scores, {(to_ap.name, "ecg_leads"): scale}), side(u, {})
    assert set(read.estimates["scale"]) == {"concept"}
    assert set(itself.estimates["scale"]) == {"scores"}  # nobody said that they are more
    np.testing.assert_allclose(read.estimates["effect"], itself.estimates["effect"], atol=1e-9)
    expected = np.hypot(np.hypot(itself.estimates["se"], 0.02 / 0.5), itself.estimates["effect"] * 0.05 / 0.5)
    np.testing.assert_allclose(read.estimates["se"], expected, rtol=1e-9)
    pd.testing.assert_frame_equal(read.sensitivity, itself.sensitivity, rtol=1e-7, atol=1e-9)
