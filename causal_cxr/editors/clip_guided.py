"""``CLIPGuidedEditor``: moves an inverted latent along CLIP's text direction, under identity and sparsity constraints.

No caption of the diffusion model changes. The image is inverted by a diffusion editor; from its noised latent ``x_t`` an offset
``d`` is sought whose effect on the predicted clean image, ``c(x_t + d) - c(x_t)``, moves the image in CLIP's space as the
words move there. The denoiser is thus what keeps the edit a radiograph, CLIP what says which way.

    minimise over d   1 - cos(E(I') - E(I), sum over changed A of E(a') - E(a))     direction
                    + identity * mean((I' - I)^2)                                                     identity
                    + sparsity * |d|_1                                                                sparsity
    with              I' = decode(image + c(x_t + d) - c(x_t))

The direction is that of StyleGAN-NADA (Gal et al., SIGGRAPH 2022) and DiffusionCLIP (Kim et al., CVPR 2022); here the
latent is moved rather than the network. Sparsity is a proximal step (soft threshold; Parikh and Boyd, 2014) after each of
Adam's, so that offsets are zero and not merely small.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from causal_cxr.data.patients import fitted_on_all
from causal_cxr.editors.diffusion.denoiser import Condition, Denoiser, Ledger
from causal_cxr.editors.diffusion.editor import DiffusionEditor
from causal_cxr.editors.editor import Abduction, Edit
from causal_cxr.graphs import Attribute

EPSILON = 1e-3  #: CLIP's features are of unit length; where an image has hardly moved its direction is mostly rounding


@dataclass(frozen=True)
class CLIPGuidance:
    """How the offset is sought.

    Attributes:
        steps: of Adam; each differentiates the denoiser and CLIP once.
        learning_rate: of Adam, in latent units (about unit variance).
        identity: weight of the squared pixel change.
        sparsity: weight of the offset's absolute values; a step draws each value ``learning_rate * sparsity`` to zero.
        depth: which of the trajectory's latents is moved, as a share of its steps: 0 the image itself, 1 pure noise.
        template: puts an attribute's phrase into the text that CLIP reads.
    """

    steps: int = 25
    learning_rate: float = 0.05
    identity: float = 10.0
    sparsity: float = 0.05
    depth: float = 0.85
    template: str = "{}"

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.depth <= 1:
            raise ValueError(f"Guidance needs a step or more and a depth in (0, 1], got {self.steps} and {self.depth}.")


class CLIPGuidedEditor:
    """Edits by the direction between two phrases in CLIP's space.

    Args:
        base: inverts the images, and predicts; its captions stay as they are. Left as it is.
        model: with open_clip's ``encode_image(x, normalize=True)`` and ``encode_text(tokens, normalize=True)``.
        tokenizer: texts to ``(n, length)`` token ids: open_clip's, or a transformers one.
        attributes: what can be set, by the phrases of their levels; the base's unless given. More than the base's captions
            name, if CLIP has words for them.
        guidance: how.
        mean, std: that CLIP's images are shifted and scaled by; those of this package's CLIP readers unless given.

    Attributes:
        ledger: the denoiser's work since the editor was made; CLIP's is not counted.
        fitted_on: the base's patients if CLIP's are no others: pass ``clip_fitted_on`` to say whose images CLIP has seen.
    """

    semantics: Literal["observational", "structural"] = "observational"

    def __init__(
        self,
        base: DiffusionEditor,
        model: Any,
        tokenizer: Any,
        *,
        attributes: Mapping[str, Attribute] | None = None,
        guidance: CLIPGuidance | None = None,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.3,
        clip_fitted_on: frozenset[str] | None = None,
    ) -> None:
        self.base, self.model, self.tokenizer = base, model.eval(), tokenizer
        self.graph_attributes = dict(base.graph_attributes if attributes is None else attributes)
        self.attributes = frozenset(self.graph_attributes)
        self.guidance = guidance or CLIPGuidance()
        self.mean, self.std = (torch.as_tensor(v, dtype=torch.float32).reshape(1, -1, 1, 1) for v in (mean, std))
        self.fitted_on = fitted_on_all([base.fitted_on, clip_fitted_on])
        self.ledger = Ledger()
        digest = hashlib.sha256(f"{self.guidance}|{self.mean.tolist()}|{self.std.tolist()}".encode())
        digest.update(repr([a.to_dict() for a in self.graph_attributes.values()]).encode())
        for name, weight in sorted(model.state_dict().items()):
            digest.update(name.encode() + weight.to(torch.float16).cpu().numpy().tobytes())
        self._own_fingerprint = digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """Of the base, of CLIP's weights and words, and of the guidance."""
        return hashlib.sha256(f"{self.base.fingerprint}|{self._own_fingerprint}".encode()).hexdigest()[:16]

    @property
    def method(self) -> str:
        """Of the guidance, and of the base."""
        return f"{self.guidance!r}, {self.base.method}"

    def to(self, device: str | torch.device) -> "CLIPGuidedEditor":
        """Compute there, the base and CLIP with it; images come and go on the CPU. Returns itself."""
        self.base.to(device), self.model.to(device)
        return self

    def abduct(self, images: Tensor, attributes: pd.DataFrame, *, seeds: np.ndarray) -> Abduction:
        """Invert the images as the base does."""
        before = self.base.ledger
        abduction = self.base.abduct(images, attributes, seeds=seeds)
        self.ledger += _since(before, self.base.ledger)
        return abduction

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        """Seek the offsets, and redraw with ``strength`` of them: 0 returns the image.

        A row of which no attribute changes has no direction and is returned as it is. The base's ``accept`` judges edits.

        Raises:
            ValueError: the target sets an attribute without phrases here.
        """
        direction = self._direction(abduction.factual, target, phrasing)
        trajectory, device = abduction.state, self.base.pipeline.device
        image = trajectory.image
        rows = direction.norm(dim=1) > 0
        edited = self.base.pipeline.latents.decode(image).cpu()
        if not rows.any() or strength == 0.0:
            return self.base.judged(edited, abduction, target)
        at = max(1, round(self.guidance.depth * (len(trajectory.times) - 1)))
        picked = rows.nonzero()[:, 0].to(device)
        with torch.no_grad():
            condition = self.base.describe(abduction.factual[rows.cpu().numpy()], phrasing)
        denoiser = Denoiser(self.base.unet, self.base.pipeline.process)
        sought = _Sought(denoiser, condition, image[picked], trajectory.latents[at][picked], trajectory.times[at])
        offset = self._sought(sought, direction.to(device)[picked])
        with torch.no_grad():
            latents = sought.moved(strength * offset)
            edited[rows] = self.base.pipeline.latents.decode(latents).cpu()
        self.ledger += denoiser.ledger
        return self.base.judged(edited, abduction, target, denoiser.ledger.evaluations)

    def _sought(self, sought: "_Sought", direction: Tensor) -> Tensor:
        """The offset of each image. Images do not meet in the sum of losses, nor in Adam's moments."""
        how, decode = self.guidance, self.base.pipeline.latents.decode
        offset = torch.zeros_like(sought.noised, requires_grad=True)
        adam = torch.optim.Adam([offset], lr=how.learning_rate)
        with torch.no_grad():
            pixels = decode(sought.image)
            before = self._features(pixels)
        for _ in range(how.steps):
            moved = decode(sought.moved(offset))
            step = self._features(moved) - before
            toward = (step * direction).sum(1) / (step.norm(dim=1) + EPSILON)
            loss = 1 - toward + how.identity * ((moved - pixels) ** 2).mean((1, 2, 3))
            (offset.grad,) = torch.autograd.grad(loss.sum(), offset)
            sought.denoiser.ledger.backward += len(offset)
            adam.step()
            with torch.no_grad():
                offset.copy_(functional.softshrink(offset, how.learning_rate * how.sparsity))
        return offset.detach()

    def _features(self, images: Tensor) -> Tensor:
        """CLIP's, of unit length, of ``(n, 1, h, w)`` in [0, 1]."""
        size = self.model.visual.image_size
        sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
        if images.shape[-2:] != sides:
            images = functional.interpolate(images, sides, mode="bilinear", antialias=True)
        x = (images.expand(-1, 3, -1, -1) - self.mean.to(images)) / self.std.to(images)
        return self.model.encode_image(x, normalize=True)

    @torch.no_grad()
    def _direction(self, factual: pd.DataFrame, target: pd.DataFrame, phrasing: int) -> Tensor:
        """``(n, width)`` unit length, what the changed attributes' words add up to; zero where nothing changes."""
        unknown = [name for name in target if name not in self.attributes]
        if changed := [name for name in unknown if name not in factual or not factual[name].equals(target[name])]:
            raise ValueError(
                f"Cannot set {changed}: there are phrases for {sorted(self.attributes)}. Pass attributes=."
            )
        texts = [[self._phrases(str(name), factual, target, i, phrasing) for name in target if name not in unknown]
                 for i in range(len(target))]  # fmt: skip
        pairs = {pair for row in texts for pair in row if pair is not None}
        if not pairs:
            return torch.zeros(len(target), 1)
        words = sorted({text for before, after in pairs for text in (*before, *after)})
        encoded = dict(zip(words, self._encode_text(words), strict=True))
        steps = {
            (before, after): torch.stack([encoded[t] for t in after]).mean(0)
            - torch.stack([encoded[t] for t in before]).mean(0)
            for before, after in pairs
        }
        nothing = torch.zeros_like(next(iter(steps.values())))
        total = torch.stack([sum((steps[p] for p in row if p is not None), nothing) for row in texts])
        return functional.normalize(total, dim=1)

    def _phrases(
        self, name: str, factual: pd.DataFrame, target: pd.DataFrame, row: int, phrasing: int
    ) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """What CLIP reads of the value as it is and as it is to be; where it is unknown, of all that it might be else."""
        attribute, wanted = self.graph_attributes[name], target[name].iloc[row]
        own = factual[name].iloc[row] if name in factual else None
        if pd.isna(wanted) or own == wanted:
            return None
        if own is None or pd.isna(own):
            others: Sequence[Any] = [level for level in getattr(attribute, "levels", ()) if level != wanted]
            if not others:
                raise ValueError(f"{name!r} is missing in row {target.index[row]}: which way {wanted} lies is unknown.")
        else:
            others = [own]
        say: Callable[[Any], str] = lambda value: self.guidance.template.format(attribute.phrase(value, phrasing))  # noqa: E731
        return tuple(say(value) for value in others), (say(wanted),)

    def _encode_text(self, texts: list[str]) -> Tensor:
        if hasattr(self.tokenizer, "pad"):  # transformers
            tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
        else:
            tokens = self.tokenizer(texts)
        return self.model.encode_text(tokens.to(self.base.pipeline.device), normalize=True).float().cpu()


@dataclass
class _Sought:
    """The clean image that a moved latent stands for.

    Attributes:
        denoiser: predicts it.
        condition: the factual captions.
        image: latents of the images.
        noised: their latents at ``t``.
    """

    denoiser: Denoiser
    condition: Condition
    image: Tensor
    noised: Tensor
    t: float

    def __post_init__(self) -> None:
        with torch.no_grad():
            self.unmoved = self._clean(self.noised)

    def moved(self, offset: Tensor) -> Tensor:
        """The image's latents changed as the prediction changes: no offset, no change."""
        return self.image + self._clean(self.noised + offset) - self.unmoved

    def _clean(self, x: Tensor) -> Tensor:
        return self.denoiser.predict(x, self.t, self.condition).clean


def _since(before: Ledger, now: Ledger) -> Ledger:
    return Ledger(
        now.forward - before.forward,
        now.backward - before.backward,
        now.encode - before.encode,
        now.decode - before.decode,
    )
