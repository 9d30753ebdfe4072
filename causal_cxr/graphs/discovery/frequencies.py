"""How often an edge is found again in other patients."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.graphs.discovery.discover import Setting, prepare
from causal_cxr.graphs.discovery.marks import ARROW, CIRCLE, NONE, TAIL
from causal_cxr.graphs.discovery.search import solve
from causal_cxr.graphs.graph import CausalGraph

ENDS = {"arrow": ARROW, "tail": TAIL, "circle": CIRCLE}


def edge_frequencies(
    table: pd.DataFrame,
    graph: CausalGraph,
    *,
    resamples: int = 20,
    size: int | None = None,
    replace: bool = False,
    seed: int = 0,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Search again in random patients; how often is each pair adjacent, and with which marks?

    Half of the patients without replacement unless asked otherwise (Meinshausen & Bühlmann 2010): a bootstrap repeats
    rows, which tests of independence take for dependence. Each search draws its own row of each patient.

    Args:
        table, graph, options: as :func:`causal_cxr.graphs.discovery.discover`; without ``patients=`` a row is a
            patient.
        resamples: searches.
        size: patients in each; half of all unless given.
        replace: bootstrap instead (then ``size`` defaults to all patients).
        seed: same seed, same frequencies, whatever ``processes`` is.
        processes: run so many at a time; more than 1 needs a main module that is guarded by ``__name__``.
        progress: called with (done, resamples) after each.

    Returns:
        One row a pair of variables that was adjacent at least once: ``a``, ``b``, ``adjacent`` and ``arrow_at_a``,
        ``tail_at_a``, ``circle_at_a``, and the same at ``b``: shares of all resamples, in [0, 1]; ``resamples`` and
        ``size``. In descending order of ``adjacent``.

    Raises:
        ValueError: fewer than one resample; more patients than there are; and all that ``discover`` refuses.
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; ask for one or more.")
    setting = prepare(table, graph, **options)
    n = len(setting.problem.columns.codes)
    numbers = np.arange(n) if setting.patients is None else np.unique(setting.patients, return_inverse=True)[1]
    count = int(numbers.max()) + 1
    taken = size or (count if replace else count // 2)
    if taken > count and not replace:
        raise ValueError(f"size is {taken}, and there are {count} patients; ask for fewer, or replace=True.")
    work = partial(_marks_again, setting, numbers, taken, replace)
    seeds = np.random.SeedSequence(seed).spawn(resamples)
    found = []
    for marks in _each(work, seeds, processes):
        found.append(marks)
        if progress is not None:
            progress(len(found), resamples)
    return _frame(np.stack(found), setting.problem.columns.names, taken)


def _each(work: Callable[[Any], np.ndarray], seeds: list[Any], processes: int) -> Iterator[np.ndarray]:
    if processes == 1:
        yield from map(work, seeds)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, seeds)


def _marks_again(setting: Setting, numbers: np.ndarray, size: int, replace: bool, seed: Any) -> np.ndarray:
    """``(k, k)`` marks found in random patients."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(int(numbers.max()) + 1, size, replace=replace)
    rows = setting.rows(int(rng.integers(2**32)))
    order = rows[np.argsort(numbers[rows], kind="stable")]
    first, last = (np.searchsorted(numbers[order], drawn, side=side) for side in ("left", "right"))
    chosen = np.concatenate([order[i:j] for i, j in zip(first, last, strict=True)])
    return solve(setting.problem, chosen).oriented.marks


def _frame(found: np.ndarray, names: tuple[str, ...], size: int) -> pd.DataFrame:
    rows = []
    for i, a in enumerate(names):
        for j in range(i + 1, len(names)):
            adjacent = float((found[:, i, j] != NONE).mean())
            if adjacent:
                at_a = {f"{name}_at_a": float((found[:, j, i] == code).mean()) for name, code in ENDS.items()}
                at_b = {f"{name}_at_b": float((found[:, i, j] == code).mean()) for name, code in ENDS.items()}
                rows.append({"a": a, "b": names[j], "adjacent": adjacent, **at_a, **at_b})
    columns = ["a", "b", "adjacent", *(f"{name}_at_{end}" for end in "ab" for name in ENDS)]
    frame = pd.DataFrame(rows, columns=columns).assign(resamples=len(found), size=size)
    return frame.sort_values("adjacent", ascending=False, kind="stable", ignore_index=True)
