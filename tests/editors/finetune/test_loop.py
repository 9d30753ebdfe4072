"""At which times a network is fitted: where edits ask it."""

import math

import pytest
import torch
from scipy.stats import ks_2samp, norm

from causal_cxr.editors.diffusion.process import Process
from causal_cxr.editors.finetune.loop import _times

FLOW = Process("flow")
N = 40_000


def drawn(process, n=N, seed=0):
    said, a, s = _times(process, n, torch.Generator().manual_seed(seed))
    assert a.shape == s.shape == (n, 1, 1, 1)
    return said, a.flatten(), s.flatten()


def test_a_flow_is_fitted_half_in_the_middle_half_where_its_solver_asks():
    said, a, t = drawn(FLOW)
    assert torch.equal(said, 1000 * t)
    assert torch.allclose(a + t, torch.ones(N))
    # P(t <= x) of a logit-normal, and of times as dense as the solver's.
    for x in (0.02, 0.1, 0.5, 0.9, 0.95):
        middle, asked = norm.cdf(math.log(x / (1 - x))), math.acos(1 - 2 * x) / math.pi
        assert (t <= x).float().mean() == pytest.approx((middle + asked) / 2, abs=0.01)
    grid = torch.tensor(FLOW.times(2_000))
    assert ks_2samp(t[N // 2 :], grid).pvalue > 0.01


def test_a_discrete_schedule_is_fitted_at_each_time_alike():
    from diffusers import DDPMScheduler

    process = Process.from_scheduler(DDPMScheduler(num_train_timesteps=20))
    said, a, s = drawn(process)
    assert torch.allclose(a**2 + s**2, torch.ones(N))
    assert (torch.bincount(said, minlength=20) / N).numpy() == pytest.approx([0.05] * 20, abs=0.005)
