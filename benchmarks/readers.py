"""What the shipped readers read, where they fail, and what they cost.

    python benchmarks/readers.py --json benchmarks/results/readers.json [--nih DIR]

- ``clip_*``: the shipped CLIP reader, zero-shot, on phantoms of which neither fit nor calibration saw a patient; attributes are
  independent of each other, so nothing can be read by way of another.
- ``drift``: mean AUROC on edited less on real images, over all edits by the shipped diffusion editor in ``portable`` whose
  true attributes are known (:mod:`causal_cxr.audits.drift`), the CLIP reader's; ``drift_by_reader`` has the others'.
- ``seconds_10k_x_60``, ``peak_rss_gb``: 10,000 images and 60 concepts through the shipped CLIP reader.
- ``nih_auroc``: within AP images of ``--nih``, see ``reading_nih.py``, whose result is taken where it lies beside ``--json``.
- ``unnamed_*`` and ``flamingo_auroc``: of ``unnamed.py`` and ``flamingo_reader.py``, whose results lie beside ``--json``.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from record import peak_rss_gb, record

from causal_cxr.audits import reader_drift
from causal_cxr.data.phantom import Phantom
from causal_cxr.editors import DiffusionEditor
from causal_cxr.graphs import default_contrasts
from causal_cxr.readers import CLIPReader, ProbeReader, assess_reader, read_dataset

JUDGED, JUDGE_SEED = 4_000, 8_901  #: images; no fit and no calibration used this seed
EDITED, EDIT_SEED = 128, 4_321
STREAMED, CONCEPTS = 10_000, 60
PARTS = {  #: keys that other scripts measure
    "unnamed": ("unnamed_recovered", "unnamed_spurious_null"),
    "flamingo_reader": ("flamingo_auroc",),
    "reading_nih": ("nih_auroc",),
}


def zero_shot(reader: CLIPReader, images: int, seed: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Per concept AUROC, slope and calibration error with intervals, and the three figures of the summary."""
    phantom = Phantom(images, "independent", seed=seed)
    quality = assess_reader(
        reader, phantom, np.arange(images), phantom.hidden, phantom.graph, shifts=phantom.world.content.shifts
    ).concepts
    return quality, {
        "clip_auroc_mean": float(quality["auroc"].mean()),
        "clip_auroc_min": float(quality["auroc"].min()),
        "clip_ece": float(quality["ece"].max()),
    }


def drift(images: int, seed: int) -> dict[str, dict[str, float]]:
    """Reader -> AUROC on edited less on real images, with its interval, over all edits of known truth."""
    phantom = Phantom(images, "portable", seed=seed)
    readers = [CLIPReader.from_shipped(), ProbeReader.from_shipped()]
    contrasts = default_contrasts(phantom.graph, phantom.world.content.shifts)
    found = reader_drift(DiffusionEditor.from_shipped(), readers, phantom, np.arange(images), contrasts).summary
    mine = found[found["over"] == "edits"].set_index("reader")
    return {str(name): {k: float(row[k]) for k in ("drift", "low", "high")} for name, row in mine.iterrows()}


def streaming(images: int, concepts: int) -> dict[str, float]:
    """Seconds and peak memory of reading so many images for so many concepts; run in a process of its own."""
    reader = CLIPReader.from_shipped()
    times = -(-concepts // len(reader.concepts))
    asked = [replace(c, name=f"{c.name} {i}") for i in range(times) for c in reader.concepts][:concepts]
    reader = reader.using(concepts=asked)
    stream = _Repeated(Phantom(256, "independent", seed=3), images)
    begun = time.perf_counter()
    read = sum(len(scores) for _, scores in read_dataset(reader, stream, np.arange(images)))
    assert read == images
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "peak_rss_gb": peak_rss_gb()}


class _Repeated:
    """A few images over and over: drawing is not what is timed."""

    def __init__(self, phantom: Phantom, images: int) -> None:
        self.pool = phantom.images(np.arange(len(phantom)))
        again = np.arange(images) % len(phantom)
        self.attributes = phantom.attributes.iloc[again].reset_index(drop=True)
        self.patients = phantom.patients.iloc[again].reset_index(drop=True)
        self.texts, self.fingerprint = None, phantom.fingerprint

    def images(self, rows: Any) -> torch.Tensor:
        """``(n, 1, 64, 64)``."""
        return self.pool[np.asarray(rows) % len(self.pool)]


def measured_apart(images: int, concepts: int) -> dict[str, float]:
    """:func:`streaming` in a fresh process, whose peak memory is its own."""
    command = [sys.executable, __file__, "--stream", str(images), str(concepts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def parts_beside(folder: Path) -> dict[str, Any]:
    """What other scripts have measured; ``None`` where a result is not there."""
    found: dict[str, Any] = {}
    for name, keys in PARTS.items():
        file = folder / f"{name}.json"
        summary = json.loads(file.read_text())["summary"] if file.is_file() else {}
        found |= {key: summary.get(key) for key in keys}
    return found


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--nih", type=Path, help="a folder of ChestX-ray14: reading_nih.py is run on it first")
    parser.add_argument("--images", type=int, default=JUDGED)
    parser.add_argument("--edited", type=int, default=EDITED, help="images of the drift; 0: none")
    parser.add_argument("--stream", type=int, nargs=2, metavar=("IMAGES", "CONCEPTS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stream:
        print(json.dumps(streaming(*args.stream)))
        return
    folder = (args.json or Path("benchmarks/results/readers.json")).parent
    if args.nih is not None:
        script = [sys.executable, str(Path(__file__).with_name("reading_nih.py"))]
        subprocess.run([*script, "--data", str(args.nih), "--json", str(folder / "reading_nih.json")], check=True)
    quality, summary = zero_shot(CLIPReader.from_shipped(), args.images, JUDGE_SEED)
    print(quality[["auroc", "auroc_low", "auroc_high", "slope", "ece"]].round(3).to_string())
    few, many = measured_apart(STREAMED // 10, CONCEPTS), measured_apart(STREAMED, CONCEPTS)
    moved = drift(args.edited, EDIT_SEED) if args.edited else {}
    whole: dict[str, Any] = {
        **{key: round(value, 4) for key, value in summary.items()},
        "clip": {
            name: {k: round(float(row[k]), 4) for k in ("auroc", "auroc_low", "auroc_high", "slope", "ece")}
            for name, row in quality.iterrows()
        },
        "drift": round(moved["clip"]["drift"], 4) if moved else None,
        "drift_by_reader": {name: {k: round(v, 4) for k, v in row.items()} for name, row in moved.items()},
        "seconds_10k_x_60": round(many["seconds"], 1),
        "peak_rss_gb": round(many["peak_rss_gb"], 2),
        "peak_rss_gb_1k": round(few["peak_rss_gb"], 2),
        **parts_beside(folder),
    }
    for key, value in whole.items():
        if key not in ("clip", "nih_auroc"):
            print(key, value)
    record(args.json, seed=JUDGE_SEED, summary=whole)


if __name__ == "__main__":
    main()
