"""Do other summaries of the same edits tell the story that the mean tells? And how do images move: most, or a few far?

Verdicts rest on means, because the question is how often a sign appears. A sign is there or not, so an edit that makes it
appear in one image of five moves that one by the whole scale and the others not at all: the mean is 0.2, and the median of
the changes is 0. Hodges-Lehmann's location and the probability of improvement answer other questions (where is the typical
image? do more images rise than fall?); they describe the change and do not refute its mean. What does speak against a mean
is said as such: most images going the other way, an error that rests on few patients, a family-wise test that does not find
it, or far changes both ways that cancel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from causal_cxr.audits.differences import paired_differences
from causal_cxr.audits.effects import (
    IntervalEstimate,
    bootstrap_interval,
    clustered_share,
    hodges_lehmann,
    paired_effect,
    paired_ratio,
    probability_of_improvement,
    signflip_test,
)
from causal_cxr.graphs import Contrast
from causal_cxr.readers.quality import ReaderQuality

FAR = 0.5  #: of the scale: an image that moves so far has crossed from one side of it to the other
SHIFT_ERROR = 1e-3  #: how often any shift may lie further out than it is taken to, in the family-wise test
TIE = (
    0.05  #: of the scale: a change that is no improvement, nor the opposite; scores of the same picture jitter by less
)
HALF = 0.5  #: of the images, or of the mean
BEYOND = 0.25  #: of an interval's half width; 1,000 resamples place an end to within 0.05 of it
DRAWS, RESAMPLES = 10_000, 1_000

MOST, SOME, MIXED = "shift of most images", "some images far", "mixed"
BOTH, NONE, OPEN = "far both ways", "no change", "undecided"
ESTIMATES = ("hl", "improvement", "risen", "fallen", "far", "far_risen", "far_fallen", "carried")
COLUMNS = (
    "editor", "attribute", "contrast", "concept", "reader", "verdict", "call", "delta", "effect", "low", "high", "bca_low",
    "bca_high", *(f"{name}{end}" for name in ESTIMATES for end in ("", "_low", "_high")), "p_family", "cells", "pattern",
    "sentence", "agrees", "why", "n", "patients",
)  # fmt: skip
FIXED = tuple(
    c for c in COLUMNS if c.startswith(("bca_", "p_")) or (c.startswith(ESTIMATES) and c.endswith(("_low", "_high")))
)


def robustness(
    measurements: pd.DataFrame,
    edges: pd.DataFrame,
    contrasts: Sequence[Contrast],
    quality: Mapping[str, ReaderQuality],
    *,
    alpha: float = 0.05,
    draws: int = DRAWS,
    resamples: int = RESAMPLES,
    seed: int = 0,
    stopped: bool = False,
) -> pd.DataFrame:
    """Beside each editor's mean effect: location, probability of improvement, bootstrap, max-T, and who moves.

    Args:
        measurements: as :mod:`causal_cxr.audits.measure` writes them.
        edges: of :func:`causal_cxr.audits.analyse.analyse` on them; cells and readers are taken from there.
        contrasts: as measured.
        quality: by reader name.
        alpha: of the family-wise test.
        draws: sign vectors of max-T.
        resamples: of patients, for the BCa interval.
        seed: of both.
        stopped: whether the number of patients hung on what was seen. Then no interval or test that supposes a fixed
            number is given, and nothing that rests on one.

    Returns:
        One row an edge, in the same order. Intervals are 95%, two-sided, patients as clusters. An image's change is its
        edit's score less its null edit's, oriented from reference to level, less ``shift_removed`` (what the reader sees of the
        attribute itself). On the scale of the concept (divided by the reader's slope J; in scores where J is not known to be
        above 0, as in ``edges``), with the errors of J and of the shift carried along:

        - ``effect``, ``low``, ``high``: mean change, as in ``edges``; ``call``, its ``editor_call``;
        - ``bca_low``, ``bca_high``: BCa interval of that mean;
        - ``hl``: Hodges-Lehmann location of patients' mean changes. Of a part of the images that moves far it tells little: it stays
          near 0 up to about 3 in 10, where half of all pairs of images hold one that moves, and jumps to half the scale there.

        As shares, where J and the shift are taken as known; of images, each with ``_low`` and ``_high``:

        - ``improvement``: P(rises) + P(no change) / 2; less than :data:`TIE` of the scale is no change;
        - ``risen``, ``fallen``: by ``delta`` of the scale or more, the size from which an effect counts;
        - ``far``, ``far_risen``, ``far_fallen``: by :data:`FAR` of the scale or more.

        ``carried``: share of the mean that images moving far make, Fieller's interval; above 1 where the others go the other
        way. ``p_family``: step-down max-T over all ``cells`` of the editor, one sign a patient; of "no effect but what the reader may see
        of the attribute itself" (:data:`SHIFT_ERROR`), J taken as known. ``n`` images of ``patients``.

        ``pattern``, each claim by a whole interval:

        - ``shift of most images``: more than half move far the same way, or rise (or fall) by ``delta``;
        - ``some images far``: the mean counts, and those that move far make more than half of it;
        - ``mixed``: the mean counts, and neither is shown;
        - ``far both ways``: the mean is not shown to count, and more than ``delta`` of the images move far up, and down;
        - ``no change``: the mean is shown not to count, and fewer than ``delta`` of the images move far;
        - ``undecided``: none of it is shown; empty: there is nothing to tell it by.

        ``sentence``: the pattern with its numbers. ``agrees``: ``yes``, ``no`` (``why`` says what tells another story than
        the mean), or empty where the mean claims nothing, neither a sign nor a call. A location near 0 is no disagreement.

    Raises:
        ValueError: an edge's reading is not in the measurements, or its contrast is not among ``contrasts``.
    """
    known = {contrast.name: contrast for contrast in contrasts}
    missing = sorted(set(edges["contrast"]) - set(known))
    if missing:
        raise ValueError(
            f"Edges tell of the contrasts {missing}, but contrasts has {sorted(known)}; give the measured."
        )
    edited = measurements[measurements["kind"].isin(["null", "total"])]
    found: dict[Any, dict[str, Any]] = {}
    for editor, mine in edges.groupby("editor", sort=False):
        measured = edited[edited["editor"] == editor]
        null = measured[measured["kind"] == "null"].set_index("row")
        parts, whose = [], []
        for name, group in mine.groupby("contrast", sort=False):
            frame = _changes(measured, null, known[str(name)], group)
            if frame is None:
                continue
            changes = frame.drop(columns="patient")
            values = (changes - group["shift_removed"]).to_numpy(dtype=float)
            found |= dict(zip(group.index, _described(values, frame["patient"].to_numpy(), group, quality,
                                                      resamples, seed), strict=True))  # fmt: skip
            parts.append(_least(changes, group, SHIFT_ERROR / len(mine)))
            whose.append(frame["patient"])
        if parts:
            family = _max_t(parts, whose, draws, seed)
            for at, p in family.items():
                found[at] |= {"p_family": p, "cells": len(family)}
    rows = [
        _row(edge, found.get(at, {}), alpha) for at, edge in zip(edges.index, edges.to_dict("records"), strict=True)
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    if stopped:
        frame = frame.assign(**dict.fromkeys(FIXED, np.nan), pattern="", sentence="", agrees="", why="")
    return frame


def telling(robustness: pd.DataFrame) -> pd.DataFrame:
    """Rows that a page should show: edges revealed, undecided with a mean that would count, and all that disagrees.

    Those that disagree come first, then the largest means.
    """
    large = (robustness["verdict"] == "undecided") & (robustness["effect"].abs() >= robustness["delta"])
    against = robustness["agrees"] == "no"
    told = robustness[large | against | robustness["verdict"].isin(["hidden", "mediated"])]
    order = told.assign(against=told["agrees"] == "no", size=told["effect"].abs())
    return told.loc[order.sort_values(["against", "size"], ascending=False, kind="stable").index]


def _changes(
    measured: pd.DataFrame, null: pd.DataFrame, contrast: Contrast, group: pd.DataFrame
) -> pd.DataFrame | None:
    """A column an edge (its label in ``group``) of changes in scores; ``patient``; index = rows."""
    columns = (group["reader"] + "/" + group["concept"]).tolist()
    absent = sorted(set(columns) - set(measured.columns))
    if absent:
        raise ValueError(f"The measurements have no scores {absent}; give edges of these measurements.")
    frame = paired_differences(measured, null, contrast, "total", list(dict.fromkeys(columns)))
    if frame is None:
        return None
    values = frame[columns].to_numpy(dtype=float)
    return pd.DataFrame(values, index=frame.index, columns=group.index).assign(patient=frame["patient"])


def _least(changes: pd.DataFrame, group: pd.DataFrame, error: float) -> pd.DataFrame:
    """Changes without that of all that the shift may be which leaves the least.

    Its error is the same in all images, which no sign of a patient turns: taken as known, a shift of nothing that is known to
    a hair would make an effect of every image that stays as it was.

    Args:
        error: how often a shift may lie further out.
    """
    off, se = (group[column].to_numpy(dtype=float) for column in ("shift_removed", "shift_se"))
    far = stats.norm.isf(error / 2) * se
    return changes - np.clip(changes.mean().to_numpy(), off - far, off + far)


def _max_t(parts: Sequence[pd.DataFrame], whose: Sequence[pd.Series], draws: int, seed: int) -> pd.Series:
    """Family-wise p of every column; images to which a contrast does not apply add nothing to its cells."""
    patients = pd.concat(list(whose))
    patients = patients[~patients.index.duplicated()]
    table = pd.concat([part.reindex(patients.index) for part in parts], axis=1)
    return pd.Series(
        signflip_test(table.to_numpy(), patients.to_numpy(), draws=draws, seed=seed).p_family, index=table.columns
    )


def _described(
    values: np.ndarray, who: np.ndarray, group: pd.DataFrame, quality: Mapping[str, ReaderQuality], resamples: int, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Estimates of the cells of one contrast, whose changes are the columns of ``(n, k)`` values."""
    described = []
    for change, edge in zip(values.T, group.to_dict("records"), strict=True):
        slope, slope_error = _slope(edge, quality[edge["reader"]])
        errors = (slope_error, edge["shift_se"], float(stats.t.ppf(0.975, paired_effect(change, who).dof)))
        mean = bootstrap_interval(np.column_stack([change, np.ones(len(change))]), who, draws=resamples, seed=seed)
        location = hodges_lehmann(change, who)
        scaled = change / slope
        far = np.abs(scaled) >= FAR
        shares = {
            "improvement": probability_of_improvement(scaled, who, tie=TIE),
            "risen": clustered_share(scaled >= edge["delta"], who), "fallen": clustered_share(scaled <= -edge["delta"], who),
            "far": clustered_share(far, who), "far_risen": clustered_share(far & (scaled > 0), who),
            "far_fallen": clustered_share(far & (scaled < 0), who), "carried": paired_ratio(scaled * far, scaled, who),
        }  # fmt: skip
        _, bca_low, bca_high = _carried(mean.value, mean.low, mean.high, slope, errors)
        hl, hl_low, hl_high = _carried(location.value, location.low, location.high, slope, errors)
        row = {"bca_low": bca_low, "bca_high": bca_high, "hl": hl, "hl_low": hl_low, "hl_high": hl_high}
        row |= {"n": len(change), "patients": len(np.unique(who))}
        for name, share in shares.items():
            row |= _triple(name, share)
        described.append(row)
    return described


