"""A tiny world for tests of the audit: 8x8 images whose corners are the attributes, an editor and a reader of corners."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from causal_cxr.editors.editor import Abduction, Edit
from causal_cxr.graphs import Binary, CausalGraph
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality

GRAPH = CausalGraph(
    [Binary("disease"), Binary("view", levels=("PA", "AP"))],
    [("disease", "view"), ("disease", "image"), ("view", "image")],
)
CONCEPTS = (
    Concept("AP view", ("AP",), ("PA",), attribute="view", level="AP"),
    Concept("sick", ("sick",), ("well",), attribute="disease", level=1),
    Concept("leads", ("leads",), ("no leads",)),
    Concept("control", ("mark",), ("no mark",), control=True),
)


class CornerDataset:
    """disease -> view -> leads (hidden); ``control`` is a coin."""

    def __init__(self, n: int = 600, seed: int = 0, unreadable: tuple[int, ...] = ()) -> None:
        rng = np.random.default_rng(seed)
        disease = rng.uniform(size=n) < 0.5
        view = rng.uniform(size=n) < np.where(disease, 0.7, 0.3)
        self.leads = rng.uniform(size=n) < np.where(view, 0.8, 0.1)
        self.control = rng.uniform(size=n) < 0.5
        self.attributes = GRAPH.coerce(
            pd.DataFrame({"disease": disease.astype(int), "view": np.where(view, "AP", "PA")})
        )
        self.patients = pd.Series([f"p{i // 2}" for i in range(n)])
        self.texts = None
        self.fingerprint = f"corners-{n}-{seed}"
        self.unreadable = set(unreadable)
        values = np.stack([view, disease, self.leads, self.control], axis=1).astype(np.float32)
        self._images = torch.zeros(n, 1, 8, 8)
        for k, (i, j) in enumerate(((0, 0), (0, 7), (7, 0), (7, 7))):
            self._images[:, 0, i, j] = torch.as_tensor(values[:, k] * 0.8 + 0.1)

    def images(self, rows: np.ndarray) -> torch.Tensor:
        from causal_cxr.data.dataset import UnreadableImages

        bad = self.unreadable & {int(row) for row in rows}
        if bad:
            raise UnreadableImages(dict.fromkeys(bad, "truncated file"))
        return self._images[torch.as_tensor(np.asarray(rows))]


class CornerEditor:
    """Sets view and disease; with ``learnt``, leads follow the view as they do in the data."""

    fingerprint = "corner-editor"
    attributes = frozenset({"disease", "view"})
    semantics = "observational"

    def __init__(self, learnt: bool = True, fitted_on: frozenset[str] | None = frozenset()) -> None:
        self.learnt, self.fitted_on = learnt, fitted_on

    def abduct(self, images: torch.Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        u = np.array([np.random.default_rng(int(s)).uniform() for s in seeds])
        return Abduction(attributes, (images, u), len(images))

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        images, u = abduction.state
        new = images.clone()
        now, then = (target["view"] == "AP").to_numpy(), (abduction.factual["view"] == "AP").to_numpy()
        new[:, 0, 0, 0] = torch.as_tensor(now * 0.8 + 0.1).float()
        new[:, 0, 0, 7] = torch.as_tensor((target["disease"] == 1).to_numpy() * 0.8 + 0.1).float()
        if self.learnt:
            moved = now != then
            leads = np.where(moved, u < np.where(now, 0.8, 0.1), images[:, 0, 7, 0].numpy() > 0.5)
            new[:, 0, 7, 0] = torch.as_tensor(leads * 0.8 + 0.1).float()
        return Edit.all_accepted(new, len(images))


class CornerReader:
    """Reads the corners, with a slope of 0.8."""

    name, fingerprint, concepts = "corners", "corner-reader", CONCEPTS
    fitted_on: frozenset[str] | None = frozenset()

    def __init__(self) -> None:
        unknown = ReaderQuality.unknown(CONCEPTS)
        known = unknown.concepts.assign(
            slope=0.8, slope_se=0.01, slope_low=0.78, slope_high=0.82, prevalence=0.5, auroc=1.0
        )
        self.quality = ReaderQuality(known, unknown.within, unknown.follows)

    def read(self, images: torch.Tensor, patients: Sequence[str] | None = None) -> torch.Tensor:
        corners = [images[:, 0, i, j] for i, j in ((0, 0), (0, 7), (7, 0), (7, 7))]
        return torch.stack(corners, dim=1)
