"""Which inversion? Exactness, cost and error to true counterfactuals, side by side. The default is chosen by this table, and by
how far devices come and go in that of ``editors.py``.

    python benchmarks/inversion.py --json benchmarks/results/inversion.json

Two pipelines on the same phantoms: ``--editor``, and one that predicts noise (or v) under Stable Diffusion's schedule, on
which every method works: ``--second FOLDER``, or the shipped flow told in noise, an exact change of variables
(:class:`Renoised`). An image is asked ``--asked`` of the contrasts, which go round. ``summary``:

- ``inversion``: method -> figures on ``--editor``; ``second``: the same on the other pipeline. ``errors``: (error - floor) /
  (nothing - floor) of edits to the nearest of 16 true counterfactuals, a guidance scale each; ``error``: the least of them,
  and ``evaluations`` (network evaluations, a gradient counts two more) and ``seconds`` (of one processor) an
  image inverted and edited once at that scale. ``round_trip``: relative error of latents redrawn under the field of their
  inversion, at guidance 1 and 3, in float32 and, for methods called exact, with a bfloat16 network, on ``--round-trips``
  images. ``null`` or absent: the method has no meaning there.
- ``default_over_null_text``: on the second pipeline, the default's error, evaluations and seconds over null text's.
- ``shared_inversion_cost_ratio_k8``: 8 edits from one inversion over 8 inversions and edits, in evaluations, one evaluation a
  step; ``shared_inversion_cost``: also with two branches, and in seconds.
- ``overhead_fraction``: processor time of an edit over that of its network evaluations alone, less 1; the median of pairs
  timed in turn, which are in ``overhead_of_pairs``.

Methods are shared out among ``--workers`` processes of one thread each. The defaults take two cores some minutes;
``--images 64 --asked 5`` narrows the intervals, in hours.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from record import record
from torch import Tensor

from causal_cxr.audits.fidelity import Question, errors, mean_error_ratio, questions
from causal_cxr.data.phantom import Phantom
from causal_cxr.editors.diffusion import DiffusionEditor
from causal_cxr.editors.diffusion.denoiser import Denoiser
from causal_cxr.editors.diffusion.guidance import ClassifierFree
from causal_cxr.editors.diffusion.inversion import INVERSIONS, Inversion, NullText
from causal_cxr.editors.diffusion.process import Process
from causal_cxr.graphs import Contrast, default_contrasts

SCALES = (1.0, 3.0)
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
K = 8  #: interventions that share an inversion
SHARING = 4  #: images on which that is counted
BEGUN = time.monotonic()
PAIRS = 5  #: of an edit and its bare network evaluations
#: What methods say of a process or a guidance that they do not work for.
REFUSALS = ("some signal at every time", "which flows lack", "no guidance", "works for flows")


class Renoised(torch.nn.Module):
    """The network of a flow as one that predicts the noise, or v, of a variance-preserving schedule.

    ``x = a x_0 + s e`` over ``a + s`` is the flow's point at time ``s / (a + s)``, and of its velocity ``e - x_0`` there
    noise and image follow: the same model of the same images, and nothing is fitted.
    """

    def __init__(self, flow: Any, process: Process) -> None:
        super().__init__()
        assert process.alphas is not None
        self.flow, self.config, self.predicts = flow, flow.config, process.predicts
        self.alphas: Tensor
        self.register_buffer("alphas", process.alphas, persistent=False)

    def forward(self, x: Tensor, time: Tensor, **told: Any) -> SimpleNamespace:
        """As diffusers' UNet is called, at the schedule's times."""
        alpha = self.alphas[time.long(), None, None, None]
        a, s = alpha.sqrt().float(), (1 - alpha).sqrt().float()
        velocity = self.flow(x / (a + s), 1000 * (s / (a + s)).flatten(), **told).sample.float()
        if self.predicts == "epsilon":
            return SimpleNamespace(sample=(x + a * velocity) / (a + s))
        return SimpleNamespace(sample=((a - s) * x + velocity) / (a + s))


def renoised(editor: DiffusionEditor, prediction: str) -> DiffusionEditor:
    """An editor that fits a flow, as one that predicts noise or v under Stable Diffusion's schedule."""
    process = Process.from_scheduler({"prediction_type": prediction, **SCHEDULE})
    pipeline = replace(editor.pipeline, unet=Renoised(editor.unet, process), process=process)
    return editor.using(pipeline=pipeline)