def _carried(
    value: float, low: float, high: float, slope: float, errors: tuple[float, float, float]
) -> tuple[float, float, float]:
    """In scores to on the scale of the concept, with the errors of slope and shift and their t quantile.

    Of a symmetric interval it is what ``edges`` has: the delta method; of another, each side by itself (MOVER, Zou & Donner,
    Stat. Med. 27, 2008).
    """
    of_slope, of_shift, quantile = errors
    more = quantile * np.hypot(of_shift / slope, value * of_slope / slope**2)
    below, above = np.hypot((value - low) / slope, more), np.hypot((high - value) / slope, more)
    return value / slope, value / slope - float(below), value / slope + float(above)


def _triple(name: str, estimate: IntervalEstimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _slope(edge: Mapping[Any, Any], quality: ReaderQuality) -> tuple[float, float]:
    """J and its error; 1 and 0 where ``edges`` is in scores."""
    judged: Any = quality.concepts.loc[edge["concept"]]
    if not float(judged["slope_low"]) > 0:
        return 1.0, 0.0
    return float(judged["slope"]), float(judged["slope_se"])


def _row(edge: Mapping[Any, Any], found: Mapping[str, Any], alpha: float) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS, np.nan) | {
        **{key: edge[key] for key in ("editor", "attribute", "contrast", "concept", "reader", "verdict", "delta")},
        "call": edge["editor_call"], "effect": edge["editor_effect"], "low": edge["editor_low"], "high": edge["editor_high"],
        "cells": 0, "n": 0, "patients": 0, **found,
    }  # fmt: skip
    row["pattern"] = _pattern(row)
    row["sentence"] = _sentence(row)
    row["why"] = _against(row, alpha)
    claims = row["call"] == "no" or _settled(row)
    row["agrees"] = "" if not row["pattern"] or not claims else "no" if row["why"] else "yes"
    return row


