"""FID and CLD against closed forms and a second, slow implementation."""

import image_quality
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence


def pictures(n, seed=0):
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_fid_of_a_set_with_itself_is_zero_and_of_a_moved_one_its_squared_distance():
    images = pictures(400)
    assert image_quality.fid(images, images, nn.Flatten(), 16) == pytest.approx(0, abs=1e-5)
    assert image_quality.fid(images, images + 0.5, nn.Flatten(), 16) == pytest.approx(16 * 0.25, abs=1e-3)


def test_fid_leaves_the_model_of_its_features_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    assert image_quality.fid(pictures(50), pictures(50, seed=1), model, 3) > 0
    assert model(pictures(2)).dtype == torch.float32


def embeddings(n, seed, latents=5):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, latents, generator=generator, dtype=torch.float64) * s for s in (1.0, 0.3))


def test_the_divergence_is_that_of_gaussians():
    q, p = embeddings(7, 0), embeddings(7, 1)
    slow = kl_divergence(Normal(q[0], q[1].exp()), Normal(p[0], p[1].exp())).mean(1)
    torch.testing.assert_close(image_quality.divergences(q, p), slow)


def brute_force(real, made, groups, attributes, target):
    def kl(q, p):
        return float(kl_divergence(Normal(q[0], q[1].exp()), Normal(p[0], p[1].exp())).sum()) / len(q[0])

    def at(embedding, i):
        return embedding[0][i], embedding[1][i]

    scores = []
    for x, (attribute, value) in enumerate(zip(attributes, target, strict=True)):
        d = kl(at(made, x), at(real, x))
        there = [kl(at(real, r), at(real, x)) for r in range(len(groups)) if groups[r, attribute] == value]
        here = [
            kl(at(real, r), at(real, x)) for r in range(len(groups)) if groups[r, attribute] == groups[x, attribute]
        ]
        p1, p2 = np.mean([s <= d for s in there]), np.mean([s >= d for s in here])
        scores.append(np.log(0.8 * np.exp(p1) + 0.2 * np.exp(p2)))
    return scores


def test_cld_against_brute_force():
    rng, n = np.random.default_rng(0), 30
    groups, attributes, target = rng.integers(0, 2, (n, 3)), rng.integers(0, 3, n), rng.integers(0, 2, n)
    real, made = embeddings(n, 2), embeddings(n, 3)
    fast = image_quality.counterfactual_latent_divergence(real, made, groups, attributes, target)
    np.testing.assert_allclose(fast, brute_force(real, made, groups, attributes, target))


def test_cld_is_missing_where_no_real_image_has_the_value():
    real = embeddings(3, 0)
    scores = image_quality.counterfactual_latent_divergence(real, real, np.zeros((3, 1), int), np.zeros(3, int), np.array([0, 9, 0]))  # fmt: skip
    assert np.isnan(scores).tolist() == [False, True, False]


def test_published_scales_are_the_means_and_corrected_ones_are_not():
    torch.manual_seed(0)
    model, images = image_quality.EmbeddingVAE().eval(), torch.rand(300, 1, 32, 32)
    with torch.no_grad():
        mean, published = image_quality.embedded(model, images, "published")
        same, corrected = image_quality.embedded(model, images, "corrected")
    assert published is mean
    torch.testing.assert_close(mean, same)
    assert not torch.allclose(corrected, mean)
    assert mean.shape == corrected.shape == (300, image_quality.EmbeddingVAE.LATENT)


def test_an_embedding_follows_its_seed_and_learns():
    images = torch.zeros(128, 1, 32, 32)
    images[::2, :, 8:24, 8:24] = 1
    before = image_quality.fit_embedding(images, epochs=0, seed=1)
    one, other = (image_quality.fit_embedding(images, epochs=5, rate=3e-3, seed=1) for _ in range(2))
    torch.testing.assert_close(one.embed(images), other.embed(images))
    torch.manual_seed(0)
    assert float(one.loss(images)) < 0.7 * float(before.loss(images))
