"""A tiny diffusion editor with an ear for its caption, for tests of guidance."""

import pandas as pd
import torch

from causal_cxr.data.tokenizer import build_tokenizer
from causal_cxr.editors.diffusion import DiffusionEditor, captions
from causal_cxr.editors.diffusion.denoiser import Denoiser
from causal_cxr.editors.diffusion.fit import build
from causal_cxr.editors.diffusion.guidance import Request
from causal_cxr.editors.diffusion.inversion.coupled import Coupled
from causal_cxr.editors.diffusion.latents import Unshuffled
from causal_cxr.editors.diffusion.pipeline import Pipeline
from causal_cxr.editors.diffusion.process import Process
from causal_cxr.editors.diffusion.text import CLIPText
from causal_cxr.graphs import Binary, Categorical, Continuous

ATTRIBUTES = {
    attribute.name: attribute
    for attribute in (
        Continuous("age", unit="years", low=20, high=90, phrases=("{value:.0f} year old", "aged {value:.0f}")),
        Binary("view", levels=("PA", "AP"), phrases={"PA": ("PA view", "PA projection"), "AP": ("AP view", "AP projection")}),
        Categorical("edema", levels=("none", "mild", "severe"), phrases={"none": "no edema", "mild": "mild edema", "severe": "edema"}),
    )
}  # fmt: skip
FACTUAL = pd.DataFrame(
    {"age": [30.0, 50.0, 80.0], "view": ["PA", "AP", "PA"], "edema": ["none", "mild", "severe"]}, index=[5, 2, 9]
)
VIEW = FACTUAL.assign(view=["AP", "PA", "AP"])
TARGET = VIEW.assign(age=[80.0, 50.0, 30.0])  # the second image keeps its age


def made(predicts: str = "flow", steps: int = 4) -> DiffusionEditor:
    torch.manual_seed(0)
    tables = pd.concat([FACTUAL, TARGET])
    texts = [text for phrasing in (0, 1) for text in captions(tables, ATTRIBUTES, phrasing)]
    tokenizer = build_tokenizer(texts * 20, 20)
    unet, text_encoder = build(tokenizer, 16, (16, 32))
    with torch.no_grad():  # fresh networks hardly listen to their caption
        unet.add_embedding.proj.weight *= 10
        for name, weight in unet.named_parameters():
            if "time_emb_proj.weight" in name or "attn2" in name or "attn1" in name:
                weight *= 3
    alphas = None if predicts == "flow" else torch.linspace(0.999, 0.02, 40, dtype=torch.float64)
    pipeline = Pipeline(unet, CLIPText(text_encoder, tokenizer), Unshuffled(), Process(predicts, alphas))
    return DiffusionEditor(pipeline, ATTRIBUTES, inversion=Coupled(steps), size=16, autocast=None)


def request(
    editor: DiffusionEditor, images: torch.Tensor, target: pd.DataFrame, factual: pd.DataFrame = FACTUAL, **options
) -> Request:
    """An edit of images on their coupled path."""
    denoiser = Denoiser(editor.unet, editor.pipeline.process)
    state = editor.abduct(images, factual, seeds=torch.arange(len(images)).numpy()).state
    return Request(denoiser, editor.describe, factual, target, state, **options)
