"""A fit that can be killed: what a step does, and when it refuses."""

import pytest
import torch

from causal_cxr.fitting.resumable import ResumableFit


def fit(weight: torch.nn.Parameter) -> ResumableFit:
    optimiser = torch.optim.SGD([weight], lr=1.0)
    return ResumableFit({"weight": weight}, optimiser, decay=0.9, folder=None, recipe=())


def test_a_step_goes_down_by_a_gradient_of_norm_one_at_most() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    fit(weight).descend((100 * weight).sum(), 0.5)
    torch.testing.assert_close(weight.detach(), torch.tensor([1.0, 2.0]) - 0.5 / 2**0.5, atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_fit_that_diverged_says_so_and_keeps_its_weights(factor: float) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    begun = fit(weight)
    with pytest.raises(FloatingPointError, match="Step 1 has a gradient that is not finite"):
        begun.descend((factor * weight).sum(), 0.1)
    assert torch.equal(weight.detach(), torch.ones(2))
    assert torch.equal(begun.average["weight"], torch.ones(2))
    assert begun.step == 0
