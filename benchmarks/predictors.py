"""Predictors of Morpho-MNIST's attributes, fitted on real images: they read back what a counterfactual was to show.

Two families that share neither architecture nor seed: ``scoring`` alone scores, ``training`` alone fine-tunes.
"""

import copy
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from morphomnist import GRAPH
from platformdirs import user_cache_path
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Normal
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from causal_cxr.data.whole_file import whole_file
from causal_cxr.graphs import Continuous

GIVEN = "thickness_given_intensity"  #: the published thickness predictor: it is told the intended intensity
VERSION = 1  #: of architectures and fit; a new number fits anew
SHIFT = 2  #: pixels, of the augmentation
TURN, SHEAR, ZOOM = 0.2, 0.15, 0.1  #: of the digit's augmentation: radians, slope, share
RANKS = 256  #: pixels that the scoring predictor of intensity looks at
CUTS, SOFT = tuple(i / 24 for i in range(1, 30)), 0.03  #: of the training one's histogram, in units of the level
BRIGHTEST = 24  #: pixels whose mean is an image's level
BATCH, RATE, DECAY, EMA = 64, 4e-3, 1e-2, 0.99
EPOCHS: Mapping[str, int] = {"thickness": 10, "intensity": 24, "digit": 14, GIVEN: 10}

Family = Literal["scoring", "training"]
Trunk = Callable[[], tuple[nn.Module, int]]


class Predictor(nn.Module):
    """What an image says about one attribute.

    ``digit`` and ``thickness`` are read from the image divided by its level (mean of its brightest pixels), so that
    brightness cannot stand in for them; ``intensity`` is the level times what the shape says it must be multiplied by.
    With ``given_intensity`` the image is taken as it is, beside the intended intensity, as in the published benchmark.

    Args:
        attribute: ``thickness``, ``intensity`` or ``digit``.
        given_intensity: whether :meth:`forward` is told the intended intensity.
        trunk: ``(n, 1, 32, 32)`` to ``(n, features)``.
        features: numbers that the trunk gives.
        centre: mean of the attribute in the fit; not used for ``digit``.
        spread: its standard deviation.
    """

    def __init__(
        self,
        attribute: str,
        given_intensity: bool,
        trunk: nn.Module,
        features: int,
        *,
        centre: float = 0.0,
        spread: float = 1.0,
    ) -> None:
        super().__init__()
        self.attribute, self.given_intensity = attribute, given_intensity
        outputs = 1 if isinstance(GRAPH.attributes[attribute], Continuous) else len(GRAPH.attributes[attribute].levels)
        self.trunk = trunk
        self.head = nn.Linear(features + given_intensity, outputs)
        self.register_buffer("centre", torch.tensor(centre))
        self.register_buffer("spread", torch.tensor(spread))
        self.register_buffer("scale", torch.tensor(spread))  # of the errors; until it is known, that of the attribute

    def features(self, images: Tensor) -> Tensor:
        """``(n, features)``, the layer before the last."""
        return self.trunk(images if self.given_intensity else images / _level(images))

    def forward(self, images: Tensor, intensity: Tensor | None = None) -> Distribution:
        """The attribute's distribution, batch shape ``(n,)``, in its own units (levels' codes for ``digit``).

        Args:
            images: ``(n, 1, 32, 32)`` in [0, 1].
            intensity: ``(n,)`` intended grey levels; read only with ``given_intensity``.

        Raises:
            ValueError: the intended intensity is needed and not given.
        """
        features = self.features(images)
        if self.given_intensity:
            if intensity is None:
                raise ValueError("This predictor is told the intended intensity; pass intensity=(n,) grey levels.")
            features = torch.cat([features, (intensity[:, None].to(features) - 159.5) / 95.5], dim=1)
        output = self.head(features)
        if self.attribute == "digit":
            return Categorical(logits=output)
        if self.attribute == "intensity":
            mean = 255 * _level(images).flatten() * (1 + 0.1 * output[:, 0])
        else:
            mean = self.centre + self.spread * output[:, 0]
        return Normal(mean, self.scale.expand_as(mean))


