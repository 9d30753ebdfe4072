"""What an edit changes in an image, how much of it, and where: numbers of each image, no reader and no truth needed.

Minimality is a small change beyond the null edit. The artefact guard looks at regions of their own: corners, the border,
boxes where markers are declared, and lettering, which an edit of anatomy or disease has no business in.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from causal_cxr.readers.measure.grey import CORNER

Box = tuple[float, float, float, float]
"""(top, left, bottom, right) as fractions of the image."""

CHANGED = 0.02  #: of an intensity in [0, 1]: five grey levels, at which a pixel counts as changed
BORDER = 1 / 16  #: of the shorter side: a border's width
REST = "rest"
GUARDED = ("corners", "border", "markers")  #: regions of the artefact guard; :data:`REST` is what is in none of them


def guarded_regions(height: int, width: int, markers: Iterable[Box] = ()) -> dict[str, Tensor]:
    """Masks of the artefact guard's regions, and of what is in none of them.

    Args:
        height, width: of the images in pixels.
        markers: boxes where burnt-in marks are declared to show.

    Returns:
        ``corners`` (squares of a tenth of the shorter side), ``border`` (a sixteenth wide, less the corners), ``markers``
        (the boxes), ``rest``: ``(h, w)`` bool each.

    >>> {name: int(mask.sum()) for name, mask in guarded_regions(32, 32, [(0.4, 0.4, 0.5, 0.5)]).items()}
    {'corners': 36, 'border': 208, 'markers': 9, 'rest': 771}
    """
    corner, border = (max(1, round(share * min(height, width))) for share in (CORNER, BORDER))
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    row, column = torch.minimum(rows, height - 1 - rows), torch.minimum(columns, width - 1 - columns)
    corners = (row < corner) & (column < corner)
    edge = ((row < border) | (column < border)) & ~corners
    boxed = box_mask(height, width, markers)
    return {"corners": corners, "border": edge, "markers": boxed, REST: ~(corners | edge | boxed)}


def box_mask(height: int, width: int, boxes: Iterable[Box]) -> Tensor:
    """``(h, w)`` bool: pixels whose centre lies in one of the boxes."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    for top, left, bottom, right in boxes:
        rows, columns = (
            (torch.arange(size) + 0.5 >= low * size) & (torch.arange(size) + 0.5 <= high * size)
            for size, low, high in ((height, top, bottom), (width, left, right))
        )
        mask |= rows[:, None] & columns[None]
    return mask


def image_changes(
    edited: Tensor, null: Tensor, factual: Tensor, guarded: Mapping[str, Tensor], own: Tensor | None = None
) -> dict[str, np.ndarray]:
    """How much each edit changes, and where.

    Args:
        edited: ``(n, 1, h, w)``.
        null: ``(n, 1, h, w)`` matched null edits; what they change is not the edit's doing.
        factual: ``(n, 1, h, w)``.
        guarded: of :func:`guarded_regions`.
        own: ``(h, w)`` where the attribute is declared to show; ``None``: not declared.

    Returns:
        ``(n,)`` each, mean absolute changes on intensities in [0, 1]: ``size`` against the factual image, all others
        against the null edit: ``beyond`` in all, ``changed`` the share of pixels changed by more than :data:`CHANGED`, the
        guarded regions by name, ``inside`` and ``outside`` the own region; NaN where a region is empty.
    """
    change = (edited - null).abs()[:, 0].flatten(1)

    def within(mask: Tensor) -> np.ndarray:
        # a product with the mask: indexing by it would copy the images once a region
        weight = mask.flatten().to(change)
        return (change @ weight / weight.sum()).double().numpy()  # 0 / 0 is the NaN of an empty region

    found = {
        "size": (edited - factual).abs().flatten(1).mean(1).double().numpy(),
        "beyond": change.mean(1).double().numpy(),
        "changed": (change > CHANGED).double().mean(1).numpy(),
        **{name: within(mask) for name, mask in guarded.items()},
    }
    nowhere = np.full(len(edited), np.nan)
    return found | {
        "inside": nowhere if own is None else within(own),
        "outside": nowhere if own is None else within(~own),
    }


def another_patient(images: Tensor, patients: np.ndarray) -> np.ndarray:
    """``(n,)`` mean absolute difference to the next image of another patient: what no edit should come to; NaN without one."""
    n, found = len(images), np.full(len(images), np.nan)
    for step in range(1, n):
        other = np.roll(np.arange(n), -step)
        open_ = np.isnan(found) & (patients[other] != patients)
        if open_.any():
            at = np.flatnonzero(open_)
            found[at] = (images[at.tolist()] - images[other[at].tolist()]).abs().flatten(1).mean(1).double().numpy()
        if not np.isnan(found).any():
            break
    return found
