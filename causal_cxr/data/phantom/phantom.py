"""``Phantom``: a dataset whose truth is known, drawn when asked for."""

import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.phantom import renderer
from causal_cxr.data.phantom.renderer import DRAWN, PLACEMENT, PLACEMENT_COLUMNS, Noise
from causal_cxr.data.phantom.reports import report_sentences
from causal_cxr.data.phantom.worlds import HIDDEN_NAMES, LABELLED, PATIENT_LEVEL, WORLDS, World
from causal_cxr.graphs import CausalGraph


class Phantom:
    """Radiographs of a synthetic world; a :class:`~causal_cxr.data.dataset.Dataset` with known truth.

    Args:
        n: images.
        world: a name in :data:`~causal_cxr.data.phantom.worlds.WORLDS`, or a world.
        size: pixels a side.
        seed: of everything; the same seed gives the same dataset. Patients are named by world and seed, so datasets of
            different seeds share no patient.
        images_per_patient: each patient has 1 to this many images.

    Attributes:
        attributes: the labelled table, as metadata would have it.
        hidden: the true hidden attributes, 0/1: for judging, never for auditing.
        graph: the labelled graph, as its owner would declare it.

    >>> phantom = Phantom(4, world="portable", seed=1)
    >>> phantom.images(np.arange(4)).shape
    torch.Size([4, 1, 64, 64])
    """

    def __init__(
        self, n: int, world: str | World = "portable", *, size: int = 64, seed: int = 0, images_per_patient: int = 3
    ) -> None:
        if isinstance(world, str):
            if world not in WORLDS:
                raise ValueError(f"There is no world {world!r}; choose from {sorted(WORLDS)}.")
            world = WORLDS[world]
        self.world, self.size, self.seed = world, size, seed
        rng = np.random.default_rng([seed, 20_261_124])
        counts = rng.integers(1, images_per_patient + 1, size=n)
        patient = np.repeat(np.arange(n), counts)[:n]
        first = np.searchsorted(patient, patient)  # the row whose patient-level noise counts

        self._uniforms = {name: rng.uniform(size=n) for name in ("age", *world.mechanisms)}
        for name in PATIENT_LEVEL:
            self._uniforms[name] = self._uniforms[name][first]
        noise = Noise.draw(n, rng)
        same_body = 0.9 * noise.anatomy[first] + np.sqrt(1 - 0.9**2) * noise.anatomy
        self._noise = Noise(np.where((first == np.arange(n))[:, None], noise.anatomy, same_body), noise.placement,
                            noise.speckle)  # fmt: skip
        self._codes = world.sample(self._uniforms)

        self.graph: CausalGraph = world.graph
        self.attributes = pd.DataFrame({a.name: a.decode(self._codes[a.name]) for a in LABELLED})
        self.hidden = pd.DataFrame({name: self._codes[name].astype(int) for name in HIDDEN_NAMES})
        self.patients = pd.Series([f"{world.name}-{seed}-{p:06d}" for p in patient], name="patient")
        self.texts: pd.Series | None = report_sentences(self.attributes, self.hidden, rng)
        recipe = f"{renderer.VERSION}|{world!r}|{n}|{size}|{seed}|{images_per_patient}"
        self.fingerprint = hashlib.sha256(recipe.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.attributes)

    def images(self, rows: np.ndarray) -> Tensor:
        """Draw the factual images, ``(n, 1, size, size)`` in [0, 1]."""
        rows = np.asarray(rows, dtype=np.int64)
        return renderer.render(
            self._drawn({k: v[rows] for k, v in self._codes.items()}), self._noise.take(rows), self.size
        )

    def counterfactual(self, target: pd.DataFrame) -> Tensor:
        """The true counterfactual images: same noise, labelled attributes as in ``target``, hidden ones following.

        Args:
            target: labelled attributes under the intervention; its index names the dataset's rows.
        """
        rows = target.index.to_numpy()
        labelled = self._encode(target)
        hidden = self.world.hidden_given(labelled, {k: u[rows] for k, u in self._uniforms.items()})
        return renderer.render(self._drawn({**labelled, **hidden}), self._noise.take(rows), self.size)

    def counterfactual_set(self, target: pd.DataFrame, k: int = 16, *, seed: int = 0) -> Tensor:
        """``k`` true counterfactuals an image: they share all noise that the factual image reveals, and redraw the rest.

        Revealed are anatomy, exposure, speckle, the placement of what is there, and that a hidden attribute's noise
        lay on the factual side of its threshold; what a patient brings along is drawn once a patient. Where an
        appearing object will lie is not in the image.

        Returns:
            ``(k, n, 1, size, size)``.
        """
        rows = target.index.to_numpy()
        rng = np.random.default_rng([seed, 16])
        labelled, factual = self._encode(target), {name: code[rows] for name, code in self._codes.items()}
        kept, members = self._noise.take(rows), []
        of_patient = pd.factorize(self.patients.iloc[rows])[0]
        same_patient = np.unique(of_patient, return_index=True)[1][of_patient]  # the row whose draw counts
        for _ in range(k):
            placement = kept.placement.copy()
            for object_name, columns in PLACEMENT.items():
                for column in columns:
                    i = PLACEMENT_COLUMNS.index(column)
                    redrawn = rng.uniform(size=len(rows))
                    placement[:, i] = np.where(factual[object_name] == 1, placement[:, i], redrawn)
            uniforms = {}
            for name in HIDDEN_NAMES:
                p = self.world.mechanisms[name].probability(factual, len(rows))
                u = rng.uniform(size=len(rows))
                if name in PATIENT_LEVEL:
                    u = u[same_patient]
                uniforms[name] = np.where(factual[name] == 1, p * u, p + (1 - p) * u)
            hidden = self.world.hidden_given(labelled, uniforms)
            noise = Noise(kept.anatomy, placement, kept.speckle)
            members.append(renderer.render(self._drawn({**labelled, **hidden}), noise, self.size))
        return torch.stack(members)

    @staticmethod
    def _encode(table: pd.DataFrame) -> dict[str, np.ndarray]:
        codes = {a.name: a.encode(table[a.name]) for a in LABELLED}
        holes = {name: table.index[np.isnan(code)].tolist()[:3] for name, code in codes.items() if np.isnan(code).any()}
        if holes:
            raise ValueError(f"Cannot draw rows with missing attributes: {holes}; leave them out or impute them.")
        return codes

    @staticmethod
    def _drawn(codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: codes[name] for name in DRAWN}
