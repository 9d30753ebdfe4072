from .controls import MARKS, PLACEBO, WithControls
from .dataset import Dataset, UnreadableImages
from .folder import FolderDataset
from .joined import Joined
from .nih import NIHChestXray14, nih_graph
from .phantom import Phantom, World
from .splits import Subset, batches, split_patients

__all__ = [
    "MARKS",
    "PLACEBO",
    "Dataset",
    "FolderDataset",
    "Joined",
    "NIHChestXray14",
    "Phantom",
    "Subset",
    "UnreadableImages",
    "WithControls",
    "World",
    "batches",
    "nih_graph",
    "split_patients",
]
