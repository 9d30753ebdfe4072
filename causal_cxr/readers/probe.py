"""``ProbeReader``: logistic heads on frozen embeddings or on pixels, cross-fitted over patients, from a few labels."""

import copy
import hashlib
import importlib
import json
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit, logit
from torch import Tensor

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.whole_file import write_json
from causal_cxr.graphs import CausalGraph, Continuous
from causal_cxr.readers.concepts import Concept, concept_from_dict
from causal_cxr.readers.features import Features, Joined, OrientedGradients, Pixels
from causal_cxr.readers.quality import ReaderQuality, assess, check_truth

PROBE, ENCODER = "reader.json", "encoder"
RULES = {rule.kind: rule for rule in (Pixels, OrientedGradients)}  #: features that settings describe whole
#: Features that have weights of their own, and save and load themselves: class -> module.
ENCODERS = {
    "CLIPReader": "causal_cxr.readers.clip",
    "MeasureReader": "causal_cxr.readers.measure",
    "PatchDictionary": "causal_cxr.readers.patches",
    "XRVReader": "causal_cxr.readers.xrv",
}
BATCH = 512
PATIENTS_A_COMPONENT = 4  #: at least
MOST_WEIGHT = 10.0  #: of an image in a balanced fit
INNER = 3  #: folds within a fold, for its calibration
REDEALS = 50  #: of patients to folds, before a concept is given up


