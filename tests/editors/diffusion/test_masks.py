"""Masks: drawn ones, and where two fields disagree."""

from dataclasses import dataclass

import pandas as pd
import pytest
import torch

from causal_cxr.editors.diffusion.guidance import Request
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory
from causal_cxr.editors.diffusion.masks import Drawn, Estimated, softened
from causal_cxr.editors.diffusion.process import Prediction

TABLE = pd.DataFrame({"view": ["PA", "AP"]}, index=[7, 3])
PATH = Trajectory(tuple(i / 10 for i in range(11)), tuple(torch.zeros(2, 3, 8, 8) + i for i in range(11)))
REQUEST = Request(None, None, TABLE, TABLE, PATH)


@dataclass
class Constant:
    """A field that sees the same image everywhere, and notes when it is asked."""

    clean: torch.Tensor

    def __post_init__(self):
        self.asked = []

    def __call__(self, x, t):
        self.asked.append((t, float(x[0, 0, 0, 0])))
        return Prediction(self.clean, x)


def corner(*values: float) -> torch.Tensor:
    """Images that differ from nothing in their upper left quarter, by a value each."""
    image = torch.zeros(len(values), 3, 8, 8)
    for row, value in enumerate(values):
        image[row, :, :4, :4] = value
    return image


NOTHING = Constant(torch.zeros(2, 3, 8, 8))


def test_a_position_is_inside_where_all_of_it_is_and_kept_where_any_of_it_is():
    pixels = torch.zeros(32, 32)
    pixels[:16, :14] = 1
    mask, kept = (Drawn(pixels)(REQUEST, None, None, touched=touched) for touched in (False, True))
    assert mask.shape == kept.shape == (2, 1, 8, 8)
    assert mask[0, 0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert kept[0, 0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    for made in (mask, kept):
        assert torch.equal(made[0], made[1])
        assert made[0, 0, 4:].max() == 0


def test_a_mask_that_is_coarser_than_the_latents_is_enlarged_and_one_that_does_not_fit_covers_no_more_than_it_does():
    coarse = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    assert torch.equal(Drawn(coarse)(REQUEST, None, None)[0, 0], coarse.repeat_interleave(4, 0).repeat_interleave(4, 1))
    ragged = torch.tensor([1.0, 1.0, 0.0]).expand(
        3, 3
    )  # a position is 3/8 of its columns wide: 0 to 5 and a third inside
    assert Drawn(ragged)(REQUEST, None, None)[0, 0, 0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert Drawn(ragged)(REQUEST, None, None, touched=True)[0, 0, 0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]


def test_a_soft_edge_lies_within_what_may_change():
    pixels = torch.zeros(32, 32)
    pixels[:, :16] = 1
    mask, kept = (Drawn(pixels, edge=1.0)(REQUEST, None, None, touched=touched) for touched in (False, True))
    assert mask[..., 4:].max() == 0
    assert 0 < mask[..., 3].max() < 1
    assert kept[..., :4].min() == 1
    assert 0 < kept[..., 4].max() < 1


def test_a_mask_in_which_no_position_fits_is_refused_by_its_row_and_one_to_keep_is_not():
    thin = torch.zeros(32, 32)
    thin[:, 5:8] = 1
    masks = Drawn({7: torch.zeros(32, 32), 3: thin})
    with pytest.raises(ValueError, match=r"mask of row 3 is too thin to act: no position .* has \(8, 8\)"):
        masks(REQUEST, None, None)
    assert masks(REQUEST, None, None, touched=True).mean(dim=(1, 2, 3)).tolist() == [0, 0.125]


def test_each_image_can_have_its_own_by_its_row():
    mask = Drawn({3: torch.ones(8, 8), 7: torch.zeros(8, 8)})(REQUEST, None, None)
    assert mask.mean(dim=(1, 2, 3)).tolist() == [0, 1]
    with pytest.raises(ValueError, match="no mask for 1 images, of rows"):
        Drawn({3: torch.ones(8, 8)})(REQUEST, None, None)


def test_a_mask_lies_in_0_to_1():
    with pytest.raises(ValueError, match="with values in"):
        Drawn(torch.full((8, 8), 255.0))
    with pytest.raises(ValueError, match="shape"):
        Drawn(torch.ones(1, 8, 8))


def test_a_drawn_mask_tells_all_in_its_repr():
    one, other = torch.zeros(8, 8), torch.ones(8, 8)
    names = {repr(mask) for mask in (Drawn(one), Drawn(other), Drawn(one, 1.0), Drawn({0: one}), Drawn({1: one}))}
    assert len(names) == 5
    assert repr(Drawn(one)) == repr(Drawn(one.clone()))


def test_inside_is_where_the_fields_disagree_image_by_image():
    mask = Estimated(0.5, edge=0.0)(REQUEST, NOTHING, Constant(corner(1.0, 0.01)))
    assert torch.equal(mask[0], mask[1])  # however little that is
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    inside = torch.zeros(8, 8)
    inside[:4, :4] = 1
    inside[3, 3] = 0  # the outer corner is below half after smoothing
    assert torch.equal(mask[0, 0], inside)


def test_a_lower_threshold_lets_more_in():
    sizes = [float(Estimated(at)(REQUEST, NOTHING, Constant(corner(1.0, 1.0))).mean()) for at in (0.1, 0.5, 0.9)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_where_nothing_disagrees_nothing_is_inside():
    mask = Estimated()(REQUEST, NOTHING, Constant(corner(0.0, 1.0)))
    assert mask[0].max() == 0
    assert mask[1].max() > 0.9


def test_it_asks_in_the_middle_of_the_trajectory():
    source, target = Constant(corner(0, 0)), Constant(corner(1, 1))
    Estimated(points=3, start=0.2, end=0.6)(REQUEST, source, target)
    assert source.asked == target.asked == [(0.2, 2.0), (0.4, 4.0), (0.6, 6.0)]


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"points": 0}, {"start": 0.8}])
def test_an_estimate_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="estimated with"):
        Estimated(**wrong)


def test_a_soft_edge_keeps_what_is_flat_and_the_middle_of_the_edge():
    step = (torch.arange(32) < 16).float().expand(1, 1, 32, 32)
    soft = softened(step, 2.0)
    torch.testing.assert_close(soft[..., [0, 31]], step[..., [0, 31]])
    assert (soft[0, 0, 0].diff() <= 1e-6).all()
    torch.testing.assert_close((soft[..., 15] + soft[..., 16]) / 2, torch.full((1, 1, 32), 0.5))
    assert softened(step, 0.0) is step
