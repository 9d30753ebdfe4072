"""``ProbeReader``: logistic heads on frozen embeddings or on pixels, cross-fitted over patients, from a few labels."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from torch import Tensor
from torch.nn import functional

from causal_cxr.data.dataset import Dataset
from causal_cxr.graphs import CausalGraph
from causal_cxr.readers.concepts import Concept, concept_from_dict
from causal_cxr.readers.quality import ReaderQuality, assess

if TYPE_CHECKING:
    from causal_cxr.readers.clip import CLIPReader

PROBE, ENCODER = "reader.json", "encoder"
BATCH = 512
INNER = 3  #: folds within a fold, for its calibration


class ProbeReader:
    """The mean score of one calibrated logistic head a fold; PCA, scaling, head and Platt step are one affine map.

    Args:
        concepts: what is read, ``k`` of them.
        weights: ``(folds, d, k)``.
        bias: ``(folds, k)``.
        folds: patient -> the fold whose head has not seen the patient.
        size: pixels a side that images are brought to; read by the encoder where there is one.
        encoder: gives frozen features; ``None`` = the pixels themselves.
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
        size: int = 64,
        encoder: "CLIPReader | None" = None,
        name: str = "probe",
        quality: ReaderQuality | None = None,
        renderer_version: int | None = None,
    ) -> None:
        self.concepts, self.name, self.size, self.encoder, self.folds = tuple(concepts), name, size, encoder, folds
        self.weights, self.bias = weights.astype(np.float32), bias.astype(np.float32)
        self.renderer_version = renderer_version
        self.fitted_on: frozenset[str] | None = frozenset(folds)
        self.quality = quality or ReaderQuality.unknown(concepts)
        digest = hashlib.sha256(self.weights.tobytes() + self.bias.tobytes())
        digest.update(f"{size}|{[c.name for c in self.concepts]}|{encoder.fingerprint if encoder else ''}".encode())
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
        encoder: "CLIPReader | None" = None,
        n_folds: int = 5,
        components: int = 100,
        inverse_penalty: float = 0.1,
        size: int = 64,
        name: str = "probe",
        seed: int = 0,
    ) -> "ProbeReader":
        """Fit ``n_folds`` heads a concept, each without the patients of its fold.

        Args:
            dataset: read once.
            rows: ``(n,)`` labelled rows.
            truth: ``(n, k)`` 1 / 0 / NaN unknown.
            concepts: the ``k`` columns.
            graph: judge the reader within levels of its labelled attributes; ``None`` = quality stays unknown.
            shifts: of continuous attributes, as in the audit's contrasts.
            encoder: see the class.
            components: principal components kept, at most what the data allow.
            inverse_penalty: scikit-learn's ``C`` of the class-weighted logistic heads.
            size, name: see the class.
            seed: deals patients to folds.

        Raises:
            ValueError: a concept has too few patients of one kind to be fitted in every fold.
        """
        rows = np.asarray(rows)
        patients = dataset.patients.iloc[rows].astype(str).to_numpy()
        names = np.unique(patients)
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
                     size=size, encoder=encoder, name=name)  # fmt: skip
        X = np.concatenate(
            [reader._features(dataset.images(rows[i : i + BATCH])).numpy() for i in range(0, len(rows), BATCH)]
        )
        heads = [_affine_heads(X[fold != f], truth[fold != f], patients[fold != f], components, inverse_penalty, seed)
                 for f in range(n_folds)]  # fmt: skip
        weights, bias = (np.stack(parts) for parts in zip(*heads, strict=True))
        out_of_fold = expit(np.einsum("nd,ndk->nk", X, weights[fold]) + bias[fold])
        quality = None
        if graph is not None:
            table = dataset.attributes.iloc[rows].reset_index(drop=True)
            quality = assess(out_of_fold, truth, table, pd.Series(patients), graph, concepts, shifts=shifts)
        return cls(concepts, weights, bias, folds, size=size, encoder=encoder, name=name, quality=quality)

    def _features(self, images: Tensor) -> Tensor:
        """``(n, d)`` frozen features."""
        if self.encoder is not None:
            return self.encoder.features(images)
        if images.shape[-2:] != (self.size, self.size):
            images = functional.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return images.flatten(1)

    def _by_fold(self, images: Tensor) -> Tensor:
        """``(n, folds, k)`` scores."""
        logits = torch.einsum("nd,fdk->nfk", self._features(images), torch.as_tensor(self.weights))
        return torch.sigmoid(logits + torch.as_tensor(self.bias))

    def read(self, images: Tensor) -> Tensor:
        """``(n, k)`` scores in [0, 1]: the mean over the folds' heads, for patients that no head has seen."""
        return self._by_fold(images).mean(dim=1)

    def read_cross_fitted(self, images: Tensor, patients: Sequence[str]) -> Tensor:
        """``(n, k)`` scores: a labelled patient is read by the head that has not seen them, others by all heads."""
        scores = self._by_fold(images)
        held_out = [self.folds.get(str(patient)) for patient in patients]
        return torch.stack([s.mean(0) if f is None else s[f] for s, f in zip(scores, held_out, strict=True)])

    def save(self, folder: str | Path) -> Path:
        """Write ``model.safetensors``, ``reader.json`` and, where there is one, the encoder's folder."""
        from safetensors.numpy import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weights": self.weights, "bias": self.bias}, folder / "model.safetensors")
        if self.encoder is not None:
            self.encoder.save(folder / ENCODER)
        content = {
            "name": self.name,
            "size": self.size,
            "concepts": [asdict(concept) for concept in self.concepts],
            "folds": self.folds,
            "quality": self.quality.to_dict(),
            "encoder": self.encoder is not None,
            "renderer_version": self.renderer_version,
        }
        partial = folder / f"{PROBE}.partial"
        partial.write_text(json.dumps(content, indent=1))
        partial.rename(folder / PROBE)
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
        encoder = None
        if content["encoder"]:
            from causal_cxr.readers.clip import CLIPReader

            encoder = CLIPReader.from_pretrained(folder / ENCODER)
        return cls(
            [concept_from_dict(entry) for entry in content["concepts"]],
            arrays["weights"],
            arrays["bias"],
            content["folds"],
            size=content["size"],
            encoder=encoder,
            name=content["name"],
            quality=ReaderQuality.from_dict(content["quality"]),
            renderer_version=content["renderer_version"],
        )

    @classmethod
    def from_shipped(cls, name: str = "probe-reader-phantom") -> "ProbeReader":
        """A reader that ships with the package."""
        from causal_cxr.weights import shipped

        return cls.from_pretrained(shipped(name))


