"""Conditional independence tests for tables of levels and numbers: causal-learn's, and one for both kinds at once."""

import warnings
from collections.abc import Callable, Sequence
from copy import copy
from typing import Literal, Protocol

import numpy as np
import pandas as pd
from scipy import stats

from causal_cxr.graphs.attributes import Attribute, Categorical, Continuous

Kind = Literal["number", "levels", "ordered"]
FEWEST_ROWS = 10  #: fewer that know all the variables of a question answer none
TestByName = Callable[[str, str, tuple[str, ...]], float]


class TooFewRowsError(ValueError):
    """Fewer than :data:`FEWEST_ROWS` rows know all the variables of a question."""


class IndependenceTest(Protocol):
    """p of "column ``x`` and column ``y`` are independent given these columns"."""

    name: str

    def __call__(self, x: int, y: int, given: tuple[int, ...]) -> float: ...


class Columns:
    """A table as numbers: level codes and values, NaN where missing.

    Args:
        table: typed columns, in order.
        attributes: by name; a column that has none is a number (a reader's score).
    """

    def __init__(self, table: pd.DataFrame, attributes: dict[str, Attribute]) -> None:
        self.names: tuple[str, ...] = tuple(str(name) for name in table.columns)
        encoded = [
            attributes[name].encode(table[name]) if name in attributes else table[name].to_numpy(float)
            for name in self.names
        ]
        self.codes = np.column_stack(encoded)  # (n, k)
        self.kinds: tuple[Kind, ...] = tuple(_kind(attributes.get(name)) for name in self.names)

    def part(self, rows: np.ndarray) -> "Columns":
        """Some of the rows."""
        chosen = copy(self)
        chosen.codes = self.codes[rows]
        return chosen

    def binned(self, bins: int) -> np.ndarray:
        """``(n, k)``: numbers as quantile bins; NaN where missing.

        A cut belongs to the bin below it and lies below the largest number: however many share a value (the 0 of a score or
        a count, a ceiling), what varies is not made constant.
        """
        columns = []
        for values, kind in zip(self.codes.T, self.kinds, strict=True):
            if kind == "number":
                known = ~np.isnan(values)
                some = values[known]
                below = some[some < some.max()].max(initial=-np.inf)
                cuts = np.unique(np.minimum(np.quantile(some, np.arange(1, bins) / bins), below))
                values = np.where(known, np.searchsorted(cuts, values, side="left").astype(float), np.nan)
            columns.append(values)
        return np.column_stack(columns)


def _kind(attribute: Attribute | None) -> Kind:
    if attribute is None or isinstance(attribute, Continuous):
        return "number"
    return "ordered" if isinstance(attribute, Categorical) and attribute.ordered else "levels"


class LibraryTest:
    """causal-learn's ``chisq``, ``gsq`` or ``fisherz`` on the rows that know all the variables of a question.

    Args:
        values: ``(n, k)``, NaN where missing.
        names: of the columns, for messages.
        method: causal-learn's name of the test.
    """

    def __init__(self, values: np.ndarray, names: Sequence[str], method: str) -> None:
        self.name, self._values, self._names = method, values, names
        self._missing = np.isnan(values)
        self._incomplete = frozenset(np.flatnonzero(self._missing.any(axis=0)).tolist())
        self._tests: dict[frozenset[int], tuple[Callable[..., float], np.ndarray]] = {}

    def __call__(self, x: int, y: int, given: tuple[int, ...]) -> float:
        test, varies = self._test_of(frozenset((x, y, *given)) & self._incomplete, (x, y, *given))
        if not (varies[x] and varies[y]):
            return 1.0  # what does not vary goes with nothing
        p = float(test(x, y, tuple(i for i in given if varies[i])))
        if np.isnan(p):
            about = ", ".join(self._names[i] for i in (x, y, *given))
            raise ValueError(f"The {self.name} test of {about} has no answer; is one made up of others? Leave it out.")
        return p

    def _test_of(self, known: frozenset[int], asked: tuple[int, ...]) -> tuple[Callable[..., float], np.ndarray]:
        """causal-learn's test over the rows that know these columns, and which columns vary there."""
        if known not in self._tests:
            rows = ~self._missing[:, sorted(known)].any(axis=1)
            enough(int(rows.sum()), asked, self._names)
            part = np.nan_to_num(self._values[rows])  # what is still missing is in no question that comes here
            varies = np.ptp(part, axis=0) > 0
            if self.name == "fisherz":  # its matrix of correlations must have no hole
                part[:, ~varies] = np.arange(len(part))[:, None]
            self._tests[known] = _library(part, self.name), varies
        return self._tests[known]


