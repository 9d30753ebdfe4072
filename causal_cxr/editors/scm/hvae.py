"""``HierarchicalVAE``: the image mechanism of a deep SCM as a ladder of latents (De Sousa Ribeiro et al., ICML 2023).

Every latent z is a mechanism of its own, z = location + scale * noise, with location and scale from the latents above
it; the noise, standard normal, is what abduction infers. Two variants:

- ``exogenous``: location and scale do not see the attributes, so that z is part of the image's exogenous noise and all
  that an attribute does to the image goes through the decoder;
- ``mediator``: they do, so that z lies on a path from the attributes to the image: replaying the noise gives the total
  effect, holding z the direct one.
"""

import math
from collections.abc import Callable, Sequence
from itertools import count, pairwise
from typing import Any, Literal, cast

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.nn import functional as F

from causal_cxr.editors.scm.image_model import Bound, ImageModel, divergence, in_full, padded, placed
from causal_cxr.editors.scm.likelihood import LIKELIHOODS, pixel_distribution

EMBEDDED = 64  #: numbers that the attributes become before they reach the blocks
LEAST_STD = 1e-3  #: of the noise's posterior
FIRST_LOG_SCALE = -2.0  #: of a pixel, where a fit begins
SOFTPLUS_OF_ONE = math.log(math.e - 1)  #: so that a posterior begins as wide as the prior
#: (location and scale of z's prior, mean and deviation of its noise's posterior) -> z
Choose = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Upsampling = Literal["repeated", "learnt"]
MOST_LOG_SCALE = 3.0  #: of a latent's prior: where an edit asks for what was never seen, a scale may grow without bound
#: reduction of the sides, channels, rungs, channels of each rung's latent: finest first
STAGES = ((2, 32, 2, 4), (4, 64, 2, 0), (8, 96, 2, 0), (32, 128, 2, 32))


class _Block(nn.Module):
    """1 x 1, two 3 x 3 and 1 x 1 convolutions; the attributes scale and shift the channels within."""

    def __init__(self, into: int, out: int, inner: int, *, attributes: bool, weight: float) -> None:
        super().__init__()
        self.enter = nn.Conv2d(into, inner, 1)
        self.first = nn.Conv2d(inner, inner, 3, padding=1)
        self.second = nn.Conv2d(inner, inner, 3, padding=1)
        self.leave = _scaled(nn.Conv2d(inner, out, 1), weight)
        self.film = nn.Linear(EMBEDDED, 2 * inner) if attributes else None

    def forward(self, x: Tensor, embedded: Tensor | None = None) -> Tensor:
        x = self.first(F.silu(self.enter(F.silu(x))))
        if self.film is not None and embedded is not None:
            scale, shift = self.film(embedded)[:, :, None, None].chunk(2, dim=1)
            x = x * (1 + scale) + shift
        return self.leave(F.silu(self.second(F.silu(x))))


