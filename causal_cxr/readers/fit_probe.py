"""Fit the pixel probe of the phantoms: a second reader, which shares no backbone and no patient with the CLIP reader.

python -m causal_cxr.readers.fit_probe --out runs/probe-reader-phantom
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from causal_cxr.data.phantom import VERSION, Phantom
from causal_cxr.readers.concepts import load_concepts
from causal_cxr.readers.probe import ProbeReader


def main() -> None:
    """Fit on phantoms with independent attributes, judge out of fold, and save."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=4_000)
    parser.add_argument("--components", type=int, default=400)
    parser.add_argument("--seed", type=int, default=8_101)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    phantom = Phantom(args.images, "independent", seed=args.seed)
    concepts = load_concepts()
    table = pd.concat([phantom.attributes, phantom.hidden], axis=1)
    truth = np.column_stack([concept.truth(table) for concept in concepts])
    reader = ProbeReader.fit(phantom, np.arange(len(phantom)), truth, concepts, graph=phantom.graph, n_folds=3,
                             shifts={"age": 20.0}, components=args.components, seed=args.seed)  # fmt: skip
    reader.renderer_version = VERSION
    reader.save(args.out)
    quality = reader.quality.concepts[["auroc", "auroc_low", "slope", "slope_low", "ece"]].round(3)
    (args.out / "card.md").write_text(
        f"""# Pixel probe of the phantoms

- data: `Phantom({args.images}, "independent", seed={args.seed})`; attributes are independent of each other; renderer
  version {VERSION}; synthetic; labels are the true attributes, hidden ones included
- model: {args.components} principal components of 64x64 pixels, class-weighted logistic heads, Platt scaling; 3 folds of
  patients; multiplied out to one affine map a fold
- quality: out of fold, below
- seed: {args.seed}
- command: `python -m causal_cxr.readers.fit_probe --out DIR`
- not for: real radiographs, clinical use

```
{quality.to_string()}
```
"""
    )
    print(quality)


if __name__ == "__main__":
    main()