def guidance(method: Inversion, scale: float) -> ClassifierFree:
    """Inverted without guidance, as is customary; null text is fitted to that of the edit."""
    return ClassifierFree(scale, inverted=scale if isinstance(method, NullText) else 1.0)


# -- exactness -----------------------------------------------------------------------------------------------------------
@torch.no_grad()
def round_trip(
    editor: DiffusionEditor, method: Inversion, phantom: Phantom, scale: float, precision: torch.dtype | None
) -> float:
    """Relative error of all latents together."""
    denoiser = Denoiser(editor.unet, editor.pipeline.process, precision)
    field = ClassifierFree(scale, inverted=scale).source(denoiser, editor.describe, phantom.attributes)
    latents = editor.pipeline.latents.encode(phantom.images(np.arange(len(phantom))))
    generator = torch.Generator().manual_seed(0)
    trajectory = method.invert(field, latents, lambda: torch.randn(latents.shape, generator=generator))
    return float((method.redraw(trajectory, field) - latents).norm() / latents.norm())


def round_trips(editor: DiffusionEditor, method: Inversion, phantom: Phantom) -> dict[str, dict[str, float | None]]:
    """Precision -> guidance scale -> error; bfloat16 is asked of methods called exact only."""
    precisions = {"float32": None} | ({"bfloat16": torch.bfloat16} if method.exact else {})
    return {
        name: {f"{w:g}": _if_it_has_meaning(partial(round_trip, editor, method, phantom, w, kind)) for w in SCALES}
        for name, kind in precisions.items()
    }


# -- error and cost ------------------------------------------------------------------------------------------------------
def hands(phantom: Phantom, contrasts: Sequence[Contrast], asked: int) -> list[list[Question]]:
    """``asked`` rounds, in each of which every image is asked one contrast: one redraw answers a round."""
    rows, shown = np.arange(len(phantom)), [c for c in contrasts if c.attribute in phantom.graph.image_parents]
    if not 1 <= asked <= len(shown):
        raise SystemExit(f"An image can be asked 1 to {len(shown)} contrasts, got --asked {asked}.")
    return [
        [
            question
            for i, contrast in enumerate(shown)
            for question in questions(phantom, rows[(rows + hand) % len(shown) == i], [contrast])
        ]
        for hand in range(asked)
    ]


def edited(
    editor: DiffusionEditor, phantom: Phantom, rounds: Sequence[Sequence[Question]], method: Inversion
) -> dict[float, dict[str, Any]]:
    """Guidance scale -> ``error`` with its interval, ``evaluations`` and processor ``seconds`` an image; where it has meaning.

    Scales that invert alike share the inversion, and each is charged for it.
    """
    rows = np.arange(len(phantom))
    images, factual, found, inverted = phantom.images(rows), phantom.attributes, {}, {}
    for w in SCALES:
        way = editor.using(inversion=method, guidance=guidance(method, w))
        scale = guidance(method, w).inverted
        if scale not in inverted:
            inverted[scale] = _if_it_has_meaning(partial(_timed, way, partial(way.abduct, images, factual, seeds=rows)))
        if inverted[scale] is None:
            continue
        abduction, evaluations, seconds = inverted[scale]
        scored, edits = [], np.zeros(2)
        for questions_ in rounds:
            edit, *spent = _timed(way, partial(way.edit, abduction, asked_for(factual, questions_)))
            edits += np.array(spent) / len(rounds)
            scored += [errors(question, edit.images[question.rows]) for question in questions_]
        evaluations, seconds = (np.array([evaluations, seconds]) + edits) / len(rows)
        found[w] = {"error": mean_error_ratio(pd.concat(scored)), "evaluations": evaluations, "seconds": seconds}
    return found


def asked_for(factual: pd.DataFrame, asked: Sequence[Question]) -> pd.DataFrame:
    """The rows as questions that share none want them; those of which nothing is asked stay."""
    targets = pd.concat([question.target for question in asked])
    return pd.concat([targets, factual.drop(index=targets.index)]).loc[factual.index]


