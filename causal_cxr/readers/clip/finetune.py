"""Fine-tuning a CLIP reader on images and their reports, sentence by sentence; resumable to the same bits."""

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.patients import fitted_on_all
from causal_cxr.fitting.log import Log
from causal_cxr.fitting.precision import Precision, autocast
from causal_cxr.fitting.resumable import ResumableFit, cosine
from causal_cxr.readers.clip.corpus import Corpus, sentences_of
from causal_cxr.readers.clip.curves import retrieval, zero_shot
from causal_cxr.readers.clip.losses import contrastive_loss, sigmoid_loss
from causal_cxr.readers.clip.preprocess import Preprocess
from causal_cxr.readers.clip.reader import CLIPReader, prompt_directions
from causal_cxr.readers.clip.towers import tokenise
from causal_cxr.readers.judging import refuse_seen
from causal_cxr.readers.quality import check_truth
from causal_cxr.readers.reader import image_batches

Loss = Literal["sigmoid", "contrastive"]
Train = Literal["both", "text", "image"]

LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"sigmoid": sigmoid_loss, "contrastive": contrastive_loss}
SENTENCES = 1024  #: that a step holds its images against, at most
WARM_UP = 50
SAVED_EVERY = 100  #: steps between two writings of the state, and over which the logged loss is a mean
MEMORY = 4e9  #: bytes of images that are kept; more are read again at each step
STEEPEST = float(np.log(100))  #: of the logit scale, as in CLIP
TEXTS = 256  #: at a time through a tower that is not trained


@dataclass(frozen=True)
class HeldOut:
    """What a fit is judged on while it runs.

    Attributes:
        rows: of patients that are not fitted on, here or by the reader before.
        truth: ``(len(rows), k)`` of the reader's concepts, 1 / 0 / NaN unknown, for the zero-shot curve; ``None`` = without.
        every: steps between two looks; there is one before the first step and one after the last.
    """

    rows: np.ndarray
    truth: np.ndarray | None = None
    every: int = 500

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"HeldOut needs a step or more between two looks, got every={self.every}.")


@dataclass(frozen=True)
class FineTuned:
    """What a fit leaves.

    Attributes:
        reader: with the fitted weights; not calibrated, its quality unknown.
        curves: one row a look: step, ``image_to_text@K``, ``text_to_image@K``, ``auroc/<concept>``, ``auroc`` (their mean);
            empty without :class:`HeldOut`.
        steps: done.
        loss: mean over the last logged steps; NaN if there were none.
        stopped: why before the last step; empty if not.
    """

    reader: CLIPReader
    curves: pd.DataFrame
    steps: int
    loss: float
    stopped: str = ""


