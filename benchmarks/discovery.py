"""How far an audit can be trusted: any editor and reader on worlds whose truth is known.

    python benchmarks/discovery.py --editor oracle --worlds 20 --images 512 --json benchmarks/results/discovery-oracle.json
    python benchmarks/discovery.py --editor drift --worlds null --seeds 200 --no-pixels --json ...
    python benchmarks/discovery.py --editor oracle --world my-world.yaml --json ...

Editors: ``oracle`` (true counterfactuals, perfect readers), ``noop`` (changes nothing), ``drift`` (the oracle with a drift
that the images of a patient share, read by imperfect readers), ``leaky`` (the oracle with planted faults), ``scm``, ``scm-map``
(with latents that are a map), ``scm-tuned`` (that one, fine-tuned on counterfactuals) and ``diffusion`` (fitted to the world:
the shipped one, else an adapter, else, where the base's text encoder never learnt a word of the world's, the whole editor; read
by a probe that is fitted to the same world with independent attributes), and ``diffusion-heun`` (that one, following the ODE:
it holds what stays less well, and lets signs come and go where what is set makes them only somewhat likelier), and
``diffusion-sampled`` (that one, editing images that it draws itself: what the model has learnt, whatever its edits show), and
``diffusion-calibrated`` (that one, guided as much as each attribute needs, as other patients are read).

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
from scoring import METHODS, STORY, Scored, beside_truth, summarise
from simulation import Fault, Marked, SimulatedEditor, SimulatedReader

from causal_cxr.audits import Audit
from causal_cxr.data.phantom.truth import NEGATIVE, truth_of
from causal_cxr.data.phantom.world import World
from causal_cxr.graphs import default_contrasts

WAYS = ("", "-heun", "-sampled", "-calibrated")  #: of the diffusion editor
SIMULATED = ("oracle", "noop", "drift", "leaky")
UNEDITED = 4_000  #: images of the unedited side
#: What diseases and marks are drawn as.
DISEASES = ("cardiothoracic_ratio", "effusion_ml", "pneumothorax", "consolidation", "oedema", "nodule_mm")
MARKS = ("laterality_marker", "portable_marker", "arrow_stamp", "control_dot", "control_bar", "control_ring")
CURVE_ONLY = "weak"  #: the named world that belongs to the power curve, not to F1


def audit(
    label: str, world: World, truth: pd.DataFrame, options: argparse.Namespace, seed: int
) -> tuple[Scored, set[tuple[str, str, str]]]:
    """Audit one world once, and lay the result beside its truth; the planted faults come along."""
    editor = options.editor
    leaky = editor == "leaky"
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
    connected = cells["relation"].isin(["causes", "caused by", "undeclared common cause", "selection", "mediated"])
    null = not (connected & ~labelled).any()
    planted = {(label, fault.cause, fault.sign.name) for fault in faults}
    curve_only = world.fingerprint == World.load(CURVE_ONLY).fingerprint
    return Scored(label, seed, cells, null and not planted, seconds, len(report.measurements), curve_only), planted


def plant(world: World, truth: pd.DataFrame, most: int = 6) -> tuple[Fault, ...]:
    """Faults where nothing is true: a mark that follows a disease, sex that follows age; one a sign, at most ``most``.

    Only pairs of a sign with prevalence >= 0.2 whose total, adjusted and marginal effects are near zero.
    """
    by_name = {sign.name: sign for sign in (*world.hidden_signs, *world.labelled_signs)}
    nothing = truth[["total", "adjusted", "marginal"]].abs().max(axis=1) <= NEGATIVE * truth["delta"]
    common = truth["prevalence"].between(0.2, 0.8)
    faults: dict[str, Fault] = {}

    def drawn(name: str, things: tuple[str, ...]) -> bool:
        return any(way.draws in things for way in world.shown.get(name, ()))

    for row in truth[nothing & common].to_dict("records"):
        sign = by_name[row["concept"]]
        garbled = drawn(row["attribute"], DISEASES) and drawn(sign.attribute, MARKS) and sign.level is not None
        moved = row["attribute"] == "age" and sign.attribute == "sex"
        if (garbled or moved) and sign.name not in faults:
            faults[sign.name] = Fault(row["attribute"], sign)
    return tuple(faults.values())[:most]


def chosen_worlds(options: argparse.Namespace) -> dict[str, World]:
    """Named worlds, files, and random ones, by what the results call them; a name that comes again is numbered."""
    worlds = [World.load(file) for file in options.world]
    for entry in options.worlds:
        if entry.isdigit():
            worlds += [World.random(options.first_world + i) for i in range(int(entry))]
        elif entry == "named":
            worlds += [World.load(name) for name in World.names() if name not in (CURVE_ONLY, "independent")]
        else:
            worlds.append(World.load(entry))
    if not worlds:
        raise SystemExit("Name worlds: --worlds named 12, --worlds portable null, or --world FILE.yaml.")
    labelled: dict[str, World] = {}
    for world in worlds:
        if not world.hidden_signs:
            raise SystemExit(
                f"Nothing that the world {world.name!r} hides shows in the image: an audit of it has no question."
            )
        times = sum(name == world.name or name.startswith(f"{world.name} #") for name in labelled)
        labelled[f"{world.name} #{times + 1}" if times else world.name] = world
    return labelled


def show(editor: str, summary: dict[str, Any]) -> None:
    """The comparison, side by side."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{editor}: {summary['runs']} audits of {len(summary['worlds'])} worlds, pairs of attributes")
    heads = (
        "F1",
        "precision",
        "recall",
        "false-discovery rate",
        "SHD a run",
        "F1 without mediated",
        "null runs with a false hidden",
    )
    for column in ("", *heads):
        table.add_column(column)

    def line(name: str, found: dict[str, Any], extra: str) -> None:
        nulls = f"{found['null_runs_with_false_hidden']} of {found['null_runs']}" if found["null_runs"] else "-"
        table.add_row(name, *(str(found[k]) for k in ("f1", "precision", "recall", "fdr", "shd")), extra, nulls)

    line(f"audit with {editor}, of the decided", summary, "")
    for method in METHODS:
        line(STORY[method], summary["baselines"][method], str(summary["baselines"][method]["f1_without_mediated"]))
    console = Console(width=170)
    console.print(table)
    console.print(f"{summary['undecided']} undecided; F1 with undecided pairs as not found: {summary['f1_of_all']}.")
    for key, words in (
        ("adds_nothing_over_adjusted", "adds nothing over (d)"),
        ("adds_only_mediation", "only tells hidden from mediated, beyond (d),"),
    ):
        console.print(f"The editor {words} in: {', '.join(summary[key]) or 'no world'}.")
    rest = {k: v for k, v in summary.items() if k not in ("baselines", "by_world", "worlds")}
    console.print_json(json.dumps(rest))


def main() -> None:
    """Audit, score, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--editor",
        required=True,
        choices=(*SIMULATED, "scm", "scm-map", "scm-tuned", *(f"diffusion{way}" for way in WAYS)),
    )
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
    runs, faults, truth_seconds = [], set(), 0.0
    for label, world in chosen_worlds(options).items():
        begun = time.monotonic()
        signs = (*world.hidden_signs, *world.labelled_signs) if options.editor == "leaky" else world.hidden_signs
        truth = truth_of(world, signs=signs, draws=options.draws)
        truth_seconds += time.monotonic() - begun
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            run, planted = audit(label, world, truth, options, seed)
            runs.append(run)
            faults |= planted
            cells = run.cells
            print(
                f"{label} seed {seed}: {int(cells['claim_ours'].sum())} hidden of "
                f"{int(cells['positive'].fillna(False).sum())} planted, {int((cells['verdict'] == 'undecided').sum())} of "
                f"{len(cells)} undecided, {run.seconds:.1f} s", flush=True,
            )  # fmt: skip
    summary = summarise(runs, faults=faults) | {"truth_seconds": round(truth_seconds, 1)}
    show(options.editor, summary)
    record(options.json, seed=options.first_seed, summary={options.editor: summary})


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
