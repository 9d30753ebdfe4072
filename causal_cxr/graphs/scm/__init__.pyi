from .conditioners import MLP, Conditioner, Linear
from .mechanisms import AffineFlow, GumbelMax, Mechanism, OrdinalLogit, SplineFlow, posterior_gumbels
from .scm import SCM

__all__ = [
    "MLP",
    "SCM",
    "AffineFlow",
    "Conditioner",
    "GumbelMax",
    "Linear",
    "Mechanism",
    "OrdinalLogit",
    "SplineFlow",
    "posterior_gumbels",
]
