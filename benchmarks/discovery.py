"""How far an audit can be trusted: any editor and reader on worlds whose truth is known.

    python benchmarks/discovery.py --editor oracle --worlds 20 --images 512 --json benchmarks/results/discovery-oracle.json
    python benchmarks/discovery.py --editor drift --worlds null --seeds 200 --no-pixels --json ...
    python benchmarks/discovery.py --editor oracle --world my-world.yaml --json ...

Editors: ``oracle`` (true counterfactuals, perfect readers), ``noop`` (changes nothing), ``drift`` (the oracle with a drift
that the images of a patient share, read by imperfect readers), ``leaky`` (the oracle with planted faults), ``scm`` and
``diffusion`` (fitted to the world, read by a probe that is fitted to the same world with independent attributes).

Under ``summary.<editor>``: adjacency ``f1``, ``precision``, ``recall`` and ``fdr`` among decided pairs (pairs whose true
effect is neither >= 2 delta nor <= delta / 5 are grey and not scored; ``recall_of_all`` and ``f1_of_all`` count undecided
ones as not found), ``shd`` a run, arrowheads, ``undecided``, ``null_runs`` and those with a false hidden, ``power`` by
effect size, verdicts by true relation, interval coverage, ``seconds``, ``images_per_second``, and the four ``baselines`` on
the same images.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record import record
from scoring import CURVE_ONLY, METHODS, STORY, Scored, beside_truth, summarise
from simulation import Fault, Marked, SimulatedEditor, SimulatedReader

from causal_cxr.audits import Audit
from causal_cxr.data.phantom.truth import truth_of
from causal_cxr.data.phantom.world import World
from causal_cxr.graphs import default_contrasts

SIMULATED = ("oracle", "noop", "drift", "leaky")
UNEDITED = 4_000  #: images of the unedited side
JUDGED = 1_000
DISEASES = ("cardiomegaly", "effusion", "pneumothorax", "pneumonia", "consolidation", "oedema", "nodule")
MARKS = ("laterality_marker", "portable_marker", "arrow_stamp", "control_dot", "control_bar", "control_ring")
SMALL = 0.2  #: of delta: what counts as no effect


def audit(world: World, editor: str, options: argparse.Namespace, seed: int) -> tuple[Scored, set[tuple[str, str]]]:
    """Audit one world once, and lay the result beside its truth."""
    leaky = editor == "leaky"
    signs = (*world.hidden_signs, *world.labelled_signs) if leaky else world.hidden_signs
    truth = truth_of(world, signs=signs, draws=options.draws)
    contrasts = default_contrasts(world.declared, world.content.shifts)
    faults: tuple[Fault, ...] = ()
    begun = time.monotonic()
    if editor in SIMULATED:
        imperfect = editor == "drift"
        reader: Any = (SimulatedReader.imperfect if imperfect else SimulatedReader.perfect)(world, seed)
        phantom: Any = Marked(options.unedited, world, seed=seed, pixels=options.pixels, noise=reader.noise)
        faults = plant(world, truth) if leaky else ()
        made: Any = SimulatedEditor(
            phantom, editor, drift=options.drift if imperfect else 0.0, faults=faults, seed=seed
        )
    else:
        from fitted import fitted_editor, fitted_reader

        phantom = world.sample(options.unedited, seed)
        reader, made = fitted_reader(world), fitted_editor(editor, world, steps=options.steps)
    with tempfile.TemporaryDirectory() as folder:
        report = Audit(
            world.declared, [reader], interventions=contrasts, n_edited=options.images, labelled_outcomes=leaky
        ).run({editor: made}, phantom, seed=seed, out=Path(folder) / "run")
    seconds = time.monotonic() - begun
    cells = beside_truth(report.edges, truth, report.measurements, made.semantics)
    labelled = ~cells["of"].isin(world.graph.hidden)
    cells.loc[labelled, "positive"] = pd.NA
    cells = cells.assign(semantics=made.semantics, labelled_outcome=labelled,
                         recorded_wrongly=bool(world.content.label_noise or world.content.missing))  # fmt: skip
    null = not (
        cells["relation"].isin(["causes", "caused by", "undeclared common cause", "selection", "mediated"]) & ~labelled
    ).any()
    planted = {(fault.cause, fault.sign.name) for fault in faults}
    return Scored(world.name, seed, cells, null and not planted, seconds, len(report.measurements)), planted


def plant(world: World, truth: pd.DataFrame, most: int = 6) -> tuple[Fault, ...]:
    """Faults where nothing is true: a mark that follows a disease, sex that follows age; one a sign, at most ``most``.

    Only pairs of a sign with prevalence >= 0.2 whose total, adjusted and marginal effects are near zero.
    """
    by_name = {sign.name: sign for sign in (*world.hidden_signs, *world.labelled_signs)}
    nothing = truth[["total", "adjusted", "marginal"]].abs().max(axis=1) <= SMALL * truth["delta"]
    common = truth["prevalence"].between(0.2, 0.8)
    faults: dict[str, Fault] = {}
    for row in truth[nothing & common].to_dict("records"):
        sign = by_name[row["concept"]]
        garbled = row["attribute"] in DISEASES and sign.attribute in MARKS and sign.level is not None
        moved = row["attribute"] == "age" and sign.attribute == "sex"
        if (garbled or moved) and sign.name not in faults:
            faults[sign.name] = Fault(row["attribute"], sign)
    return tuple(faults.values())[:most]


def chosen_worlds(options: argparse.Namespace) -> list[World]:
    """Named worlds, files, and random ones: ``--worlds 12`` is all named ones and 12 random ones."""
    worlds = [World.load(file) for file in options.world]
    for entry in options.worlds:
        if entry.isdigit():
            worlds += [World.random(options.first_world + i) for i in range(int(entry))]
        elif entry == "named":
            worlds += [World.load(name) for name in World.names() if name not in CURVE_ONLY and name != "independent"]
        else:
            worlds.append(World.load(entry))
    if not worlds:
        raise SystemExit("Name worlds: --worlds named 12, --worlds portable null, or --world FILE.yaml.")
    return worlds


def show(editor: str, summary: dict[str, Any]) -> None:
    """The comparison, side by side."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{editor}: {summary['runs']} audits of {len(summary['worlds'])} worlds")
    for column in (
        "",
        "F1",
        "precision",
        "recall",
        "false-discovery rate",
        "SHD a run",
        "null runs with a false hidden",
    ):
        table.add_column(column)

    def line(name: str, found: dict[str, Any]) -> None:
        nulls = f"{found['null_runs_with_false_hidden']} of {found['null_runs']}" if found["null_runs"] else "-"
        table.add_row(name, *(str(found[k]) for k in ("f1", "precision", "recall", "fdr", "shd")), nulls)

    line(f"audit with {editor} (of the decided)", summary)
    for method in METHODS:
        line(STORY[method], summary["baselines"][method])
    console = Console(width=170)
    console.print(table)
    console.print(
        f"The editor adds nothing over (d) in: {', '.join(summary['adds_nothing_over_adjusted']) or 'no world'}."
    )
    rest = {k: v for k, v in summary.items() if k not in ("baselines", "by_world", "worlds")}
    console.print_json(json.dumps(rest))


