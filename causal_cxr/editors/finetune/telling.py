"""What an image is called in a fit: all its attributes in either wording, some, its own one alone, or nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.editors.diffusion.captions import TEMPLATE, Worded
from causal_cxr.editors.diffusion.text import TextEncoder
from causal_cxr.graphs import Attribute

REMEMBERED = 200_000  #: texts whose tokens are kept


@dataclass(frozen=True)
class Telling:
    """How captions are drawn.

    Attributes:
        names: attributes that captions name; all unless given. An editor that is fitted to captions of one names, and
            sets, that one only.
        dropout: share of images fitted without a caption, for guidance.
        partial: share whose caption names some of the attributes only, for guidance by attribute.
    """

    names: tuple[str, ...] | None = None
    dropout: float = 0.05
    partial: float = 0.2

    def __post_init__(self) -> None:
        if min(self.dropout, self.partial) < 0 or self.dropout + self.partial > 1:
            raise ValueError(f"Shares dropout={self.dropout}, partial={self.partial} must lie within 0 and 1 together.")

    def chosen(self, attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
        """Those of the attributes that captions name."""
        unknown = sorted(set(self.names or ()) - set(attributes))
        if unknown:
            raise ValueError(f"Captions cannot name {unknown}; the editor knows {list(attributes)}.")
        return {name: a for name, a in attributes.items() if self.names is None or name in self.names}


class Captions:
    """Captions of a table, drawn as a :class:`Telling` says.

    Args:
        table: ``n`` rows; what is missing goes unsaid.
        attributes: what captions name, in order.
        telling: the shares.
        template: of captions.
    """

    def __init__(
        self, table: pd.DataFrame, attributes: Mapping[str, Attribute], telling: Telling, template: str = TEMPLATE
    ) -> None:
        self.telling = telling
        self.worded = [Worded(table, attributes, phrasing, template) for phrasing in (0, 1)]
        self.names = np.array(list(self.worded[0].columns))

    def drawn(self, picked: np.ndarray, rng: np.random.Generator) -> list[str]:
        """A caption for each of the picked rows."""
        dropout, partial = self.telling.dropout, self.telling.partial if len(self.names) > 1 else 0.0
        wording = rng.integers(0, 2, size=len(picked))
        kind, kept = rng.uniform(size=len(picked)), rng.uniform(size=(len(picked), len(self.names))) < 0.5
        texts = []
        for row, way, draw, some in zip(picked.tolist(), wording.tolist(), kind.tolist(), kept, strict=True):
            worded = self.worded[way]
            names = self.names[some].tolist() if draw < dropout + partial else self.names.tolist()
            said = draw >= dropout and any(worded.columns[name][row] for name in names)
            texts.append(worded.caption(row, names) if said or draw >= dropout + partial else "")
        return texts


class Tokenised:
    """Tokens of texts, remembered: a tokenizer needs more time for a batch than a GPU for a step.

    Args:
        text: whose tokens.
    """

    def __init__(self, text: TextEncoder) -> None:
        self.text, self._known = text, dict[str, Tensor]()

    def __call__(self, texts: list[str]) -> Tensor:
        """``(n, ...)`` on the CPU."""
        new = sorted({text for text in texts if text not in self._known})
        if len(self._known) + len(new) > REMEMBERED:
            self._known, new = {}, sorted(set(texts))
        if new:
            self._known |= zip(new, self.text.tokens(new), strict=True)
        return torch.stack([self._known[text] for text in texts])
