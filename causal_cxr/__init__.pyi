from .audits import Audit, Report, ShortcutAudit
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
    "ShortcutAudit",
    "Subset",
    "World",
    "split_patients",
]
