"""Inversions against closed forms, and each held to what it claims."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.pipelines.ledits_pp.pipeline_leditspp_stable_diffusion import compute_noise_ddim
from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Captioned, Condition, Denoiser
from causal_cxr.editors.diffusion.inversion import (
    BELM,
    DDIM,
    DDPM,
    EDICT,
    INVERSIONS,
    Coupled,
    FlowEdit,
    Heun,
    Inversion,
    NegativePrompt,
    NullText,
    Offsets,
    Sampled,
    Trajectory,
)  # fmt: skip
from causal_cxr.editors.diffusion.inversion.ddim import step
from causal_cxr.editors.diffusion.inversion.ode import affine, slope
from causal_cxr.editors.diffusion.process import Process

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
PREDICTS = ("epsilon", "v_prediction", "flow")
SHAPE = (4, 4, 4)
DEVIATION = 0.5
N = 2


def scheduler(predicts: str, **options) -> DDIMScheduler:
    return DDIMScheduler(prediction_type=predicts, **(SCHEDULE | options))


def process(predicts: str, **options) -> Process:
    return Process("flow") if predicts == "flow" else Process.from_scheduler(scheduler(predicts, **options))


class GaussianNetwork:
    """What the best network says of images that are normal about a mean, which is all that their caption tells.

    Of captions with the mean 0 they vary more: the ``silent`` deviation.
    """

    def __init__(self, process: Process, silent: float = DEVIATION) -> None:
        self.process, self.silent = process, silent

    def __call__(self, x: Tensor, time: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        t = float(time[0])
        a, s = self.process.coefficients(t / 1000 if self.process.predicts == "flow" else t)
        mean = encoder_hidden_states[:, 0].reshape(x.shape)
        deviation = DEVIATION if mean.any() else self.silent
        surprise = (x - a * mean) / ((a * deviation) ** 2 + s**2)
        clean, noise = mean + a * deviation**2 * surprise, s * surprise
        return SimpleNamespace(sample=self.process.target(clean, noise, torch.tensor(a), torch.tensor(s)))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MEANS = Condition(normal(N, 1, 64, seed=1))
ELSEWHERE = Condition(normal(N, 1, 64, seed=2))
IMAGE = MEANS.text.reshape(N, *SHAPE) + DEVIATION * normal(N, *SHAPE, seed=3)


def gaussian(predicts: str, condition: Condition = MEANS, scale: float = 1.0, **options) -> Captioned:
    kind = process(predicts, **options)
    return Captioned(Denoiser(GaussianNetwork(kind), kind), condition, ELSEWHERE, scale)


@pytest.fixture(scope="module")
def unet():
    """Never fitted: as rough a field as there is."""
    torch.manual_seed(0)
    network = UNet2DConditionModel(
        sample_size=4, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        cross_attention_dim=64, attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=8,
    )  # fmt: skip
    return network.eval().requires_grad_(False)


def chance(seed: int = 4):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(N, *SHAPE, generator=generator)


def round_trip(method: Inversion, field: Captioned) -> float:
    """Relative error."""
    back = method.redraw(method.invert(field, IMAGE, chance()), field)
    return float((back - IMAGE).norm() / IMAGE.norm())


def moved(method: Inversion, field: Captioned, target: Condition, scale: float = 1.0) -> Tensor:
    trajectory = method.invert(field, IMAGE, chance())
    return method.redraw(trajectory, Captioned(field.denoiser, target, ELSEWHERE, scale)) - IMAGE


def works(method: type[Inversion], predicts: str) -> bool:
    return predicts != "flow" or method not in (BELM, DDPM)


ALL = [(m, p) for m in INVERSIONS.values() for p in PREDICTS if m is not NullText and works(m, p)]
EXACT = [(m, p) for m, p in ALL if m.exact]


# What is exact


@pytest.mark.parametrize(("method", "predicts"), EXACT)
@pytest.mark.parametrize(("scale", "bound"), [(1.0, 1e-5), (3.0, 1e-3)])
@pytest.mark.parametrize("steps", [4, 50])
def test_exact_methods_return_the_image_under_the_best_network(method, predicts, scale, bound, steps):
    assert round_trip(method(steps), gaussian(predicts, scale=scale)) <= bound


@pytest.mark.parametrize(("method", "predicts"), EXACT)
@pytest.mark.parametrize(("scale", "bound"), [(1.0, 1e-5), (3.0, 1e-3)])
def test_exact_methods_return_the_image_under_any_network(method, predicts, scale, bound, unet):
    with torch.no_grad():
        assert round_trip(method(10), Captioned(Denoiser(unet, process(predicts)), MEANS, ELSEWHERE, scale)) <= bound


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("method", [Offsets, Coupled, FlowEdit, DDPM])
def test_what_is_stored_is_exact_in_bfloat16_too(method, predicts, scale, unet):
    if works(method, predicts):
        rounded = Denoiser(unet, process(predicts), torch.bfloat16)
        with torch.no_grad():
            assert round_trip(method(10), Captioned(rounded, MEANS, ELSEWHERE, scale)) <= 1e-6


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("method", [Coupled, FlowEdit])
def test_nothing_moves_on_coupled_paths_where_nothing_is_asked(method, predicts):
    assert round_trip(method(5), gaussian(predicts, scale=3.0)) == 0


@pytest.mark.parametrize("method", [DDIM, NegativePrompt, Heun])
@pytest.mark.parametrize("predicts", PREDICTS)
def test_the_others_are_not_exact_and_become_so_in_many_steps(method, predicts):
    coarse, fine = (round_trip(method(steps), gaussian(predicts)) for steps in (10, 100))
    assert fine < 0.3 * coarse
    assert coarse > 1e-4


def test_offsets_may_be_left_out():
    field = gaussian("epsilon")
    without = Offsets(10, replay=False)
    trajectory = without.invert(field, IMAGE, chance())
    torch.testing.assert_close(without.redraw(trajectory, field), DDIM(10).redraw(trajectory, field))
    assert round_trip(without, field) > 1e-2


@pytest.mark.parametrize("method", [Coupled, FlowEdit, EDICT, Heun, Offsets, DDIM, DDPM])
def test_a_process_that_ends_without_signal_is_inverted(method):
    field = gaussian("v_prediction", timestep_spacing="leading", num_train_timesteps=20, rescale_betas_zero_snr=True,
                     steps_offset=0)  # fmt: skip
    assert field.denoiser.process.coefficients(19.0)[0] == pytest.approx(0, abs=1e-6)
    trajectory = method(20).invert(field, IMAGE, chance())
    back = method(20).redraw(trajectory, field)
    assert torch.isfinite(back).all()
    if method.exact:
        torch.testing.assert_close(back, IMAGE, atol=2e-5, rtol=0)


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("steps", [3, 6])
def test_on_its_way_back_edict_tells_where_its_way_there_asked(steps, predicts):
    """Of either copy, in the other order: what holds on to the image's own way needs the one that is asked at."""
    there, back = [], []

    @dataclass(frozen=True)
    class Noted(Captioned):
        def __call__(self, x: Tensor, t: float, own: Tensor | None = None):
            there.append(x) if own is None else back.append((x, own))
            return super().__call__(x, t)

    field = gaussian(predicts)
    noted = Noted(field.denoiser, field.condition)
    trajectory = EDICT(steps).invert(noted, IMAGE, chance())
    EDICT(steps).redraw(trajectory, noted)
    assert len(back) == 2 * steps
    for asked, (x, own) in zip(reversed(there), back, strict=True):
        assert torch.equal(own, asked)
        torch.testing.assert_close(x, own, atol=1e-4, rtol=0)