def _affine_heads(
    X: np.ndarray, truth: np.ndarray, patients: np.ndarray, components: int, inverse_penalty: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """``(d, k)`` and ``(k,)``: whitened PCA, class-weighted logistic head and Platt step, multiplied out."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict

    pca = PCA(min(components, X.shape[1], len(X) - 1), whiten=True, random_state=seed).fit(X)
    unwhiten = pca.components_.T / np.sqrt(np.maximum(pca.explained_variance_, 1e-12))
    Z = (X - pca.mean_) @ unwhiten
    weights, bias = np.empty((X.shape[1], truth.shape[1])), np.empty(truth.shape[1])
    for j in range(truth.shape[1]):
        known = ~np.isnan(truth[:, j])
        y = truth[known, j].astype(int)
        head = LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=1000)
        margins: Any = cross_val_predict(head, Z[known], y, groups=patients[known], cv=GroupKFold(INNER),
                                         method="decision_function")  # fmt: skip
        platt = LogisticRegression(C=1e4).fit(margins[:, None], y)
        head.fit(Z[known], y)
        scale, offset = platt.coef_[0, 0], platt.intercept_[0]
        weights[:, j] = unwhiten @ head.coef_[0] * scale
        bias[j] = head.intercept_[0] * scale + offset - pca.mean_ @ weights[:, j]
    return weights, bias
