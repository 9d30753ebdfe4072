"""Fill missing metadata with what a reader sees, and leave open what it does not see well enough.

For an attribute A with missing values, the rows where it is known teach how the reader's scores go with it. That gives the
*likelihood* of a score under each level; the *prior* is how common the levels are, or what an attribute SCM says of the row's
other attributes. Their product is the posterior. Whether a level is filled in is not left to the posterior, which is only as
right as its assumptions: a conformal prediction set (Vovk et al. 2005; Mondrian: each level calibrated on its own images, Vovk
2012) holds the true level with the probability asked for, *among the images of each level*, however wrong the posterior is and
however rare the level. One level in the set: it is filled in. None or several: the value stays missing, with the reason.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from scipy.special import logit, softmax

from causal_cxr.data.dataset import Dataset, UnreadableImages
from causal_cxr.graphs import Attribute, CausalGraph, Continuous, Value
from causal_cxr.readers.judging import BATCH, read_rows, warn_of_unknown
from causal_cxr.readers.probe import ProbeReader
from causal_cxr.readers.reader import Reader

MIN_PATIENTS = 10  #: of each level, to learn how scores go with it
LEAST_SCORE = 1e-4  #: nearer to 0 or 1, differences between scores say nothing


class Prior(Protocol):
    """What is asked of an attribute model: :class:`causal_cxr.graphs.scm.SCM` has it."""

    def log_prob(self, table: pd.DataFrame, seed: int = 0) -> np.ndarray:
        """``(n,)`` log density of the observed part of each row."""
        ...


@dataclass(frozen=True)
class Imputation:
    """What was missing, what is believed of it, and what was filled in.

    Attributes:
        attributes: the dataset's table, typed, with what could be filled in.
        posteriors: a row a missing value and level: ``row``, ``attribute``, ``level``, ``prior``, ``likelihood`` (of the scores,
            relative: the largest of the row is 1; NaN where nothing was read), ``posterior``, ``p`` (conformal: the share of
            labelled images of that level that looked no more like it; NaN: it cannot be calibrated), ``in_set``.
        abstained: as ``attributes``, bool: missing, and left so.
        reasons: a row a value left missing: ``row``, ``attribute``, ``reason``.
        calibration: a row an attribute and level: ``learnt_from`` and ``calibrated_on``, patients.
    """

    attributes: pd.DataFrame
    posteriors: pd.DataFrame
    abstained: pd.DataFrame
    reasons: pd.DataFrame
    calibration: pd.DataFrame


def impute_missing(
    reader: Reader,
    dataset: Dataset,
    graph: CausalGraph,
    *,
    attributes: Sequence[str] | None = None,
    scm: Prior | None = None,
    miss: float = 0.1,
    least_posterior: float = 0.0,
    batch_size: int = BATCH,
    seed: int = 0,
) -> Imputation:
    """Posteriors for what is missing in the metadata; values where one level alone is left.

    Patients whose value is known and on whom the reader was not fitted are dealt into two halves: one to learn the
    likelihood (multinomial logistic regression on the logits of the scores, patients weighing the same, class frequencies
    divided out), one to calibrate the sets, with one image a patient, so that they count independent patients (Dunn,
    Wasserman & Ramdas, JASA 2023). Assumed for the coverage: that, given A, an image whose value is missing looks like one whose
    value is known; so missing values may be of another mix of levels, and hang on other attributes. That is why sets hang on the
    scores alone, and the SCM's news enters the posterior only. Assumed for the posterior besides: given A, scores hang on no
    other attribute (a reader that follows others tells the SCM's news twice; see ``quality.follows``).

    Args:
        reader: has concepts of the attributes: of a ``Binary`` one, of a ``Categorical`` as many as are there. A cross-fitted
            one reads each patient by a head that has not seen them; a :class:`~causal_cxr.readers.ProbeReader` that was fitted
            here reads new patients by one head too (:meth:`ProbeReader.dealt`), as it reads those that calibrate. The mean
            over heads is spread otherwise, so that sets which one head calibrated would not hold what they should.
        dataset: its missing values are filled.
        graph: types the table.
        attributes: to fill; all labelled ones with missing values unless given.
        scm: fitted to this table: the prior is then P(A | the row's other attributes), else how common each level is.
        miss: share of the images of each level whose true level a set may miss, in (0, 1).
        least_posterior: abstain also where the one level that is left has a lower posterior.
        batch_size: images at a time.
        seed: deals patients to halves and picks their images.

    Raises:
        ValueError: ``miss`` is no share; an attribute that the graph has no column for.

    Warns:
        RuntimeWarning: it is not known whom the reader was fitted on, so it may have seen the labels that calibrate it.
    """
    if not 0 < miss < 1:
        raise ValueError(f"miss is {miss}; give the share of true levels that a set may miss, such as 0.1.")
    unknown = sorted(set(attributes or ()) - set(graph.labelled))
    if unknown:
        raise ValueError(f"Cannot fill {unknown}; the graph's labelled attributes are {list(graph.labelled)}.")
    warn_of_unknown(reader)
    if isinstance(reader, ProbeReader) and reader.folds.keys() & set(dataset.patients.astype(str)):
        reader = reader.dealt(dataset.patients.astype(str))
    table = graph.coerce(dataset.attributes)
    filled, holes = table.copy(), table.isna()
    wanted = [name for name in graph.labelled if (attributes is None or name in attributes) and holes[name].any()]
    scores, unreadable = _scores(reader, dataset, holes, wanted, batch_size)
    posteriors, reasons, calibration = [], [], []
    for name in wanted:
        rows = np.flatnonzero(holes[name]).tolist()
        attribute, asked = graph.attributes[name], [j for j, c in enumerate(reader.concepts) if c.attribute == name]
        cannot = _cannot(attribute, asked, reader.name)
        if cannot is None:
            made = _Levels(attribute, reader, dataset, table, scores[:, asked], miss, seed)
            calibration += made.counts()
            cannot = made.cannot
        if cannot is not None:
            reasons += [[row, name, cannot] for row in rows]
            continue
        prior = made.prior(table.iloc[rows], scm, seed)
        found = made.judge(scores[np.ix_(rows, asked)], prior)
        codes = made.codes.copy()
        for i, row in enumerate(rows):
            if row in unreadable:
                reason: str | None = f"the image cannot be read: {unreadable[row]}"
            else:
                reason = made.reason(found, i, least_posterior)
            if reason is None:
                codes[row] = np.argmax(found["in_set"][i])
            else:
                reasons.append([row, name, reason])
        filled[name] = attribute.decode(codes).set_axis(filled.index)
        posteriors.append(made.table(np.asarray(rows), found))
    columns = ["row", "attribute", "level", "prior", "likelihood", "posterior", "p", "in_set"]
    return Imputation(
        filled,
        pd.concat(posteriors, ignore_index=True) if posteriors else pd.DataFrame(columns=columns),
        filled.isna() & holes,
        pd.DataFrame(reasons, columns=["row", "attribute", "reason"]),
        pd.DataFrame(calibration, columns=["attribute", "level", "learnt_from", "calibrated_on"]),
    )


def _scores(
    reader: Reader, dataset: Dataset, holes: pd.DataFrame, wanted: Sequence[str], batch_size: int
) -> tuple[np.ndarray, dict[int, str]]:
    """``(images, k)``, NaN where nothing was read; and why an image was not."""
    scores, bad = np.full((len(holes), len(reader.concepts)), np.nan), dict[int, str]()
    if not any(concept.attribute in wanted for concept in reader.concepts):
        return scores, bad
    for start in range(0, len(holes), batch_size):
        part = np.arange(start, min(start + batch_size, len(holes)))
        while len(part):
            try:
                scores[part] = read_rows(reader, dataset, part, batch_size=batch_size)
                break
            except UnreadableImages as error:
                bad |= error.problems
                part = part[~np.isin(part, list(error.problems))]
    return scores, bad


def _cannot(attribute: Attribute, asked: Sequence[int], reader: str) -> str | None:
    """Why the reader cannot be asked of this attribute."""
    if isinstance(attribute, Continuous):
        return f"{attribute.name} is a number: a reader tells at most on which side of a limit it lies"
    if not asked:
        return f"the reader {reader!r} has no concept of {attribute.name}"
    return None


class _Levels:
    """What scores say of the levels of one attribute."""

    def __init__(
        self,
        attribute: Any,
        reader: Reader,
        dataset: Dataset,
        table: pd.DataFrame,
        scores: np.ndarray,
        miss: float,
        seed: int,
    ) -> None:
        self.attribute, self.levels, self.miss = attribute, tuple(attribute.levels), miss
        codes, patients = attribute.encode(table[attribute.name]), dataset.patients.astype(str).to_numpy()
        known = ~np.isnan(codes) & ~np.isnan(scores).any(axis=1) & ~np.isin(patients, list(reader.fitted_on or ()))
        names = np.unique(patients[known])
        rng = np.random.default_rng([seed, 9])
        dealt = pd.Series(rng.permutation(len(names)) % 2, index=names)
        half = dealt.reindex(patients).to_numpy()
        self.learn, calibrate = known & (half == 0), known & (half == 1)
        # One image a patient and level: images of a patient are no independent evidence of how a level looks.
        order = rng.permutation(len(codes))
        order = order[calibrate[order]]
        once = pd.DataFrame({"patient": patients[order], "code": codes[order]}).drop_duplicates().index
        self.calibrate = order[once]
        self.codes, self.patients, self.frequency = codes, patients, self._frequency(codes[known], patients[known])
        learnt, kept = self._patients_by_level()
        few = [f"{level} ({a})" for level, a in zip(self.levels, learnt, strict=True) if a < MIN_PATIENTS]
        self.cannot: str | None = None
        if few:
            self.cannot = f"too few labelled patients to learn {attribute.name} = {', '.join(few)} from: {MIN_PATIENTS} are needed"
            return
        needed = int(np.ceil(1 / miss)) - 1
        few = [f"{level} ({a})" for level, a in zip(self.levels, kept, strict=True) if a < needed]
        if few:
            self.cannot = f"too few labelled patients to rule {attribute.name} = {', '.join(few)} out at miss={miss:g}: {needed} are needed"
            return
        self._fit(scores)
        prior = np.tile(self.frequency, (len(self.calibrate), 1))
        self.own = self._nonconformity(self._likelihood(scores[self.calibrate]), prior)

    def _frequency(self, codes: np.ndarray, patients: np.ndarray) -> np.ndarray:
        weights = _a_patient_once(patients)
        counts = np.bincount(codes.astype(int), weights=weights, minlength=len(self.levels))
        return counts / max(counts.sum(), 1e-12)

    def _patients_by_level(self) -> tuple[list[int], list[int]]:
        learnt = [len(np.unique(self.patients[self.learn & (self.codes == i)])) for i in range(len(self.levels))]
        return learnt, [int((self.codes[self.calibrate] == i).sum()) for i in range(len(self.levels))]

    def counts(self) -> list[list[Any]]:
        """Rows of the calibration table."""
        return [
            [self.attribute.name, level, *n] for level, *n in zip(self.levels, *self._patients_by_level(), strict=True)
        ]

    def _fit(self, scores: np.ndarray) -> None:
        from sklearn.linear_model import LogisticRegression

        codes, weights = self.codes[self.learn].astype(int), _a_patient_once(self.patients[self.learn])
        self.seen = np.bincount(codes, weights=weights, minlength=len(self.levels)) / weights.sum()
        self.model = LogisticRegression(C=1.0, max_iter=1000).fit(
            _margins(scores[self.learn]), codes, sample_weight=weights
        )

    def _likelihood(self, scores: np.ndarray) -> np.ndarray:
        """``(n, levels)`` log P(scores | level), up to a number a row."""
        return self.model.predict_log_proba(_margins(scores)) - np.log(self.seen)

    @staticmethod
    def _nonconformity(log_likelihood: np.ndarray, prior: np.ndarray) -> np.ndarray:
        return 1 - softmax(log_likelihood + np.log(np.maximum(prior, 1e-12)), axis=1)

    def prior(self, table: pd.DataFrame, scm: Prior | None, seed: int) -> np.ndarray:
        """``(n, levels)``."""
        if scm is None:
            return np.tile(self.frequency, (len(table), 1))
        name = self.attribute.name
        joint = []
        for level in self.levels:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", RuntimeWarning
                )  # hardly possible under this level: that is what is asked
                joint.append(
                    scm.log_prob(
                        table.assign(**{name: self.attribute.coerce(pd.Series([level] * len(table), table.index))}),
                        seed,
                    )
                )
        return softmax(np.stack(joint, axis=1), axis=1)

    def judge(self, scores: np.ndarray, prior: np.ndarray) -> dict[str, np.ndarray]:
        """``(n, levels)`` each; the sets hang on the scores alone, as the calibration did."""
        log_likelihood = self._likelihood(np.nan_to_num(scores, nan=0.5))
        unlike = self._nonconformity(log_likelihood, np.tile(self.frequency, (len(scores), 1)))
        p = np.empty_like(unlike)
        for i in range(len(self.levels)):
            mine = np.sort(self.own[self.codes[self.calibrate] == i, i])
            p[:, i] = (1 + len(mine) - np.searchsorted(mine, unlike[:, i] - 1e-12)) / (len(mine) + 1)
        likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
        found = {
            "prior": prior,
            "likelihood": likelihood,
            "posterior": 1 - self._nonconformity(log_likelihood, prior),
            "p": p,
        }
        missing = np.isnan(scores).any(axis=1)
        found["posterior"][missing] = prior[missing]
        found["likelihood"][missing] = found["p"][missing] = np.nan
        return found | {"in_set": ~(p <= self.miss)}

    def reason(self, found: dict[str, np.ndarray], i: int, least_posterior: float) -> str | None:
        """Why the i-th value is left missing."""
        name, left = self.attribute.name, np.flatnonzero(found["in_set"][i])
        if len(left) > 1:
            return f"{name} may be " + " or ".join(str(self.levels[k]) for k in left)
        if not len(left):
            return f"it looks like no level of {name} that is labelled"
        if found["posterior"][i, left[0]] < least_posterior:
            return (f"{name} = {self.levels[left[0]]} has posterior {found['posterior'][i, left[0]]:.2f}, under "
                    f"{least_posterior:g}")  # fmt: skip
        return None

    def table(self, rows: np.ndarray, found: dict[str, np.ndarray]) -> pd.DataFrame:
        """Rows of the posteriors."""
        k = len(self.levels)
        levels: list[Value] = list(self.levels) * len(rows)
        return pd.DataFrame(
            {"row": np.repeat(rows, k), "attribute": self.attribute.name, "level": pd.Series(levels, dtype=object),
             **{name: values.ravel() for name, values in found.items()}}
        )  # fmt: skip


def _margins(scores: np.ndarray) -> np.ndarray:
    return logit(np.clip(scores, LEAST_SCORE, 1 - LEAST_SCORE))


def _a_patient_once(patients: np.ndarray) -> np.ndarray:
    """``(n,)`` weights that add to 1 within each patient."""
    _, group, count = np.unique(patients, return_inverse=True, return_counts=True)
    return 1 / count[group]