# Edits against the closed form


def shift(predicts: str, t: float) -> float:
    """Share of the step between two means that the flow from time ``t`` back to the image makes."""
    a, s = process(predicts).coefficients(t)
    return 1 - DEVIATION * a / math.hypot(a * DEVIATION, s)


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize(
    ("method", "tolerance"),
    [(DDIM(100), 0.06), (Heun(60), 0.01), (Offsets(100), 0.03), (FlowEdit(100), 0.03), (BELM(100), 0.06),
     (EDICT(100), 0.15)],
)  # fmt: skip
def test_an_edit_to_another_mean_shifts_the_image_as_the_exact_flow_does(method, tolerance, predicts):
    if not works(type(method), predicts):
        return
    target = Condition(MEANS.text + 1.0)
    made = moved(method, gaussian(predicts), target)
    last = process(predicts).times(method.steps)[-1]
    assert float((made - shift(predicts, last)).abs().mean()) < tolerance


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_edit_friendly_noise_moves_further_the_less_is_skipped(predicts):
    target = Condition(MEANS.text + 1.0)
    far, near, least = (float(moved(DDPM(50, skip), gaussian(predicts), target).mean()) for skip in (0.0, 0.4, 0.8))
    assert 1.1 > far > near > least > 0


@pytest.mark.parametrize("predicts", PREDICTS)
def test_coupled_paths_move_further_the_less_is_carried_on_and_to_the_new_mean_if_nothing_is(predicts):
    target = Condition(MEANS.text + 1.0)
    nothing, half, all_of_it = (moved(Coupled(12, carry), gaussian(predicts), target) for carry in (0.0, 0.5, 1.0))
    torch.testing.assert_close(nothing, torch.ones_like(nothing), atol=0.02, rtol=0)
    assert nothing.mean() > half.mean() > all_of_it.mean() > 0
    torch.testing.assert_close(all_of_it, moved(FlowEdit(12), gaussian(predicts), target))


