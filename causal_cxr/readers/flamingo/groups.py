"""Groups of images that wear many made-up marks at once: each image answers many questions, so a look at it teaches more.

What a sign looks like is drawn broadly, so that telling signs apart is learnt rather than a list of them: what phantoms show,
and made-up marks and their variants (:mod:`~causal_cxr.readers.flamingo.marks`), new ones in every group.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from causal_cxr.readers.flamingo.marks import Marks, apply_marks, draw_marks

#: What a variant of a mark differs in.
_DIFFERENCES = (
    ("place",),
    ("value",),
    ("power", "hollow", "bend", "pattern", "repeats"),
    ("size", "angle", "place", "power", "value"),
)


@dataclass(frozen=True)
class Group:
    """Images and what is known of them.

    Attributes:
        images: ``(n, h, w)`` in [0, 1].
        truth: ``(n, questions)`` 1 / 0 / NaN unknown: the signs of the pool, then made-up marks, then their variants.
    """

    images: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Pool:
    """Images that groups are drawn from.

    Attributes:
        images: ``(n, h, w)`` half precision, in [0, 1].
        signs: ``(n, signs)`` 1 / 0 / NaN.
        marks: made-up marks in a group.
        variants: how many of these have a variant.
    """

    images: Tensor
    signs: Tensor
    marks: int = 12
    variants: int = 4

    @property
    def fingerprint(self) -> str:
        """Of images, signs and how many marks are drawn."""
        digest = hashlib.sha256(f"{self.marks} {self.variants}".encode())
        for tensor in (self.images, self.signs):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def questions(self) -> int:
        """Questions that a group answers."""
        return self.signs.shape[1] + self.marks + self.variants

    def draw(self, n: int, generator: torch.Generator) -> Group:
        """``n`` different images, each with marks of its own; every kind is worn by an eighth to three eighths of them.

        Raises:
            ValueError: the pool has fewer images.
        """
        if n > len(self.images):
            raise ValueError(
                f"A group of {n} images is asked of a pool of {len(self.images)}; draw more, or ask for less."
            )
        rows = torch.randperm(len(self.images), generator=generator)[:n]
        images = self.images[rows].float()
        kinds, others = draw_marks(self.marks, generator), draw_marks(self.marks, generator)
        rates = 0.125 + 0.25 * torch.rand(self.marks, generator=generator)
        worn = torch.rand(n, self.marks, generator=generator) < rates
        second = torch.rand(n, self.marks, generator=generator) < 0.5
        second[:, self.variants :] = False
        for kind in range(self.marks):
            mark, other = kinds.of(kind), others.of(kind)
            names = _DIFFERENCES[int(torch.randint(len(_DIFFERENCES), (1,), generator=generator))]
            images = _drawn(images, mark, worn[:, kind] & ~second[:, kind], generator)
            images = _drawn(images, mark.with_fields(other, names), worn[:, kind] & second[:, kind], generator)
        which = torch.where(worn, second.float(), torch.nan)[:, : self.variants]
        return Group(images, torch.cat([self.signs[rows], worn.float(), which], 1))


def _drawn(images: Tensor, mark: Marks, worn: Tensor, generator: torch.Generator) -> Tensor:
    """Images with one kind of mark on those that wear it."""
    if not worn.any():
        return images
    marked = apply_marks(images[worn][None], mark, torch.ones(1, int(worn.sum())), generator)[0]
    return images.index_put((worn,), marked)
