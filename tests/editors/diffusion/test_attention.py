"""Attention control: alignment of captions, and maps that are taken over in any diffusers UNet."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, IPAdapterAttnProcessor

from causal_cxr.editors.diffusion.attention import Control, align, controlled

N, LENGTH = 2, 6
ARCHITECTURES = {
    "stable diffusion 1": {"attention_head_dim": 2},
    "stable diffusion 2": {"attention_head_dim": (1, 2), "use_linear_projection": True, "upcast_attention": True},
    "self-attention blocks": {"down_block_types": ("AttnDownBlock2D", "CrossAttnDownBlock2D"),
                              "up_block_types": ("CrossAttnUpBlock2D", "AttnUpBlock2D"), "attention_head_dim": 4},
}  # fmt: skip


def unet(architecture: str = "stable diffusion 1") -> UNet2DConditionModel:
    torch.manual_seed(0)
    options = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    } | ARCHITECTURES[architecture]
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=8,
        norm_num_groups=4, **options,
    ).eval()  # fmt: skip


def control(
    cross: bool, self_positions: int = 0, *, n: int = N, factors: float = 1.0, own: tuple[int, ...] = ()
) -> Control:
    alignment = torch.arange(LENGTH).repeat(n, 1)
    alignment[:, list(own)] = -1
    return Control(n, True, alignment, torch.full((n, LENGTH), factors), cross, self_positions)


@torch.no_grad()
def run(network, x, text, how: Control | None = None):
    if how is None:
        return network(x, 500, text).sample
    with controlled(network, how):
        return network(x, 500, text).sample


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3 * N, 4, 8, 8, generator=generator), 3 * torch.randn(3 * N, LENGTH, 8, generator=generator)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_control_the_network_says_what_it_says(architecture, inputs):
    network = unet(architecture)
    torch.testing.assert_close(run(network, *inputs, control(False)), run(network, *inputs), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_control_bends_the_edited_run_and_no_other(architecture, inputs):
    network = unet(architecture)
    for how in (control(True), control(False, 256)):
        free, bent = run(network, *inputs), run(network, *inputs, how)
        torch.testing.assert_close(bent[:N], free[:N], atol=1e-5, rtol=0.0)
        torch.testing.assert_close(bent[2 * N :], free[2 * N :], atol=1e-5, rtol=0.0)
        assert float((bent - free)[N : 2 * N].abs().max()) > 1e-4


def test_alike_runs_give_alike_images_whatever_is_taken_over(inputs):
    x, text = (torch.cat([part[:N], part[:N]]) for part in inputs)
    source, edited = run(unet(), x, text, control(True, 256)).chunk(2)
    torch.testing.assert_close(edited, source, atol=1e-6, rtol=0.0)


def test_maps_are_taken_over_token_by_token():
    maps = torch.rand(3, 2, 5, 4).softmax(-1)
    how = Control(1, True, torch.tensor([[0, -1, 3, 2]]), torch.tensor([[1.0, 1.0, 1.0, 2.0]]), True, 0)
    taken = how(maps, crosses=True)
    assert torch.equal(taken[[0, 2]], maps[[0, 2]])
    assert torch.equal(taken[1, ..., 0], maps[0, ..., 0])
    assert torch.equal(taken[1, ..., 1], maps[1, ..., 1])
    assert torch.equal(taken[1, ..., 2], maps[0, ..., 3])
    assert torch.equal(taken[1, ..., 3], 2 * maps[0, ..., 2])
    assert torch.equal(how(maps, crosses=False), maps)


def test_self_attention_is_taken_over_in_small_feature_maps_only():
    how = control(False, 16, n=1)
    for positions, over in ((16, True), (25, False)):
        maps = torch.rand(2, 1, positions, positions)
        assert torch.equal(how(maps, crosses=False)[1], maps[0 if over else 1])


def test_the_networks_own_processors_come_back_even_after_an_error():
    network = unet()
    network.set_attn_processor(AttnProcessor())
    before = dict(network.attn_processors)

    def fails():
        with controlled(network, control(True)):
            assert all(network.attn_processors[name] is not own for name, own in before.items())
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fails()
    assert network.attn_processors == before


def test_attention_that_is_not_plain_is_refused():
    network = unet()
    name = next(iter(network.attn_processors))
    network.set_attn_processor(dict(network.attn_processors) | {name: IPAdapterAttnProcessor(8, 8)})
    with pytest.raises(ValueError, match="plain attention"), controlled(network, control(True)):
        pass


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], [0, 1, 2]),
        ([1, 5, 2, 0, 0], [1, 6, 7, 2, 0], [0, -1, -1, 2, 3]),  # a word more
        ([1, 6, 7, 2, 0], [1, 5, 2, 0, 0], [0, -1, 3, 4, -1]),  # a word less
        ([1, 5, 8, 2], [1, 6, 7, 2], [0, 1, 2, 3]),  # other words, as many
        ([1, 5, 8, 2], [1, 8, 6, 2], [0, 2, -1, 3]),  # one of them has moved
        ([9], [8], [0]),
    ],
)
def test_tokens_are_aligned_by_a_longest_common_subsequence(source, target, expected):
    assert align(source, target) == expected


def test_without_swaps_new_words_keep_their_own_maps():
    assert align([1, 5, 8, 2], [1, 6, 7, 2], swap=False) == [0, -1, -1, 3]