class ProbeReader:
    """The mean score of one calibrated logistic head a fold; PCA, scaling, head and Platt step are one affine map.

    With a graph, head and Platt step are fitted to patients weighted so that the concept goes with none of the labelled
    attributes. Scores are calibrated for such a population: where the concept is rarer or more frequent than overall, as at one
    level of an attribute, they are off by that much,
    and ``quality.concepts["ece"]``, which takes all levels together, need not show it. The slope and what ``quality.within`` and
    ``quality.follows`` say hold as they stand; for probabilities at one level, calibrate the scores on labels of that level.

    Args:
        concepts: what is read, ``k`` of them.
        weights: ``(folds, d, k)``.
        bias: ``(folds, k)``.
        folds: patient -> the fold whose head has not seen the patient.
        features: what the heads read; the pixels unless given. A :class:`~causal_cxr.readers.CLIPReader`, an
            :class:`~causal_cxr.readers.XRVReader` or a :class:`~causal_cxr.readers.MeasureReader` will do.
        name: of this reader in an audit.
        quality: from out-of-fold scores.
        renderer_version: of the phantom it was fitted on; ``None`` for real images.
    """

    def __init__(
        self,
        concepts: Sequence[Concept],
        weights: np.ndarray,
        bias: np.ndarray,
        folds: dict[str, int],
        *,
        features: Features | None = None,
        name: str = "probe",
        quality: ReaderQuality | None = None,
        renderer_version: int | None = None,
    ) -> None:
        self.concepts, self.name, self.folds, self.features = tuple(concepts), name, folds, features or Pixels()
        self.weights, self.bias = weights.astype(np.float32), bias.astype(np.float32)
        self.renderer_version = renderer_version
        # Each labelled patient has a head that never saw them; only the features cannot leave out whom they saw.
        self.fitted_on: frozenset[str] | None = self.features.fitted_on
        self.quality = quality or ReaderQuality.unknown(concepts)
        self.fingerprint = self._digest()

    def _digest(self) -> str:
        """Of heads, features and folds, on which it hangs by which head a patient is read."""
        digest = hashlib.sha256(self.weights.tobytes() + self.bias.tobytes())
        said = f"{self.features.fingerprint}|{[c.name for c in self.concepts]}|{sorted(self.folds.items())}"
        digest.update(said.encode())
        return digest.hexdigest()[:16]

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        rows: np.ndarray,
        truth: np.ndarray,
        concepts: Sequence[Concept],
        *,
        graph: CausalGraph | None = None,
        shifts: Mapping[str, float] | None = None,
        features: Features | None = None,
        n_folds: int = 5,
        components: int = 100,
        inverse_penalty: float = 0.1,
        name: str = "probe",
        seed: int = 0,
    ) -> "ProbeReader":
        """Fit ``n_folds`` heads a concept, each without the patients of its fold.

        Args:
            dataset: read once.
            rows: ``(n,)`` labelled rows.
            truth: ``(n, k)`` 1 / 0 / NaN unknown.
            concepts: the ``k`` columns.
            graph: its labelled attributes are balanced in the fit, so that a head does not read them in the concept's
                place, and the reader is judged within their levels; ``None`` = neither, and quality stays unknown.
            shifts: of continuous attributes, as in the audit's contrasts.
            features, name: see the class.
            components: principal components kept, at most one for every four patients.
            inverse_penalty: scikit-learn's ``C`` of the class-weighted logistic heads.
            seed: deals patients to folds, anew (rare kinds first) if a head would be left with fewer than two patients
                of a kind.

        Raises:
            ValueError: a label is neither 0, 1 nor NaN; a concept has too few patients of one kind to be fitted in every fold;
                the features were fitted on some of the labelled patients, so that no fold is without them.

        Warns:
            UserWarning: heads of a concept read nothing of it, and say how frequent it is.
        """
        rows = np.asarray(rows)
        check_truth(truth, [concept.name for concept in concepts])
        patients = dataset.patients.iloc[rows].astype(str).to_numpy()
        names, who = np.unique(patients, return_inverse=True)
        if features is not None and (seen := sorted((features.fitted_on or frozenset()) & set(names))):
            raise ValueError(
                f"The features were fitted on {len(seen)} of the labelled patients ({', '.join(seen[:3])}, ...): no fold would "
                "be without them. Fit the features on other patients, or leave these out of rows."
            )
        for j, concept in enumerate(concepts):
            for kind, word in ((1, "present"), (0, "absent")):
                count = len(np.unique(patients[truth[:, j] == kind]))
                if count < 2 * n_folds:
                    raise ValueError(
                        f"Concept {concept.name!r} is {word} in {count} labelled patients; {n_folds} folds need at "
                        f"least {2 * n_folds}. Leave it out, label more, or pass a smaller n_folds."
                    )
        dealt = _dealt(truth, who, [concept.name for concept in concepts], n_folds, seed)
        folds = {str(patient): int(fold) for patient, fold in zip(names, dealt, strict=True)}
        fold = dealt[who]
        reader = cls(concepts, np.zeros((n_folds, 1, len(concepts))), np.zeros((n_folds, len(concepts))), folds,
                     features=features, name=name)  # fmt: skip
        parts = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        X = np.concatenate([reader.features.features(dataset.images(part)).numpy() for part in parts])
        table = dataset.attributes.iloc[rows].reset_index(drop=True)
        others = [np.empty((len(rows), 0)) if graph is None else _numbers(graph, table, c.attribute) for c in concepts]
        # One for all folds: each fold's own would make heads that read nothing rank patients by the fold they are in.
        nothing_read = np.array([logit(np.nanmean(column)) for column in truth.T])
        heads = [
            _affine_heads(X[fold != f], truth[fold != f], [o[fold != f] for o in others], patients[fold != f], components,
                          inverse_penalty, nothing_read, seed)
            for f in range(n_folds)
        ]  # fmt: skip
        weights, bias = (np.stack(parts) for parts in zip(*heads, strict=True))
        nothing = (weights == 0).all(axis=1).sum(axis=0)
        if nothing.any():
            which = ", ".join(f"{c.name} ({n} of {n_folds})" for c, n in zip(concepts, nothing, strict=True) if n)
            warnings.warn(
                f"Heads that rank patients they have not seen no better than the wrong way round say the prevalence: {which}. Label more "
                "patients, or pass other features or fewer components.",
                stacklevel=2,
            )
        out_of_fold = expit(np.einsum("nd,ndk->nk", X, weights[fold]) + bias[fold])
        quality = None
        if graph is not None:
            quality = assess(out_of_fold, truth, table, pd.Series(patients), graph, concepts, shifts=shifts)
        return cls(concepts, weights, bias, folds, features=features, name=name, quality=quality)

    def _by_fold(self, images: Tensor) -> Tensor:
        """``(n, folds, k)`` scores."""
        logits = torch.einsum("nd,fdk->nfk", self.features.features(images), torch.as_tensor(self.weights))
        return torch.sigmoid(logits + torch.as_tensor(self.bias))

    def read(self, images: Tensor, patients: Sequence[str] | None = None) -> Tensor:
        """``(n, k)`` scores in [0, 1]: a labelled patient is read by the head that has not seen them, others by all.

        Without ``patients``, the mean over all heads: right only for patients that none of them has seen.
        """
        scores = self._by_fold(images)
        if patients is None:
            return scores.mean(dim=1)
        held_out = [self.folds.get(str(patient)) for patient in patients]
        return torch.stack([s.mean(0) if f is None else s[f] for s, f in zip(scores, held_out, strict=True)])

    def dealt(self, patients: Iterable[str]) -> "ProbeReader":
        """The same reader, in which each of these patients has a fold: who was not labelled, one that hangs on the id alone.

        A mean over heads is steadier than one head's score. Where out-of-fold scores of labelled patients are to say how scores
        of new ones are spread, as in a conformal calibration, both have to be read by one head.
        """
        given = {str(patient): zlib.crc32(str(patient).encode()) % len(self.bias) for patient in patients}
        reader = copy.copy(self)
        reader.folds = given | self.folds
        reader.fingerprint = reader._digest()
        return reader

    def save(self, folder: str | Path) -> Path:
        """Write ``model.safetensors``, ``reader.json`` and, where the features have weights of their own, their folder.

        Raises:
            TypeError: the features are of a class that is not the package's; only its owner could load them again.
        """
        from safetensors.numpy import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        features = _described(self.features, folder / ENCODER)
        save_file({"weights": self.weights, "bias": self.bias}, folder / "model.safetensors")
        content = {
            "name": self.name,
            "features": features,
            "concepts": [asdict(concept) for concept in self.concepts],
            "folds": self.folds,
            "quality": self.quality.to_dict(),
            "renderer_version": self.renderer_version,
        }
        write_json(folder / PROBE, content)
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "ProbeReader":
        """Load what :meth:`save` wrote."""
        from safetensors.numpy import load_file

        folder = Path(folder)
        if not (folder / PROBE).is_file():
            raise FileNotFoundError(f"{folder} has no {PROBE}; save a reader there with ProbeReader.save(folder).")
        content = json.loads((folder / PROBE).read_text())
        arrays = load_file(folder / "model.safetensors")
        features = _features(content["features"], folder / ENCODER)
        return cls(
            [concept_from_dict(entry) for entry in content["concepts"]],
            arrays["weights"],
            arrays["bias"],
            content["folds"],
            features=features,
            name=content["name"],
            quality=ReaderQuality.from_dict(content["quality"]),
            renderer_version=content["renderer_version"],
        )

    @classmethod
    def from_shipped(cls, name: str = "probe-reader-phantom") -> "ProbeReader":
        """A reader that ships with the package."""
        from causal_cxr.weights import shipped

        return cls.from_pretrained(shipped(name))


