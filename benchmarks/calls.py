"""May an audit search what readers see? Calls that err, calls and scores of a shipped reader, on the world ``portable``.

    python benchmarks/calls.py --json benchmarks/results/calls.json

The five hidden edges of the world are known, and with them what a search of its 4,000 images (one of each patient) should join to the
signs. ``summary.simulated.<errors>``: true calls of which a share is turned round, and of absent signs another share wherever the view is AP
(a reader that follows the view), over all tables: ``found`` of ``planted`` edges, ``false`` ones, and ``wrong_marks`` (a sign's edge that
says that the attribute is not its cause). ``summary.shipped.<calls or scores>``: what a shipped reader calls, or its scores themselves:
the same counts, of what stays in half of the resamples; ``control``, the largest share of resamples that tie a negative control to anything;
and ``seconds``.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record import record

from causal_cxr.audits.fusion import fuse
from causal_cxr.audits.table_search import CALLED
from causal_cxr.data.phantom import Phantom
from causal_cxr.graphs.discovery import MarkedEdge, discover, edge_frequencies

WORLD, IMAGES = "portable", 4_000
ERRORS = ((0.0, 0.0), (0.1, 0.0), (0.2, 0.0), (0.05, 0.05), (0.05, 0.1), (0.05, 0.2))  #: turned round, and following


def erring(phantom: Phantom, turned: float, follows: float, seed: int) -> pd.DataFrame:
    """``(n, signs)`` calls, 0 or 1."""
    present = phantom.hidden.to_numpy() > 0.5
    ap = (phantom.attributes["view"] == "AP").to_numpy()[:, None]
    wrong = np.random.default_rng(seed).uniform(size=present.shape) < np.where(present, turned, turned + follows * ap)
    return pd.DataFrame((present ^ wrong).astype(float), columns=phantom.hidden.columns)


def counted(edges: list[MarkedEdge], planted: set[tuple[str, str]], signs: set[str]) -> dict[str, int]:
    """Edges at signs: planted ones, others, and planted ones whose marks deny that the attribute is the cause."""
    at_signs = [edge for edge in edges if signs & set(edge.pair)]
    cause = {frozenset(pair): pair[0] for pair in planted}
    right = [edge for edge in at_signs if frozenset(edge.pair) in cause]
    denied = [e for e in right if e.mark(cause[frozenset(e.pair)]) == "arrow"]
    return {"found": len(right), "false": len(at_signs) - len(right), "wrong_marks": len(denied)}


def shipped(seed: int, resamples: int) -> dict[str, Any]:
    from causal_cxr.readers import ProbeReader

    phantom, reader = Phantom(IMAGES, WORLD, seed=seed), ProbeReader.from_shipped()
    names, signs = [concept.name for concept in reader.concepts], list(phantom.hidden.columns)
    read = [reader.read(phantom.images(np.arange(i, i + 500))).numpy() for i in range(0, IMAGES, 500)]
    scores = pd.DataFrame(np.concatenate(read), columns=names)[signs].astype(float)
    table = phantom.graph.coerce(phantom.attributes)
    controls = {name for name in signs if name.startswith("control")}
    told = {}
    for name, columns in (("calls", (scores >= CALLED).astype(float)), ("scores", scores)):
        begun, options = time.monotonic(), {"scores": columns, "patients": phantom.patients}
        found = discover(table, phantom.graph, **options)
        often = edge_frequencies(table, phantom.graph, resamples=resamples, seed=seed, **options)
        edges = fuse(phantom.graph, discovered=found, frequencies=often).edges
        marked = [MarkedEdge(*ends) for ends in edges[["a", "b", "at_a", "at_b"]].itertuples(index=False)]
        tied = often.loc[often["a"].isin(controls) | often["b"].isin(controls), "adjacent"].max()
        told[name] = {
            **counted(marked, planted(phantom), set(signs)),
            "control": 0.0 if np.isnan(tied) else float(tied),
            "seconds": round(time.monotonic() - begun, 1),
        }
    return told


def planted(phantom: Phantom) -> set[tuple[str, str]]:
    truth = phantom.world.truth
    return set(truth.loc[truth["relation"] == "causes", ["attribute", "concept"]].itertuples(index=False, name=None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=5)
    parser.add_argument("--resamples", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first table")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    args = parser.parse_args()
    simulated = {}
    for turned, follows in ERRORS:
        counts: dict[str, int] = {}
        for seed in range(args.seed, args.seed + args.tables):
            phantom = Phantom(IMAGES, WORLD, seed=seed)
            calls = erring(phantom, turned, follows, seed)
            found = discover(
                phantom.graph.coerce(phantom.attributes), phantom.graph, scores=calls, patients=phantom.patients
            )
            edges, signs = planted(phantom), set(phantom.hidden.columns)
            for key, n in (counted(list(found.edges), edges, signs) | {"planted": len(edges)}).items():
                counts[key] = counts.get(key, 0) + n
        simulated[f"{turned:.0%} turned, {follows:.0%} following"] = counts
        print(f"{turned:.0%} turned, {follows:.0%} following", counts, flush=True)
    summary: dict[str, Any] = {"tables": args.tables, "images": IMAGES, "simulated": simulated}
    summary["shipped"] = shipped(args.seed, args.resamples)
    print(summary["shipped"])
    record(args.json, seed=args.seed, summary=summary)


if __name__ == "__main__":
    main()
