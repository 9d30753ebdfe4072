"""Which attributes an edit changes, image by image."""

import numpy as np
import pandas as pd


def changes(factual: pd.DataFrame, target: pd.DataFrame) -> dict[str, np.ndarray]:
    """Attribute -> ``(n,)`` bool, the rows in which ``target`` differs; attributes that nowhere do are left out.

    A value that goes missing, or that was missing, is a change; what ``factual`` has no column for is missing, what ``target``
    has none for is held.

    >>> before = pd.DataFrame({"age": [30.0, 40.0], "view": ["PA", None]})
    >>> changes(before, before.assign(age=[30.0, 60.0]))
    {'age': array([False,  True])}
    """
    found, known = {}, factual.reindex(columns=target.columns)
    for name in target.columns:
        before, after = (table[name].astype(object).to_numpy() for table in (known, target))
        there, then = pd.notna(before), pd.notna(after)
        differs = (there != then) | (there & then & (before != after))
        if differs.any():
            found[str(name)] = differs.astype(bool)
    return found
