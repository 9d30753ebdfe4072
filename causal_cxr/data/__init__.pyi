from .dataset import Dataset, UnreadableImages
from .folder import FolderDataset
from .nih import NIHChestXray14, nih_graph
from .phantom import Phantom
from .splits import Subset, batches, split_patients

__all__ = [
    "Dataset",
    "FolderDataset",
    "NIHChestXray14",
    "Phantom",
    "Subset",
    "UnreadableImages",
    "batches",
    "nih_graph",
    "split_patients",
]
