"""Computing in half precision: what is cast, and how attention is computed meanwhile."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attend

from causal_cxr.fitting.precision import attention, autocast


def fused() -> bool:
    return torch.backends.cuda.flash_sdp_enabled()  # of a CPU's kernels too


@pytest.mark.parametrize(("precision", "kind"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_layers_compute_in_the_precision_that_was_asked_and_weights_keep_theirs(precision, kind):
    layer = torch.nn.Linear(3, 2)
    with autocast("cpu", precision):
        assert layer(torch.ones(1, 3)).dtype == kind
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "precision", "stays"), [("cpu", "bf16", False), ("cpu", "no", True), ("cuda", "bf16", True)]
)
def test_attention_is_composed_only_where_the_fused_kernel_is_slow(device, precision, stays):
    with attention(device, precision):
        assert fused() is stays
    assert fused()


def test_composed_attention_has_the_value_and_the_gradients_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(2, 4, 16, 8, generator=generator) for _ in range(3)]

    def of(compute) -> list[Tensor]:
        leaves = [one.clone().requires_grad_() for one in given]
        value = compute(*leaves)
        return [value, *torch.autograd.grad(value.square().sum(), leaves)]

    def by_formula(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1) @ value

    def in_half(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with autocast("cpu", "bf16"):
            return attend(query.bfloat16(), key.bfloat16(), value.bfloat16()).float()

    for ours, exact in zip(of(in_half), of(by_formula), strict=True):
        torch.testing.assert_close(ours, exact, rtol=0, atol=0.02 * float(exact.detach().abs().max()))
