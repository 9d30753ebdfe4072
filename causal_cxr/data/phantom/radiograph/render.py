"""Pictures from values and noise."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier

import numpy as np
import torch
from torch import Tensor

from .acquisition import expose
from .anatomy import chest
from .devices import DEVICES
from .drawables import DRAWABLES
from .findings import FINDINGS
from .markings import MARKINGS
from .noise import Noise, quanta
from .scene import Scene

_CHUNK = 2**18  #: picture elements drawn at once: few enough for the working tensors to stay in cache


def render(values: Mapping[str, np.ndarray], noise: Noise, size: int = 64) -> Tensor:
    """Draw phantoms: a pure function, so the same noise with another value is the true counterfactual picture.

    Args:
        values: ``(n,)`` arrays for any of :data:`DRAWABLES`: integer codes of levels, floats in the range of numbers.
            What is not named is drawn at its default.
        noise: of the ``n`` phantoms.
        size: picture elements a side, 16 to 1024; the scene is the same at every size.

    Returns:
        ``(n, 1, size, size)`` float32 in [0, 1]; bright = attenuating, as a radiograph is shown. The patient's left
        is on the picture's right. A picture does not depend on its batch.

    Raises:
        ValueError: an unknown name, an array of another length, a value that is no code or out of range, or a size
            out of range.
    """
    return _render(values, noise, size, speckled=True)


def expected(values: Mapping[str, np.ndarray], noise: Noise, size: int = 64) -> Tensor:
    """As :func:`render`, with every count of quanta at its expectation: no detector noise."""
    return _render(values, noise, size, speckled=False)


def checked(values: Mapping[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    """``(n,)`` float32 for every drawable, refusing what cannot be drawn."""
    unknown = [name for name in values if name not in DRAWABLES]
    if unknown:
        raise ValueError(f"Cannot draw {unknown}; what can be drawn: {', '.join(DRAWABLES)}.")
    full = {}
    for name, drawable in DRAWABLES.items():
        if name not in values:
            full[name] = np.full(n, drawable.default, dtype=np.float32)
            continue
        given = np.asarray(values[name], dtype=np.float64)
        if given.shape != (n,):
            raise ValueError(
                f"{name} has shape {given.shape}, the noise is that of {n} phantoms; give an array of shape ({n},)."
            )
        if drawable.kind == "level":
            wrong = ~np.isin(given, np.arange(len(drawable.levels)))
            allowed = "a code of " + ", ".join(f"{code} ({level})" for code, level in enumerate(drawable.levels))
        else:
            wrong = ~((given >= drawable.low) & (given <= drawable.high))  # nan is neither
            allowed = f"in [{drawable.low:g}, {drawable.high:g}] {drawable.unit}".rstrip()
        if wrong.any():
            raise ValueError(
                f"{name} = {given[wrong][0]} in row {int(wrong.argmax())} cannot be drawn; it must be {allowed}."
            )
        full[name] = given.astype(np.float32)
    return full


@torch.no_grad()
def _draw(values: Mapping[str, np.ndarray], noise: Noise, size: int, speckled: bool, out: Tensor) -> None:
    """Draw one chunk into ``out``, ``(n, size, size)``."""
    scene = Scene.build(values, noise.anatomy, noise.placement, size)
    patient = chest(scene)
    for name, finding in FINDINGS.items():
        if (found := scene.with_thing(name)) is not None:
            finding(*found, patient)
    absorbed = patient.line_integral()
    for name, device in DEVICES.items():
        if (found := scene.with_thing(name)) is not None:
            part, rows, where = found
            absorbed[where].index_add_(0, rows, device(part))
    field = torch.from_numpy(quanta(noise.speckle, size)) if speckled else None
    picture = expose(scene, absorbed, field)
    for name, marking in MARKINGS.items():
        if (found := scene.with_thing(name)) is not None:
            part, rows, where = found
            ink, brightness = marking(part)
            below = picture[where]
            below[rows] = torch.lerp(below[rows], torch.as_tensor(brightness), ink)
    out.copy_(picture)


def _render(values: Mapping[str, np.ndarray], noise: Noise, size: int, *, speckled: bool) -> Tensor:
    if not 16 <= size <= 1024:
        raise ValueError(f"size = {size} cannot be drawn; it must be in [16, 1024].")
    n = len(noise)
    full = checked(values, n)
    images = torch.empty(n, 1, size, size)
    step = max(1, _CHUNK // size**2)

    def draw(start: int) -> None:
        rows = slice(start, start + step)
        part = {name: value[rows] for name, value in full.items()}
        chunk = Noise(noise.anatomy[rows], noise.placement[rows], noise.amounts[rows], noise.speckle[rows])
        _draw(part, chunk, size, speckled, images[rows, 0])

    list(_pool(torch.get_num_threads(), os.getpid()).map(draw, range(0, n, step)))
    return images


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Workers that each compute on one core: chunks are small, and to split them again would only cost.

    A forked process has none of its parent's threads, hence one pool a ``process``.
    """
    ready = Barrier(threads + 1)
    started = threads

    def start() -> None:
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(started)
    for _ in range(started):
        pool.submit(start)
    ready.wait()
    torch.set_num_threads(threads)  # workers set theirs for themselves, and the default for threads still to come
    return pool
