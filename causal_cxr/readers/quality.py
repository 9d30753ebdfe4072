"""How well a reader reads: on labelled patients it was not fitted on, overall and within levels of each attribute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.graphs import CausalGraph, Continuous, Contrast, default_contrasts
from causal_cxr.readers.concepts import Concept

COLUMNS = ("auroc", "auroc_low", "auroc_high", "slope", "slope_se", "slope_low", "slope_high", "ece", "n_present",
           "n_absent", "prevalence")  # fmt: skip
MIN_CELL = 10  #: images a cell needs before anything is said about it


@dataclass(frozen=True)
class ReaderQuality:
    """What is known of a reader; NaN = unknown.

    Attributes:
        concepts: index concept; AUROC, slope ``J = E[score | present] - E[score | absent]``, calibration error
            (10 equal-count bins), with patient-clustered 95% intervals, and counts.
        within: concept, attribute, level: AUROC within that level, beside the AUROC of the attribute's own column.
        follows: concept, attribute, shift with interval: ``E[score | U, a1] - E[score | U, a0]`` averaged over those
            values of U that enough images have at both ends; a reader that follows the attribute itself has a shift
            away from 0. NaN where neither value of U has: then the two cannot be told apart.
    """

    concepts: pd.DataFrame
    within: pd.DataFrame
    follows: pd.DataFrame

    @classmethod
    def unknown(cls, concepts: Sequence[Concept]) -> "ReaderQuality":
        """Nothing is known."""
        return cls(
            pd.DataFrame(np.nan, index=pd.Index([c.name for c in concepts], name="concept"), columns=list(COLUMNS)),
            pd.DataFrame(
                columns=["concept", "attribute", "level", "auroc", "attribute_auroc", "n_present", "n_absent"]
            ),
            pd.DataFrame(columns=["concept", "attribute", "shift", "se", "low", "high"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "concepts": self.concepts.reset_index().to_dict("records"),
            "within": self.within.to_dict("records"),
            "follows": self.follows.to_dict("records"),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ReaderQuality":
        """Inverse of :meth:`to_dict`."""
        empty = cls.unknown(())
        concepts = pd.DataFrame(data["concepts"], columns=["concept", *COLUMNS]).set_index("concept").astype(float)
        within = pd.DataFrame(data["within"], columns=empty.within.columns)
        return cls(concepts, within, pd.DataFrame(data["follows"], columns=empty.follows.columns))


def auroc(scores: np.ndarray, present: np.ndarray) -> float:
    """Probability that a present case scores above an absent one, ties counting half; NaN without both.

    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    from scipy.stats import rankdata

    present = np.asarray(present, dtype=bool)
    n1, n0 = int(present.sum()), int((~present).sum())
    if not n1 or not n0:
        return float("nan")
    return float((rankdata(scores)[present].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def assess(
    scores: np.ndarray,
    truth: np.ndarray,
    attributes: pd.DataFrame,
    patients: pd.Series,
    graph: CausalGraph,
    concepts: Sequence[Concept],
    *,
    shifts: Mapping[str, float] | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> ReaderQuality:
    """Judge scores against labels.

    Args:
        scores: ``(n, k)`` in [0, 1].
        truth: ``(n, k)`` 1 / 0 / NaN unknown.
        attributes: ``n`` rows of labelled attributes.
        patients: ``(n,)`` ids; intervals resample whole patients.
        graph: whose labelled attributes are looked at.
        concepts: the ``k`` columns.
        shifts: of continuous attributes, as in the audit's contrasts.
        resamples: of the patient bootstrap.
        seed: of the patient bootstrap.
    """
    contrasts = default_contrasts(graph, shifts)
    group = pd.factorize(patients)[0]
    rng = np.random.default_rng(seed)
    overall, within, follows = {}, [], []
    for j, concept in enumerate(concepts):
        known = ~np.isnan(truth[:, j])
        s, u, g = scores[known, j].astype(float), truth[known, j], group[known]
        overall[concept.name] = _overall(s, u, g, rng, resamples)
        table = attributes[known.tolist()] if known.size else attributes
        for name in graph.labelled:
            if name == concept.attribute:
                continue
            codes = graph.attributes[name].encode(table[name])
            within += _within(concept.name, name, graph, codes, s, u)
        for contrast in contrasts:
            if contrast.attribute != concept.attribute:
                codes = graph.attributes[contrast.attribute].encode(table[contrast.attribute])
                follows.append(_follows(concept.name, contrast, graph, codes, s, u, g))
    empty = ReaderQuality.unknown(())
    frame = pd.DataFrame.from_dict(overall, orient="index", columns=list(COLUMNS)).rename_axis("concept")
    return ReaderQuality(frame, pd.DataFrame(within, columns=empty.within.columns),
                         pd.DataFrame(follows, columns=empty.follows.columns))  # fmt: skip


def _overall(s: np.ndarray, u: np.ndarray, g: np.ndarray, rng: np.random.Generator, resamples: int) -> list[float]:
    n1, n0 = float((u == 1).sum()), float((u == 0).sum())
    if min(n1, n0) < MIN_CELL:
        return [np.nan] * 8 + [n1, n0, n1 / max(n1 + n0, 1)]
    slope, se = _clustered_slope(u, s, g)
    members = [np.flatnonzero(g == k) for k in np.unique(g)]
    draws = []
    for _ in range(resamples):
        picked = np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))])
        draws.append(auroc(s[picked], u[picked] == 1))
    low, high = np.nanquantile(draws, [0.025, 0.975])
    bins = np.array_split(np.argsort(s, kind="stable"), 10)
    ece = sum(len(b) * abs(s[b].mean() - u[b].mean()) for b in bins if len(b)) / len(s)
    return [auroc(s, u == 1), low, high, slope, se, slope - 1.96 * se, slope + 1.96 * se, ece, n1, n0, n1 / (n1 + n0)]