def _pattern(r: Mapping[str, Any]) -> str:
    if np.isnan(r["far_low"]):
        return ""
    if max(r["far_risen_low"], r["far_fallen_low"]) > HALF:
        return MOST
    if r["call"] == "yes" and r["carried_low"] > HALF:
        return SOME
    if max(r["risen_low"], r["fallen_low"]) > HALF:
        return MOST
    if r["call"] == "yes":
        return MIXED
    if min(r["far_risen_low"], r["far_fallen_low"]) > r["delta"]:
        return BOTH
    return NONE if r["call"] == "no" and r["far_high"] < r["delta"] else OPEN


def _sentence(r: Mapping[str, Any]) -> str:
    def share(name: str) -> str:
        return f"{r[name]:.0%} [{r[f'{name}_low']:.0%}, {r[f'{name}_high']:.0%}]"

    way = "risen" if r["risen"] >= r["fallen"] else "fallen"
    said = {
        MOST: f"Most images move: {share(way)} have {way} by {r['delta']:.2g} or more",
        SOME: f"The mean is made by the images that move far, {share('far')}, as where a sign appears or goes; the typical image "
              "need not move for that",
        MIXED: f"Neither is it shown that most images move ({share(way)} have {way} by {r['delta']:.2g} or more), nor that the "
               f"{r['far']:.0%} that move far make the mean",
        BOTH: f"{share('far_risen')} of the images rise far and {share('far_fallen')} fall far: the mean alone would hide it",
        NONE: f"The mean is too small to count, and {share('far')} of the images move far",
        OPEN: ("The mean is too small to count" if r["call"] == "no" else "Neither a change of the mean nor its absence is shown")
        + f"; {share('far')} of the images move far",
    }  # fmt: skip
    return f"{said[r['pattern']]}." if r["pattern"] else ""