def _timed(editor: DiffusionEditor, do: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, with the network evaluations and processor seconds that it took."""
    before, begun = editor.ledger.evaluations, time.process_time()
    made = do()
    return made, editor.ledger.evaluations - before, time.process_time() - begun


@dataclass(frozen=True)
class Setting:
    """What is compared on what; see the options."""

    images: int
    asked: int
    round_trips: int
    seed: int
    editor: str
    second: Path | None
    prediction: str
    steps: int | None

    def method(self, name: str) -> Inversion:
        """The inversion of that name."""
        method: Any = INVERSIONS[name]()
        return replace(method, steps=self.steps) if self.steps is not None and hasattr(method, "steps") else method

    @cached_property
    def phantom(self) -> Phantom:
        """To edit."""
        return Phantom(self.images, "portable", seed=self.seed)

    @cached_property
    def rounds(self) -> list[list[Question]]:
        """See :func:`hands`."""
        return hands(self.phantom, default_contrasts(self.phantom.graph, {"age": 20.0}), self.asked)

    @cached_property
    def pipelines(self) -> dict[str, DiffusionEditor]:
        """The two, each with its default inversion, under the keys of the summary."""
        shipped = DiffusionEditor.from_shipped()
        both = {
            "inversion": shipped if self.editor == "shipped" else DiffusionEditor.from_pretrained(self.editor),
            "second": renoised(shipped, self.prediction)
            if self.second is None
            else DiffusionEditor.from_pretrained(self.second),
        }
        return {key: each.using(inversion=self.method(each.inversion.name)) for key, each in both.items()}


@cache
def _here(setting: Setting) -> Setting:
    """One a process, with what it has loaded."""
    return setting


def figures(setting: Setting, pipeline: str, name: str) -> dict[str, Any] | None:
    """Of one method on one pipeline; ``None`` where it has no meaning."""
    here, method = _here(setting), setting.method(name)
    editor = here.pipelines[pipeline]
    found = edited(editor, here.phantom, here.rounds, method)
    if not found:
        return None
    best = min(found, key=lambda w: found[w]["error"]["ratio"])
    trips = Phantom(here.round_trips, "portable", seed=here.seed)
    return {
        "settings": repr(method), "exact": method.exact, "round_trip": round_trips(editor, method, trips),
        "errors": {f"{w:g}": each["error"] for w, each in found.items()}, "scale": best,
        "error": found[best]["error"]["ratio"],
        "evaluations": found[best]["evaluations"], "seconds": found[best]["seconds"],
    }  # fmt: skip


def tabulated(setting: Setting, names: Sequence[str], workers: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Pipeline -> method -> figures; methods are shared out among processes of one thread each."""
    # The longest first, so that none is left for the end.
    order = sorted(((p, name) for p in ("inversion", "second") for name in names), key=lambda t: t[1] != NullText.name)
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        asked = {pool.submit(figures, setting, *task): task for task in order}
        for done in as_completed(asked):
            row = done.result()
            told = (
                "no meaning" if row is None else f"{row['error']:8.3f}{row['evaluations']:8.0f}{row['seconds']:9.3f} s"
            )
            print(f"{time.monotonic() - BEGUN:6.0f} s {' '.join(asked[done]):28}{told}", flush=True)
    found = {task: done.result() for done, task in asked.items()}
    return {p: {name: row for name in names if (row := found[p, name]) is not None} for p in ("inversion", "second")}


def _if_it_has_meaning(measure: Callable[[], Any]) -> Any:
    """``None`` where the method refuses the process or the guidance."""
    try:
        return measure()
    except ValueError as refusal:
        if not any(words in str(refusal) for words in REFUSALS):
            raise
        return None


# -- the default's cost --------------------------------------------------------------------------------------------------
def cost(editor: DiffusionEditor, phantom: Phantom, edits: int = 1, inversions: int = 1) -> tuple[float, float]:
    """Evaluations and processor seconds an image."""
    rows = np.arange(len(phantom))
    images, editor = phantom.images(rows), editor.using()
    begun = time.process_time()
    for _ in range(inversions):
        abduction = editor.abduct(images, phantom.attributes, seeds=rows)
        for _ in range(edits):
            editor.edit(abduction, phantom.attributes.iloc[::-1].set_axis(phantom.attributes.index))
    return editor.ledger.evaluations / len(rows), (time.process_time() - begun) / len(rows)


def shared(editor: DiffusionEditor, phantom: Phantom) -> dict[str, dict[str, float]]:
    """K edits of one inversion over K inversions and edits."""
    found = {}
    for name, scale in {"one_evaluation_a_step": 1.0, "two_branches": 3.0}.items():
        way = editor.using(guidance=ClassifierFree(scale))
        together, apart = cost(way, phantom, edits=K), cost(way, phantom, inversions=K)
        found[name] = {"evaluations": together[0] / apart[0], "seconds": together[1] / apart[1]}
    return found


def overhead(editor: DiffusionEditor, phantom: Phantom, pairs: int = PAIRS) -> list[float]:
    """Processor time of inversions and edits over that of the same network evaluations alone, less 1; pairs timed in turn.

    The evaluations are those of the edit, with their inputs, in its precision, one after the other: noise of the machine
    that is slower than a pair falls on both.
    """
    calls, kind = recorded(editor, phantom)
    device = editor.pipeline.device.type

    def bare() -> float:
        begun = time.process_time()
        with torch.no_grad(), torch.autocast(device, kind or torch.bfloat16, enabled=kind is not None):
            for args, options in calls:
                editor.unet(*args, **options)
        return time.process_time() - begun

    def whole() -> float:
        return cost(editor, phantom)[1] * len(phantom)

    bare(), whole()  # once to warm up
    found = []
    for i in range(pairs):  # who goes first alternates
        spent = {measure: measure() for measure in ((bare, whole) if i % 2 else (whole, bare))}
        found.append(spent[whole] / spent[bare] - 1)
    return found


def recorded(
    editor: DiffusionEditor, phantom: Phantom
) -> tuple[list[tuple[tuple[Any, ...], dict[str, Any]]], torch.dtype | None]:
    """Arguments of the network's evaluations in an inversion and edit of each image, and what they are computed in."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    kinds: set[torch.dtype | None] = set()
    device = editor.pipeline.device.type

    def note(_: torch.nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        calls.append((args, options))
        kinds.add(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None)

    hook = editor.unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        cost(editor, phantom)
    finally:
        hook.remove()
    (kind,) = kinds
    return calls, kind


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--editor", default="shipped", help="shipped, or a folder")
    parser.add_argument("--second", type=Path, help="folder of the pipeline on which every method works")
    parser.add_argument(
        "--prediction",
        default="epsilon",
        choices=("epsilon", "v_prediction"),
        help="of the shipped flow without --second",
    )
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--asked", type=int, default=2, help="contrasts an image")
    parser.add_argument("--round-trips", type=int, default=2, help="images of those")
    parser.add_argument("--methods", nargs="+", default=list(INVERSIONS), choices=list(INVERSIONS))
    parser.add_argument("--steps", type=int, help="of every method that has one number of them; their own unless given")
    parser.add_argument("--seed", type=int, default=78)
    parser.add_argument("--workers", type=int, default=2, help="processes, a thread each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(
        args.images, args.asked, args.round_trips, args.seed, args.editor, args.second, args.prediction, args.steps
    )
    # The default's cost comes first, while nothing else runs.
    first, second = setting.pipelines.values()
    pairs = overhead(first, setting.phantom)
    together = shared(first, Phantom(SHARING, "portable", seed=args.seed))
    summary: dict[str, Any] = {
        "default": repr(first.inversion),
        "second_predicts": second.pipeline.process.predicts,
        "overhead_fraction": float(np.median(pairs)),
        "overhead_of_pairs": pairs,
        "shared_inversion_cost": together,
        "shared_inversion_cost_ratio_k8": together["one_evaluation_a_step"]["evaluations"],
        "images": args.images,
        "asked": args.asked,
    }
    print(summary, flush=True)
    summary |= tabulated(setting, args.methods, args.workers)
    mine, theirs = (summary["second"].get(name) for name in (second.inversion.name, NullText.name))
    if mine and theirs:
        summary["default_over_null_text"] = {
            figure: mine[figure] / theirs[figure] for figure in ("error", "evaluations", "seconds")
        }
        print(summary["default_over_null_text"])
    for name in ("inversion", "second"):
        table = pd.DataFrame(summary[name]).T
        print(table[["error", "scale", "evaluations", "seconds", "round_trip"]].to_string() if len(table) else name)
    record(args.json, seed=args.seed, summary=summary)


if __name__ == "__main__":
    main()