class Ensemble(nn.Module):
    """Several predictors of one attribute as one distribution: mean probabilities, or the mixture's mean and variance.

    Args:
        members: predictors of the same attribute.
    """

    def __init__(self, members: list[Predictor]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Distribution:
        """The attribute's distribution, batch shape ``(n,)``; see :meth:`Predictor.forward`."""
        said = [member(images) for member in self.members]
        if isinstance(said[0], Categorical):
            return Categorical(probs=torch.stack([one.probs for one in said]).mean(0))
        means, variances = torch.stack([one.mean for one in said]), torch.stack([one.variance for one in said])
        return Normal(means.mean(0), (variances.mean(0) + means.var(0, correction=0)).sqrt())


def _level(images: Tensor) -> Tensor:
    """``(n, 1, 1, 1)``, mean of the brightest pixels, never 0."""
    return images.flatten(1).topk(BRIGHTEST)[0].mean(1).clamp_min(0.02)[:, None, None, None]


def _layer(a: int, b: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU()]


def _pooled(width: int = 24) -> tuple[nn.Module, int]:
    """Large kernel first, maxima between the layers, a dense layer at the end."""
    layers = [*_layer(1, width, 5, 2), *_layer(width, 2 * width), nn.MaxPool2d(2), *_layer(2 * width, 3 * width)]
    layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3 * width * 16, 96), nn.BatchNorm1d(96), nn.ReLU()]
    return nn.Sequential(*layers), 96


def _strided(width: int) -> tuple[nn.Module, int]:
    """Blocks of 2 x 2 pixels as channels, strides between the layers, means over places at the end."""
    layers = [nn.PixelUnshuffle(2), *_layer(4, width), *_layer(width, 2 * width, 3, 2), *_layer(2 * width, 2 * width)]
    layers += [*_layer(2 * width, 3 * width, 3, 2), nn.AvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers), 12 * width


