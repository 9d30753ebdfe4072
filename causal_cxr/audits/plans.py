"""What an audit asks of its editors, worked out before anything is measured."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.cycles import NEUTRAL
from causal_cxr.data.dataset import Dataset
from causal_cxr.editors.editor import Editor
from causal_cxr.graphs import CausalGraph, Contrast

NULL_PHRASING = NEUTRAL  #: null edits say the same in other words


@dataclass(frozen=True)
class Target:
    """What one contrast asks for.

    Attributes:
        contrast: the question.
        total: labelled attributes of the edited rows under it, labelled descendants following the SCM.
        direct: the same with all else held; ``None`` where the attribute has no labelled descendant.
        orientation: ``(n,)`` +1 / -1 / 0 = not applicable.
    """

    contrast: Contrast
    total: pd.DataFrame
    direct: pd.DataFrame | None
    orientation: np.ndarray


@dataclass(frozen=True)
class Plan:
    """All that a measurement depends on, besides the models and the images.

    Attributes:
        rows: dataset rows that are read unedited.
        edited: dataset rows that are edited.
        targets: one a contrast, aligned with ``edited``.
        seed: of the editors' own chance.
        batch_size: the partition into shards; fixed, since it changes rounding.
        ladders: for contrasts that shift a number, the same asked for other shifts: name of the contrast -> (the shift, as
            a multiple of the contrast's; what it asks for).
    """

    rows: np.ndarray
    edited: np.ndarray
    targets: tuple[Target, ...]
    seed: int
    batch_size: int
    ladders: Mapping[str, tuple[tuple[float, Target], ...]] = field(default_factory=dict)

    def sample(self, n: int) -> np.ndarray:
        """``n`` positions among the edited rows, or all, in a seeded order: a smaller sample begins a larger one."""
        return np.random.default_rng([self.seed, 2]).permutation(len(self.edited))[:n]

    def asking(self, contrasts: Collection[str]) -> "Plan":
        """The same, with the targets of these contrasts only."""
        return replace(self, targets=tuple(t for t in self.targets if t.contrast.name in contrasts))

    def within(self, editor: Editor) -> "Plan":
        """The same, with the targets of contrasts that the editor can carry out."""
        return self.asking([t.contrast.name for t in self.targets if t.contrast.attribute in editor.attributes])

    def shards(self, rows: np.ndarray) -> list[np.ndarray]:
        """The fixed partition."""
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]


def plan(
    graph: CausalGraph,
    dataset: Dataset,
    contrasts: Sequence[Contrast],
    edited: np.ndarray,
    scm: Any,
    *,
    seed: int,
    batch_size: int,
    steps: Sequence[float] = (),
) -> Plan:
    """Turn contrasts into target tables, once, through the graph's attribute SCM.

    Args:
        graph: whose labelled attributes the dataset has.
        dataset: to audit.
        contrasts: to carry out.
        edited: rows to edit; none of their labelled attributes is missing.
        scm: has ``counterfactual(table, do, seed)``.
        seed: of the SCM's abduction and the editors.
        batch_size: images a shard.
        steps: of ladders, multiples of the shifts, above 0.
    """  # fmt: skip
    table = graph.coerce(dataset.attributes)
    factual = table.iloc[edited]

    def asked(contrast: Contrast) -> Target:
        attribute = graph.attributes[contrast.attribute]
        support, orientation = contrast.apply(attribute, table[contrast.attribute])
        new, orientation = support.iloc[edited], orientation[edited]
        direct = factual.assign(**{contrast.attribute: new})
        if graph.descendants(contrast.attribute) & set(graph.labelled):
            total = scm.counterfactual(factual, {contrast.attribute: new}, seed=seed)
            return Target(contrast, total, direct, orientation)
        return Target(contrast, direct, None, orientation)

    ladders = {
        contrast.name: tuple((step, asked(replace(contrast, shift=step * contrast.shift))) for step in sorted(steps))
        for contrast in contrasts
        if contrast.shift is not None and steps
    }
    targets = tuple(asked(contrast) for contrast in contrasts)
    return Plan(np.arange(len(table)), edited, targets, seed, batch_size, ladders)


def row_seeds(plan: Plan, rows: np.ndarray, cycle: int = 0) -> np.ndarray:
    """One a row, whatever the batch; others for each further abduction in a row."""
    again = [cycle] if cycle else []
    states = [np.random.SeedSequence([plan.seed, int(row), *again]).generate_state(1)[0] for row in rows]
    return np.array(states, dtype=np.int64)
