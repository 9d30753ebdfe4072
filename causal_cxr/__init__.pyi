from .audits import Audit, Report
from .data import FolderDataset, NIHChestXray14, Phantom, Subset, World, split_patients
from .graphs import Binary, Categorical, CausalGraph, Continuous

__all__ = [
    "Audit",
    "Binary",
    "Categorical",
    "CausalGraph",
    "Continuous",
    "FolderDataset",
    "NIHChestXray14",
    "Phantom",
    "Report",
    "Subset",
    "World",
    "split_patients",
]
