"""Where a concept is read: in the whole image, in an enlarged region, in the patches of a region."""

from dataclasses import replace

import pytest
import torch
from clip_models import ARCHITECTURES, CONCEPTS, pictures, write_folder
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from causal_cxr.readers import CLIPReader
from causal_cxr.readers.clip import Preprocess, build_clip
from causal_cxr.readers.clip.patches import overlap, pooled_and_patches
from causal_cxr.readers.clip.reader import square

CORNER = (0.0, 0.5, 0.25, 1.0)


@pytest.fixture(scope="module")
def average(tmp_path_factory):
    """A reader whose image tower averages its patches, with one concept that has a region."""
    folder = tmp_path_factory.mktemp("average") / "model"
    write_folder(folder, "average")
    reader = CLIPReader.from_pretrained(folder, CONCEPTS)
    return reader.using(concepts=(replace(CONCEPTS[0], region=CORNER), replace(CONCEPTS[1], region=None)))


def tower(kind):
    torch.manual_seed(0)
    config = {key: value for key, value in ARCHITECTURES[kind].items() if key != "custom_text"}
    import open_clip

    if kind == "siglip":
        return open_clip.CustomTextCLIP(**config).visual.eval()
    return (open_clip.CoCa(**config) if kind == "coca" else build_clip(config)).visual.eval()


@torch.no_grad()
def test_where_a_tower_averages_its_patches_their_mean_is_the_image(average):
    visual, x = average.model.visual, average.preprocess(pictures())
    whole, patches = pooled_and_patches(visual, x)
    torch.testing.assert_close(whole, visual(x))
    torch.testing.assert_close(patches.mean((1, 2)), whole)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "resnet", "coca", "siglip"])
def test_the_image_feature_beside_the_patches_is_the_towers_own(kind):
    visual = tower(kind)
    size = visual.image_size if isinstance(visual.image_size, tuple) else (visual.image_size,) * 2
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    own = visual(x)
    torch.testing.assert_close(pooled_and_patches(visual, x)[0], own[0] if isinstance(own, tuple) else own)


@torch.no_grad()
def test_a_patch_of_a_tower_with_a_class_token_is_its_last_token_through_norm_and_projection():
    visual, x = tower("clip"), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = visual.ln_post(visual.transformer(visual._embeds(x)))
    _, patches = pooled_and_patches(visual, x)
    torch.testing.assert_close(patches, (tokens[:, 1:] @ visual.proj).reshape(2, 4, 4, 16))


@torch.no_grad()
def test_where_a_tower_attends_equal_patches_each_of_them_is_the_image():
    class Same(nn.Module):
        def forward(self, x):
            return torch.linspace(-1, 1, 512).reshape(1, 512, 1, 1).expand(len(x), -1, 2, 2)

    visual = tower("resnet")
    visual.layer4 = Same()
    visual.attnpool.positional_embedding.zero_()
    whole, patches = pooled_and_patches(visual, torch.zeros(1, 3, 64, 64))
    torch.testing.assert_close(patches, whole[:, None, None].expand(-1, 2, 2, -1))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["coca", "siglip"])
def test_a_patch_of_a_tower_with_a_pooling_head_is_what_the_head_makes_of_it_alone(kind):
    visual = tower(kind)
    side = ARCHITECTURES[kind]["vision_cfg"]["image_size"]
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    _, patches = pooled_and_patches(visual, x)
    if kind == "coca":
        token = visual.transformer(visual._embeds(x))[:, 6:7]  # after the class token: row 1, column 1
        alone = visual._pool(token)[0] @ visual.proj
        torch.testing.assert_close(patches[:, 1, 1], alone)
    else:
        token = visual.trunk.forward_features(x)[:, 1 + 14 + 1][:, None]
        torch.testing.assert_close(patches[:, 1, 1], visual.head(visual.trunk.fc_norm(visual.trunk.attn_pool(token))))


def test_a_tower_that_mixes_its_patches_says_what_else_there_is():
    with pytest.raises(ValueError, match="Linear does not keep its patches apart; use regions='crop'"):
        pooled_and_patches(nn.Linear(2, 2), torch.zeros(1, 3, 8, 8))


def test_the_heatmap_is_the_margin_of_each_patch(average):
    images = pictures(2)
    maps = average.heatmap(images)
    with torch.no_grad():
        _, patches = pooled_and_patches(average.model.visual, average.preprocess(images))
    feature = functional.normalize(patches[1, 2, 3], dim=-1)
    expected = feature @ average._directions * average.model.logit_scale.exp()
    assert maps.shape == (2, 2, 4, 4)
    torch.testing.assert_close(maps[1, :, 2, 3], expected.detach())


