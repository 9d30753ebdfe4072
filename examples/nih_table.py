"""Test what one would naively draw against the table of ChestX-ray14, and look for what is there instead. No image is
read.

    python examples/nih_table.py --data path/to/Data_Entry_2017_v2020.csv.gz --out runs/nih-table

Falsifies a naive graph, searches with FCI one image a patient, searches again in random patients for how often each
edge is found, and shows how the view is tied to findings, before and after adjustment. "No Finding" takes no part: it
says only that the others are absent.
"""

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from causal_cxr.audits.effects import Effect, covariate_columns, design_matrix, g_computation
from causal_cxr.audits.falsification import falsify_graph, independence_tests
from causal_cxr.audits.fusion import fuse
from causal_cxr.data.whole_file import whole_file
from causal_cxr.graphs import Binary, Categorical, CausalGraph
from causal_cxr.graphs.discovery import discover, edge_frequencies, one_per_patient

AGES = (0, 30, 45, 60, 121)  #: years; the release has ages up to 414, which are typing errors and become missing
FINDINGS = 9  #: the commonest
console = Console()


def read_table(file: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Age group, sex, view and the commonest findings, one row an image; and the patients."""
    entries = pd.read_csv(file, dtype={"Patient ID": str})
    labels = entries["Finding Labels"].str.get_dummies("|").drop(columns="No Finding", errors="ignore")
    common = labels.sum().sort_values(ascending=False, kind="stable").index[:FINDINGS]
    age = pd.cut(entries["Patient Age"], AGES, labels=age_groups(), include_lowest=True, right=False)
    table = pd.DataFrame(
        {"age": age.astype(object), "sex": entries["Patient Gender"], "view": entries["View Position"]}
    )
    found = labels[common].rename(columns=str.lower)
    return pd.concat([table, found.loc[:, found.any()]], axis=1), entries["Patient ID"].to_numpy()


def age_groups() -> list[str]:
    return [f"{low}-{high - 1}" for low, high in pairwise(AGES)]


def naive_graph(findings: list[str]) -> CausalGraph:
    """What a newcomer might draw: age and sex act on each disease, the sick are imaged in bed, diseases do not meet.

    Who comes to the hospital depends on age and sex: the images are declared as selected on both.
    """
    attributes = [
        Categorical("age", levels=tuple(age_groups()), ordered=True),
        Binary("sex", levels=("F", "M")),
        *(Binary(name) for name in findings),
        Binary("view", levels=("PA", "AP")),
    ]
    edges = [(cause, name) for cause in ("age", "sex") for name in findings] + [(name, "view") for name in findings]
    return CausalGraph(attributes, edges, selected_on=["age", "sex"], tiers=[["age", "sex"], findings, ["view"]])


def by_view(table: pd.DataFrame, patients: np.ndarray, graph: CausalGraph, finding: str) -> tuple[Effect, Effect]:
    """Risk of a finding in AP less that in PA images: crude, and adjusted for age, sex and the other findings.

    All images, patients as clusters. An association: the graph has findings as causes of the view.
    """
    others = [name for name in graph.labelled if name not in ("view", finding)]
    part = table[["view", finding, *others]].dropna()
    groups = patients[table.index.get_indexer(part.index)]
    codes = {name: graph.attributes[name].encode(part[name]) for name in part}
    columns = {k: v for name in others for k, v in covariate_columns(part[name], codes[name]).items()}
    effects = []
    for covariates in ({}, columns):
        designs = [
            design_matrix(view, covariates, False) for view in (codes["view"], np.zeros(len(part)), np.ones(len(part)))
        ]
        effects += g_computation(codes[finding][:, None], groups, *designs)
    return effects[0], effects[1]


def show(title: str, frame: pd.DataFrame, most: int = 40) -> None:
    """Print a frame."""
    shown = Table(*map(str, frame.columns), title=title, title_justify="left")
    for row in frame.head(most).itertuples(index=False):
        shown.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row))
    console.print(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Data_Entry_2017_v2020.csv, or .csv.gz")
    parser.add_argument("--resamples", type=int, default=20)
    parser.add_argument("--size", type=int, default=10_000, help="patients in each resample")
    parser.add_argument("--depth", type=int, default=3, help="most variables in a separating set")
    parser.add_argument("--alpha", type=float, default=0.01, help="of each test in the search")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/nih-table"))
    args = parser.parse_args()
    begun = time.monotonic()
    seconds: dict[str, float] = {}

    def done(step: str) -> None:
        seconds[step] = round(time.monotonic() - begun - sum(seconds.values()), 1)

    raw, patients = read_table(args.data)
    graph = naive_graph([name for name in raw if name not in ("age", "sex", "view")])
    table = graph.coerce(raw)
    once = one_per_patient(patients, args.seed)
    console.print(f"{len(table):,} images of {len(once):,} patients; {', '.join(graph.labelled)}")
    done("reading")

    first, ids = table.iloc[once], patients[once]
    verdict = falsify_graph(graph, first, ids, seed=args.seed, permutations=20)
    statements = independence_tests(graph, first, ids)
    wrong = statements[statements["rejected"]].sort_values("correlation", key=abs, ascending=False)
    console.print(f"\n[bold]The naive graph is {verdict.verdict}.[/bold] {verdict.words}\n")
    show(
        f"{len(wrong)} of {len(statements)} independences that it implies do not hold",
        wrong[["a", "b", "given", "correlation", "low", "high"]],
    )
    done("falsification")

    options: dict[str, Any] = {
        "method": "fci",
        "test": "chisq",
        "depth": args.depth,
        "alpha": args.alpha,
        "patients": patients,
    }
    found = discover(table, graph, seed=args.seed, **options)
    done("discovery")
    console.print(f"FCI: {found.provenance['tests']:,} tests of {found.provenance['rows']:,} images, one a patient")
    with Progress(console=console) as bar:
        task = bar.add_task(f"{args.resamples} resamples of {args.size:,} patients", total=args.resamples)
        again = edge_frequencies(
            table, graph, resamples=args.resamples, size=args.size, seed=args.seed, processes=args.processes,
            progress=lambda n, _: bar.update(task, completed=n), **options,
        )  # fmt: skip
    done("resamples")
    shares = again.set_index(["a", "b"])["adjacent"]
    edges = found.to_frame().assign(frequency=[float(shares.get((e.a, e.b), 0.0)) for e in found.edges])
    show(
        "Edges, and the share of resamples that have them",
        edges[["edge", "frequency"]].sort_values("frequency", ascending=False, kind="stable"),
        most=60,
    )
    fused = fuse(graph, discovered=found, frequencies=again)
    doubtful = fused.falsify(first, ids)
    show("Where table and declaration disagree", fused.conflicts[["kind", "sentence"]], most=60)
    console.print(
        f"Declared and found together imply {len(doubtful)} independences; {doubtful['rejected'].sum()} do not hold.\n"
    )
    done("fusion")

    findings = graph.labelled[2:-1]
    effects = {name: by_view(table, patients, graph, name) for name in findings}
    view = pd.DataFrame(
        [(name, crude.value, *crude.interval(), adjusted.value, *adjusted.interval()) for name, (crude, adjusted) in effects.items()],
        columns=["finding", "crude", "low", "high", "adjusted", "adjusted_low", "adjusted_high"],
    )  # fmt: skip
    show("Risk in AP less risk in PA images; adjusted for age, sex and the other findings", view)
    done("confounding")

    summary = {
        "images": len(table), "patients": len(once), "seconds": {**seconds, "all": round(time.monotonic() - begun, 1)},
        "naive_graph": {"verdict": verdict.verdict, "words": verdict.words, "implied": len(statements),
                        "rejected": len(wrong)},
        "fused_graph": {"implied": len(doubtful), "rejected": int(doubtful["rejected"].sum()),
                        "conflicts": fused.conflicts["kind"].value_counts().to_dict()},
        "discovered": found.to_dict(), "frequencies": again.to_dict("records"), "view": view.to_dict("records"),
    }  # fmt: skip
    write(args.out / "summary.json", json.dumps(summary, indent=1))
    write(args.out / "discovered.graphml", found.to_graphml())
    write(args.out / "fused.graphml", fused.to_graphml())
    found.draw().save(args.out / "discovered.svg")
    fused.draw().save(args.out / "fused.svg")
    console.print(f"{summary['seconds']}\n{args.out / 'fused.svg'}")


def write(file: Path, text: str) -> None:
    with whole_file(file) as partial:
        partial.write_text(text)


if __name__ == "__main__":
    main()
