"""The analysing half, from score tables whose truth is known."""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from causal_cxr.audits.analyse import Analysis, analyse
from causal_cxr.audits.associations import associations
from causal_cxr.audits.effects import Effect, minimum_detectable_effect, power_of
from causal_cxr.audits.gates import REFUSALS
from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous, Contrast, default_contrasts
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import COLUMNS, FOLLOWS, ReaderQuality

AGE = Continuous("age", "years", 20, 90, phrases="{value:.0f}")
DISEASE, VIEW, COIN = Binary("disease"), Binary("view", levels=("PA", "AP")), Binary("coin")
GRAPH = CausalGraph(
    [AGE, DISEASE, VIEW, COIN],
    [
        ("age", "disease"),
        ("disease", "view"),
        ("age", "view"),
        ("age", "image"),
        ("disease", "image"),
        ("view", "image"),
    ],
)
HIDDEN = ("of_view", "of_disease", "of_age_only", "of_nothing")
CONCEPTS = (
    *(Concept(name, (name,), (f"no {name}",), control=name == "of_nothing") for name in HIDDEN),
    Concept("AP", ("AP",), ("PA",), attribute="view", level="AP"),
    Concept("sick", ("sick",), ("well",), attribute="disease", level=1),
)
COLUMN = [f"r/{c.name}" for c in CONCEPTS]
SLOPE = 0.7


def known(slope: float = SLOPE, se: float = 0.02, prevalence: float = 0.4) -> ReaderQuality:
    """A reader judged on many patients."""
    values = dict.fromkeys(COLUMNS, 0.9) | {
        "slope": slope, "slope_se": se, "slope_low": slope - 2 * se, "slope_high": slope + 2 * se,
        "prevalence": prevalence, "ece": 0.0, "n_present": 400.0, "n_absent": 600.0,
    }  # fmt: skip
    frame = pd.DataFrame([values] * len(CONCEPTS), index=pd.Index([c.name for c in CONCEPTS], name="concept"))
    return replace(ReaderQuality.unknown(CONCEPTS), concepts=frame)