def _described(features: Any, folder: Path) -> dict[str, Any]:
    """What tells features again; weights of their own go into the folder.

    Raises:
        TypeError: they are of a class that is not the package's.
    """
    kind = type(features).__name__
    if isinstance(features, Pixels | OrientedGradients):
        return {"kind": features.kind, **features.settings}
    if isinstance(features, Joined):
        parts = [_described(part, folder / str(number)) for number, part in enumerate(features.parts)]
        return {"kind": features.kind, "parts": parts}
    if kind in ENCODERS and isinstance(features, _encoder(kind)):
        features.save(folder)
        return {"kind": ENCODER, "class": kind}
    raise TypeError(f"Cannot save a probe on {kind}; use one of {[*RULES, Joined.kind, *ENCODERS]}.")


def _features(described: dict[str, Any], folder: Path) -> Features:
    """The features that were described so."""
    settings = dict(described)
    kind = settings.pop("kind")
    if kind == Joined.kind:
        return Joined(*(_features(part, folder / str(number)) for number, part in enumerate(settings["parts"])))
    if kind == ENCODER:
        # probes saved before there was a choice stand on a CLIP reader
        encoder: Features = _encoder(settings.get("class", "CLIPReader")).from_pretrained(folder)
        return encoder
    rule: Features = RULES[kind](**settings)
    return rule


def _encoder(kind: str) -> Any:
    """The class of features of that name, imported only now."""
    if kind not in ENCODERS:
        raise ValueError(f"There are no features {kind!r}; this version knows {list(ENCODERS)}.")
    return getattr(importlib.import_module(ENCODERS[kind]), kind)


def _kinds(truth: np.ndarray, who: np.ndarray) -> np.ndarray:
    """``(patients, 2 k)``: who has images with each concept, then who has images without it."""
    kinds = np.zeros((who.max() + 1, 2 * truth.shape[1]), dtype=bool)
    np.logical_or.at(kinds, who, np.hstack([truth == 1, truth == 0]))
    return kinds


def _dealt(truth: np.ndarray, who: np.ndarray, names: Sequence[str], n_folds: int, seed: int) -> np.ndarray:
    """``(patients,)`` folds: at random, as long as every head is left two patients of each kind, one to hold out.

    Raises:
        ValueError: no deal leaves so many.
    """
    rng, kinds = np.random.default_rng(seed), _kinds(truth, who)
    for deal in range(1 + REDEALS):
        dealt = _spread(kinds, n_folds, rng) if deal else rng.permutation(len(kinds)) % n_folds
        left = kinds.sum(0) - np.array([kinds[dealt == fold].sum(0) for fold in range(n_folds)])
        if (left >= 2).all():
            return dealt
    short = int(left.min(0).argmin()) % len(names)
    raise ValueError(
        f"No deal of {len(kinds)} patients to {n_folds} folds was found in which every fold is without two patients with and two "
        f"without each concept; {names[short]!r} lacked some. Leave it out, label more, or fit fewer concepts at a time."
    )


