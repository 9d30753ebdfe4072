"""An editor, a reader and a classifier of one's own, as small as they can be: what ``folder_*.yaml`` use."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from causal_cxr.audits.shortcuts import Predictor, as_predictor
from causal_cxr.data import FolderDataset
from causal_cxr.editors import Abduction, Edit
from causal_cxr.graphs import Binary, CausalGraph
from causal_cxr.readers import Concept, ReaderQuality

HERE = Path(__file__).parent


class MeanShiftEditor:
    """do(view): add the mean AP image minus the mean PA image, or take it away; keeps what is the image's own.

    Where ``within`` names a column, means are compared within its levels, so that what goes with it is not added along.
    """

    attributes = frozenset({"view"})
    semantics = "observational"

    def __init__(self, dataset: FolderDataset, within: str | None = None) -> None:
        images, ap = dataset.images(np.arange(len(dataset))), (dataset.attributes["view"] == "AP").to_numpy()
        everyone = pd.Series("all", index=dataset.attributes.index)
        groups = (everyone if within is None else dataset.attributes[within]).to_numpy()
        shifts = [
            images[torch.tensor(ap & (groups == group))].mean(0) - images[torch.tensor(~ap & (groups == group))].mean(0)
            for group in np.unique(groups)
        ]
        self.shift = torch.stack(shifts).mean(0)
        self.fitted_on = frozenset(dataset.patients)
        self.fingerprint = f"mean-shift-{within}-{dataset.fingerprint}"

    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        return Abduction(attributes, images)

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        was, is_now = ((table["view"] == "AP").to_numpy(float) for table in (abduction.factual, target))
        dose = torch.as_tensor(strength * (is_now - was)).float().view(-1, 1, 1, 1)
        return Edit.all_accepted((abduction.state + dose * self.shift).clamp(0, 1))


class CornerReader:
    """Reads burnt-in marks and an effusion as the brightness of a corner, and the view as that of the middle."""

    name, fitted_on = "corner", frozenset[str]()
    known = (
        Concept("view AP", ("AP view",), ("PA view",), attribute="view", level="AP"),
        Concept("mark", ("a burnt-in mark",), ("no mark",)),
        Concept("lower mark", ("a mark below",), ("no mark below",), control=True),
        Concept("effusion", ("an effusion",), ("no effusion",), attribute="effusion", level=1),
    )

    def __init__(self, concepts: Sequence[str]) -> None:
        self.concepts = tuple(concept for concept in self.known if concept.name in concepts)
        self.fingerprint = f"corner-2-{[concept.name for concept in self.concepts]}"
        unknown = ReaderQuality.unknown(self.concepts)
        # On these pictures a mark takes its corner from black to white: the slope is 1 by construction.
        exact = unknown.concepts.assign(
            slope=1.0, slope_se=0.01, slope_low=0.98, slope_high=1.0, auroc=1.0, prevalence=0.5
        )
        self.quality = ReaderQuality(exact, unknown.within, unknown.follows)

    def read(self, images: Tensor, patients: Sequence[str] | None = None) -> Tensor:
        h, w = images.shape[-2:]
        places = {
            "view AP": images[:, 0, h // 4 : -h // 4, w // 4 : -w // 4],
            "mark": images[:, 0, : h // 8, : w // 8],
            "lower mark": images[:, 0, -h // 8 :, : w // 8],
            "effusion": images[:, 0, -h // 8 :, -w // 8 :],
        }
        return torch.stack([places[concept.name].mean((1, 2)) for concept in self.concepts], dim=1)


def pictures(csv: str, *attributes: Binary, size: int) -> FolderDataset:
    """A table beside this file with its pictures."""
    graph = CausalGraph(attributes)
    return FolderDataset(HERE / csv, HERE / "pictures", patient="patient", file="picture", graph=graph, size=size)


def mean_shift(size: int, within: str | None = None) -> MeanShiftEditor:
    """Fitted on the patients of ``fit.csv``, none of whom is audited."""
    named = [] if within is None else [Binary(within)]
    return MeanShiftEditor(pictures("fit.csv", Binary("view", levels=("PA", "AP")), *named, size=size), within)


def corner(concepts: Sequence[str] = ("view AP", "mark", "lower mark")) -> CornerReader:
    """A reader that needs no fitting."""
    return CornerReader(concepts)


def classifier(size: int) -> Predictor:
    """Predicts effusions from pixels; trained on the patients of ``train.csv``, none of whom is audited."""
    dataset = pictures("train.csv", Binary("effusion"), size=size)
    images, present = dataset.images(np.arange(len(dataset))), (dataset.attributes["effusion"] == 1).to_numpy()
    model = LogisticRegression(C=0.1, max_iter=1_000).fit(images.flatten(1).numpy(), present.astype(int))
    return as_predictor(model, "effusion", fitted_on=frozenset(dataset.patients))
