"""How fast phantoms are drawn, and how close their statistics are to those of real radiographs.

Two populations. For speed: independent values, each thing there in 30% of the images. For realism: a ward-like mix, in
which things are rarer and numbers spread as in patients; the renderer was tuned to radiographs with it, so some named
worlds stand beside it. The power spectrum is averaged over rings of whole cycles per
image, Hann-windowed, at 128 pixels a side; its slope is that of a line through log power over log frequency from 3 to
48 cycles per image. Histograms are compared by the earth mover's distance of intensities in [0, 1].

    python benchmarks/phantom_speed.py --json benchmarks/results/phantom_speed.json --nih ../shared/data/nih-1000 \\
        --picture docs/phantoms.png
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from record import record
from scipy.stats import wasserstein_distance

from causal_cxr.data.nih import NIHChestXray14
from causal_cxr.data.phantom.radiograph import DRAWABLES, VERSION, Noise, render
from causal_cxr.data.phantom.world import World

WORLDS = ("portable", "scanner-site", "chest-drain")
BAND = (3, 48)  #: cycles per image
SPECTRUM_SIZE = 128
PICTURE_SIZE = 160
SPREAD = {"age": (58, 16), "bmi": (26, 4), "cardiothoracic_ratio": (0.48, 0.05), "exposure": (0, 0.5),
          "effusion_ml": (600, 300), "consolidation": (0.6, 0.2), "pneumothorax": (0.3, 0.15), "oedema": (0.5, 0.2),
          "nodule_mm": (20, 7)}  # fmt: skip


def population(n: int, rng: np.random.Generator, *, share: float) -> dict[str, np.ndarray]:
    """Independent values of ``n`` patients, each thing there with probability ``share``."""
    out = {}
    for d in DRAWABLES.values():
        if d.kind == "level":
            value = rng.integers(int(d.thing), len(d.levels), n).astype(float)
        else:
            mean, deviation = SPREAD[d.name]
            value = rng.normal(mean, deviation, n).clip(d.low, d.high)
        out[d.name] = np.where(rng.uniform(size=n) < share, value, 0.0) if d.thing else value
    return out


def images_per_second(size: int, n: int, seed: int, *, rounds: int) -> float:
    """The fastest of some rounds: others share the machine."""
    rng = np.random.default_rng(seed)
    values, noise = population(n, rng, share=0.3), Noise.draw(n, rng)
    render(values, noise, size)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        render(values, noise, size)
        seconds.append(time.perf_counter() - started)
    return n / min(seconds)


def spectrum_slope(images: np.ndarray) -> float:
    """Slope of the radially averaged power spectrum of ``(n, s, s)`` images, log over log, in :data:`BAND`."""
    size = images.shape[-1]
    window = np.hanning(size)
    power = np.abs(np.fft.fft2((images - images.mean((1, 2), keepdims=True)) * window * window[:, None])) ** 2
    cycles = np.fft.fftfreq(size) * size
    ring = np.hypot(cycles, cycles[:, None]).round().astype(int).ravel()
    radial = np.bincount(ring, power.mean(0).ravel()) / np.bincount(ring)
    band = np.arange(BAND[0], BAND[1] + 1)
    return float(np.polyfit(np.log(band), np.log(radial[band]), 1)[0])


def likeness(world: str, n: int, real: np.ndarray) -> dict[str, float]:
    """How close a named world, which was tuned to nothing, comes to real radiographs."""
    images = World.load(world).sample(n, seed=1, size=SPECTRUM_SIZE).images(np.arange(n))[:, 0].numpy()
    distance = wasserstein_distance(images.ravel(), real.ravel())
    return {"spectrum_slope": round(spectrum_slope(images), 3), "histogram_emd": round(float(distance), 4)}


def picture(phantoms: np.ndarray, real: np.ndarray, *, columns: int = 6) -> Image.Image:
    """Two labelled blocks side by side, ``(n, s, s)`` each."""
    size, head, gap = phantoms.shape[-1], 34, 24
    rows = -(-len(phantoms) // columns)
    sheet = Image.new("L", (2 * columns * size + gap, rows * size + head), 255)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(22)
    for block, (images, title) in enumerate(((phantoms, "Phantoms"), (real, "Radiographs (NIH ChestX-ray14)"))):
        left = block * (columns * size + gap)
        pen.text((left + 6, 4), title, fill=0, font=font)
        for i, image in enumerate(images):
            at = (left + i % columns * size, head + i // columns * size)
            sheet.paste(Image.fromarray((image * 255).round().astype(np.uint8)), at)
    return sheet


def main() -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument(
        "--nih", type=Path, help="a folder in the layout of ChestX-ray14; without it nothing is compared"
    )
    parser.add_argument("--picture", type=Path, help="where to draw 24 phantoms beside 24 radiographs; needs --nih")
    parser.add_argument("--images", type=int, default=600, help="phantoms and radiographs to compare")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.picture and not arguments.nih:
        parser.error("--picture sets phantoms beside radiographs; say where those are with --nih.")

    summary: dict[str, object] = {"version": VERSION, "cores": torch.get_num_threads()}
    for size, n in ((64, 2048), (256, 128)):
        speed = images_per_second(size, n, arguments.seed, rounds=arguments.rounds)
        summary[f"images_per_second_{size}"] = round(speed, 1)

    rng = np.random.default_rng([arguments.seed, 1])
    n = arguments.images
    values, noise = population(n, rng, share=0.12), Noise.draw(n, rng)
    phantoms = render(values, noise, SPECTRUM_SIZE)[:, 0].numpy()
    summary |= {
        "spectrum_slope_phantom": round(spectrum_slope(phantoms), 3),
        "spectrum_slope_nih": None,
        "spectrum_band_cycles_per_image": BAND,
        "spectrum_pixels": SPECTRUM_SIZE,
        "histogram_emd": None,
        "images_compared": n,
    }
    if arguments.nih:
        dataset = NIHChestXray14(arguments.nih)
        rows = np.sort(rng.permutation(len(dataset))[:n])
        shrink = torch.nn.functional.adaptive_avg_pool2d
        real = shrink(dataset.images(rows), SPECTRUM_SIZE)[:, 0].numpy()
        summary["spectrum_slope_nih"] = round(spectrum_slope(real), 3)
        summary["histogram_emd"] = round(float(wasserstein_distance(phantoms.ravel(), real.ravel())), 4)
        summary["worlds"] = {name: likeness(name, n, real) for name in WORLDS}
        if arguments.picture:
            few = rng.permutation(n)[:24]
            shown = render({name: value[few] for name, value in values.items()}, noise.take(few), PICTURE_SIZE)[:, 0]
            beside = shrink(dataset.images(rows[few]), PICTURE_SIZE)[:, 0]
            arguments.picture.parent.mkdir(parents=True, exist_ok=True)
            picture(shown.numpy(), beside.numpy()).quantize(64).save(arguments.picture, optimize=True)
    print(json.dumps(summary, indent=1))
    record(arguments.json, seed=arguments.seed, summary=summary)


if __name__ == "__main__":
    main()