class _Ranked(nn.Module):
    """``(n, 1, h, w)`` to its brightest pixels in order, ``(n, RANKS)``."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).topk(RANKS)[0]


class _Histogram(nn.Module):
    """``(n, 1, h, w)`` to the share of its pixels above each of ``len(CUTS)`` cuts, with soft edges."""

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)[:, :, None]
        return 4 * torch.sigmoid((pixels - torch.tensor(CUTS, device=images.device)) / SOFT).mean(1)


def _grey(first: nn.Module, features: int) -> tuple[nn.Module, int]:
    """Dense layers on what the grey levels are, wherever they lie."""
    return nn.Sequential(first, nn.Linear(features, 128), nn.SiLU(), nn.Linear(128, 64), nn.SiLU()), 64


def _ranked() -> tuple[nn.Module, int]:
    return _grey(_Ranked(), RANKS)


def _histogram() -> tuple[nn.Module, int]:
    return _grey(_Histogram(), len(CUTS))


TRUNKS: Mapping[Family, Mapping[str, tuple[Trunk, ...]]] = {  #: one a member
    "scoring": {"thickness": (_pooled,), "intensity": (_ranked,), "digit": (_pooled,), GIVEN: (_pooled,)},
    "training": {
        "thickness": (partial(_strided, 16), partial(_strided, 24)),
        "intensity": (_histogram, _histogram),
        "digit": (partial(_strided, 16), partial(_strided, 24)),
    },
}
SEEDS: Mapping[Family, int] = {"scoring": 100, "training": 200}


def fit_predictor(
    attribute: str,
    given_intensity: bool,
    images: Tensor,
    table: pd.DataFrame,
    trunk: Trunk,
    *,
    seed: int,
    epochs: int,
) -> Predictor:
    """Maximum likelihood on shifted images (turned, sheared and zoomed as well for ``digit``); deterministic for a seed.

    The scale of a continuous attribute is one number, its root mean square error on the shifted images.

    Args:
        attribute: ``thickness``, ``intensity`` or ``digit``.
        given_intensity: see :class:`Predictor`.
        images: ``(n, 1, 32, 32)`` in [0, 1].
        table: ``n`` rows, typed by :data:`morphomnist.GRAPH`.
        trunk: gives a new trunk and how many features it has.
        seed: of weights, batches and augmentation.
        epochs: passes over the images.

    Raises:
        ValueError: less than four batches in all.
    """
    steps = epochs * (len(images) // BATCH)
    if steps < 4:
        raise ValueError(f"Cannot fit a predictor in {steps} steps of {BATCH} images; give more images or epochs.")
    target = torch.tensor(GRAPH.attributes[attribute].encode(table[attribute]), dtype=torch.float32)
    intensity = torch.tensor(table["intensity"].to_numpy(), dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Predictor(attribute, given_intensity, *trunk(), centre=float(target.mean()), spread=float(target.std()))
        # A short fit must forget where it began, normalisation statistics too.
        kept = min(EMA, 1 - min(1.0, 10 / steps))
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(kept), use_buffers=True)
        optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
        warm_up = min(0.5, max(0.1, 2 / steps))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=warm_up)
        for _ in range(epochs):
            for chosen in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
                seen = _bent(images[chosen]) if attribute == "digit" else _shifted(images[chosen])
                loss = -model(seen, intensity[chosen]).log_prob(target[chosen]).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                average.update_parameters(model)
        fitted = copy.deepcopy(average.module).eval().requires_grad_(False)
        if attribute != "digit":
            batches = torch.arange(len(images)).split(512)
            errors = [fitted(_shifted(images[i]), intensity[i]).mean - target[i] for i in batches]
            fitted.scale = torch.cat(errors).square().mean().sqrt()
    return fitted


def _shifted(images: Tensor) -> Tensor:
    """Each image moved by up to ``SHIFT`` pixels in both directions."""
    n, _, h, w = images.shape
    padded = F.pad(images[:, 0], (SHIFT,) * 4)
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, n, 1, 1))
    rows, columns = down + torch.arange(h)[:, None], right + torch.arange(w)
    return padded[torch.arange(n)[:, None, None], rows, columns][:, None]


def _bent(images: Tensor) -> Tensor:
    """Each image turned, sheared, zoomed and moved a little."""
    n = len(images)
    turn, shear, across, down = (2 * torch.rand(4, n) - 1) * torch.tensor([TURN, SHEAR, ZOOM, ZOOM])[:, None]
    move = (2 * torch.rand(n, 2, 1) - 1) * 2 * SHIFT / images.shape[-1]
    turned = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], dim=1).view(n, 2, 2)
    sheared = torch.stack([1 + across, shear, torch.zeros(n), 1 + down], dim=1).view(n, 2, 2)
    grid = F.affine_grid(torch.cat([turned @ sheared, move], dim=2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def fit_family(
    family: Family, images: Tensor, table: pd.DataFrame, *, epochs: Mapping[str, int] = EPOCHS
) -> dict[str, nn.Module]:
    """All predictors of a family; see :func:`fit_predictor`.

    Returns:
        attribute -> predictor; in ``scoring`` also :data:`GIVEN`, in ``training`` two predictors an attribute, as one.
    """

    def fit(name: str, trunk: Trunk, seed: int) -> Predictor:
        return fit_predictor(*_asks(name), images, table, trunk, seed=seed, epochs=epochs[name])

    return _assembled(family, fit)


def family_of(
    family: Family,
    images: Tensor,
    table: pd.DataFrame,
    *,
    epochs: Mapping[str, int] = EPOCHS,
    cache: Path | None = None,
) -> dict[str, nn.Module]:
    """:func:`fit_family`, kept in ``cache`` (the user's, unless given) by images, table, family, epochs and version."""
    cache = user_cache_path("causal_cxr") / "predictors" if cache is None else cache
    digest = hashlib.sha256(f"{VERSION}|{family}|{sorted(epochs.items())}".encode())
    digest.update(images.numpy().tobytes())
    digest.update(pd.util.hash_pandas_object(table.astype(float), index=False).to_numpy().tobytes())
    file = cache / f"{family}-{digest.hexdigest()[:24]}.safetensors"
    if not file.exists():
        made = nn.ModuleDict(fit_family(family, images, table, epochs=epochs))
        with whole_file(file) as unfinished:
            save_file({key: value.contiguous() for key, value in made.state_dict().items()}, unfinished)
    with torch.random.fork_rng(devices=[]):  # weights are drawn before they are read
        models = nn.ModuleDict(_assembled(family, lambda name, trunk, seed: Predictor(*_asks(name), *trunk())))
    models.load_state_dict(load_file(file))
    return dict(models.eval().requires_grad_(False).items())


def _assembled(family: Family, make: Callable[[str, Trunk, int], Predictor]) -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {}
    for i, (name, trunks) in enumerate(TRUNKS[family].items()):
        members = [make(name, trunk, SEEDS[family] + 10 * i + j) for j, trunk in enumerate(trunks)]
        made[name] = members[0] if len(members) == 1 else Ensemble(members)
    return made


def _asks(name: str) -> tuple[str, bool]:
    """Which attribute a predictor of this name reads, and whether it is told the intended intensity."""
    return ("thickness", True) if name == GIVEN else (name, False)
