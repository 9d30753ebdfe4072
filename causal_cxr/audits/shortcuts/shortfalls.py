"""What a gain misses where an edit moves signs less, or more, than they go with the attribute in the data.

An editor that leaves pacemakers where they are when it sets the disease hides a classifier's reliance on pacemakers. The
gain is therefore told a second time with the editor's movement of each sign replaced by that of unedited images::

    made up = gain + sum_c  slope_c * (movement of c in the data - movement of c by the edit)

The data's movement is the regression of the sign's reading on the attribute, all other labelled attributes held; the
slope is that of the score on the reading, with the attribute, the others and the other signs held: the mediated part of
a linear model (Baron and Kenny 1986; VanderWeele 2015, section 2.2) put in the place of the edit's own. It rests on what
no edit needs: that nothing unlabelled goes with attribute and sign, or with sign and score. So it ranks and it warns, and it
never makes a verdict. A reader that errs makes slopes too small, and thus the correction; what a reader sees of the
attribute itself is in both movements alike and cancels out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from causal_cxr.audits.associations import overlaps
from causal_cxr.audits.effects import Effect, covariate_columns
from causal_cxr.audits.effects.clustered import cluster_sums
from causal_cxr.graphs import CausalGraph, Continuous, Contrast


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


class Unedited:
    """The unedited images' side of a contrast, as sums over patients.

    Args:
        graph: declared; all its other labelled attributes are held.
        table: typed labels, index = rows.
        factual: unedited scores and ``patient``, index = rows.
        contrast: in question.
        signs: columns of readings, of what no column of the table names.
        scores: columns of the models' probabilities.

    Images that miss a label, or are at a level that the contrast is not about, are left out.
    """

    def __init__(
        self, graph: CausalGraph, table: pd.DataFrame, factual: pd.DataFrame, contrast: Contrast, signs: Sequence[str],
        scores: Sequence[str],
    ) -> None:  # fmt: skip
        attribute = graph.attributes[contrast.attribute]
        others = [name for name in graph.labelled if name != contrast.attribute]
        treatment = contrast.treatment(attribute, attribute.encode(table.loc[factual.index, contrast.attribute]))
        keep = ~np.isnan(treatment) & table.loc[factual.index, others].notna().all(axis=1).to_numpy()
        self.contrast, self.signs, self.scores = contrast, tuple(signs), tuple(scores)
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
        parts = slopes[0] * (in_data[0] - by_edit[0])[:, None]
        missing = parts.sum(axis=0)
        m, d, s, g = told(sums.sum(axis=0) - sums, moved.sum(axis=0) - moved)
        left = np.einsum("bcm,bc->bm", s, d - m)
        errors = [np.sqrt((count - 1) / count * ((x - x.mean(axis=0)) ** 2).sum(axis=0)) for x in (left, left + g)]
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
