"""``ProbeReader``: logistic heads on frozen embeddings or on pixels, cross-fitted over patients, from a few labels."""

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
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
from causal_cxr.readers.quality import ReaderQuality, assess

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
IMAGES_A_COMPONENT = 4  #: at least
MOST_WEIGHT = 10.0  #: of an image in a balanced fit
INNER = 3  #: folds within a fold, for its calibration


class ProbeReader:
    """The mean score of one calibrated logistic head a fold; PCA, scaling, head and Platt step are one affine map.

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
        digest = hashlib.sha256(self.weights.tobytes() + self.bias.tobytes())
        digest.update(f"{self.features.fingerprint}|{[c.name for c in self.concepts]}".encode())
        self.fingerprint = digest.hexdigest()[:16]

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
            components: principal components kept, at most one for every four images.
            inverse_penalty: scikit-learn's ``C`` of the class-weighted logistic heads.
            seed: deals patients to folds.

        Raises:
            ValueError: a concept has too few patients of one kind to be fitted in every fold; the features were fitted on
                some of the labelled patients, so that no fold is without them.
        """
        rows = np.asarray(rows)
        patients = dataset.patients.iloc[rows].astype(str).to_numpy()
        names = np.unique(patients)
        if features is not None and (seen := sorted((features.fitted_on or frozenset()) & set(names))):
            raise ValueError(
                f"The features were fitted on {len(seen)} of the labelled patients ({', '.join(seen[:3])}, ...): no fold would "
                "be without them. Fit the features on other patients, or leave these out of rows."
            )
        dealt = np.random.default_rng(seed).permutation(len(names)) % n_folds
        folds = {str(patient): int(fold) for patient, fold in zip(names, dealt, strict=True)}
        fold = np.array([folds[patient] for patient in patients])
        for j, concept in enumerate(concepts):
            for kind, word in ((1, "present"), (0, "absent")):
                count = len(np.unique(patients[truth[:, j] == kind]))
                if count < 2 * n_folds:
                    raise ValueError(
                        f"Concept {concept.name!r} is {word} in {count} labelled patients; {n_folds} folds need at "
                        f"least {2 * n_folds}. Leave it out, label more, or pass a smaller n_folds."
                    )
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
    from sklearn.model_selection import GroupKFold, cross_val_predict

    # Whitened to as many components as images, all images lie equally far apart and nothing is left to read.
    kept = max(1, min(components, X.shape[1], len(X) // IMAGES_A_COMPONENT))
    pca = PCA(kept, whiten=True, random_state=seed).fit(X)
    unwhiten = pca.components_.T / np.sqrt(np.maximum(pca.explained_variance_, 1e-12))
    Z = (X - pca.mean_) @ unwhiten
    weights, bias = np.empty((X.shape[1], truth.shape[1])), np.empty(truth.shape[1])
    for j in range(truth.shape[1]):
        known = ~np.isnan(truth[:, j])
        y = truth[known, j].astype(int)
        balance = _balancing_weights(y, others[j][known])
        head = LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=1000)
        margins: Any = cross_val_predict(head, Z[known], y, groups=patients[known], cv=GroupKFold(INNER),
                                         method="decision_function", params={"sample_weight": balance})  # fmt: skip
        platt = LogisticRegression(C=1e4).fit(margins[:, None], y, sample_weight=balance)
        head.fit(Z[known], y, sample_weight=balance)
        # A head that is wrong more often than not on images it has not seen reads nothing; it is not turned round.
        scale, offset = (platt.coef_[0, 0], platt.intercept_[0]) if platt.coef_[0, 0] > 0 else (0.0, nothing_read[j])
        weights[:, j] = unwhiten @ head.coef_[0] * scale
        bias[j] = head.intercept_[0] * scale + offset - pca.mean_ @ weights[:, j]
    return weights, bias
