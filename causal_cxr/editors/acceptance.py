"""Acceptance: which edits an editor stands by (LANCE; Prabhu et al., NeurIPS 2023).

A rejected edit is returned and marked, with its reason: audits count it in its group and bound what it could change.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from causal_cxr.editors.diffusion.captions import TEMPLATE, captions
from causal_cxr.graphs import Attribute


class Acceptance(Protocol):
    """Judges edits.

    Its ``repr`` goes into the editor's fingerprint: it must tell all that a judgement depends on.
    """

    def __call__(
        self, images: Tensor, edited: Tensor, factual: pd.DataFrame, target: pd.DataFrame
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Judge ``n`` edits.

        Args:
            images: ``(n, 1, h, w)`` in [0, 1], as they were.
            edited: likewise, as they have become.
            factual: ``n`` rows, the attributes as they were.
            target: ``n`` rows, as they were asked to be.

        Returns:
            ``(n,)`` bool, accepted; and ``n`` reasons, empty where it is.
        """
        ...


class ImageText(Protocol):
    """What open_clip's models offer, and what else is called alike."""

    def encode_image(self, image: Tensor) -> Tensor:
        """``(n, width)`` of preprocessed images."""
        ...

    def encode_text(self, text: Tensor) -> Tensor:
        """``(n, width)`` of tokens."""
        ...


@dataclass(frozen=True, repr=False)
class CLIPAcceptance:
    """Thresholds on cosine similarities in the space of an image-text model; ``None`` = not tested.

    Attributes:
        model: images and texts in one space.
        preprocess: ``(n, 1, h, w)`` images in [0, 1] to what the model takes.
        tokenize: texts to what the model takes.
        attributes: what captions name, in order.
        image_image: least similarity of the edited image to the image: it is still this patient.
        image_text: least similarity of the edited image to the target's caption.
        directional: least similarity of the images' difference to the captions' (StyleGAN-NADA; Gal et al., 2022). Edits that
            change no caption, such as null edits, have no direction and are not tested for it.
        template: of the captions.
        name: of the model and its preprocessing, in the fingerprint beside the model's weights.
    """

    model: ImageText
    preprocess: Callable[[Tensor], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    attributes: Mapping[str, Attribute]
    image_image: float | None = None
    image_text: float | None = None
    directional: float | None = None
    template: str = TEMPLATE
    name: str = ""

    def __post_init__(self) -> None:
        for name, threshold in self._thresholds().items():
            if threshold is not None and not -1 <= threshold <= 1:
                raise ValueError(f"{name} is a cosine similarity, in [-1, 1]; got the threshold {threshold}.")

    @torch.no_grad()
    def similarities(
        self, images: Tensor, edited: Tensor, factual: pd.DataFrame, target: pd.DataFrame
    ) -> dict[str, np.ndarray]:
        """``(n,)`` each of ``image_image``, ``image_text``, ``directional``, NaN where there is none: to choose thresholds by."""
        before, after = self._said(factual), self._said(target)
        was, became = (self._unit(self.model.encode_image(self.preprocess(x))) for x in (images, edited))
        said, asked = self._texts(before), self._texts(after)
        directional = functional.cosine_similarity(became - was, asked - said)
        directional[torch.from_numpy(before == after)] = torch.nan
        found = {
            "image_image": (was * became).sum(1),
            "image_text": (became * asked).sum(1),
            "directional": directional,
        }
        return {name: values.numpy() for name, values in found.items()}

    def __call__(
        self, images: Tensor, edited: Tensor, factual: pd.DataFrame, target: pd.DataFrame
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """See :class:`Acceptance`; a reason names every threshold that was missed, and by what.

        What the model sees in an image that is no image, such as one that diverged, is NaN, and reaches no threshold.
        """
        found = self.similarities(images, edited, factual, target)
        tested = {"directional": self._said(factual) != self._said(target)}
        reasons: list[list[str]] = [[] for _ in range(len(images))]
        for name, threshold in self._thresholds().items():
            if threshold is None:
                continue
            for row in np.flatnonzero(~(found[name] >= threshold) & tested.get(name, True)):
                what, value = f"{name.replace('_', '-')} similarity", found[name][row]
                reasons[row].append(
                    f"{what} is not a number" if np.isnan(value) else f"{what} {value:z.2f} < {threshold:.2f}"
                )
        return np.array([not missed for missed in reasons], dtype=bool), tuple("; ".join(missed) for missed in reasons)

    def __repr__(self) -> str:
        digest = hashlib.sha256(repr([a.to_dict() for a in self.attributes.values()]).encode())
        for key, weight in sorted(self.model.state_dict().items()) if isinstance(self.model, torch.nn.Module) else ():
            digest.update(key.encode() + weight.to(torch.float16).cpu().numpy().tobytes())
        return f"CLIPAcceptance({self.name!r}, {self.template!r}, {digest.hexdigest()[:16]}, {self._thresholds()})"

    def _thresholds(self) -> dict[str, float | None]:
        return {"image_image": self.image_image, "image_text": self.image_text, "directional": self.directional}

    def _said(self, table: pd.DataFrame) -> np.ndarray:
        return np.array(captions(table, self.attributes, 0, self.template), dtype=object)

    def _texts(self, texts: np.ndarray) -> Tensor:
        unique, at = np.unique(texts, return_inverse=True)
        return self._unit(self.model.encode_text(self.tokenize(unique.tolist())))[at]

    @staticmethod
    def _unit(features: Any) -> Tensor:
        return functional.normalize(features.float(), dim=-1).cpu()
