"""Does an audit find the planted hidden edges of a phantom world, and none that is not there?

The oracle editor (the truth: what the statistics can do), the shipped diffusion editor, the deep SCM, and the strongest
rival, the adjusted association without any editor.

    python benchmarks/phantom_audit.py --json benchmarks/results/phantom_audit.json
"""

import argparse
import tempfile
from pathlib import Path

import pandas as pd
from record import record

from causal_cxr.audits.demo import run_demo

EDITORS = ("diffusion", "scm", "oracle")
SHOWN = ("hidden_found", "hidden_false", "mediated_called_hidden", "undecided", "composition_10")


def main() -> None:
    """Audit and print side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        summary = run_demo(Path(out), EDITORS, args.images, args.seed)
    suffixes = {name: "" if name == EDITORS[0] else f"_{name}" for name in EDITORS}
    table = {name: {key: summary[f"{key}{suffix}"] for key in SHOWN} for name, suffix in suffixes.items()}
    print(f"{summary['hidden_planted']} hidden edges planted, {summary['images']} images edited")
    print(pd.DataFrame(table).to_string())
    print("without any editor:", summary["rival"])
    record(args.json, seed=args.seed, summary=summary)


if __name__ == "__main__":
    main()
