"""What an audit costs beside its editor and its readers: time in neither of them, nor in reading images, over all time.

    python benchmarks/audit_overhead.py --json benchmarks/results/audit_overhead.json

A real audit of the phantom world ``portable`` with the shipped diffusion editor and readers. Editor, readers and dataset are
wrapped with clocks; what is left is the audit's own: planning, bookkeeping, looking at the images, analysis, limits, report.
Clocks are of CPU time, so that a shared machine changes little. ``fixed`` and ``per_image`` costs are from audits of two
sizes; a small audit before them pays for imports, which are told apart.

``--editor noop`` times the audit with an editor that costs nothing: its own cost alone, in a minute.
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from record import record
from torch import Tensor

from causal_cxr.audits import Audit
from causal_cxr.audits import audit as audit_module
from causal_cxr.audits.report import Report
from causal_cxr.data import Dataset
from causal_cxr.data.phantom import Phantom
from causal_cxr.editors import Abduction, Edit, Editor
from causal_cxr.graphs import default_contrasts
from causal_cxr.readers import CLIPReader, ProbeReader

WORLD = "portable"
EVALUATIONS = ("editor", "readers", "images")
#: Functions that :meth:`Audit.run` calls, by what they are called there.
PHASES = ("plan", "measure", "load_measurements", "load_looks", "load_composition", "load_gallery", "analyse", "limits",
          "dose_responses")  # fmt: skip
DEMO = 400  #: edited images of the demonstration


class Clock:
    """Seconds of CPU time by what they were spent on; what is inside something timed is not counted outside it.

    Args:
        now: seconds.
    """

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self.now = now
        self.seconds: dict[str, float] = {}
        self._inside = [0.0]

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Time spent in here, less what is timed within."""
        begun = self.now()
        self._inside.append(0.0)
        try:
            yield
        finally:
            elapsed = self.now() - begun
            self.seconds[what] = self.seconds.get(what, 0.0) + elapsed - self._inside.pop()
            self._inside[-1] += elapsed

    def timed(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def call(*args: Any, **options: Any) -> Any:
            with self.on(what):
                return function(*args, **options)

        return call


class Clocked:
    """A model or dataset, some methods of which are timed; all else is its own.

    Args:
        wrapped: the model.
        methods: to time.
        what: they are.
        clock: to time with.
    """

    def __init__(self, wrapped: Any, methods: Sequence[str], what: str, clock: Clock) -> None:
        self._wrapped = wrapped
        for method in methods:
            setattr(self, method, clock.timed(what, getattr(wrapped, method)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class Noop:
    """Returns the images, at no cost."""

    fingerprint, semantics, fitted_on = "noop", "observational", frozenset[str]()

    def __init__(self, attributes: frozenset[str]) -> None:
        self.attributes = attributes

    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        """Keep the images."""
        return Abduction(attributes, images)

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        """Give them back."""
        return Edit.all_accepted(abduction.state)


def timed_audit(editor: Editor, dataset: Dataset, audit: Audit, clock: Clock, *, seed: int) -> dict[str, float]:
    """Carry the audit out and save its report; seconds by what they were spent on, ``other`` for the rest of the run.

    Args:
        editor, dataset: as audited.
        audit: with clocked readers.
        clock: theirs; it starts anew.
    """
    clock.seconds.clear()
    clocked: Any = Clocked(editor, ("abduct", "edit"), "editor", clock)
    images: Any = Clocked(dataset, ("images",), "images", clock)
    with tempfile.TemporaryDirectory() as out, contextlib.ExitStack() as patches:
        for phase in PHASES:
            if hasattr(audit_module, phase):
                patches.enter_context(
                    mock.patch.object(audit_module, phase, clock.timed(phase, getattr(audit_module, phase)))
                )
        patches.enter_context(mock.patch.object(Report, "save", _saving(clock, Report.save)))
        with clock.on("other"):
            audit.run(clocked, images, seed=seed, out=out)
    return dict(clock.seconds)


def _saving(clock: Clock, save: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Report, *args: Any, **options: Any) -> Any:
        with clock.on("report"):
            return save(self, *args, **options)

    return call


def overhead(seconds: dict[str, float]) -> tuple[float, float]:
    """Seconds outside the evaluations, and in all."""
    total = sum(seconds.values())
    return total - sum(seconds.get(what, 0.0) for what in EVALUATIONS), total


def summarise(
    small: dict[str, float], large: dict[str, float], sizes: tuple[int, int], first_use: float
) -> dict[str, Any]:
    """The benchmark's figures, from the seconds of audits of two sizes.

    Args:
        small, large: of :func:`timed_audit`.
        sizes: edited images of each.
        first_use: seconds that a first audit in a process pays more, for imports.
    """
    (less, less_total), (more, total) = overhead(small), overhead(large)
    step = sizes[1] - sizes[0]
    per_image, per_image_total = (more - less) / step, (total - less_total) / step
    fixed, fixed_total = more - per_image * sizes[1], total - per_image_total * sizes[1]
    return {
        "overhead_fraction": round(more / total, 4),
        "edited": sizes[1],
        "seconds": {what: round(spent, 3) for what, spent in sorted(large.items(), key=lambda item: -item[1])},
        "overhead_s": round(more, 2),
        "total_s": round(total, 2),
        "fixed_s": round(fixed, 3),
        "per_image_s": round(per_image, 4),
        "per_image_total_s": round(per_image_total, 4),
        "overhead_fraction_at_demo_size": round((fixed + per_image * DEMO) / (fixed_total + per_image_total * DEMO), 4),
        "first_use_s": round(first_use, 2),
    }


def main() -> None:
    """Run three audits and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--editor", choices=("diffusion", "noop"), default="diffusion")
    parser.add_argument("--edited", type=int, nargs=2, default=(32, 64), metavar=("SMALL", "LARGE"))
    parser.add_argument("--unedited", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    clock = Clock()
    phantom = Phantom(args.unedited, WORLD, seed=args.seed)
    editor = _editor(args.editor, phantom)
    models = (CLIPReader.from_shipped(), ProbeReader.from_shipped())
    readers: list[Any] = [Clocked(reader, ("read",), "readers", clock) for reader in models]
    contrasts = default_contrasts(phantom.graph, phantom.world.content.shifts)

    def run(dataset: Phantom, edited: int) -> dict[str, float]:
        audit = Audit(phantom.graph, readers, interventions=contrasts, n_edited=edited)
        return timed_audit(editor, dataset, audit, clock, seed=args.seed)

    tiny = Phantom(96, WORLD, seed=args.seed)
    first, again = (overhead(run(tiny, 4))[0] for _ in range(2))
    small, large = (run(phantom, edited) for edited in args.edited)
    summary = summarise(small, large, tuple(args.edited), first - again) | {
        "editor": args.editor,
        "unedited": args.unedited,
    }
    record(args.json, seed=args.seed, summary=summary)
    print(json.dumps(summary, indent=1))


def _editor(name: str, phantom: Phantom) -> Editor:
    if name == "noop":
        return Noop(frozenset(phantom.graph.labelled))
    from causal_cxr.editors.diffusion import DiffusionEditor

    return DiffusionEditor.from_shipped()


if __name__ == "__main__":
    main()
