"""Calibration: from a reader's margin to the probability that a concept shows, fitted on labelled patients.

All maps here rise with the margin. A concept that reads the wrong way round on the labelled patients is not turned round
(its phrases or its head are at fault, and the next patients may turn it back): it says the prevalence, and why.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import logit
from torch import Tensor

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.patients import fitted_on_all, pack, unpack
from causal_cxr.readers.reader import image_batches


@dataclass(frozen=True)
class Platt:
    """``sigmoid(slope * margin + intercept)`` (Platt, 1999)."""

    slope: float
    intercept: float
    kind: ClassVar[str] = "platt"

    @classmethod
    def fit(cls, margins: np.ndarray, present: np.ndarray, weights: np.ndarray) -> "Platt":
        """Logistic regression of ``(n,)`` 0/1 on ``(n,)`` margins, ``(n,)`` weights; with Platt's targets, which are never quite
        certain: ``(p + 1) / (p + 2)`` of the present and ``1 / (q + 2)`` of the absent, where these weigh ``p`` and ``q``.
        """
        from sklearn.linear_model import LogisticRegression

        p, q = weights @ present, weights @ (1 - present)
        target = np.where(present == 1, (p + 1) / (p + 2), 1 / (q + 2))
        # In units of their spread, else the search stops early where margins are small. The targets keep the slope finite.
        middle, spread = np.average(margins, weights=weights), margins.std()
        twice = np.tile((margins - middle) / spread, 2)[:, None]
        found = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
            twice,
            np.repeat([1, 0], len(margins)),
            sample_weight=np.concatenate([weights * target, weights * (1 - target)]),
        )
        slope = float(found.coef_[0, 0] / spread)
        return cls(slope, float(found.intercept_[0] - slope * middle))

    @property
    def affine(self) -> tuple[float, float]:
        """Slope and intercept under the sigmoid."""
        return self.slope, self.intercept


@dataclass(frozen=True)
class Temperature:
    """``sigmoid(margin / temperature)`` (Guo et al., ICML 2017): confidence changes, the decision at 0 does not."""

    temperature: float
    kind: ClassVar[str] = "temperature"
    bounds: ClassVar[tuple[float, float]] = (1e-3, 1e3)

    @classmethod
    def fit(cls, margins: np.ndarray, present: np.ndarray, weights: np.ndarray) -> "Temperature":
        """The temperature of least log loss over ``(n,)`` margins, 0/1 and weights, within :attr:`bounds`."""
        from scipy.optimize import minimize_scalar

        def loss(log_inverse: float) -> float:
            # log(1 + exp(-z)) of the signed margin: the logistic loss without overflow
            return float(
                np.average(np.logaddexp(0, -(2 * present - 1) * margins * np.exp(log_inverse)), weights=weights)
            )

        low, high = np.log(cls.bounds)
        found = minimize_scalar(loss, bounds=(-high, -low), method="bounded", options={"xatol": 1e-8})
        return cls(float(np.exp(-found.x)))

    @property
    def affine(self) -> tuple[float, float]:
        """Slope and intercept under the sigmoid."""
        return 1 / self.temperature, 0.0


@dataclass(frozen=True)
class Isotonic:
    """The rising step function nearest to the labels, joined by lines (Zadrozny & Elkan, KDD 2002).

    Follows any shape, and ties margins that the labels cannot tell apart: it wants hundreds of labelled patients.

    Attributes:
        margins: rising; beyond them the end scores hold.
        scores: at these margins; never nearer to 0 or 1 than ``1 / (n + 2)``, which is all that labels of n patients can say.
    """

    margins: tuple[float, ...]
    scores: tuple[float, ...]
    kind: ClassVar[str] = "isotonic"

    @classmethod
    def fit(cls, margins: np.ndarray, present: np.ndarray, weights: np.ndarray) -> "Isotonic":
        """Of ``(n,)`` 0/1 on ``(n,)`` margins, with ``(n,)`` weights."""
        from sklearn.isotonic import IsotonicRegression

        least = float(1 / (weights.sum() + 2))
        found = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
        found.fit(margins.astype(np.float64), present.astype(np.float64), sample_weight=weights)
        return cls(tuple(map(float, found.X_thresholds_)), tuple(map(float, found.y_thresholds_)))

    def __call__(self, margins: np.ndarray) -> np.ndarray:
        """Scores of ``(n,)`` margins."""
        return np.interp(margins, self.margins, self.scores)


Calibrator = Platt | Temperature | Isotonic
KINDS: dict[str, type[Platt] | type[Temperature] | type[Isotonic]] = {
    kind.kind: kind for kind in (Platt, Temperature, Isotonic)
}


@dataclass(frozen=True)
class Calibration:
    """One map a concept, held by the concept's name.

    Attributes:
        maps: concept -> map; a concept without one scores ``sigmoid(margin)``.
        remarks: concept -> why it has none, or says no more than the prevalence.
        fitted_on: patients whose labels were used; ``None`` when unknown.
    """

    maps: Mapping[str, Calibrator]
    remarks: Mapping[str, str] = field(default_factory=dict)
    fitted_on: frozenset[str] | None = None

    @classmethod
    def fit(
        cls,
        method: str,
        margins: np.ndarray,
        truth: np.ndarray,
        names: Sequence[str],
        *,
        patients: Sequence[str] | None = None,
    ) -> "Calibration":
        """Fit each concept on its labelled images; what is left out is said in a warning and in :attr:`remarks`.

        Args:
            method: ``"platt"``, ``"temperature"`` or ``"isotonic"``.
            margins: ``(n, k)``.
            truth: ``(n, k)`` 1 present, 0 absent, NaN unknown (skipped).
            names: of the ``k`` concepts.
            patients: ``(n,)`` ids; then each patient counts once, however many images there are of them.

        Raises:
            ValueError: another method, shapes that do not fit, a margin that is no number, a label besides 0, 1, NaN.
        """
        if method not in KINDS:
            raise ValueError(f"There is no calibration {method!r}; choose from {list(KINDS)}.")
        margins, truth = np.asarray(margins, dtype=np.float64), np.asarray(truth, dtype=np.float64)
        if margins.shape != truth.shape or margins.ndim != 2 or margins.shape[1] != len(names):
            raise ValueError(f"margins {margins.shape} and truth {truth.shape} must both be (n, {len(names)}).")
        if patients is not None and len(patients) != len(margins):
            raise ValueError(f"There are {len(patients)} patients for {len(margins)} images; give one an image.")
        ids = None if patients is None else np.asarray([str(patient) for patient in patients])
        maps: dict[str, Calibrator] = {}
        remarks: dict[str, str] = {}
        used = np.zeros(len(margins), dtype=bool)
        for j, name in enumerate(names):
            known = ~np.isnan(truth[:, j])
            x, y = margins[known, j], truth[known, j]
            if not np.isin(y, (0, 1)).all():
                odd = y[~np.isin(y, (0, 1))][0]
                raise ValueError(
                    f"Concept {name!r} has the label {odd:g}; labels are 1 present, 0 absent, NaN unknown."
                )
            if not np.isfinite(x).all():
                raise ValueError(f"Concept {name!r} has margins that are no finite numbers; the reader is broken.")
            if len(np.unique(y)) < 2:
                what = f"{len(y)} labelled images, all {'present' if y[0] else 'absent'}" if len(y) else "no labels"
                remarks[name] = f"not calibrated: {what}"
                continue
            used |= known
            weights = np.ones(len(y)) if ids is None else _a_patient_once(ids[known])
            if np.cov(x, y, aweights=weights)[0, 1] > 0:  # as the slope of a logistic regression is then
                maps[name] = KINDS[method].fit(x, y, weights)
            else:
                maps[name] = Platt(0.0, float(logit(np.average(y, weights=weights))))
                remarks[name] = "reads the wrong way round on the labelled patients: the score is the prevalence"
        if remarks:
            shown = "; ".join(f"{name} ({why})" for name, why in remarks.items())
            warnings.warn(f"Calibration: {shown}.", stacklevel=2)
        return cls(maps, remarks, None if ids is None else frozenset(ids[used].tolist()))

    def __call__(self, margins: Tensor, names: Sequence[str]) -> Tensor:
        """``(n, k)`` margins of the concepts ``names`` -> scores in [0, 1], same type and device."""
        affine = torch.as_tensor(self.affine(names), dtype=margins.dtype, device=margins.device)
        scores = torch.sigmoid(margins * affine[:, 0] + affine[:, 1])
        for j, name in enumerate(names):
            steps = self.maps.get(name)
            if isinstance(steps, Isotonic):
                found = steps(margins[:, j].detach().double().cpu().numpy())
                scores[:, j] = torch.as_tensor(found).to(scores)
        return scores

    def affine(self, names: Sequence[str]) -> np.ndarray:
        """``(k, 2)`` slope and intercept under the sigmoid; (1, 0) where there is none."""
        maps = [self.maps.get(name) for name in names]
        return np.array([(1.0, 0.0) if m is None or isinstance(m, Isotonic) else m.affine for m in maps]).reshape(-1, 2)

    def digest(self, names: Sequence[str]) -> bytes:
        """What a reader's fingerprint takes of it."""
        steps = [asdict(m) for m in (self.maps.get(name) for name in names) if isinstance(m, Isotonic)]
        return self.affine(names).tobytes() + (hashlib.sha256(json.dumps(steps).encode()).digest() if steps else b"")

    def of(self, names: Sequence[str]) -> "Calibration":
        """Only these concepts."""
        keep = set(names)
        return Calibration(
            {name: m for name, m in self.maps.items() if name in keep},
            {name: why for name, why in self.remarks.items() if name in keep},
            self.fitted_on,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "maps": {name: {"kind": m.kind, **asdict(m)} for name, m in self.maps.items()},
            "remarks": dict(self.remarks),
            "fitted_on": pack(self.fitted_on),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Calibration":
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: a map of a kind that this version does not know.
        """
        maps: dict[str, Calibrator] = {}
        for name, entry in data["maps"].items():
            if entry["kind"] not in KINDS:
                raise ValueError(f"Concept {name!r} has a calibration {entry['kind']!r}; there are {list(KINDS)}.")
            settings: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items() if key != "kind"}
            maps[name] = KINDS[entry["kind"]](**settings)
        return cls(maps, dict(data["remarks"]), unpack(data["fitted_on"]))


def _a_patient_once(ids: np.ndarray) -> np.ndarray:
    """``(n,)`` weights that add to 1 within each patient."""
    _, group, count = np.unique(ids, return_inverse=True, return_counts=True)
    return 1 / count[group]


def calibrated_on(
    margins: Callable[[Tensor], Tensor],
    names: Sequence[str],
    dataset: Dataset,
    rows: np.ndarray,
    truth: np.ndarray,
    method: str,
    seen: frozenset[str] | None,
    *,
    batch_size: int = 256,
) -> dict[str, Any]:
    """What becomes of a reader that is calibrated on labelled patients.

    Args:
        margins: of the reader, ``(n, 1, h, w)`` -> ``(n, k)``.
        names: of the ``k`` concepts.
        dataset: with the images.
        rows: ``(n,)`` labelled rows; each patient counts once.
        truth: ``(n, k)`` 1 / 0 / NaN unknown.
        method: ``"platt"``, ``"temperature"`` or ``"isotonic"``.
        seen: patients that it was fitted on before; ``None`` = unknown.
        batch_size: images at a time.

    Returns:
        ``calibration`` and ``fitted_on``, which holds the calibration's patients too.

    Raises:
        ValueError: see :meth:`Calibration.fit`.
        UnreadableImages: some cannot be read.
    """
    rows = np.asarray(rows)
    found = np.concatenate(
        [margins(images).numpy() for _, images in image_batches(dataset, rows, batch_size=batch_size)]
    )
    patients = dataset.patients.iloc[rows].astype(str).tolist()
    calibration = Calibration.fit(method, found, truth, list(names), patients=patients)
    return {"calibration": calibration, "fitted_on": fitted_on_all([seen, frozenset(patients)])}