def _clustered_slope(x: np.ndarray, y: np.ndarray, g: np.ndarray, *others: np.ndarray) -> tuple[float, float]:
    """Least-squares slope of y on x (and ``others``) with a patient-clustered standard error."""
    import statsmodels.api as sm

    design = np.column_stack([np.ones(len(x)), x, *others])
    fit = sm.OLS(y, design).fit(cov_type="cluster", cov_kwds={"groups": g})
    return float(fit.params[1]), float(fit.bse[1])


def _within(
    concept: str, name: str, graph: CausalGraph, codes: np.ndarray, s: np.ndarray, u: np.ndarray
) -> list[list[Any]]:
    attribute = graph.attributes[name]
    own = auroc(np.nan_to_num(codes, nan=np.nanmean(codes)), u == 1)
    own = max(own, 1 - own)  # the column may point either way
    if isinstance(attribute, Continuous):
        cuts = np.nanquantile(codes, [0.25, 0.5, 0.75])
        levels = [(f"quartile {q + 1}", np.digitize(codes, cuts) == q) for q in range(4)]
    else:
        levels = [(str(level), codes == i) for i, level in enumerate(attribute.levels)]
    rows = []
    for label, here in levels:
        n1, n0 = int((u[here] == 1).sum()), int((u[here] == 0).sum())
        value = auroc(s[here], u[here] == 1) if min(n1, n0) >= MIN_CELL else float("nan")
        rows.append([concept, name, label, value, own, n1, n0])
    return rows


def _follows(
    concept: str, contrast: Contrast, graph: CausalGraph, codes: np.ndarray, s: np.ndarray, u: np.ndarray, g: np.ndarray
) -> list[Any]:
    attribute = graph.attributes[contrast.attribute]
    if contrast.kind == "shift":
        x = codes / float(contrast.shift or 1.0)
        keep = ~np.isnan(x)
    else:
        assert not isinstance(attribute, Continuous)
        level, reference = (attribute.levels.index(attribute.check(v)) for v in (contrast.level, contrast.reference))
        x, keep = (codes == level).astype(float), (codes == level) | (codes == reference)
    if not keep.any():
        return [concept, contrast.attribute, *[np.nan] * 4]
    ahead = x > np.median(x[keep]) if contrast.kind == "shift" else x == 1
    # Where the concept goes with the attribute, one of its two strata may have hardly any image on one side.
    usable = np.zeros(len(s), dtype=bool)
    for value in (0, 1):
        stratum = (u == value) & keep
        if min((stratum & ahead).sum(), (stratum & ~ahead).sum()) >= MIN_CELL:
            usable |= stratum
    if not usable.any():
        return [concept, contrast.attribute, *[np.nan] * 4]
    strata = [u[usable]] if len(np.unique(u[usable])) > 1 else []
    shift, se = _clustered_slope(x[usable], s[usable], g[usable], *strata)
    return [concept, contrast.attribute, shift, se, shift - 1.96 * se, shift + 1.96 * se]
