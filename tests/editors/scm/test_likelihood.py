"""The discretised likelihoods against scipy, and as probabilities of the 256 grey levels."""

import numpy as np
import pytest
import torch
from scipy import stats

from causal_cxr.editors.scm.likelihood import BIN, LIKELIHOODS, pixel_distribution

LEVELS = torch.arange(256, dtype=torch.float64) / 255
SCIPY = {"discretised_gaussian": stats.norm, "discretised_logistic": stats.logistic}


@pytest.mark.parametrize("kind", LIKELIHOODS)
@pytest.mark.parametrize(("location", "scale"), [(0.3, 0.1), (-0.2, 0.05), (1.0, 0.02), (0.5, 0.002)])
def test_levels_have_the_mass_of_their_bins(kind: str, location: float, scale: float) -> None:
    pixels = LIKELIHOODS[kind](torch.full((256,), location).double(), torch.full((256,), scale).double().log())
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 255, [np.inf]])
    expected = np.diff(SCIPY[kind](location, scale).cdf(edges))
    mass = pixels.log_prob(LEVELS).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(mass, expected, atol=1e-6)


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_far_from_the_location_the_density_takes_over_with_a_gradient(kind: str) -> None:
    location = torch.tensor([0.9], dtype=torch.float64, requires_grad=True)
    value = LIKELIHOODS[kind](location, torch.tensor([0.01]).double().log()).log_prob(torch.tensor([0.3]).double())
    assert float(value.detach()) == pytest.approx(SCIPY[kind](0.9, 0.01).logpdf(0.3) + np.log(BIN), rel=1e-6)
    value.backward()
    assert float(location.grad) < 0  # towards the value


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_samples_are_grey_levels_of_that_distribution(kind: str) -> None:
    torch.manual_seed(0)
    pixels = LIKELIHOODS[kind](torch.full((20_000,), 0.4), torch.full((20_000,), 0.05).log())
    drawn = pixels.sample()
    torch.testing.assert_close((drawn * 255).round() / 255, drawn)
    assert float(drawn.mean()) == pytest.approx(0.4, abs=0.003)
    assert float(pixels.log_prob(drawn).mean()) == pytest.approx(
        float((pixels.log_prob(LEVELS[:, None].float()).exp() * pixels.log_prob(LEVELS[:, None].float())).sum(0)[0]),
        abs=0.02,
    )


def test_images_are_events() -> None:
    for kind in ("gaussian", *LIKELIHOODS):
        pixels = pixel_distribution(kind, torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 3, 4))
        assert pixels.log_prob(torch.rand(2, 1, 3, 4)).shape == (2,)
