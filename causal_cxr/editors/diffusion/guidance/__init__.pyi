from .directions import Orthogonal, PerAttribute
from .guidance import ClassifierFree, Describe, Guidance, Request
from .naive import NaivePrompt
from .prompt_to_prompt import PromptToPrompt
from .region import Region

__all__ = [
    "ClassifierFree",
    "Describe",
    "Guidance",
    "NaivePrompt",
    "Orthogonal",
    "PerAttribute",
    "PromptToPrompt",
    "Region",
    "Request",
]
