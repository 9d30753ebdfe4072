"""How good counterfactuals are where the truth is not known: composition, reversibility, effectiveness, what else moved.

Definitions: Monteiro et al., ICLR 2023 (arXiv:2303.01274); Melistas et al., NeurIPS 2024 (arXiv:2403.20287). Editors and readings are
arguments. What the package measures too is measured by it, and told in grey levels here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from causal_cxr.audits import fidelity
from causal_cxr.editors.editor import Editor
from causal_cxr.graphs import CausalGraph, Continuous

GREY = 255  #: grey levels to one unit of an image
BINS = 10  #: of a continuous attribute, by its quantiles in the training table

Reading = Callable[[Tensor, pd.DataFrame], np.ndarray]
"""``(n, 1, h, w)`` images and their intended attributes to ``(n,)`` values, or ``(n, levels)`` probabilities."""


@dataclass(frozen=True)
class Counterfactuals:
    """Images under one kind of intervention.

    Attributes:
        attribute: what was set.
        target: ``n`` rows, all attributes under the intervention; the index is the dataset's row.
        images: ``(n, 1, h, w)`` in [0, 1].
    """

    attribute: str
    target: pd.DataFrame
    images: Tensor


def composition(editor: Editor, images: Tensor, factual: pd.DataFrame, *, seed: int) -> dict[int, float]:
    """Cycle -> mean absolute change in grey levels, see :func:`causal_cxr.audits.fidelity.composition`."""
    changes = fidelity.composition(editor, images, factual, seed=seed)
    return {cycle: GREY * change for cycle, change in changes.items()}


def reversibility(
    editor: Editor, images: Tensor, factual: pd.DataFrame, made: Iterable[Counterfactuals], *, seed: int
) -> dict[str, float]:
    """Attribute set -> mean absolute change in grey levels, see :func:`causal_cxr.audits.fidelity.reversibility`."""
    return {
        one.attribute: GREY * fidelity.reversibility(editor, images, factual, one.images, one.target, seed=seed)
        for one in made
    }


def bins_of(graph: CausalGraph, training: pd.DataFrame) -> dict[str, np.ndarray]:
    """Inner edges of ``BINS`` quantile bins of each continuous attribute."""
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    return {
        name: np.quantile(training[name], inner)
        for name, attribute in graph.attributes.items()
        if isinstance(attribute, Continuous)
    }


def groups(graph: CausalGraph, name: str, values: pd.Series, bins: Mapping[str, np.ndarray]) -> np.ndarray:
    """``(n,)`` int: the bin of a continuous value, the code of a level."""
    codes = graph.attributes[name].encode(values)
    return np.searchsorted(bins[name], codes) if name in bins else codes.astype(int)


def other_values(
    graph: CausalGraph,
    name: str,
    factual: pd.DataFrame,
    training: pd.DataFrame,
    bins: Mapping[str, np.ndarray],
    *,
    seed: int,
) -> pd.Series:
    """A training value for each row, drawn from those in another bin or level than its own, as the public code does.

    Returns:
        ``n`` values, typed, with the index of ``factual``.
    """
    mine, theirs = (groups(graph, name, table[name], bins) for table in (factual, training))
    return drawn(factual[name], training[name], mine[:, None] != theirs, seed=seed)


def drawn(factual: pd.Series, training: pd.Series, eligible: np.ndarray, *, seed: int) -> pd.Series:
    """One eligible training value a row.

    Args:
        factual: ``n`` values.
        training: ``m`` values.
        eligible: ``(n, m)`` bool.
        seed: of the draw.

    Raises:
        ValueError: a row has no eligible value.
    """
    none = np.flatnonzero(~eligible.any(axis=1))
    if len(none):
        raise ValueError(
            f"No training value of {factual.name!r} is eligible for rows {factual.index[none[:3]].tolist()}; "
            "fit on more rows or leave these out."
        )
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(np.flatnonzero(row)) for row in eligible]
    return training.iloc[chosen].set_axis(factual.index)


def effectiveness(
    graph: CausalGraph, made: Iterable[Counterfactuals], readings: Mapping[str, Reading]
) -> dict[str, dict[str, float]]:
    """How far what is read from the counterfactuals is from what they were to show.

    Args:
        graph: of the attributes.
        made: counterfactuals, one kind of intervention each.
        readings: attribute -> how it is read.

    Returns:
        attribute set -> attribute read -> mean absolute error in its own units, or accuracy for levels.
    """
    return {one.attribute: reading_errors(graph, one.images, one.target, readings) for one in made}


def reading_errors(
    graph: CausalGraph, images: Tensor, table: pd.DataFrame, readings: Mapping[str, Reading]
) -> dict[str, float]:
    """Attribute -> mean absolute error in its own units, or accuracy for levels, of the readings on these images."""
    errors = {}
    for name, reading in readings.items():
        said, truth = reading(images, table), graph.attributes[name].encode(table[name])
        levels = said.ndim == 2
        errors[name] = float((said.argmax(1) == truth).mean() if levels else np.abs(said - truth).mean())
    return errors


def change_matrix(
    graph: CausalGraph,
    images: Tensor,
    factual: pd.DataFrame,
    made: Iterable[Counterfactuals],
    readings: Mapping[str, Reading],
    spreads: Mapping[str, float],
) -> dict[str, dict[str, dict[str, float | None]]]:
    """What was read to change under each intervention, on target and off.

    Args:
        graph: of the attributes.
        images: ``(n, 1, h, w)`` factual images.
        factual: ``n`` rows.
        made: counterfactuals of these images.
        readings: attribute -> how it is read, the intended attributes unknown to it.
        spreads: standard deviation of each continuous attribute in the training table.

    Returns:
        attribute set -> attribute read -> ``changed`` (mean absolute change in standard deviations; for levels the share read
        as another level), ``intended`` (the same of the targets), ``beyond`` (of the change that was not intended: the
        whole change off target) and, off target only, ``amplified``: how far the reading moved away from the factual
        mean (standard deviations), or the rise of the factual level's probability.
    """
    before = {name: reading(images, factual) for name, reading in readings.items()}
    matrix: dict[str, dict[str, dict[str, float | None]]] = {}
    for one in made:
        moved = {one.attribute, *graph.descendants(one.attribute)}
        matrix[one.attribute] = {}
        for name, reading in readings.items():
            after = reading(one.images, one.target)
            codes = [graph.attributes[name].encode(table[name]) for table in (factual, one.target)]
            cell = (
                _level_change(before[name], after, *codes)
                if after.ndim == 2
                else _change(before[name] / spreads[name], after / spreads[name], *(c / spreads[name] for c in codes))
            )
            matrix[one.attribute][name] = cell if name not in moved else cell | {"amplified": None}
    return matrix


def _change(before: np.ndarray, after: np.ndarray, factual: np.ndarray, target: np.ndarray) -> dict[str, float | None]:
    change, intended = after - before, target - factual
    return {
        "changed": float(np.abs(change).mean()),
        "intended": float(np.abs(intended).mean()),
        "beyond": float(np.abs(change - intended).mean()),
        "amplified": float((change * np.sign(factual - factual.mean())).mean()),
    }


def _level_change(
    before: np.ndarray, after: np.ndarray, factual: np.ndarray, target: np.ndarray
) -> dict[str, float | None]:
    awaited = np.where(target != factual, target, before.argmax(1))
    rows = np.arange(len(factual))
    return {
        "changed": float((after.argmax(1) != before.argmax(1)).mean()),
        "intended": float((target != factual).mean()),
        "beyond": float((after.argmax(1) != awaited).mean()),
        "amplified": float((after - before)[rows, factual.astype(int)].mean()),
    }


def off_target(matrix: Mapping[str, Mapping[str, Mapping[str, float | None]]], what: str) -> float:
    """Mean of one figure of :func:`change_matrix` over the pairs in which nothing was to change."""
    cells = [cell for row in matrix.values() for cell in row.values() if cell["amplified"] is not None]
    return float(np.mean([cell[what] for cell in cells]))
