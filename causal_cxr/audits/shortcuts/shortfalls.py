"""What a gain misses where an edit moves signs less, or more, than they go with the attribute in the data.

An editor that leaves pacemakers where they are when it sets the disease hides a classifier's reliance on pacemakers. The
gain is therefore told a second time with the editor's movement of each sign replaced by that of unedited images::

    made up = gain + sum_c  slope_c * (movement of c in the data - movement of c by the edit) / reliability_c

The data's movement is the regression of the sign's reading on the attribute, all other labelled attributes held; the
slope is that of the score on the reading, with the attribute, the others and the other signs held: the mediated part of
a linear model (Baron and Kenny 1986; VanderWeele 2015, section 2.2) put in the place of the edit's own. It rests on what
no edit needs: that nothing unlabelled goes with attribute and sign, or with sign and score. So it ranks and it warns, and it
never makes a verdict. A reader that errs makes slopes and movements too small, their product by its reliability, which is
known (:func:`reliability`); what a reader sees of the attribute itself is in both movements alike and cancels out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from causal_cxr.audits.associations import overlaps
from causal_cxr.audits.effects import Effect, covariate_columns
from causal_cxr.graphs import CausalGraph, Continuous, Contrast
from causal_cxr.statistics.clustered import cluster_sums

LEAST = 0.1  #: reliability that is divided by; below it a reader tells next to nothing


@dataclass(frozen=True)
class Shortfall:
    """One score's gain under one contrast, and what it misses.

    Attributes:
        missing: the sum above, with its error.
        made_up: gain and ``missing``, with the error of both together.
        most: the sign that adds most to ``missing`` in its own direction.
        edited, data: how far the edit and the data move this sign's reading.
    """

    missing: Effect
    made_up: Effect
    most: str
    edited: float
    data: float


@dataclass(frozen=True)
class Reliability:
    """Squared correlation of a reader's scores with the concept, and its relative error."""

    share: float = 1.0
    relative_se: float = 0.0


def reliability(scores: np.ndarray, prevalence: float, slope: float, slope_se: float) -> Reliability:
    """What is left of a slope times a movement when both are taken on a reader's scores (Spearman 1904).

    The score's mean is linear in the concept with slope J, so that its covariance with the concept is J p (1 - p), and the
    squared correlation J^2 p (1 - p) / var(score). Of what other columns explain of the concept it takes no account, so the
    correction stays on the small side.

    Args:
        scores: ``(n,)`` of unedited images.
        prevalence: p, of the concept among them.
        slope, slope_se: J > 0 and its error.

    >>> rng = np.random.default_rng(0)
    >>> there = rng.uniform(size=100_000) < 0.3
    >>> read = 0.2 + 0.5 * there + 0.25 * rng.normal(size=100_000)
    >>> found = reliability(read, 0.3, 0.5, 0.01).share
    >>> bool(abs(found - np.corrcoef(read, there)[0, 1] ** 2) < 0.01)
    True
    """
    spread = float(scores.var())
    share = slope**2 * prevalence * (1 - prevalence) / spread if spread > 0 else 1.0
    return Reliability(float(np.clip(share, LEAST, 1.0)), 2 * slope_se / slope)


