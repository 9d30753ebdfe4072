"""A causal question as arrays: what every estimator of the observational side is given."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from causal_cxr.audits.associations import overlaps, shifted
from causal_cxr.audits.effects import design_matrix
from causal_cxr.audits.falsification import attribute_columns
from causal_cxr.graphs import Categorical, CausalGraph, Continuous, Contrast

FEWEST = 10  #: patients below which, at either level, nothing is asked


class UnanswerableError(ValueError):
    """The data or the estimator cannot answer; the message says why, for the ``reason`` of a row."""


@dataclass(frozen=True)
class Question:
    """One contrast and its outcomes, over the images that have all that is needed.

    Attributes:
        treatment: ``(n,)`` 0 or 1, or, if ``continuous``, in units of the contrast's shift, centred.
        continuous: whether the treatment is a number.
        covariates: attribute -> ``(n, c)`` centred columns (dummies, or a cubic) of what is held fixed.
        outcomes: ``(n, k)``.
        patients: ``(n,)`` ids.
        rows: ``(n,)`` positions in the table that the question was asked of.
    """

    treatment: np.ndarray
    continuous: bool
    covariates: Mapping[str, np.ndarray]
    outcomes: np.ndarray
    patients: np.ndarray
    rows: np.ndarray

    @property
    def held(self) -> np.ndarray:
        """``(n, c)`` columns of all covariates; no column if there is none."""
        return np.column_stack([np.empty((len(self.treatment), 0)), *self.covariates.values()])

    def designs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``(n, p)`` design of the outcome regression, and the same with the treatment at a0 and at a1."""
        columns = {str(i): column for i, column in enumerate(self.held.T)}
        if self.continuous:
            high, low = shifted(self.treatment)
        else:
            low, high = np.zeros_like(self.treatment), np.ones_like(self.treatment)
        seen, at_low, at_high = (design_matrix(t, columns, self.continuous) for t in (self.treatment, low, high))
        return seen, at_low, at_high

    def only(self, keep: np.ndarray) -> "Question":
        """The question asked of some of its images (positions or bools)."""
        return Question(
            self.treatment[keep], self.continuous, {name: columns[keep] for name, columns in self.covariates.items()},
            self.outcomes[keep], self.patients[keep], self.rows[keep],
        )  # fmt: skip

    def one_image_a_patient(self, most: int, seed: int) -> "Question":
        """One image, drawn at random, of each of at most ``most`` patients: rows that are independent of each other.

        Both levels of a treatment keep their shares among these images, up to rounding: a rare one is not lost by chance.
        """
        order = np.random.default_rng(seed).permutation(len(self.patients))
        first = order[np.unique(self.patients[order], return_index=True)[1]]
        first = np.random.default_rng([seed, 1]).permutation(first)
        share = min(1.0, most / len(first))
        levels = [np.ones(len(first), dtype=bool)] if self.continuous else [self.treatment[first] == k for k in (0, 1)]
        return self.only(np.sort(np.concatenate([first[at][: round(share * at.sum())] for at in levels])))

    def refuse_few(self, attribute: str, fewest: int = FEWEST) -> None:
        """Raise UnanswerableError where fewer patients than that have either level of the treatment, called ``attribute``."""
        t = self.treatment
        levels = [np.ones(len(t), dtype=bool)] if self.continuous else [t == 0, t == 1]
        count = min(len(np.unique(self.patients[at])) for at in levels)
        if count < fewest or np.ptp(t) == 0:
            raise UnanswerableError(f"only {count} patients at the rarer level of {attribute}; {fewest} are needed")

    def holding(self, covariates: Mapping[str, np.ndarray]) -> "Question":
        """The question with other covariates."""
        return replace(self, covariates=covariates)


def pose(
    graph: CausalGraph,
    table: pd.DataFrame,
    patients: np.ndarray,
    outcomes: np.ndarray,
    contrast: Contrast,
    held: frozenset[str],
    *,
    needed: frozenset[str] = frozenset(),
    fewest: int = FEWEST,
) -> Question:
    """Turn a contrast into arrays.

    Args:
        graph: declared.
        table: ``n`` rows, typed by the graph.
        patients: ``(n,)`` ids.
        outcomes: ``(n, k)``; rows with a NaN are left out, as are rows that miss an attribute that is ``held`` or ``needed``.
        contrast: on a labelled attribute.
        held: labelled attributes to adjust for.
        needed: labelled attributes (mediators, instruments) that an estimator will ask for.
        fewest: patients below which, at either level, nothing is asked.

    Raises:
        UnanswerableError: too few patients at a level, or no overlap.
    """
    attribute = graph.attributes[contrast.attribute]
    treatment = contrast.treatment(attribute, attribute.encode(table[contrast.attribute]))
    continuous, keep = isinstance(attribute, Continuous), ~np.isnan(treatment)
    keep &= table[sorted(held | needed)].notna().all(axis=1).to_numpy() & ~np.isnan(outcomes).any(axis=1)
    rows = np.flatnonzero(keep)
    treatment, known = treatment[rows], table.iloc[rows]
    unheld = Question(treatment, continuous, {}, outcomes[rows], patients[rows], rows)
    unheld.refuse_few(contrast.attribute, fewest)
    if continuous:
        treatment = treatment - treatment.mean()
    if not overlaps(graph, known, treatment, held, np.ones(len(rows), dtype=bool), continuous):
        raise UnanswerableError(
            f"no overlap: given {', '.join(sorted(held))} too many images could only have one value"
        )
    covariates = {
        name: np.column_stack([np.empty((len(rows), 0)), *attribute_columns(graph, known, name).values()])
        for name in sorted(held)
    }
    return replace(unheld, treatment=treatment, covariates=covariates)


def several_levels(graph: CausalGraph, name: str) -> bool:
    """Whether a contrast of this attribute leaves levels out, which selects on it."""
    attribute = graph.attributes[name]
    return isinstance(attribute, Categorical) and len(attribute.levels) > 2
