"""How well images and texts find each other, and what can be read without a label: measured while a model is fitted."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from causal_cxr.readers.quality import auroc

RANKS = (1, 5, 10)


def retrieval(images: Tensor, reports: Tensor, own: Tensor, ranks: Sequence[int] = RANKS) -> dict[str, float]:
    """Recall at K: the share of queries with a true match among their first K.

    Equal reports are one report, and any of its images is a true match.

    Args:
        images: ``(n, d)`` unit-length features.
        reports: ``(m, d)`` unit-length features of the different reports.
        own: ``(n,)`` index of each image's report; each report has an image.
        ranks: values of K; one that exceeds the number of candidates finds everything.

    Returns:
        ``image_to_text@K`` and ``text_to_image@K``.
    """
    similarity = images @ reports.T
    found: dict[str, float] = {}
    for name, scores, true in (
        ("image_to_text", similarity, own[:, None] == torch.arange(len(reports), device=own.device)),
        ("text_to_image", similarity.T, torch.arange(len(reports), device=own.device)[:, None] == own),
    ):
        order = scores.topk(min(max(ranks), scores.shape[1]), dim=1).indices
        hits = true.gather(1, order).cumsum(1) > 0
        found |= {f"{name}@{k}": float(hits[:, min(k, hits.shape[1]) - 1].float().mean()) for k in ranks}
    return found


def zero_shot(margins: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """``auroc/<concept>`` of each concept with labels of both kinds, and their mean, ``auroc``.

    Args:
        margins: ``(n, k)``.
        truth: ``(n, k)`` 1 / 0 / NaN unknown.
        names: of the ``k`` concepts.
    """
    found = {}
    for j, name in enumerate(names):
        known = ~np.isnan(truth[:, j])
        value = auroc(margins[known, j], truth[known, j] == 1)
        if not np.isnan(value):
            found[f"auroc/{name}"] = value
    return found | ({"auroc": float(np.mean(list(found.values())))} if found else {})
