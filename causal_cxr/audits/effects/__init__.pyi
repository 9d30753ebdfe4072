from .betting import ClusteredSums, confidence_sequence, log_e_above, log_e_no, log_e_yes
from .bootstrap import bootstrap_interval, mean_difference, mean_ratio
from .doubly_robust import DoublyRobust, cross_fitted_effect, pseudo_outcomes
from .effect import NOTHING, Effect, IntervalEstimate
from .evalues import benjamini_yekutieli_calibrator, e_bh, e_needed, hedged, spared, spared_error
from .multiplicity import benjamini_yekutieli, benjamini_yekutieli_level, family_wise_conjunction, holm
from .paired import paired_effect, rejection_bounds
from .power import minimum_detectable_effect, patients_needed, planned_effect, power_of, smallest_margin
from .prediction_powered import PredictionPowered, prediction_powered_difference, prediction_powered_effect
from .randomisation import FlipTest, draw_signs, multiplier_max_t, signflip_test
from .ratios import fieller_interval, paired_ratio
from .robust import clustered_share, hodges_lehmann, probability_of_improvement
from .standardised import SPLINE_POWERS, covariate_columns, design_matrix, g_computation

__all__ = [
    "NOTHING",
    "SPLINE_POWERS",
    "ClusteredSums",
    "DoublyRobust",
    "Effect",
    "FlipTest",
    "IntervalEstimate",
    "PredictionPowered",
    "benjamini_yekutieli",
    "benjamini_yekutieli_calibrator",
    "benjamini_yekutieli_level",
    "bootstrap_interval",
    "clustered_share",
    "confidence_sequence",
    "covariate_columns",
    "cross_fitted_effect",
    "design_matrix",
    "draw_signs",
    "e_bh",
    "e_needed",
    "family_wise_conjunction",
    "fieller_interval",
    "g_computation",
    "hedged",
    "hodges_lehmann",
    "holm",
    "log_e_above",
    "log_e_no",
    "log_e_yes",
    "mean_difference",
    "mean_ratio",
    "minimum_detectable_effect",
    "multiplier_max_t",
    "paired_effect",
    "paired_ratio",
    "patients_needed",
    "planned_effect",
    "power_of",
    "prediction_powered_difference",
    "prediction_powered_effect",
    "probability_of_improvement",
    "pseudo_outcomes",
    "rejection_bounds",
    "signflip_test",
    "smallest_margin",
    "spared",
    "spared_error",
]
