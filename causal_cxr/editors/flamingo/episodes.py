"""Episodes: an image, an attribute, and exemplars with and without the image's own value of it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

MOST_LEVELS = 12  #: of an attribute; more are surely a measurement


@dataclass(frozen=True)
class Episode:
    """One attribute of each of ``n`` images, by position among the rows that are fitted on.

    Attributes:
        attribute: ``(n,)`` position of the attribute's name; -1 where the image has none here.
        having: ``(n, k)`` images of other patients with the image's own value; whatever where there is none.
        lacking: ``(n, k)`` images without it.
    """

    attribute: np.ndarray
    having: np.ndarray
    lacking: np.ndarray


class Episodes:
    """Draws episodes from a table of labels.

    Args:
        labels: one row an image, one column an attribute; an image is used for those of which its label is known.
        patients: of the images.

    Raises:
        ValueError: an attribute has no levels to contrast, too many of them, or a level that one patient alone shows.
    """

    def __init__(self, labels: pd.DataFrame, patients: pd.Series) -> None:
        self.names = tuple(labels.columns)
        codes = [pd.factorize(labels[name], sort=True)[0] for name in self.names]  # -1 where missing
        self.codes, self.patient = np.stack(codes), pd.factorize(patients)[0]
        self._having, self._lacking = ([dict[int, np.ndarray]() for _ in self.names] for _ in range(2))
        for name, code, having, lacking in zip(self.names, self.codes, self._having, self._lacking, strict=True):
            levels = np.unique(code[code >= 0])
            if not 2 <= len(levels) <= MOST_LEVELS:
                raise ValueError(
                    f"{name!r} has {len(levels)} levels among the labels; episodes contrast 2 to {MOST_LEVELS}: leave it "
                    "out, or cut it into levels with pd.cut."
                )
            for level in levels:
                having[level] = np.flatnonzero(code == level)
                lacking[level] = np.flatnonzero((code >= 0) & (code != level))
                if min(len(np.unique(self.patient[pool])) for pool in (having[level], lacking[level])) < 2:
                    raise ValueError(
                        f"A level of {name!r} is shown by one patient alone; label more images or leave it out."
                    )

    def draw(self, picked: np.ndarray, k: int, together: int, rng: np.random.Generator) -> list[Episode]:
        """``together`` episodes an image, of different attributes; beyond the first, an image may have none.

        Args:
            picked: ``(n,)`` images.
            k: exemplars with the value, and without.
            together: attributes an image at most.
            rng: all chance.
        """
        n, many = len(picked), len(self.names)
        order = rng.permuted(np.tile(np.arange(many), (n, 1)), axis=1)
        wanted = rng.integers(1, together + 1, size=n)
        episodes = []
        for slot in range(min(together, many)):
            attribute = order[:, slot]
            level = self.codes[attribute, picked]
            attribute = np.where((level >= 0) & (slot < wanted), attribute, -1)
            having, lacking = np.zeros((n, k), dtype=np.int64), np.zeros((n, k), dtype=np.int64)
            for a, v in {(a, v) for a, v in zip(attribute.tolist(), level.tolist(), strict=True) if a >= 0}:
                mine = np.flatnonzero((attribute == a) & (level == v))
                having[mine] = self._others(self._having[a][v], picked[mine], k, rng)
                lacking[mine] = self._others(self._lacking[a][v], picked[mine], k, rng)
            episodes.append(Episode(attribute, having, lacking))
        return episodes

    def _others(self, pool: np.ndarray, images: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
        """``(n, k)`` from the pool, none of an image's own patient: else the exemplar would show the very image."""
        drawn = rng.choice(pool, (len(images), k))
        while (clash := self.patient[drawn] == self.patient[images][:, None]).any():
            drawn[clash] = rng.choice(pool, int(clash.sum()))
        return drawn
