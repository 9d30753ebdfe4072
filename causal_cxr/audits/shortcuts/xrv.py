"""torchxrayvision's classifiers from weight files, answering as torchxrayvision lets them."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from causal_cxr.readers.xrv import XRVReader, prepared
from causal_cxr.readers.xrv_weights import head_of, read_weights


class XRVClassifier(nn.Module):
    """A classifier of torchxrayvision (Cohen et al., MIDL 2022, arXiv:2111.00595).

    Args:
        network: images ``(n, 1, size, size)`` in [-1024, 1024] -> ``(n, k)`` logits.
        pathologies: what each output predicts; an empty name = not trained.
        size: pixels a side.
        operating_points: ``(k,)`` probabilities at which findings are called present, NaN = unknown; scores are bent so that
            these come to lie at 0.5, as torchxrayvision's own are. ``None``: scores are sigmoids.
    """

    def __init__(
        self, network: nn.Module, pathologies: Sequence[str], size: int, operating_points: Tensor | None = None
    ) -> None:
        super().__init__()
        self.network, self.pathologies, self.size = network, list(pathologies), size
        self.register_buffer("operating_points", operating_points)

    @classmethod
    def from_weights(
        cls,
        file: str | Path,
        weights: str | None = None,
        *,
        pathologies: Sequence[str] | None = None,
        size: int | None = None,
    ) -> "XRVClassifier":
        """From a weight file; nothing is downloaded, and nothing in the file is run.

        Operating points are the file's own (``op_threshs``), else those that torchxrayvision publishes for ``weights``.

        Args:
            file, weights, pathologies, size: see :meth:`XRVReader.from_weights`, which raises what is wrong.

        Raises:
            ImportError: operating points are known and torchxrayvision is missing.
        """
        reader = XRVReader.from_weights(file, weights, pathologies=pathologies, size=size)
        names = dict(zip(reader.outputs, reader.names, strict=True))
        points = read_weights(file).get("op_threshs")
        if points is None and weights is not None:
            published = _models().model_urls[weights].get("op_threshs")
            points = None if published is None else torch.tensor(published)
        outputs = [names.get(output, "") for output in range(head_of(reader.network).out_features)]
        return cls(reader.network, outputs, reader.size, points)

    def forward(self, images: Tensor) -> Tensor:
        """``(n, 1, h, w)`` in [0, 1] -> ``(n, k)`` scores in [0, 1]."""
        scores = torch.sigmoid(self.network(prepared(images, self.size)))
        points = self.operating_points
        return scores if points is None else _models().op_norm(scores, points)


def _models() -> Any:
    try:
        with warnings.catch_warnings():  # importing it silences every warning of the process
            import torchxrayvision
    except ImportError:
        raise ImportError("torchxrayvision is not installed; pip install 'causal_cxr[xrv]'.") from None
    return torchxrayvision.models
