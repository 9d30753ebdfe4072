"""``World``: a fully known structural causal model of a collection of radiographs, read from a small file.

Truth is computed from it, never typed in: samples, counterfactuals with the noise kept, and
(:mod:`causal_cxr.data.phantom.truth`) what an audit should find.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import ValidationError
from scipy.stats import norm

from causal_cxr.data.phantom.blueprint import COIN, blueprint, drawn_value
from causal_cxr.data.phantom.mechanisms import Codes, Mechanism
from causal_cxr.data.phantom.radiograph import DRAWABLES, NUMBERS, Drawable
from causal_cxr.data.phantom.world_file import Shown, WorldFile
from causal_cxr.data.yaml_file import BadKey, explain, read_yaml
from causal_cxr.graphs import Attribute, Continuous, Value

if TYPE_CHECKING:
    from causal_cxr.data.phantom.phantom import Phantom

NAMED = Path(__file__).with_name("worlds")  #: the worlds that ship, one file each
CANDIDATES = 64  #: draws of the latent common causes from which one is picked by its likelihood
LEAST = 0.25  #: a thing that is there is drawn with at least this share of its level's value


class WorldError(ValueError):
    """The file describes no world; the message names file, line, key and mend."""


@dataclass(frozen=True)
class Sign:
    """One thing to be seen, yes or no: an attribute at a level, or above a value.

    Attributes:
        name: of the concept that reads it.
        attribute: that it is about.
        level: the score is P(attribute == level).
        above: for a continuous attribute, P(attribute > above).
    """

    name: str
    attribute: str
    level: Value | None = None
    above: float | None = None


@dataclass(frozen=True)
class WorldNoise:
    """The exogenous noise of ``n`` images: keep it, and every counterfactual is determined.

    Attributes:
        own: attribute -> standard normals, ``(n,)``, or ``(n, levels)`` for the coupling ``gumbel``.
        latent: latent common cause -> ``(n,)`` standard normal.
        fresh: as ``own``: what the coupling ``independent`` draws anew in a counterfactual; empty otherwise.
    """

    own: Mapping[str, np.ndarray]
    latent: Mapping[str, np.ndarray]
    fresh: Mapping[str, np.ndarray]

    def take(self, rows: np.ndarray) -> "WorldNoise":
        """The noise of some rows."""
        return WorldNoise(*({k: v[rows] for k, v in part.items()} for part in (self.own, self.latent, self.fresh)))


class World:
    """A structural causal model over labelled and hidden attributes, and how they show.

    Args:
        content: what a world file holds; see :class:`~causal_cxr.data.phantom.world_file.WorldFile`.

    Attributes:
        graph: the true graph, hidden attributes included, with its latent common causes and selection.
        declared: the graph that the owner of the collection would declare: over the labelled attributes alone, with what
            the hidden ones leave behind (arrows through them, common causes among them) as arrows and bidirected edges.
        shown: attribute -> how it is drawn.

    Raises:
        WorldError: the content contradicts itself; the message names the key and the mend.

    >>> world = World.load("portable")
    >>> sorted(world.graph.hidden)[:3]
    ['chest_drain', 'control_bar', 'control_dot']
    >>> dataset = world.sample(8, seed=1)
    >>> dataset.images(np.arange(8)).shape
    torch.Size([8, 1, 64, 64])
    """

    def __init__(self, content: WorldFile) -> None:
        try:
            self._build(content)
        except BadKey as problem:
            raise WorldError(f"world {content.name!r}: {'.'.join(map(str, problem.loc))}: {problem}") from None

    def _build(self, content: WorldFile) -> None:
        self.content, self.name, self.story = content, content.name, content.story
        parts = blueprint(content)
        self.mechanisms, self.shown, self._latents = parts.mechanisms, parts.shown, parts.latents
        self.graph, self.declared = parts.graph, parts.declared
        self.order = self.graph.topological_order()
        self._try_formulas()

    @classmethod
    def load(cls, name_or_file: str | Path) -> "World":
        """A named world (:meth:`names`), or one of your own: the path of a YAML file.

        Raises:
            WorldError: ``file:line: key: what is wrong and the mend``.
        """
        known = cls.names()
        file = NAMED / f"{name_or_file}.yaml" if str(name_or_file) in known else Path(name_or_file)
        if str(name_or_file) not in known and file.suffix not in (".yaml", ".yml"):
            raise WorldError(
                f"There is no world {str(name_or_file)!r}; choose from {list(known)}, or give a .yaml file."
            )
        built: list[World] = []

        def check(content: WorldFile) -> None:
            world = cls.__new__(cls)
            world._build(content)
            built.append(world)

        read_yaml(file, WorldFile, error=WorldError, check=check)
        return built[0]

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The worlds that ship."""
        return tuple(sorted(file.stem for file in NAMED.glob("*.yaml")))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "World":
        """A world from plain data, as a file holds it."""
        try:
            content = WorldFile.model_validate(data)
        except ValidationError as problem:
            told = [f"{'.'.join(map(str, place))}: {said}" for place, said in explain(problem, WorldFile, data)]
            raise WorldError("\n".join(told)) from None
        return cls(content)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that :meth:`from_dict` reads back; what is at its default is left out."""
        return self.content.model_dump(mode="python", exclude_defaults=True)

    @classmethod
    def random(cls, seed: int, **options: Any) -> "World":
        """See :func:`causal_cxr.data.phantom.random_worlds.random_world`."""
        from causal_cxr.data.phantom.random_worlds import random_world

        return random_world(seed, **options)

    def changed(self, **keys: Any) -> "World":
        """The world with some keys of its file replaced: ``world.changed(coupling="gumbel")``."""
        return World.from_dict({**self.to_dict(), **keys})

    def independent(self) -> "World":
        """The world of the same attributes in which nothing goes with anything and every level is as frequent.

        What base editors and readers are fitted on: they never see a co-occurrence.
        """

        def alone(attribute: Attribute) -> Mechanism:
            if isinstance(attribute, Continuous):
                return Mechanism.model_validate({"uniform": {}})
            return Mechanism(probability={level: 1 / len(attribute.levels) for level in attribute.levels})

        graph = {"attributes": [a.to_dict() for a in self.graph.attributes.values()]}
        changes: dict[str, Any] = {
            "name": f"{self.name}-independent", "story": "Nothing goes with anything.", "graph": graph,
            "mechanisms": {name: alone(a) for name, a in self.graph.attributes.items()}, "metadata": None,
            "confounding": [], "selection": None, "missing": {}, "label_noise": {},
            "declared": type(self.content.declared)(),
        }  # fmt: skip
        return World(self.content.model_copy(update=changes))

    def _try_formulas(self, n: int = 256) -> None:
        """Formulas are only known to be sound once they have been evaluated."""
        noise, content = self._noise(n, np.arange(n), np.random.default_rng(0)), self.content
        codes: dict[str, np.ndarray] = {}
        rules: dict[tuple[str, ...], Any] = {("missing", name): rule for name, rule in content.missing.items()}
        if content.selection is not None:
            rules["selection", "probability_of"] = content.selection.probability_of
        place: tuple[str, ...] = ()
        try:
            for name in self.order:
                place = ("mechanisms", name)
                codes[name] = self._value(name, noise.own[name], codes, noise, n)
            for at, rule in rules.items():
                place = at
                if isinstance(rule, Mechanism):
                    rule.probabilities(COIN, codes, self.graph.attributes, n)
        except ValueError as problem:
            raise BadKey(place, str(problem)) from None

    # -- noise and values ----------------------------------------------------------------------------------------------
    def _noise(self, n: int, patient: np.ndarray, rng: np.random.Generator) -> WorldNoise:
        """Noise of ``n`` images of these patients (``(n,)`` indices from 0)."""
        patients, count = self.content.patients, int(patient.max()) + 1 if n else 0

        def draw(name: str) -> np.ndarray:
            attribute = self.graph.attributes[name]
            gumbel = self.content.coupling == "gumbel" and not isinstance(attribute, Continuous)
            shape = (len(attribute.levels),) if gumbel and not isinstance(attribute, Continuous) else ()
            share = 1.0 if name in patients.same else patients.shared.get(name, 0.0)
            common, own = rng.standard_normal((count, *shape)), rng.standard_normal((n, *shape))
            return np.sqrt(share) * common[patient] + np.sqrt(1 - share) * own

        own = {name: draw(name) for name in self.order}
        latent = {name: rng.standard_normal(count)[patient] for name in self._latents}
        fresh = {name: draw(name) for name in self.order} if self.content.coupling == "independent" else {}
        return WorldNoise(own, latent, fresh)

    def evaluate(
        self, noise: WorldNoise, given: Codes | None = None, factual: Codes | None = None
    ) -> dict[str, np.ndarray]:
        """Codes of every attribute from the noise.

        Args:
            noise: of ``n`` images.
            given: attributes that are set, with their codes; what they cause follows.
            factual: the codes without ``given``: where the causes are as they were the coupling ``independent`` keeps them.
        """
        values: dict[str, np.ndarray] = {}
        n = len(next(iter(noise.own.values())))
        fixed = given or {}
        for name in self.order:
            values[name] = fixed[name] if name in fixed else self._value(name, noise.own[name], values, noise, n)
            if name in fixed or factual is None or self.content.coupling != "independent":
                continue
            changed = ~self._as_it_was(name, values, factual, noise, n)
            drawn_anew = self._value(name, noise.fresh[name], values, noise, n)
            values[name] = np.where(changed, drawn_anew, factual[name])
        return values

    def _value(self, name: str, noise: np.ndarray, codes: Codes, all_noise: WorldNoise, n: int) -> np.ndarray:
        attribute, mechanism = self.graph.attributes[name], self.mechanisms[name]
        if isinstance(attribute, Continuous):
            return mechanism.number(attribute, codes, self.graph.attributes, noise, self._latent(name, all_noise))
        p = self._probabilities(name, codes, all_noise, n)
        if noise.ndim == 2:
            with np.errstate(divide="ignore"):
                return (np.log(p) - np.log(-norm.logcdf(noise))).argmax(1).astype(float)
        return (norm.cdf(noise)[:, None] < _at_least(p)).sum(1).astype(float)

    def _probabilities(self, name: str, codes: Codes, noise: WorldNoise, n: int) -> np.ndarray:
        return self.mechanisms[name].probabilities(
            self.graph.attributes[name], codes, self.graph.attributes, n, self._latent(name, noise)
        )

    def _latent(self, name: str, noise: WorldNoise) -> np.ndarray | float:
        parts = [weights[name] * noise.latent[latent] for latent, weights in self._latents.items() if name in weights]
        return sum(parts) if parts else 0.0

    def _as_it_was(self, name: str, codes: Codes, factual: Codes, noise: WorldNoise, n: int) -> np.ndarray:
        same = np.ones(n, dtype=bool)
        for cause in self.mechanisms[name].causes:
            same &= codes[cause] == factual[cause]
        return same

    def _selected(self, codes: Codes, n: int) -> np.ndarray:
        """``(n,)`` probability that an image enters the collection."""
        if self.content.selection is None:
            return np.ones(n)
        return self.content.selection.probability_of.probabilities(COIN, codes, self.graph.attributes, n)[:, 1]

    def population(
        self, n: int, seed: int, *, iid: bool = False
    ) -> tuple[WorldNoise, dict[str, np.ndarray], np.ndarray]:
        """Noise, codes and ``(n,)`` patient indices of ``n`` collected images.

        Args:
            iid: one image a patient.

        Raises:
            WorldError: hardly any image is selected.
            ValueError: fewer than one image.
        """
        if n < 1:
            raise ValueError(f"A collection has one image or more, got n={n}.")
        rng = np.random.default_rng([seed, 20_261_124])
        low, high = (1, 1) if iid else self.content.patients.images
        noises, people, kept, drawn, patients = [], [], 0, 0, 0
        while kept < n:
            rate = max(kept / drawn, 0.02) if drawn else 1.0
            batch = int((n - kept) / rate * 1.1) + 16
            counts = rng.integers(low, high + 1, size=batch)
            patient = np.repeat(np.arange(batch), counts)[:batch]
            noise = self._noise(batch, patient, rng)
            codes = self.evaluate(noise)
            rows = np.flatnonzero(rng.uniform(size=batch) < self._selected(codes, batch))
            noises.append(noise.take(rows))
            people.append(patient[rows] + patients)
            patients, kept, drawn = patients + batch, kept + len(rows), drawn + batch
            if kept < n and drawn > 100 * n + 10_000:
                raise WorldError(
                    f"world {self.name!r}: selection: keeps {kept} of {drawn} images; raise its probability."
                )
        noise = WorldNoise(
            *({k: np.concatenate([getattr(part, field)[k] for part in noises])[:n] for k in getattr(noises[0], field)}
              for field in ("own", "latent", "fresh"))
        )  # fmt: skip
        who = np.unique(np.concatenate(people)[:n], return_inverse=True)[1]
        return noise, self.evaluate(noise), who

    def redraw(self, noise: WorldNoise, codes: Codes, patient: np.ndarray, rng: np.random.Generator) -> WorldNoise:
        """Noise that gives the same codes: what they reveal of it is kept, the rest drawn anew from its posterior.

        Args:
            noise: that gave ``codes``.
            codes: of ``n`` images.
            patient: ``(n,)`` indices; a draw for what a patient's images share is one draw.
        """
        n = len(patient)
        first = np.unique(patient, return_index=True)[1][np.unique(patient, return_inverse=True)[1]]
        latent = self._redraw_latents(noise, codes, first, rng)
        kept = WorldNoise(noise.own, latent, noise.fresh)
        own = {}
        for name in self.order:
            attribute = self.graph.attributes[name]
            rows = first if name in self.content.patients.same else np.arange(n)
            if isinstance(attribute, Continuous):
                own[name] = self._number_noise(name, noise, kept, codes, rng.uniform(size=n)[rows])
                continue
            p, chosen = self._probabilities(name, codes, kept, n), codes[name].astype(int)
            if noise.own[name].ndim == 2:
                gumbels = _posterior_gumbels(p, chosen, rng)
                # where they differ, the first image's noise would not give the code
                alike = (chosen == chosen[rows]) & (p == p[rows]).all(1)
                own[name] = np.where(alike[:, None], gumbels[rows], gumbels)
            else:
                tails = np.column_stack([np.ones(n), _at_least(p), np.zeros(n)])
                low, high = tails[np.arange(n), chosen + 1], tails[np.arange(n), chosen]
                own[name] = norm.ppf(np.clip(low + (high - low) * rng.uniform(size=n)[rows], 1e-15, 1 - 1e-15))
        fresh = {name: rng.standard_normal(values.shape) for name, values in noise.fresh.items()}
        return WorldNoise(own, latent, fresh)

    def _number_noise(
        self, name: str, noise: WorldNoise, kept: WorldNoise, codes: Codes, chance: np.ndarray
    ) -> np.ndarray:
        """Noise of a continuous attribute under other latents, such that its value stays.

        A value inside the range reveals its noise; one that was cut off at an end, only that it lay beyond.
        """
        mechanism, attribute = self.mechanisms[name], self.graph.attributes[name]
        if mechanism.uniform is not None:
            return noise.own[name]
        assert isinstance(attribute, Continuous)
        mean, sd = mechanism.mean_and_spread(
            attribute, codes, self.graph.attributes, len(chance), self._latent(name, kept)
        )
        if not sd:
            return noise.own[name]
        moved = any(name in weights for weights in self._latents.values())
        revealed = (codes[name] - mean) / sd if moved else noise.own[name]
        below, above = norm.cdf((attribute.low - mean) / sd), norm.sf((attribute.high - mean) / sd)
        beyond = np.where(codes[name] <= attribute.low, chance * below, 1 - chance * above)
        cut = (codes[name] <= attribute.low) | (codes[name] >= attribute.high)
        return np.where(cut, norm.ppf(np.clip(beyond, 1e-15, 1 - 1e-15)), revealed)

    def _redraw_latents(
        self, noise: WorldNoise, codes: Codes, first: np.ndarray, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Latents of each patient given the codes of all its images: sampling-importance resampling from
        :data:`CANDIDATES` draws of the prior."""
        if not self._latents:
            return {}
        n, touched = len(first), sorted({name for weights in self._latents.values() for name in weights})
        candidates = {name: rng.standard_normal((CANDIDATES, n))[:, first] for name in self._latents}
        alone = first == np.arange(n)
        log_weight = np.zeros((CANDIDATES, n))
        for k in range(CANDIDATES):
            trial = WorldNoise(noise.own, {name: values[k] for name, values in candidates.items()}, {})
            for name in touched:
                attribute, mechanism = self.graph.attributes[name], self.mechanisms[name]
                if isinstance(attribute, Continuous):
                    mean, sd = mechanism.mean_and_spread(
                        attribute, codes, self.graph.attributes, n, self._latent(name, trial)
                    )
                    evidence = norm.logpdf(codes[name], mean, sd)
                    evidence = np.where(codes[name] <= attribute.low, norm.logcdf(attribute.low, mean, sd), evidence)
                    evidence = np.where(codes[name] >= attribute.high, norm.logsf(attribute.high, mean, sd), evidence)
                else:
                    p = self._probabilities(name, codes, trial, n)
                    evidence = np.log(p[np.arange(n), codes[name].astype(int)] + 1e-300)
                # what has one noise a patient says the same thing in each of its images
                counted = alone if name in self.content.patients.same else True
                log_weight[k] += np.bincount(first, np.where(counted, evidence, 0.0), minlength=n)[first]
        weight = np.exp(log_weight - log_weight.max(0))
        picked = (weight.cumsum(0) < rng.uniform(size=n) * weight.sum(0)).sum(0).clip(max=CANDIDATES - 1)
        return {name: values[picked, np.arange(n)][first] for name, values in candidates.items()}

    # -- what shows ----------------------------------------------------------------------------------------------------
    def drawn(self, codes: Codes, amounts: np.ndarray) -> dict[str, np.ndarray]:
        """What the renderer draws: drawable -> ``(n,)`` value.

        Args:
            codes: of every attribute.
            amounts: ``(n, len(NUMBERS))`` standard normals, the spread of drawables that are numbers.
        """
        values = {}
        for name, ways in self.shown.items():
            for way in ways:
                values[way.draws] = _spread(way.draws, self._base(name, way, codes[name]), way.spread, amounts)
        for name, background in self.content.scene.items():
            base = np.full(len(amounts), drawn_value((), name, background.value))
            values[name] = _spread(name, base, background.spread, amounts)
        return values

    def _base(self, name: str, way: Shown, codes: np.ndarray) -> np.ndarray:
        attribute = self.graph.attributes[name]
        if way.forms is None:
            return codes
        values = np.array([drawn_value((), way.draws, value) for value in way.forms])
        if isinstance(attribute, Continuous):
            return values[0] + (codes - attribute.low) / (attribute.high - attribute.low) * (values[1] - values[0])
        return values[codes.astype(int)]

    @cached_property
    def hidden_signs(self) -> tuple[Sign, ...]:
        """What is to be found: one sign a hidden attribute that shows (one a level but the first, for more than two)."""
        return tuple(s for name in self.graph.hidden if name in self.shown for s in self._signs(name))

    @cached_property
    def labelled_signs(self) -> tuple[Sign, ...]:
        """How labelled attributes show themselves."""
        return tuple(s for name in self.graph.labelled if name in self.shown for s in self._signs(name))

    def _signs(self, name: str) -> list[Sign]:
        attribute = self.graph.attributes[name]
        plain = name if attribute.hidden else None
        if isinstance(attribute, Continuous):
            middle = (attribute.low + attribute.high) / 2
            return [Sign(plain or f"{name} > {middle:g}", name, above=middle)]
        if len(attribute.levels) == 2:
            return [Sign(plain or f"{name} = {attribute.levels[1]}", name, level=attribute.levels[1])]
        return [Sign(f"{name} = {level}", name, level=level) for level in attribute.levels[1:]]

    def presence(self, codes: Codes, signs: Iterable[Sign]) -> pd.DataFrame:
        """``(n, signs)`` whether each sign is there, 0/1."""
        columns = {}
        for sign in signs:
            attribute, values = self.graph.attributes[sign.attribute], codes[sign.attribute]
            if isinstance(attribute, Continuous):
                columns[sign.name] = (values > sign.above).astype(int)
            else:
                assert sign.level is not None
                columns[sign.name] = (values == attribute.levels.index(sign.level)).astype(int)
        return pd.DataFrame(columns, index=range(len(next(iter(codes.values())))))

    def recorded(self, codes: Codes, rng: np.random.Generator) -> pd.DataFrame:
        """The metadata of images with these codes: label noise first, then gaps, both of the image and not of its truth.

        Args:
            codes: true ones, of every attribute.
            rng: the only source of chance.
        """
        content, n, columns = self.content, len(next(iter(codes.values()))), {}
        for name in self.declared.labelled:
            attribute, values = self.declared.attributes[name], codes[name]
            noise = content.label_noise.get(name)
            if isinstance(noise, float | int) and isinstance(attribute, Continuous):
                values = np.clip(values + noise * rng.standard_normal(n), attribute.low, attribute.high)
            elif isinstance(noise, Mapping) and not isinstance(attribute, Continuous):
                k, rates = len(attribute.levels), np.array([noise.get(level, 0.0) for level in attribute.levels])
                wrong = rng.uniform(size=n) < rates[values.astype(int)]
                values = np.where(wrong, (values + rng.integers(1, k, size=n)) % k, values)
            gap = content.missing.get(name, 0.0)
            rate = (
                gap.probabilities(COIN, codes, self.graph.attributes, n)[:, 1]
                if isinstance(gap, Mechanism) else np.full(n, float(gap))
            )  # fmt: skip
            columns[name] = attribute.decode(np.where(rng.uniform(size=n) < rate, np.nan, values))
        return pd.DataFrame(columns)

    # -- datasets and truth --------------------------------------------------------------------------------------------
    def sample(self, n: int, seed: int = 0, *, size: int = 64) -> "Phantom":
        """``n`` radiographs, as any dataset adapter gives them, with their truth; see :class:`Phantom`."""
        from causal_cxr.data.phantom.phantom import Phantom

        return Phantom(n, self, size=size, seed=seed)

    @cached_property
    def truth(self) -> pd.DataFrame:
        """See :func:`causal_cxr.data.phantom.truth.truth_of`, with its defaults."""
        from causal_cxr.data.phantom.truth import truth_of

        return truth_of(self)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the content."""
        return hashlib.sha256(json.dumps(self.content.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[
            :16
        ]

    def __repr__(self) -> str:
        return f"World({self.name!r}, {len(self.graph.labelled)} labelled, {len(self.graph.hidden)} hidden)"


def _spread(name: str, base: np.ndarray, spread: float, amounts: np.ndarray) -> np.ndarray:
    """Values around ``base``, inside the drawable's range; a thing that is not there stays away, one that is stays."""
    if not spread:
        return base
    drawable: Drawable = DRAWABLES[name]
    values = np.clip(base + spread * amounts[:, NUMBERS.index(name)], drawable.low, drawable.high)
    return np.where(base == 0, 0.0, np.maximum(values, LEAST * base)) if drawable.thing else values


def _at_least(p: np.ndarray) -> np.ndarray:
    """``(n, levels - 1)`` probability of level 1 or higher, 2 or higher, ..."""
    return p[:, ::-1].cumsum(1)[:, ::-1][:, 1:]


def _posterior_gumbels(p: np.ndarray, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``(n, k)`` standard normals whose Gumbels make level ``chosen`` win (Maddison et al., NeurIPS 2014)."""
    import torch

    from causal_cxr.graphs.scm import posterior_gumbels

    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    gumbels = posterior_gumbels(torch.as_tensor(np.log(p + 1e-300)), torch.as_tensor(chosen), generator).numpy()
    return norm.ppf(np.clip(np.exp(-np.exp(-gumbels)), 1e-300, 1 - 1e-16))
