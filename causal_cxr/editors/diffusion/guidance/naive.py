"""The naive prompt: only the edited word is said. What a graph's whole counterfactual vector is compared with."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from causal_cxr.editors.diffusion.denoiser import Captioned, Condition, Denoiser, Field
from causal_cxr.editors.diffusion.guidance.changes import changes
from causal_cxr.editors.diffusion.guidance.guidance import Describe, Request


@dataclass(frozen=True)
class NaivePrompt:
    """Redraws under a caption that names the changed attributes and nothing else, so that all else may follow them.

    An image of which nothing changes is asked for as it was inverted.

    Attributes:
        inverted: under the ``factual`` caption, or under ``nothing``, the empty one, as editors that know no attributes do.
        named: the attributes that may be named, such as the one that was intervened on; ``None`` = all that change, its
            descendants too.
    """

    inverted: Literal["factual", "nothing"] = "factual"
    named: tuple[str, ...] | None = None

    def source(self, denoiser: Denoiser, describe: Describe, factual: pd.DataFrame) -> Field:
        """See :class:`Guidance`."""
        return Captioned(denoiser, self._inverted(describe, factual))

    def target(self, request: Request) -> Field:
        """See :class:`Guidance`."""
        changed = changes(request.factual, request.target)
        said = {name: rows for name, rows in changed.items() if self.named is None or name in self.named}
        before = self._inverted(request.describe, request.factual, request.phrasing)
        asked = np.any([*said.values()], axis=0) if said else np.zeros(len(request.factual), dtype=bool)
        if not asked.any():
            return Captioned(request.denoiser, before)
        naming = pd.DataFrame(
            {name: request.target[name].where(pd.Series(rows, request.target.index)) for name, rows in said.items()}
        )
        only = request.caption(naming)
        text = before.text.clone()
        text[asked] = only.text[asked]
        return Captioned(request.denoiser, before.toward(Condition(text), request.strength))

    def _inverted(self, describe: Describe, factual: pd.DataFrame, phrasing: int = 0) -> Condition:
        return describe(factual, phrasing) if self.inverted == "factual" else describe.nothing(len(factual))
