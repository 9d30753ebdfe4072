"""Beside the mean: who moves, and what tells another story than it. From changes whose truth is known, and on a phantom."""

import html
import re
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from audits.fakes import CONCEPTS, GRAPH, CornerDataset, CornerEditor, CornerReader
from scipy import stats

from causal_cxr.audits import Audit, Report
from causal_cxr.audits.effects import Effect, bootstrap_interval, paired_effect, signflip_test
from causal_cxr.audits.report.frames import frame_from_json, frame_to_json, records
from causal_cxr.audits.robustness import COLUMNS, FIXED, _carried, robustness, telling
from causal_cxr.data.phantom import Phantom
from causal_cxr.editors import OracleEditor
from causal_cxr.graphs import Contrast, default_contrasts
from causal_cxr.readers import ProbeReader
from causal_cxr.readers.quality import FOLLOWS, ReaderQuality

VIEW = Contrast("view", "flip", level="AP", reference="PA")
DISEASE = Contrast("disease", "flip", level=1, reference=0)
SLOPE, SLOPE_SE, DELTA, N = 0.8, 0.02, 0.10, 400
DRAWS = {"draws": 999, "resamples": 400}


def quality(slope_se: float = SLOPE_SE, follows: float | None = None, slope_low: float = 0.7) -> ReaderQuality:
    """Of a reader of the corners; ``follows``: by how much the score of leads follows the view."""
    unknown = ReaderQuality.unknown(CONCEPTS)
    known = unknown.concepts.assign(slope=SLOPE, slope_se=slope_se, slope_low=slope_low, slope_high=0.9, prevalence=0.5)
    shifts = unknown.follows
    if follows is not None:
        about = dict.fromkeys(FOLLOWS, np.nan) | {"concept": "leads", "attribute": "view", "shift": follows, "se": 0.01}
        shifts = pd.DataFrame([about], columns=list(FOLLOWS))
    return ReaderQuality(known, unknown.within, shifts)


def measured(
    changes: dict[tuple[str, str], np.ndarray], patients: np.ndarray | None = None, editor: str = "editor"
) -> pd.DataFrame:
    """Measurements of one editor: oriented changes of scores by (contrast, concept); half of the edits go back."""
    n = len(next(iter(changes.values())))
    who = [f"p{p}" for p in (np.arange(n) if patients is None else patients)]
    sign = np.where(np.arange(n) % 2, -1, 1)
    concepts = sorted({concept for _, concept in changes})
    parts = [
        pd.DataFrame({f"r/{c}": np.full(n, 0.5) for c in concepts}).assign(kind="null", contrast="", orientation=0)
    ]
    for name in sorted({contrast for contrast, _ in changes}):
        scores = {f"r/{c}": 0.5 + sign * changes.get((name, c), np.zeros(n)) for c in concepts}
        parts.append(pd.DataFrame(scores).assign(kind="total", contrast=name, orientation=sign))
    return pd.concat([p.assign(row=np.arange(n), patient=who) for p in parts]).assign(editor=editor, accepted=True)


def edges_of(
    changes: dict[tuple[str, str], np.ndarray], patients: np.ndarray | None = None, editor: str = "editor",
    judged: ReaderQuality | None = None, alpha: float = 0.05, **more: object,
) -> pd.DataFrame:  # fmt: skip
    """Edges as ``cells`` makes them, of the editor's side alone."""
    q = (judged or quality()).concepts.loc["leads"]
    rows = []
    for (contrast, concept), change in changes.items():
        shift = float(more.get("shift_removed", 0.0))  # type: ignore[arg-type]
        effect = paired_effect(change, np.arange(len(change)) if patients is None else patients)
        effect = effect.less(shift, 0.01 if shift else 0.0)
        effect = (effect.scaled(q["slope"], q["slope_se"]) if q["slope_low"] > 0 else effect).unsettled()
        low, high = effect.interval()
        call = "yes" if effect.p_yes(DELTA) <= alpha else "no" if effect.p_no(DELTA) <= alpha else "undecided"
        rows.append({
            "editor": editor, "attribute": contrast.split(":")[0], "contrast": contrast, "concept": concept, "reader": "r",
            "verdict": "none", "delta": DELTA, "shift_removed": shift,
            "shift_se": 0.01 if shift else 0.0, "editor_effect": effect.value, "editor_low": low,
            "editor_high": high, "editor_call": call,
        } | more)  # fmt: skip
    return pd.DataFrame(rows)