class World:
    """age -> disease -> view, age -> view; each hidden attribute hangs on what its name says."""

    def __init__(self, n: int = 3_000, edited: int = 256, seed: int = 0, drift: float = 0.05) -> None:
        self.rng = np.random.default_rng(seed)
        self.noise = {name: self.rng.uniform(size=n) for name in ("age", "disease", "view", "coin", *HIDDEN)}
        self.patients, self.drift = (np.arange(n) // 2).astype(str), drift
        self.factual = self.follow({}, self.noise)
        self.rows = np.sort(self.rng.permutation(n)[:edited])
        self.image = self.rng.normal(0, 0.1, (n, len(CONCEPTS)))

    @staticmethod
    def follow(fixed: dict[str, np.ndarray], u: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        v = {"age": 20 + 70 * u["age"], "coin": (u["coin"] < 0.5) * 1.0} | fixed
        old = (v["age"] - 55) / 35
        v.setdefault("disease", (u["disease"] < 0.4 + 0.3 * old) * 1.0)
        v.setdefault("view", (u["view"] < 0.25 + 0.35 * v["disease"] + 0.2 * old) * 1.0)
        rate = {
            "of_view": 0.1 + 0.7 * v["view"],
            "of_disease": 0.2 + 0.5 * v["disease"],
            "of_age_only": 0.5 + 0.45 * old,
            "of_nothing": 0.4,
        }
        return v | {name: (u[name] < rate[name]) * 1.0 for name in HIDDEN}

    @property
    def attributes(self) -> pd.DataFrame:
        return pd.DataFrame({name: a.decode(self.factual[name]) for name, a in GRAPH.attributes.items()})

    def scores(self, v: dict[str, np.ndarray], rows: np.ndarray, move: dict[str, float]) -> np.ndarray:
        there = np.column_stack([*(v[name] for name in HIDDEN), v["view"], v["disease"]])
        score = 0.4 * (1 - SLOPE) + SLOPE * there + self.image[rows] + self.rng.normal(0, self.drift, there.shape)
        for name, shift in move.items():
            score[:, HIDDEN.index(name)] += shift
        return score

    def measure(
        self, contrasts: tuple[Contrast, ...], editor: str = "oracle", frozen: bool = False, **move: float
    ) -> pd.DataFrame:
        """``frozen``: nothing but ``move`` (by concept, on the score, oriented) happens."""
        u, n = {k: x[self.rows] for k, x in self.noise.items()}, len(self.patients)
        now = {k: x[self.rows] for k, x in self.factual.items()}

        def frame(
            kind: str, rows: np.ndarray, scores: np.ndarray, contrast: Contrast | None, sign: np.ndarray
        ) -> pd.DataFrame:
            return pd.DataFrame(scores.astype(np.float32), columns=COLUMN).assign(
                editor="" if kind == "factual" else editor, row=rows, patient=self.patients[rows], kind=kind,
                contrast=contrast.name if contrast else "", attribute=contrast.attribute if contrast else "",
                orientation=sign.astype(np.int8), accepted=True, reason="",
            )  # fmt: skip

        zero = np.zeros(n, dtype=np.int8)
        parts = [frame("factual", np.arange(n), self.scores(self.factual, np.arange(n), {}), None, zero)]
        parts.append(frame("null", self.rows, self.scores(now, self.rows, {}), None, zero[self.rows]))
        for contrast in contrasts:
            a = GRAPH.attributes[contrast.attribute]
            moved, sign = contrast.apply(a, a.decode(now[contrast.attribute]))
            order = ("age", "disease", "view", "coin")
            for kind in ("total", "direct") if GRAPH.descendants(contrast.attribute) else ("total",):
                held = (
                    order if kind == "direct" else [k for k in order if k not in GRAPH.descendants(contrast.attribute)]
                )
                fixed = {k: now[k] for k in held} | {contrast.attribute: a.encode(moved)}
                v = self.follow(fixed, u)
                if frozen:
                    v = now | {contrast.attribute: fixed[contrast.attribute]}
                shift = {name: by * sign for name, by in move.items()}
                parts.append(frame(kind, self.rows, self.scores(v, self.rows, shift), contrast, sign))
        return pd.concat(parts, ignore_index=True)


FLIP = tuple(c for c in default_contrasts(GRAPH) if c.attribute == "view")


def run(world: World, table: pd.DataFrame, contrasts: tuple[Contrast, ...] = FLIP, quality: ReaderQuality | None = None,
        graph: CausalGraph = GRAPH) -> Analysis:  # fmt: skip
    return analyse(table, world.attributes, graph, contrasts, {"r": CONCEPTS}, {"r": quality or known()})


def cell(analysis: Analysis, attribute: str, concept: str) -> pd.Series:
    edges = analysis.edges
    return edges[(edges["attribute"] == attribute) & (edges["concept"] == concept)].iloc[0]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def oracle(world: World) -> Analysis:
    contrasts = default_contrasts(GRAPH, {"age": 20.0})
    return run(world, world.measure(contrasts), contrasts)


# --- a faithful editor


def test_what_attributes_do_to_each_other_is_asked_only_on_request_and_never_against_a_declared_arrow(
    world: World,
) -> None:
    contrasts = default_contrasts(GRAPH, {"age": 20.0})
    table = world.measure(contrasts, of_nothing=0.0)
    asked = analyse(table, world.attributes, GRAPH, contrasts, {"r": CONCEPTS}, {"r": known()}, labelled_outcomes=True)
    labelled = asked.edges[~asked.edges["concept"].isin(HIDDEN)]
    assert set(zip(labelled["attribute"], labelled["concept"], strict=True)) == {
        ("age", "AP"), ("age", "sick"), ("disease", "AP"), ("view", "sick"), ("coin", "AP"), ("coin", "sick"),
    }  # fmt: skip
    assert cell(asked, "disease", "AP")["verdict"] == cell(asked, "age", "sick")["verdict"] == "declared"
    assert cell(asked, "coin", "sick")["verdict"] == "none"
    assert cell(asked, "view", "sick")["verdict"] == "undecided"
    assert cell(asked, "view", "sick")["reason"] == "declared as a cause of view"
    assert set(run(world, table, contrasts).edges["concept"]) == set(HIDDEN)


def test_what_was_selected_on_among_an_attributes_effects_is_said_beside_the_verdict() -> None:
    world = World(1_000, 64)
    contrasts = default_contrasts(GRAPH, {"age": 20.0})
    selected = CausalGraph.from_dict({**GRAPH.to_dict(), "selected_on": ["disease", "view"]})
    edges = run(world, world.measure(contrasts), contrasts, graph=selected).edges
    through = edges.groupby("attribute")["selected_through"].unique()
    assert {name: list(ways) for name, ways in through.items()} == {
        "age": ["disease, view"], "disease": ["view"], "view": [""], "coin": [""],
    }  # fmt: skip
    for row in edges.to_dict("records"):
        aside = f"what {row['attribute']} does by way of {row['selected_through']}, selected on, shows only as"
        assert (aside in row["sentence"]) == (row["attribute"] in ("age", "disease"))


def test_what_hardly_any_image_shows_is_not_judged_by_the_level_that_hardly_any_image_has(world: World) -> None:
    """Where a level has so few images that none would show it anyway, its absence there is no difference."""
    table = world.measure(FLIP)
    table["r/of_nothing"] = (0.4 * (1 - SLOPE) + 0.01 * world.rng.normal(size=len(table))).astype(np.float32)
    row = cell(run(world, table), "view", "of_nothing")
    assert (row["verdict"], row["reason"]) == ("undecided", "too few images to show it at both levels of view")


def test_an_editor_that_moves_another_attribute_for_nothing_makes_an_artifact(world: World) -> None:
    contrasts = tuple(c for c in default_contrasts(GRAPH) if c.attribute == "coin")
    table = world.measure(contrasts)
    table["r/sick"] += 0.3 * table["orientation"]
    asked = analyse(table, world.attributes, GRAPH, contrasts, {"r": CONCEPTS}, {"r": known()}, labelled_outcomes=True)
    assert cell(asked, "coin", "sick")["verdict"] == "artifact"


def test_every_true_relation_gets_its_verdict(oracle: Analysis) -> None:
    assert cell(oracle, "view", "of_view")["verdict"] == "hidden"
    assert cell(oracle, "disease", "of_disease")["verdict"] == "hidden"
    assert cell(oracle, "age", "of_age_only")["verdict"] == "hidden"
    assert cell(oracle, "view", "of_disease")["verdict"] == "spurious"
    assert cell(oracle, "disease", "of_view")["verdict"] == "mediated"
    for attribute in ("age", "disease", "view", "coin"):
        assert cell(oracle, attribute, "of_nothing")["verdict"] in ("none", "undecided")
    assert (oracle.edges.loc[oracle.edges["attribute"] == "coin", "verdict"] == "none").all()


def test_estimates_are_on_the_scale_of_the_concept_and_their_intervals_hold_the_truth(oracle: Analysis) -> None:
    row = cell(oracle, "view", "of_view")
    for side in ("editor", "adjusted", "marginal"):
        assert row[f"{side}_low"] <= 0.7 <= row[f"{side}_high"]
    row = cell(oracle, "disease", "of_view")
    assert row["editor_low"] <= 0.35 * 0.7 <= row["editor_high"]
    assert row["direct_effect"] == pytest.approx(0.0, abs=0.03)
    assert row["direct_call"] == "no"


def test_the_adjustment_is_the_graphs(oracle: Analysis) -> None:
    adjustment = oracle.edges.groupby("attribute")["adjustment"].first()
    assert adjustment.to_dict() == {"view": "age, disease", "disease": "age", "age": "", "coin": ""}


def test_effectiveness_of_a_faithful_editor_is_one_and_leak_shows_descendants_only(oracle: Analysis) -> None:
    view = oracle.effectiveness.set_index("attribute").loc["view"]
    assert view["low"] <= view["ratio"] <= view["high"]
    assert view["ratio"] == pytest.approx(1.0, abs=0.1)
    leak = oracle.leak.set_index(["attribute", "target"])["effect"]
    assert leak["view", "disease"] == pytest.approx(0.0, abs=0.03)
    assert leak["disease", "view"] == pytest.approx(0.35, abs=0.1)


def test_a_sentence_holds_the_contrast_the_verdict_and_three_numbers(oracle: Analysis) -> None:
    row = cell(oracle, "view", "of_view")
    assert row["sentence"].startswith("view: PA -> AP on of_view: hidden")
    assert all(f"{side} {row[f'{side}_effect']:+.2f}" in row["sentence"] for side in ("editor", "adjusted", "marginal"))
    assert row["sign"] == 1
    assert row["q"] <= 0.05


# --- editors with faults


def test_an_editor_that_learnt_a_confounded_relation_is_confounded(world: World) -> None:
    analysis = run(world, world.measure(FLIP, of_age_only=0.3 * SLOPE, of_nothing=0.3 * SLOPE))
    assert cell(analysis, "view", "of_age_only")["verdict"] == "confounded"
    assert cell(analysis, "view", "of_nothing")["verdict"] == "artifact"


def test_an_editor_that_moves_it_the_other_way_contradicts(world: World) -> None:
    analysis = run(world, world.measure(FLIP, of_view=-1.2 * SLOPE, of_age_only=-0.4 * SLOPE))
    assert cell(analysis, "view", "of_view")["verdict"] == "contradicted"
    opposite = cell(analysis, "view", "of_age_only")
    assert opposite["verdict"] == "undecided"
    assert "opposite signs" in opposite["reason"]


def test_an_editor_that_leaves_it_has_missed_it(world: World) -> None:
    assert cell(run(world, world.measure(FLIP, frozen=True)), "view", "of_view")["verdict"] == "missed"


def test_what_is_missed_by_an_edit_that_does_half_of_what_is_asked_says_so(world: World) -> None:
    table = world.measure(FLIP, frozen=True)
    whole = cell(run(world, table), "view", "of_view")
    assert whole["effectiveness"] == pytest.approx(1.0, abs=0.1)
    assert "of what was asked" not in whole["sentence"]
    null, total = (table.loc[table["kind"] == kind, "r/AP"].to_numpy() for kind in ("null", "total"))
    table.loc[table["kind"] == "total", "r/AP"] = (null + total) / 2
    half = cell(run(world, table), "view", "of_view")
    assert half["effectiveness"] == pytest.approx(whole["effectiveness"] / 2, abs=0.01)
    assert f"missed (of what was asked of view itself the edit does {half['effectiveness']:.2f})" in half["sentence"]
    assert "of what was asked" not in cell(run(world, table), "view", "of_nothing")["sentence"]


def test_drift_that_the_null_edit_shares_is_no_effect(world: World) -> None:
    table = world.measure(FLIP, frozen=True)
    drifting = table["kind"].isin(["null", "total"])
    table.loc[drifting, "r/of_nothing"] += 0.4
    assert cell(run(world, table), "view", "of_nothing")["verdict"] == "none"


# --- gates


def reason(analysis: Analysis, concept: str = "of_view") -> str:
    row = cell(analysis, "view", concept)
    assert row["verdict"] == "undecided"
    assert row["sign"] == 0
    return row["reason"]


def test_a_blind_reader_may_say_yes_but_never_no(world: World) -> None:
    analysis = run(world, world.measure(FLIP), quality=known(slope=SLOPE, se=0.21))
    assert set(analysis.edges["editor_call"]) <= {"yes", "undecided"}
    assert "reader blind" in reason(analysis, "of_nothing")


def test_an_unknown_reader_decides_nothing(world: World) -> None:
    assert "known to work" in reason(run(world, world.measure(FLIP), quality=ReaderQuality.unknown(CONCEPTS)))


def test_a_reader_that_follows_the_attribute_itself_is_refused(world: World) -> None:
    follows = pd.DataFrame(
        [["of_view", "view", 0.2, 0.02, 0.16, 0.24, "view: PA -> AP", np.nan]], columns=known().follows.columns
    )
    assert "follows view" in reason(run(world, world.measure(FLIP), quality=replace(known(), follows=follows)))


def test_an_editor_that_does_not_set_the_attribute_is_refused(world: World) -> None:
    table = world.measure(FLIP)
    table.loc[table["kind"] == "total", "r/AP"] = table.loc[table["kind"] == "null", "r/AP"].to_numpy()
    assert "not effective on view" in reason(run(world, table))


def test_a_latent_common_cause_is_not_identifiable(world: World) -> None:
    graph = CausalGraph(
        [AGE, DISEASE, VIEW, COIN], [("view", "disease"), ("view", "image")], confounded=[("disease", "view")]
    )
    analysis = run(world, world.measure(FLIP), graph=graph)
    assert "not identifiable" in reason(analysis)
    said = cell(analysis, "view", "of_view")["sentence"]
    assert "adjusted not known;" in said
    assert "nan" not in said


def test_without_overlap_nothing_is_claimed() -> None:
    world = World()
    world.factual["disease"] = world.factual["view"].copy()  # every AP image is of a sick patient
    assert "no overlap" in reason(run(world, world.measure(FLIP)))


def test_one_level_only_is_no_overlap() -> None:
    world = World()
    table = world.measure(FLIP)
    world.factual["view"][:] = 0.0
    assert "no overlap" in reason(run(world, table))


def test_directions_of_opposite_sign_are_asymmetric(world: World) -> None:
    table = world.measure(FLIP, frozen=True)
    total = table["kind"] == "total"
    table.loc[total, "r/of_view"] += np.float32(0.4)  # appears whichever way the view goes
    row = reason(run(world, table))
    assert "asymmetric" in row


def test_too_few_patients_are_told_how_many_would_decide() -> None:
    world = World(n=200, edited=40)
    analysis = run(world, world.measure(FLIP))
    undecided = analysis.edges[analysis.edges["verdict"] == "undecided"]
    assert undecided["reason"].str.contains("patients would decide|correction").any()
    assert (undecided["patients_needed"].dropna() > 0).all()


def test_rejected_edits_and_rejected_nulls_do_not_enter(world: World) -> None:
    table = world.measure(FLIP)
    bad = table.index[table["kind"] == "total"][:10]
    bad_null = table.index[table["kind"] == "null"][10:20]
    table.loc[[*bad, *bad_null], "accepted"] = False
    table.loc[bad, COLUMN] = 1e6
    table.loc[bad_null, COLUMN] = -1e6
    row = cell(run(world, table), "view", "of_view")
    assert row["n_edited"] == 236
    assert row["verdict"] == "hidden"


def test_an_edit_that_was_never_measured_is_undecided(world: World) -> None:
    table = world.measure(FLIP)
    table = table[table["kind"] != "total"]
    row = cell(run(world, table), "view", "of_view")
    assert row["editor_call"] == ""
    assert row["verdict"] == "undecided"


# --- delta, missing values, kinds of attribute


def test_delta_is_half_the_prevalence_of_a_rare_concept(world: World) -> None:
    table = world.measure(FLIP)
    seen = cell(run(world, table), "view", "of_nothing")
    assert seen["prevalence"] == pytest.approx(world.factual["of_nothing"].mean(), abs=0.02)
    assert seen["delta"] == 0.10
    table["r/of_nothing"] = np.float32(0.4 * (1 - SLOPE) + SLOPE * 0.12)
    rare = cell(run(world, table), "view", "of_nothing")
    assert rare["prevalence"] == pytest.approx(0.12, abs=1e-5)
    assert rare["delta"] == pytest.approx(0.06, abs=1e-5)


def test_missing_attributes_leave_their_rows_out(world: World) -> None:
    attributes = world.attributes
    outside = np.setdiff1d(np.arange(len(attributes)), world.rows)[:100]
    attributes.loc[outside, "view"] = None
    analysis = analyse(world.measure(FLIP), attributes, GRAPH, FLIP, {"r": CONCEPTS}, {"r": known()})
    row = cell(analysis, "view", "of_view")
    assert row["n_unedited"] == 2_900
    assert row["verdict"] == "hidden"


def test_a_categorical_level_is_compared_with_its_reference_only() -> None:
    rng = np.random.default_rng(0)
    n, site = 1_500, Categorical("site", ("A", "B", "C"))
    graph = CausalGraph([site], [("site", "image")])
    code = rng.integers(0, 3, n)
    tube = Concept("tube", ("tube",), ("no tube",))
    sites = [Concept(f"at {x}", (f"at {x}",), ("elsewhere",), attribute="site", level=x) for x in "BC"]
    quality = known()
    names = {"of_view": "tube", "of_disease": "at B", "of_age_only": "at C"}
    quality = replace(quality, concepts=quality.concepts.iloc[:3].rename(index=names))
    contrasts = default_contrasts(graph)
    base = {"editor": "", "patient": np.arange(n).astype(str), "contrast": "", "attribute": "", "kind": "factual",
            "orientation": 0, "accepted": True, "reason": "", "row": np.arange(n)}  # fmt: skip

    def score(c: np.ndarray) -> dict[str, np.ndarray]:
        there = {"tube": rng.uniform(size=n) < 0.2 + 0.5 * (c == 2), "at B": c == 1, "at C": c == 2}
        return {f"r/{name}": 0.1 + 0.7 * shows + rng.normal(0, 0.1, n) for name, shows in there.items()}

    parts = [
        pd.DataFrame(base | score(code)),
        pd.DataFrame(base | {"editor": "e", "kind": "null"} | score(code)),
    ]
    for contrast in contrasts:
        values = site.decode(code.astype(float))
        moved, sign = contrast.apply(site, values)
        parts.append(pd.DataFrame(base | {"editor": "e", "kind": "total", "contrast": contrast.name, "attribute": "site",
                                          "orientation": sign} | score(site.encode(moved))))  # fmt: skip
    table = pd.DataFrame({"site": site.decode(code.astype(float))})

    def edges_by(*concepts: Concept) -> pd.DataFrame:
        found = analyse(pd.concat(parts), table, graph, contrasts, {"r": concepts}, {"r": quality})
        return found.edges.set_index("contrast")

    edges = edges_by(tube, *sites)
    assert edges.loc["site: A -> B", "verdict"] == "none"
    assert edges.loc["site: A -> C", "verdict"] == "hidden"
    assert edges.loc["site: A -> C", "n_unedited"] == int((code != 1).sum())
    # Without a reader of the site nobody knows whether it was set: that something follows is shown, that nothing does is not.
    edges = edges_by(tube)
    assert edges["verdict"].to_dict() == {"site: A -> B": "undecided", "site: A -> C": "hidden"}
    assert "nothing reads site" in edges.loc["site: A -> B", "reason"]


# --- the whole


def test_a_relation_the_graph_declares_is_declared_or_unsupported(world: World) -> None:
    arrow = [*GRAPH.edges, ("view", "image"), ("view", "of_view"), ("view", "of_nothing")]
    hidden = [Binary("of_view", hidden=True), Binary("of_nothing", hidden=True)]
    graph = CausalGraph([AGE, DISEASE, VIEW, COIN, *hidden], arrow)
    analysis = run(world, world.measure(FLIP), graph=graph)
    assert cell(analysis, "view", "of_view")["verdict"] == "declared"
    assert cell(analysis, "view", "of_nothing")["verdict"] == "unsupported"


def test_the_order_of_rows_does_not_matter(world: World) -> None:
    table = world.measure(FLIP)
    shuffled = table.sample(frac=1.0, random_state=0)
    a, b = run(world, table).edges, run(world, shuffled).edges
    pd.testing.assert_frame_equal(a, b, rtol=1e-9)


def test_concepts_of_labelled_attributes_alone_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="candidate hidden attribute"):
        analyse(world.measure(FLIP), world.attributes, GRAPH, FLIP, {"r": CONCEPTS[-2:]}, {"r": known()})


def test_two_editors_of_four_thousand_images_take_seconds() -> None:
    world = World(n=4_000)
    contrasts = default_contrasts(GRAPH)
    first, second = world.measure(contrasts), world.measure(contrasts, editor="second")
    table = pd.concat([first, second[second["kind"] != "factual"]])
    started = time.process_time()
    run(world, table, contrasts)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(("spread", "overlaps"), [(300.0, True), (5.0, False)])
def test_a_shift_beyond_what_its_causes_allow_is_no_overlap(spread: float, overlaps: bool) -> None:
    rng = np.random.default_rng(0)
    n = 1_000
    dose, sick = Continuous("dose", "mAs", -2_000, 2_000, phrases="{value:.0f}"), Binary("sick")
    graph = CausalGraph([sick, dose], [("sick", "dose"), ("dose", "image")])
    ill = rng.integers(0, 2, n).astype(float)
    amount = 100 * ill + rng.uniform(-spread, spread, n)
    contrast = Contrast("dose", "shift", shift=20.0, unit="mAs")
    base = {"editor": "", "patient": np.arange(n).astype(str), "contrast": "", "attribute": "", "kind": "factual",
            "orientation": 0, "accepted": True, "reason": "", "row": np.arange(n)}  # fmt: skip
    scores = pd.DataFrame(rng.uniform(size=(n, len(CONCEPTS))), columns=COLUMN)
    sign = {"contrast": contrast.name, "attribute": "dose", "orientation": contrast.apply(dose, pd.Series(amount))[1]}
    kinds = [{}, {"editor": "e", "kind": "null"}, {"editor": "e", "kind": "total", **sign}]
    measurements = pd.concat([scores.assign(**(base | kind)) for kind in kinds])
    table = pd.DataFrame({"sick": sick.decode(ill), "dose": amount})
    concepts = CONCEPTS[: len(HIDDEN)]
    edges = analyse(measurements, table, graph, [contrast], {"r": concepts}, {"r": known()}).edges
    assert (edges["reason"] != "no overlap").all() == overlaps
    assert edges["adjusted_effect"].notna().all() == overlaps


def test_a_covariate_with_one_level_left_adjusts_for_nothing(world: World) -> None:
    attributes = world.attributes
    healthy = attributes["disease"] == 0
    attributes.loc[~healthy, "disease"] = None
    graph = CausalGraph([DISEASE, VIEW], [("disease", "view"), ("view", "image")])
    table = attributes[["disease", "view"]]
    row = cell(analyse(world.measure(FLIP), table, graph, FLIP, {"r": CONCEPTS}, {"r": known()}), "view", "of_view")
    assert row["adjustment"] == "disease"
    assert row["n_unedited"] == int(healthy.sum())


def test_hidden_with_labelled_mediators_needs_a_direct_effect_that_is_shown(world: World) -> None:
    table, contrasts = world.measure(default_contrasts(GRAPH)), default_contrasts(GRAPH)
    noisy = (table["kind"] == "direct") & (table["attribute"] == "disease")
    spread = 6.0 * np.resize([1, -1], int(noisy.sum())) * table.loc[noisy, "orientation"]  # of mean 0
    table.loc[noisy, "r/of_disease"] += spread.astype(np.float32)
    row = cell(run(world, table, contrasts), "disease", "of_disease")
    assert (row["editor_call"], row["adjusted_call"], row["direct_call"]) == ("yes", "yes", "undecided")
    assert row["verdict"] == "undecided"
    assert row["reason"].startswith("direct undecided; about")
    assert row["patients_needed"] > row["n_patients"]


def test_without_a_direct_pass_hidden_rests_on_the_total_effect(world: World) -> None:
    row = cell(run(world, world.measure(FLIP)), "view", "of_view")  # view has no labelled descendants
    assert row["direct_call"] == ""
    assert row["verdict"] == "hidden"


def two_readers(world: World, table: pd.DataFrame, a: ReaderQuality, b: ReaderQuality, flip: bool = False) -> Analysis:
    """Reader ``s`` scores as ``r`` does, or the other way round."""
    second = {c: c.replace("r/", "s/") for c in COLUMN}
    scores = table[COLUMN].rename(columns=second)
    if flip:
        scores = 1 - scores
    return analyse(table.join(scores), world.attributes, GRAPH, FLIP, {"r": CONCEPTS, "s": CONCEPTS}, {"r": a, "s": b})


def test_each_concept_is_read_by_the_reader_that_reads_it_best(world: World) -> None:
    table = world.measure(FLIP)
    analysis = two_readers(world, table, known(0.5), known(0.7))
    assert set(analysis.edges["reader"]) == {"s"}
    assert set(analysis.second_readings["reader"]) == {"r"}
    assert not analysis.edges.duplicated(["editor", "contrast", "concept"]).any()


def test_a_reader_that_follows_the_attribute_gives_way_to_one_that_does_not(world: World) -> None:
    analysis = two_readers(world, world.measure(FLIP), follower(0.3, slope=0.9), known(0.7))
    assert cell(analysis, "view", "of_view").reader == "s"
    assert cell(analysis, "view", "of_disease").reader == "r"


def test_readers_that_make_the_same_calls_agree_and_blind_ones_have_no_say(world: World) -> None:
    table = world.measure(FLIP)
    agreed = two_readers(world, table, known(), known(0.69))
    assert cell(agreed, "view", "of_view").agreement == "agree"
    assert cell(agreed, "view", "of_view").verdict == "hidden"
    alone = two_readers(world, table, known(), known(0.1), flip=True)
    assert cell(alone, "view", "of_view").agreement == ""
    assert cell(alone, "view", "of_view").verdict == "hidden"


def test_readers_of_opposite_sign_differ_and_nothing_is_decided(world: World) -> None:
    analysis = two_readers(world, world.measure(FLIP), known(), known(0.69), flip=True)
    edge = cell(analysis, "view", "of_view")
    assert (edge.agreement, edge.verdict, edge.reason) == ("differ", "undecided", "readers differ")


def test_gained_and_lost_are_the_shares_of_images_that_cross(world: World) -> None:
    table = world.measure(FLIP)
    edge = cell(run(world, table), "view", "of_view")
    # P(present | AP) = 0.8 and P(present | PA) = 0.1 from one uniform: of those absent at PA 0.7 / 0.9 gain it.
    assert edge.gained == pytest.approx(0.7 / 0.9, abs=0.12)
    assert edge.lost == pytest.approx(0.0, abs=0.05)


def test_where_the_table_contradicts_the_graph_nothing_is_decided(world: World) -> None:
    wrong = CausalGraph([AGE, DISEASE, VIEW, COIN], [("age", "disease"), ("age", "view")])  # disease -> view is missing
    analysis = run(world, world.measure(FLIP), graph=wrong)
    edge = cell(analysis, "view", "of_view")
    assert edge.verdict == "undecided"
    assert edge.reason == "graph falsified: disease and view are not independent given age"
    assert analysis.falsification["rejected"].any()


def test_a_reader_that_cannot_be_told_from_one_of_the_attribute_is_refused(world: World) -> None:
    unknown = pd.DataFrame(
        [["of_view", "view", *[np.nan] * 4, FLIP[0].name, np.nan]],
        columns=list(FOLLOWS),
    )
    edge = cell(run(world, world.measure(FLIP), quality=replace(known(), follows=unknown)), "view", "of_view")
    assert edge.verdict == "undecided"
    assert edge.reason == "too few labelled images to tell the reader from one of view"


def test_a_reader_that_was_judged_along_other_attributes_only_is_refused(world: World) -> None:
    of_coin = pd.DataFrame([["of_view", "coin", 0.0, 0.01, -0.02, 0.02, "coin: 0 -> 1", np.nan]], columns=list(FOLLOWS))
    edge = cell(run(world, world.measure(FLIP), quality=replace(known(), follows=of_coin)), "view", "of_view")
    assert edge.refusal == "reader inseparable"
    assert edge.reason == "the reader was never judged along view, which it may read in the concept's place"


def follower(shift: float, se: float = 0.01, slope: float = SLOPE) -> ReaderQuality:
    """Sees ``shift`` of the view in ``of_view``, and nothing of it in the others."""
    rows = [["of_view", "view", shift, se, shift - 2 * se, shift + 2 * se, FLIP[0].name, np.nan]]
    rows += [[name, "view", 0.0, 0.0, 0.0, 0.0, FLIP[0].name, np.nan] for name in HIDDEN if name != "of_view"]
    return replace(known(slope), follows=pd.DataFrame(rows, columns=list(FOLLOWS)))


def both_follow(world: World, shift: float, apart: bool) -> pd.Series:
    """Two readers that both see ``shift`` of the view where they should see the concept."""
    table = world.measure(FLIP)
    scores = table[COLUMN].rename(columns={c: c.replace("r/", "s/") for c in COLUMN})
    pair = [frozenset("rs")] if apart else []
    quality = {"r": follower(shift), "s": follower(shift)}
    found = analyse(
        table.join(scores), world.attributes, GRAPH, FLIP, dict.fromkeys("rs", CONCEPTS), quality, apart=pair
    )
    return cell(found, "view", "of_view")


def test_two_readers_that_follow_the_attribute_bear_each_other_out_only_if_they_share_nothing(world: World) -> None:
    alone, borne_out = both_follow(world, 0.1, apart=False), both_follow(world, 0.1, apart=True)
    assert (alone.verdict, alone.refusal, alone.witness) == ("undecided", "reader follows", "")
    assert (borne_out.verdict, borne_out.refusal) == ("hidden", "")
    assert borne_out.witness
    assert borne_out.shift_removed == 0.1


def test_what_readers_see_of_the_attribute_itself_is_taken_off_before_they_bear_each_other_out(world: World) -> None:
    """All of the effect on the score, 0.7 x 0.7, is what both see of the view: they agree that nothing is left."""
    explained = both_follow(world, 0.49, apart=True)
    assert explained.verdict == "none"
    assert explained.editor_effect == pytest.approx(0, abs=0.05)


def test_an_undecided_cell_has_a_type_that_says_what_would_mend_it(oracle: Analysis) -> None:
    undecided = oracle.edges[oracle.edges["verdict"] == "undecided"]
    assert set(undecided["refusal"]) <= set(REFUSALS)
    assert (undecided["refusal"] != "").all()
    assert (oracle.edges.loc[oracle.edges["verdict"] != "undecided", "refusal"] == "").all()


def test_what_a_reader_sees_of_the_attribute_is_taken_off_along_the_contrast_whichever_way_it_runs(
    world: World,
) -> None:
    back = (Contrast("view", "flip", level="PA", reference="AP"),)
    forth = run(world, world.measure(FLIP), quality=follower(0.2))
    other = run(world, world.measure(back), contrasts=back, quality=follower(0.2))
    there, returned = cell(forth, "view", "of_view"), cell(other, "view", "of_view")
    assert (there.shift_removed, returned.shift_removed) == (0.2, -0.2)
    assert returned.marginal_effect == pytest.approx(-there.marginal_effect, abs=0.02)


def test_what_a_reader_may_see_of_the_attribute_is_taken_off_with_its_error_however_little_it_is(world: World) -> None:
    """Not to be shown to follow the attribute is no proof that it does not."""
    table = world.measure(FLIP)
    with_it, without = (cell(run(world, table, quality=q), "view", "of_view") for q in (follower(0.01, 0.03), known()))
    assert (with_it.refusal, with_it.shift_removed, with_it.shift_se) == ("", 0.01, 0.03)
    for side in ("editor", "adjusted", "marginal"):
        assert with_it[f"{side}_effect"] == pytest.approx(without[f"{side}_effect"] - 0.01 / SLOPE)
        # (d - s) / J has s once, and J on what is left.
        slope_part = [0.02 / SLOPE * e[f"{side}_effect"] for e in (with_it, without)]
        alone = without[f"{side}_se"] ** 2 - slope_part[1] ** 2
        assert with_it[f"{side}_se"] ** 2 == pytest.approx(alone + (0.03 / SLOPE) ** 2 + slope_part[0] ** 2)


def test_the_smallest_effect_that_could_be_shown_is_that_of_the_cells_own_error(oracle: Analysis) -> None:
    for edge in oracle.edges.to_dict("records"):
        for side in ("editor", "adjusted"):
            plan = Effect(0.0, edge[f"{side}_se"], 1e6, 256, 256)
            needed = minimum_detectable_effect(plan, edge["delta"])
            assert edge[f"{side}_mde"] == pytest.approx(needed, rel=0.02)
            assert power_of("yes", plan, edge[f"{side}_mde"], edge["delta"]) == pytest.approx(0.8, abs=0.02)


def test_no_is_said_of_the_whole_that_was_asked_not_of_the_half_that_was_done(world: World) -> None:
    """An effect of 0.04 is too little to count, but not where it is half of one of 0.08 that may be 0.10."""
    table = world.measure(FLIP, frozen=True, of_nothing=0.04 * SLOPE)
    null = table[table["kind"] == "null"].set_index("row")["r/AP"]
    total = table["kind"] == "total"
    before = table.loc[total, "row"].map(null).astype(np.float32)
    halved = table.copy()
    halved.loc[total, "r/AP"] = (before + table.loc[total, "r/AP"]) / 2
    whole, half = (cell(run(world, t), "view", "of_nothing") for t in (table, halved))
    assert (whole.effectiveness, half.effectiveness) == (pytest.approx(1, abs=0.05), pytest.approx(0.5, abs=0.03))
    assert whole.editor_effect == pytest.approx(half.editor_effect)
    assert (whole.editor_call, half.editor_call) == ("no", "undecided")
    assert half.editor_p_no > 10 * whole.editor_p_no
    assert "of what was asked of view itself the edit does 0.5" in half.reason
    assert half.editor_p_yes == whole.editor_p_yes  # what was seen was seen


def test_readers_whose_shift_has_no_known_size_do_not_bear_each_other_out(world: World) -> None:
    """That two readers see something of age says not how much of it a shift by so many years brings."""
    seen = pd.DataFrame([["of_age_only", "age", 0.3, 0.01, 0.28, 0.32, None, np.nan]], columns=list(FOLLOWS))
    older = (Contrast("age", "shift", shift=20.0, unit="years"),)
    table = world.measure(older)
    scores = table[COLUMN].rename(columns={c: c.replace("r/", "s/") for c in COLUMN})
    quality = dict.fromkeys("rs", replace(known(), follows=seen))
    found = analyse(table.join(scores), world.attributes, GRAPH, older, dict.fromkeys("rs", CONCEPTS), quality,
                    apart=[frozenset("rs")])  # fmt: skip
    edge = cell(found, "age", "of_age_only")
    assert (edge.refusal, edge.witness, edge.shift_removed) == ("reader follows", "", 0.0)


# -- labels of concepts ------------------------------------------------------------------------------------------------------
def labels_of(world: World, concept: str, count: int, seed: int = 0) -> pd.DataFrame:
    """The truth of a concept in some audited images, drawn at random."""
    chosen = np.random.default_rng(seed).permutation(len(world.patients))[:count]
    values = np.full(len(world.patients), np.nan)
    values[chosen] = world.factual[concept][chosen]
    return pd.DataFrame({concept: values})


def with_labels(world: World, table: pd.DataFrame, labels: pd.DataFrame | None, quality: ReaderQuality | None = None):
    return analyse(table, world.attributes, GRAPH, FLIP, {"r": CONCEPTS}, {"r": quality or known()}, labels=labels)


def seeing_the_view(world: World, table: pd.DataFrame, by: float = 0.2) -> pd.DataFrame:
    """A reader that takes the view for ``of_nothing`` in the audited images, which its record does not know."""
    wrong = table["r/of_nothing"] + by * world.factual["view"][table["row"]] * (table["kind"] == "factual")
    return table.assign(**{"r/of_nothing": wrong})


def test_labels_mend_what_a_readers_record_does_not_know(world: World):
    table = seeing_the_view(world, world.measure(FLIP))
    by_scores = cell(with_labels(world, table, None), "view", "of_nothing")
    by_labels = cell(with_labels(world, table, labels_of(world, "of_nothing", 900)), "view", "of_nothing")
    assert by_scores["adjusted_low"] > 0.15
    assert by_labels["labelled"] == 900
    assert by_labels["adjusted_low"] < 0 < by_labels["adjusted_high"]
    assert by_labels["editor_effect"] == by_scores["editor_effect"]


def test_intervals_by_labels_hold_the_truth_and_are_narrower_than_the_labels_alone():
    held, widths = [], []
    for seed in range(30):
        world = World(n=1_200, edited=200, seed=seed)
        labels = labels_of(world, "of_view", 300, seed)
        table = seeing_the_view(world, world.measure(FLIP))
        seen, given = {"r/of_view": None}, {"r/of_view": labels["of_view"]}
        factual = table[table["kind"] == "factual"].set_index("row")
        attributes = GRAPH.coerce(world.attributes)
        powered = associations(GRAPH, attributes, factual, seen, FLIP[0], world.rows, given)["r/of_view"].adjusted
        known_ones = factual.loc[labels["of_view"].dropna().index].assign(**{"r/of_view": labels["of_view"].dropna()})
        alone = associations(GRAPH, attributes, known_ones, seen, FLIP[0], np.arange(1_200))["r/of_view"].adjusted
        low, high = powered.interval()
        held.append(low <= 0.7 <= high)
        widths.append(powered.se / alone.se)
    assert np.mean(held) >= 0.86
    assert np.nanmean(widths) < 0.8


def test_a_blind_reader_says_no_of_the_data_where_labels_do(world: World):
    table, blind = world.measure(FLIP), known(0.7, 0.3)
    assert cell(with_labels(world, table, None, blind), "view", "of_nothing")["adjusted_call"] == "undecided"
    found = cell(with_labels(world, table, labels_of(world, "of_nothing", 2_500), blind), "view", "of_nothing")
    assert (found["adjusted_call"], found["editor_call"]) == ("no", "undecided")


def test_labels_serve_a_reader_whatever_it_is_called(world: World):
    """Names of models on the hub have a slash, as columns of scores have."""
    table, labels = world.measure(FLIP), labels_of(world, "of_nothing", 900)
    renamed = table.rename(columns={column: f"hub/{column}" for column in COLUMN})
    found = analyse(
        renamed, world.attributes, GRAPH, FLIP, {"hub/r": CONCEPTS}, {"hub/r": known()}, labels=labels
    ).edges.assign(reader="r")
    pd.testing.assert_frame_equal(found, with_labels(world, table, labels).edges)
    assert cell(with_labels(world, table, labels), "view", "of_nothing")["labelled"] == 900


def test_labels_that_cannot_tell_are_not_used_and_the_reason_is_given(world: World):
    table, labels = world.measure(FLIP), labels_of(world, "of_view", 900)
    labels.loc[world.factual["view"] == 1, "of_view"] = np.nan
    found, without = (cell(with_labels(world, table, some), "view", "of_view") for some in (labels, None))
    assert found["labelled"] == 0
    assert "cannot tell" in found["labels_unused"]
    assert found["adjusted_effect"] == without["adjusted_effect"]


def test_labels_of_one_concept_change_no_other(world: World):
    table = world.measure(FLIP)
    found, without = (with_labels(world, table, some) for some in (labels_of(world, "of_view", 500), None))
    for concept in set(HIDDEN) - {"of_view"}:
        assert cell(found, "view", concept)["adjusted_effect"] == cell(without, "view", concept)["adjusted_effect"]
