from .blindness import within_patients
from .calibration import Calibration
from .clip import CLIPReader, HeldOut, finetune_clip
from .component_search import find_components
from .component_settings import ComponentSearch
from .components import ComponentReader
from .concepts import Concept, load_concepts
from .features import Features, Joined, OrientedGradients, Pixels
from .flamingo import Exemplars, FlamingoReader
from .impute import Imputation, impute_missing
from .judging import assess_reader, known_truth
from .measure import MeasureReader
from .patches import PatchDictionary
from .probe import ProbeReader
from .quality import ReaderQuality, assess, blind_spots
from .reader import Reader, read_dataset
from .redundancy import Kinship, kinship, redundant_readers, shared_errors
from .xrv import XRVReader

__all__ = [
    "CLIPReader",
    "Calibration",
    "ComponentReader",
    "ComponentSearch",
    "Concept",
    "Exemplars",
    "Features",
    "FlamingoReader",
    "HeldOut",
    "Imputation",
    "Joined",
    "Kinship",
    "MeasureReader",
    "OrientedGradients",
    "PatchDictionary",
    "Pixels",
    "ProbeReader",
    "Reader",
    "ReaderQuality",
    "XRVReader",
    "assess",
    "assess_reader",
    "blind_spots",
    "find_components",
    "finetune_clip",
    "impute_missing",
    "kinship",
    "known_truth",
    "load_concepts",
    "read_dataset",
    "redundant_readers",
    "shared_errors",
    "within_patients",
]