def test_a_region_is_read_in_its_patches_alone_and_concepts_without_one_in_the_whole_image(average):
    images = pictures(2)
    reader = average.using(regions="tokens")
    with torch.no_grad():
        _, patches = pooled_and_patches(average.model.visual, average.preprocess(images))
    feature = functional.normalize(
        patches[:, 0, 2:].mean(1), dim=-1
    )  # the first of four rows, its last two of four columns
    margin = feature @ average._directions[:, 0] * average.model.logit_scale.exp()
    torch.testing.assert_close(reader.margins(images)[:, 0], margin.detach())
    torch.testing.assert_close(reader.margins(images)[:, 1], average.margins(images)[:, 1])


def test_all_of_the_image_as_a_region_is_the_whole_image_where_a_tower_averages(average):
    everywhere = average.using(concepts=[replace(concept, region=(0.0, 0.0, 1.0, 1.0)) for concept in average.concepts])
    images = pictures(2)
    for regions in ("crop", "tokens"):
        torch.testing.assert_close(everywhere.using(regions=regions).margins(images), average.margins(images))


def test_a_crop_is_the_region_enlarged_and_sees_nothing_else(average):
    images = pictures(2, 64, 64)
    reader = average.using(regions="crop")
    expected = average.margins(images[..., 0:32, 32:64])[:, 0]  # 16 rows and 32 columns, made square
    torch.testing.assert_close(reader.margins(images)[:, 0], expected)
    elsewhere = images.clone()
    elsewhere[..., 40:, :] = 0
    torch.testing.assert_close(reader.margins(elsewhere)[:, 0], expected)
    assert not torch.allclose(average.margins(elsewhere)[:, 0], average.margins(images)[:, 0])


def test_regions_are_saved_with_the_reader(average, tmp_path):
    saved = CLIPReader.from_pretrained(average.using(regions="tokens").save(tmp_path))
    assert saved.regions == "tokens"
    assert saved.concepts[0].region == CORNER
    assert CLIPReader.from_pretrained(tmp_path, regions="whole").regions == "whole"


def test_a_region_that_the_preprocessing_cuts_off_is_named(average):
    cut = Preprocess(average.preprocess.size, resize_mode="shortest")
    reader = average.using(preprocess=cut, regions="tokens")
    with pytest.raises(ValueError, match=r"region .* lies outside .*shortest.*regions='crop'"):
        reader.read(pictures(1, 160, 40))


def test_a_region_is_followed_into_what_the_tower_sees():
    assert Preprocess((8, 8)).seen((0.1, 0.2, 0.3, 0.4), 50, 90) == pytest.approx((0.1, 0.2, 0.3, 0.4))
    tall = Preprocess((8, 8), resize_mode="shortest")  # of 16 x 8 the rows 4 to 12 are seen
    assert tall.seen((0.25, 0.0, 0.5, 1.0), 16, 8) == pytest.approx((0.0, 0.0, 0.5, 1.0))
    padded = Preprocess((8, 8), resize_mode="longest")  # of 16 x 8, two columns of padding on either side
    assert padded.seen((0.0, 0.0, 1.0, 1.0), 16, 8) == pytest.approx((0.0, 0.25, 1.0, 0.75))


@given(st.tuples(*[st.floats(0, 1)] * 4), st.integers(1, 9), st.integers(1, 9))
def test_the_share_of_a_regions_cells_is_its_overlap_with_them(corners, height, width):
    top, bottom = sorted(corners[:2])
    left, right = sorted(corners[2:])
    share = overlap((top, left, bottom, right), height, width)
    if (bottom - top) * (right - left) < 1e-6:
        return
    assert share.sum() == pytest.approx(1, abs=1e-3)
    area = (bottom - top) * (right - left) * height * width
    cell = max(0, min(bottom * height, 1) - top * height) * max(0, min(right * width, 1) - left * width)
    assert float(share[0, 0]) == pytest.approx(cell / area, abs=1e-3)


@given(st.tuples(*[st.floats(0, 1)] * 4), st.integers(8, 60), st.integers(8, 60))
def test_the_square_around_a_region_holds_it_and_lies_in_the_image(corners, height, width):
    (top, bottom), (left, right) = sorted(corners[:2]), sorted(corners[2:])
    if bottom * height - top * height < 1 or right * width - left * width < 1:
        return
    y0, x0, y1, x1 = square((top, left, bottom, right), height, width)
    assert 0 <= y0 <= top * height + 1e-6
    assert 0 <= x0 <= left * width + 1e-6
    assert bottom * height - 1e-6 <= y1 <= height
    assert right * width - 1e-6 <= x1 <= width
    assert (y1 - y0) == (x1 - x0) or min(y1 - y0, x1 - x0) in (height, width)
