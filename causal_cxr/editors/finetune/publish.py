"""Writing a fitted editor down: its weights, and the card that says where they come from."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from causal_cxr.editors.diffusion.editor import DiffusionEditor


def publish(
    editor: DiffusionEditor, folder: str | Path, *, title: str, data: str, command: str, use: str, whole: bool = False
) -> Path:
    """Write weights and ``card.md``: of a LoRA the adapter alone, else the whole pipeline (safetensors, half precision).

    Args:
        editor: as :func:`~causal_cxr.editors.finetune.finetune` returned it, or calibrated after that.
        folder: for both.
        title: of the card.
        data: what the images are, and how patients were split.
        command: that fits it again.
        use: what it is for and not for.
        whole: merge a LoRA and write the whole pipeline.

    Raises:
        ValueError: the editor was loaded, not fitted: nothing is known of its fit.
    """
    if not editor.provenance:
        raise ValueError("The editor carries no account of its fit; publish what finetune(...) returned.")
    folder, about = Path(folder), editor.provenance
    if not editor.unet._hf_peft_config_loaded:
        editor.save(folder)
    elif whole:
        merged(editor).save(folder)
    else:
        seen = about["patients"] | about.get("weighed_on", frozenset())
        editor.save_adapter(folder, base=about["base"], fitted_on=seen)
    (folder / "card.md").write_text(card(editor, title=title, data=data, command=command, use=use))
    return folder


def merged(editor: DiffusionEditor) -> DiffusionEditor:
    """A copy of the editor with its LoRA merged into the weights."""
    unet = copy.deepcopy(editor.unet)
    unet.fuse_lora()
    unet.unload_lora()
    return editor.using(pipeline=replace(editor.pipeline, unet=unet))


def card(editor: DiffusionEditor, *, title: str, data: str, command: str, use: str) -> str:
    """The model card, Markdown; see :func:`publish`."""
    about: Any = editor.provenance
    recipe, history, balance = about["recipe"], about["history"], about["balance"]
    pipeline = editor.pipeline
    lines = [
        f"data: {data}; dataset {about['dataset']}",
        f"fitted on: {about['images']} images of {len(about['patients'])} patients",
        f"model: {type(pipeline.unet).__name__}, {pipeline.process.predicts}; {type(pipeline.text).__name__}, "
        f"{type(pipeline.latents).__name__}; fingerprint {editor.weights_fingerprint}",
        f"fitted: {about['what']} on the base {about['base']}",
        f"captions: {', '.join(editor.graph_attributes)}; {about['captions']}",
        f"steps: {history.steps} of {recipe.batch_size} images"
        + (f" (stopped {history.stopped})" * bool(history.stopped)),
        f"optimiser: AdamW, learning rate {recipe.learning_rate:g}, EMA {recipe.ema:g}, {recipe.mixed_precision}; loss at "
        f"the end {history.loss:.4f}",
        f"seed: {recipe.seed}",
        f"hardware: {about['hardware']}",
        f"command: `{command}`",
        f"use: {use}",
    ]
    if balance is not None:
        lines.insert(
            3,
            f"weights: {about['weights']!r}; effective sample size {balance.effective:.0f} of {about['images']}, "
            f"{balance.clipped:.1%} cut",
        )
    if history.chosen is not None:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in history.chosen.items() if name != "step")
        lines.insert(-3, f"kept: the average after step {history.chosen['step']:.0f}: {numbers}")
    if "guidance" in about:
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in sorted(about["guidance"].items()))
        lines.insert(-3, f"guidance: {weights or 'all 1'}, as {len(about['weighed_on'])} held-out patients are read")
    return f"# {title}\n\n" + "".join(f"- {line}\n" for line in lines)
