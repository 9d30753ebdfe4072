"""Telling a sign by two means and a covariance: what the vision tower is fitted by, before there is a language model."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from causal_cxr.readers.flamingo.groups import Group
from causal_cxr.readers.flamingo.model import normalised, seen

LEAST, SHOTS = 3, 8  #: exemplars of each answer
SIGNS_TOLD = 0.02  #: weight of naming the known signs
SIGNS_COMPARED = 0.3  #: weight of telling a known sign by example, beside a made-up mark's
_FASTER = 10.0  #: single numbers learn so much faster than weights


class Comparer(nn.Module):
    """Vision tower and perceiver under fit, with two heads that are thrown away afterwards.

    One tells the known signs of each image. The other tells each question of a group (a sign, a made-up mark) from a few of
    its images by a linear discriminant in what the perceiver gives: as prototypical networks do (Snell et al., 2017), with
    the covariance of all images of the group, answered or not, in place of an identity. By means alone a network is slow to
    learn how to keep what varies anyway from drowning the signs.

    Args:
        model: ``IdeficsForVisionText2Text`` with a perceiver.
        tower: its vision tower, see :func:`~causal_cxr.readers.flamingo.model.seen`.
        signs: how many known signs there are.
        mean, std: of the pixels that the tower awaits.
    """

    def __init__(self, model: Any, tower: nn.Module, signs: int, *, mean: float, std: float) -> None:
        super().__init__()
        self.model, self.tower, self.mean, self.std = model, tower, mean, std
        config = model.config
        self.signs = nn.Linear(config.vision_config.embed_dim * config.perceiver_config.resampler_n_latents, signs)
        self.scale = nn.Parameter(torch.tensor(-2.0 / _FASTER))
        self.shrinkage = nn.Parameter(torch.tensor(-3.0 / _FASTER))

    def features(self, images: Tensor) -> Tensor:
        """``(n, d)`` what the perceiver gives, flat, of ``(n, h, w)`` images; worked out in half precision."""
        with torch.autocast(images.device.type, torch.bfloat16):
            return seen(self.model, normalised(self.model, images, self.mean, self.std), self.tower).flatten(1).float()

    def compare(self, features: Tensor, present: Tensor, absent: Tensor) -> Tensor:
        """``(n, questions)`` log odds of each image's answers.

        Args:
            features: ``(n, d)``, whose covariance is shrunk towards a multiple of the identity by a share that is learnt.
            present: ``(n, questions)`` bool: exemplars that have the sign.
            absent: likewise, those that do not; at least one of each a question.
        """
        has, lacks = ((shown / shown.sum(0)).T @ features for shown in (present, absent))
        covariance = torch.cov(features.T, correction=0)
        ridge = functional.softplus(_FASTER * self.shrinkage) * covariance.diagonal().mean()
        direction = torch.linalg.solve(covariance + ridge * torch.eye(len(covariance)).to(ridge), (has - lacks).T)
        odds = features @ direction - ((has + lacks) / 2 * direction.T).sum(1)
        return odds * (_FASTER * self.scale).exp() / features.shape[1] ** 0.5

    def forward(self, group: Group, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its parts; ``generator`` chooses the exemplars."""
        features = self.features(group.images)
        known = ~group.truth.isnan()
        answers = group.truth.nan_to_num()
        has, lacks = known & (answers == 1), known & (answers == 0)
        asked = (has.sum(0) > SHOTS) & (lacks.sum(0) > SHOTS)
        shots = torch.randint(LEAST, SHOTS + 1, (group.truth.shape[1],), generator=generator)
        present, absent = (choose(side, shots, generator)[:, asked] for side in (has, lacks))
        odds = self.compare(features, present, absent)
        # Each answer weighs as much as the other, in every question.
        weights = sum(
            rest / rest.sum(0) for rest in ((has[:, asked] & ~present).float(), (lacks[:, asked] & ~absent).float())
        )
        miss = functional.binary_cross_entropy_with_logits(odds, answers[:, asked], reduction="none")
        each = (miss * weights).sum(0) / 2
        signs = self.signs.out_features
        # Signs that every image may wear are what made-up ones are to be told apart from: they count for less.
        counts = torch.cat([torch.full((signs,), SIGNS_COMPARED), torch.ones(len(asked) - signs)])[asked]
        compared = (each * counts).sum() / counts.sum()
        told = functional.binary_cross_entropy_with_logits(
            self.signs(features), answers[:, :signs], weight=known[:, :signs].float()
        )
        return compared + SIGNS_TOLD * told, {"compared": compared, "signs": told}


def choose(side: Tensor, shots: Tensor, generator: torch.Generator) -> Tensor:
    """Of each column's True, ``shots`` at random; all if there are no more."""
    keys = torch.rand(side.shape, generator=generator).masked_fill(~side, 2.0)
    ranks = keys.argsort(0).argsort(0)
    return side & (ranks < shots)
