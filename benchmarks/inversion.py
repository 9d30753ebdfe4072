"""Which inversion? Exactness, cost and error to true counterfactuals, side by side; the default is chosen by this table.

    python benchmarks/inversion.py --json benchmarks/results/inversion.json

Two pipelines on the same phantoms: ``--editor``, and a small one that predicts noise (or v), fitted on the spot or read from
``--second FOLDER``, on which every method works. ``summary``:

- ``inversion``: method -> figures on ``--editor``; ``second``: the same on the other pipeline. ``round_trip``: relative error
  of latents redrawn under the field of their inversion, at guidance 1 and 3, in float32 and with a bfloat16 network.
  ``errors``: (error - floor) / (nothing - floor) of edits to the nearest of 16 true counterfactuals, a guidance scale each;
  ``error``: the least of them, and ``evaluations`` (network evaluations, a gradient counts two more) and ``seconds`` (of
  the processor, all cores) an image inverted and edited once at that scale. ``null`` or absent: the method has no meaning there.
- ``default_over_null_text``: on the second pipeline, the default's error, evaluations and seconds over null text's.
- ``shared_inversion_cost_ratio_k8``: 8 edits from one inversion over 8 inversions and edits, in evaluations, one evaluation a
  step; ``shared_inversion_cost``: also with two branches, and in seconds.
- ``overhead_fraction``: the editor's processor time outside the network over that inside.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from record import record

from causal_cxr.audits.fidelity import Question, answers, errors, mean_error_ratio, questions
from causal_cxr.data.phantom import Phantom
from causal_cxr.data.tokenizer import build_tokenizer
from causal_cxr.editors.diffusion import DiffusionEditor, captions
from causal_cxr.editors.diffusion.denoiser import Denoiser
from causal_cxr.editors.diffusion.editor import default_inversion
from causal_cxr.editors.diffusion.fit import TEXT_LENGTH, UNSHUFFLE, build
from causal_cxr.editors.diffusion.guidance import ClassifierFree
from causal_cxr.editors.diffusion.inversion import INVERSIONS, Inversion, NullText
from causal_cxr.editors.diffusion.latents import Unshuffled
from causal_cxr.editors.diffusion.pipeline import Pipeline
from causal_cxr.editors.diffusion.process import Process
from causal_cxr.editors.diffusion.text import CLIPText
from causal_cxr.editors.finetune import Joint, finetune
from causal_cxr.graphs import default_contrasts

SCALES = (1.0, 3.0)
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
K = 8  #: interventions that share an inversion


def fitted_small(prediction: str, images: int, steps: int, channels: tuple[int, ...], seed: int) -> DiffusionEditor:
    """A small editor with Stable Diffusion's schedule, fitted to independent attributes."""
    phantom = Phantom(images, "independent", seed=seed)
    attributes = dict(phantom.graph.attributes)
    texts = [text for phrasing in (0, 1) for text in captions(phantom.attributes, attributes, phrasing)]
    tokenizer = build_tokenizer(texts, TEXT_LENGTH)
    torch.manual_seed(seed)
    unet, text_encoder = build(tokenizer, phantom.images(np.arange(1)).shape[-1], channels)
    process = Process.from_scheduler({"prediction_type": prediction, **SCHEDULE})
    pipeline = Pipeline(unet, CLIPText(text_encoder, tokenizer), Unshuffled(UNSHUFFLE), process)
    fresh = DiffusionEditor(pipeline, attributes, fitted_on=frozenset())
    return finetune(fresh, phantom, np.arange(images), what=Joint(), steps=steps, seed=seed)


def guidance(method: Inversion, scale: float) -> ClassifierFree:
    """Inverted without guidance, as is customary; null text is fitted to that of the edit."""
    return ClassifierFree(scale, inverted=scale if isinstance(method, NullText) else 1.0)


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


def edit_error(editor: DiffusionEditor, phantom: Phantom, asked: list[Question]) -> dict[str, float]:
    """Mean error ratio over attributes, with its interval."""
    made = answers(editor, phantom.images(np.arange(len(phantom))), phantom.attributes, [each.target for each in asked])
    return mean_error_ratio(pd.concat([errors(each, images) for each, images in zip(asked, made, strict=True)]))


def tabulated(
    editor: DiffusionEditor, phantom: Phantom, asked: list[Question], methods: dict[str, Inversion]
) -> dict[str, dict[str, Any]]:
    """The figures of each method."""
    table = {name: figures for name, method in methods.items() if (figures := measured(editor, phantom, asked, method))}
    for name, row in table.items():
        print(f"{name:16}{row['error']:8.3f}{row['evaluations']:8.0f}{row['seconds']:9.3f} s", row["round_trip"])
    return table


