"""Editors with known faults and readers with known errors, around a world's truth.

What is there is written into a strip of pixels below each picture, one pixel a sign, so that a simulated reader need not
guess: it reads the strip, as well or as badly as asked. Everything else in an audit is the real thing. Without the
pictures (``pixels=False``) only the strip is drawn, which gives the same numbers in a fraction of the time.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.phantom.phantom import Phantom
from causal_cxr.data.phantom.world import Sign, World
from causal_cxr.editors.editor import Abduction, Edit
from causal_cxr.graphs import Continuous
from causal_cxr.readers.concepts import Concept, world_concepts
from causal_cxr.readers.quality import ReaderQuality, assess

SCALE, MIDDLE = 0.1, 0.5  #: of the strip: a pixel is ``MIDDLE + SCALE * (value - 0.5)``, so values from -4.5 to 5.5 fit
NOISE = 0.15  #: SD of an imperfect reader's error on an image, the same in all its edits
SLOPES = (0.4, 0.8)  #: range of an imperfect reader's slopes


class Marked(Phantom):
    """A phantom whose pictures carry a strip that says what is there.

    Args:
        n, world, size, seed: as for :class:`Phantom`.
        pixels: whether the radiograph is drawn above the strip.
        noise: SD of an error that is added to every sign of an image, the same in all its edits: the reader's.
    """

    def __init__(
        self, n: int, world: World, *, size: int = 64, seed: int = 0, pixels: bool = True, noise: float = 0.0
    ) -> None:
        super().__init__(n, world, size=size, seed=seed)
        self.signs = (*world.hidden_signs, *world.labelled_signs)
        self.pixels = pixels
        rng = np.random.default_rng([seed, 31])
        self.error = noise * rng.standard_normal((n, len(self.signs)))
        self.fingerprint = hashlib.sha256(f"{self.fingerprint}|{pixels}|{noise}".encode()).hexdigest()[:16]

    def images(self, rows: np.ndarray) -> Tensor:
        """``(n, 1, size + 1, size)``, or the strip alone, ``(n, 1, 1, size)``."""
        rows = np.asarray(rows, dtype=np.int64)
        return self.marked({name: code[rows] for name, code in self.codes.items()}, rows)

    def counterfactual(self, target: pd.DataFrame) -> Tensor:
        """As :meth:`Phantom.counterfactual`, with the strip."""
        return self.marked(self.counterfactual_codes(target), target.index.to_numpy())

    def marked(self, codes: Mapping[str, np.ndarray], rows: np.ndarray, drift: np.ndarray | float = 0.0) -> Tensor:
        """Pictures of these codes with the noise of these rows; ``drift`` (n, signs) is added to what the strip says."""
        there = self.world.presence(codes, self.signs).to_numpy(dtype=float) + self.error[rows] + drift
        strip = torch.full((len(rows), 1, 1, self.size), MIDDLE)
        strip[:, 0, 0, : len(self.signs)] = torch.as_tensor(MIDDLE + SCALE * (there - 0.5)).float().clamp(0, 1)
        if not self.pixels:
            return strip
        return torch.cat([self._draw(codes, self._picture.take(rows)), strip], dim=2)


@dataclass
class SimulatedReader:
    """Reads the strip: ``(1 - slope) / 2 + slope * value``, right on average where half of the images show the sign.

    Args:
        world: whose signs are read.
        slopes: ``(signs,)`` in (0, 1]; 1 is perfect.
        judged: images of the independent world on which its quality is measured.
        noise: as the audited phantom's.
        seed: of the judged images.
    """

    world: World
    slopes: np.ndarray
    judged: int = 1_000
    noise: float = 0.0
    seed: int = 0
    name: str = "simulated"
    fitted_on: frozenset[str] | None = frozenset()
    concepts: tuple[Concept, ...] = field(init=False)
    quality: ReaderQuality = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        self.concepts = world_concepts(self.world)
        self.fingerprint = hashlib.sha256(f"{self.world.fingerprint}|{self.slopes}".encode()).hexdigest()[:16]
        judged = Marked(self.judged, self.world.independent(), seed=self.seed + 770_000, pixels=False, noise=self.noise)
        truth = judged.world.presence(judged.codes, judged.signs).to_numpy(dtype=float)
        scores = self.read(judged.images(np.arange(self.judged))).numpy().astype(float)
        self.quality = assess(
            scores, truth, judged.attributes, judged.patients, self.world.declared, self.concepts,
            shifts=dict(self.world.content.shifts),
        )  # fmt: skip

    @classmethod
    def imperfect(cls, world: World, seed: int) -> "SimulatedReader":
        """Slopes drawn from :data:`SLOPES`, error :data:`NOISE`."""
        count = len(world.hidden_signs) + len(world.labelled_signs)
        slopes = np.random.default_rng([seed, 32]).uniform(*SLOPES, size=count)
        return cls(world, slopes, noise=NOISE, seed=seed)

    @classmethod
    def perfect(cls, world: World, seed: int) -> "SimulatedReader":
        """Scores are truth."""
        return cls(world, np.ones(len(world.hidden_signs) + len(world.labelled_signs)), seed=seed)

    def read(self, images: Tensor, patients: Sequence[str] | None = None) -> Tensor:
        """``(n, signs)`` scores."""
        strip = images[:, 0, -1, : len(self.concepts)]
        values = (strip - MIDDLE) / SCALE + 0.5
        slopes = torch.as_tensor(self.slopes, dtype=torch.float32)
        scores = (1 - slopes) / 2 + slopes * values
        return scores.clamp(0, 1) if self.noise else scores  # a perfect reader shows a drift for what it is


@dataclass(frozen=True)
class Fault:
    """A planted fault: where ``cause`` is edited, ``sign`` follows it in a share of the images."""

    cause: str
    sign: Sign
    share: float = 0.6


class SimulatedEditor:
    """The world's truth, with faults: none (``oracle``), ``noop``, ``drift``, ``leaky``.

    Args:
        phantom: that is edited.
        kind: ``oracle`` draws true counterfactuals; ``noop`` gives back what it got; ``drift`` is the oracle with a zero-mean
            drift of what every sign looks like, half its variance shared by the images of a patient; ``leaky`` is the
            oracle with ``faults``.
        drift: SD of the drift, on the scale of the signs.
        faults: of ``leaky``.
        seed: of drift and faults.
    """

    semantics: Literal["observational", "structural"] = "structural"
    fitted_on: frozenset[str] | None = frozenset()

    def __init__(
        self, phantom: Marked, kind: str, *, drift: float = 0.0, faults: Sequence[Fault] = (), seed: int = 0
    ) -> None:
        self.phantom, self.kind, self.drift, self.faults, self.seed = phantom, kind, drift, tuple(faults), seed
        self.attributes = frozenset(phantom.attributes.columns)
        self.fingerprint = hashlib.sha256(
            f"{kind}|{phantom.fingerprint}|{drift}|{self.faults}|{seed}".encode()
        ).hexdigest()[:16]

    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        """The rows say which noise it was; ``noop`` keeps the images."""
        return Abduction(attributes, images)

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        """Draw the target, as faulty as the kind says."""
        if self.kind == "noop":
            return Edit.all_accepted(abduction.state.clone())
        rows = target.index.to_numpy()
        codes = self.phantom.counterfactual_codes(target)
        for fault in self.faults if self.kind == "leaky" else ():
            codes = self._leak(fault, codes, target, abduction.factual)
        drift: np.ndarray | float = 0.0
        if self.kind == "drift":
            drift = self._drift(target, abduction.factual, phrasing)
        return Edit.all_accepted(self.phantom.marked(codes, rows, drift))

    def _drift(self, target: pd.DataFrame, factual: pd.DataFrame, phrasing: int) -> np.ndarray:
        """``(n, signs)``: one draw a patient and question asked, one an image and question, of equal variance.

        The question is which attributes are set to what; the null edit asks none, in other words.
        """
        drawn = np.empty((len(target), len(self.phantom.signs)))
        patients = self.phantom.patients.iloc[target.index]
        before = factual[list(target.columns)]
        for i, (row, patient) in enumerate(zip(target.index, patients, strict=True)):
            moves = zip(target.columns, before.iloc[i], target.iloc[i], strict=True)
            asked = {name: f"{name}: {to}" for name, was, to in moves if was != to}
            shared = np.random.default_rng([self.seed, _digest(patient, list(asked), phrasing)])
            own = np.random.default_rng([self.seed, int(row), _digest(list(asked.values()), phrasing)])
            drawn[i] = (shared.standard_normal(drawn.shape[1]) + own.standard_normal(drawn.shape[1])) / np.sqrt(2)
        return self.drift * drawn

    def _leak(
        self, fault: Fault, codes: Mapping[str, np.ndarray], target: pd.DataFrame, factual: pd.DataFrame
    ) -> dict[str, np.ndarray]:
        graph = self.phantom.world.graph
        cause, moved = graph.attributes[fault.cause], graph.attributes[fault.sign.attribute]
        before, after = (cause.encode(table[fault.cause]) for table in (factual, target))
        held = np.asarray([np.random.default_rng([self.seed, 5, int(row)]).uniform() for row in target.index])
        hit = (before != after) & (held < fault.share)
        assert not isinstance(moved, Continuous)
        level = moved.levels.index(fault.sign.level)
        follows = np.where(after > before, level, 0 if level else 1)
        return {**codes, fault.sign.attribute: np.where(hit, follows, codes[fault.sign.attribute])}


def _digest(*content: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(content).encode()).digest()[:6], "big")