class DataSide:
    """The unedited images' side of a contrast, as sums over patients.

    Args:
        graph: declared; all its other labelled attributes are held.
        table: typed labels, index = rows.
        factual: unedited scores and ``patient``, index = rows.
        contrast: in question.
        signs: column of readings, of what no column of the table names -> how reliable they are.
        scores: columns of the models' probabilities.

    Images that miss a label, or are at a level that the contrast is not about, are left out.
    """

    def __init__(
        self, graph: CausalGraph, table: pd.DataFrame, factual: pd.DataFrame, contrast: Contrast,
        signs: Mapping[str, Reliability], scores: Sequence[str],
    ) -> None:  # fmt: skip
        attribute = graph.attributes[contrast.attribute]
        others = [name for name in graph.labelled if name != contrast.attribute]
        treatment = contrast.treatment(attribute, attribute.encode(table.loc[factual.index, contrast.attribute]))
        keep = ~np.isnan(treatment) & table.loc[factual.index, others].notna().all(axis=1).to_numpy()
        self.contrast, self.signs, self.scores = contrast, tuple(signs), tuple(scores)
        self._reliable = np.array([about.share for about in signs.values()])
        self._relative = np.array([about.relative_se for about in signs.values()])
        self.graph, self.known, self.treatment = graph, table.loc[factual.index[keep]], treatment[keep]
        self.patients = factual.loc[keep, "patient"].to_numpy()
        held: dict[str, np.ndarray] = {}
        for name in others:
            held |= covariate_columns(self.known[name], graph.attributes[name].encode(self.known[name]))
        readings = factual.loc[keep, list(signs)].to_numpy(dtype=float)
        self._held = len(held) + 1
        self._X = np.column_stack([np.ones(int(keep.sum())), *held.values(), self.treatment, readings])
        self._Y = factual.loc[keep, list(scores)].to_numpy(dtype=float)

    def shortfalls(self, paired: pd.DataFrame) -> Mapping[str, Shortfall]:
        """Score -> what its gain misses; empty where the unedited images cannot tell.

        Args:
            paired: oriented differences of the edits that hold the other labelled attributes, with ``patient``.

        Errors are of the jackknife that leaves out a patient, edited and unedited images together.
        """
        if not self.signs or len(np.unique(self.treatment)) < 2 or not self._overlap(paired.index):
            return {}
        ids = np.unique(np.concatenate([self.patients, paired["patient"].to_numpy()]))
        count = len(ids)
        groups, edited = (np.searchsorted(ids, of) for of in (self.patients, paired["patient"].to_numpy()))
        columns, width = len(self.signs), self._X.shape[1]
        products = (self._X[:, :, None] * np.concatenate([self._X, self._Y], axis=1)[:, None, :]).reshape(
            len(self._X), -1
        )
        changes = np.column_stack([paired[[*self.signs, *self.scores]].to_numpy(dtype=float), np.ones(len(paired))])
        sums, moved = cluster_sums(products, groups, count), cluster_sums(changes, edited, count)

        def told(crossed: np.ndarray, change: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
            """``(b, signs)`` movements by edit and in the data, ``(b, signs, scores)`` slopes, ``(b, scores)`` gains."""
            square = crossed.reshape(len(crossed), width, -1)
            gram, cross = square[:, :, :width], square[:, :, width:]
            least = self._held + 1  # of intercept, held attributes and treatment
            data = np.linalg.pinv(gram[:, :least, :least], hermitian=True) @ gram[:, :least, least:]
            slopes = np.linalg.pinv(gram, hermitian=True) @ cross
            means = change[:, :-1] / change[:, -1:]
            return means[:, :columns], data[:, self._held], slopes[:, least:], means[:, columns:]

        by_edit, in_data, slopes, gains = told(sums.sum(axis=0)[None], moved.sum(axis=0)[None])
        parts = slopes[0] * ((in_data[0] - by_edit[0]) / self._reliable)[:, None]
        missing = parts.sum(axis=0)
        m, d, s, g = told(sums.sum(axis=0) - sums, moved.sum(axis=0) - moved)
        left = np.einsum("bcm,bc->bm", s, (d - m) / self._reliable)
        readers = ((parts * self._relative[:, None]) ** 2).sum(axis=0)  # judged on other patients
        spread = [(count - 1) / count * ((x - x.mean(axis=0)) ** 2).sum(axis=0) for x in (left, left + g)]
        errors = [np.sqrt(variance + readers) for variance in spread]
        found = {}
        for j, score in enumerate(self.scores):
            most = int(np.argmax(parts[:, j] * np.sign(missing[j])))
            found[score] = Shortfall(
                Effect(float(missing[j]), float(errors[0][j]), count - 1.0, len(paired), count),
                Effect(float(gains[0][j] + missing[j]), float(errors[1][j]), count - 1.0, len(paired), count).unsettled(),
                self.signs[most], float(by_edit[0][most]), float(in_data[0][most]),
            )  # fmt: skip
        return found

    def _overlap(self, edited: pd.Index) -> bool:
        attribute = self.graph.attributes[self.contrast.attribute]
        others = frozenset(self.graph.labelled) - {self.contrast.attribute}
        standard = self.known.index.isin(edited)
        continuous = isinstance(attribute, Continuous)
        return bool(standard.any()) and overlaps(self.graph, self.known, self.treatment, others, standard, continuous)
