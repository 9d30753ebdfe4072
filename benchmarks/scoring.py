"""Audits of worlds against their truth: who finds what is there, and how often what is not."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.effects import benjamini_yekutieli, paired_effect
from causal_cxr.data.phantom.truth import GREY

METHODS = ("metadata", "association", "plain_edits", "adjusted")  #: the baselines, weakest first
STORY = {
    "metadata": "(a) metadata alone: no column names a hidden attribute, so no edge can be found",
    "association": "(b) association of reader scores with attributes, no editor",
    "plain_edits": "(c) edited minus original, no null edit, no graph: what published audits do",
    "adjusted": "(d) adjusted association, same readers and graph, no editor",
}
CURVE_ONLY = ("weak", "weak-independent")  #: worlds that belong to the power curve, not to F1
BINS = (0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)  #: of the power curve, in units of delta


@dataclass(frozen=True)
class Scored:
    """One audited world: the audit's edges beside truth, with what the baselines would claim.

    Attributes:
        world: its name.
        seed: of the audit.
        cells: one row a contrast x concept: the audit's columns, truth's (relation, true effects, right verdicts) with the
            prefix ``true_`` where both have one, ``positive`` (True, False, or NA: grey), ``claim_<method>`` for each.
        null: whether nothing hidden is there to be found.
        seconds: of the audit.
        images: read, edited ones included.
    """

    world: str
    seed: int
    cells: pd.DataFrame
    null: bool
    seconds: float
    images: int


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
    own = {"contrast", "concept", "of", "relation", "observational", "structural"}
    renamed = truth.drop(columns="attribute").rename(columns=lambda name: name if name in own else f"true_{name}")
    cells = edges.merge(renamed, on=["contrast", "concept"], validate="one_to_one")
    cells["right"] = cells[semantics]
    cells["positive"] = pd.array([pd.NA if v == GREY else "hidden" in v.split("|") for v in cells["right"]], "boolean")
    cells["is_right"] = [v in right.split("|") for v, right in zip(cells["verdict"], cells["right"], strict=True)]
    cells["claim_ours"] = cells["verdict"] == "hidden"
    cells["claim_metadata"] = False
    marginal = cells["marginal_effect"] / cells["marginal_se"]
    cells["claim_association"] = _discoveries(marginal.to_numpy(), alpha)
    cells["claim_plain_edits"] = _discoveries(_plain_edits(cells, measurements), alpha)
    cells["claim_adjusted"] = cells["rival_q"] <= alpha
    return cells


def _discoveries(z: np.ndarray, alpha: float) -> np.ndarray:
    from scipy import stats

    return benjamini_yekutieli(np.where(np.isnan(z), 1.0, 2 * stats.norm.sf(np.abs(z)))) <= alpha


def _plain_edits(cells: pd.DataFrame, measurements: pd.DataFrame) -> np.ndarray:
    """t statistics of edited minus unedited scores, oriented, images taken as independent."""
    factual = measurements[measurements["kind"] == "factual"].set_index("row")
    z = []
    for cell in cells.to_dict("records"):
        column = f"{cell['reader']}/{cell['concept']}"
        edits = measurements[
            (measurements["kind"] == "total") & (measurements["contrast"] == cell["contrast"])
            & (measurements["editor"] == cell["editor"]) & (measurements["orientation"] != 0) & measurements["accepted"]
        ]  # fmt: skip
        before = factual.loc[edits["row"], column].to_numpy(dtype=float)
        change = (edits[column].to_numpy(dtype=float) - before) * edits["orientation"].to_numpy()
        effect = paired_effect(change, np.arange(len(change)))
        z.append(effect.value / effect.se if effect.n else np.nan)
    return np.array(z)


def summarise(runs: Iterable[Scored], *, faults: set[tuple[str, str, str]] | None = None) -> dict[str, Any]:
    """The figures of one editor over all its runs; see ``benchmarks/discovery.py``."""
    runs = list(runs)
    scored = [run for run in runs if run.world not in CURVE_ONLY]
    everything = pd.concat([run.cells.assign(world=run.world, seed=run.seed) for run in runs], ignore_index=True)
    with_labelled = everything[~everything["world"].isin(CURVE_ONLY)]
    cells = with_labelled[~with_labelled["labelled_outcome"]]
    everything = everything[~everything["labelled_outcome"]]
    decided = cells[cells["verdict"] != "undecided"]
    sound = cells[~_planted(cells, faults or set())]  # a fault is no error of the statistics
    nulls = [run for run in runs if run.null]
    summary: dict[str, Any] = {
        "worlds": sorted({run.world for run in runs}), "runs": len(runs),
        **_found(decided, "claim_ours"),
        "recall_of_all": _found(cells, "claim_ours")["recall"],
        "f1_of_all": _found(cells, "claim_ours")["f1"],
        "undecided": round(float((cells["verdict"] == "undecided").mean()), 4),
        "undecided_of_scored": round(float((cells.loc[cells["positive"].notna(), "verdict"] == "undecided").mean()), 4),
        "undecided_why": dict(Counter(_kind(r) for r in cells.loc[cells["verdict"] == "undecided", "reason"]).most_common(8)),
        "nominal_fdr": 0.05,
        "verdict_right": _share(sound.loc[(sound["verdict"] != "undecided") & (sound["right"] != GREY), "is_right"]),
        "shd": round(float(_mistakes(cells, "claim_ours") / max(len(scored), 1)), 3),
        "arrowheads": _arrowheads(cells),
        "null_runs": len(nulls),
        "null_runs_with_false_hidden": sum(bool(run.cells["claim_ours"].any()) for run in nulls),
        **_coverage(sound, "editor", "total"), **_coverage(sound, "adjusted", "adjusted"),
        "power": _power(everything),
        "verdicts_by_true_relation": {
            str(relation): dict(Counter(group["verdict"]).most_common()) for relation, group in cells.groupby("relation")
        },
        "seconds": round(sum(run.seconds for run in runs), 1),
        "images_per_second": round(sum(run.images for run in runs) / sum(run.seconds for run in runs), 1),
        "baselines": {method: _baseline(runs, cells, method) for method in METHODS},
        "adds_nothing_over_adjusted": _adds_nothing(cells),
        "by_world": {str(name): _found(group[group["verdict"] != "undecided"], "claim_ours") for name, group in cells.groupby("world")},
    }  # fmt: skip
    if faults:
        summary |= _faults(with_labelled, faults)
    return summary


def _found(cells: pd.DataFrame, claim: str) -> dict[str, Any]:
    """Adjacencies claimed against those that are there; grey pairs are not scored."""
    scored = cells[cells["positive"].notna()]
    claimed, there = scored[claim].to_numpy(dtype=bool), scored["positive"].to_numpy(dtype=bool)
    right, wrong, lost = int((claimed & there).sum()), int((claimed & ~there).sum()), int((~claimed & there).sum())
    precision = right / (right + wrong) if right + wrong else float("nan")
    recall = right / (right + lost) if right + lost else float("nan")
    f1 = 2 * right / (2 * right + wrong + lost) if right + lost else float("nan")
    return {
        "f1": _rounded(f1), "precision": _rounded(precision), "recall": _rounded(recall),
        "fdr": _rounded(wrong / max(right + wrong, 1)), "true_positives": right, "false_positives": wrong,
        "false_negatives": lost, "scored": len(scored),
    }  # fmt: skip


def _baseline(runs: list[Scored], cells: pd.DataFrame, method: str) -> dict[str, Any]:
    """The same figures for a method that never says "undecided"."""
    claim = f"claim_{method}"
    nulls = [run for run in runs if run.null]
    return {
        "what": STORY[method], **_found(cells, claim), "shd": round(_mistakes(cells, claim) / max(len(runs), 1), 3),
        "null_runs": len(nulls), "null_runs_with_false_hidden": sum(bool(run.cells[claim].any()) for run in nulls),
    }  # fmt: skip


def _adds_nothing(cells: pd.DataFrame) -> list[str]:
    """Worlds in which the audit makes no fewer mistakes than the adjusted association, which needs no editor."""
    worlds = cells.groupby("world")
    return [str(name) for name, mine in worlds if _mistakes(mine, "claim_ours") >= _mistakes(mine, "claim_adjusted")]


def _mistakes(cells: pd.DataFrame, claim: str) -> int:
    scored = cells[cells["positive"].notna()]
    return int((scored[claim].to_numpy(dtype=bool) != scored["positive"].to_numpy(dtype=bool)).sum())


def _arrowheads(cells: pd.DataFrame) -> dict[str, Any]:
    """A structural editor's edge has its arrowhead at U: setting A moved U. An observational editor's has none."""
    claimed = cells[cells["claim_ours"] & (cells["semantics"] == "structural")]
    right = int(claimed["relation"].isin(["causes", "mediated"]).sum())
    return {
        "claimed": len(claimed),
        "right": right,
        "precision": _rounded(right / len(claimed)) if len(claimed) else None,
    }


def _coverage(cells: pd.DataFrame, side: str, truth: str) -> dict[str, Any]:
    """Share of nominal 95% intervals that hold the true effect; effects without any spread are left out as trivial."""
    real = cells[(cells[f"{side}_se"] > 1e-6) & cells[f"true_{truth}"].notna() & ~cells["recorded_wrongly"]]
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
    planted = [
        (w, a, c) in faults for w, a, c in zip(cells["world"], cells["attribute"], cells["concept"], strict=True)
    ]
    mine = cells[planted]
    decided = mine[mine["verdict"] != "undecided"]
    marginal = decided["true_marginal"].abs() > 0.2 * decided["true_delta"]
    right = (decided["verdict"] == "artifact") | (marginal & (decided["verdict"] == "confounded"))
    return {
        "faults": len(mine), "faults_decided": len(decided), "artifact_recall": _share(right),
        "faults_called_hidden": int((decided["verdict"] == "hidden").sum()),
        "fault_verdicts": dict(Counter(mine["verdict"]).most_common()),
    }  # fmt: skip


def _planted(cells: pd.DataFrame, faults: set[tuple[str, str, str]]) -> np.ndarray:
    keys = zip(cells["world"], cells["attribute"], cells["concept"], strict=True)
    return np.array([key in faults for key in keys], dtype=bool)


def _kind(reason: str) -> str:
    """A reason without its numbers and names."""
    for words in ("reader follows", "editor not effective", "graph falsified", "reader blind", "not identifiable",
                  "too few labelled", "declared as a cause"):  # fmt: skip
        if reason.startswith(words):
            return words
    return reason.split(";")[0].split(" (")[0]


def _share(values: Any) -> float | None:
    return _rounded(float(np.mean(values))) if len(values) else None


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