def _settled(r: Mapping[str, Any]) -> bool:
    """Whether the mean claims a sign; one that is shown not to count claims none, however sure."""
    return bool(r["call"] == "yes" or (r["call"] != "no" and (r["low"] > 0 or r["high"] < 0)))


def _against(r: Mapping[str, Any], alpha: float) -> str:
    """What tells another story than the mean, in a sentence; empty if nothing does."""
    settled = _settled(r)
    sign = float(np.sign(r["effect"]))
    half = (r["high"] - r["low"]) / 2
    bca = f"[{r['bca_low']:+z.2f}, {r['bca_high']:+z.2f}]"
    location = f"Hodges-Lehmann {r['hl']:+z.2f} [{r['hl_low']:+z.2f}, {r['hl_high']:+z.2f}]"
    more_against = r["improvement_high"] < 0.5 if sign > 0 else r["improvement_low"] > 0.5
    located_against = sign * r["hl"] <= -r["delta"] and (r["hl_high"] < 0 if sign > 0 else r["hl_low"] > 0)
    if settled and (more_against or located_against):
        otherwise = f"P(improvement) {r['improvement']:.2f} [{r['improvement_low']:.2f}, {r['improvement_high']:.2f}]"
        return f"Images go the other way than the mean {r['effect']:+z.2f}: {otherwise if more_against else location}."
    if settled and r["bca_low"] <= 0 <= r["bca_high"]:
        return f"The bootstrap's interval of the same mean, {bca}, holds 0."
    wide = max(r["low"] - r["bca_low"], r["bca_high"] - r["high"]) > BEYOND * half
    if wide and (settled or (r["call"] == "no" and max(-r["bca_low"], r["bca_high"]) > r["delta"])):
        return (
            f"Few patients make the mean: its bootstrap interval is {bca}, not [{r['low']:+z.2f}, {r['high']:+z.2f}]."
        )
    if r["call"] == "yes" and r["p_family"] > alpha:
        return f"A family-wise test of all {r['cells']} cells of the editor does not find it (max-T, p = {r['p_family']:.2g})."
    if r["call"] == "no" and r["pattern"] in (MOST, BOTH):
        return f"The mean {r['effect']:+z.2f} is too small to count, but images move: {location}, and {r['far']:.0%} move far."
    return ""