def main() -> None:
    """Audit, score, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--editor", choices=(*SIMULATED, "scm", "diffusion"), required=True)
    parser.add_argument(
        "--worlds", nargs="*", default=[], help="names, 'named' (all scored ones), or a number of random ones"
    )
    parser.add_argument("--world", action="append", default=[], type=Path, metavar="FILE.yaml", help="may be repeated")
    parser.add_argument("--images", type=int, default=512, help="edited images an audit")
    parser.add_argument("--unedited", type=int, default=UNEDITED)
    parser.add_argument("--seeds", type=int, default=1, help="audits a world")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--first-world", type=int, default=0, help="seed of the first random world")
    parser.add_argument("--drift", type=float, default=0.05, help="SD of the editor 'drift', in signs")
    parser.add_argument("--draws", type=int, default=100_000, help="of the Monte Carlo behind the truth")
    parser.add_argument("--steps", type=int, help="training steps of the editors that are fitted")
    parser.add_argument("--pixels", action=argparse.BooleanOptionalAction, default=True, help="draw the radiographs")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    options = parser.parse_args()
    runs, faults = [], set()
    worlds = chosen_worlds(options)
    for world in worlds:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            run, planted = audit(world, options.editor, options, seed)
            runs.append(run)
            faults |= {(world.name, *pair) for pair in planted}
            cells = run.cells
            print(
                f"{world.name} seed {seed}: {int(cells['claim_ours'].sum())} hidden of "
                f"{int(cells['positive'].fillna(False).sum())} planted, {int((cells['verdict'] == 'undecided').sum())} of "
                f"{len(cells)} undecided, {run.seconds:.1f} s", flush=True,
            )  # fmt: skip
    summary = summarise(runs, faults=faults)
    show(options.editor, summary)
    record(options.json, seed=options.first_seed, summary={options.editor: summary})


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
