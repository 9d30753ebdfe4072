"""Any model becomes one thing: images in, log odds of the target out; what cannot be used is refused in words."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from causal_cxr.audits.shortcuts import as_predictor
from causal_cxr.audits.shortcuts.predictors import Predictions
from causal_cxr.readers import Pixels
from causal_cxr.readers.xrv import prepared

IMAGES = torch.rand(70, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, outputs))


def test_a_torch_module_is_asked_in_evaluation_mode_and_left_as_it_was():
    model = network(1).train()
    predictor = as_predictor(model, "pneumonia", scale="logit")
    assert torch.equal(predictor.logits(IMAGES), predictor.logits(IMAGES))
    assert model.training
    assert model[1].training
    with torch.no_grad():
        torch.testing.assert_close(predictor.logits(IMAGES), model.eval()(IMAGES)[:, 0])


def test_a_softmax_is_the_odds_of_one_output_against_all_others():
    model = network(3)
    with torch.no_grad():
        expected = model.eval()(IMAGES).softmax(1)[:, 1]
    predictor = as_predictor(model, "pneumonia", scale="softmax", classes=["normal", "Pneumonia", "other"])
    torch.testing.assert_close(predictor.probabilities(IMAGES), expected)


def test_outputs_are_found_by_name_whatever_their_spelling():
    model = network(3)
    model.pathologies = ["Lung Opacity", "Pneumonia", "Effusion"]
    with torch.no_grad():
        expected = model.eval()(IMAGES)
    for target, column in (("lung_opacity", 0), ("pneumonia", 1), ("pleural_effusion", 2)):
        torch.testing.assert_close(as_predictor(model, target, scale="logit").logits(IMAGES), expected[:, column])
    with pytest.raises(ValueError, match=r"no output 'oedema'; it has \['Lung Opacity'"):
        as_predictor(model, "oedema")


def test_a_scikit_learn_classifier_gets_flat_images_or_features_of_them():
    present = (IMAGES.mean((1, 2, 3)) > 0.5).numpy().astype(int)
    flat = LogisticRegression().fit(IMAGES.flatten(1).numpy(), present)
    said = as_predictor(flat, "pneumonia").probabilities(IMAGES).numpy()
    np.testing.assert_allclose(said, flat.predict_proba(IMAGES.flatten(1).numpy())[:, 1], atol=1e-6)
    small = LogisticRegression().fit(Pixels(4).features(IMAGES).numpy(), present)
    with pytest.raises(ValueError, match="fitted on 16 numbers an image, and gets 64"):
        as_predictor(small, "pneumonia").logits(IMAGES)
    expected = small.predict_proba(Pixels(4).features(IMAGES).numpy())[:, 1]
    said = as_predictor(small, "pneumonia", features=Pixels(4)).probabilities(IMAGES).numpy()
    np.testing.assert_allclose(said, expected, atol=1e-6)


def test_classes_of_a_scikit_learn_classifier_go_by_their_names():
    names = np.where(IMAGES.mean((1, 2, 3)).numpy() > 0.5, "a pneumonia", "normal")
    model = LogisticRegression().fit(IMAGES.flatten(1).numpy(), np.where(names == "normal", "normal", "Pneumonia"))
    said = as_predictor(model, "pneumonia").probabilities(IMAGES).numpy()
    np.testing.assert_allclose(said, model.predict_proba(IMAGES.flatten(1).numpy())[:, 0], atol=1e-6)


def test_a_torchxrayvision_model_sees_its_own_pixel_range():
    xrv = pytest.importorskip("torchxrayvision")
    torch.manual_seed(0)
    model = xrv.models.DenseNet(
        weights=None, num_classes=2, growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=4, apply_sigmoid=True
    )
    model.pathologies = ["Effusion", "Pneumonia"]
    images = torch.rand(2, 1, 64, 80, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model.eval()(prepared(images, 224))[:, 1]
    torch.testing.assert_close(as_predictor(model, "pneumonia").probabilities(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("score", "scale", "said"),
    [
        (lambda x: x.mean((1, 2, 3)) * 9, "probability", "no probabilities; pass scale='logit'"),
        (lambda x: torch.full((len(x),), torch.nan), "logit", "not finite for 64 of 64 images"),
        (lambda x: torch.zeros(len(x), 3), "logit", r"answers 64 images by shape \(64, 3\)"),
        (lambda x: torch.zeros(5), "logit", r"by shape \(5,\)"),
        (lambda x: torch.zeros(len(x)), "softmax", "a softmax is over several"),
    ],
)
def test_answers_that_are_of_no_use_are_refused(score, scale, said):
    with pytest.raises(ValueError, match=said):
        as_predictor(score, "pneumonia", scale=scale).logits(IMAGES)


def test_what_cannot_be_asked_is_no_model():
    with pytest.raises(TypeError, match="A str is no model"):
        as_predictor("densenet", "pneumonia")


def test_certain_probabilities_have_finite_log_odds():
    said = as_predictor(lambda x: torch.ones(len(x)), "pneumonia").logits(IMAGES)
    assert torch.isfinite(said).all()
    torch.testing.assert_close(torch.sigmoid(said), torch.ones(70), atol=2e-6, rtol=0)


def test_models_are_told_apart_by_what_they_say():
    one, other = (as_predictor(lambda x, k=k: x[:, 0, 0, k], "pneumonia") for k in (0, 1))
    prints = [Predictions({"m": model}, IMAGES[:4]).fingerprint for model in (one, one, other)]
    assert prints[0] == prints[1] != prints[2]
