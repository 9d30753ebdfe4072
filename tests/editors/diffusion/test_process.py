"""Noising processes: what diffusers' schedulers say of the same network, whichever scheduler a pipeline came with."""

import diffusers
import pytest
import torch

from causal_cxr.editors.diffusion.inversion.ddim import step
from causal_cxr.editors.diffusion.process import CLEAN, Process

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
X, OUTPUT = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
PRESERVING = [
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler",
]  # fmt: skip


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [4, 50])
def test_steps_are_those_of_diffusers_ddim_to_the_image(predicts, steps):
    scheduler = diffusers.DDIMScheduler(
        **SCHEDULE, prediction_type=predicts, steps_offset=1, clip_sample=False, set_alpha_to_one=True
    )
    scheduler.set_timesteps(steps)
    process = Process.from_scheduler(scheduler)
    times = process.times(steps)
    assert times[:0:-1] == scheduler.timesteps.tolist()
    for time, lower in zip(times[:0:-1], times[-2::-1], strict=True):
        theirs = scheduler.step(OUTPUT, int(time), X)
        said = process.split(OUTPUT, X, time)
        torch.testing.assert_close(said.clean, theirs.pred_original_sample, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(step(process, said, lower), theirs.prev_sample, atol=1e-5, rtol=1e-5)


def test_a_step_of_a_flow_is_that_of_diffusers_euler():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    process = Process.from_scheduler(scheduler)
    for i, time in enumerate(scheduler.timesteps):
        t, lower = (float(sigma) for sigma in scheduler.sigmas[i : i + 2])
        assert process.network_time(t) == pytest.approx(float(time))
        said = process.split(OUTPUT, X, t)
        torch.testing.assert_close(step(process, said, lower), scheduler.step(OUTPUT, time, X).prev_sample)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # some of diffusers' schedulers
@pytest.mark.parametrize("name", PRESERVING)
@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_every_variance_preserving_scheduler_has_the_same_process(name, predicts):
    scheduler = getattr(diffusers, name)(**SCHEDULE, prediction_type=predicts)
    process = Process.from_scheduler(scheduler)
    assert process.predicts == predicts
    assert torch.equal(process.alphas, scheduler.alphas_cumprod.double())


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "flow"])
def test_a_process_is_saved_as_the_scheduler_that_it_came_from(predicts, tmp_path):
    kind = diffusers.FlowMatchEulerDiscreteScheduler if predicts == "flow" else diffusers.PNDMScheduler
    scheduler = kind() if predicts == "flow" else kind(**SCHEDULE, prediction_type=predicts, steps_offset=1)
    process = Process.from_scheduler(scheduler)
    process.save(tmp_path)
    again = kind.from_pretrained(tmp_path)
    settings = [{k: v for k, v in s.config.items() if not k.startswith("_")} for s in (again, scheduler)]
    assert settings[0] == settings[1]
    for other in (Process.from_scheduler(again), Process.from_scheduler(process.scheduler)):
        assert (other.predicts, other.offset) == (process.predicts, process.offset)
        assert other.alphas is process.alphas is None or torch.equal(other.alphas, process.alphas)


def test_a_flow_needs_no_scheduler_and_a_schedule_of_ones_own_cannot_be_saved(tmp_path):
    Process("flow").save(tmp_path)
    assert diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path).config.shift == 1.0
    with pytest.raises(ValueError, match="make the process with from_scheduler"):
        Process("epsilon", torch.linspace(0.99, 0.01, 10)).save(tmp_path)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.EDMEulerScheduler(),
        diffusers.DDIMScheduler(prediction_type="sample"),
        diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
        diffusers.DDPMWuerstchenScheduler(),
    ],
)
def test_schedulers_of_other_processes_are_refused_by_name(scheduler):
    with pytest.raises(ValueError, match=f"{type(scheduler).__name__} with prediction_type .* not understood"):
        Process.from_scheduler(scheduler)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "flow"])
def test_a_network_that_is_right_is_split_into_the_image_and_the_noise(predicts):
    process = Process("flow") if predicts == "flow" else Process.from_scheduler(
        diffusers.DDIMScheduler(**SCHEDULE, prediction_type=predicts)
    )  # fmt: skip
    for t in process.times(7)[1:]:
        a, s = process.coefficients(t)
        right = process.target(X, OUTPUT, torch.tensor(a), torch.tensor(s))
        said = process.split(right, a * X + s * OUTPUT, t)
        torch.testing.assert_close(said.clean, X, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(said.noise, OUTPUT, atol=1e-4, rtol=1e-4)


def test_times_run_from_the_image_to_noise():
    flow = Process("flow").times(4)
    assert flow[0] == 0.0
    assert flow[-1] == 1.0
    assert flow == sorted(flow)
    scheduler = Process.from_scheduler(diffusers.DDIMScheduler(**SCHEDULE))
    assert scheduler.times(4) == [CLEAN, 0, 250, 500, 750]
    with pytest.raises(ValueError, match="1001 steps are too many"):
        scheduler.times(1001)
    with pytest.raises(ValueError, match="one step or more, got 0"):
        scheduler.times(0)
