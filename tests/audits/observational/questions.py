"""Questions with known answers."""

import numpy as np

from causal_cxr.audits.observational import Question


def question(treatment, outcome, covariates=None, patients=None, continuous=False) -> Question:
    """A question of arrays, each row a patient unless told otherwise."""
    n = len(treatment)
    columns = {name: np.asarray(c, dtype=float).reshape(n, -1) for name, c in (covariates or {}).items()}
    held = {name: c - c.mean(axis=0) for name, c in columns.items()}
    outcomes = np.asarray(outcome, dtype=float).reshape(n, -1)
    people = np.arange(n) if patients is None else np.asarray(patients)
    return Question(np.asarray(treatment, dtype=float), continuous, held, outcomes, people, np.arange(n))


def confounded(n: int, seed: int, effect: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z -> t, z -> y, t -> y of this strength: the columns t, y, z."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    t = (rng.uniform(size=n) < 1 / (1 + np.exp(-z))).astype(float)
    return t, effect * t + 0.5 * z + rng.normal(size=n), z
