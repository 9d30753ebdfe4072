from .backdoor import BACKDOOR, Estimates, Estimator, doubly_robust, econml, ipw, regression
from .estimates import estimate
from .pathways import front_door, instrumental
from .question import Question, UnanswerableError, pose
from .refute import refutations, unobserved_confounder
from .sensitivity import (
    Regression,
    e_value,
    e_value_of_interval,
    linear_regression,
    partial_r2,
    risk_ratio,
    robustness_value,
)
from .study import ObservationalSide, observational_side

__all__ = [
    "BACKDOOR",
    "Estimates",
    "Estimator",
    "ObservationalSide",
    "Question",
    "Regression",
    "UnanswerableError",
    "doubly_robust",
    "e_value",
    "e_value_of_interval",
    "econml",
    "estimate",
    "front_door",
    "instrumental",
    "ipw",
    "linear_regression",
    "observational_side",
    "partial_r2",
    "pose",
    "refutations",
    "regression",
    "risk_ratio",
    "robustness_value",
    "unobserved_confounder",
]
