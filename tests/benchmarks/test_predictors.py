"""Predictors: what they promise, and that they learn what is easy to see."""

import numpy as np
import pandas as pd
import predictors
import pytest
import torch
from morphomnist import GRAPH
from predictors import GIVEN, Ensemble, Predictor
from torch.distributions import Categorical, Normal

ONCE = {"thickness": 1, "intensity": 1, "digit": 1, GIVEN: 1}


def bars(n, seed=0):
    """A bar of so many pixels' width and grey level; its row tells the digit."""
    rng = np.random.default_rng(seed)
    width, intensity, digit = rng.integers(1, 7, n), rng.uniform(80, 250, n), rng.integers(0, 10, n)
    images = torch.zeros(n, 1, 32, 32)
    for i in range(n):
        images[i, 0, 4 + 2 * digit[i] : 12 + 2 * digit[i] : 7, 2:30] = intensity[i] / 255
        images[i, 0, 6:26, 12 : 12 + width[i]] = intensity[i] / 255
    table = pd.DataFrame({"thickness": width.astype(float), "intensity": intensity, "digit": digit})
    return images, GRAPH.coerce(table)


@pytest.fixture(scope="module")
def seen():
    return bars(640)


@pytest.fixture(scope="module", params=["training", "scoring"])
def family(request, seen, tmp_path_factory):
    return predictors.family_of(request.param, *seen, epochs=ONCE, cache=tmp_path_factory.mktemp("cache"))


def test_every_predictor_gives_a_distribution_a_row(family, seen):
    images, table = seen[0][:5], seen[1][:5]
    for name, predictor in family.items():
        told = (torch.tensor(table["intensity"].to_numpy()),) if name == GIVEN else ()
        said = predictor(images, *told)
        assert isinstance(said, Categorical if name == "digit" else Normal)
        assert said.batch_shape == (5,)
        attribute = "thickness" if name == GIVEN else name
        codes = torch.tensor(GRAPH.attributes[attribute].encode(table[attribute]), dtype=torch.float32)
        assert said.log_prob(codes).shape == (5,)


def test_images_get_a_gradient_and_weights_do_not(family, seen):
    images = seen[0][:5].clone().requires_grad_()
    said = family["thickness"](images)
    said.mean.sum().backward()
    assert float(images.grad.abs().sum()) > 0
    assert not any(weight.requires_grad for weight in family["thickness"].parameters())


def test_brightness_cannot_stand_in_for_thickness_or_digit(family, seen):
    images = seen[0][:5]
    torch.testing.assert_close(family["thickness"](0.5 * images).mean, family["thickness"](images).mean)
    torch.testing.assert_close(family["digit"](0.5 * images).probs, family["digit"](images).probs)
    torch.testing.assert_close(family["intensity"](0.5 * images).mean, 0.5 * family["intensity"](images).mean)


@pytest.mark.parametrize(
    ("attribute", "trunk", "error"),
    [
        ("thickness", predictors.TRUNKS["training"]["thickness"][0], 0.3),
        ("intensity", predictors.TRUNKS["scoring"]["intensity"][0], 4),
    ],
)
def test_what_is_easy_to_see_is_learnt(seen, attribute, trunk, error):
    predictor = predictors.fit_predictor(attribute, False, *seen, trunk, seed=5, epochs=20)
    images, table = bars(300, seed=1)
    said = predictor(images)
    wrong = said.mean.numpy() - table[attribute]
    assert wrong.abs().mean() < error
    assert 0.3 * wrong.std() < float(said.stddev[0]) < 3 * wrong.std(), "the scale is that of the errors"


def test_a_family_is_fitted_once_and_read_back_exactly(seen, tmp_path):
    images, table = seen[0][:256], seen[1][:256]
    fitted = predictors.fit_family("scoring", images, table, epochs=ONCE)
    kept = predictors.family_of("scoring", images, table, epochs=ONCE, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = predictors.family_of("scoring", images, table, epochs=ONCE, cache=tmp_path)
    assert file.stat().st_mtime_ns == written
    for name in ("thickness", "intensity"):
        torch.testing.assert_close(fitted[name](images).mean, kept[name](images).mean, rtol=0, atol=0)
        torch.testing.assert_close(kept[name](images).mean, again[name](images).mean, rtol=0, atol=0)
        torch.testing.assert_close(kept[name](images).stddev, fitted[name](images).stddev, rtol=0, atol=0)


def test_no_architecture_and_no_seed_is_shared_between_scoring_and_training():
    scoring, training = (predictors.TRUNKS[family] for family in ("scoring", "training"))
    assert not set(scoring["thickness"]) & set(training["thickness"])
    shapes = [{tuple(w.shape) for w in trunks["digit"][0]()[0].parameters() if w.ndim == 4} for trunks in (scoring, training)]  # fmt: skip
    assert not shapes[0] & shapes[1]
    assert abs(predictors.SEEDS["scoring"] - predictors.SEEDS["training"]) >= 100


def test_an_ensemble_is_as_unsure_as_its_members_disagree():
    class Says(Predictor):
        def __init__(self, mean):
            super().__init__("thickness", False, torch.nn.Flatten(), 4)
            self.said = mean

        def forward(self, images, intensity=None):
            return Normal(torch.full((len(images),), self.said), torch.ones(len(images)))

    said = Ensemble([Says(1.0), Says(3.0)])(torch.zeros(2, 1, 2, 2))
    torch.testing.assert_close(said.mean, torch.full((2,), 2.0))
    torch.testing.assert_close(said.variance, torch.full((2,), 2.0))


def test_the_published_predictor_asks_for_the_intended_intensity():
    predictor = Predictor("thickness", True, torch.nn.Flatten(), 1024)
    with pytest.raises(ValueError, match="told the intended intensity"):
        predictor(torch.rand(2, 1, 32, 32))


def test_too_few_images_are_refused(seen):
    trunk = predictors.TRUNKS["scoring"]["intensity"][0]
    with pytest.raises(ValueError, match="Cannot fit a predictor in 1 steps"):
        predictors.fit_predictor("intensity", False, seen[0][:64], seen[1][:64], trunk, seed=0, epochs=1)
