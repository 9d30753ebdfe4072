"""Weights under which an attribute no longer goes with what it is confounded by.

Stabilised weights of inverse propensity (Robins, Hernan and Brumback, Epidemiology 2000): ``P(A) / P(A | Z)``. In the weighted
rows A is independent of Z, so that what co-occurs with A there is what A brings about, given that Z is all that confounds it.
They do not cure a hidden cause of A and the image, nor an attribute that is caused by what the image shows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.graphs import CausalGraph, Continuous

KNOTS = 5  #: of the cubic splines by which continuous confounders enter


@dataclass(frozen=True)
class RowWeights:
    """Weights of ``n`` rows.

    Attributes:
        each: ``(n,)``, mean 1 over the rows where the attribute is known, 0 where it is not.
        adjusted_for: Z.
        clipped: share of the known rows whose weight was cut.
    """

    each: np.ndarray
    adjusted_for: tuple[str, ...]
    clipped: float

    @property
    def effective(self) -> float:
        """See :func:`effective_sample_size`."""
        return effective_sample_size(self.each)


@dataclass(frozen=True)
class Balanced:
    """Weights ``P(A) / P(A | Z(A))``, Z(A) read off the graph.

    Levels: ``P(A | Z)`` by multinomial logistic regression on one-hot levels, splines of numbers, and what is missing, each
    for itself. A continuous A: the ratio of normal densities about its mean and about its linear regression on the same.

    Attributes:
        graph: declared.
        attribute: A.
        truncate: quantiles of the weights beyond which they are cut (Cole and Hernan, 2008): less variance, some bias.
        classifier: of scikit-learn, in place of the logistic regression, e.g. ``HistGradientBoostingClassifier()`` where
            confounders act together.
    """

    graph: CausalGraph
    attribute: str
    truncate: tuple[float, float] = (0.01, 0.99)
    classifier: Any = None

    def __post_init__(self) -> None:
        low, high = self.truncate
        if not 0 <= low < high <= 1:
            raise ValueError(f"truncate={self.truncate} must be two quantiles, 0 <= low < high <= 1.")

    def __repr__(self) -> str:
        return (
            f"Balanced({self.attribute!r} given {sorted(self.adjustment)}, truncate={self.truncate}, {self.classifier})"
        )

    @property
    def adjustment(self) -> frozenset[str]:
        """Z(A).

        Raises:
            ValueError: no labelled attributes block what confounds A.
        """
        found = self.graph.adjustment_set(self.attribute)
        if found is None:
            raise ValueError(
                f"By the graph no set of labelled attributes blocks what confounds {self.attribute!r} (a declared hidden "
                "common cause?); no weights can balance it."
            )
        return found

    def of(self, table: pd.DataFrame) -> RowWeights:
        """Weights of a table's rows.

        Raises:
            ValueError: a column is missing; A is known in no row, or has one value only.
        """
        z = tuple(name for name in self.graph.attributes if name in self.adjustment)
        missing = [name for name in (self.attribute, *z) if name not in table]
        if missing:
            raise ValueError(f"Balancing {self.attribute!r} needs the columns {missing}; the table has {list(table)}.")
        attribute = self.graph.attributes[self.attribute]
        codes = attribute.encode(table[self.attribute])
        known = ~np.isnan(codes)
        if len(np.unique(codes[known])) < 2:
            raise ValueError(f"{self.attribute!r} does not vary in these rows; there is nothing to balance.")
        ratio = np.ones(int(known.sum()))
        if z:
            features = self._features(table[known], z)
            if isinstance(attribute, Continuous):
                ratio = _density_ratio(features, codes[known])
            else:
                ratio = _level_ratio(features, codes[known], self.classifier)
        low, high = np.quantile(ratio, self.truncate)
        cut = np.clip(ratio, low, high)
        values = np.zeros(len(table))
        values[known] = cut / cut.mean()
        return RowWeights(values, z, float(np.mean(cut != ratio)))

    def _features(self, table: pd.DataFrame, names: tuple[str, ...]) -> np.ndarray:
        """``(n, p)`` numbers that stand for attributes; what is missing is a level of its own."""
        from sklearn.preprocessing import SplineTransformer

        columns = []
        for name in names:
            attribute = self.graph.attributes[name]
            codes = attribute.encode(table[name])
            gaps = np.isnan(codes)
            if isinstance(attribute, Continuous):
                filled = np.where(gaps, np.nanmean(codes) if not gaps.all() else 0.0, codes)[:, None]
                splines = SplineTransformer(KNOTS, knots="quantile", include_bias=False)
                columns.append(splines.fit_transform(filled) if np.ptp(filled) > 0 else np.zeros_like(filled))
            else:
                columns.append(np.stack([codes == k for k in range(1, len(attribute.levels))], 1).astype(float))
            columns.append(gaps[:, None].astype(float))
        return np.hstack(columns)


def effective_sample_size(weights: np.ndarray) -> float:
    """``(sum w)^2 / sum w^2`` (Kish, 1965): as many rows of equal weight say as much.

    >>> effective_sample_size(np.array([1.0, 1.0, 0.0]))
    2.0
    """
    return float(weights.sum() ** 2 / np.square(weights).sum())


def _level_ratio(features: np.ndarray, codes: np.ndarray, classifier: Any) -> np.ndarray:
    """``P(A) / P(A | Z)`` of each row's own level."""
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression

    # A weak penalty: cells in which A does not vary stay finite.
    model: Any = LogisticRegression(C=1e3, max_iter=2_000) if classifier is None else clone(classifier)
    model.fit(features, codes.astype(int))
    column = np.searchsorted(model.classes_, codes.astype(int))
    given = model.predict_proba(features)[np.arange(len(codes)), column]
    marginal = np.bincount(column, minlength=len(model.classes_)) / len(codes)
    return marginal[column] / given


def _density_ratio(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``p(A) / p(A | Z)`` of normal densities, A regressed on Z."""
    from scipy.stats import norm
    from sklearn.linear_model import Ridge

    expected = Ridge(alpha=1e-6).fit(features, values).predict(features)
    spread = float(np.std(values - expected))
    if spread < 1e-9 * float(np.std(values)):
        raise ValueError("The attribute is a function of what it is to be balanced for: there is no overlap.")
    return np.exp(norm.logpdf(values, values.mean(), values.std()) - norm.logpdf(values, expected, spread))