class _LatentRung(nn.Module):
    """One rung with a latent: the prior's location and scale, the noise's posterior, what z does to the two streams."""

    def __init__(self, width: int, latent: int, *, own_prior: bool, last: bool, weight: float) -> None:
        super().__init__()
        inner = max(width // 2, 8)
        self.latent = latent
        self.prior = _Block(width, 2 * latent + width, inner, attributes=not own_prior, weight=0.0)
        self.posterior = _Block(2 * width, 2 * latent, inner, attributes=True, weight=0.1)
        self.to_prior = _scaled(nn.Conv2d(latent, width, 1), weight) if own_prior and not last else None
        self.to_image = _scaled(nn.Conv2d(latent, width, 1), weight)
        self.refine = _Block(width, width, inner, attributes=True, weight=weight)

    def forward(
        self, prior: Tensor, image: Tensor, embedded: Tensor, seen: Tensor | None, choose: Choose
    ) -> tuple[Tensor, Tensor]:
        """The two streams after this rung; ``choose`` gives z."""
        whole = self.to_image.weight.dtype  # autocast halves the streams' precision, not that of the distributions
        said = self.prior(prior, embedded)
        location, log_scale, features = said.tensor_split((self.latent, 2 * self.latent), dim=1)
        location, log_scale = location.to(whole), log_scale.to(whole)
        if seen is None:
            mean, std = torch.zeros_like(location), torch.ones_like(location)
        else:
            mean, raw = self.posterior(torch.cat([image, seen], 1), embedded).to(whole).chunk(2, dim=1)
            std = F.softplus(raw + SOFTPLUS_OF_ONE) + LEAST_STD
        z = choose(location, log_scale.clamp(max=MOST_LOG_SCALE).exp(), mean, std)
        if self.to_prior is not None:
            prior = prior + features + self.to_prior(z)
        image = image + features + self.to_image(z)
        return prior, image + self.refine(image, embedded)


class _PlainRung(nn.Module):
    """A rung without a latent."""

    def __init__(self, width: int, *, own_prior: bool, weight: float) -> None:
        super().__init__()
        inner = max(width // 2, 8)
        self.prior = _Block(width, width, inner, attributes=False, weight=weight) if own_prior else None
        self.refine = _Block(width, width, inner, attributes=True, weight=weight)

    def forward(
        self, prior: Tensor, image: Tensor, embedded: Tensor, seen: Tensor | None, choose: Choose
    ) -> tuple[Tensor, Tensor]:
        prior = prior if self.prior is None else prior + self.prior(prior)
        return prior, image + self.refine(image, embedded)


class _Stage(nn.Module):
    """What happens at one resolution: on the way up to the coarsest, then down the ladder.

    Args:
        width: channels.
        rungs: how many.
        latent: channels of each rung's latent; 0 for none.
        finer: channels and ratio to the next finer stage, ``None`` for the finest.
        coarser: channels of the next coarser stage and its ratio to this one, ``None`` for the coarsest.
        upsampling: of what comes from it, see :class:`HierarchicalVAE`.
        own_prior: the prior has a stream of its own, which the attributes do not reach.
        last: no latent is finer than this stage's.
    """

    def __init__(
        self,
        width: int,
        rungs: int,
        latent: int,
        *,
        finer: tuple[int, int] | None,
        coarser: tuple[int, int] | None,
        upsampling: Upsampling,
        own_prior: bool,
        last: bool,
        weight: float,
    ) -> None:
        super().__init__()
        self.down = None if finer is None else nn.Conv2d(finer[0], width, finer[1], stride=finer[1])
        self.encoding = nn.ModuleList(
            _Block(width, width, max(width // 2, 8), attributes=False, weight=weight) for _ in range((rungs + 1) // 2)
        )
        above, self.ratio = coarser or (0, 1)
        self.image = nn.Conv2d(above + 2, width, 1)
        own_prior = own_prior and bool(latent or not last)
        self.prior = nn.Conv2d(above + 2, width, 1) if own_prior else None
        learnt = upsampling == "learnt" and above > 0
        self.spread_image = nn.Conv2d(above, above * self.ratio**2, 1) if learnt else None
        self.spread_prior = nn.Conv2d(above, above * self.ratio**2, 1) if learnt and own_prior else None
        self.rungs = nn.ModuleList(
            _LatentRung(width, latent, own_prior=own_prior, last=last and i == rungs - 1, weight=weight)
            if latent
            else _PlainRung(width, own_prior=own_prior, weight=weight)
            for i in range(rungs)
        )

    def encode(self, x: Tensor) -> Tensor:
        x = x if self.down is None else self.down(x)
        for block in self.encoding:
            x = x + block(x)
        return x

    def descend(
        self, prior: Tensor, image: Tensor, embedded: Tensor, seen: Tensor | None, choose: Choose
    ) -> tuple[Tensor, Tensor]:
        image = self.image(placed(self._finer(image, self.spread_image)))
        prior = image if self.prior is None else self.prior(placed(self._finer(prior, self.spread_prior)))
        for rung in self.rungs:
            prior, image = rung(image if self.prior is None else prior, image, embedded, seen, choose)
        return prior, image

    def _finer(self, x: Tensor, spread: nn.Conv2d | None) -> Tensor:
        """The coarser stage's stream at this stage's resolution; the coarsest stage's has no channels yet."""
        if self.ratio == 1:
            return x
        return F.interpolate(x, scale_factor=self.ratio) if spread is None else F.pixel_shuffle(spread(x), self.ratio)


def _scaled(convolution: nn.Conv2d, weight: float) -> nn.Conv2d:
    """A convolution that begins small, so that the deep ladder begins near the identity."""
    for parameter in convolution.parameters():
        parameter.data.mul_(weight)
    return convolution


class HierarchicalVAE(ImageModel):
    """p(image | attributes, noise), with the posterior of the noise given image and attributes.

    Images of any size go through: sides that are no multiples of the coarsest reduction are padded by their border and
    cropped again.

    Args:
        n_conditions: numbers that describe the attributes of an image.
        stages: ``(reduction, channels, rungs, latent)``, finest first, each reduction a multiple of the one before. The
            first is lossless: its blocks of pixels become channels. ``latent`` is the channels of each rung's latent;
            0 for rungs without. A latent map knows one place a position: let the coarsest have a single position and
            leave the middle without latents where an attribute changes the shape as a whole.
        prior: ``"exogenous"`` or ``"mediator"``, see the module.
        likelihood: of a pixel, ``"discretised_gaussian"`` or ``"discretised_logistic"``; its scale is learnt, pixel by
            pixel.
        free_bits: nats a layer and image under which its divergence is not reduced further (Kingma et al., NeurIPS
            2016); keeps layers in use.
        divergence_weights: of each stage's divergence in :meth:`bound`, finest first; ``None`` for 1. Less than 1 at the
            coarsest draws shapes into its latents, less than 1 at the finest draws into its latents what pixel noise
            would hold otherwise. With others than 1 the bound is a weighted one, not one of the evidence.
        upsampling: from a stage to the next finer one: ``"repeated"``, each position's channels all over its block, or
            ``"learnt"``, a linear map of them for each place within the block: from a single position, a dense layer.

    Raises:
        ValueError: reductions that do not divide one another, no latent at all, weights that are not one a stage, or an
            unknown prior, likelihood or upsampling.
    """

    def __init__(
        self,
        n_conditions: int,
        stages: Sequence[Sequence[int]] = STAGES,
        prior: Literal["exogenous", "mediator"] = "exogenous",
        likelihood: str = "discretised_gaussian",
        free_bits: float = 0.0,
        divergence_weights: Sequence[float] | None = None,
        upsampling: Upsampling = "repeated",
    ) -> None:
        super().__init__()
        if prior not in ("exogenous", "mediator"):
            raise ValueError(f"prior is {prior!r}; choose 'exogenous' or 'mediator'.")
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood is {likelihood!r}; choose from {list(LIKELIHOODS)}.")
        if upsampling not in ("repeated", "learnt"):
            raise ValueError(f"upsampling is {upsampling!r}; choose 'repeated' or 'learnt'.")
        if not stages or any(b[0] % a[0] or b[0] <= a[0] for a, b in pairwise(stages)):
            raise ValueError(
                f"stages have reductions {[stage[0] for stage in stages]}; give each as a multiple of the one before."
            )
        if not any(latent for _, _, _, latent in stages):
            raise ValueError("No stage has a latent; give one of them latent channels.")
        if divergence_weights is not None and len(divergence_weights) != len(stages):
            raise ValueError(
                f"{len(divergence_weights)} divergence_weights for {len(stages)} stages; give one a stage."
            )
        self.settings: dict[str, Any] = {
            "n_conditions": n_conditions,
            "stages": [list(stage) for stage in stages],
            "prior": prior,
            "likelihood": likelihood,
            "free_bits": free_bits,
        }
        # Fingerprints see the settings: those of editors fitted before there was a choice stay as they are.
        if divergence_weights is not None:
            self.settings["divergence_weights"] = list(divergence_weights)
        if upsampling != "repeated":
            self.settings["upsampling"] = upsampling
        self.mediator = prior == "mediator"
        reductions, widths, rungs, latents = zip(*stages, strict=True)
        self.stem, self.coarsest = reductions[0], reductions[-1]
        ratios = [coarse // fine for fine, coarse in pairwise(reductions)]
        self.finest = min(i for i, channels in enumerate(latents) if channels)
        weight = sum(rungs) ** -0.5
        self.embed = nn.Sequential(
            nn.Linear(n_conditions, EMBEDDED), nn.SiLU(), nn.Linear(EMBEDDED, EMBEDDED), nn.SiLU()
        )
        self.enter = nn.Conv2d(self.stem**2 + 2, widths[0], 3, padding=1)
        self.stages = nn.ModuleList(
            _Stage(
                widths[i],
                rungs[i],
                latents[i],
                finer=(widths[i - 1], ratios[i - 1]) if i else None,
                coarser=(widths[i + 1], ratios[i]) if i + 1 < len(widths) else None,
                upsampling=upsampling,
                own_prior=not self.mediator,
                last=i <= self.finest,
                weight=weight,
            )
            for i in range(len(widths))
        )
        share = [i / (len(widths) - 1) for i in range(len(widths))] if len(widths) > 1 else [1.0]
        weights = divergence_weights or [1.0] * len(widths)
        self._counted = [  # of each latent, coarsest first: its coarseness, 1 to 0, and its divergence's weight
            (share[i], weights[i]) for i in reversed(range(len(widths))) if latents[i] for _ in range(rungs[i])
        ]
        self.leave = _scaled(nn.Conv2d(widths[0], 2 * self.stem**2, 3, padding=1), 0.1)

    def reweighted(self, divergence_weights: Sequence[float] | None) -> "HierarchicalVAE":
        """A copy with other ``divergence_weights``: what it was fitted under may change between fits."""
        copy = HierarchicalVAE(**self.settings | {"divergence_weights": divergence_weights})
        copy.load_state_dict(self.state_dict())
        return copy.to(next(self.parameters()).device)

    def detail(self) -> dict[str, nn.Parameter]:
        """See :meth:`ImageModel.detail`: the way down from where the finest latents begin, to the pixels."""
        begin = tuple(
            f"stages.{i}.{part}."
            for i in range(self.finest + 1)
            for part in ("image", "prior", "spread_image", "spread_prior", "rungs")
        )
        return {name: p for name, p in self.named_parameters() if name.startswith((*begin, "leave."))}

    def noise_shapes(self, shape: tuple[int, int]) -> list[tuple[int, ...]]:
        """See :meth:`ImageModel.noise_shapes`."""
        coarse = [-(-side // self.coarsest) for side in shape]
        return [
            (latent, *(side * (self.coarsest // reduction) for side in coarse))
            for reduction, _, rungs, latent in reversed(self.settings["stages"])
            if latent
            for _ in range(rungs)
        ]

    def abduct(
        self, images: Tensor, condition: Tensor, *, standard: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """See :meth:`ImageModel.abduct`."""
        noise: list[Tensor] = []

        def infer(location: Tensor, scale: Tensor, mean: Tensor, std: Tensor) -> Tensor:
            noise.append(mean if standard is None else mean + std * standard[len(noise)])
            return location + scale * noise[-1]

        self._descend(condition, _sides(images), infer, self._encode(images))
        return tuple(noise)

    def decode(
        self, noise: Sequence[Tensor], condition: Tensor, shape: tuple[int, int], *, mediator: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`ImageModel.decode`."""
        if not self.mediator or mediator is None:
            return self._pixels(self._descend(condition, shape, _replayed(noise)), shape)
        held: list[Tensor] = []

        def keep(location: Tensor, scale: Tensor, mean: Tensor, std: Tensor) -> Tensor:
            held.append(location + scale * noise[len(held)])
            return held[-1]

        self._descend(mediator, shape, keep)
        fixed = iter(held)
        return self._pixels(self._descend(condition, shape, lambda *_: next(fixed)), shape)

    def bound(self, images: Tensor, condition: Tensor, beta: float = 1.0) -> Bound:
        """See :meth:`ImageModel.bound`; a layer's divergence counts at least as its free bits, times its stage's weight.

        While ``beta`` is under 1 the coarsest latents' divergence is weighted by it and the finest ones' by its inverse,
        those between geometrically, so that the ladder fills from the top. Filled from the bottom, shapes lie in fine
        latents, each knowing a few pixels, and no attribute can change one as a whole.
        """
        spent, noise, counted = images.new_zeros(()), list[Tensor](), iter(self._counted)

        def infer(location: Tensor, scale: Tensor, mean: Tensor, std: Tensor) -> Tensor:
            nonlocal spent
            nats = divergence(mean, std).mean().clamp(min=self.settings["free_bits"])
            coarseness, weight = next(counted)
            spent = spent + weight * beta ** (2 * coarseness - 1) * nats
            noise.append(mean + std * torch.randn_like(std))
            return location + scale * noise[-1]

        shape = _sides(images)
        image = self._descend(condition, shape, infer, self._encode(images))
        location, log_scale = self._pixels(image, shape)
        evidence = self._likelihood(location, log_scale).log_prob(images).mean()
        return Bound((spent - evidence) / (shape[0] * shape[1]), tuple(noise), location, log_scale)

    def model(self, images: Tensor, condition: Tensor) -> None:
        """The Pyro program: sites ``noise_0`` (coarsest) to ``noise_k``, and ``image``."""
        numbers, shape = count(), _sides(images)

        def prior(location: Tensor, scale: Tensor, mean: Tensor, std: Tensor) -> Tensor:
            standard = dist.Normal(torch.zeros_like(mean), torch.ones_like(std)).to_event(3)
            return location + scale * pyro.sample(f"noise_{next(numbers)}", standard)

        with pyro.plate("images", len(images)):
            image = self._descend(condition, shape, prior)
            pyro.sample("image", self._likelihood(*self._pixels(image, shape)), obs=images)

    def guide(self, images: Tensor, condition: Tensor) -> None:
        """The posterior of the noise, amortised, coarsest first."""
        numbers = count()

        def posterior(location: Tensor, scale: Tensor, mean: Tensor, std: Tensor) -> Tensor:
            return location + scale * pyro.sample(f"noise_{next(numbers)}", dist.Normal(mean, std).to_event(3))

        with pyro.plate("images", len(images)):
            self._descend(condition, _sides(images), posterior, self._encode(images))

    def _likelihood(self, location: Tensor, log_scale: Tensor) -> Any:
        return pixel_distribution(self.settings["likelihood"], location, log_scale)

    def _encode(self, images: Tensor) -> list[Tensor]:
        """What each stage's posteriors see of the image, finest first."""
        x = self.enter(placed(F.pixel_unshuffle(padded(images - 0.5, self.coarsest), self.stem)))
        seen = []
        for stage in self.stages:
            x = cast(_Stage, stage).encode(x)
            seen.append(x)
        return seen

    def _descend(
        self, condition: Tensor, shape: tuple[int, int], choose: Choose, seen: Sequence[Tensor | None] | None = None
    ) -> Tensor:
        """Walk the ladder down.

        Args:
            condition: ``(n, n_conditions)``.
            shape: of the image.
            choose: gives each layer's z from location and scale of its prior, and mean and deviation of its noise.
            seen: of the image, stage by stage; without it mean and deviation are those of the prior, 0 and 1.

        Returns:
            ``(n, channels, h / reduction, w / reduction)``, the finest stage's image stream.
        """
        embedded = self.embed(condition)
        prior = image = condition.new_zeros(len(condition), 0, *(-(-side // self.coarsest) for side in shape))
        for i in reversed(range(len(self.stages))):
            stage = cast(_Stage, self.stages[i])
            prior, image = stage.descend(prior, image, embedded, seen[i] if seen else None, choose)
        return image

    def _pixels(self, image: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        location, log_scale = in_full(self.leave, F.silu(image)).chunk(2, dim=1)
        location = F.pixel_shuffle(location, self.stem)[..., : shape[0], : shape[1]] + 0.5
        return location, F.pixel_shuffle(log_scale, self.stem)[..., : shape[0], : shape[1]] + FIRST_LOG_SCALE


def _sides(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _replayed(noise: Sequence[Tensor]) -> Choose:
    given = iter(noise)
    return lambda location, scale, mean, std: location + scale * next(given)
