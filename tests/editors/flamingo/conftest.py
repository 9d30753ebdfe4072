"""What the tests of exemplars share: a tiny base that was never fitted, and images that differ in what has no word."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from causal_cxr.data.tokenizer import build_tokenizer
from causal_cxr.editors.diffusion import DiffusionEditor, captions
from causal_cxr.editors.diffusion.fit import build
from causal_cxr.editors.diffusion.inversion import Coupled
from causal_cxr.editors.diffusion.latents import Unshuffled
from causal_cxr.editors.diffusion.pipeline import Pipeline
from causal_cxr.editors.diffusion.process import Process
from causal_cxr.editors.diffusion.text import CLIPText
from causal_cxr.graphs import Binary

VIEW = Binary("view", levels=("PA", "AP"), phrases={"PA": ("PA view", "PA"), "AP": ("AP view", "AP")})
SIDE = 16


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Layers this small are slower on many threads; and a fit is only the same for the same number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Lamps:
    """Grey noise with a lamp on the left or on the right, which the table does not say; a dataset."""

    texts = None
    fingerprint = "lamps"

    def __init__(self, n: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.lamp = rng.choice(["left", "right"], n)
        self.attributes = pd.DataFrame({"view": VIEW.coerce(pd.Series(rng.choice(["PA", "AP"], n)))})
        self.patients = pd.Series([f"lamps-{seed}-{i}" for i in range(n)])
        pixels = rng.normal(0.4, 0.05, (n, 1, SIDE, SIDE))
        for image, lamp in zip(pixels, self.lamp, strict=True):
            image[0, 4:12, slice(1, 7) if lamp == "left" else slice(9, 15)] = 0.9
        self.pixels = torch.from_numpy(pixels.clip(0, 1)).float()

    def images(self, rows: np.ndarray) -> Tensor:
        return self.pixels[rows]

    @property
    def labels(self) -> pd.DataFrame:
        return pd.DataFrame({"lamp": self.lamp})


@pytest.fixture(scope="session")
def lamps() -> Lamps:
    return Lamps(64)


def tiny_base(**options) -> DiffusionEditor:
    torch.manual_seed(0)
    table = pd.DataFrame({"view": ["PA", "AP"]})
    tokenizer = build_tokenizer([text for k in (0, 1) for text in captions(table, {"view": VIEW}, k)] * 20, 16)
    unet, text_encoder = build(tokenizer, SIDE, (16, 32))
    pipeline = Pipeline(unet, CLIPText(text_encoder, tokenizer), Unshuffled(4), Process("flow"))
    return DiffusionEditor(
        pipeline, {"view": VIEW}, size=SIDE, autocast=None, inversion=Coupled(4), fitted_on=frozenset({"a"}), **options
    )  # fmt: skip


@pytest.fixture(scope="session")
def base() -> DiffusionEditor:
    return tiny_base()