def told(changes: np.ndarray, patients: np.ndarray | None = None, **options: object) -> pd.Series:
    """The row of one cell, of changes in scores."""
    cell = {(VIEW.name, "leads"): changes}
    frame = robustness(measured(cell, patients), edges_of(cell, patients), [VIEW], {"r": quality()}, **DRAWS, **options)
    assert list(frame.columns) == list(COLUMNS)
    return frame.iloc[0]


def movers(
    rng: np.random.Generator, risen: float, fallen: float = 0.0, size: float = 1.0, jitter: float = 0.02
) -> np.ndarray:
    """Changes in scores: shares of the images rise and fall by ``size`` of the scale, the others stay."""
    counts = [round(risen * N), round(fallen * N)]
    moves = np.repeat([1.0, -1.0, 0.0], [*counts, N - sum(counts)])
    return SLOPE * (size * rng.permutation(moves) + rng.normal(0, jitter, N))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def audited() -> Report:
    editors = {"learnt": CornerEditor(), "controlled": CornerEditor(learnt=False)}
    return Audit(GRAPH, [CornerReader()], n_edited=200, trials=None).run(editors, CornerDataset(800), seed=1)


def of(report: Report, **options: object) -> pd.DataFrame:
    contrasts = default_contrasts(GRAPH)
    return robustness(report.measurements, report.edges, contrasts, report.quality, **DRAWS, **options)


# -- the estimates -----------------------------------------------------------------------------------------------------
def test_there_is_one_row_an_edge_and_its_mean_is_the_edges_own(audited):
    frame = of(audited)
    for mine, theirs in (("editor",) * 2, ("contrast",) * 2, ("concept",) * 2, ("reader",) * 2, ("verdict",) * 2, ("delta",) * 2,
                         ("call", "editor_call"), ("effect", "editor_effect"), ("low", "editor_low"),
                         ("high", "editor_high"), ("n", "n_edited"), ("patients", "n_patients")):  # fmt: skip
        assert frame[mine].tolist() == audited.edges[theirs].tolist(), mine


def test_estimates_of_one_image_a_patient_are_the_textbooks_divided_by_the_slope(rng):
    change = SLOPE * rng.normal(0.2, 0.3, 60)
    cell = {(VIEW.name, "leads"): change}
    sure = quality(slope_se=0.0)
    row = robustness(measured(cell), edges_of(cell, judged=sure), [VIEW], {"r": sure}, **DRAWS).iloc[0]
    scaled, (i, j) = change / SLOPE, np.triu_indices(60)
    assert row["hl"] == pytest.approx(np.median((scaled[i] + scaled[j]) / 2))
    for shift, inside in ((row["hl_low"] + 1e-6, True), (row["hl_low"] - 1e-6, False), (row["hl_high"] + 1e-6, False)):
        assert (stats.wilcoxon(scaled - shift, correction=True, method="approx").pvalue > 0.05) == inside
    assert row["improvement"] == pytest.approx(np.mean((scaled > 0.05) + 0.5 * (np.abs(scaled) <= 0.05)))
    bca = bootstrap_interval(np.column_stack([scaled, np.ones(60)]), np.array([f"p{i}" for i in range(60)]), draws=400)
    assert (row["bca_low"], row["bca_high"]) == pytest.approx((bca.low, bca.high))
    assert row["far"] == np.mean(np.abs(scaled) >= 0.5) == pytest.approx(row["far_risen"] + row["far_fallen"])
    assert (row["risen"], row["fallen"]) == (np.mean(scaled >= DELTA), np.mean(scaled <= -DELTA))
    assert row["carried"] == pytest.approx(scaled[np.abs(scaled) >= 0.5].sum() / scaled.sum())


