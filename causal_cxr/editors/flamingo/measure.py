"""How far exemplars move an image towards its true counterfactual, on phantoms."""

import numpy as np
import pandas as pd
from torch import Tensor

from causal_cxr.data.phantom import Phantom
from causal_cxr.editors.flamingo.editor import FlamingoEditor
from causal_cxr.editors.flamingo.exemplars import Exemplars


def labels_of(phantom: Phantom) -> pd.DataFrame:
    """Every levelled attribute of a world, hidden ones too, as those know who have looked at the images."""
    labelled = phantom.attributes.select_dtypes("category")
    return pd.concat([labelled, phantom.hidden], axis=1)


def chosen(phantom: Phantom, name: str, k: int = 16) -> Exemplars:
    """The first ``k`` images of each level of an attribute."""
    values = labels_of(phantom)[name].dropna()
    rows = np.concatenate([values.index[values == level][:k] for level in sorted(values.unique())])
    return Exemplars(phantom.images(rows), values.loc[rows].tolist(), frozenset(phantom.patients.iloc[rows]))


def measured(editor: FlamingoEditor, phantom: Phantom, others: Phantom, k: int = 16) -> pd.DataFrame:
    """Each levelled attribute flipped by example alone, over the images that the flip changes.

    Args:
        editor: without exemplars.
        phantom: images to edit.
        others: whose images are the exemplars.
        k: exemplars of each level.

    Returns:
        One row an attribute: ``moved``, the edit projected on the true change, over its squared length: 1 is all of it;
        ``error``, squared error to the true counterfactual over that of the unedited image.
    """
    labels, theirs = labels_of(phantom), labels_of(others)
    images, seeds = phantom.images(np.arange(len(labels))), np.arange(len(labels))
    rows = {}
    for name in labels:
        levels = sorted(theirs[name].dropna().unique())
        flipped = labels[name].map(dict(zip(levels, levels[1:] + levels[:1], strict=True)))
        flipped = flipped.astype(labels[name].dtype)
        table = phantom.attributes.assign(**{str(name): labels[name]})
        target = table.assign(**{str(name): flipped})
        shown = editor.shown({str(name): chosen(others, str(name), k)})
        made = shown.edit(shown.abduct(images, table, seeds=seeds), target).images - images
        true = phantom.counterfactual(target) - images
        rows[name] = _against(made, true)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["moved", "error"])


def _against(made: Tensor, true: Tensor) -> tuple[float, float]:
    length = float((true**2).sum())
    if length == 0:
        return float("nan"), float("nan")
    return float((made * true).sum()) / length, float(((made - true) ** 2).sum()) / length