def finetune_clip(
    reader: CLIPReader,
    dataset: Dataset,
    rows: np.ndarray,
    *,
    steps: int,
    loss: Loss = "sigmoid",
    train: Train = "both",
    lora: int | None = None,
    batch_size: int = 128,
    learning_rate: float = 5e-5,
    weight_decay: float = 0.05,
    seed: int = 0,
    device: str | torch.device = "cpu",
    mixed_precision: Precision = "bf16",
    held_out: HeldOut | None = None,
    minutes: float | None = None,
    checkpoint: str | Path | None = None,
    split: Callable[[str], list[str]] = sentences_of,
) -> FineTuned:
    """Fit the towers so that images and the *sentences* of their reports find each other.

    Reports share sentences, so whole-report pairs would punish true matches; here each image of a batch is held against
    sentences of the whole corpus, positive wherever its report has them.

    Args:
        reader: where to start; left as it is.
        dataset: with ``texts``.
        rows: to fit on; those without a text are left out.
        steps: of ``batch_size`` images.
        loss: see :mod:`causal_cxr.readers.clip.losses`.
        train: ``"text"`` locks the image tower (LiT; Zhai et al., CVPR 2022), ``"image"`` the text tower; what is locked is
            computed once.
        lora: rank of low-rank changes of the trained towers' linear and attention layers (Hu et al., ICLR 2022; peft), merged
            into the weights at the end; ``None`` = all weights are trained.
        learning_rate: after a warm-up of 50 steps; it decays by half a cosine.
        weight_decay: AdamW's, of matrices.
        seed: of batches and whatever else is drawn.
        device, mixed_precision: to compute with; bf16 by autocast, weights stay in float32.
        held_out: for the curves.
        minutes: stop early after so much wall time.
        checkpoint: folder for the state and for ``loss.jsonl`` and ``curves.jsonl``; a killed fit goes on from there, on a
            CPU to the same bits (some CUDA kernels add in no fixed order, resumed or not).
        split: a report into its sentences.

    Raises:
        ValueError: no texts, options that do not exist, held-out patients among those fitted on, here or before, a label of
            theirs that is neither 0, 1 nor NaN, or a checkpoint of another fit.

    Warns:
        RuntimeWarning: it is not known on whom the reader was fitted before, so that the curves may be too good.
    """
    from rich.progress import Progress

    rows = np.asarray(rows)
    _check(reader, dataset, rows, steps, loss, train, lora, held_out)
    assert dataset.texts is not None
    corpus = Corpus(dataset.texts.iloc[rows].tolist(), split)
    rows, own = rows[corpus.own >= 0], corpus.own[corpus.own >= 0]
    if not len(rows):
        raise ValueError("None of the rows has a text; a CLIP reader is fitted on images and their reports.")
    place, folder = torch.device(device), None if checkpoint is None else Path(checkpoint)
    with _seeded(place, seed), Progress(transient=True) as progress:
        model = copy.deepcopy(reader.model).to(place)
        started_from = _digest(model)
        unlocked = _Unlocked(model, train, loss, lora)
        pairs = _Pairs(model, reader, dataset, rows, own, corpus, train, batch_size, mixed_precision)
        if loss == "sigmoid" and model.logit_bias is None:
            _give_bias(model, pairs, np.random.default_rng([seed, 0]))

        def compute(draw: np.random.Generator) -> Tensor:
            unlocked.settle()
            cosines, positive = pairs(draw)
            logits = cosines * model.logit_scale.exp()
            return LOSSES[loss](logits + model.logit_bias if loss == "sigmoid" else logits, positive)

        trained = _trained(model, compute(np.random.default_rng([seed, 0])))
        fit = ResumableFit(
            trained,
            torch.optim.AdamW(_groups(trained, weight_decay), lr=learning_rate),
            decay=0.0,
            folder=folder,
            recipe=(dataset.fingerprint, rows.tolist(), own.tolist(), corpus.sentences, started_from, steps, loss, train, lora,
                    batch_size, learning_rate, weight_decay, seed, mixed_precision,
                    () if held_out is None else (held_out.every, held_out.rows.tolist())),
        )  # fmt: skip
        # A batch norm's running moments are no weights, but the fitted model is nothing without them.
        moments = {name: b for name, b in model.named_buffers() if "running_" in name or "num_batches" in name}
        for name, buffer in moments.items():
            buffer.copy_(fit.extra.get(f"buffer.{name}", buffer))
        known = fit.step or -1  # a fit that was killed before its first state begins its logs anew
        losses = Log(folder and folder / "loss.jsonl", known)
        look = _Looks(held_out, dataset, reader, model, split, folder, known)
        recent = list(fit.extra.pop("recent", torch.empty(0)))
        last = float(fit.extra.get("loss", torch.tensor(float("nan"))))
        begun, stopped = time.monotonic(), ""
        bar = progress.add_task("fitting the CLIP reader", total=steps, completed=fit.step)
        if not fit.step:
            look(0)
        unlocked.train()
        for step in range(fit.step, steps):
            # One generator a step: a resumed fit draws what the uninterrupted one would have drawn.
            draw = np.random.default_rng([seed, step])
            torch.manual_seed(int(draw.integers(2**62)))
            value = compute(draw)
            fit.descend(value, learning_rate * cosine(step, steps, WARM_UP))
            model.logit_scale.data.clamp_(0, STEEPEST)
            recent.append(value.detach().cpu())
            progress.update(bar, advance=1)
            late, done = minutes is not None and time.monotonic() - begun > 60 * minutes, step + 1 == steps
            if (step + 1) % SAVED_EVERY == 0 or done:
                last, recent = float(torch.stack(recent).mean()), []
                fit.extra["loss"] = torch.tensor(last, dtype=torch.float64)
                losses.add(step=fit.step, loss=last)
            if held_out is not None and ((step + 1) % held_out.every == 0 or done):
                unlocked.settle()
                look(fit.step)
                unlocked.train()
            if (step + 1) % SAVED_EVERY == 0 or done or late:
                fit.extra |= {f"buffer.{name}": buffer for name, buffer in moments.items()}
                fit.extra |= {"recent": torch.stack(recent)} if recent else {}
                fit.save()
                fit.extra.pop("recent", None)
            if late and not done:
                stopped = f"after {minutes:g} minutes"
                break
        model = unlocked.whole().cpu()
    patients = frozenset(dataset.patients.iloc[rows].astype(str))
    fitted_on = fitted_on_all([reader.fitted_on, patients])
    fitted = CLIPReader(
        model, reader.tokenizer, reader.concepts, preprocess=reader.preprocess,
        regions=reader.regions, name=reader.name, fitted_on=fitted_on, renderer_version=reader.renderer_version,
    )  # fmt: skip
    return FineTuned(fitted, pd.DataFrame(look.entries), fit.step, last, stopped)


