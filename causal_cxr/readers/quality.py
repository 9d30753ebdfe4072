"""How well a reader reads: on labelled patients it was not fitted on, overall and within levels of each attribute.

Every interval is 95% and patient-clustered, in closed form (:mod:`causal_cxr.readers.concordance`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from causal_cxr.graphs import Attribute, Binary, Categorical, CausalGraph, Continuous, Contrast, default_contrasts
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.concordance import (
    Concordance,
    Z,
    auroc,
    calibration_error,
    calibration_interval,
    concordance,
    least_variance,
    slope,
)
from causal_cxr.statistics.clustered import clustered_coefficient

COLUMNS = ("auroc", "auroc_low", "auroc_high", "slope", "slope_se", "slope_low", "slope_high", "ece", "n_present",
           "n_absent", "prevalence", "ece_low", "ece_high")  # fmt: skip
WITHIN = ("concept", "attribute", "level", "auroc", "attribute_auroc", "n_present", "n_absent", "auroc_low", "auroc_high",
          "attribute_low", "attribute_high", "stratified", "stratified_low", "stratified_high")  # fmt: skip
FOLLOWS = ("concept", "attribute", "shift", "se", "low", "high", "contrast", "step")
MIN_CELL = 10  #: images a cell needs before anything is said about it
MIN_PATIENTS = 10  #: on either side of a comparison of images of patients, before anything is said about it
FOLDS = 5  #: of patients: how an attribute's column is to be read is learnt on the others
ROUNDING = 1e-5  #: by which a score may miss [0, 1]
LEAST_AUROC = 0.7  #: a concept that may be read worse is a blind spot
LEAST_SLOPE = 0.3  #: as an audit's: a reader whose slope may lie below cannot say "no"
TELLING = 0.6  #: AUROC of an attribute's own column, over which a reader may have read that attribute instead
MOST_ECE = 0.1  #: of a score that may be taken for a probability
MOST_SHIFT = (
    0.05  #: of the score with an attribute, as a share of the slope; an audit allows half of its smallest effect
)


class Shift(NamedTuple):
    """Of a score with an attribute, while the concept stays.

    Attributes:
        value: in scores, along a contrast; NaN where too few patients are labelled to tell, or it was judged along other attributes
            only.
        se: its standard error; all that it may be, where only its size is known.
        known: whether way and size are known.
    """

    value: float
    se: float
    known: bool


@dataclass(frozen=True)
class ReaderQuality:
    """What is known of a reader; NaN = unknown.

    Attributes:
        concepts: index concept; AUROC, slope ``J = E[score | present] - E[score | absent]``, calibration error
            (10 equal-count bins), each with its interval, and counts. ``slope_se`` is the interval's, not the sample's: it
            does not vanish where few patients are read without a fault.
        within: a row a concept, attribute and level (a quartile of a number): AUROC within that level; beside it, the same in
            each row of an attribute, that of the attribute's own column, ``attribute_auroc`` (the way round, or for unordered
            levels in the order, that other patients say: 0.5 where it tells nothing), and ``stratified``: of two images of
            the same level.
            A reader that reads the attribute in the concept's place has a high AUROC and a stratified one near 0.5.
        follows: concept, attribute, shift with interval: ``E[score | U, a1] - E[score | U, a0]`` averaged over those
            values of U that at least :data:`MIN_PATIENTS` patients have at each end; a reader that follows the attribute itself
            has a shift away from 0. NaN where neither value of U has: then the two cannot be told apart. ``se`` is the
            interval's, in units of a normal's: where few patients are at one end it is wide, and it does not vanish. ``contrast`` is what it is
            along, by name, ``step`` how far that shifts a number; unknown (None, NaN) in a file of an older version.
    """

    concepts: pd.DataFrame
    within: pd.DataFrame
    follows: pd.DataFrame

    @classmethod
    def unknown(cls, concepts: Sequence[Concept]) -> "ReaderQuality":
        """Nothing is known."""
        index = pd.Index([c.name for c in concepts], name="concept")
        return cls(
            pd.DataFrame(np.nan, index=index, columns=list(COLUMNS)),
            pd.DataFrame(columns=list(WITHIN)),
            pd.DataFrame(columns=list(FOLLOWS)),
        )

    def follow_bounds(self, concept: str, attribute: str) -> np.ndarray:
        """``(k, 2)`` bounds of the concept's shifts with an attribute, one row a contrast of it that was looked at."""
        about = self.follows
        rows = about[(about["concept"] == concept) & (about["attribute"] == attribute)]
        return rows[["low", "high"]].to_numpy(dtype=float)

    def prevalence(self, concept: str, mean: float) -> float:
        """Of a concept among images with this mean score, in [0, 1].

        The mean score is linear in prevalence with slope J; a calibrated reader's mean is right on its labelled patients.
        The mean itself where no reading of the concept is known to work.
        """
        q: Any = self.concepts.loc[concept]
        labelled, slope = float(q["prevalence"]), float(q["slope"])
        found = labelled + (mean - labelled) / slope if float(q["slope_low"]) > 0 else mean
        return min(max(found, 0.0), 1.0)

    def shift_along(self, concept: str, contrast: Contrast, attribute: Attribute) -> Shift:
        """By how much the score shifts along a contrast while the concept stays.

        Nothing, without an error, of a reader of whom it was asked of no attribute, as of signs without a name that nobody can label.
        """
        about = self.follows
        if not len(about):
            return Shift(0.0, 0.0, False)
        rows = about[(about["concept"] == concept) & (about["attribute"] == contrast.attribute)]
        if not len(rows) or rows["shift"].isna().any():
            return Shift(float("nan"), float("nan"), False)
        along = rows["contrast"]
        times = np.full(len(rows), np.nan)  # how often the contrast goes along what was looked at
        if isinstance(attribute, Continuous):
            times[:] = float(contrast.shift or 0.0) / rows["step"].to_numpy(dtype=float)
        else:
            back = replace(contrast, level=contrast.reference, reference=contrast.level)
            times[along == back.name] = -1.0
            times[along == contrast.name] = 1.0
        if isinstance(attribute, Binary):
            # An older file does not say along what; it was from the first level to the second, always.
            times[along.isna()] = 1.0 if attribute.check(contrast.level) == attribute.levels[1] else -1.0
        for times_as_far, value, se in zip(times, rows["shift"], rows["se"], strict=True):
            if not np.isnan(times_as_far):
                return Shift(float(times_as_far * value), float(abs(times_as_far) * se), True)
        # Which way or how far is not known: as much as may lie between any two of the levels, either way.
        most = max(0.0, float(rows["high"].max())) - min(0.0, float(rows["low"].min()))
        return Shift(0.0, most / float(stats.norm.ppf(0.975)), False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "concepts": self.concepts.reset_index().to_dict("records"),
            "within": self.within.to_dict("records"),
            "follows": self.follows.to_dict("records"),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ReaderQuality":
        """Inverse of :meth:`to_dict`; columns that an older file lacks are unknown."""
        concepts = pd.DataFrame(data["concepts"], columns=["concept", *COLUMNS]).set_index("concept").astype(float)
        within = pd.DataFrame(data["within"], columns=list(WITHIN))
        return cls(concepts, within, pd.DataFrame(data["follows"], columns=list(FOLLOWS)))


def check_scores(scores: np.ndarray, names: Sequence[str], *, reader: str = "", bounded: bool = True) -> None:
    """Refuse what cannot be ranked: NaN would count as the highest score of all.

    Args:
        scores: ``(n, k)``.
        names: of the ``k`` concepts.
        reader: whose scores they are, for the message.
        bounded: whether they must lie in [0, 1] too.

    Raises:
        ValueError: a score is no finite number, or lies outside [0, 1].

    >>> check_scores(np.array([[0.2], [1.7]]), ["wires"], reader="heads")
    Traceback (most recent call last):
    ValueError: Concept 'wires' of reader 'heads' has 1 scores outside [0, 1], e.g. 1.7; give probabilities (of log odds, the sigmoid).
    """
    by = f" of reader {reader!r}" if reader else ""
    for name, column in zip(names, scores.T, strict=True):
        odd = column[~np.isfinite(column)]
        if len(odd):
            raise ValueError(
                f"Concept {name!r}{by} has {len(odd)} scores that are no finite numbers, e.g. {odd[0]:g}; the reader is "
                "broken, or leave out what it cannot read."
            )
        odd = column[(column < -ROUNDING) | (column > 1 + ROUNDING)]
        if bounded and len(odd):
            raise ValueError(
                f"Concept {name!r}{by} has {len(odd)} scores outside [0, 1], e.g. {odd[0]:g}; give probabilities (of log "
                "odds, the sigmoid)."
            )


def check_truth(truth: np.ndarray, names: Sequence[str]) -> None:
    """Refuse labels that would silently count as absent.

    Args:
        truth: ``(n, k)``.
        names: of the ``k`` concepts.

    Raises:
        ValueError: a label is neither 0, 1 nor NaN.

    >>> check_truth(np.array([[1.0], [-1.0]]), ["wires"])
    Traceback (most recent call last):
    ValueError: Concept 'wires' has 1 labels that are neither 0 nor 1, e.g. -1; labels are 1 present, 0 absent, NaN unknown: write NaN where it is uncertain.
    """
    for name, column in zip(names, truth.T, strict=True):
        odd = column[~(np.isnan(column) | (column == 0) | (column == 1))]
        if len(odd):
            raise ValueError(
                f"Concept {name!r} has {len(odd)} labels that are neither 0 nor 1, e.g. {odd[0]:g}; labels are 1 present, "
                "0 absent, NaN unknown: write NaN where it is uncertain."
            )


def assess(
    scores: np.ndarray,
    truth: np.ndarray,
    attributes: pd.DataFrame,
    patients: pd.Series,
    graph: CausalGraph,
    concepts: Sequence[Concept],
    *,
    shifts: Mapping[str, float] | None = None,
    seed: int = 0,
) -> ReaderQuality:
    """Judge scores against labels.

    Args:
        scores: ``(n, k)`` in [0, 1].
        truth: ``(n, k)`` 1 / 0 / NaN unknown.
        attributes: ``n`` rows of labelled attributes.
        patients: ``(n,)`` ids; images of a patient are no independent images.
        graph: whose labelled attributes are looked at.
        concepts: the ``k`` columns.
        shifts: of continuous attributes, as in the audit's contrasts.
        seed: deals patients to halves for the calibration error's interval, and to folds.

    Raises:
        ValueError: see :func:`check_scores`, :func:`check_truth`.
    """
    scores, truth, names = (np.asarray(scores, dtype=float), np.asarray(truth, dtype=float), [c.name for c in concepts])
    check_scores(scores, names)
    check_truth(truth, names)
    contrasts = default_contrasts(graph, shifts)
    # Numbered by their names, so that nothing depends on the order of the rows.
    group = np.unique(np.asarray(patients).astype(str), return_inverse=True)[1]
    encoded = {name: graph.attributes[name].encode(attributes[name]) for name in graph.labelled}
    overall, within, follows = {}, [], []
    for j, concept in enumerate(concepts):
        known = ~np.isnan(truth[:, j])
        s, u, g = scores[known, j], truth[known, j], group[known]
        overall[concept.name] = _overall(s, u, g, seed)
        codes = {name: code[known] for name, code in encoded.items()}
        for name in graph.labelled:
            if name != concept.attribute:
                within += _within(concept.name, graph.attributes[name], codes[name], s, u, g, seed)
        for contrast in contrasts:
            if contrast.attribute != concept.attribute:
                follows.append(_follows(concept.name, contrast, graph, codes[contrast.attribute], s, u, g))
    frame = pd.DataFrame.from_dict(overall, orient="index", columns=list(COLUMNS)).rename_axis("concept")
    return ReaderQuality(
        frame, pd.DataFrame(within, columns=list(WITHIN)), pd.DataFrame(follows, columns=list(FOLLOWS))
    )


def _overall(s: np.ndarray, u: np.ndarray, g: np.ndarray, seed: int) -> list[float]:
    present = u == 1
    n1, n0 = float(present.sum()), float((~present).sum())
    counts = [n1, n0, n1 / max(n1 + n0, 1)]
    found = concordance(s, present, g)
    if min(n1, n0) < MIN_CELL or not found.variance >= 0:
        return [*[np.nan] * 8, *counts, np.nan, np.nan]
    return [auroc(s, present), *found.interval(), *slope(s, present, g), calibration_error(s, u), *counts,
            *calibration_interval(s, u, g, seed=seed)]  # fmt: skip


def _within(
    concept: str, attribute: Attribute, codes: np.ndarray, s: np.ndarray, u: np.ndarray, g: np.ndarray, seed: int
) -> list[list[Any]]:
    if isinstance(attribute, Continuous):
        known = codes[~np.isnan(codes)]
        cuts = np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else np.zeros(3)
        level, names = np.digitize(codes, cuts), [f"quartile {q + 1}" for q in range(4)]
    else:
        level, names = np.nan_to_num(codes).astype(int), [str(name) for name in attribute.levels]
    level = np.where(np.isnan(codes), -1, level)
    present, here = u == 1, level >= 0
    own = _of_column(attribute, codes, present, g, seed)
    stratified = _known(concordance(s[here], present[here], g[here], level[here]))
    rows = []
    for i, name in enumerate(names):
        at = level == i
        n1, n0 = int(present[at].sum()), int((~present[at]).sum())
        mine = _known(concordance(s[at], present[at], g[at])) if min(n1, n0) >= MIN_CELL else [np.nan] * 3
        rows.append([concept, attribute.name, name, mine[0], own[0], n1, n0, *mine[1:], *own[1:], *stratified])
    return rows


def _known(found: Concordance) -> list[float]:
    return [found.value, *found.interval()]


def _of_column(attribute: Attribute, codes: np.ndarray, present: np.ndarray, g: np.ndarray, seed: int) -> list[float]:
    """AUROC of an attribute's column in the concept's place, with its interval.

    Which way the column points, and how unordered levels are ordered, is learnt on other patients than are judged by it:
    learnt on the same, noise would always score over 0.5, by the more the more levels there are. Images are compared within
    a fold, where one lesson holds.
    """
    missing = np.isnan(codes)
    if missing.all():
        return [np.nan] * 3
    fold = _folds(present, g, seed)
    middle = codes[~missing].mean()
    column = np.where(missing, 0.0, codes - middle)
    for k in range(FOLDS):
        here, others = fold == k, (fold != k) & ~missing
        if isinstance(attribute, Categorical) and not attribute.ordered:
            column[here] = _rates(codes[here], codes[others], present[others])
        elif auroc(codes[others], present[others]) < 0.5:
            column[here] *= -1
    found = concordance(column, present, g, fold)
    # Each fold serves the others: where lessons are by chance, the variance is so many times as large (of two folds exactly).
    return _known(replace(found, variance=(1 + 2 / np.pi) * found.variance))


def _rates(codes: np.ndarray, others: np.ndarray, present: np.ndarray) -> np.ndarray:
    """``(n,)`` how often the concept is there among others of the same level, who are thought to be one more average one."""
    average = present.sum() / max(len(present), 1)
    levels = pd.Series(present.astype(float)).groupby(others)
    rates = (levels.sum() + average) / (levels.count() + 1)
    return pd.Series(codes).map(rates).fillna(average).to_numpy()


def _folds(present: np.ndarray, g: np.ndarray, seed: int) -> np.ndarray:
    """``(n,)`` fold of each image's patient; those with the concept are dealt out evenly."""
    patients, who = np.unique(g, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(patients))
    fold = np.empty(len(patients), dtype=np.int64)
    fold[np.lexsort((shuffled, np.bincount(who, weights=present) > 0))] = np.arange(len(patients)) % FOLDS
    return fold[who]


def _follows(
    concept: str, contrast: Contrast, graph: CausalGraph, codes: np.ndarray, s: np.ndarray, u: np.ndarray, g: np.ndarray
) -> list[Any]:
    attribute = graph.attributes[contrast.attribute]
    about = [contrast.name, float(contrast.shift or 0.0) if contrast.kind == "shift" else np.nan]
    x = contrast.treatment(attribute, codes)
    keep = ~np.isnan(x)
    if not keep.any():
        return [concept, contrast.attribute, *[np.nan] * 4, *about]
    ahead = x > np.median(x[keep]) if contrast.kind == "shift" else x == 1
    # Where the concept goes with the attribute, one of its two strata may have hardly any patient on one side.
    usable = np.zeros(len(s), dtype=bool)
    for value in (0, 1):
        stratum = (u == value) & keep
        if min(len(np.unique(g[stratum & side])) for side in (ahead, ~ahead)) >= MIN_PATIENTS:
            usable |= stratum
    if not usable.any():
        return [concept, contrast.attribute, *[np.nan] * 4, *about]
    s, u, x, g, ahead = s[usable], u[usable], x[usable], g[usable], ahead[usable]
    strata = [u] if np.ptp(u) else []
    found = clustered_coefficient(s, np.column_stack([np.ones(len(s)), x, *strata]), g, 1)
    # Where no error was seen the estimated variance goes to 0, which proves nothing: each side of each stratum is worth no more
    # than one trial a patient.
    least = 0.0
    for value in (0, 1):
        for side in (ahead, ~ahead):
            cell = (u == value) & side
            parts = np.bincount(g[cell], found.weights[cell])
            patients = len(np.unique(g[cell]))
            least += float((parts**2).sum()) * patients * least_variance(patients) if patients else 0.0
    # In units of a normal's quantile, as an audit takes the shift off with this error.
    few = stats.t.isf(0.025, found.freedom) / Z
    se = float(np.sqrt(max(few**2 * found.variance, least)))
    return [concept, contrast.attribute, found.value, se, found.value - Z * se, found.value + Z * se, *about]


def blind_spots(
    quality: ReaderQuality,
    *,
    least_auroc: float = LEAST_AUROC,
    least_slope: float = LEAST_SLOPE,
    most_ece: float = MOST_ECE,
    most_shift: float = MOST_SHIFT,
) -> pd.DataFrame:
    """What must not be believed of a reader, and why, in plain words.

    A limit counts as kept only where the interval keeps it; an interval on both sides of it leaves the matter open, which
    is a blind spot too. So that it stays a page: a level is listed where it is shown to be read badly, and where it may be and
    the attribute's column tells something of the concept (AUROC over :data:`TELLING`), and not where the concept is read
    badly overall; a shift where it is away from 0.

    Args:
        quality: of the reader.
        least_auroc: of a concept, overall and within every level of an attribute that has enough images.
        least_slope: of ``J``.
        most_ece: calibration error.
        most_shift: of a score with an attribute while the concept stays, in units of the slope.

    Returns:
        a row a reason, the concepts in their order: ``concept``, ``kind`` (``unjudged``, ``discrimination``, ``slope``,
        ``calibration``, ``within``, ``follows``, ``inseparable``), ``attribute`` and ``level`` (empty where it is about none),
        ``shown`` (the whole interval is beyond the limit; ``False``: it may be, or nothing is known) and ``why``.
    """
    found: list[list[Any]] = []
    levels = quality.within.reindex(columns=list(WITHIN))  # a table of an older version may lack columns
    for concept, q in quality.concepts.reindex(columns=list(COLUMNS)).iterrows():
        name = str(concept)
        within, follows = (f[f["concept"] == concept] for f in (levels, quality.follows))
        if np.isnan(q["auroc"]):
            counts = (
                ""
                if np.isnan(q["n_present"])
                else f" ({q['n_present']:.0f} images with it, {q['n_absent']:.0f} without)"
            )
            found.append([name, "unjudged", "", "", False, f"{name}: never judged on labelled patients{counts}"])
            continue
        if not q["auroc_low"] >= least_auroc:
            why = f"{name}: AUROC {_said(q, 'auroc')}"
            found.append([name, "discrimination", "", "", bool(q["auroc_high"] < least_auroc), why])
        if not q["slope_low"] >= least_slope:
            why = f'{name}: scores with and without it differ by {_said(q, "slope")}; from below {least_slope:g} no "no" follows'
            found.append([name, "slope", "", "", bool(q["slope_high"] < least_slope), why])
        error = q["ece"] if np.isnan(q["ece_high"]) else q["ece_high"]
        if not error <= most_ece:
            why = f"{name}: scores are off the true frequency by {_said(q, 'ece')} on average; no probabilities"
            found.append([name, "calibration", "", "", bool(q["ece_low"] > most_ece), why])
        for _, row in within.iterrows() if q["auroc_low"] >= least_auroc else ():
            found += _blind_within(name, row, least_auroc)
        inseparable = list(dict.fromkeys(follows.loc[follows["shift"].isna(), "attribute"].astype(str)))
        if inseparable:
            which = ", ".join(inseparable)
            why = f"{name}: too few patients to tell whether it is read or {' or '.join(inseparable)}"
            found.append([name, "inseparable", which, "", False, why])
        for _, row in follows[follows["shift"].notna()].iterrows():
            found += _follower(name, row, float(q["slope"]), most_shift)
    return pd.DataFrame(found, columns=["concept", "kind", "attribute", "level", "shown", "why"])


def _blind_within(name: str, row: pd.Series, least_auroc: float) -> list[list[Any]]:
    attribute, level = str(row["attribute"]), str(row["level"])
    beside = f"the {attribute} column alone scores {row['attribute_auroc']:.2f}"
    where = level if not level.isdigit() and "quartile" not in level else f"{attribute} {level}"
    telling = row["attribute_auroc"] > TELLING
    if np.isnan(row["auroc"]):
        rarer = "with" if row["n_present"] < row["n_absent"] else "without"
        fewest = min(row["n_present"], row["n_absent"])
        why = f"{name}: not judged within {where} ({fewest:.0f} images {rarer} it), {beside}"
        return [[name, "within", attribute, level, False, why]] if telling else []
    low = row["auroc"] if np.isnan(row["auroc_low"]) else row["auroc_low"]
    if low >= least_auroc or not (telling or row["auroc_high"] < least_auroc):
        return []
    why = f"{name}: AUROC within {where} {_said(row, 'auroc')}, {beside}"
    return [[name, "within", attribute, level, bool(row["auroc_high"] < least_auroc), why]]


def _follower(name: str, row: pd.Series, slope: float, most_shift: float) -> list[list[Any]]:
    attribute = str(row["attribute"])
    low, high = sorted((row["low"] / slope, row["high"] / slope))
    if low <= 0 <= high or (-most_shift <= low and high <= most_shift):
        return []
    why = f"{name}: its score moves by {row['shift']:+.2f} [{row['low']:.2f}, {row['high']:.2f}] with {attribute} while {name} stays"
    return [[name, "follows", attribute, "", bool(low > most_shift or high < -most_shift), why]]


def _said(row: pd.Series, name: str) -> str:
    if np.isnan(row[f"{name}_low"]):
        return f"{row[name]:.2f}"
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"
