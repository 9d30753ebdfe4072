"""What an audit that stops saves, and whether it says the same: stopped by e-values against all edits, on the same edits.

Each audit edits 512 images once, one a patient in random order, in full. Its table is then decided twice: with a fixed number of
patients and p-values (:func:`causal_cxr.audits.analyse`), and shard by shard as :class:`causal_cxr.audits.Anytime` would have
seen it, which makes fewer edits (:func:`causal_cxr.audits.anytime.replay`). Worlds ``null`` and ``portable``; editors ``oracle`` (read
perfectly) and ``drift`` (read by readers of slope 0.4 to 0.8).

    python benchmarks/effects_anytime.py --json benchmarks/results/effects_anytime.json
    python benchmarks/effects_anytime.py --images-per-patient 0   # whole patients

``summary``: ``evalue_same_verdicts``, share of cells with the same verdict, and ``evalue_edits_saved``, of edits and null edits:
each the least over world x editor. Of each of these, under ``evalue_worlds``: cells; ``same``; ``contrary``, decided by both, differently;
``only_full`` and ``only_stopped``, decided by one; ``saved``, and the least of an audit; ``claims_on_null``, cells of a world
without hidden edges that either way got a verdict other than none. Audits take the seeds from 100 + ``--seed`` on: bets and
defaults were chosen on seeds below 10.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record import record
from simulation import Marked, SimulatedEditor, SimulatedReader

from causal_cxr.audits import Anytime, analyse
from causal_cxr.audits.anytime import StoppingRule, replay
from causal_cxr.audits.measure import measure as measure_audit
from causal_cxr.audits.plans import plan
from causal_cxr.audits.store import load_measurements
from causal_cxr.data.phantom.world import World
from causal_cxr.graphs import default_contrasts
from causal_cxr.graphs.scm import SCM

WORLDS, EDITORS = ("null", "portable"), ("oracle", "drift")
UNEDITED, EDITED = 4_000, 512  #: images, as in benchmarks/discovery.py
DRIFT = 0.05  #: of the editor ``drift``, as there
AUDITS = 5  #: a world and editor
HELD_OUT = 100  #: seeds below were looked at


def compare(world: World, kind: str, seed: int, settings: Anytime) -> tuple[pd.DataFrame, int, int]:
    """One audit in full and stopped.

    Returns:
        verdicts ``full`` and ``stopped`` by contrast and concept; edits made in full and stopped.
    """
    imperfect = kind == "drift"
    reader = (SimulatedReader.imperfect if imperfect else SimulatedReader.perfect)(world, seed)
    phantom = Marked(UNEDITED, world, seed=seed, pixels=False, noise=reader.noise)
    editor = SimulatedEditor(phantom, kind, drift=DRIFT if imperfect else 0.0, seed=seed)
    rows = settings.order(np.arange(UNEDITED), phantom.patients.to_numpy(), EDITED, seed)
    contrasts = default_contrasts(world.declared, world.content.shifts)
    scm = SCM(world.declared).fit(phantom.attributes)
    made = plan(world.declared, phantom, contrasts, rows, scm, seed=seed, batch_size=64)
    with tempfile.TemporaryDirectory() as folder:
        measure_audit(phantom, {kind: editor}, [reader], made, Path(folder), manifest={})
        measurements = load_measurements(Path(folder))
    about = (world.declared, contrasts, {reader.name: reader.concepts}, {reader.name: reader.quality})
    full = analyse(measurements, phantom.attributes, *about).edges
    rule = StoppingRule(settings, made, [kind], phantom.patients, phantom.attributes, *about)
    stopped, kept = replay(rule, measurements)
    verdicts = [frame.set_index(["contrast", "concept"])["verdict"] for frame in (full, stopped.edges)]
    edits = [int(table["kind"].isin(["null", "total"]).sum()) for table in (measurements, kept)]
    return pd.concat(verdicts, axis=1, keys=["full", "stopped"]), edits[0], edits[1]


def score(audits: Sequence[tuple[pd.DataFrame, int, int]], hidden_edges: bool) -> dict[str, Any]:
    """Several audits of one world by one editor."""
    cells = pd.concat([verdicts for verdicts, _, _ in audits])
    decided = cells != "undecided"
    differ = cells["full"] != cells["stopped"]
    saved = [1 - stopped / full for _, full, stopped in audits]
    found: dict[str, Any] = {
        "audits": len(audits),
        "cells": len(cells),
        "same": round(float(1 - differ.mean()), 4),
        "contrary": int((differ & decided.all(axis=1)).sum()),
        "only_full": int((decided["full"] & ~decided["stopped"]).sum()),
        "only_stopped": int((~decided["full"] & decided["stopped"]).sum()),
        "undecided_in_full": round(float((~decided["full"]).mean()), 4),
        "saved": round(1 - sum(a[2] for a in audits) / sum(a[1] for a in audits), 4),
        "least_saved": round(min(saved), 4),
    }
    if not hidden_edges:
        found["claims_on_null"] = {way: int((~cells[way].isin(["none", "undecided"])).sum()) for way in cells}
    return found


def measure(
    seed: int,
    *,
    audits: int = AUDITS,
    worlds: Sequence[str] = WORLDS,
    settings: Anytime | None = None,
) -> dict[str, Any]:
    """The summary.

    Args:
        seed: the first audit's is :data:`HELD_OUT` more; those that follow take the next ones.
        audits: a world and editor.
        worlds: names, or ``random-N`` for the random world of seed N.
        settings: how to stop; the default unless given.
    """
    settings = settings or Anytime()
    found: dict[str, dict[str, Any]] = {}
    for name in worlds:
        world = World.random(int(name.removeprefix("random-"))) if name.startswith("random-") else World.load(name)
        for kind in EDITORS:
            made = [compare(world, kind, HELD_OUT + seed + i, settings) for i in range(audits)]
            found[f"{name} {kind}"] = score(made, hidden_edges=name != "null")
            print(f"{name} {kind}: {found[f'{name} {kind}']}", flush=True)
    return {
        "evalue_same_verdicts": min(of["same"] for of in found.values()),
        "evalue_edits_saved": min(of["saved"] for of in found.values()),
        "evalue_images_per_patient": settings.images_per_patient,
        "evalue_worlds": found,
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the first audit, less 100")
    parser.add_argument("--audits", type=int, default=AUDITS, help="a world and editor")
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS), help="names, or random-N")
    parser.add_argument("--images-per-patient", type=int, default=1, help="edited at most; 0: all")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    options = parser.parse_args()
    settings = Anytime(images_per_patient=options.images_per_patient or None)
    summary = measure(options.seed, audits=options.audits, worlds=options.worlds, settings=settings)
    print({key: value for key, value in summary.items() if key != "evalue_worlds"})
    record(options.json, seed=options.seed, summary=summary)


if __name__ == "__main__":
    main()