def measured(
    editor: DiffusionEditor, phantom: Phantom, asked: list[Question], method: Inversion
) -> dict[str, Any] | None:
    """The figures of one method; ``None`` where it has no meaning."""
    trips = {
        name: {f"{w:g}": _if_it_has_meaning(partial(round_trip, editor, method, phantom, w, kind)) for w in SCALES}
        for name, kind in PRECISIONS.items()
    }
    ways = {w: editor.using(inversion=method, guidance=guidance(method, w)) for w in SCALES}
    found = {w: _if_it_has_meaning(partial(edit_error, way, phantom, asked)) for w, way in ways.items()}
    scored = {w: error for w, error in found.items() if error is not None}
    if not scored:
        return None
    best = min(scored, key=lambda w: scored[w]["ratio"])
    evaluations, seconds = cost(ways[best], phantom)
    return {
        "settings": repr(method), "exact": method.exact, "round_trip": trips,
        "errors": {f"{w:g}": error for w, error in scored.items()}, "scale": best,
        "error": scored[best]["ratio"], "evaluations": evaluations, "seconds": seconds,
    }  # fmt: skip


def _if_it_has_meaning(measure: Callable[[], Any]) -> Any:
    """``None`` where the method refuses the process or the guidance."""
    try:
        return measure()
    except ValueError as refusal:
        if not any(words in str(refusal) for words in ("some signal at every time", "which flows lack", "no guidance")):
            raise
        return None


def shared(editor: DiffusionEditor, phantom: Phantom) -> dict[str, dict[str, float]]:
    """K edits of one inversion over K inversions and edits."""
    found = {}
    for name, scale in {"one_evaluation_a_step": 1.0, "two_branches": 3.0}.items():
        way = editor.using(guidance=ClassifierFree(scale))
        together, apart = cost(way, phantom, edits=K), cost(way, phantom, inversions=K)
        found[name] = {"evaluations": together[0] / apart[0], "seconds": together[1] / apart[1]}
    return found


def overhead(editor: DiffusionEditor, phantom: Phantom) -> float:
    """Processor time outside the network over that inside."""
    cost(editor, phantom)  # once to warm up
    with _timed(editor.unet) as spent:
        _, seconds = cost(editor, phantom)
    inside = sum(spent)
    return (seconds * len(phantom) - inside) / inside


@contextmanager
def _timed(network: torch.nn.Module) -> Iterator[list[float]]:
    begun, spent = [0.0], []
    hooks = [
        network.register_forward_pre_hook(lambda *_: begun.__setitem__(0, time.process_time())),
        network.register_forward_hook(lambda *_: spent.append(time.process_time() - begun[0])),
    ]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--editor", default="shipped", help="shipped, or a folder")
    parser.add_argument(
        "--second", type=Path, help="folder of the pipeline on which every method works; fitted if absent"
    )
    parser.add_argument("--prediction", default="epsilon", choices=("epsilon", "v_prediction"), help="of that fit")
    parser.add_argument("--fit-images", type=int, default=8_000)
    parser.add_argument("--fit-steps", type=int, default=2_000)
    parser.add_argument("--channels", type=int, nargs="+", default=(64, 96, 128))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--methods", nargs="+", default=list(INVERSIONS), choices=list(INVERSIONS))
    parser.add_argument("--steps", type=int, help="of every method that has one number of them; their own unless given")
    parser.add_argument("--seed", type=int, default=78)
    args = parser.parse_args()
    phantom = Phantom(args.images, "portable", seed=args.seed)
    asked = questions(phantom, np.arange(args.images), default_contrasts(phantom.graph, {"age": 20.0}))
    methods: dict[str, Inversion] = {name: INVERSIONS[name]() for name in args.methods}
    if args.steps is not None:
        methods = {name: replace(m, steps=args.steps) if hasattr(m, "steps") else m for name, m in methods.items()}
    first = DiffusionEditor.from_shipped() if args.editor == "shipped" else DiffusionEditor.from_pretrained(args.editor)
    default = default_inversion(first.pipeline.process)
    first = first.using(inversion=methods.get(default.name, default))
    second = (
        fitted_small(args.prediction, args.fit_images, args.fit_steps, tuple(args.channels), args.seed + 1)
        if args.second is None
        else DiffusionEditor.from_pretrained(args.second)
    )
    summary: dict[str, Any] = {"default": repr(default), "inversion": tabulated(first, phantom, asked, methods)}
    summary["second"] = tabulated(second, phantom, asked, methods)
    summary["second_predicts"] = second.pipeline.process.predicts
    mine, theirs = (
        summary["second"].get(name) for name in (default_inversion(second.pipeline.process).name, NullText.name)
    )
    if mine and theirs:
        summary["default_over_null_text"] = {
            figure: mine[figure] / theirs[figure] for figure in ("error", "evaluations", "seconds")
        }
    summary["shared_inversion_cost"] = shared(first, phantom)
    summary["shared_inversion_cost_ratio_k8"] = summary["shared_inversion_cost"]["one_evaluation_a_step"]["evaluations"]
    summary["overhead_fraction"] = overhead(first, phantom)
    for name in ("inversion", "second"):
        print(pd.DataFrame(summary[name]).T[["error", "scale", "evaluations", "seconds"]].to_string())
    print({key: value for key, value in summary.items() if key not in ("inversion", "second")})
    record(args.json, seed=args.seed, summary=summary)


if __name__ == "__main__":
    main()
