"""An editor and a reader of one's own, as small as they can be: what ``folder_audit.yaml`` uses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data import FolderDataset
from causal_cxr.editors import Abduction, Edit
from causal_cxr.graphs import Binary, CausalGraph
from causal_cxr.readers import Concept, ReaderQuality

HERE = Path(__file__).parent


class MeanShiftEditor:
    """do(view): add the mean AP image minus the mean PA image, or take it away; keeps what is the image's own."""

    attributes = frozenset({"view"})
    semantics = "observational"

    def __init__(self, dataset: FolderDataset) -> None:
        images, ap = dataset.images(np.arange(len(dataset))), (dataset.attributes["view"] == "AP").to_numpy()
        self.shift = images[torch.tensor(ap)].mean(0) - images[torch.tensor(~ap)].mean(0)
        self.fitted_on = frozenset(dataset.patients)
        self.fingerprint = f"mean-shift-{dataset.fingerprint}"

    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        return Abduction(attributes, images)

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        was, is_now = ((table["view"] == "AP").to_numpy(float) for table in (abduction.factual, target))
        dose = torch.as_tensor(strength * (is_now - was)).float().view(-1, 1, 1, 1)
        return Edit.all_accepted((abduction.state + dose * self.shift).clamp(0, 1))


class CornerReader:
    """Reads a burnt-in mark as the brightness of the upper left corner, and the view as that of the middle."""

    name, fingerprint, fitted_on = "corner", "corner-1", frozenset[str]()
    concepts = (
        Concept("view AP", ("AP view",), ("PA view",), attribute="view", level="AP"),
        Concept("mark", ("a burnt-in mark",), ("no mark",)),
        Concept("lower mark", ("a mark below",), ("no mark below",), control=True),
    )

    def __init__(self) -> None:
        unknown = ReaderQuality.unknown(self.concepts)
        # On these pictures a mark takes its corner from black to white: the slope is 1 by construction.
        exact = unknown.concepts.assign(
            slope=1.0, slope_se=0.01, slope_low=0.98, slope_high=1.0, auroc=1.0, prevalence=0.5
        )
        self.quality = ReaderQuality(exact, unknown.within, unknown.follows)

    def read(self, images: Tensor, patients: Sequence[str] | None = None) -> Tensor:
        h, w = images.shape[-2:]
        middle = images[:, 0, h // 4 : -h // 4, w // 4 : -w // 4].mean((1, 2))
        upper, lower = images[:, 0, : h // 8, : w // 8].mean((1, 2)), images[:, 0, -h // 8 :, : w // 8].mean((1, 2))
        return torch.stack([middle, upper, lower], dim=1)


def mean_shift(size: int) -> MeanShiftEditor:
    """Fitted on the patients of ``fit.csv``, none of whom is audited."""
    graph = CausalGraph([Binary("view", levels=("PA", "AP"))])
    return MeanShiftEditor(
        FolderDataset(HERE / "fit.csv", HERE / "pictures", patient="patient", file="picture", graph=graph, size=size)
    )


def corner() -> CornerReader:
    """A reader that needs no fitting."""
    return CornerReader()
