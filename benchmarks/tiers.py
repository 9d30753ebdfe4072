"""Do searches heed declared tiers, and claim no more than tiers say? causal-learn's own marks beside ours.

    python benchmarks/tiers.py --json benchmarks/results/tiers.json

Small tables of a dense linear model, whose tiers are declared against the order in which it was drawn: tests err, and colliders
contradict the tiers and each other. ``summary.<search>``: ``against_tiers``, tables in which an edge says that something causes what stands in
an earlier tier; and, of the edges between tiers, how many have a tail at the earlier end. "What is later causes nothing earlier"
puts an arrow at the later end; a tail at the earlier one would deny a latent common cause, which nobody has ruled out
(causal-learn issue 266), so that only the data can put one there.
"""

import argparse
import contextlib
import io
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record import record

from causal_cxr.graphs import CausalGraph, Continuous
from causal_cxr.graphs.discovery import MarkedEdge, discover
from causal_cxr.graphs.discovery.discovered import broken_knowledge

NAMES = "abcde"
TIERS = (("d", "e"), ("b",), ("a", "c"))
ALPHA, ROWS = 0.1, 150
SEARCHES = ("causal-learn pc", "causal-learn fci", "ours pc", "ours fci")
MARKS: dict[int, Any] = {-1: "tail", 1: "arrow", 2: "circle"}  #: in causal-learn's matrices


def table(seed: int) -> pd.DataFrame:
    """``(ROWS, 5)`` of a linear model in which any earlier letter may cause any later one."""
    rng = np.random.default_rng(seed)
    k = len(NAMES)
    weights = np.triu(rng.normal(size=(k, k)) * (rng.uniform(size=(k, k)) < 0.7), 1)
    values = np.zeros((ROWS, k))
    for i in range(k):
        values[:, i] = values @ weights[:, i] + rng.normal(size=ROWS)
    return pd.DataFrame(values, columns=list(NAMES))


def found(search: str, graph: CausalGraph, data: pd.DataFrame) -> list[MarkedEdge]:
    """The edges of one search, with the tiers as background knowledge."""
    method = search.split()[1]
    if search.startswith("ours"):
        return list(discover(data, graph, method=method, alpha=ALPHA, depth=None).edges)  # type: ignore[arg-type]
    from causallearn.search.ConstraintBased.FCI import fci
    from causallearn.search.ConstraintBased.PC import pc

    knowledge = graph.to_background_knowledge()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"background_knowledge": knowledge, "show_progress": False, "node_names": list(NAMES)}
        if method == "pc":
            marks = pc(data.to_numpy(), ALPHA, "fisherz", **options).G.graph
        else:
            marks = fci(data.to_numpy(), "fisherz", ALPHA, **options)[0].graph
    return [
        MarkedEdge(NAMES[j], NAMES[i], MARKS[marks[j, i]], MARKS[marks[i, j]])
        for i in range(len(NAMES))
        for j in range(i)
        if marks[i, j]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first table")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    args = parser.parse_args()
    graph = CausalGraph([Continuous(name, unit="", low=-1e3, high=1e3) for name in NAMES], tiers=TIERS)
    tier = {name: i for i, group in enumerate(TIERS) for name in group}
    summary: dict[str, Any] = {"tables": args.tables, "causal-learn": version("causal-learn")}
    for search in SEARCHES:
        broken = tails = between = 0
        for seed in range(args.seed, args.seed + args.tables):
            edges = found(search, graph, table(seed))
            broken += bool(broken_knowledge(edges, graph))
            for edge in edges:
                if tier[edge.a] != tier[edge.b]:
                    between += 1
                    tails += edge.mark(min(edge.pair, key=tier.__getitem__)) == "tail"
        summary[search] = {"against_tiers": broken, "between_tiers": between, "tail_at_earlier": tails}
        print(f"{search}: {broken} tables against the tiers; {tails} of {between} edges between tiers have a tail "
              "at the earlier end", flush=True)  # fmt: skip
    record(args.json, seed=args.seed, summary=summary)


if __name__ == "__main__":
    main()