@pytest.mark.parametrize("predicts", PREDICTS)
def test_opposite_noises_leave_less_of_an_edit_to_chance(predicts):
    """Where the target's images vary more than the source's, what a noise moves is linear in it."""
    kind, silence = process(predicts), Condition(torch.zeros_like(MEANS.text))
    field = Captioned(Denoiser(GaussianNetwork(kind, silent=1.0), kind), MEANS, ELSEWHERE)

    def spread(method: Coupled) -> float:
        paths = (method.invert(field, IMAGE, chance(seed)) for seed in range(20))
        edits = [method.redraw(path, Captioned(field.denoiser, silence, ELSEWHERE)) for path in paths]
        return float(torch.stack(edits).std(0).mean())

    apart, opposite = spread(Coupled(12, antithetic=False)), spread(Coupled(12))
    assert opposite < 0.5 * apart


@pytest.mark.parametrize("carry", [-0.1, 1.1])
def test_a_share_of_the_change_is_carried_on(carry):
    with pytest.raises(ValueError, match="share in \\[0, 1\\]"):
        Coupled(carry=carry)


@pytest.mark.parametrize("predicts", PREDICTS)
def test_guidance_of_gaussians_is_a_caption_further_on(predicts):
    target = Condition(MEANS.text + 1.0)
    guided = moved(Coupled(20), gaussian(predicts), target, scale=3.0)
    beyond = moved(Coupled(20), gaussian(predicts), ELSEWHERE.toward(target, 3.0))
    torch.testing.assert_close(guided, beyond, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_belm_follows_parabolas_without_error(predicts):
    """With noise that is linear in sigma, x / a is a parabola."""
    kind = process(predicts)

    class Linear:
        denoiser = Denoiser(None, kind)

        def __call__(self, x: Tensor, t: float):
            a, s = kind.coefficients(t)
            noise = torch.full_like(x, 2 * s / a)
            return SimpleNamespace(clean=(x - s * noise) / a, noise=noise)

    times = kind.times(8)
    ratios = [s / a for a, s in map(kind.coefficients, times)]
    truth = [kind.coefficients(t)[0] * (1 + r**2) * torch.ones(1, 1, 1, 1) for t, r in zip(times, ratios, strict=True)]
    back = BELM(8).redraw(Trajectory(tuple(times), tuple(truth)), Linear())
    torch.testing.assert_close(back, truth[0], atol=1e-3, rtol=0)


# Against diffusers


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("k", [1, 10, 19])
def test_a_step_back_is_that_of_diffusers(predicts, k):
    reference, kind = scheduler(predicts, clip_sample=False, set_alpha_to_one=True), process(predicts)
    reference.set_timesteps(20)
    times, (x, said) = kind.times(20), (normal(N, *SHAPE, seed=5), normal(N, *SHAPE, seed=6))
    assert int(times[k]) == int(reference.timesteps[20 - k])
    theirs = reference.step(said, int(times[k]), x).prev_sample
    split = kind.split(said, x, times[k])
    torch.testing.assert_close(step(kind, split, times[k - 1]), theirs, atol=1e-5, rtol=1e-5)
    A, B = affine(kind, times[k], times[k - 1])
    torch.testing.assert_close(A * x + B * said, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slope(kind, split, times[k]), said, atol=1e-4, rtol=1e-4)


def test_edit_friendly_noise_is_that_of_diffusers():
    field, reference = gaussian("epsilon"), scheduler("epsilon", clip_sample=False)
    reference.set_timesteps(20)
    trajectory = DDPM(20, skip=0.0).invert(field, IMAGE, chance())
    for k in (2, 10, 19):
        t, x, following = trajectory.times[k], trajectory.latents[k], trajectory.latents[k - 1]
        theirs, _ = compute_noise_ddim(reference, following, x, int(t), field(x, t).noise, 1.0)
        spread = reference._get_variance(int(t), int(t) - 50) ** 0.5
        torch.testing.assert_close(trajectory.kept["offsets"][k - 1] / spread, theirs, atol=1e-3, rtol=1e-4)


# Negative prompts and null text


def test_led_away_from_the_factual_caption_no_guidance_moves_an_image_that_is_to_stay():
    method = NegativePrompt(10)
    alone, guided = (method.redraw(method.invert(f, IMAGE, chance()), f) for f in map(scaled, (1.0, 7.0)))
    torch.testing.assert_close(alone, guided, atol=1e-4, rtol=1e-4)
    assert round_trip(DDIM(10), scaled(7.0)) > 5 * round_trip(method, scaled(7.0))


def scaled(scale: float) -> Captioned:
    return gaussian("epsilon", scale=scale)


@pytest.mark.parametrize("predicts", PREDICTS)
def test_null_text_holds_guided_ddim_to_its_path(predicts):
    field = gaussian(predicts, scale=3.0)
    fitted = round_trip(NullText(6, inner=100, learning_rate=0.1, tolerance=1e-7), field)
    assert fitted < 0.1 * round_trip(DDIM(6), field)
    assert NullText(6).learning_rate < 0.1  # the fit above is of a crude network; the default is the paper's


def test_null_text_fits_each_row_on_its_own():
    field, method = gaussian("epsilon", scale=3.0), NullText(4, inner=20, tolerance=1e-2)
    both = method.invert(field, IMAGE, chance()).kept["null"]
    row = Captioned(field.denoiser, Condition(MEANS.text[1:]), Condition(ELSEWHERE.text[1:]), 3.0)
    alone = method.invert(row, IMAGE[1:], chance()).kept["null"]
    torch.testing.assert_close(both[:, 1:], alone, atol=1e-4, rtol=1e-4)


# Costs


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(
    ("method", "there", "back"),
    [(DDIM(6), 6, 6), (BELM(6), 6, 5), (EDICT(6), 12, 12), (DDPM(6, 0.0), 6, 6), (DDPM(6, 0.5), 3, 3),
     (Offsets(6), 12, 6), (Heun(6), 12, 12), (Coupled(6), 6, 6)],
)  # fmt: skip
def test_evaluations_are_those_of_the_formula(method, there, back, scale):
    field, branches = scaled(scale), 1 if scale == 1.0 else 2
    ledger = field.denoiser.ledger
    trajectory = method.invert(field, IMAGE, chance())
    assert ledger.forward == there * N * branches
    method.redraw(trajectory, field)
    assert ledger.forward == (there + back) * N * branches
    assert ledger.backward == 0


def test_negative_prompts_cost_one_branch_there_and_two_back():
    field, method = scaled(3.0), NegativePrompt(6)
    trajectory = method.invert(field, IMAGE, chance())
    assert field.denoiser.ledger.forward == 6 * N
    method.redraw(trajectory, field)
    assert field.denoiser.ledger.forward == 6 * N + 12 * N


def test_null_text_counts_its_gradients():
    field, method = scaled(3.0), NullText(6, inner=4, tolerance=0.0)
    trajectory = method.invert(field, IMAGE, chance())
    ledger = field.denoiser.ledger
    assert ledger.backward == 6 * 4 * N
    # The path, the caption's own prediction, the gradients, and the guided step that follows.
    assert ledger.forward == (6 + 6 + 6 * 4 + 2 * 6) * N
    before = ledger.forward
    method.redraw(trajectory, field)
    assert ledger.forward - before == 2 * 6 * N


# Laws


@pytest.mark.parametrize(("method", "predicts"), ALL)
def test_a_trajectory_starts_at_the_image_and_a_redraw_leaves_it_as_it_was(method, predicts):
    field = gaussian(predicts)
    trajectory = method(4).invert(field, IMAGE, chance())
    assert torch.equal(trajectory.image, IMAGE)
    assert len(trajectory.times) == len(trajectory.latents)
    assert list(trajectory.times) == sorted(trajectory.times)
    copies = [x.clone() for x in (*trajectory.latents, *trajectory.kept.values())]
    first, again = (method(4).redraw(trajectory, gaussian(predicts, ELSEWHERE)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.dtype == torch.float32
    assert all(map(torch.equal, copies, (*trajectory.latents, *trajectory.kept.values())))


def test_the_registry_names_what_the_methods_call_themselves():
    assert set(INVERSIONS) == {
        "ddim", "belm", "edict", "ddpm", "offsets", "negative_prompt", "null_text", "heun", "flowedit",
        "coupled",
    }  # fmt: skip
    assert all(method.name == name and repr(method()) == repr(method()) for name, method in INVERSIONS.items())


# The model's own images


@pytest.mark.parametrize("predicts", PREDICTS)
def test_a_sampled_image_is_the_models_own_and_moves_with_its_caption(predicts):
    """Of normal images the ODE takes the same quantile to the same quantile, whatever image was given."""
    field, drawn = gaussian(predicts), chance()()
    a, s = field.denoiser.process.coefficients(field.denoiser.process.times(100)[-1])

    def own(mean):  # schedules of noise predictions end with a little signal left
        return mean + DEVIATION * (s * drawn - a * mean) / math.hypot(a * DEVIATION, s)

    trajectory = Sampled(100).invert(field, 0 * IMAGE, chance())
    mean, other = (c.text.reshape(N, *SHAPE) for c in (MEANS, ELSEWHERE))
    torch.testing.assert_close(trajectory.image, own(mean), atol=0.01, rtol=0)
    assert torch.equal(trajectory.image, Sampled(100).invert(field, IMAGE, chance()).image)
    assert torch.equal(trajectory.image, Sampled(100).redraw(trajectory, field))
    edited = Sampled(100).redraw(trajectory, gaussian(predicts, ELSEWHERE))
    torch.testing.assert_close(edited, own(other), atol=0.01, rtol=0)


# Refusals


@pytest.mark.parametrize(("method", "says"), [(BELM(4), "some signal at every time"), (DDPM(4), "which flows lack")])
def test_methods_that_have_no_meaning_for_flows_say_so(method, says):
    with pytest.raises(ValueError, match=says):
        method.invert(gaussian("flow"), IMAGE, chance())


def test_null_text_without_guidance_is_refused():
    with pytest.raises(ValueError, match="this field has no guidance"):
        NullText(4).invert(scaled(1.0), IMAGE, chance())


@pytest.mark.parametrize("method", [NegativePrompt(4), NullText(4)])
def test_fields_without_a_caption_to_replace_are_refused_by_name(method):
    class Merged:
        denoiser = scaled(1.0).denoiser

    with pytest.raises(ValueError, match=f"{method.name} replaces .* Merged has none"):
        method.invert(Merged(), IMAGE, chance())


@pytest.mark.parametrize(
    ("make", "says"),
    [(lambda: BELM(1), "two steps or more, got 1"), (lambda: EDICT(4, 0.0), "mixing=0.0"), (lambda: DDPM(4, 1.0), "skip=1.0")],
)  # fmt: skip
def test_settings_without_meaning_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