def _check(
    reader: CLIPReader, dataset: Dataset, rows: np.ndarray, steps: int, loss: str, train: str, lora: int | None,
    held_out: HeldOut | None,
) -> None:  # fmt: skip
    if dataset.texts is None:
        raise ValueError("The dataset has no texts; a CLIP reader is fitted on images and their reports.")
    if steps < 1 or (lora is not None and lora < 1):
        raise ValueError(f"A fit has a step or more, and low-rank changes a rank of 1 or more; got {steps} and {lora}.")
    for name, value, allowed in (("loss", loss, get_args(Loss)), ("train", train, get_args(Train))):
        if value not in allowed:
            raise ValueError(f"There is no {name}={value!r}; choose from {list(allowed)}.")
    if held_out is None:
        return
    both = set(dataset.patients.iloc[rows]) & set(dataset.patients.iloc[held_out.rows])
    if both:
        raise ValueError(f"{len(both)} patients are both fitted on and held out, {min(map(str, both))!r} among them.")
    refuse_seen(reader, dataset, held_out.rows)
    if held_out.truth is not None and held_out.truth.shape != (len(held_out.rows), len(reader.concepts)):
        wanted = (len(held_out.rows), len(reader.concepts))
        raise ValueError(
            f"held_out.truth is {held_out.truth.shape}; it must be rows by the reader's concepts, {wanted}."
        )
    if held_out.truth is not None:
        check_truth(held_out.truth, reader.names)


