"""Audits of worlds against their truth: who finds what is there, and how often what is not."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.effects import benjamini_yekutieli, paired_effect
from causal_cxr.data.phantom.truth import GREY, NEGATIVE

METHODS = ("metadata", "association", "plain_edits", "adjusted")  #: the baselines, weakest first
STORY = {
    "metadata": "(a) metadata alone: no column names a hidden attribute, so no edge can be found",
    "association": "(b) association of reader scores with attributes, no editor, no graph",
    "plain_edits": "(c) edited minus original, no null edit, no graph: what published audits do",
    "adjusted": "(d) adjusted association, same readers and graph, no editor",
}
BINS = (0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)  #: of the power curve, in units of delta


@dataclass(frozen=True)
class Scored:
    """One audited world: the audit's edges beside truth, with what the baselines would claim.

    Attributes:
        world: what it is called in the results; two worlds never share it.
        seed: of the audit.
        cells: one row a contrast x concept: the audit's columns, truth's (relation, true effects, right verdicts) with the
            prefix ``true_`` where both have one, ``positive`` (True, False, or NA: grey), ``claim_<method>`` for each.
        null: whether nothing hidden is there to be found.
        curve_only: whether it belongs to the power curve alone, not to F1.
        seconds: of the audit.
        images: read, edited ones included.
    """

    world: str
    seed: int
    cells: pd.DataFrame
    null: bool
    seconds: float
    images: int
    curve_only: bool = False


def beside_truth(
    edges: pd.DataFrame, truth: pd.DataFrame, measurements: pd.DataFrame, semantics: str, alpha: float = 0.05
) -> pd.DataFrame:
    """Edges of one editor with the truth and the baselines' claims.

    Args:
        edges: of one editor.
        truth: :func:`causal_cxr.data.phantom.truth.truth_of` of the same contrasts.
        measurements: of the audit.
        semantics: of the editor: which verdict is right depends on it.
        alpha: false-discovery rate of the baselines, Benjamini-Yekutieli as ours.
    """
    own = {"contrast", "concept", "of", "relation"}
    own |= {f"{what}{editor}" for what in ("", "edge_") for editor in ("observational", "structural")}
    renamed = truth.drop(columns="attribute").rename(columns=lambda name: name if name in own else f"true_{name}")
    cells = edges.merge(renamed, on=["contrast", "concept"], validate="one_to_one")
    cells["right"] = cells[semantics]
    cells["positive"] = cells[f"edge_{semantics}"]
    cells["is_right"] = [v in right.split("|") for v, right in zip(cells["verdict"], cells["right"], strict=True)]
    cells["claim_ours"] = cells["verdict"] == "hidden"
    cells["claim_metadata"] = False
    cells["claim_association"] = benjamini_yekutieli(cells["marginal_p_yes"].fillna(1.0).to_numpy()) <= alpha
    cells["claim_plain_edits"] = benjamini_yekutieli(_plain_edits(cells, measurements)) <= alpha
    cells["claim_adjusted"] = cells["rival_q"] <= alpha
    return cells


def _plain_edits(cells: pd.DataFrame, measurements: pd.DataFrame) -> np.ndarray:
    """p of "no effect" from edited minus unedited scores, oriented, images taken as independent."""
    factual = measurements[measurements["kind"] == "factual"].set_index("row")
    p = []
    for cell in cells.to_dict("records"):
        column = f"{cell['reader']}/{cell['concept']}"
        edits = measurements[
            (measurements["kind"] == "total") & (measurements["contrast"] == cell["contrast"])
            & (measurements["editor"] == cell["editor"]) & (measurements["orientation"] != 0) & measurements["accepted"]
        ]  # fmt: skip
        before = factual.loc[edits["row"], column].to_numpy(dtype=float)
        change = (edits[column].to_numpy(dtype=float) - before) * edits["orientation"].to_numpy()
        effect = paired_effect(change, np.arange(len(change)))
        p.append(effect.p_yes(0.0) if effect.n else 1.0)
    return np.array(p)


def summarise(runs: Iterable[Scored], *, faults: set[tuple[str, str, str]] | None = None) -> dict[str, Any]:
    """The figures of one editor over all its runs; see ``benchmarks/discovery.py``.

    Args:
        runs: audits beside truth.
        faults: planted (world, attribute, concept).
    """
    runs = list(runs)
    everything = pd.concat(
        [run.cells.assign(world=run.world, seed=run.seed, curve_only=run.curve_only) for run in runs], ignore_index=True
    )
    with_labelled = everything[~everything["curve_only"]]
    cells = with_labelled[~with_labelled["labelled_outcome"].astype(bool)]
    everything = everything[~everything["labelled_outcome"].astype(bool)]
    sound = cells.loc[~_planted(cells, faults or set())]  # a fault is no error of the statistics
    pairs = adjacencies(cells)
    decided, undecided = pairs[~pairs["undecided"]], cells["verdict"] == "undecided"
    nulls = [run for run in runs if run.null]
    seconds, scored_runs = sum(run.seconds for run in runs), max(sum(not run.curve_only for run in runs), 1)
    return {
        "worlds": sorted({run.world for run in runs}), "runs": len(runs),
        **_found(decided, "claim_ours"),
        "recall_of_all": _found(pairs, "claim_ours")["recall"],
        "f1_of_all": _found(pairs, "claim_ours")["f1"],
        "undecided": _share(undecided),
        "undecided_pairs": _share(pairs["undecided"]),
        "undecided_why": dict(Counter(cells.loc[undecided, "refusal"]).most_common(8)),
        "nominal_fdr": 0.05,
        "verdict_right": _share(sound.loc[(sound["verdict"] != "undecided") & (sound["right"] != GREY), "is_right"]),
        "shd": _rounded(_mistakes(pairs, "claim_ours") / scored_runs),
        "arrowheads": _arrowheads(cells),
        "null_runs": len(nulls),
        "null_runs_with_false_hidden": sum(bool(run.cells["claim_ours"].any()) for run in nulls),
        **_coverage(sound, "editor", "total"), **_coverage(sound, "adjusted", "adjusted"),
        "power": _power(everything),
        "verdicts_by_true_relation": {
            str(relation): dict(Counter(group["verdict"]).most_common()) for relation, group in cells.groupby("relation")
        },
        "seconds": _rounded(seconds),
        "images_per_second": _rounded(sum(run.images for run in runs) / seconds),
        "baselines": {method: _baseline(nulls, pairs, decided, method, scored_runs) for method in METHODS},
        **_beyond_adjustment(pairs),
        "by_world": {str(name): _found(mine, "claim_ours") for name, mine in decided.groupby("world")},
        **_faults(with_labelled, faults or set()),
    }  # fmt: skip


def adjacencies(cells: pd.DataFrame) -> pd.DataFrame:
    """One row a run and pair (attribute, hidden attribute), whose cells are its contrasts and levels.

    A pair is claimed where a cell is, there where a cell's edge is, grey where none is there and one is grey, and undecided
    where nothing is claimed and a cell is undecided.
    """
    marks = cells[[f"claim_{method}" for method in ("ours", *METHODS)]].astype(bool)
    marks = marks.assign(
        there=cells["positive"].fillna(False).astype(bool), grey=cells["positive"].isna(),
        undecided=cells["verdict"] == "undecided", mediated=cells["relation"] == "mediated",
    )  # fmt: skip
    pairs = marks.groupby([cells[name] for name in ("world", "seed", "attribute", "of")], sort=False).any()
    pairs["positive"] = pairs["there"].astype("boolean").mask(~pairs["there"] & pairs["grey"])
    pairs["undecided"] &= ~pairs["claim_ours"]
    return pairs.reset_index()


def _found(pairs: pd.DataFrame, claim: str) -> dict[str, Any]:
    """Adjacencies claimed against those that are there; grey pairs are not scored."""
    scored = pairs[pairs["positive"].notna()]
    claimed, there = scored[claim].to_numpy(dtype=bool), scored["positive"].to_numpy(dtype=bool)
    right, wrong, lost = int((claimed & there).sum()), int((claimed & ~there).sum()), int((~claimed & there).sum())
    return {
        "f1": _ratio(2 * right, 2 * right + wrong + lost), "precision": _ratio(right, right + wrong),
        "recall": _ratio(right, right + lost), "fdr": _ratio(wrong, right + wrong) or 0.0,
        "true_positives": right, "false_positives": wrong, "false_negatives": lost, "scored": len(scored),
    }  # fmt: skip


def _baseline(
    nulls: list[Scored], pairs: pd.DataFrame, decided: pd.DataFrame, method: str, runs: int
) -> dict[str, Any]:
    """The same figures for a method that never says "undecided".

    ``f1_of_decided``: on the pairs that the audit decided. ``f1_without_mediated``: without the pairs whose effect runs
    through labelled attributes, which no total association can tell from a hidden edge.
    """
    claim = f"claim_{method}"
    return {
        "what": STORY[method], **_found(pairs, claim), "f1_of_decided": _found(decided, claim)["f1"],
        "f1_without_mediated": _found(pairs[~pairs["mediated"]], claim)["f1"],
        "shd": _rounded(_mistakes(pairs, claim) / runs),
        "null_runs": len(nulls), "null_runs_with_false_hidden": sum(bool(run.cells[claim].any()) for run in nulls),
    }  # fmt: skip


def _beyond_adjustment(pairs: pd.DataFrame) -> dict[str, list[str]]:
    """Worlds where the audit makes no fewer mistakes than the adjusted association, which needs no editor.

    ``adds_nothing_over_adjusted``: on all pairs; ``adds_only_mediation``: more worlds, where all it adds is to tell hidden
    from mediated.
    """

    def no_better(mine: pd.DataFrame) -> bool:
        return _mistakes(mine, "claim_ours") >= _mistakes(mine, "claim_adjusted")

    nothing = [str(name) for name, mine in pairs.groupby("world") if no_better(mine)]
    mediation = [str(name) for name, mine in pairs[~pairs["mediated"]].groupby("world") if no_better(mine)]
    return {"adds_nothing_over_adjusted": nothing, "adds_only_mediation": [n for n in mediation if n not in nothing]}


def _mistakes(pairs: pd.DataFrame, claim: str) -> int:
    scored = pairs[pairs["positive"].notna()]
    return int((scored[claim].to_numpy(dtype=bool) != scored["positive"].to_numpy(dtype=bool)).sum())


def _arrowheads(cells: pd.DataFrame) -> dict[str, Any]:
    """A structural editor's edge has its arrowhead at U: setting A moved U. An observational editor's has none."""
    claimed = cells[cells["claim_ours"] & (cells["semantics"] == "structural")]
    right = int(claimed["relation"].isin(["causes", "mediated"]).sum())
    return {"claimed": len(claimed), "right": right, "precision": _ratio(right, len(claimed))}


def _coverage(cells: pd.DataFrame, side: str, truth: str) -> dict[str, Any]:
    """Share of nominal 95% intervals that hold the true effect; edits that changed nothing anywhere are left out as trivial."""
    moves = (cells["editor_effect"] != 0) if side == "editor" else True
    real = cells[moves & cells[f"true_{truth}"].notna() & ~cells["recorded_wrongly"]]
    inside = (real[f"{side}_low"] <= real[f"true_{truth}"]) & (real[f"true_{truth}"] <= real[f"{side}_high"])
    return {f"coverage_{side}": _share(inside), f"intervals_{side}": len(real)}


def _power(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Share called ``hidden`` of pairs that truly are connected directly, by the size of the effect in units of delta."""
    real = cells[cells["relation"] == "causes"]
    size = real[["true_total", "true_adjusted"]].abs().min(axis=1) / real["true_delta"]
    rows = []
    for low, high in pairwise(BINS):
        mine = real[(size >= low) & (size < high)]
        if len(mine):
            rows.append({"from": low, "to": high, "pairs": len(mine), "called_hidden": _share(mine["claim_ours"]),
                         "undecided": _share(mine["verdict"] == "undecided")})  # fmt: skip
    return rows


def _faults(cells: pd.DataFrame, faults: set[tuple[str, str, str]]) -> dict[str, Any]:
    """How the planted faults were judged: where the truth of all sides is near zero, ``artifact`` alone is right."""
    mine = cells.loc[_planted(cells, faults)]
    decided = mine[mine["verdict"] != "undecided"]
    marginal = decided["true_marginal"].abs() > NEGATIVE * decided["true_delta"]
    right = (decided["verdict"] == "artifact") | (marginal & (decided["verdict"] == "confounded"))
    return {
        "faults": len(mine), "faults_decided": len(decided), "artifact_recall": _share(right),
        "faults_called_hidden": int((decided["verdict"] == "hidden").sum()),
        "fault_verdicts": dict(Counter(mine["verdict"]).most_common()),
    }  # fmt: skip


def _planted(cells: pd.DataFrame, faults: set[tuple[str, str, str]]) -> np.ndarray:
    keys = zip(cells["world"], cells["attribute"], cells["concept"], strict=True)
    return np.array([key in faults for key in keys], dtype=bool)


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _share(values: Any) -> float | None:
    return _rounded(float(np.mean(values))) if len(values) else None


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
