"""How well a model does in each group of patients, and how far the worst falls behind the rest. Unedited images only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from causal_cxr.audits.shortcuts.decisions import share_interval
from causal_cxr.audits.shortcuts.gains import score_column
from causal_cxr.graphs import Attribute, CausalGraph, Continuous
from causal_cxr.readers.concordance import Concordance, concordance
from causal_cxr.readers.quality import MIN_CELL
from causal_cxr.statistics.clustered import mean_influence

METRICS = ("auroc", "sensitivity", "specificity")
COLUMNS = ("model", "attribute", "level", "n", "n_present", "patients",
           *(f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")))  # fmt: skip
GAP_COLUMNS = ("model", "attribute", "metric", "worst", "gap", "gap_low", "gap_high", "levels", "not_judged")
FEWEST_PATIENTS = 3  #: of a kind in a level
ALL = "all"  #: level of the row that is over all images


def performance(
    factual: pd.DataFrame,
    table: pd.DataFrame,
    present: np.ndarray,
    graph: CausalGraph,
    attributes: Sequence[str],
    thresholds: Mapping[str, float],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """AUROC, sensitivity and specificity of each model by level of each attribute, and the worst level's gap.

    Args:
        factual: unedited scores and ``patient``, ``n`` rows.
        table: ``n`` rows, typed attributes; a continuous one is cut into quartiles.
        present: ``(n,)`` 1.0, 0.0, NaN = unlabelled, left out.
        attributes: to look at.
        thresholds: model -> probability from which it says yes.

    Returns:
        ``subgroups`` (:data:`COLUMNS`; the first row of a model is over all images) with patient-clustered 95% intervals, and
        ``gaps`` (:data:`GAP_COLUMNS`): how much worse the worst level does than the other images, largest difference over the
        levels. Its interval is from simultaneous ones of all levels (Bonferroni), so that picking the worst costs nothing. A level
        with fewer than :data:`~causal_cxr.readers.quality.MIN_CELL` images (or three patients) of a kind is not judged, and named.
    """
    known = ~np.isnan(present)
    factual, table, yes = factual[known], table[known], present[known] == 1
    patients, groups = factual["patient"].to_numpy(), pd.factorize(factual["patient"])[0]
    rows: list[list[Any]] = []
    gaps: list[list[Any]] = []
    for model, threshold in thresholds.items():
        scores = factual[score_column(model)].to_numpy(dtype=float)
        everyone = np.ones(len(scores), dtype=bool)
        rows.append([model, "", ALL, *_cell(scores, yes, patients, groups, threshold, everyone)])
        for name in attributes:
            levels = _levels(graph.attributes[name], table[name])
            for level, at in levels.items():
                rows.append([model, name, level, *_cell(scores, yes, patients, groups, threshold, at)])
            for metric in METRICS:
                gaps.append([model, name, metric, *_gap(metric, scores, yes, groups, threshold, levels)])
    return pd.DataFrame(rows, columns=list(COLUMNS)), pd.DataFrame(gaps, columns=list(GAP_COLUMNS))


def _levels(attribute: Attribute, values: pd.Series) -> dict[str, np.ndarray]:
    """Level -> ``(n,)`` bool; where the attribute is missing no level holds."""
    if not isinstance(attribute, Continuous):
        return {str(level): (values == level).to_numpy(dtype=bool) for level in attribute.levels}
    cuts = values.dropna().quantile([0.25, 0.5, 0.75]).to_numpy()
    quarter = np.where(values.isna(), -1, np.digitize(values.to_numpy(dtype=float), cuts))
    ends = [f"{attribute.low:g}", *(f"{cut:.3g}" for cut in cuts), f"{attribute.high:g}"]  # as they are told
    return {f"{ends[q]} to {ends[q + 1]} {attribute.unit}": quarter == q for q in range(4)}


def _cell(
    scores: np.ndarray, yes: np.ndarray, patients: np.ndarray, groups: np.ndarray, threshold: float, at: np.ndarray
) -> list[Any]:
    found = concordance(scores[at], yes[at], groups[at])
    called = scores >= threshold
    sick, well = at & yes, at & ~yes
    return [
        int(at.sum()), int(sick.sum()), len(np.unique(patients[at])), found.value, *found.interval(),
        *share_interval(called[sick], patients[sick]), *share_interval(~called[well], patients[well]),
    ]  # fmt: skip


def _gap(
    metric: str, scores: np.ndarray, yes: np.ndarray, groups: np.ndarray, threshold: float, levels: Mapping[str, np.ndarray]
) -> list[Any]:  # fmt: skip
    """Worst level, gap, low, high, how many levels were judged, which were not."""
    known = np.logical_or.reduce(list(levels.values()))
    differences, not_judged = {}, []
    for level, at in levels.items():
        rest = known & ~at
        kinds = {"sensitivity": (yes,), "specificity": (~yes,)}.get(metric, (yes, ~yes))
        cells = [part & kind for part in (at, rest) for kind in kinds]
        if (
            min(int(c.sum()) for c in cells) < MIN_CELL
            or min(len(np.unique(groups[c])) for c in cells) < FEWEST_PATIENTS
        ):
            not_judged.append(level)
            continue
        differences[level] = _difference(metric, scores, yes, groups, threshold, rest, at)
    if not differences:
        return ["", np.nan, np.nan, np.nan, 0, ", ".join(not_judged)]
    z = float(norm.ppf(1 - 0.025 / len(differences)))
    worst = max(differences, key=lambda level: differences[level][0])
    low = max(value - z * se for value, se in differences.values())
    high = max(value + z * se for value, se in differences.values())
    return [worst, differences[worst][0], max(low, -1.0), min(high, 1.0), len(differences), ", ".join(not_judged)]


def _difference(
    metric: str, scores: np.ndarray, yes: np.ndarray, groups: np.ndarray, threshold: float, rest: np.ndarray, at: np.ndarray
) -> tuple[float, float]:  # fmt: skip
    """Metric in ``rest`` less that in ``at``, and its error; a patient may have images in both."""
    count = int(groups.max()) + 1
    if metric == "auroc":
        parts = [concordance(scores[part], yes[part], groups[part]) for part in (rest, at)]
        influence = _padded(parts[0], count) - _padded(parts[1], count)
        least = sum(part.least_variance for part in parts)
        touched = len(np.unique(groups[rest | at]))
        variance = touched / max(touched - 1, 1) * float((influence**2).sum())
        return parts[0].value - parts[1].value, float(np.sqrt(max(variance, least)))
    right = (scores >= threshold) == yes
    kind = yes if metric == "sensitivity" else ~yes
    values, influences = [], []
    for part in (rest, at):
        mine = right[part & kind].astype(float)
        values.append(mine.mean())
        influences.append(mean_influence((mine - mine.mean())[:, None], groups[part & kind], count)[0][:, 0])
    least_n = min(len(np.unique(groups[part & kind])) for part in (rest, at))
    # nothing varies: the error of one patient in all
    return float(values[0] - values[1]), float(max(np.sqrt(((influences[0] - influences[1]) ** 2).sum()), 1 / least_n))


def _padded(found: Concordance, count: int) -> np.ndarray:
    return np.pad(found.influence, (0, count - len(found.influence)))