def _library(values: np.ndarray, method: str) -> Callable[[int, int, tuple[int, ...]], float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what importing causal-learn warns of is not the user's to mend
        from causallearn.utils.cit import CIT

    return CIT(values, method)


class LikelihoodRatioTest:
    """Regress ``x`` on ``given`` with and without ``y``, and ``y`` with and without ``x`` (Tsagris et al. 2018).

    Numbers are regressed linearly (F test), levels by multinomial, ordered levels by cumulative logit (likelihood
    ratio); on the right-hand side numbers enter as cubics, levels as dummies. The two p-values, of one hypothesis, make
    ``min(2 min, max)`` (doi:10.1007/s41060-018-0097-y, eq. 5).

    Args:
        columns: the table.
    """

    name = "likelihood_ratio"

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def __call__(self, x: int, y: int, given: tuple[int, ...]) -> float:
        part = complete_rows(self._columns.codes, (x, y, *given), self._columns.names)
        kinds = [self._columns.kinds[i] for i in (x, y, *given)]
        terms = [_terms(values, kind) for values, kind in zip(part.T, kinds, strict=True)]
        base = np.column_stack([np.ones(len(part)), *terms[2:]])
        ps = [_added(part[:, own], kinds[own], base, terms[other]) for own, other in ((0, 1), (1, 0))]
        return min(2 * min(ps), max(ps))


def complete_rows(values: np.ndarray, columns: Sequence[int], names: Sequence[str]) -> np.ndarray:
    """``(m, len(columns))``: the rows that know all of these columns.

    Raises:
        TooFewRowsError: there are fewer than :data:`FEWEST_ROWS`.
    """
    part = values[:, list(columns)]
    part = part[~np.isnan(part).any(axis=1)]
    enough(len(part), columns, names)
    return part


def enough(rows: int, columns: Sequence[int], names: Sequence[str]) -> None:
    """Raise TooFewRowsError where too few rows know all of these columns."""
    if rows < FEWEST_ROWS:
        about = ", ".join(names[i] for i in columns)
        raise TooFewRowsError(f"Only {rows} rows know all of {about}; leave one of them out.")


def _terms(values: np.ndarray, kind: Kind) -> np.ndarray:
    """``(n, p)`` regressors that stand for a column: Legendre polynomials to the third, or dummies."""
    if kind == "number":
        low, high = values.min(), values.max()
        if low == high:
            return np.empty((len(values), 0))
        return np.polynomial.legendre.legvander(2 * (values - low) / (high - low) - 1, 3)[:, 1:]
    levels = np.unique(values)[1:]
    return (values[:, None] == levels).astype(float)


def _added(outcome: np.ndarray, kind: Kind, base: np.ndarray, extra: np.ndarray) -> float:
    """p of "the columns ``extra`` add nothing to ``base``" in a regression of ``outcome``."""
    base = _independent(base)
    full = _independent(np.column_stack([base, extra]))
    more = full.shape[1] - base.shape[1]
    if more == 0 or np.ptp(outcome) == 0:
        return 1.0
    if kind == "number":
        room = len(outcome) - full.shape[1]
        left, left_base = (_squares(outcome, design) for design in (full, base))
        if left <= 1e-12 * left_base:
            return 0.0
        return float(stats.f.sf((left_base - left) / more / (left / room), more, room))
    codes = np.unique(outcome, return_inverse=True)[1]
    steps = codes.max()
    if kind == "ordered" and steps > 1:
        gain, dof = _cumulative(codes, full) - _cumulative(codes, base), more
    else:
        gain, dof = _multinomial(codes, full) - _multinomial(codes, base), more * steps
    return float(stats.chi2.sf(max(2 * gain, 0.0), dof))


def _independent(design: np.ndarray) -> np.ndarray:
    """The columns that no earlier ones make up."""
    scaled = design / np.maximum(np.linalg.norm(design, axis=0), 1e-300)
    fresh = np.abs(np.diag(np.linalg.qr(scaled, mode="r"))) > 1e-7
    return design[:, : len(fresh)][:, fresh]


def _squares(outcome: np.ndarray, design: np.ndarray) -> float:
    residual = outcome - design @ np.linalg.lstsq(design, outcome, rcond=None)[0]
    return float(residual @ residual)


def _multinomial(codes: np.ndarray, design: np.ndarray) -> float:
    """Largest log-likelihood of a (multinomial) logit; where levels are separated, its limit to three digits."""
    if design.shape[1] == 1:
        counts = np.bincount(codes)
        return float((counts * np.log(counts / len(codes))).sum())
    from sklearn.linear_model import LogisticRegression

    slopes = design[:, 1:]
    slopes = (slopes - slopes.mean(axis=0)) / slopes.std(axis=0)
    model = LogisticRegression(C=1e5, tol=1e-7, max_iter=500, solver="newton-cholesky" if codes.max() == 1 else "lbfgs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separated levels: the limit is near enough
        log_share = model.fit(slopes, codes).predict_log_proba(slopes)
    return float(log_share[np.arange(len(codes)), codes].sum())


def _cumulative(codes: np.ndarray, design: np.ndarray) -> float:
    """Largest log-likelihood of a cumulative logit."""
    if design.shape[1] == 1:
        return _multinomial(codes, design)
    from statsmodels.miscmodels.ordinal_model import OrderedModel

    slopes = design[:, 1:]
    slopes = (slopes - slopes.mean(axis=0)) / slopes.std(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        return float(
            OrderedModel(codes, slopes, distr="logit")
            .fit(method="lbfgs", disp=False, maxiter=200, skip_hessian=True)
            .llf
        )