class _Pairs:
    """Batches of images against sentences; a locked tower has been asked once, before the fit."""

    def __init__(
        self, model: Any, reader: CLIPReader, dataset: Dataset, rows: np.ndarray, own: np.ndarray, corpus: Corpus,
        train: str, batch_size: int, mixed_precision: Precision,
    ) -> None:  # fmt: skip
        self.model, self.preprocess, self.dataset, self.rows = model, reader.preprocess, dataset, rows
        self.own, self.corpus, self.batch_size = own, corpus, batch_size
        self.device, self.mixed_precision = model.logit_scale.device, mixed_precision
        self.tokens = tokenise(reader.tokenizer, corpus.sentences)
        self.seen = image_features(model, self.preprocess, dataset, rows) if train == "text" else None
        self.said = text_features(model, self.tokens) if train == "image" else None
        self.kept: Tensor | None = None
        if self.seen is None and len(rows) * self.preprocess.size[0] * self.preprocess.size[1] * 2 <= MEMORY:
            self.kept = torch.cat([self.preprocess.framed(images).half() for _, images in image_batches(dataset, rows)])

    def __call__(self, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        """``(b, s)`` cosines and ``(b, s)`` 1 where the image's report has the sentence."""
        picked = draw.integers(0, len(self.rows), size=self.batch_size)
        chosen, positive = self.corpus.drawn(self.own[picked], SENTENCES, draw)
        with autocast(self.device, self.mixed_precision):
            image, text = self._images(picked), self._sentences(chosen)
        return image.float() @ text.float().T, torch.from_numpy(positive).to(self.device)

    def _images(self, picked: np.ndarray) -> Tensor:
        if self.seen is not None:
            return self.seen[picked]
        if self.kept is not None:
            images = self.kept[picked]
        else:
            images = self.preprocess.framed(self.dataset.images(self.rows[picked])).half()
        return self.model.encode_image(self.preprocess.normalise(images.to(self.device).float()), normalize=True)

    def _sentences(self, chosen: np.ndarray) -> Tensor:
        if self.said is not None:
            return self.said[chosen]
        return self.model.encode_text(self.tokens[chosen].to(self.device), normalize=True)


class _Looks:
    """Judges the model as it is, writes the numbers down, and finds those of an earlier part of the fit."""

    def __init__(
        self, held_out: HeldOut | None, dataset: Dataset, reader: CLIPReader, model: Any,
        split: Callable[[str], list[str]], folder: Path | None, step: int,
    ) -> None:  # fmt: skip
        self.held_out, self.dataset, self.reader, self.model = held_out, dataset, reader, model
        file = folder and folder / "curves.jsonl"
        self.log = Log(file, step)
        self.entries: list[dict[str, float]] = []
        if file is not None and file.exists():
            self.entries = [json.loads(line) for line in file.read_text().splitlines()]
        if held_out is not None:
            assert dataset.texts is not None
            self.corpus = Corpus(dataset.texts.iloc[held_out.rows].tolist(), split)
            self.tokens = tokenise(reader.tokenizer, self.corpus.sentences) if self.corpus.sentences else None

    def __call__(self, step: int) -> None:
        if self.held_out is None:
            return
        self.model.eval()
        images = image_features(self.model, self.reader.preprocess, self.dataset, self.held_out.rows)
        numbers: dict[str, float] = {}
        if self.tokens is not None:
            said = text_features(self.model, self.tokens)
            reports = torch.stack([said[list(report)].mean(0) for report in self.corpus.reports])
            has = self.corpus.own >= 0
            numbers |= retrieval(images[has], functional.normalize(reports, dim=-1),
                                 torch.from_numpy(self.corpus.own[has]).to(images.device))  # fmt: skip
        if self.held_out.truth is not None:
            margins = images @ prompt_directions(self.model, self.reader.tokenizer, self.reader.concepts)
            numbers |= zero_shot(margins.cpu().numpy(), self.held_out.truth, self.reader.names)
        self.log.add(step=step, **numbers)
        self.entries.append({"step": step, **numbers})


@torch.no_grad()
def image_features(model: Any, preprocess: Preprocess, dataset: Dataset, rows: np.ndarray) -> Tensor:
    """``(n, d)`` unit-length features, on the model's device."""
    device = model.logit_scale.device
    parts = [
        model.encode_image(preprocess(images.to(device)), normalize=True) for _, images in image_batches(dataset, rows)
    ]
    return torch.cat(parts)


@torch.no_grad()
def text_features(model: Any, tokens: Tensor) -> Tensor:
    """``(n, d)`` unit-length features of token ids, on the model's device."""
    device = model.logit_scale.device
    parts = [tokens[i : i + TEXTS].to(device) for i in range(0, len(tokens), TEXTS)]
    return torch.cat([model.encode_text(part, normalize=True) for part in parts])


@torch.no_grad()
def _give_bias(model: Any, pairs: _Pairs, draw: np.random.Generator) -> None:
    """A bias for a model that has none, at which its answers on one batch are right on average."""
    cosines, positive = pairs(draw)
    share = float(positive.mean().clamp(1e-6, 1 - 1e-6))
    bias = float(np.log(share / (1 - share)) - (cosines * model.logit_scale.exp()).mean())
    model.logit_bias = nn.Parameter(torch.full_like(model.logit_scale, bias))
    if hasattr(model, "config"):
        model.config = {**model.config, "init_logit_bias": bias}


def _in_tower(name: str, train: str) -> bool:
    """Whether a weight or module is of a tower that is trained; CoCa's decoder is of neither."""
    image = name == "visual" or name.startswith("visual.")
    return not name.startswith(("logit_", "text_decoder")) and (train == "both" or image == (train == "image"))


class _Unlocked:
    """A model whose gradients reach only what is trained: all weights of a tower, or low-rank changes of them."""

    def __init__(self, model: Any, train: str, loss: str, lora: int | None) -> None:
        self.model, self.adapted = model, None
        self.could = {name for name, p in model.named_parameters() if p.requires_grad}
        if lora is not None:
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(r=lora, lora_alpha=lora, target_modules=_layers(model, train))
            self.adapted = get_peft_model(model, config)
        for name, p in model.named_parameters():
            fitted = (name in self.could and _in_tower(name, train)) if lora is None else "lora_" in name
            p.requires_grad_(fitted or name == "logit_scale" or (name == "logit_bias" and loss == "sigmoid"))
        self.kept = {} if lora is None else {name: p.detach().clone() for name, p in _under_adapters(model)}

    def train(self) -> None:
        """Dropout and batch norms as in a fit; the norms' moments stay as they are where the weights do."""
        self.model.train()
        for layer in self.model.modules() if self.adapted is not None else ():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()

    def settle(self) -> None:
        """Put the weights under low-rank changes back as they were.

        peft adds the changes to an attention layer's weights at each pass and takes them away again; rounding would pile up,
        and a resumed fit would not be the same to the bit.
        """
        for name, p in _under_adapters(self.model) if self.kept else ():
            p.data.copy_(self.kept[name])

    def whole(self) -> Any:
        """The model as it was, fitted; low-rank changes merged."""
        self.settle()
        model = self.model if self.adapted is None else self.adapted.merge_and_unload()
        for name, p in model.named_parameters():
            p.requires_grad_(name in self.could or name == "logit_bias")
        return model


def _under_adapters(model: Any) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if ".base_layer." in name and "lora_" not in name]


def _layers(model: Any, train: str) -> list[str]:
    """Linear and self-attention layers of the trained towers, by name."""
    attentions = {name: m for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
    whole = {name for name, m in attentions.items() if m._qkv_same_embed_dim}
    linear = {
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and name.rpartition(".")[0] not in attentions
    }
    return sorted(name for name in whole | linear if _in_tower(name, train))


def _trained(model: Any, value: Tensor) -> dict[str, nn.Parameter]:
    """The weights that a loss depends on: a tower may have some that it does not use."""
    value.backward()
    used = {name: p for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return used


def _groups(trained: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """For AdamW: matrices decay; biases, norms and the logits' scale do not."""
    matrices = [p for p in trained.values() if p.ndim > 1]
    others = [p for p in trained.values() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _digest(model: Any) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """The global generators begin from the seed, and afterwards are as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
