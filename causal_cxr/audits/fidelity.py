"""How close an editor's counterfactuals come to the true ones, on worlds where those are known."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from causal_cxr.data.phantom import Phantom
from causal_cxr.editors.editor import Editor
from causal_cxr.graphs import Contrast

RESAMPLES = 1_000


def counterfactual_errors(
    editor: Editor, phantom: Phantom, rows: np.ndarray, contrasts: Sequence[Contrast], *, k: int = 16, seed: int = 0
) -> pd.DataFrame:
    """Distance of each edit to the nearest of ``k`` true counterfactuals, and how much of the true change it makes.

    The true counterfactuals of an image share all noise that it reveals and differ in what it does not, such as where an
    object will appear (:meth:`Phantom.counterfactual_set`); the nearest one counts. Doing nothing and an oracle sampler, a
    held-out redraw of the same kind, are scored alike.

    Args:
        editor: under test; each image is abducted once.
        phantom: whose truth is known; contrasts on attributes that show in no image are passed over.
        rows: to edit.
        contrasts: to carry out; images to which one does not apply are left out.
        k: members of a set.
        seed: of the redraws.

    Returns:
        One row an image x contrast: attribute, row, patient, root mean square errors ``edited``, ``nothing`` and
        ``floor`` on intensities in [0, 1]. With v the change to the nearest member and w the change made, relative to
        the factual image: ``effectiveness`` ``<v, w> / |v|^2`` (ideal 1) and ``amplification``, the norm of w
        orthogonal to v over that of v (TEA; Xia et al., MICCAI 2025).
    """
    images, factual = phantom.images(rows), phantom.attributes.iloc[rows]
    abduction = editor.abduct(images, factual, seeds=np.arange(len(rows)))
    frames = []
    for contrast in contrasts:
        if contrast.attribute not in phantom.graph.image_parents:
            continue
        attribute = phantom.graph.attributes[contrast.attribute]
        moved, sign = contrast.apply(attribute, phantom.attributes[contrast.attribute])
        target = factual.assign(**{contrast.attribute: moved.iloc[rows]})
        edited = editor.edit(abduction, target).images
        applies = np.flatnonzero(sign[rows] != 0)
        keep, target = applies.tolist(), target.iloc[applies]
        members = phantom.counterfactual_set(target, k, seed=seed)
        redraw = phantom.counterfactual_set(target, 1, seed=seed + 1)[0]
        error, nearest = _nearest(members, edited[keep])
        v, w = (nearest - images[keep]).flatten(1), (edited[keep] - images[keep]).flatten(1)
        along = (v * w).sum(1) / v.square().sum(1).clamp_min(1e-12)
        across = (w - along[:, None] * v).norm(dim=1) / v.norm(dim=1).clamp_min(1e-12)
        frames.append(
            pd.DataFrame(
                {
                    "attribute": contrast.attribute,
                    "row": rows[applies],
                    "patient": phantom.patients.iloc[rows[applies]].to_numpy(),
                    "edited": error.numpy(),
                    "nothing": _nearest(members, images[keep])[0].numpy(),
                    "floor": _nearest(members, redraw)[0].numpy(),
                    "effectiveness": along.numpy(),
                    "amplification": across.numpy(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def error_ratios(errors: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """``(error - floor) / (nothing - floor)`` an attribute: 0 is an oracle sampler, 1 is doing nothing; skill is 1 - it.

    Args:
        errors: of :func:`counterfactual_errors`.
        seed: of the bootstrap.

    Returns:
        index attribute: ``ratio`` of means over images, ``low`` and ``high``, a 95% patient bootstrap, and ``n``.
    """
    found = {}
    for attribute, mine in errors.groupby("attribute", sort=False):
        sums = mine.groupby("patient")[["edited", "nothing", "floor"]].sum().to_numpy(dtype=float)
        picked = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
        edited, nothing, floor = np.vstack([sums.sum(0), sums[picked].sum(1)]).T
        ratios = (edited - floor) / (nothing - floor)
        low, high = np.quantile(ratios[1:], [0.025, 0.975])
        found[attribute] = {"ratio": ratios[0], "low": low, "high": high, "n": len(mine)}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("attribute")


def _nearest(members: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
    """``(n,)`` root mean square distance to the nearest of ``(k, n, 1, h, w)`` members, and ``(n, 1, h, w)`` that one."""
    distance = (members - candidate[None]).square().mean(dim=(2, 3, 4)).sqrt()
    error, index = distance.min(dim=0)
    return error, members[index, range(len(candidate))]
