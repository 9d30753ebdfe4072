"""What is too fine to be drawn patient by patient: vessel trees and tissue texture, drawn once and mixed by weights."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from .scene import FIELD_CM, magnification

_SIDE = 512
_TREES = 4
_FIELDS = 6


def _branches(rng: np.random.Generator) -> list[tuple[float, float, float, float, float]]:
    """Segments ``(x, y, x, y, radius)`` in cm of the vessels of both lungs, from the hila outwards."""
    out = []
    for side in (-1.0, 1.0):
        for k in range(6):
            angle = -1.25 + 2.6 * (k + rng.uniform(0, 0.9)) / 6
            stack = [
                (side * (3.6 + rng.uniform(0, 0.8)), -1.5 + 1.2 * np.sin(angle), angle, rng.uniform(0.22, 0.34), 0)
            ]
            while stack:
                x, y, a, radius, level = stack.pop()
                for _ in range(2):  # a vessel bends halfway to its next fork
                    length = rng.uniform(0.9, 1.7) * (1.15 if level == 0 else 1.0)
                    a += rng.normal(0, 0.13)
                    to_x, to_y = x + side * length * np.cos(a), y + length * np.sin(a)
                    out.append((x, y, to_x, to_y, radius))
                    x, y = to_x, to_y
                if level < 4:
                    spread = rng.uniform(0.2, 0.5)
                    stack.append((x, y, a + spread, radius * rng.uniform(0.66, 0.85), level + 1))
                    stack.append((x, y, a - spread, radius * rng.uniform(0.6, 0.8), level + 1))
    return out


def _draw(segments: list[tuple[float, float, float, float, float]], scale: float) -> np.ndarray:
    """``(_SIDE, _SIDE)`` path length in cm inside the tubes, magnified by ``scale``."""
    pixel = FIELD_CM / _SIDE
    canvas = np.zeros((_SIDE, _SIDE), dtype=np.float32)
    for x0, y0, x1, y1, r in segments:
        wide = np.sqrt(r**2 + 0.5 * pixel**2)
        ends = np.array([[x0, y0], [x1, y1]]) * scale
        low = np.floor((ends.min(0) - wide * scale) / pixel + _SIDE / 2).astype(int).clip(0, _SIDE)
        high = np.ceil((ends.max(0) + wide * scale) / pixel + _SIDE / 2).astype(int).clip(0, _SIDE)
        if (high <= low).any():
            continue
        x = ((np.arange(low[0], high[0]) + 0.5 - _SIDE / 2) * pixel / scale)[None, :]
        y = ((np.arange(low[1], high[1]) + 0.5 - _SIDE / 2) * pixel / scale)[:, None]
        dx, dy = x1 - x0, y1 - y0
        along = (((x - x0) * dx + (y - y0) * dy) / (dx**2 + dy**2)).clip(0, 1)
        distance = (x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2
        chord = 2 * np.sqrt((wide**2 - distance).clip(0)) * (r / wide) ** 2
        part = canvas[low[1] : high[1], low[0] : high[0]]
        np.maximum(part, chord, out=part)  # the pieces of one tree join, they do not add up
    return canvas


@lru_cache(maxsize=1)
def _vessels() -> Tensor:
    trees = [_branches(np.random.default_rng([2, k])) for k in range(_TREES)]
    scales = [float(magnification(torch.tensor(ap), depth=10.0)) for ap in (0.0, 1.0)]
    return torch.from_numpy(np.stack([_draw(tree, scale) for scale in scales for tree in trees]))


@lru_cache(maxsize=1)
def _tissue() -> Tensor:
    """``(_FIELDS, _SIDE, _SIDE)`` of unit variance with a power spectrum that falls as the third power of frequency."""
    rng = np.random.default_rng([2, 99])
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None, :]) * _SIDE
    amplitude = np.where(frequency > 0, (frequency**2 + 9.0) ** -0.75, 0)
    fields = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((_FIELDS, _SIDE, _SIDE))) * amplitude)
    return torch.from_numpy((fields / fields.std((1, 2), keepdims=True)).astype(np.float32))


@lru_cache(maxsize=8)
def vessel_bank(size: int) -> Tensor:
    """``(8, size * size)`` path length in cm inside four vessel trees as projected in PA, then in AP."""
    return adaptive_avg_pool2d(_vessels()[:, None], size).reshape(-1, size * size)


@lru_cache(maxsize=8)
def tissue_bank(size: int) -> Tensor:
    """``(6, size * size)`` fields of tissue texture, area means of the same continuous fields at every size."""
    return adaptive_avg_pool2d(_tissue()[:, None], size).reshape(-1, size * size)
