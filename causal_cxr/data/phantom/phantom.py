"""``Phantom``: a dataset whose truth is known, drawn when asked for."""

import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.phantom.grammar import Grammar, Mention
from causal_cxr.data.phantom.radiograph import (
    DRAWABLES,
    NUMBERS,
    PLACEMENT,
    PLACEMENT_COLUMNS,
    VERSION,
    Noise,
    render,
)
from causal_cxr.data.phantom.world import World
from causal_cxr.graphs import CausalGraph


class Phantom:
    """Radiographs of a world; a :class:`~causal_cxr.data.dataset.Dataset` with known truth.

    Args:
        n: images.
        world: a name in :meth:`World.names`, the path of a world file, or a world.
        size: pixels a side.
        seed: of everything; the same seed gives the same dataset. Patients are named by world and seed, so datasets of
            different seeds share no patient.

    Attributes:
        attributes: the labelled table as the metadata have it: with the world's missing values and label noise.
        hidden: what is to be found, ``world.hidden_signs``, 0/1: for judging, never for auditing.
        codes: the true codes of every attribute, ``(n,)`` each: for judging.
        graph: the labelled graph, as its owner would declare it.

    >>> phantom = Phantom(4, world="portable", seed=1)
    >>> phantom.images(np.arange(4)).shape
    torch.Size([4, 1, 64, 64])
    """

    def __init__(self, n: int, world: str | World = "portable", *, size: int = 64, seed: int = 0) -> None:
        self.world = world if isinstance(world, World) else World.load(world)
        self.size, self.seed = size, seed
        self._noise, self.codes, self._patient = self.world.population(n, seed)
        rng = np.random.default_rng([seed, 7])
        self._picture = _picture_noise(self._patient, self.world.content.patients.anatomy, rng)
        self.graph: CausalGraph = self.world.declared
        self.attributes = self.world.recorded(self.codes, rng)
        self.hidden = self.world.presence(self.codes, self.world.hidden_signs)
        self.patients = pd.Series(
            [f"{self.world.name}-{seed}-{p:06d}" for p in self._patient], name="patient", dtype=str
        )
        self.texts: pd.Series | None = self._reports(rng)
        recipe = f"{VERSION}|{self.world.fingerprint}|{n}|{size}|{seed}"
        self.fingerprint = hashlib.sha256(recipe.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.attributes)

    def images(self, rows: np.ndarray) -> Tensor:
        """Draw the factual images, ``(n, 1, size, size)`` float32 in [0, 1]."""
        rows = np.asarray(rows, dtype=np.int64)
        return self._draw({name: code[rows] for name, code in self.codes.items()}, self._picture.take(rows))

    def counterfactual(self, target: pd.DataFrame) -> Tensor:
        """The true counterfactual images: same noise, attributes as in ``target``, what they cause among the rest following.

        Args:
            target: labelled attributes under the intervention, and hidden ones that are to be set (labelled attributes all,
                or those that are left out stay true); its index names the dataset's rows. What equals the recorded table
                is no intervention: there the true value stays, even where the record is wrong.
        """
        codes = self.counterfactual_codes(target)
        return self._draw(codes, self._picture.take(target.index.to_numpy()))

    def counterfactual_codes(self, target: pd.DataFrame) -> dict[str, np.ndarray]:
        """Codes of every attribute in :meth:`counterfactual`."""
        given, factual = self._given(target)
        return self.world.evaluate(self._noise.take(target.index.to_numpy()), given, factual)

    def counterfactual_set(self, target: pd.DataFrame, k: int = 16, *, seed: int = 0, held: bool = True) -> Tensor:
        """``k`` true counterfactuals an image: they share all noise that the factual image reveals, and redraw the rest.

        Revealed are anatomy, exposure, speckle, the placement and amount of what is there, and what every attribute's value
        says of its noise; what a patient's images share is drawn once a patient. Where an appearing object will lie is not
        in the image. How the redrawn noise couples image and counterfactual is the world's ``coupling``.

        Args:
            target: as for :meth:`counterfactual`.
            k: members.
            seed: of the redraws.
            held: labelled attributes that the target leaves out stay true; ``False``: they follow what it sets.

        Returns:
            ``(k, n, 1, size, size)``.

        Raises:
            ValueError: ``k`` below 1; a target that cannot be set.
        """
        if k < 1:
            raise ValueError(f"A set has one counterfactual or more, got k={k}.")
        rows = target.index.to_numpy()
        rng = np.random.default_rng([seed, 16])
        given, factual = self._given(target, held)
        noise, kept = self._noise.take(rows), self._picture.take(rows)
        patient = np.unique(self._patient[rows], return_inverse=True)[1]
        shows = self.world.drawn(factual, kept.amounts)
        members = []
        for _ in range(k):
            codes = self.world.evaluate(self.world.redraw(noise, factual, patient, rng), given, factual)
            members.append(self._draw(codes, _rearranged(kept, shows, rng)))
        return torch.stack(members)

    def _draw(self, codes: Mapping[str, np.ndarray], noise: Noise) -> Tensor:
        return render(self.world.drawn(codes, noise.amounts), noise, self.size)

    def _given(self, target: pd.DataFrame, held: bool = True) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Codes that the target sets, of the labelled attributes all where they are held; the true codes."""
        attributes = self.world.graph.attributes
        unknown = [name for name in target.columns if name not in attributes]
        if unknown:
            raise ValueError(f"Cannot set {unknown}; the world has {list(attributes)}.")
        strange = [row for row in target.index if row not in self.attributes.index]
        if strange:
            raise ValueError(
                f"The dataset has no rows {strange[:3]}; the target's index names rows 0 to {len(self) - 1}."
            )
        factual = {name: code[target.index.to_numpy()] for name, code in self.codes.items()}
        given = {name: factual[name] for name in self.graph.labelled} if held else {}
        for name in target.columns:
            codes = attributes[name].encode(target[name])
            if name not in self.graph.labelled:
                given[name] = codes
                continue
            recorded = attributes[name].encode(self.attributes.loc[target.index, name])
            same = (codes == recorded) | (np.isnan(codes) & np.isnan(recorded))
            given[name] = np.where(same, factual[name], codes)
        holes = {
            name: target.index[np.isnan(code)].tolist()[:3] for name, code in given.items() if np.isnan(code).any()
        }
        if holes:
            raise ValueError(f"Cannot set attributes to missing values: {holes}; leave those rows out or impute them.")
        return given, factual

    def _reports(self, rng: np.random.Generator) -> pd.Series:
        """Texts about what shows, labelled or hidden; they are written by someone who sees the image."""
        shown = [self.world.graph.attributes[name] for name in self.world.shown]
        said = self.world.content.reports
        mentions = {name: mention for name, mention in said.mentions.items() if name in self.world.shown}
        table = pd.DataFrame({a.name: a.decode(self.codes[a.name]) for a in shown})
        return Grammar(shown, mentions, Mention(said.present, said.absent)).write(table, rng)


def _picture_noise(patient: np.ndarray, same_body: float, rng: np.random.Generator) -> Noise:
    """The renderer's noise; the images of a patient show much the same body."""
    noise = Noise.draw(len(patient), rng)
    body = rng.standard_normal((patient.max() + 1, noise.anatomy.shape[1]))[patient]
    anatomy = np.sqrt(same_body) * body + np.sqrt(1 - same_body) * noise.anatomy
    return Noise(anatomy=anatomy, placement=noise.placement, amounts=noise.amounts, speckle=noise.speckle)


def _rearranged(noise: Noise, shows: Mapping[str, np.ndarray], rng: np.random.Generator) -> Noise:
    """The noise with the placement and amount of things that are not there drawn anew."""
    placement, amounts = noise.placement.copy(), noise.amounts.copy()
    for name, columns in PLACEMENT.items():
        away = shows[name] == 0 if name in shows else np.ones(len(noise), dtype=bool)
        for column in columns:
            i = PLACEMENT_COLUMNS.index(column)
            placement[:, i] = np.where(away, rng.uniform(size=len(noise)), placement[:, i])
        if DRAWABLES[name].kind == "number":
            i = NUMBERS.index(name)
            amounts[:, i] = np.where(away, rng.standard_normal(len(noise)), amounts[:, i])
    return Noise(anatomy=noise.anatomy, placement=placement, amounts=amounts, speckle=noise.speckle)
