from .attributes import Attribute, Binary, Categorical, Continuous, Value, attribute_from_dict
from .drawing import Drawing
from .graph import IMAGE, CausalGraph
from .identification import Estimand, Identification, identify
from .interventions import Contrast, default_contrasts

__all__ = [
    "IMAGE",
    "Attribute",
    "Binary",
    "Categorical",
    "CausalGraph",
    "Continuous",
    "Contrast",
    "Drawing",
    "Estimand",
    "Identification",
    "Value",
    "attribute_from_dict",
    "default_contrasts",
    "identify",
]
