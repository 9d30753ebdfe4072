"""Episodes: a question about images, those before the last with the answer; drawn from what the vision tower has seen."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from causal_cxr.readers.flamingo.groups import Pool
from causal_cxr.readers.flamingo.model import normalised, seen

_MADE_UP = 0.6  #: share of questions about made-up marks and their variants
_COMPOSED = 0.25  #: share of questions about two signs at once


@dataclass(frozen=True)
class Episodes:
    """``n`` questions, each about ``k`` images.

    Attributes:
        states: ``(n, k, tokens, width)`` what the model has seen of the images.
        answers: ``(n, k)`` bool.
        words: ``(n,)`` position of the question's wording; 0 is the neutral one.
    """

    states: Tensor
    answers: Tensor
    words: Tensor


class Bank:
    """What was seen of the images of many groups, of which episodes are drawn.

    Args:
        states: of each group, ``(n, tokens, width)``.
        truths: of each group, ``(n, questions)`` 1 / 0 / NaN.
        words: for every sign that has words, the first of its wordings and how many there are; signs are the first
            questions of every group.

    Raises:
        ValueError: groups of different sizes.
    """

    def __init__(self, states: Sequence[Tensor], truths: Sequence[Tensor], words: Sequence[tuple[int, int]]) -> None:
        if len({(len(s), *t.shape) for s, t in zip(states, truths, strict=True)}) != 1:
            raise ValueError("A bank's groups have equally many images and questions; these do not.")
        self.states, self.truths = torch.stack(list(states)).half(), torch.stack(list(truths))
        self.words = torch.tensor(list(words)).reshape(-1, 2)
        self._has, self._lacks = (self.truths == 1).sum(1), (self.truths == 0).sum(1)

    @property
    def fingerprint(self) -> str:
        """Of what was seen, the answers and the words."""
        digest = hashlib.sha256()
        for tensor in (self.states, self.truths, self.words):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def draw(self, n: int, k: int, generator: torch.Generator, *, named: bool = False) -> Episodes:
        """``n`` episodes of ``k`` different images.

        Answers are fair coins, image by image: how many have gone before says nothing about the next. Questions are about
        made-up marks, signs, and functions of two of these (and, or, but not).

        Args:
            n: episodes.
            k: images each.
            generator: the only source of chance.
            named: ask about signs, by name, instead.

        Raises:
            ValueError: no question has ``k`` images with the answer yes and as many with no.
        """
        signs = len(self.words)
        able = ((self._has >= k) & (self._lacks >= k)).float()
        share = torch.full((self.truths.shape[2],), 1.0)
        made_up = len(share) - signs
        if made_up and not named:
            share[:signs], share[signs:] = (1 - _MADE_UP) / max(signs, 1), _MADE_UP / made_up
        elif named:
            share[signs:] = 0.0
        weights = (able * share).flatten()
        if not weights.any():
            raise ValueError(f"No question has {k} images with the sign and {k} without it; draw larger groups.")
        picked = torch.multinomial(weights, n, replacement=True, generator=generator)
        group, question = picked // len(share), picked % len(share)
        truth = self.truths[group, :, question]
        words = torch.zeros(n, dtype=torch.long)
        if named:
            first, many = self.words[question].unbind(1)
            words = first + (torch.rand(n, generator=generator) * many).long()
        else:
            truth = self._composed(truth, group, k, generator)
        answers = torch.rand(n, k, generator=generator) < 0.5
        keys = torch.rand(truth.shape, generator=generator)
        rows = torch.where(answers, _next(truth == 1, keys, answers), _next(truth == 0, keys, ~answers))
        return Episodes(self.states[group[:, None], rows].float(), answers, words)

    def _composed(self, truth: Tensor, group: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """Some of the questions with another sign in them, where enough images give either answer."""
        n = len(truth)
        other = self.truths[group, :, torch.randint(self.truths.shape[2], (n,), generator=generator)]
        kind = torch.randint(3, (n, 1), generator=generator)
        both = torch.minimum(truth, other).where(kind == 0, torch.maximum(truth, other))
        both = torch.minimum(truth, 1 - other).where(kind == 2, both)
        enough = ((both == 1).sum(1) >= k) & ((both == 0).sum(1) >= k)
        chosen = enough & (torch.rand(n, generator=generator) < _COMPOSED)
        return both.where(chosen[:, None], truth)


def _next(side: Tensor, keys: Tensor, wanted: Tensor) -> Tensor:
    """``(n, k)`` for each place, the next of the images on one side, in random order."""
    order = keys.masked_fill(~side, 2.0).argsort(1)
    return order.gather(1, (wanted.cumsum(1) - 1).clamp(min=0))


@torch.no_grad()
def fill_bank(
    pool: Pool, model: Any, tower: nn.Module, words: Sequence[tuple[int, int]], *, groups: int, seed: int, mean: float,
    std: float, group_size: int = 256,
) -> Bank:  # fmt: skip
    """What a model sees of ``groups`` groups of a pool's images.

    Args:
        pool: sized as the tower awaits.
        model: ``IdeficsForVisionText2Text``.
        tower: see :func:`~causal_cxr.readers.flamingo.model.seen`.
        words: see :class:`Bank`.
        groups: how many.
        seed: of groups.
        mean, std: of the pixels that the tower awaits.
        group_size: images in each.
    """
    states, truths = [], []
    for i in range(groups):
        generator = torch.Generator().manual_seed(int(np.random.default_rng([seed, 7, i]).integers(2**62)))
        group = pool.draw(group_size, generator)
        states.append(seen(model, normalised(model, group.images, mean, std), tower).half().cpu())
        truths.append(group.truth)
    return Bank(states, truths, words)
