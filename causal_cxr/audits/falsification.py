"""Does the table contradict the declared graph? Its implied independences among labelled attributes, tested."""

import numpy as np
import pandas as pd

from causal_cxr.audits.effects import covariate_columns, paired_effect
from causal_cxr.graphs import CausalGraph

SMALLEST_CORRELATION = 0.05  #: partial correlations up to this contradict nothing: in 100,000 rows all differ from 0
COLUMNS = ("a", "b", "given", "correlation", "low", "high", "p", "rejected", "n")


def independence_tests(
    graph: CausalGraph, table: pd.DataFrame, patients: np.ndarray, *, alpha: float = 0.05
) -> pd.DataFrame:
    """Test every independence that the graph implies and the labelled columns could refute.

    Each by the generalised covariance measure (Shah & Peters, Ann. Stat. 2020): the mean product of the residuals of
    both attributes given the separating set, here in units of their spread, so that it is a partial correlation;
    patient-clustered. Rejected is "at most :data:`SMALLEST_CORRELATION` in size", Holm's correction over all statements.

    Args:
        graph: declared.
        table: ``n`` rows, typed by the graph; a statement's test leaves out rows that miss one of its attributes.
        patients: ``(n,)`` ids.
        alpha: family-wise level.

    Returns:
        One row a statement: attributes ``a`` and ``b``, ``given`` (comma-separated), the correlation with its 95% interval,
        Holm-corrected ``p`` and whether it is rejected. For attributes of more than two levels: the level pair furthest
        from 0, Bonferroni-corrected for their number. NaN where there are too few rows.
    """
    from statsmodels.stats.multitest import multipletests

    rows = []
    for a, b, given in graph.implied_independences():
        known = table[[a, b, *sorted(given)]].notna().all(axis=1).to_numpy()
        part, groups = table[known], patients[known]
        covariates = [column for name in sorted(given) for column in _columns(graph, part, name).values()]
        design = np.column_stack([np.ones(len(part)), *covariates])
        effects = []
        for left in _columns(graph, part, a, flexible=False).values():
            for right in _columns(graph, part, b, flexible=False).values():
                residuals = [y - design @ np.linalg.lstsq(design, y, rcond=None)[0] for y in (left, right)]
                spread = residuals[0].std() * residuals[1].std()
                if spread > 1e-12:
                    effects.append(paired_effect(residuals[0] * residuals[1] / spread, groups))
        found = max((e for e in effects if e.n), key=lambda e: abs(e.value) / e.se, default=None)
        if found is None:
            rows.append([a, b, ", ".join(sorted(given)), *[np.nan] * 4, False, len(part)])
            continue
        p = min(1.0, found.p_yes(SMALLEST_CORRELATION) * len(effects))
        rows.append([a, b, ", ".join(sorted(given)), found.value, *found.interval(), p, False, found.n])
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    tested = frame["p"].notna().to_numpy()
    if tested.any():
        rejected, corrected, *_ = multipletests(frame.loc[tested, "p"], alpha=alpha, method="holm")
        frame.loc[tested, "p"], frame.loc[tested, "rejected"] = corrected, rejected
    return frame.astype({"rejected": bool})


def rejected_at(falsification: pd.DataFrame) -> dict[str, str]:
    """Attribute -> the first rejected statement about it."""
    found: dict[str, str] = {}
    for row in falsification[falsification["rejected"]].to_dict("records"):
        given = f" given {row['given']}" if row["given"] else ""
        for name in (row["a"], row["b"]):
            found.setdefault(name, f"{row['a']} and {row['b']} are not independent{given}")
    return found


def _columns(graph: CausalGraph, table: pd.DataFrame, name: str, flexible: bool = True) -> dict[str, np.ndarray]:
    """Numbers that stand for an attribute: dummies, or powers (only the first unless ``flexible``)."""
    codes = graph.attributes[name].encode(table[name])
    columns = covariate_columns(table[name], codes)
    if flexible or isinstance(table[name].dtype, pd.CategoricalDtype):
        return columns
    return {key: column for key, column in columns.items() if key.endswith("^1")}
