"""Are two readers two witnesses? What they share, and whether they err on the same images.

An audit lets two readers that agree outvote a suspicion against one of them. That is worth something only where they err
apart: given the truth, the scores of the one must say nothing of those of the other.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.patients import all_known
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.concordance import clustered_error
from causal_cxr.readers.judging import known_truth, read_rows, refuse_seen
from causal_cxr.readers.quality import MIN_PATIENTS, check_scores, check_truth
from causal_cxr.readers.reader import Reader

MOST_CORRELATION = 0.2  #: of errors of two readers that count as two
SIZEABLE = 1_024  #: numbers in a weight tensor that cannot be alike by chance
COLUMNS = ("concept", "reader", "other", "correlation", "correlation_low", "correlation_high", "kappa", "kappa_low",
           "kappa_high", "errors", "other_errors", "both_err", "both_err_if_apart", "n_present", "n_absent",
           "verdict")  # fmt: skip


@dataclass(frozen=True)
class Kinship:
    """What two readers have in common before they have read anything.

    Attributes:
        reader, other: their names.
        backbone: a network, or a fixed rule, that both read through: ``None`` = cannot be told.
        patients: on whom both were fitted, heads and folds included; ``None``: of one nobody knows.
        why: in words.
    """

    reader: str
    other: str
    backbone: bool | None
    patients: int | None
    why: tuple[str, ...]

    @property
    def apart(self) -> bool | None:
        """They share neither backbone nor training patients; ``None``: not known, and then they may not be counted as two."""
        if self.backbone or self.patients:
            return False
        return None if self.backbone is None or self.patients is None else True


def kinship(reader: Any, other: Any) -> Kinship:
    """What two readers share.

    A backbone is shared where the readers, or what they name as their ``features``, have the same fingerprint, name the same
    ``backbone``, have one of their ``rules`` in common, or hold the same weight tensor bit for bit (frozen parts under two
    adapters; the same tower with other prompts). Two networks that were fine-tuned apart from one checkpoint are found out only
    by their errors (:func:`shared_errors`), or by a ``backbone`` name. A fixed rule is shared whatever its settings or its
    reference images: heads on pixels of two sizes, or two readers of one measure, make the same mistakes.

    Args:
        reader, other: two :class:`~causal_cxr.readers.Reader`.
    """
    names, why = (str(reader.name), str(other.name)), []
    marks, weights = [_marks(r) for r in (reader, other)], [_weights(r) for r in (reader, other)]
    backbone: bool | None = False
    if marks[0] & marks[1]:
        backbone = True
        why.append(f"both read through {sorted(marks[0] & marks[1])[0]}")
    elif weights[0] & weights[1]:
        backbone = True
        why.append(f"{len(weights[0] & weights[1])} weight tensors are the same in both")
    known = [_patients(r) for r in (reader, other)]
    for name, found in zip(names, known, strict=True):
        if found is None:
            why.append(f"nobody knows on which patients {name!r} was fitted")
    shared = None if known[0] is None or known[1] is None else len(known[0] & known[1])
    if shared:
        why.append(f"both were fitted on {shared} of the same patients")
    return Kinship(*names, backbone, shared, tuple(why))


def _parts(reader: Any) -> Iterator[Any]:
    """The reader, and all that it reads by: features, their parts, the probe of components."""
    yield reader
    held = [getattr(reader, name, None) for name in ("features", "probe", "parts")]
    for part in (one for some in held for one in (some if isinstance(some, tuple) else (some,))):
        if part is not None and not callable(part):  # a method of that name is no part
            yield from _parts(part)


def _marks(reader: Any) -> set[str]:
    """Fingerprints, backbone names and fixed rules of a reader and of its features."""
    found: set[str] = set()
    for part in _parts(reader):
        if getattr(part, "fingerprint", None):
            found.add(f"the same model ({part.fingerprint})")
        if isinstance(getattr(part, "backbone", None), str):
            found.add(f"backbone {part.backbone}")
        found |= {f"the rule {rule!r}" for rule in getattr(part, "rules", ())}
    return found


def _weights(reader: Any) -> set[str]:
    """Hashes of the sizeable tensors in all networks that a reader or its features hold."""
    from torch import nn

    return {
        hashlib.sha256(tensor.detach().cpu().contiguous().float().numpy().tobytes()).hexdigest()
        for part in _parts(reader)
        for module in (part, *getattr(part, "__dict__", {}).values())
        if isinstance(module, nn.Module)
        for tensor in module.state_dict().values()
        if tensor.numel() >= SIZEABLE and tensor.is_floating_point() and bool((tensor != tensor.flatten()[0]).any())
    }


def _patients(reader: Any) -> frozenset[str] | None:
    """All that a reader was fitted on: with the patients of its folds, which it can leave out but another reader cannot."""
    if not all_known(reader.fitted_on):
        return None
    folds = getattr(reader, "folds", None)
    return frozenset(reader.fitted_on) | frozenset(folds if isinstance(folds, Mapping) else ())


def shared_errors(
    scores: np.ndarray,
    others: np.ndarray,
    truth: np.ndarray,
    patients: pd.Series | np.ndarray,
    concepts: Sequence[Concept],
    *,
    names: tuple[str, str] = ("reader", "other"),
) -> pd.DataFrame:
    """How far two readers err on the same images.

    Args:
        scores, others: ``(n, k)`` of two readers, on patients that neither was fitted on.
        truth: ``(n, k)`` 1 / 0 / NaN unknown.
        patients: ``(n,)`` ids.
        concepts: the ``k`` columns.
        names: of the two.

    Returns:
        one row a concept, 95% intervals patient-clustered, by Student's t of the patients less one: ``correlation`` of the two scores given the truth (each less its mean
        among the present, or the absent); ``kappa`` (Cohen 1960) of *erring* when each calls about as many images present as are;
        ``errors`` and ``other_errors``, shares of wrong calls, ``both_err``, and ``both_err_if_apart``, what it would be if given
        the truth they erred apart. ``verdict``: ``redundant``, the correlation lies over :data:`MOST_CORRELATION`; ``apart``, it
        lies below; ``undecided``; or ``unknown: ...`` with images present, or absent, of fewer than
        :data:`~causal_cxr.readers.quality.MIN_PATIENTS` patients. A negative correlation is no
        redundancy.

    Raises:
        ValueError: a score is no finite number, or a label neither 0, 1 nor NaN.
    """
    for each, name in zip((scores, others), names, strict=True):
        check_scores(each, [c.name for c in concepts], reader=name, bounded=False)
    check_truth(truth, [c.name for c in concepts])
    group = pd.factorize(np.asarray(patients))[0]
    rows = []
    for j, concept in enumerate(concepts):
        known = ~np.isnan(truth[:, j])
        u, g = truth[known, j] == 1, group[known]
        found = _of_one(scores[known, j].astype(float), others[known, j].astype(float), u, g)
        rows.append([concept.name, *names, *found])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def redundant_readers(
    reader: Reader,
    other: Reader,
    dataset: Dataset,
    rows: np.ndarray,
    truth: pd.DataFrame | None = None,
) -> tuple[Kinship, pd.DataFrame]:
    """:func:`kinship`, and :func:`shared_errors` over the concepts that both read by name.

    Args:
        reader, other: to compare.
        dataset: with labels.
        rows: of patients that neither was fitted on.
        truth: labels of the dataset, see :func:`~causal_cxr.readers.judging.known_truth`.

    Raises:
        ValueError: one was fitted on these patients, or they have no concept in common.
    """
    rows = np.asarray(rows)
    for each in (reader, other):
        refuse_seen(each, dataset, rows)
    mine, theirs = ([c.name for c in each.concepts] for each in (reader, other))
    shared = [c for c in reader.concepts if c.name in theirs]
    if not shared:
        raise ValueError(
            f"{reader.name!r} reads {mine} and {other.name!r} reads {theirs}: no concept in common to compare."
        )
    columns = [[read.index(c.name) for c in shared] for read in (mine, theirs)]
    scores, others = (read_rows(each, dataset, rows)[:, at] for each, at in zip((reader, other), columns, strict=True))
    known = known_truth(shared, dataset, rows, truth)
    found = shared_errors(scores, others, known, dataset.patients.iloc[rows], shared, names=(reader.name, other.name))
    return kinship(reader, other), found


def _of_one(a: np.ndarray, b: np.ndarray, present: np.ndarray, g: np.ndarray) -> list[float | int | str]:
    n1, n0 = int(present.sum()), int((~present).sum())
    with_it, without = (len(np.unique(g[kind])) for kind in (present, ~present))
    if min(with_it, without) < MIN_PATIENTS:
        why = f"unknown: {n1} images of {with_it} patients present, {n0} of {without} absent"
        return [*[float("nan")] * 10, n1, n0, why]
    x, y = _residuals(a, present), _residuals(b, present)
    correlation, low, high = _correlation(x, y, g)
    wrong, other = (_called(s, n1) != present for s in (a, b))
    verdict = "undecided"
    if low > MOST_CORRELATION:
        verdict = "redundant"
    elif high < MOST_CORRELATION:
        verdict = "apart"
    elif np.isnan(correlation):
        verdict = "unknown: a reader's scores do not vary"
    apart = sum(kind.mean() * wrong[kind].mean() * other[kind].mean() for kind in (present, ~present))
    return [correlation, low, high, *_kappa(wrong, other, g), float(wrong.mean()), float(other.mean()),
            float((wrong & other).mean()), float(apart), n1, n0, verdict]  # fmt: skip


def _residuals(s: np.ndarray, present: np.ndarray) -> np.ndarray:
    return s - np.where(present, s[present].mean(), s[~present].mean())


def _correlation(x: np.ndarray, y: np.ndarray, g: np.ndarray) -> tuple[float, float, float]:
    """Of residuals, with an interval on Fisher's z whose error comes from the correlation's influence function."""
    if not (x.std() > 1e-12 and y.std() > 1e-12):
        return float("nan"), float("nan"), float("nan")
    x, y = x / x.std(), y / y.std()
    r = float(np.clip((x * y).mean(), -1 + 1e-12, 1 - 1e-12))
    se = clustered_error((x * y - r * (x**2 + y**2) / 2) / len(x), g)
    low, high = np.tanh(np.arctanh(r) + np.array([-1, 1]) * _student(g) * se / (1 - r**2))
    return r, float(low), float(high)


def _called(s: np.ndarray, n: int) -> np.ndarray:
    """``(n,)`` bool: about as many called present as are, those with the highest scores; of a tie all or none, whichever is nearer."""
    if not n:
        return np.zeros(len(s), dtype=bool)
    cut = np.sort(s)[-n]
    over, up_to = s > cut, s >= cut
    return over if n - over.sum() < up_to.sum() - n else up_to


def _kappa(wrong: np.ndarray, other: np.ndarray, g: np.ndarray) -> tuple[float, float, float]:
    """Cohen's kappa with a patient-clustered interval, by its influence function."""
    p, q, agree = wrong.mean(), other.mean(), (wrong == other)
    chance = p * q + (1 - p) * (1 - q)
    if chance == 1:
        return float("nan"), float("nan"), float("nan")
    kappa = float((agree.mean() - chance) / (1 - chance))
    moved = (wrong - p) * (2 * q - 1) + (other - q) * (2 * p - 1)  # of chance agreement
    influence = ((agree - agree.mean()) - (1 - kappa) * moved) / (1 - chance)
    half = _student(g) * clustered_error(influence / len(wrong), g)
    return kappa, max(kappa - half, -1.0), min(kappa + half, 1.0)


def _student(g: np.ndarray) -> float:
    """Quantile of a 95% interval over these patients."""
    return float(stats.t.ppf(0.975, len(np.unique(g)) - 1))