def test_the_slopes_error_widens_an_interval_as_the_delta_method_widens_the_means(rng):
    effect = Effect(0.16, 0.03, 50.0, 80, 51)
    errors = (0.05, 0.01, float(stats.t.ppf(0.975, 50)))
    by_delta_method = replace(effect.less(0.0, 0.01).scaled(0.8, 0.05), relative=0.0)
    assert _carried(effect.value, *effect.interval(), 0.8, errors) == pytest.approx((0.2, *by_delta_method.interval()))


def test_what_the_reader_sees_of_the_attribute_itself_is_taken_off_each_image(rng):
    change = movers(rng, risen=0.3)
    cell = {(VIEW.name, "leads"): change + 0.16}
    judged = quality(follows=0.16)
    edges = edges_of(cell, judged=judged, shift_removed=0.16)
    row = robustness(measured(cell), edges, [VIEW], {"r": judged}, **DRAWS).iloc[0]
    without = told(change)
    same = ["effect", "hl", "improvement", "far", "far_high", "p_family", "carried"]
    assert row[same].tolist() == pytest.approx(without[same].tolist())
    assert row["bca_high"] - row["bca_low"] > without["bca_high"] - without["bca_low"], (
        "the shift is not known for sure"
    )


def test_scores_of_a_reader_that_may_see_nothing_are_left_as_they_are(rng):
    cell = {(VIEW.name, "leads"): movers(rng, risen=0.3)}
    blind = quality(slope_low=-0.1)
    row = robustness(measured(cell), edges_of(cell, judged=blind), [VIEW], {"r": blind}, **DRAWS).iloc[0]
    assert row["effect"] == pytest.approx(0.3 * SLOPE, abs=0.01)
    assert (row["bca_low"] + row["bca_high"]) / 2 == pytest.approx(row["effect"], abs=0.01)


def test_images_of_a_patient_are_no_independent_images(rng):
    once = movers(rng, risen=0.3)
    row, copied = told(once), told(np.repeat(once, 4), np.repeat(np.arange(N), 4))
    for name in ("hl", "improvement", "far", "bca"):
        assert copied[f"{name}_high"] - copied[f"{name}_low"] == pytest.approx(
            row[f"{name}_high"] - row[f"{name}_low"], rel=0.02
        )
    assert (copied["n"], copied["patients"]) == (4 * N, N)


# -- the family --------------------------------------------------------------------------------------------------------
def test_max_t_is_over_all_cells_of_an_editor_and_no_other(rng):
    noise = {(c.name, k): rng.normal(0, 0.1, N) for c in (VIEW, DISEASE) for k in ("leads", "control")}
    noise[VIEW.name, "leads"] = noise[VIEW.name, "leads"] + 0.015
    other = {(VIEW.name, "leads"): rng.normal(0, 0.1, N)}
    both = pd.concat([measured(noise), measured(other, editor="other")])
    edges = pd.concat([edges_of(noise), edges_of(other, editor="other")], ignore_index=True)
    frame = robustness(both, edges, [VIEW, DISEASE], {"r": quality()}, **DRAWS)
    expected = signflip_test(
        np.column_stack(list(noise.values())), np.argsort([f"p{i}" for i in range(N)]).argsort(), draws=999
    )
    assert frame["p_family"].tolist()[:4] == pytest.approx(expected.p_family.tolist())
    alone = signflip_test(
        np.column_stack(list(other.values())), np.argsort([f"p{i}" for i in range(N)]).argsort(), draws=999
    )
    assert frame["p_family"].iloc[4] == alone.p[0]
    assert frame["cells"].tolist() == [4, 4, 4, 4, 1]


def test_one_sign_a_patient_is_shared_so_that_copies_of_a_cell_cost_nothing(rng):
    change = rng.normal(0.01, 0.1, N)
    copies = {(c.name, k): change for c in (VIEW, DISEASE) for k in ("leads", "control")}
    frame = robustness(measured(copies), edges_of(copies), [VIEW, DISEASE], {"r": quality()}, **DRAWS)
    assert frame["p_family"].tolist() == [told(change)["p_family"]] * 4


