"""What a dataset is: radiographs, read when asked for, and what is written about them."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from torch import Tensor


class UnreadableImages(Exception):  # noqa: N818 - a name users read in tracebacks
    """Some of the images asked for cannot be read.

    Attributes:
        problems: dataset row -> what is wrong with it.
    """

    def __init__(self, problems: Mapping[int, str]) -> None:
        self.problems = dict(problems)
        shown = "; ".join(f"row {row}: {why}" for row, why in list(self.problems.items())[:5])
        more = f" and {len(self.problems) - 5} more" if len(self.problems) > 5 else ""
        super().__init__(f"{len(self.problems)} image(s) cannot be read: {shown}{more}")


@runtime_checkable
class Dataset(Protocol):
    """Radiographs and what is written about them.

    Attributes:
        attributes: one row an image, index ``0..n-1``, one column an attribute of the graph, typed by it
            (categorical for ``Binary`` and ``Categorical``, float64 for ``Continuous``); missing stays missing.
        patients: one patient id (str) an image, same index.
        texts: one report text an image, or ``None``.
    """

    attributes: pd.DataFrame
    patients: pd.Series
    texts: pd.Series | None

    @property
    def fingerprint(self) -> str:
        """Of images' identities and the table; a resumed run never mixes two."""
        ...

    def images(self, rows: np.ndarray) -> Tensor:
        """Read images.

        Args:
            rows: ``(n,)`` integers in ``0..len(attributes)-1``.

        Returns:
            ``(n, 1, h, w)`` float32 in [0, 1], in the order asked for.

        Raises:
            UnreadableImages: some cannot be read; names every one of the rows asked for that cannot.
        """
        ...
