"""What every image mechanism is: a Pyro program whose bound is the closed form, with exogenous noise."""

import math

import pyro
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from causal_cxr.editors.scm import ConditionalVAE, HierarchicalVAE, ImageModel
from causal_cxr.editors.scm.hvae import MOST_LOG_SCALE
from causal_cxr.fitting import autocast

LADDER = {"stages": ((2, 16, 2, 3), (4, 16, 1, 3), (8, 16, 1, 0), (16, 24, 1, 3))}
MODELS = {
    "cvae": lambda: ConditionalVAE(3, width=16),
    "cvae, logistic": lambda: ConditionalVAE(3, width=16, likelihood="discretised_logistic"),
    "cvae, a vector": lambda: ConditionalVAE(3, width=16, latent=5, size=(16, 16)),
    "exogenous": lambda: HierarchicalVAE(3, **LADDER),
    "mediator": lambda: HierarchicalVAE(3, **LADDER, prior="mediator"),
    "exogenous, learnt upsampling": lambda: HierarchicalVAE(3, **LADDER, upsampling="learnt"),
    "mediator, learnt upsampling": lambda: HierarchicalVAE(3, **LADDER, prior="mediator", upsampling="learnt"),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> ImageModel:
    torch.manual_seed(0)
    built = MODELS[request.param]()
    for parameter in built.parameters():  # some begin at zero, which would hide what they do
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return built


def batch(n: int = 4, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, side, side, generator=generator), torch.randn(n, 3, generator=generator)


@torch.no_grad()
def test_the_bound_is_that_of_the_pyro_program(model: ImageModel) -> None:
    images, condition = batch()
    bound, noise, *_ = model.bound(images, condition)
    sites = {f"noise_{i}": value for i, value in enumerate(noise)}
    guide = pyro.poutine.trace(pyro.condition(model.guide, data=sites)).get_trace(images, condition)
    program = pyro.poutine.trace(pyro.condition(model.model, data=sites)).get_trace(images, condition)
    program.compute_log_prob()
    spent = sum(kl_divergence(guide.nodes[site]["fn"].base_dist, Normal(0.0, 1.0)).sum() for site in sites)
    expected = (spent - program.nodes["image"]["log_prob_sum"]) / images.numel()
    torch.testing.assert_close(bound, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_program_draws_images_and_can_be_intervened_on(model: ImageModel) -> None:
    images, condition = batch()
    pyro.set_rng_seed(0)
    drawn = (
        pyro.poutine.trace(pyro.poutine.uncondition(model.model)).get_trace(images, condition).nodes["image"]["value"]
    )
    assert drawn.shape == images.shape
    shapes = model.noise_shapes((16, 16))
    still = {f"noise_{i}": torch.zeros(4, *shape) for i, shape in enumerate(shapes)}
    set_ = pyro.poutine.trace(pyro.do(model.model, data=still)).get_trace(images, condition).nodes["image"]["fn"]
    location, _ = model.decode(list(still.values()), condition, (16, 16))
    torch.testing.assert_close(set_.base_dist.mean.clamp(0, 1), location.clamp(0, 1))


@torch.no_grad()
def test_noise_is_the_posterior_mean_or_the_draw_that_standard_numbers_make(model: ImageModel) -> None:
    images, condition = batch()
    mean = model.abduct(images, condition)
    assert [tuple(noise.shape[1:]) for noise in mean] == model.noise_shapes((16, 16))
    still = model.abduct(images, condition, standard=[torch.zeros_like(noise) for noise in mean])
    torch.testing.assert_close(still, mean)
    moved = model.abduct(images, condition, standard=[torch.ones_like(noise) for noise in mean])
    assert bool((moved[0] > mean[0]).all())


@torch.no_grad()
def test_only_mediating_latents_are_told_the_mediators_attributes() -> None:
    images, condition = batch()
    other = condition.flip(0)
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model = build()
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        noise = model.abduct(images, condition)
        total = model.decode(noise, condition, (16, 16))[0]
        torch.testing.assert_close(model.decode(noise, condition, (16, 16), mediator=condition)[0], total)
        held = model.decode(noise, condition, (16, 16), mediator=other)[0]
        assert torch.equal(held, total) == (not name.startswith("mediator"))


def test_every_weight_takes_part_in_the_bound(model: ImageModel) -> None:
    model.bound(*batch())[0].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_layers_in_half_precision_leave_bound_pixels_and_gradients_in_full(model: ImageModel) -> None:
    images, condition = batch()
    bounds = []
    for precision in ("no", "bf16"):
        torch.manual_seed(0)
        with autocast("cpu", precision):
            bounds.append(model.bound(images, condition))
    full, half = bounds
    assert {x.dtype for x in (half.value, half.location, half.log_scale, *half.noise)} == {torch.float32}
    torch.testing.assert_close(half.value, full.value, rtol=0.02, atol=0)
    assert not torch.equal(half.location, full.location)
    half.value.backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@torch.no_grad()
def test_a_ladder_is_filled_from_the_top() -> None:
    """While beta is small, nats in the coarse latents are cheap and nats in the fine ones dear."""
    torch.manual_seed(0)
    model, (images, condition) = HierarchicalVAE(3, **LADDER), batch()

    def cost(rung: int) -> float:
        bounds = []
        for offset in (0.0, 2.0):
            rungs = [r for stage in reversed(model.stages) for r in stage.rungs if hasattr(r, "posterior")]
            for i, each in enumerate(rungs):
                each.posterior.leave.bias.data[:3] = offset * (i == rung)
                each.to_image.weight.data.zero_()
            torch.manual_seed(0)
            bounds.append(float(model.bound(images, condition, 0.1)[0]) * images[0].numel())
        return bounds[1] - bounds[0]

    assert cost(0) == pytest.approx(0.1 * 0.5 * 3 * 2**2, rel=0.3)  # 3 numbers, their mean moved from about 0 to 2
    assert cost(3) == pytest.approx(10 * 0.5 * 3 * 64 * 2**2, rel=0.3)  # 3 numbers at each of 64 places


@torch.no_grad()
def test_a_ladder_of_one_stage_warms_up_as_the_conditional_vae_does() -> None:
    torch.manual_seed(0)
    model, (images, condition) = HierarchicalVAE(3, stages=((4, 16, 1, 2),)), batch()
    model.stages[0].rungs[0].posterior.leave.bias.data[:2] = 2.0
    bounds = []
    for beta in (1.0, 0.5):
        torch.manual_seed(1)
        bounds.append(float(model.bound(images, condition, beta)[0]))
    assert bounds[1] < bounds[0]  # the divergence counts less


@torch.no_grad()
def test_free_bits_are_a_floor_of_each_layer() -> None:
    torch.manual_seed(0)
    images, condition = batch()
    plain, free = (HierarchicalVAE(3, **LADDER, free_bits=bits) for bits in (0.0, 1e4))
    free.load_state_dict(plain.state_dict())
    torch.manual_seed(1)
    least = float(plain.bound(images, condition)[0])
    torch.manual_seed(1)
    most = float(free.bound(images, condition)[0])
    assert most - least == pytest.approx(len(plain.noise_shapes((16, 16))) * 1e4 / 256, rel=0.05)


@torch.no_grad()
def test_a_stage_s_divergence_counts_by_its_weight() -> None:
    torch.manual_seed(0)
    images, condition = batch()
    weights = {name: [float(name == stage) for stage in range(4)] for name in range(4)} | {
        "all": [1.0] * 4,
        "none": [0.0] * 4,
    }
    bounds = {}
    plain = HierarchicalVAE(3, **LADDER)
    for name, each in weights.items():
        model = plain.reweighted(each)
        torch.manual_seed(1)
        bounds[name] = float(model.bound(images, condition)[0])
    spent = {name: bound - bounds["none"] for name, bound in bounds.items()}
    assert spent[2] == 0  # this stage has no latent
    assert all(spent[stage] > 0 for stage in (0, 1, 3))
    assert sum(spent[stage] for stage in range(4)) == pytest.approx(spent["all"], rel=1e-3)


@pytest.mark.parametrize("prior", ["exogenous", "mediator"])
def test_detail_reaches_the_finest_latents_and_the_pixels_only(prior: str) -> None:
    torch.manual_seed(0)
    images, condition = batch()
    model = HierarchicalVAE(3, **LADDER, prior=prior)
    before = model.abduct(images, condition)
    for parameter in model.detail().values():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    after = model.abduct(images, condition)
    finest = model.noise_shapes((16, 16))[-1]
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [z.shape[1:] != finest for z in before]


@torch.no_grad()
def test_the_scale_of_a_latent_s_prior_is_bounded() -> None:
    torch.manual_seed(0)
    _, condition = batch()
    model = HierarchicalVAE(3, **LADDER)
    scales: list[float] = []

    def seen(location: torch.Tensor, scale: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        scales.append(float(scale.max()))
        return location + scale * mean

    for stage in model.stages:
        for rung in stage.rungs:
            if hasattr(rung, "latent"):
                rung.prior.leave.bias.data[rung.latent : 2 * rung.latent] = 50.0
    model._descend(condition, (16, 16), seen)
    assert scales == pytest.approx([math.exp(MOST_LOG_SCALE)] * len(model.noise_shapes((16, 16))))


def test_one_latent_map_has_no_detail() -> None:
    assert ConditionalVAE(3).detail() == {}


@torch.no_grad()
def test_a_latent_vector_is_for_images_of_one_size() -> None:
    model = ConditionalVAE(3, width=16, latent=5, size=(20, 24))
    images, condition = torch.rand(2, 1, 20, 24), torch.randn(2, 3)
    assert model.noise_shapes((20, 24)) == [(5, 1, 1)]
    location, _ = model.decode(model.abduct(images, condition), condition, (20, 24))
    assert location.shape == images.shape
    with pytest.raises(ValueError, match=r"\(16, 16\) pixels, this model's of \(20, 24\); leave size out"):
        model.bound(torch.rand(2, 1, 16, 16), condition)


@torch.no_grad()
def test_a_latent_vector_s_condition_may_redraw_every_place_by_itself() -> None:
    torch.manual_seed(0)
    model = ConditionalVAE(3, width=16, latent=5, size=(32, 32))
    coarse = model.expand(torch.cat([torch.zeros(2, 5), torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])], 1))
    change = coarse[1] - coarse[0]
    assert not torch.allclose(change, change[:, :1, :1].expand_as(change))


@torch.no_grad()
def test_a_single_position_spreads_into_places_of_its_own() -> None:
    torch.manual_seed(0)
    stages = ((4, 16, 1, 0), (16, 16, 1, 3))
    for upsampling, alike in (("repeated", True), ("learnt", False)):
        stage = HierarchicalVAE(3, stages, upsampling=upsampling).stages[0]
        finer = stage._finer(torch.randn(2, 16, 1, 1), stage.spread_image)
        assert finer.shape == (2, 16, 4, 4)
        assert torch.equal(finer, finer[..., :1, :1].expand_as(finer)) == alike


def test_settings_name_only_what_was_chosen_so_that_old_fingerprints_stay() -> None:
    assert not {"divergence_weights", "upsampling"} & set(HierarchicalVAE(3, **LADDER).settings)
    assert "size" not in ConditionalVAE(3).settings
    vector = ConditionalVAE(3, size=(32, 32))
    ConditionalVAE(**vector.settings).load_state_dict(vector.state_dict())
    chosen = {"divergence_weights": [0.5, 1.0, 1.0, 0.2], "upsampling": "learnt"}
    model = HierarchicalVAE(3, **LADDER, **chosen)
    assert chosen.items() <= model.settings.items()
    HierarchicalVAE(**model.settings).load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": "both"}, "prior is 'both'; choose"),
        ({"likelihood": "poisson"}, "likelihood is 'poisson'; choose from"),
        ({"stages": ((2, 16, 1, 2), (5, 16, 1, 2))}, r"reductions \[2, 5\]; give each as a multiple"),
        ({"stages": ((2, 16, 1, 0),)}, "No stage has a latent"),
        ({"upsampling": "sharp"}, "upsampling is 'sharp'; choose"),
        ({"divergence_weights": [1.0]}, "1 divergence_weights for 4 stages; give one a stage"),
    ],
)
def test_errors_name_the_offence_and_the_mend(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HierarchicalVAE(3, **arguments)
    with pytest.raises(ValueError, match="likelihood is 'poisson'"):
        ConditionalVAE(3, likelihood="poisson")
