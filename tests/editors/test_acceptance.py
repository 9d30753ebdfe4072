"""Acceptance by similarities in a space where these can be read off by hand."""

import math

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from causal_cxr.editors.acceptance import CLIPAcceptance
from causal_cxr.graphs import Binary

ATTRIBUTES = {"view": Binary("view", ("PA", "AP"), {"PA": "frontal", "AP": "portable"})}
FACTUAL = pd.DataFrame({"view": ["PA", "PA", "AP"]}, index=[4, 8, 1])
TARGET = FACTUAL.assign(view=["AP", "AP", "PA"])


class Plane(nn.Module):
    """An image is a direction: its first pixel's angle, in turns; PA points right, AP up."""

    def __init__(self, gain: float = 3.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def encode_image(self, x: Tensor) -> Tensor:
        angle = 2 * math.pi * x[:, 0, 0, 0]
        return self.gain * torch.stack([angle.cos(), angle.sin()], 1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return 2.0 * torch.stack([1.0 - tokens, tokens], 1)


def tokenize(texts: list[str]) -> Tensor:
    return torch.tensor([float("portable" in text) for text in texts])


def images(*degrees: float) -> Tensor:
    return torch.tensor(degrees).float()[:, None, None, None].expand(-1, 1, 4, 4) / 360


def acceptance(model: nn.Module | None = None, **thresholds) -> CLIPAcceptance:
    return CLIPAcceptance(model or Plane(), lambda x: x, tokenize, ATTRIBUTES, **thresholds)


BEFORE, AFTER = images(0, 0, 90), images(90, 60, 120)


def test_similarities_are_cosines_of_images_captions_and_differences():
    found = acceptance().similarities(BEFORE, AFTER, FACTUAL, TARGET)
    np.testing.assert_allclose(found["image_image"], [0, 0.5, math.cos(math.pi / 6)], atol=1e-6)
    np.testing.assert_allclose(found["image_text"], [1, math.sqrt(0.75), -0.5], atol=1e-6)
    # From 0 to 60 degrees the difference points to 120, from 90 to 120 to 195; the captions' to 135 and to 315.
    np.testing.assert_allclose(found["directional"], np.cos(np.radians([0, 15, 120])), atol=1e-6)


def test_every_threshold_that_is_missed_is_a_reason_and_none_is_acceptance():
    accepted, reasons = acceptance(image_image=0.6, directional=0.2)(BEFORE, AFTER, FACTUAL, TARGET)
    assert accepted.tolist() == [False, False, False]
    assert accepted.dtype == bool
    assert reasons == (
        "image-image similarity 0.00 < 0.60", "image-image similarity 0.50 < 0.60", "directional similarity -0.50 < 0.20",
    )  # fmt: skip
    accepted, reasons = acceptance(image_text=0.5)(BEFORE, AFTER, FACTUAL, TARGET)
    assert accepted.tolist() == [True, True, False]
    assert reasons == ("", "", "image-text similarity -0.50 < 0.50")
    assert acceptance(image_image=0.9, image_text=0.9)(BEFORE, AFTER, FACTUAL, TARGET)[1][2] == (
        "image-image similarity 0.87 < 0.90; image-text similarity -0.50 < 0.90"
    )


def test_what_is_not_tested_rejects_nothing():
    accepted, reasons = acceptance()(BEFORE, AFTER, FACTUAL, TARGET)
    assert accepted.all()
    assert reasons == ("", "", "")


def test_an_edit_that_changes_no_caption_has_no_direction_to_miss():
    strict = acceptance(image_image=0.9, directional=1.0)
    assert strict(BEFORE, BEFORE, FACTUAL, FACTUAL)[0].all()
    assert np.isnan(strict.similarities(BEFORE, AFTER, FACTUAL, FACTUAL)["directional"]).all()


def test_what_is_no_number_reaches_no_threshold():
    """An edit that diverged; of the directions that there is none of, nobody asks."""
    diverged = AFTER.clone()
    diverged[1] = torch.nan
    judge = acceptance(image_image=-1.0, image_text=-1.0, directional=-1.0)
    accepted, reasons = judge(BEFORE, diverged, FACTUAL, TARGET)
    assert accepted.tolist() == [True, False, True]
    assert reasons[1] == "; ".join(
        f"{what} similarity is not a number" for what in ("image-image", "image-text", "directional")
    )
    accepted, reasons = judge(BEFORE, diverged, FACTUAL, FACTUAL)
    assert accepted.tolist() == [True, False, True]
    assert "directional" not in reasons[1]


def test_a_threshold_is_a_cosine():
    with pytest.raises(ValueError, match="image_text is a cosine"):
        acceptance(image_text=60.0)


def test_its_repr_tells_the_weights_the_thresholds_and_the_words():
    same = {repr(acceptance(image_image=0.6)) for _ in range(2)}
    assert len(same) == 1
    others = {
        repr(acceptance(image_image=0.7)), repr(acceptance(image_text=0.6)), repr(acceptance(Plane(4.0), image_image=0.6)),
        repr(CLIPAcceptance(Plane(), lambda x: x, tokenize, {}, image_image=0.6)),
        repr(CLIPAcceptance(Plane(), lambda x: x, tokenize, ATTRIBUTES, image_image=0.6, name="other")),
    }  # fmt: skip
    assert len(others | same) == 6


def test_it_takes_an_open_clip_model_as_it_is():
    torch.manual_seed(0)
    model = open_clip.CLIP(
        16, {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    ).eval()  # fmt: skip
    judge = CLIPAcceptance(
        model, lambda x: nn.functional.interpolate(x, 32).expand(-1, 3, -1, -1), open_clip.SimpleTokenizer(), ATTRIBUTES,
        image_image=1 - 1e-6, directional=0.999,
    )  # fmt: skip
    x = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert judge(x, x, FACTUAL, FACTUAL)[0].all()
    accepted, reasons = judge(x, x.flip(3), FACTUAL, TARGET)
    assert not accepted.any()
    assert all("directional similarity" in reason for reason in reasons)
