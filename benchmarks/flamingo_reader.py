"""How well a Flamingo reader reads signs that were held out of its fit, by number of exemplars.

python -m causal_cxr.readers.flamingo.fit --out runs/flamingo-reader
python benchmarks/flamingo_reader.py --reader runs/flamingo-reader --json benchmarks/results/flamingo_reader.json
"""

import argparse
from pathlib import Path

from record import record

from causal_cxr.readers import FlamingoReader
from causal_cxr.readers.flamingo import measured


def flamingo_auroc(reader: FlamingoReader, *, images: int = 1_500, seed: int = 9_151) -> dict[str, dict[str, float]]:
    """Number of exemplars -> sign, or their mean -> AUROC; see :func:`causal_cxr.readers.flamingo.measured`."""
    table = measured(reader, images, seed=seed)
    return {str(k): {str(sign): round(float(v), 4) for sign, v in column.items()} for k, column in table.items()}


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", type=Path, required=True, help="folder of a fitted reader")
    parser.add_argument("--images", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=9_151, help="not 9002 to 9004: looked at in the making")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    reader = FlamingoReader.from_pretrained(args.reader)
    by_sign = flamingo_auroc(reader, images=args.images, seed=args.seed)
    summary = {"flamingo_auroc": {k: signs["mean"] for k, signs in by_sign.items()}, "by_sign": by_sign}
    print(summary)
    record(args.json, seed=args.seed, summary=summary)


if __name__ == "__main__":
    main()
