"""How well signs that were held out of the fit are read, by number of exemplars."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from causal_cxr.data.phantom import Phantom
from causal_cxr.readers.flamingo.reader import FlamingoReader
from causal_cxr.readers.flamingo.signs import HELD_OUT, signs_of
from causal_cxr.readers.quality import auroc

SHOTS = (0, 4, 8, 16)


def measured(
    reader: FlamingoReader, n: int = 1_500, *, seed: int, shots: Sequence[int] = SHOTS, draws: int = 4,
    world: str = "independent",
) -> pd.DataFrame:  # fmt: skip
    """AUROC of every held-out sign, asked about without its name.

    Args:
        reader: whose model is judged; its own concepts play no part.
        n: images to judge on.
        seed: of the phantom that exemplars come from; the next one's is that of the phantom judged on.
        shots: numbers of exemplars.
        draws: of exemplars, each judged on all images; the mean is given.
        world: which both are phantoms of.

    Returns:
        One row a sign, and their mean; one column a number of exemplars. ``attrs["draws"]`` as given.
    """
    shown, judged = Phantom(400, world, seed=seed), Phantom(n, world, seed=seed + 1)
    labels, truth = signs_of(shown), signs_of(judged)
    names = [name for name in map(str, truth) if name.split(" = ")[0] in HELD_OUT]
    images, rows = judged.images(np.arange(n)), np.arange(len(shown))
    table = pd.DataFrame(index=pd.Index(names, name="sign"), columns=list(shots), dtype=float)
    for k in shots:
        asking = reader.using(concepts=(), exemplars={}, calibration=None)
        times = draws if k else 1
        for name in names:
            for draw in range(times):
                asking = asking.with_exemplars(shown, rows, labels[name].to_numpy(), f"{name} {draw}", k, seed=draw)
        scores = asking.read(images).numpy().reshape(n, len(names), times)
        for i, name in enumerate(names):
            known = truth[name].notna().to_numpy()
            present = truth[name].to_numpy()[known] == 1
            table.loc[name, k] = np.mean([auroc(scores[known, i, j], present) for j in range(times)])
    table.loc["mean"] = table.mean()
    table.attrs["draws"] = draws
    return table
