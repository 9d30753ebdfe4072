"""``OracleEditor``: the phantom's own truth as an editor; it validates the statistics."""

from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.phantom import Phantom
from causal_cxr.editors.editor import Abduction, Edit


class OracleEditor:
    """Draws true counterfactuals: same noise, attributes set, hidden attributes following their mechanisms.

    Args:
        phantom: the dataset that will be edited; rows are found by the index of the attribute table.
    """

    semantics: Literal["observational", "structural"] = "structural"

    def __init__(self, phantom: Phantom) -> None:
        self.phantom = phantom
        self.fingerprint = f"oracle-{phantom.fingerprint}"
        self.attributes = frozenset(phantom.world.graph.attributes)  # hidden ones too
        self.fitted_on: frozenset[str] | None = frozenset()

    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        """Look the noise up.

        Raises:
            ValueError: the images are not the phantom's: the oracle knows no others.
        """
        # A null edit's own output comes back in a composition test: it is the same image, so it passes.
        own = self.phantom.images(attributes.index.to_numpy())
        if images.shape != own.shape or not torch.allclose(images, own, atol=1e-4):
            raise ValueError(
                "The oracle can only edit factual images of its own phantom, in the rows that the index names."
            )
        return Abduction(attributes, None)

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        """The true counterfactual images.

        Raises:
            ValueError: a ``strength`` other than 1: truth has no other dose.
        """
        if strength != 1.0:
            raise ValueError(f"The oracle draws what is true, at strength 1; it was asked for {strength}.")
        return Edit.all_accepted(self.phantom.counterfactual(target))
