from .effect import NOTHING, Effect
from .multiplicity import benjamini_yekutieli
from .paired import paired_effect, rejection_bounds
from .randomisation import signflip_max_t
from .standardised import SPLINE_POWERS, covariate_columns, design_matrix, g_computation

__all__ = [
    "NOTHING",
    "SPLINE_POWERS",
    "Effect",
    "benjamini_yekutieli",
    "covariate_columns",
    "design_matrix",
    "g_computation",
    "paired_effect",
    "rejection_bounds",
    "signflip_max_t",
]
