"""``finetune``: a diffusion editor fitted further, to a dataset of one's own."""

import copy
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.patients import fitted_on_all
from causal_cxr.data.splits import batches
from causal_cxr.editors.diffusion.editor import DiffusionEditor
from causal_cxr.editors.diffusion.latents import LatentSpace
from causal_cxr.editors.diffusion.pipeline import Pipeline
from causal_cxr.editors.finetune.balanced import Balanced
from causal_cxr.editors.finetune.loop import BATCH, EMA, Recipe, train
from causal_cxr.editors.finetune.telling import Captions, Telling
from causal_cxr.editors.finetune.trainable import LoRA, Trainable
from causal_cxr.editors.finetune.watch import Watch
from causal_cxr.fitting.precision import Precision


def finetune(
    editor: DiffusionEditor,
    dataset: Dataset,
    rows: np.ndarray,
    *,
    steps: int,
    what: Trainable | None = None,
    weights: Balanced | None = None,
    captions: Telling | None = None,
    batch_size: int = BATCH,
    learning_rate: float | None = None,
    ema: float = EMA,
    seed: int = 0,
    watch: Watch | None = None,
    mixed_precision: Precision = "bf16",
    device: str | torch.device = "cpu",
    graphs: bool = False,
    minutes: float | None = None,
    checkpoint: Path | None = None,
) -> DiffusionEditor:
    """Fit an editor further: AdamW, warm-up, cosine decay, and an exponential running average of the weights.

    Works for whatever the editor's pipeline is: its own noising process says what is drawn and predicted, images are
    encoded into its latent space once. The same seed, thread count and device give the same bits, killed or not.

    Args:
        editor: where the fit starts; it is left as it is.
        dataset: square images, all of one size, with the attributes that captions name.
        rows: to fit on; the rest is never looked at.
        steps: of ``batch_size`` images.
        what: is fitted: ``LoRA()`` unless given, ``Denoiser()``, ``Tokens(...)`` or ``Joint()``.
        weights: chances of rows to be drawn, e.g. ``Balanced(graph, "view")``; all alike unless given.
        captions: how images are called, ``Telling()`` unless given; with ``Telling(names=("view",))`` the editor that
            comes back sets the view alone.
        learning_rate: what is customary for ``what`` unless given.
        ema: share of the average that 64 images leave.
        watch: judges the fit while it runs, keeps the best, stops it.
        mixed_precision: ``bf16`` or ``no``.
        device: to fit on.
        graphs: on CUDA, launch the network's kernels as one graph: several times as fast for small networks.
        minutes: stop early after so much wall time (then the result depends on the machine).
        checkpoint: folder for resumable state, written whole or not at all, and for the logs; a killed fit goes on from
            it to the same bits.

    Returns:
        A new editor, on the device of the given one; a LoRA is not merged. ``fitted_on`` are the patients of both; ``provenance`` tells how
        it came about, for :func:`~causal_cxr.editors.finetune.publish`.

    Raises:
        ValueError: no rows; attributes, words or weights that do not suit the editor; a checkpoint of another fit.
    """
    what, captions, rows = what or LoRA(), captions or Telling(), np.asarray(rows)
    if not len(rows):
        raise ValueError("There is no row to fit on; pass rows=np.arange(len(dataset)) or a part of them.")
    balance = None if weights is None else weights.of(dataset.attributes.iloc[rows])
    chosen = captions.chosen(editor.graph_attributes)
    pipeline = _own(editor.pipeline)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of what begins at random
        trained = what.prepare(pipeline, chosen)
    named = what.named(chosen)
    recipe = Recipe(
        steps, what.learning_rate if learning_rate is None else learning_rate, what.weight_decay, batch_size, seed, ema, mixed_precision, device,
        graphs, minutes, checkpoint,
    )  # fmt: skip
    pipeline.to(recipe.accelerator().device)
    latents = encoded(pipeline.latents, dataset, rows, pipeline.device)
    fitted_on = frozenset(dataset.patients.iloc[rows].astype(str))
    about: dict[str, Any] = {
        "fitted_on": fitted_on_all([editor.fitted_on, fitted_on]),
        "size": latents.shape[-1] * pipeline.latents.reduction, "renderer_version": editor.renderer_version, "inversion": editor.inversion,
        "guidance": editor.guidance, "autocast": editor.autocast, "template": editor.template, "accept": editor.accept,
    }  # fmt: skip
    told = Captions(dataset.attributes.iloc[rows], named, captions, editor.template)
    history = train(
        pipeline, trained, latents, told, recipe,
        identity=(dataset.fingerprint, rows.tolist(), what, captions, weights, editor.weights_fingerprint, editor.template,
                  [attribute.to_dict() for attribute in named.values()]),
        chances=None if balance is None else balance.each, watch=watch,
        editor=lambda: DiffusionEditor(pipeline, named, **about),
    )  # fmt: skip
    what.finish(pipeline)
    pipeline.to(editor.pipeline.device)
    pipeline.unet.requires_grad_(False), pipeline.text.model.requires_grad_(False)
    fitted = DiffusionEditor(pipeline, named, **about)
    fitted.provenance = {
        "base": editor.weights_fingerprint, "what": what, "captions": captions, "recipe": recipe, "history": history,
        "images": len(rows), "patients": fitted_on, "dataset": dataset.fingerprint, "balance": balance,
        "weights": weights, "hardware": _hardware(torch.device(device)),
    }  # fmt: skip
    return fitted


def encoded(space: LatentSpace, dataset: Dataset, rows: np.ndarray, device: torch.device, batch: int = 512) -> Tensor:
    """Latents of images, half precision, on the device."""
    if space.evaluations:  # an autoencoder's activations are large
        batch = 16
    with torch.no_grad():
        parts = [space.encode(dataset.images(part).to(device)).half() for part in batches(rows, batch)]
    return torch.cat(parts)


def _own(pipeline: Pipeline) -> Pipeline:
    """A copy of what may be fitted, without a wish for gradients; the latent space and the tokenizer are shared."""
    text = copy.copy(pipeline.text)
    text.model = copy.deepcopy(text.model)
    own = replace(pipeline, unet=copy.deepcopy(pipeline.unet), text=text)
    own.unet.requires_grad_(False), own.text.model.requires_grad_(False)
    return own


def _hardware(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device.type}: {name}, {torch.get_num_threads()} threads; torch {torch.__version__}"
