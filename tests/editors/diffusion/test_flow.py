"""The latent, and Heun's method against closed forms."""

import numpy as np
import pytest
import torch

from causal_cxr.editors.diffusion.flow import heun, to_images, to_latent

RATE = -1.3


def linear(x: torch.Tensor, t: float) -> torch.Tensor:
    """dx/dt = RATE x, whose solution is x0 exp(RATE t)."""
    return RATE * x


def ones() -> torch.Tensor:
    return torch.ones(3, dtype=torch.float64)


def test_the_latent_is_lossless():
    images = torch.rand(3, 1, 12, 20, generator=torch.Generator().manual_seed(0))
    latent = to_latent(images)
    assert latent.shape == (3, 16, 3, 5)
    torch.testing.assert_close(to_images(latent), images, atol=1e-6, rtol=0)


def test_a_latent_pixel_holds_a_four_by_four_patch_centred_and_scaled():
    images = torch.full((1, 1, 8, 8), 0.5)
    images[0, 0, 4:, :4] = 0.8
    latent = to_latent(images)
    torch.testing.assert_close(latent[0, :, 1, 0], torch.ones(16), atol=1e-5, rtol=0)
    latent[0, :, 1, 0] = 0
    assert (latent == 0).all()


def test_images_are_clipped_to_0_and_1():
    images = to_images(torch.tensor([-9.0, 0.0, 9.0]).reshape(3, 1, 1, 1).expand(3, 16, 1, 1))
    assert images[:, 0, 0, 0].tolist() == [0.0, 0.5, 1.0]


def lengths(steps: int) -> np.ndarray:
    """Of the steps from 0 to 1: Chebyshev's points, short towards both ends."""
    return np.diff((1 - np.cos(np.pi * np.arange(steps + 1) / steps)) / 2)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_a_step_of_a_linear_equation_is_its_taylor_series_to_second_order(steps):
    z = RATE * lengths(steps)
    torch.testing.assert_close(heun(linear, ones(), 0.0, 1.0, steps), ones() * float(np.prod(1 + z + z**2 / 2)))


def test_half_the_step_is_a_quarter_of_the_error():
    errors = [abs(float(heun(linear, ones(), 0.0, 1.0, steps)[0]) - np.exp(RATE)) for steps in (10, 20, 40)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)
    assert errors[2] < 5e-4


def test_times_run_from_start_to_end_and_a_straight_line_in_time_is_integrated_exactly():
    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.full_like(x, 2 * t)

    torch.testing.assert_close(heun(velocity, ones(), 0.0, 1.0, 7), ones() + 1)
    torch.testing.assert_close(heun(velocity, ones(), 1.0, 0.5, 3), ones() - 0.75)


def test_there_and_back_leaves_an_error_of_fourth_order_a_step():
    for steps in (2, 5):
        there = heun(linear, ones(), 0.0, 1.0, steps)
        back = heun(linear, there, 1.0, 0.0, steps)
        torch.testing.assert_close(back, ones() * float(np.prod(1 + (RATE * lengths(steps)) ** 4 / 4)))


def test_a_step_takes_two_evaluations():
    seen: list[float] = []

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        seen.append(t)
        return x

    heun(velocity, ones(), 0.0, 1.0, 4)
    early = 0.5 - np.sqrt(0.125)
    assert seen == pytest.approx([0, early, early, 0.5, 0.5, 1 - early, 1 - early, 1], abs=1e-12)


def test_the_start_is_left_as_it_was():
    x = ones()
    heun(linear, x, 0.0, 1.0, 2)
    assert torch.equal(x, ones())
