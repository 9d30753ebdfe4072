"""Dose and response: does more of an edit, or of an attribute, show more?

An effect that grows with its dose is harder to explain by anything but the edit (Hill, 1965). Each image is its own block, so what
is tested is an ordered alternative in blocks: Page's L (J. Am. Stat. Assoc. 58, 1963; scipy), on means of patients. A trend
does not exclude a fall on the way; that is tested apart, step by step. The size of it is the mean of the images' own slopes
(summary measures; Matthews et al., BMJ 300, 1990), with patients as clusters.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from causal_cxr.audits.effects import Effect, paired_effect
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality

IGNORED = 0.05  #: of the edit's own change: edits at other doses that differ by less are the same edit
STILL = 1e-4  #: mean absolute change of the edit itself, below which it changes nothing
FEWEST = 3  #: patients
RISES, FALLS, FLAT, BROKEN, UNDECIDED = "rises", "falls", "flat", "not monotone", "undecided"
SAME, NOTHING = "dose ignored", "changes nothing"  #: of the images; no concept is asked then
COLUMNS = ("editor", "along", "contrast", "attribute", "concept", "reader", "response", "slope", "low", "high", "p_trend",
           "p_break", "largest_fall", "doses", "n", "patients")  # fmt: skip
CURVE = (
    "editor",
    "along",
    "contrast",
    "attribute",
    "concept",
    "reader",
    "dose",
    "change",
    "low",
    "high",
    "n",
    "patients",
)


def dose_responses(
    doses: pd.DataFrame, concepts: Mapping[str, Sequence[Concept]], quality: Mapping[str, ReaderQuality], *,
    smallest_effect: float = 0.10, alpha: float = 0.05,
) -> pd.DataFrame:  # fmt: skip
    """How each concept answers to the dose of each contrast.

    Args:
        doses: of :class:`causal_cxr.audits.looks.Looks`.
        concepts, quality: by reader name.
        smallest_effect: a change, over one unit of dose, below which a response is flat.
        alpha: of each test.

    Returns:
        One row an editor x ``along`` (``strength``, ``attribute``) x contrast x concept x reader, over images accepted at every
        dose. ``slope`` per unit of dose (the edit as the audit makes it), oriented from reference to level, on the scale of the
        concept, with a 95% interval. ``p_trend``: Page's test of either order, two-sided. ``p_break``: of "monotone, up or
        down", the smallest p of a step the other way, times the steps, the larger of both directions. ``largest_fall``: the
        largest mean step against the slope. ``response``: ``not monotone`` (p_break <= alpha); ``flat`` (slopes of
        ``smallest_effect`` are rejected); ``rises`` or ``falls`` (a trend, and a slope whose interval leaves out 0);
        ``undecided``. ``dose ignored``: edits are the same at every dose, up to 5% of what the edit changes, and ``changes
        nothing``: the edit itself is the null edit.
    """
    rows = []
    for key, mine, levels in _blocks(doses):
        images = _of_images(mine)
        for reader, concept, found in _concepts(concepts, mine):
            changes, who = found
            if len(np.unique(who)) < FEWEST:
                rows.append(
                    (*key, concept.name, reader, UNDECIDED, *[np.nan] * 6, len(levels), len(changes), len(set(who)))
                )
                continue
            centred = levels - levels.mean()
            slope = _scaled(paired_effect(changes @ centred / (centred @ centred), who), quality[reader], concept.name)
            table = _patient_means(changes, who)
            p_trend, (p_break, fall) = _trend(table), _break(table, np.sign(slope.value))
            low, high = slope.interval()
            response = images or _response(slope, p_trend, p_break, smallest_effect, alpha)
            rows.append((*key, concept.name, reader, response, slope.value, low, high, p_trend, p_break, fall, len(levels),
                         slope.n, slope.patients))  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def dose_curves(
    doses: pd.DataFrame, concepts: Mapping[str, Sequence[Concept]], quality: Mapping[str, ReaderQuality]
) -> pd.DataFrame:
    """Mean change from the null edit at each dose, oriented, on the scale of the concept, with a 95% interval; see above."""
    rows = []
    for key, mine, levels in _blocks(doses):
        for reader, concept, (changes, who) in _concepts(concepts, mine):
            for dose, change in zip(levels, changes.T, strict=True):
                effect = _scaled(paired_effect(change, who), quality[reader], concept.name)
                interval = effect.interval() if effect.n else (np.nan, np.nan)
                rows.append((*key, concept.name, reader, dose, effect.value, *interval, effect.n, effect.patients))
    return pd.DataFrame(rows, columns=list(CURVE))


def ignored(doses: pd.DataFrame) -> list[str]:
    """In words: which edits are the same at every dose, so that no response to it means anything."""
    said = []
    for (editor, along, contrast, _), mine, levels in _blocks(doses):
        if _of_images(mine) == SAME:
            others = ", ".join(f"{dose:g}" for dose in levels if dose not in (0.0, 1.0))
            what = "strength" if along == "strength" else "size of the shift"
            said.append(f"{editor} ignores the {what}: do({contrast}) gives the same images at {others} as at 1.")
    return said


def _blocks(doses: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str, str], pd.DataFrame, np.ndarray]]:
    """Of each contrast, those images that were accepted at every dose; indexed by row, dose after dose."""
    for key, asked in doses.groupby(["editor", "along", "contrast", "attribute"], sort=False):
        levels = np.sort(asked["dose"].unique())
        accepted = asked[asked["accepted"].astype(bool)]
        complete = accepted.groupby("row")["dose"].transform("nunique") == len(levels)
        yield tuple(map(str, key)), accepted[complete].sort_values(["row", "dose"]), levels  # type: ignore[misc]


def _of_images(mine: pd.DataFrame) -> str:
    itself = mine.loc[mine["dose"] == 1.0, "beyond"].mean()
    if not itself >= STILL:
        return NOTHING if len(mine) else ""
    between = mine[~mine["dose"].isin([0.0, 1.0])].groupby("dose")["step"].mean()
    return SAME if len(between) and between.max() <= IGNORED * itself else ""


def _concepts(
    concepts: Mapping[str, Sequence[Concept]], mine: pd.DataFrame
) -> Iterator[tuple[str, Concept, tuple[np.ndarray, np.ndarray]]]:
    """``(images, doses)`` oriented changes of the score from dose 0, and ``(images,)`` patients."""
    first = mine.drop_duplicates("row")
    sign, who = first["orientation"].to_numpy(dtype=float), first["patient"].to_numpy()
    for reader, group in concepts.items():
        for concept in group:
            scores = mine[f"{reader}/{concept.name}"].to_numpy(dtype=float).reshape(len(first), -1)
            yield reader, concept, (sign[:, None] * (scores - scores[:, :1]), who)


def _scaled(effect: Effect, quality: ReaderQuality, concept: str) -> Effect:
    known: Any = quality.concepts.loc[concept]
    readable = float(known["slope_low"]) > 0
    return effect.scaled(float(known["slope"]), float(known["slope_se"])) if effect.n and readable else effect


def _patient_means(changes: np.ndarray, who: np.ndarray) -> np.ndarray:
    return pd.DataFrame(changes).groupby(who).mean().to_numpy()


def _trend(table: np.ndarray) -> float:
    """Two-sided p of Page's L on ``(patients, doses)``."""
    up, down = (stats.page_trend_test(values).pvalue for values in (table, -table))
    return float(min(1.0, 2 * min(up, down)))


def _break(table: np.ndarray, direction: float) -> tuple[float, float]:
    """p of "monotone, up or down" on ``(patients, doses)``, and the largest mean step against ``direction``, >= 0."""
    steps = np.diff(table, axis=1)
    spread = steps.std(axis=0, ddof=1) / np.sqrt(len(steps))
    mean = steps.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(spread > 0, mean / spread, np.sign(mean) * np.inf)
    t = np.nan_to_num(t, nan=0.0, posinf=np.inf, neginf=-np.inf)  # a step of nothing, for sure, breaks nothing
    against = [min(1.0, steps.shape[1] * float(stats.t.cdf(s * t, len(steps) - 1).min())) for s in (1, -1)]
    return max(against), float(max(0.0, (-direction * mean).max()))


def _response(slope: Effect, p_trend: float, p_break: float, smallest_effect: float, alpha: float) -> str:
    if p_break <= alpha:
        return BROKEN
    if slope.unsettled().p_no(smallest_effect) <= alpha:
        return FLAT
    low, high = slope.interval()
    if p_trend <= alpha and low * high > 0:
        return RISES if slope.value > 0 else FALLS
    return UNDECIDED
