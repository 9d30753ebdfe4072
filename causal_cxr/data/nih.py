"""``NIHChestXray14``: the public release of ChestX-ray14 (Wang et al., CVPR 2017, arXiv:1705.02315)."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from causal_cxr.data.folder import FolderDataset
from causal_cxr.graphs import Attribute, Binary, CausalGraph, Continuous

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
OLDEST = 120.0  #: years; the release has ages up to 414, which are typing errors
_YEARS = {"Y": 1.0, "M": 1 / 12, "D": 1 / 365.25}  # the first release wrote 058Y, 010M, 005D


def nih_graph() -> CausalGraph:
    """A modest declaration: age and sex act on findings, age and findings on the view, all show."""
    findings = [name.lower() for name in FINDINGS]
    attributes: list[Attribute] = [
        Continuous("age", unit="years", low=0, high=OLDEST, phrases="{value:.0f}-year-old"),
        Binary("sex", levels=("F", "M"), phrases={"F": ("woman", "female patient"), "M": ("man", "male patient")}),
        Binary("view", levels=("PA", "AP"), phrases={"PA": "PA view", "AP": "AP view"}),
    ]
    for name in findings:
        words = name.replace("_", " ")
        attributes.append(Binary(name, phrases={0: (f"no {words}", f"without {words}"), 1: (words, f"with {words}")}))
    edges = [("age", "view"), *((cause, name) for name in findings for cause in ("age", "sex"))]
    return CausalGraph(attributes, [*edges, *((name, "view") for name in findings)])


class NIHChestXray14(FolderDataset):
    """ChestX-ray14, or any part of it in the same layout.

    Args:
        root: has ``Data_Entry_2017_v2020.csv`` and the images under ``images/`` or ``images_001/images/`` to
            ``images_012/images/``; a row whose file is nowhere is named by :meth:`check` and when it is asked for.
        size: pixels a side; the release has 1024.
        graph: its labelled attributes, out of age (years), sex (F, M), view (PA, AP) and one 0/1 a finding in lower
            case, become the table; :func:`nih_graph` unless given. Ages over 120 or unreadable are missing.

    Attributes:
        hidden: 1 / 0 / NaN for what ``hidden_labels.csv`` says of each image, when that file is there, else ``None``.
        unlisted: images that no row names.

    Raises:
        FileNotFoundError: there is no table in ``root``.
        ValueError: the table lacks a column, or the graph has a labelled attribute that the release has not.
    """

    def __init__(self, root: str | Path, *, size: int | None = None, graph: CausalGraph | None = None) -> None:
        root, graph = Path(root), graph or nih_graph()
        file = root / "Data_Entry_2017_v2020.csv"
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist; pass the folder that holds it and the images.")
        entries = pd.read_csv(file, dtype={"Patient ID": str})
        needed = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
        lacking = [column for column in needed if column not in entries]
        if lacking:
            raise ValueError(f"{file} has no column {lacking}; it has {list(entries.columns)}.")
        labels = entries["Finding Labels"].astype("string").str.split("|")
        columns = {
            "age": _age_years(entries["Patient Age"]),
            "sex": entries["Patient Gender"].where(entries["Patient Gender"].isin(["F", "M"])),
            "view": entries["View Position"].where(entries["View Position"].isin(["PA", "AP"])),
        }
        for finding in FINDINGS:
            columns[finding.lower()] = pd.Series(
                [int(finding in found) if isinstance(found, list) else None for found in labels]
            )
        unknown = [name for name in graph.labelled if name not in columns]
        if unknown:
            raise ValueError(
                f"The release has no column for {unknown}; it has {list(columns)}. Declare it hidden=True."
            )
        attributes = graph.coerce(pd.DataFrame({name: columns[name] for name in graph.labelled}))
        there = {
            path.name: path
            for folder in (root / "images", *sorted(root.glob("images_*/images")))
            for path in folder.glob("*.png")
        }
        names = entries["Image Index"].astype(str)
        paths = [there.get(name, root / "images" / name) for name in names]
        self._set(graph, attributes, entries["Patient ID"].astype(str), None, tuple(names), paths, size)
        self.unlisted = tuple(sorted(set(there) - set(names)))
        self.hidden = _hidden(root / "hidden_labels.csv", names)

    def check(self) -> dict[int, str]:
        """Read every image once, keeping none; row -> what is wrong, empty when all is well.

        The release has one size, so an image that is not as large as most is named too: it is no original.
        """
        problems = super().check()
        sizes = {}
        for row, path in enumerate(self.paths):
            if row not in problems:
                with Image.open(path) as picture:
                    sizes[row] = picture.size
        usual = Counter(sizes.values()).most_common(1)
        for row, (width, height) in sizes.items():
            if (width, height) != usual[0][0]:
                problems[row] = (
                    f"{self.names[row]} is {width}x{height} pixels where most are {usual[0][0][0]}x{usual[0][0][1]}"
                )
        return dict(sorted(problems.items()))


def _age_years(column: pd.Series) -> pd.Series:
    """Years; what is no age (over 120, negative, unreadable) is missing."""
    parts = column.astype("string").str.strip().str.extract(r"^(\d+(?:\.\d+)?)([YMD]?)$")
    years = pd.to_numeric(parts[0]).astype(float) * parts[1].map(_YEARS).fillna(1.0).astype(float)
    return years.where(years.between(0, OLDEST))


def _hidden(file: Path, names: pd.Series) -> pd.DataFrame | None:
    if not file.is_file():
        return None
    labels = pd.read_csv(file).set_index("image").astype(float)
    wrong = [c for c in labels if not np.isin(labels[c].dropna(), (0, 1)).all()]
    if wrong:
        raise ValueError(f"{file} has other values than 1, 0 and empty in {wrong}; correct them.")
    return labels.reindex(names).reset_index(drop=True)
