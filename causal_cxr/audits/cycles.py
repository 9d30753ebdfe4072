"""Edits in a row: null edit upon null edit (composition), an edit and the edit back (reversibility).

Axioms of a counterfactual (Galles & Pearl 1998), as measured on images by Monteiro et al. (ICLR 2023). Nothing but the
images at hand is needed, so they are measured on real data too. All distances are of each image.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.editors.editor import Editor

NEUTRAL = 1  #: phrasing of a null edit: it says the same in other words
BATCH = 64

Seeds = Callable[[int], np.ndarray]
"""Cycle, from 1 -> ``(n,)`` seeds of its abductions."""


def null_cycles(
    editor: Editor,
    images: Tensor,
    factual: pd.DataFrame,
    *,
    seeds: Seeds,
    cycles: Sequence[int] = (1, 10),
    batch: int = BATCH,
) -> tuple[dict[int, np.ndarray], int]:
    """Mean absolute change of each image after so many null edits in a row.

    A null edit asks for what is, in other words, through abduction, guidance and seed as any edit; the next one starts from
    its image. 0 is best, and an editor that does nothing has it.

    Args:
        editor: under test.
        images: ``(n, 1, h, w)``.
        factual: ``n`` rows.
        seeds: of each cycle's abductions.
        cycles: after which to look.
        batch: images at a time.

    Returns:
        cycle -> ``(n,)``, on intensities in [0, 1]; and the network evaluations spent.
    """
    made, distances, evaluations = images, {}, 0
    for cycle in range(1, max(cycles) + 1):
        made, spent = _redrawn(editor, made, factual, factual, seeds(cycle), NEUTRAL, batch)
        evaluations += spent
        if cycle in cycles:
            distances[cycle] = distance(made, images)
    return distances, evaluations


def there_and_back(
    editor: Editor,
    images: Tensor,
    factual: pd.DataFrame,
    edited: Tensor,
    target: pd.DataFrame,
    *,
    seeds: Seeds,
    batch: int = BATCH,
) -> tuple[np.ndarray, int]:
    """Mean absolute difference to each image of its edit, edited back.

    Args:
        editor: under test.
        images: ``(n, 1, h, w)`` factual.
        factual: ``n`` rows.
        edited: ``(n, 1, h, w)`` what the editor made of ``target``.
        target: ``n`` rows.
        seeds: of the second abduction, cycle 1.
        batch: images at a time.

    Returns:
        ``(n,)`` on intensities in [0, 1]; and the network evaluations spent.
    """
    back, evaluations = _redrawn(editor, edited, target, factual[list(target.columns)], seeds(1), 0, batch)
    return distance(back, images), evaluations


def distance(a: Tensor, b: Tensor) -> np.ndarray:
    """``(n,)`` mean absolute difference of ``(n, 1, h, w)`` images."""
    return (a - b).abs().flatten(1).mean(1, dtype=torch.float64).numpy()


def _redrawn(
    editor: Editor, images: Tensor, now: pd.DataFrame, target: pd.DataFrame, seeds: np.ndarray, phrasing: int, batch: int
) -> tuple[Tensor, int]:  # fmt: skip
    made, evaluations = [], 0
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        abduction = editor.abduct(images[part], now.iloc[part], seeds=seeds[part])
        edit = editor.edit(abduction, target.iloc[part], phrasing=phrasing)
        made.append(edit.images)
        evaluations += abduction.evaluations + edit.evaluations
    return torch.cat(made) if made else images, evaluations
