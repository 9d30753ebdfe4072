"""Do counterfactuals look real (FID), and do they move no further than they must (CLD)?

Heusel et al., NeurIPS 2017 (FID); Melistas et al., NeurIPS 2024 (CLD, arXiv:2403.20287).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

BATCH = 250
SHARES = 0.8, 0.2  #: of the two probabilities in CLD
Scales = Literal["published", "corrected"]


def fid(real: Tensor, made: Tensor, features: Callable[[Tensor], Tensor], n_features: int) -> float:
    """Frechet distance between Gaussians fitted to features of two sets of images; 0 where they agree.

    Args:
        real: ``(n, 1, h, w)`` in [0, 1].
        made: ``(m, 1, h, w)`` in [0, 1].
        features: images to ``(n, n_features)``.
        n_features: how many it gives.
    """
    metric = FrechetInceptionDistance(feature=_AsGiven(n_features), normalize=True).set_dtype(torch.float64)
    with torch.no_grad():
        for images, is_real in ((real, True), (made, False)):
            for batch in images.split(BATCH):
                metric.update(features(batch).double(), real=is_real)
    return float(metric.compute())


class _AsGiven(nn.Identity):
    """What the metric asks of a feature extractor, where features are given: they are taken in the model's own precision."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.num_features = n_features


class EmbeddingVAE(nn.Module):
    """The unconditional VAE that embeds images for CLD; layers as published."""

    LATENT, HIDDEN, WIDTH = 100, 128, 32

    def __init__(self) -> None:
        super().__init__()
        w, flat = self.WIDTH, self.WIDTH * 16
        convolutions = [nn.Conv2d(1, w, 5, 2, 2), nn.Conv2d(w, w, 3, 2, 1), nn.Conv2d(w, w, 3, 2, 1)]
        self.encoder = nn.Sequential(
            *(layer for conv in convolutions for layer in (conv, nn.LeakyReLU())),
            nn.Flatten(), nn.Linear(flat, self.HIDDEN), nn.LeakyReLU(),
        )  # fmt: skip
        self.posterior = nn.Linear(self.HIDDEN, 2 * self.LATENT)
        self.expand = nn.Sequential(
            nn.Linear(self.LATENT, self.HIDDEN), nn.ReLU(), nn.Linear(self.HIDDEN, flat), nn.ReLU()
        )
        steps = [
            layer
            for a, b in ((w, w), (w, w), (w, 16))
            for layer in (nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 3, 1, 1), nn.ReLU())
        ]
        self.decoder = nn.Sequential(*steps, nn.Conv2d(16, 1, 1))

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of the latents, each ``(n, LATENT)``, of ``(n, 1, 32, 32)`` images in [0, 1]."""
        mean, log_scale = self.posterior(self.encoder(2 * images - 1)).chunk(2, dim=1)
        return mean, log_scale.clamp(-9, 3)

    def loss(self, images: Tensor, scale: float = 0.1) -> Tensor:
        """``()``, negative evidence bound an image, pixels normal with this standard deviation."""
        mean, log_scale = self.embed(images)
        latent = mean + log_scale.exp() * torch.randn_like(mean)
        logits = self.decoder(self.expand(latent).unflatten(1, (self.WIDTH, 4, 4)))
        error = (logits.sigmoid() - images).square().flatten(1).sum(1) / (2 * scale**2)
        divergence = (0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale).sum(1)
        return (error + divergence).mean()


def fit_embedding(
    images: Tensor, *, epochs: int = 8, batch_size: int = 64, rate: float = 1e-3, seed: int = 0
) -> EmbeddingVAE:
    """An :class:`EmbeddingVAE` of these ``(n, 1, 32, 32)`` images; deterministic for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EmbeddingVAE()
        optimiser = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(epochs):
            for chosen in torch.randperm(len(images)).split(batch_size):
                optimiser.zero_grad()
                model.loss(images[chosen]).backward()
                optimiser.step()
    return model.eval().requires_grad_(False)


def embedded(model: EmbeddingVAE, images: Tensor, scales: Scales) -> tuple[Tensor, Tensor]:
    """Means and log standard deviations, ``(n, LATENT)`` each, float64.

    ``"published"`` gives the mean as the log standard deviation too, as the public code does.
    """
    parts = [model.embed(batch) for batch in images.split(BATCH)]
    mean, log_scale = (torch.cat(columns).double() for columns in zip(*parts, strict=True))
    return mean, mean if scales == "published" else log_scale


def divergences(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    """``(n,)``, KL(q_i || p_i) a latent, between diagonal Gaussians; the arguments broadcast.

    Args:
        q: means and log standard deviations, ``(n, latents)`` or ``(1, latents)`` each.
        p: the same.
    """
    (q_mean, q_log), (p_mean, p_log) = q, p
    ratio = ((2 * q_log).exp() + (q_mean - p_mean).square()) * (-2 * p_log).exp()
    return (p_log - q_log + 0.5 * ratio - 0.5).mean(1)


def counterfactual_latent_divergence(
    real: tuple[Tensor, Tensor],
    made: tuple[Tensor, Tensor],
    groups: np.ndarray,
    attributes: np.ndarray,
    target: np.ndarray,
) -> np.ndarray:
    """CLD of each counterfactual: low where it lies as far from its image as need be, no further.

    With d = div(x', x), p1 the share of real images in the counterfactual's group that are as near to x as d or nearer, and
    p2 the share of those in x's own group that are as far or further: log(0.8 exp(p1) + 0.2 exp(p2)).

    Args:
        real: embeddings of the ``n`` factual images: means and log standard deviations.
        made: of their counterfactuals, in the same order.
        groups: ``(n, k)`` int, bin or level of each of k attributes of the real images.
        attributes: ``(n,)`` int, which of the k was set for each image.
        target: ``(n,)`` int, bin or level that it was set to.

    Returns:
        ``(n,)``; NaN where no real image is in the counterfactual's group.
    """
    own = divergences(made, real).numpy()
    scores = np.full(len(target), np.nan)
    for x, (attribute, value) in enumerate(zip(attributes, target, strict=True)):
        column = groups[:, attribute]
        to_x = divergences(real, (real[0][x : x + 1], real[1][x : x + 1])).numpy()
        there, here = to_x[column == value], to_x[column == column[x]]
        if len(there):
            p1, p2 = (there <= own[x]).mean(), (here >= own[x]).mean()
            scores[x] = np.log(SHARES[0] * np.exp(p1) + SHARES[1] * np.exp(p2))
    return scores