def _spread(kinds: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """``(patients,)`` folds: the rarest kind first, each patient where there are fewest of it (Sechidis et al., ECML 2011).

    Args:
        kinds: ``(patients, m)`` bool.
        n_folds: how many.
        rng: of the order within a kind.
    """
    kinds = np.column_stack([kinds, np.ones(len(kinds), dtype=bool)])  # who has no label goes where there are fewest
    dealt, count = np.full(len(kinds), -1), np.zeros((n_folds, kinds.shape[1]))
    for kind in np.argsort(kinds.sum(0), kind="stable"):
        for patient in rng.permutation(np.flatnonzero(kinds[:, kind] & (dealt < 0))):
            dealt[patient] = np.lexsort((count[:, -1], count[:, kind]))[0]
            count[dealt[patient]] += kinds[patient]
    return dealt


def _inner_folds(y: np.ndarray, patients: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and held-out images, patients apart, both kinds in every training part if each has two patients."""
    from sklearn.model_selection import GroupKFold, PredefinedSplit

    who = np.unique(patients, return_inverse=True)[1]
    n_folds = min(INNER, who.max() + 1)
    usual = list(GroupKFold(n_folds).split(y, y, patients))
    if all(np.ptp(y[train]) for train, _ in usual):
        return usual
    return list(PredefinedSplit(_spread(_kinds(y[:, None], who), n_folds, np.random.default_rng(0))[who]).split())


def _balancing_weights(present: np.ndarray, others: np.ndarray) -> np.ndarray:
    """``(n,)`` stabilised weights ``P(U) / P(U | A)``, truncated: so weighted, the labels hang on no labelled attribute.

    A head that is fitted with them gains nothing by reading A in U's place (Robins, Hernán & Brumback 2000).

    Args:
        present: ``(n,)`` 0/1 labels.
        others: ``(n, p)`` the labelled attributes as numbers; without columns all weights are 1.
    """
    from sklearn.linear_model import LogisticRegression

    if not others.shape[1]:
        return np.ones(len(present))
    chance = LogisticRegression(C=1.0, max_iter=1000).fit(others, present).predict_proba(others)[:, 1]
    overall = present.mean()
    weights = np.where(present == 1, overall / chance, (1 - overall) / (1 - chance))
    return np.minimum(weights, MOST_WEIGHT)


def _numbers(graph: CausalGraph, table: pd.DataFrame, without: str | None) -> np.ndarray:
    """``(n, p)`` the labelled attributes but one: standardised numbers and indicators of levels; missing ones are 0."""
    columns = []
    for name in graph.labelled:
        attribute = graph.attributes[name]
        codes = attribute.encode(table[name])
        if name == without:
            continue
        if isinstance(attribute, Continuous):
            columns.append(np.nan_to_num((codes - np.nanmean(codes)) / (np.nanstd(codes) or 1.0)))
        else:
            columns += [(codes == level).astype(float) for level in range(1, len(attribute.levels))]
    return np.column_stack(columns) if columns else np.empty((len(table), 0))


def _affine_heads(
    X: np.ndarray, truth: np.ndarray, others: Sequence[np.ndarray], patients: np.ndarray, components: int,
    inverse_penalty: float, nothing_read: np.ndarray, seed: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """``(d, k)`` and ``(k,)``: whitened PCA, weighted logistic head and Platt step, multiplied out.

    A head that reads nothing says ``nothing_read``, ``(k,)`` log odds.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    # Whitened to as many components as patients, all patients lie equally far apart and nothing is left to read.
    kept = max(1, min(components, X.shape[1], len(np.unique(patients)) // PATIENTS_A_COMPONENT))
    pca = PCA(kept, whiten=True, random_state=seed).fit(X)
    unwhiten = pca.components_.T / np.sqrt(np.maximum(pca.explained_variance_, 1e-12))
    Z = (X - pca.mean_) @ unwhiten
    weights, bias = np.empty((X.shape[1], truth.shape[1])), np.empty(truth.shape[1])
    for j in range(truth.shape[1]):
        known = ~np.isnan(truth[:, j])
        y = truth[known, j].astype(int)
        balance = _balancing_weights(y, others[j][known])
        head = LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=1000)
        margins: Any = cross_val_predict(head, Z[known], y, cv=_inner_folds(y, patients[known]),
                                         method="decision_function", params={"sample_weight": balance})  # fmt: skip
        platt = LogisticRegression(C=1e4).fit(margins[:, None], y, sample_weight=balance)
        head.fit(Z[known], y, sample_weight=balance)
        # A head that is wrong more often than not on images it has not seen reads nothing; it is not turned round.
        scale, offset = (platt.coef_[0, 0], platt.intercept_[0]) if platt.coef_[0, 0] > 0 else (0.0, nothing_read[j])
        weights[:, j] = unwhiten @ head.coef_[0] * scale
        bias[j] = head.intercept_[0] * scale + offset - pca.mean_ @ weights[:, j]
    return weights, bias
