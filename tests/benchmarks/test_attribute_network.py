"""Networks that read one attribute, differentiably: what they promise, and that they learn what is easy to see."""

import numpy as np
import pytest
import torch
from attribute_network import fit_attribute_networks
from torch.distributions import Bernoulli, Categorical, Normal

from causal_cxr.graphs import Binary, Continuous
from causal_cxr.graphs import Categorical as Levels

ATTRIBUTES = {
    "age": Continuous("age", unit="years", low=0, high=100),
    "sex": Binary("sex", levels=("male", "female")),
    "stage": Levels("stage", levels=("none", "small", "large")),
}


def drawn(n, seed=0):
    """Age is the grey level, sex a bright left edge, stage the height of a bar."""
    rng = np.random.default_rng(seed)
    codes = {"age": rng.uniform(20, 90, n), "sex": rng.integers(0, 2, n), "stage": rng.integers(0, 3, n)}
    images = torch.tensor(codes["age"] / 200, dtype=torch.float32)[:, None, None, None].repeat(1, 1, 32, 32)
    for i in range(n):
        images[i, 0, :, :4] += 0.5 * codes["sex"][i]
        images[i, 0, 8 * codes["stage"][i] : 8 * codes["stage"][i] + 8, 12:20] = 1
    return images.clamp(0, 1), {name: torch.tensor(values) for name, values in codes.items()}


@pytest.fixture(scope="module")
def fitted():
    return fit_attribute_networks(*drawn(1000), ATTRIBUTES, epochs=6, seed=1)


def test_every_network_reads_images_that_it_never_saw(fitted):
    networks, _ = fitted
    images, codes = drawn(200, seed=9)
    assert float((networks["age"](images).mean - codes["age"]).abs().mean()) < 5  # a guess is 17 years off
    for name in ("sex", "stage"):
        assert float((networks[name](images).mode == codes[name]).float().mean()) > 0.95


def test_its_error_on_what_was_held_out_is_what_it_says(fitted):
    networks, errors = fitted
    images, codes = drawn(1000)
    held = slice(800, None)
    assert errors["age"] == pytest.approx(float((networks["age"](images).mean - codes["age"])[held].abs().mean()))
    assert errors["sex"] == pytest.approx(float((networks["sex"](images).mode != codes["sex"])[held].float().mean()))


def test_numbers_get_a_normal_and_levels_their_probabilities(fitted):
    networks, _ = fitted
    kinds = {"age": Normal, "sex": Bernoulli, "stage": Categorical}
    for name, network in networks.items():
        said = network(drawn(5)[0])
        assert isinstance(said, kinds[name])
        assert said.batch_shape == (5,)
        assert said.log_prob(drawn(5)[1][name].float()).shape == (5,)


def test_a_number_s_deviation_is_that_of_its_errors_on_what_was_held_out(fitted):
    images, codes = drawn(1000)
    said = fitted[0]["age"](images)
    missed = (said.mean - codes["age"])[800:]  # those held out
    assert float(said.stddev[0]) == pytest.approx(float(missed.square().mean().sqrt()), rel=1e-4)


def test_images_get_a_gradient_and_weights_do_not(fitted):
    images = drawn(5)[0].requires_grad_()
    network = fitted[0]["age"]
    network(images).mean.sum().backward()
    assert float(images.grad.abs().sum()) > 0
    assert not any(weight.requires_grad for weight in network.parameters())


def test_same_seed_same_weights_and_the_caller_s_draws_go_on():
    given, codes = drawn(64)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, other = (
        fit_attribute_networks(given, codes, {"sex": ATTRIBUTES["sex"]}, epochs=1, seed=4)[0]["sex"] for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one(given).logits, other(given).logits)
