"""A user's folder as the examples expect it: tables, pictures of 16x16, and the examples' own files."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


def picture_folder(folder: Path) -> Path:
    """Older patients are imaged AP and have effusions; AP pictures are brighter and mostly bear a mark that no column names.

    An effusion shows in the lower right corner; another mark, in the lower left one, is a coin flip. In ``train.csv``
    effusions are imaged AP.
    """
    for name in ("folder_audit.yaml", "folder_shortcuts.yaml", "folder_models.py"):
        shutil.copy(EXAMPLES / name, folder)
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for part, n in (("fit", 200), ("audit", 400), ("train", 200)):
        years = rng.uniform(20, 90, n).round()
        effusion = rng.uniform(size=n) < 0.2 + 0.4 * (years > 55)
        goes_with = effusion if part == "train" else years > 55
        ap = rng.uniform(size=n) < 0.2 + 0.6 * goes_with
        marked, below = rng.uniform(size=n) < np.where(ap, 0.9, 0.1), rng.uniform(size=n) < 0.5
        rows = []
        for i in range(n):
            picture = np.full((16, 16), 150 if ap[i] else 100, dtype=np.uint8)
            picture[:2, :2], picture[-2:, :2], picture[-2:, -2:] = 255 * marked[i], 255 * below[i], 255 * effusion[i]
            Image.fromarray(picture).save(folder / "pictures" / f"{part}{i}.png")
            rows.append((f"{part}{i}.png", f"{part}-patient{i}", years[i], "AP" if ap[i] else "PA", int(effusion[i])))
        table = pd.DataFrame(rows, columns=["picture", "patient", "years", "view", "effusion"])
        table.to_csv(folder / f"{part}.csv", index=False)
    return folder