def test_a_contrast_that_applies_to_some_images_only_is_tested_on_those(rng):
    cells = {(VIEW.name, "leads"): rng.normal(0.02, 0.1, N), (DISEASE.name, "leads"): rng.normal(0, 0.1, N)}
    table = measured(cells)
    dropped = (table["contrast"] == VIEW.name) & (table["row"] >= N // 2)
    frame = robustness(table[~dropped], edges_of(cells), [VIEW, DISEASE], {"r": quality()}, **DRAWS)
    assert frame["n"].tolist() == [N // 2, N]
    assert frame["p_family"].notna().all()


# -- how images move ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shares", "pattern"),
    [
        ({"risen": 0.2}, "some images far"),
        ({"risen": 0.0, "fallen": 0.2}, "some images far"),
        ({"risen": 0.5}, "some images far"),
        ({"risen": 0.8}, "shift of most images"),
        ({"risen": 1.0, "size": 0.2, "jitter": 0.3}, "shift of most images"),
        ({"risen": 0.7, "size": 0.15}, "shift of most images"),
        ({"risen": 0.5, "size": 0.4}, "mixed"),
        ({"risen": 0.3, "fallen": 0.3}, "far both ways"),
        ({"risen": 0.0}, "no change"),
        ({"risen": 0.3, "size": 0.1}, "no change"),
        ({"risen": 0.1}, "undecided"),
    ],
)
def test_the_pattern_says_whether_most_images_move_or_some_far(rng, shares, pattern):
    row = told(movers(rng, **shares))
    assert row["pattern"] == pattern
    assert re.search(r"\d+% \[\d+%, \d+%\]", row["sentence"]), "it says how many images, with an interval"


@pytest.mark.parametrize("share", [0.15, 0.2, 0.25])
def test_a_mean_that_a_part_of_the_images_makes_is_not_called_wrong_where_the_typical_image_stays(rng, share):
    """A device appears in one image of five: median and Hodges-Lehmann are near 0, and the mean is right."""
    row = told(movers(rng, risen=share, jitter=0.02))
    assert row["call"] == "yes"
    assert abs(row["hl"]) < 0.05 < row["low"]
    assert (row["agrees"], row["why"]) == ("yes", "")
    assert row["carried_low"] > 0.9
    assert row["far_low"] < share < row["far_high"]


def test_far_one_way_and_a_little_the_other_is_not_far_both_ways():
    row = told(SLOPE * np.repeat([1.0, -0.4, 0.0], [80, 160, 160]))
    assert row["far_risen_low"] > DELTA > row["far_fallen_high"]
    assert row["pattern"] == "undecided"


def test_readers_jitter_is_no_improvement(rng):
    row = told(SLOPE * rng.uniform(0.001, 0.04, N))
    assert row["improvement"] == 0.5
    assert row["pattern"] == "no change"


# -- what tells another story ------------------------------------------------------------------------------------------
def test_most_images_going_the_other_way_speak_against_the_mean(rng):
    change = np.where(np.arange(N) < 0.3 * N, 1.0, -0.08) * SLOPE
    row = told(change)
    assert (row["call"], row["agrees"]) == ("yes", "no")
    assert row["why"].startswith("Images go the other way than the mean +0.24: P(improvement) 0.30")


def test_a_location_on_the_other_side_speaks_against_the_mean_too():
    """As many rise as fall, but those that rise do so by little, apart from a few far ones that make the mean."""
    change = SLOPE * np.repeat([1.0, 0.06, -0.3], [320, 760, 920])
    cell = {(VIEW.name, "leads"): change}
    edges = edges_of(cell, delta=0.05, editor_call="undecided")
    row = robustness(measured(cell), edges, [VIEW], {"r": quality()}, **DRAWS).iloc[0]
    assert row["improvement"] > 0.5
    assert row["low"] > 0 > row["hl_high"]
    assert row["agrees"] == "no"
    assert row["why"].startswith("Images go the other way than the mean +0.04: Hodges-Lehmann -0.12")


def test_a_mean_of_few_patients_is_told_by_the_bootstrap():
    """Five images of 400 show a rare sign: so skewed a mean has a longer upper side than t knows."""
    change = np.where(np.arange(N) < 5, 1.0, 0.0) * SLOPE
    cell = {(VIEW.name, "leads"): change}
    rare = edges_of(cell, delta=0.01, editor_call="undecided")
    row = robustness(measured(cell), rare, [VIEW], {"r": quality()}, **DRAWS).iloc[0]
    assert (row["low"] > 0, row["agrees"]) == (True, "no")
    assert row["why"].startswith("Few patients make the mean: its bootstrap interval is [+0.0")
    assert row["bca_high"] - row["effect"] > 1.25 * (row["high"] - row["effect"])


def test_what_max_t_does_not_find_is_said():
    """Flips of four patients' signs cannot be rarer than 2 in 16, whatever t says."""
    row = told(SLOPE * np.array([0.94, 0.95, 0.96, 0.95]))
    assert (row["call"], row["agrees"]) == ("yes", "no")
    assert row["p_family"] == pytest.approx(2 / 16, abs=0.04)
    assert row["why"].startswith("A family-wise test of all 1 cells of the editor does not find it (max-T, p = 0.1")


def test_far_changes_that_cancel_speak_against_a_mean_of_nothing(rng):
    large = movers(rng, risen=0.2, fallen=0.2)
    many = told(np.tile(large, 5))
    assert (many["pattern"], many["call"], many["agrees"]) == ("far both ways", "no", "no")
    assert "40% move far" in many["why"]


def test_a_mean_that_claims_nothing_is_contradicted_by_nothing(rng):
    row = told(movers(rng, risen=0.04, fallen=0.02)[:40] * 2)
    assert row["call"] == "undecided"
    assert (row["agrees"], row["why"]) == ("", "")


# -- corners -----------------------------------------------------------------------------------------------------------
def test_a_stopped_audit_gets_no_interval_or_test_that_supposes_a_number_of_patients(audited):
    frame, fixed = of(audited, stopped=True), of(audited)
    assert frame[list(FIXED)].isna().all(axis=None)
    assert (frame[["pattern", "sentence", "agrees", "why"]] == "").all(axis=None)
    kept = [c for c in COLUMNS if c not in (*FIXED, "pattern", "sentence", "agrees", "why")]
    pd.testing.assert_frame_equal(frame[kept], fixed[kept])
    assert {"hl_low", "far_high", "carried_low", "p_family", "bca_low"} <= set(FIXED)
    assert not {"hl", "far", "effect", "low", "high"} & set(FIXED)


def test_the_same_seed_gives_the_same_bits_and_another_other_chance(audited):
    pd.testing.assert_frame_equal(of(audited, seed=3), of(audited, seed=3), check_exact=True)
    other = of(audited, seed=4)
    assert not other["bca_low"].equals(of(audited, seed=3)["bca_low"])
    assert other["hl_low"].equals(of(audited, seed=3)["hl_low"])


def test_a_contrast_that_was_not_measured_leaves_its_row_empty(rng):
    cells = {(VIEW.name, "leads"): movers(rng, 0.2), (DISEASE.name, "leads"): movers(rng, 0.2)}
    table = measured(cells)
    frame = robustness(
        table[table["contrast"] != DISEASE.name], edges_of(cells), [VIEW, DISEASE], {"r": quality()}, **DRAWS
    )
    assert frame["pattern"].tolist() == ["some images far", ""]
    assert frame.loc[1, ["hl", "p_family", "far"]].isna().all()
    assert frame["cells"].tolist() == [1, 0]


def test_two_patients_show_nothing(rng):
    row = told(np.array([0.4, 0.5]))
    assert np.isnan(row[["bca_low", "hl_low", "far_low"]].astype(float)).all()
    assert (row["pattern"], row["agrees"]) == ("", "")


def test_no_edges_give_no_rows():
    empty = edges_of({(VIEW.name, "leads"): np.zeros(9)})[:0]
    frame = robustness(measured({(VIEW.name, "leads"): np.zeros(9)}), empty, [VIEW], {"r": quality()})
    assert frame.empty
    assert list(frame.columns) == list(COLUMNS)
    assert telling(frame).empty


def test_edges_of_other_measurements_are_refused(rng):
    cell = {(VIEW.name, "leads"): movers(rng, 0.2)}
    with pytest.raises(ValueError, match=r"no scores \['s/leads'\]"):
        robustness(measured(cell), edges_of(cell, reader="s"), [VIEW], {"s": quality()})
    with pytest.raises(ValueError, match="give the measured"):
        robustness(measured(cell), edges_of(cell), [DISEASE], {"r": quality()})


def test_the_frame_is_kept_by_strict_json(audited):
    frame = of(audited)
    pd.testing.assert_frame_equal(frame_from_json(frame_to_json(frame)), frame)


def test_a_page_lists_what_was_revealed_what_is_large_and_open_and_first_what_disagrees(rng):
    frame = pd.DataFrame(
        [
            ["hidden", 0.3, "yes"],
            ["none", 0.01, "yes"],
            ["undecided", 0.05, ""],
            ["undecided", -0.4, ""],
            ["none", 0.02, "no"],
        ],
        columns=["verdict", "effect", "agrees"],
    ).assign(delta=DELTA)
    assert telling(frame).index.tolist() == [4, 3, 0]


def test_an_audits_cells_take_little_time(rng):
    """128 cells of 256 images; about 1.2 s of one core, and no more than 4 times that on a busy machine."""
    names = [f"c{i}" for i in range(64)]
    cells = {(c.name, k): movers(rng, 0.2)[:256] for c in (VIEW, DISEASE) for k in names}
    judged = quality()
    wide = pd.concat([judged.concepts.iloc[:1]] * 64).set_axis(pd.Index(names, name="concept"))
    judged = ReaderQuality(wide, judged.within, judged.follows)
    table, edges = measured(cells), edges_of(cells)
    begun = time.process_time()
    frame = robustness(table, edges, [VIEW, DISEASE], {"r": judged})
    assert time.process_time() - begun < 5
    assert len(frame) == 128


def test_where_nothing_happens_nothing_is_found_and_intervals_hold_0(rng):
    """60 audits of 8 cells in which scores only jitter, patient by patient: error rates by simulation."""
    patients = np.arange(160) // 2
    names = [f"c{i}" for i in range(8)]
    judged = quality()
    wide = pd.concat([judged.concepts.iloc[:1]] * 8).set_axis(pd.Index(names, name="concept"))
    judged = ReaderQuality(wide, judged.within, judged.follows)
    frames = []
    for seed in range(60):
        own = rng.laplace(0, 0.1, (80, 8))[patients]
        cells = {(VIEW.name, k): own[:, i] + rng.normal(0, 0.05, 160) for i, k in enumerate(names)}
        table, edges = measured(cells, patients), edges_of(cells, patients)
        frames.append(robustness(table, edges, [VIEW], {"r": judged}, draws=199, resamples=400, seed=seed))
    wrong = np.mean([(frame["p_family"] <= 0.05).any() for frame in frames])
    assert wrong <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    every = pd.concat(frames)
    for name, truth in (("hl", 0.0), ("bca", 0.0), ("improvement", 0.5)):
        held = ((every[f"{name}_low"] <= truth) & (truth <= every[f"{name}_high"])).mean()
        assert 0.91 <= held <= 0.99, name  # 480 cells: 0.95 within 4 standard errors
    assert not set(every["pattern"]) & {"shift of most images", "some images far", "mixed", "far both ways"}
    assert (every["agrees"] == "no").mean() < 0.05


def test_a_shift_that_is_known_but_for_its_error_makes_no_effect_of_images_that_stay_as_they_were():
    cell = {(VIEW.name, "leads"): np.zeros(N)}
    for shift, se, found in ((0.01, 0.01, False), (0.01, 1e-4, True)):
        edges = edges_of(cell, shift_removed=shift, shift_se=se)
        row = robustness(measured(cell), edges, [VIEW], {"r": quality()}, **DRAWS).iloc[0]
        assert (row["p_family"] < 0.05) == found, "what the reader is sure to see of the view was taken away"


# -- on a phantom ------------------------------------------------------------------------------------------------------
ASKED = ("view", "sex", "weekday")


@pytest.fixture(scope="module")
def world() -> Report:
    phantom = Phantom(500, "portable", seed=5)
    contrasts = [c for c in default_contrasts(phantom.graph) if c.attribute in ASKED]
    audit = Audit(phantom.graph, [ProbeReader.from_shipped()], interventions=contrasts, n_edited=160, trials=None)
    return audit.run(OracleEditor(phantom), phantom, seed=1)


def test_planted_edges_are_borne_out_and_what_was_not_planted_does_not_change(world):
    contrasts = [c for c in default_contrasts(world.graph) if c.attribute in ASKED]
    frame = robustness(world.measurements, world.edges, contrasts, world.quality, **DRAWS)
    cells = frame.set_index(["attribute", "concept"]).sort_index()
    for concept in ("ecg_leads", "laterality_marker", "portable_marker"):
        row = cells.loc[("view", concept)]
        assert (row["call"], row["agrees"]) == ("yes", "yes"), concept
        assert row["p_family"] <= 0.002
        assert row["carried"] > 0.9, "signs appear or go, they do not fade"
        assert row["low"] - 0.02 < row["bca_low"] < row["effect"] < row["bca_high"] < row["high"] + 0.02
    sex, placebo = cells.loc["sex"], cells.loc["weekday"]
    assert (sex["far"] < 0.05).all()
    assert set(sex["pattern"]) <= {"no change", "undecided"}
    assert (sex["agrees"] != "no").all()
    assert (placebo["p_family"] == 1).all()
    assert (placebo["pattern"] == "no change").all()
    assert (placebo["improvement"] == 0.5).all()


# -- the page's section ------------------------------------------------------------------------------------------------
def section(frame: pd.DataFrame, editors: tuple[str, ...] = ("learnt", "controlled"), **provenance: object) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from causal_cxr.audits.report.page import number, signed

    environment = Environment(
        loader=PackageLoader("causal_cxr.audits.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"signed": signed, "number": number, "percent": lambda share: f"{share:.0%}",
                            "arrow": lambda name: str(name).replace("->", "→")}  # fmt: skip
    page = environment.from_string(
        '{% from "macros.html" import table, pill, interval, p with context %}{% include "robustness.html" %}'
    )
    return page.render(
        robustness=records(telling(frame)),
        most_robustness=20,
        editors=editors,
        provenance={"stopping": None, **provenance},
    )


def words(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def test_the_section_shows_every_summary_of_a_revealed_edge_and_a_sentence(audited):
    frame = of(audited)
    said = words(section(frame))
    row = frame[(frame["verdict"] == "hidden") & (frame["editor"] == "learnt")].iloc[0]
    assert "view: PA → AP · leads learnt hidden" in said
    for text in (f"+{row['effect']:.2f}", f"+{row['hl']:.2f}", f"{row['improvement']:.2f}", f"{row['far']:.0%}", row["pattern"],
                 row["sentence"], "0.001"):  # fmt: skip
        assert text in said, text
    assert "· control" not in said, "a control that does not move is not listed"
    assert "No mean is told otherwise by another summary" in said


def test_the_section_says_what_is_told_otherwise_and_why(audited):
    frame = of(audited)
    at = frame.index[frame["verdict"] == "hidden"][0]
    frame.loc[at, ["agrees", "why"]] = "no", "Few patients make the mean."
    said = words(section(frame, editors=("learnt",)))
    assert "1 mean is told otherwise by another summary" in said
    assert "told otherwise Few patients make the mean." in said


def test_the_section_of_a_stopped_audit_and_of_nothing_say_so(audited):
    said = words(section(of(audited, stopped=True), stopping={"looks": 3}))
    assert "this audit stopped by what it saw" in said
    assert "told otherwise" not in said.split("intervention ·")[1]
    assert "nan" not in said
    nothing = words(section(of(audited)[:0]))
    assert "nothing to list" in nothing


def test_hostile_names_are_text_in_the_section(audited):
    evil = "<script>alert('x')</script>"
    frame = of(audited).assign(concept=evil, editor=evil, contrast=evil, why=evil, sentence=evil, pattern=evil)
    page = section(frame)
    assert "<script" not in page
    assert html.escape(evil, quote=False)[:10] in page
