"""Models of others as one thing: images in, the logit of the target out."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from causal_cxr.data.patients import fitted_on_all
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.features import Features
from causal_cxr.readers.quality import ReaderQuality
from causal_cxr.readers.xrv import ALSO, prepared

Scale = Literal["probability", "logit", "softmax"]
NAME = "model"  #: the audited models are measured as one reader of this name
LEAST = 1e-6  #: probabilities closer to 0 or 1 count as this far from it: their logit would be infinite
NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
BATCH = 64
XRV_SIZE = 224  #: pixels a side of torchxrayvision's models whose weights do not say


class Predictor:
    """A model's score of one target.

    Args:
        score: images ``(n, 1, h, w)`` float32 in [0, 1] -> ``(n,)`` or ``(n, k)``, a tensor or an array.
        target: what is predicted, for messages.
        scale: of the scores. ``probability``; ``logit``: each output for itself, through a sigmoid; ``softmax``: outputs that
            exclude each other.
        output: column of an ``(n, k)`` answer; ``None``: the answer has one.
        fitted_on: patients that the model was trained on; ``None`` = unknown.
    """

    def __init__(
        self,
        score: Callable[[Tensor], Any],
        *,
        target: str,
        scale: Scale = "probability",
        output: int | None = None,
        fitted_on: frozenset[str] | None = None,
    ) -> None:
        if scale not in get_args(Scale):
            raise ValueError(f"A model's scores have scale {scale!r}; choose from {list(get_args(Scale))}.")
        self.score, self.target, self.scale, self.output, self.fitted_on = score, target, scale, output, fitted_on

    def logits(self, images: Tensor) -> Tensor:
        """``(n,)`` float32 log odds, at most those of :data:`LEAST`.

        Raises:
            ValueError: the model's answer has another shape, is not finite, or is no probability where one was announced.
        """
        parts = [self._logits(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return torch.cat(parts) if parts else torch.empty(0)

    def probabilities(self, images: Tensor) -> Tensor:
        """``(n,)`` in [0, 1]."""
        return torch.sigmoid(self.logits(images))

    def _logits(self, images: Tensor) -> Tensor:
        answer = torch.as_tensor(np.asarray(self._asked(images), dtype=np.float64))
        n, about = len(images), f"The model of {self.target!r}"
        if answer.ndim == 2 and self.output is None and answer.shape == (n, 1):
            answer = answer[:, 0]
        if answer.shape[:1] != (n,) or answer.ndim != (1 if self.output is None else 2):
            wanted = (
                f"({n},), or ({n}, k) with output= or classes= to say which" if self.output is None else f"({n}, k)"
            )
            raise ValueError(f"{about} answers {n} images by shape {tuple(answer.shape)}; it should be {wanted}.")
        if not torch.isfinite(answer).all():
            bad = int((~torch.isfinite(answer.reshape(n, -1)).all(1)).sum())
            raise ValueError(
                f"{about} gives scores that are not finite for {bad} of {n} images; check its preprocessing (it gets "
                "(n, 1, h, w) float32 in [0, 1]) with prepare=."
            )
        if self.output is not None:
            if not -answer.shape[1] <= self.output < answer.shape[1]:
                raise ValueError(f"{about} has {answer.shape[1]} outputs; there is none at {self.output}.")
            if self.scale == "softmax":
                answer = answer.log_softmax(1)
                others = torch.cat([answer[:, : self.output], answer[:, self.output :][:, 1:]], 1)
                answer = answer[:, self.output] - others.logsumexp(1)
            else:
                answer = answer[:, self.output]
        elif self.scale == "softmax":
            raise ValueError(f"{about} gives one output; a softmax is over several: scale='logit'?")
        if self.scale == "probability":
            if n and not (answer.min() >= 0 and answer.max() <= 1):
                raise ValueError(
                    f"{about} gives scores from {answer.min():g} to {answer.max():g}, no probabilities; pass "
                    "scale='logit' or scale='softmax'."
                )
            answer = torch.logit(answer, eps=LEAST)
        bound = float(np.log((1 - LEAST) / LEAST))
        return answer.clamp(-bound, bound).float()

    def _asked(self, images: Tensor) -> Any:
        with torch.no_grad():
            answer = self.score(images)
        return answer.detach().cpu().numpy() if isinstance(answer, Tensor) else answer


def as_predictor(
    model: Any,
    target: str,
    *,
    scale: Scale | None = None,
    classes: Sequence[Any] | None = None,
    output: int | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
    features: Features | None = None,
    fitted_on: frozenset[str] | None = None,
) -> Predictor:
    """Any model as a :class:`Predictor`.

    - torchxrayvision models get their own preprocessing (middle square, their size, [-1024, 1024]); the output is found by
      ``pathologies``. Their scores are audited as they are given: bent where the model has ``op_threshs``.
    - other torch modules get the images as they are, in evaluation mode and where their weights are.
    - scikit-learn classifiers (``predict_proba``) get flattened images, or ``features`` of them; of two classes that are
      numbers the larger is the target, others go by name.
    - other callables get the images as they are.

    Args:
        model: one of these.
        target: attribute that it predicts.
        scale: of its scores; ``probability`` unless given.
        classes: what its outputs are, in order, where the model does not say so itself.
        output: which of them, in place of a name.
        prepare: ``(n, 1, h, w)`` in [0, 1] -> what the model takes, in place of the preprocessing above.
        features: for scikit-learn.
        fitted_on: patients that it was trained on; audited patients among them are refused.

    Raises:
        TypeError: the model can neither be called nor has ``predict_proba``.
        ValueError: none of its outputs has the target's name; more is said of what is a :class:`Predictor` already.
    """
    if isinstance(model, Predictor):
        said = {"scale": scale, "classes": classes, "output": output, "prepare": prepare, "features": features,
                "fitted_on": fitted_on}  # fmt: skip
        again = [key for key, value in said.items() if value is not None]
        if again:
            raise ValueError(f"The model is a Predictor already; say {', '.join(again)} where it is made.")
        return model
    if hasattr(model, "predict_proba"):
        score: Callable[[Tensor], Any] = _Sklearn(model, features or _Flat(), prepare)
        names = list(classes if classes is not None else model.classes_)
        if output is None:
            output = 1 if len(names) == 2 and all(isinstance(n, NUMBERS) for n in names) else _named(names, target)
        return Predictor(score, target=target, scale=scale or "probability", output=output, fitted_on=fitted_on)
    if features is not None:
        raise ValueError("features= is for scikit-learn classifiers; for other models use prepare=.")
    if not callable(model):
        raise TypeError(
            f"A {type(model).__name__} is no model: give a torch module, a scikit-learn classifier, or a function of images."
        )
    names = list(classes if classes is not None else getattr(model, "pathologies", None) or [])
    if output is None and names:
        output = _named(names, target)
    if isinstance(model, nn.Module):
        score = _Module(model, prepare or (_xrv(model) if _is_xrv(model) else None))
    else:
        score = model if prepare is None else (lambda images: model(prepare(images)))
    return Predictor(score, target=target, scale=scale or "probability", output=output, fitted_on=fitted_on)


class Predictions:
    """Predictors as one reader, so that edited images are scored in the pass in which they are read.

    Args:
        predictors: by name; one column each, **log odds**.
        seen: ``(m, 1, h, w)`` images by whose scores the models are told apart: weights of unknown models cannot be hashed,
            and what they say can.
    """

    name = NAME

    def __init__(self, predictors: Mapping[str, Predictor], seen: Tensor) -> None:
        self.predictors = dict(predictors)
        self.concepts = tuple(Concept(name, (name,), (f"not {name}",)) for name in predictors)
        self.quality = ReaderQuality.unknown(self.concepts)
        self.fitted_on = fitted_on_all(p.fitted_on for p in self.predictors.values())
        digest = hashlib.sha256(repr(list(predictors)).encode())
        digest.update(self.read(seen).double().round(decimals=3).numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def read(self, images: Tensor, patients: Sequence[str] | None = None) -> Tensor:
        """``(n, models)`` log odds."""
        return torch.stack([predictor.logits(images) for predictor in self.predictors.values()], dim=1)


class _Module:
    """A torch module in evaluation mode, put back afterwards, fed where its weights are."""

    def __init__(self, model: nn.Module, prepare: Callable[[Tensor], Tensor] | None) -> None:
        self.model, self.prepare = model, prepare

    def __call__(self, images: Tensor) -> Tensor:
        first = next(self.model.parameters(), None)
        given = images if self.prepare is None else self.prepare(images)
        modes = [module.training for module in self.model.modules()]
        self.model.eval()
        try:
            return self.model(given if first is None else given.to(first.device))
        finally:
            for module, mode in zip(self.model.modules(), modes, strict=True):
                module.training = mode


class _Sklearn:
    def __init__(self, model: Any, features: Any, prepare: Callable[[Tensor], Tensor] | None) -> None:
        self.model, self.features, self.prepare = model, features, prepare

    def __call__(self, images: Tensor) -> Any:
        given = self.features.features(images if self.prepare is None else self.prepare(images))
        X = given.numpy().astype(np.float64)
        wanted = getattr(self.model, "n_features_in_", X.shape[1])
        if wanted != X.shape[1]:
            raise ValueError(
                f"The classifier was fitted on {wanted} numbers an image, and gets {X.shape[1]} of images of shape "
                f"{tuple(images.shape[1:])}; pass features=, such as Pixels(size) or OrientedGradients()."
            )
        answer = self.model.predict_proba(X)
        if isinstance(answer, list):
            raise ValueError("The classifier predicts several targets at once; pass the estimator of one of them.")
        return answer


class _Flat:
    """All intensities, row by row."""

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def _is_xrv(model: Any) -> bool:
    return any(kind.__module__.split(".")[0] == "torchxrayvision" for kind in type(model).__mro__)


def _xrv(model: Any) -> Callable[[Tensor], Tensor]:
    said = re.search(r"res(\d+)", str(getattr(model, "weights", "") or ""))
    size = int(said[1]) if said else XRV_SIZE
    return lambda images: prepared(images, size)


def _named(names: Sequence[Any], target: str) -> int:
    """Which of the outputs is the target, but for case, spaces and underscores, and the usual other names."""
    plain = [re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_") for name in names]
    for asked in (target.lower(), *(name for name, others in ALSO.items() if target.lower() in others)):
        if plain.count(asked) == 1:
            return plain.index(asked)
    raise ValueError(
        f"The model has no output {target!r}; it has {[str(name) for name in names]}. Pass output= (its number), or classes="
        "[...] if these are not their names."
    )
