"""How well a Flamingo reader reads signs that were held out of its fit, by number of exemplars.

python -m causal_cxr.readers.flamingo.fit --out runs/flamingo-reader
python benchmarks/flamingo_reader.py --reader runs/flamingo-reader --json benchmarks/results/flamingo_reader.json

A handful of exemplars makes chance large: the mean over six signs and four draws of exemplars differs by more than 0.01 from one
phantom to the next, so several are judged. ``flamingo_auroc``: by number of exemplars, the mean over phantoms; ``standard_error``
of that mean; ``by_sign``; ``by_phantom``.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from record import record

from causal_cxr.readers import FlamingoReader
from causal_cxr.readers.flamingo import measured


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", type=Path, required=True, help="folder of a fitted reader")
    parser.add_argument("--images", type=int, default=1_500, help="of each phantom that is judged")
    parser.add_argument("--phantoms", type=int, default=10)
    parser.add_argument("--seed", type=int, default=9_201, help="not 9002 to 9004: looked at in the making")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    reader = FlamingoReader.from_pretrained(args.reader)
    tables = []
    for i in range(args.phantoms):  # each takes two seeds: of exemplars, and of the images judged
        tables.append(measured(reader, args.images, seed=args.seed + 2 * i))
        print(tables[-1].round(3).to_string(), flush=True)
    every = pd.concat(tables, keys=range(args.phantoms), names=["phantom"])
    by_sign = every.groupby(level="sign", sort=False).mean()
    means = every.xs("mean", level="sign")
    summary = {
        "flamingo_auroc": _rounded(by_sign.loc["mean"]),
        "standard_error": _rounded(means.std(ddof=1) / np.sqrt(args.phantoms)),
        "by_sign": {str(k): _rounded(by_sign[k]) for k in by_sign},
        "by_phantom": {str(k): [round(float(v), 4) for v in means[k]] for k in means},
    }
    print(summary)
    record(args.json, seed=args.seed, summary=summary)


def _rounded(values: pd.Series) -> dict[str, float]:
    return {str(name): round(float(value), 4) for name, value in values.items()}


if __name__ == "__main__":
    main()
