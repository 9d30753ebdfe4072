"""Whose counterfactuals come closest to the truth, keep all else as it was, and at what cost? Every editor on the same images.

    python benchmarks/editors.py --worlds portable scanner-site --editors diffusion diffusion-heun scm scm-hvae \
        --json benchmarks/results/editors.json --figure editors.png

On worlds whose true counterfactuals are known, images that no editor was fitted on. Editors: ``diffusion`` (the world's
adapter), ``diffusion-NAME`` (the same weights under another inversion), ``clip-guided``, ``flamingo``, ``scm``,
``scm-map`` (latents that are a map, not a vector), ``scm-tuned`` (that one, fine-tuned on counterfactuals by networks that read
every attribute that shows), ``scm-hvae``.

Under ``summary.<editor>``, means over worlds (``leak_worst`` and ``peak_rss_gb``: the largest), each ``null`` where not measured:

- ``error_ratio_nothing``: (error - floor) / (nothing - floor) of the root mean square error to the nearest of 16 true
  counterfactuals, mean over attributes that show; 0 is an oracle sampler, 1 doing nothing. ``error_ratio_scm``: that over
  the best SCM's of the run.
- ``tea_effectiveness``, ``tea_amplification``: made change along the true one, and across it, where the image reveals the
  change: on pixels in which all true counterfactuals agree. Ratios of sums over images, mean over the attributes whose true
  change is told from 0; ``left_out_revealed`` in ``detail`` says why one is not among them.
- ``leak_mean``, ``leak_worst``: |made - true| change of every other sign, hidden ones too, over the intended change, in each
  direction, read by a probe that shares no images with any editor; ``detail`` has the matrix, and a second reader's.
- ``composition_1``, ``composition_10``: mean absolute change after so many null edits in another wording;
  ``reversibility``: after an edit and the edit back. On the first ``--cycled`` images; intensities in [0, 1].
- ``fid``: of the edits against true counterfactuals of the same images (held-out redraws; the unedited images are scored
  alike, in ``detail``), on pooled features of ``sign_network.py``, a classifier of the world's signs.
- ``seconds_per_edit``: wall time of inversions and edits over edits. ``peak_rss_gb``: of a process of its own that loads the
  editor, inverts 64 images and edits them, libraries included.

``detail.<world>.<editor>``: per attribute with patient bootstrap intervals, by direction (appearing and disappearing apart),
effectiveness by readers, minimality, KID, SSIM and the network's local distance outside the region that truth changes.
``disentanglement``: lever set -> ``leak_mean`` per world (``levers.py``). ``inversion`` and the two costs beside it are
those of ``benchmarks/inversion.py``, read from its file.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from contact_sheet import contact_sheet
from fitted import SHIPPED, fitted_editor, fitted_network, fitted_reader
from image_quality import fid
from levers import LEVERS, lever_editors, lever_leaks
from record import peak_rss_gb, record
from sign_network import REACH, SignNetwork
from torch import Tensor
from torch.nn import functional as F

from causal_cxr.audits.fidelity import (
    BATCH,
    Leak,
    Question,
    Readings,
    answers,
    changed,
    composition,
    error_ratios,
    errors,
    leak,
    mean_error_ratio,
    mean_true_effect_agreement,
    questions,
    reversibility,
    true_effect_agreement,
    true_readings,
)
from causal_cxr.data.phantom.world import World
from causal_cxr.editors.editor import Abduction, Edit, Editor
from causal_cxr.graphs import default_contrasts

INVERSION = Path(__file__).with_name("results") / "inversion.json"
FROM_INVERSION = ("inversion", "shared_inversion_cost_ratio_k8", "overhead_fraction")
FIGURES = (
    "error_ratio_nothing", "error_ratio_scm", "tea_effectiveness", "tea_amplification", "leak_mean", "leak_worst",
    "composition_1", "composition_10", "reversibility", "fid", "seconds_per_edit", "peak_rss_gb",
)  # fmt: skip
LARGEST = ("leak_worst", "peak_rss_gb")  #: over worlds; the other figures are means
SUBSETS, SUBSET = 50, 100  #: of KID


class Timed:
    """An editor, and the wall time of its calls."""

    def __init__(self, editor: Editor) -> None:
        self.editor, self.abducting, self.editing, self.abducted, self.edited = editor, 0.0, 0.0, 0, 0

    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        """See :class:`~causal_cxr.editors.Editor`."""
        begun = time.perf_counter()
        abduction = self.editor.abduct(images, attributes, seeds=seeds)
        self.abducting, self.abducted = self.abducting + time.perf_counter() - begun, self.abducted + len(images)
        return abduction

    def edit(self, abduction: Abduction, target: pd.DataFrame, **options: Any) -> Edit:
        """See :class:`~causal_cxr.editors.Editor`."""
        begun = time.perf_counter()
        edit = self.editor.edit(abduction, target, **options)
        self.editing, self.edited = self.editing + time.perf_counter() - begun, self.edited + len(target)
        return edit

    def seconds(self) -> dict[str, float]:
        """Of an inversion, of an edit, and of an edit with its share of inversions, an image."""
        return {
            "inversion": self.abducting / self.abducted,
            "edit": self.editing / self.edited,
            "both": (self.abducting + self.editing) / self.edited,
        }


class Judge:
    """The truth of a world, drawn and read once, to which every editor's answers are held.

    Args:
        world: whose.
        rows: images, of a phantom of ``seed``.
        seed: no editor or reader was fitted with it.
        k: true counterfactuals an image.
    """

    def __init__(self, world: World, rows: int, seed: int, k: int = 16) -> None:
        self.seed, self.phantom = seed, world.sample(rows, seed)
        self.contrasts = default_contrasts(self.phantom.graph, world.content.shifts)
        self.rows = np.arange(rows)
        self.images, self.factual = self.phantom.images(self.rows), self.phantom.attributes
        self.network, self.probe = fitted_network(world), fitted_reader(world)
        self.readers: dict[str, Any] = {"probe": self.probe, "network": self.network}
        self.slopes = {
            "probe": self.probe.quality.concepts["slope"].to_numpy(dtype=float),
            "network": self.network.slopes,
        }
        self.asked = questions(self.phantom, self.rows, self.contrasts, k=k, seed=seed)
        self.read = self.readings_of(self.asked)
        self.redraws = torch.cat([one.redraw for one in self.asked])

    def readings_of(self, asked: Sequence[Question]) -> dict[str, list[Callable[[Tensor], Readings]]]:
        """By reader, what reads an answer to each question."""
        return {name: [true_readings(reader, one) for one in asked] for name, reader in self.readers.items()}

    def leak_by(self, reader: str, made: Sequence[Tensor]) -> Leak:
        """The leak of answers, as a reader sees it."""
        readings = [of(edited) for of, edited in zip(self.read[reader], made, strict=True)]
        return leak(readings, self.readers[reader].concepts, slopes=self.slopes[reader], seed=self.seed)

    def fid(self, made: Sequence[Tensor]) -> float:
        """Of images against true counterfactuals."""
        return fid(self.redraws, torch.cat(list(made)), self.network.features, self.network.n_features)


def judged(editor: Editor, judge: Judge, cycled: int) -> tuple[dict[str, Any], dict[str, Any], list[Tensor]]:
    """Figures of the summary, detail, and the answers."""
    timed, seed = Timed(editor), judge.seed
    made = answers(timed, judge.images, judge.factual, [one.target for one in judge.asked], seed=seed)
    seconds = timed.seconds()
    found = pd.concat([errors(one, edited) for one, edited in zip(judge.asked, made, strict=True)], ignore_index=True)
    ratio, leaks = mean_error_ratio(found), {reader: judge.leak_by(reader, made) for reader in judge.read}
    few, factual = judge.images[:cycled], judge.factual.iloc[:cycled]
    still = composition(editor, few, factual, seed=seed)
    back = {
        one.contrast.name: reversibility(
            editor, one.images[:cycled], one.factual.iloc[:cycled], edited[:cycled], one.target.iloc[:cycled], seed=seed
        )
        for one, edited in zip(judge.asked, made, strict=True)
    }
    tea = mean_true_effect_agreement(found)
    figures = {
        "error_ratio_nothing": ratio["ratio"], "tea_effectiveness": tea["effectiveness"],
        "tea_amplification": tea["amplification"], "leak_mean": leaks["probe"].mean,
        "leak_worst": leaks["probe"].worst, "composition_1": still[1], "composition_10": still[10],
        "reversibility": float(np.mean(list(back.values()))), "fid": judge.fid(made), "seconds_per_edit": seconds["both"],
    }  # fmt: skip
    outside = found.groupby("attribute")["outside"].mean()
    detail = {
        "error_ratio_nothing": ratio,
        "attributes": error_ratios(found).join(true_effect_agreement(found)).join(outside).to_dict("index"),
        "directions": _by_direction(found),
        "leak": {reader: _told(one) for reader, one in leaks.items()},
        "reversibility": back,
        "kid": _kid(judge, made),
        "outside_the_change": _outside(judge.asked, made, judge.network),
        "seconds": seconds,
    }
    return figures, detail, made


def _by_direction(found: pd.DataFrame) -> dict[str, Any]:
    """Ratio, effectiveness and amplification of each attribute, forth and back: of a finding, appearing and disappearing."""
    directions = {}
    for (attribute, sign), mine in found.groupby(["attribute", "sign"], sort=False):
        entry = error_ratios(mine).join(true_effect_agreement(mine)).iloc[0].to_dict()
        directions.setdefault(attribute, {})["forth" if sign == 1 else "back"] = entry
    return directions


def _told(one: Leak) -> dict[str, Any]:
    return {
        "mean": [one.mean, one.mean_low, one.mean_high],
        "worst": [one.worst, one.worst_low, one.worst_high],
        "worst_cell": one.worst_cell,
        "effectiveness": one.effectiveness().to_dict(),
        "matrix": one.matrix().to_dict("index"),
        "cells": one.cells.to_dict("records"),
    }


def _kid(judge: Judge, made: Sequence[Tensor]) -> dict[str, float]:
    """Kernel inception distance (Binkowski et al., ICLR 2018) on the network's features, with its deviation over subsets."""
    from torchmetrics.image.kid import KernelInceptionDistance

    real, fake = judge.network.features(judge.redraws), judge.network.features(torch.cat(list(made)))
    given = torch.nn.Identity()
    given.num_features = judge.network.n_features
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")  # a few numbers an image
        metric = KernelInceptionDistance(feature=given, subsets=SUBSETS, subset_size=min(SUBSET, len(real)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(judge.seed)
        metric.update(real, real=True)
        metric.update(fake, real=False)
        mean, deviation = metric.compute()
    return {"mean": float(mean), "sd": float(deviation)}


def _outside(asked: Sequence[Question], made: Sequence[Tensor], network: SignNetwork) -> dict[str, Any]:
    """SSIM to the factual image, and the network's local distance, where truth changes nothing; by attribute.

    So many pixels around what changes are left out as the network's features see (SSIM's window is smaller). Images whose
    truth changes nearly everything, such as another view, have no outside.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = {}
    for one, edited in zip(asked, made, strict=True):
        still = F.max_pool2d(changed(one).float(), 2 * REACH + 1, stride=1, padding=REACH) == 0
        share = still.flatten(1).float().mean(1)
        kept = (share > 0.1).nonzero()[:, 0]
        if not len(kept):
            continue
        a, b, where = one.images[kept], edited[kept], still[kept]
        maps = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True, reduction="none")[1]
        similar = (maps * where).sum(dim=(1, 2, 3)) / where.sum(dim=(1, 2, 3))
        found[one.contrast.attribute] = {
            "ssim": float(similar.mean()),
            "distance": float(network.distance(a, b, where).nanmean()),
            "share_of_pixels": float(share[kept].mean()),
            "images": len(kept),
        }
    return found


def disentanglement(
    world: World, judge: Judge, levers: Sequence[str], *, fit: bool, steps: int | None, folder: Path | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Lever set -> ``leak_mean`` in this world, and the detail, under total effects."""
    editors = lever_editors(world, levers, fit=fit, steps=steps, folder=folder)
    asked = questions(judge.phantom, judge.rows, judge.contrasts, seed=judge.seed, held=False)
    leaks = lever_leaks(
        editors, fitted_editor("scm", world).scm, judge.phantom, asked, judge.readings_of(asked)["probe"],
        judge.probe.concepts, judge.slopes["probe"], seed=judge.seed,
    )  # fmt: skip
    return {name: one.mean for name, one in leaks.items()}, {name: _told(one) for name, one in leaks.items()}


def references(judge: Judge) -> dict[str, Any]:
    """What doing nothing and an oracle sampler, one more redraw, get: the room that there is, and the noise."""
    given = {
        "nothing": [one.images for one in judge.asked],
        "oracle": [judge.phantom.counterfactual_set(one.target, 1, seed=judge.seed + 2)[0] for one in judge.asked],
    }
    found = {}
    for name, made in given.items():
        scored = pd.concat([errors(one, edited) for one, edited in zip(judge.asked, made, strict=True)])
        told, tea = _told(judge.leak_by("probe", made)), mean_true_effect_agreement(scored)
        found[name] = {
            "error_ratio_nothing": mean_error_ratio(scored)["ratio"], "tea_effectiveness": tea["effectiveness"],
            "tea_amplification": tea["amplification"], "fid": judge.fid(made),
            "leak": {key: told[key] for key in ("mean", "worst", "worst_cell")},
        }  # fmt: skip
    return found


def peak_memory(kind: str, world: str, flamingo: Path | None) -> float:
    """GB of resident memory at its peak in a fresh process: see :func:`_own_peak`."""
    command = [sys.executable, __file__, "--worlds", world, "--editors", kind, "--own-peak"]
    if flamingo is not None:
        command += ["--flamingo", str(flamingo)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Measuring the memory of {kind!r} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def _own_peak(kind: str, name: str, flamingo: Path | None) -> float:
    """Load an editor, invert a batch, edit it, and look at this process's peak."""
    world = World.load(name)
    phantom, editor = world.sample(BATCH, 0), fitted_editor(kind, world, folder=flamingo)
    images, contrast = phantom.images(np.arange(BATCH)), default_contrasts(phantom.graph, world.content.shifts)[0]
    moved, _ = contrast.apply(phantom.graph.attributes[contrast.attribute], phantom.attributes[contrast.attribute])
    answers(editor, images, phantom.attributes, [phantom.attributes.assign(**{contrast.attribute: moved})])
    return peak_rss_gb()


def summarised(
    by_world: Mapping[str, Mapping[str, Mapping[str, Any]]], kinds: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """World -> editor -> figures, over worlds; ``error_ratio_scm`` is set beside the best SCM of each world."""
    summary: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        worlds = []
        for figures in by_world.values():
            scms = [figures[other]["error_ratio_nothing"] for other in kinds if other.startswith("scm")]
            over = {"error_ratio_scm": figures[kind]["error_ratio_nothing"] / min(scms) if scms else float("nan")}
            worlds.append(dict(figures[kind]) | over)
        summary[kind] = {}
        for figure in FIGURES:
            values = np.array([world.get(figure, np.nan) for world in worlds], dtype=float)
            known = values[~np.isnan(values)]
            over_worlds = np.max if figure in LARGEST else np.mean
            summary[kind][figure] = float(over_worlds(known)) if len(known) else None
    return summary


def _plain(value: Any) -> Any:
    """As JSON has it: rounded, NaN as null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return round(float(value), 5) if np.isfinite(value) else None
    return value


def show(summary: Mapping[str, Any], kinds: Sequence[str]) -> None:
    """Side by side, editors as columns; the levers below."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=60 + 16 * len(kinds))
    table = Table("", *kinds, title="editors on the same images")
    for figure in FIGURES:
        values = [summary[kind][figure] for kind in kinds]
        table.add_row(figure, *("-" if value is None else f"{value:.4g}" for value in values))
    console.print(table)
    if summary["disentanglement"]:
        worlds = list(next(iter(summary["disentanglement"].values())))
        table = Table("levers", *worlds, title="leak_mean, total effects")
        for lever, leaks in summary["disentanglement"].items():
            table.add_row(lever, *(f"{leaks[world]:.4g}" for world in worlds))
        console.print(table)


def inversion_figures(file: Path | None) -> dict[str, Any]:
    """What ``benchmarks/inversion.py`` wrote; ``None`` each without a file.

    Raises:
        SystemExit: the file is another benchmark's.
    """
    if file is None:
        return dict.fromkeys(FROM_INVERSION)
    summary = json.loads(file.read_text())["summary"]
    missing = [key for key in FROM_INVERSION if key not in summary]
    if missing:
        raise SystemExit(f"{file} has no {missing} under summary; write it with benchmarks/inversion.py --json {file}.")
    return {key: summary[key] for key in FROM_INVERSION}


def main() -> None:
    """Measure, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", default=[SHIPPED], metavar="WORLD")
    parser.add_argument("--editors", nargs="*", default=["diffusion", "scm"], metavar="EDITOR")
    parser.add_argument("--levers", nargs="*", default=[], metavar="LEVER", help=f"of {LEVERS}, or 'every'")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--cycled", type=int, default=64, help="images of composition and reversibility")
    parser.add_argument("--seed", type=int, default=77, help="not 55: on those the solver's grid was chosen")
    parser.add_argument("--fit-missing", action="store_true", help="fit balanced adapters that are not in the cache")
    parser.add_argument("--balanced", type=Path, metavar="FOLDER", help="balanced adapters, WORLD-ATTRIBUTE each")
    parser.add_argument("--balanced-steps", type=int, help="of these fits")
    parser.add_argument("--flamingo", type=Path, metavar="FOLDER", help="layers that read exemplars, unless they ship")
    parser.add_argument("--inversion-json", type=Path, default=INVERSION if INVERSION.is_file() else None)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="contact sheet of the first world")
    parser.add_argument("--own-peak", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.own_peak:
        print(_own_peak(args.editors[0], args.worlds[0], args.flamingo))
        return
    inverted = inversion_figures(args.inversion_json)
    levers = LEVERS if args.levers == ["every"] else args.levers
    by_world: dict[str, dict[str, Any]] = {}
    detail: dict[str, dict[str, Any]] = {}
    table: dict[str, dict[str, float]] = {lever: {} for lever in levers}
    for name in args.worlds:
        world = World.load(name)
        editors = {kind: fitted_editor(kind, world, folder=args.flamingo) for kind in args.editors}
        judge = Judge(world, args.images, args.seed)
        by_world[name], detail[name], made = {}, {"references": references(judge)}, {}
        for kind, editor in editors.items():
            begun = time.monotonic()
            figures, detail[name][kind], made[kind] = judged(editor, judge, args.cycled)
            by_world[name][kind] = figures | {"peak_rss_gb": peak_memory(kind, name, args.flamingo)}
            print(f"{name}, {kind}: {time.monotonic() - begun:.0f} s", flush=True)
        if levers:
            means, detail[name]["levers"] = disentanglement(
                world, judge, levers, fit=args.fit_missing, steps=args.balanced_steps, folder=args.balanced
            )
            for lever, value in means.items():
                table[lever][name] = value
        if args.figure is not None and name == args.worlds[0]:
            contact_sheet(args.figure, judge.asked, made)
    summary = summarised(by_world, args.editors) | inverted | {"disentanglement": table}
    show(summary, args.editors)
    record(args.json, seed=args.seed, summary=_plain(summary | {"images": args.images, "detail": detail}))


if __name__ == "__main__":
    main()
