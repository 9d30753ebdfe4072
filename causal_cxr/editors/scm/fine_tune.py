"""Counterfactual fine-tuning: make edits read as what they were to show, without losing the fit to the images.

De Sousa Ribeiro et al., ICML 2023: minimise the error of predictors on counterfactuals subject to the evidence bound
staying where the fit left it, by a Lagrange multiplier. Attributes that the intervention does not move are held to what
the predictors say of the *factual image* rather than to its label: hard labels teach the model to exaggerate them
(Xia et al., MICCAI 2024).
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from causal_cxr.data.dataset import Dataset
from causal_cxr.editors.scm.editor import SCMEditor, conditions
from causal_cxr.editors.scm.fit import WARM_UP, beta_at, complete_rows, read, shifted
from causal_cxr.editors.scm.image_model import pixel_noise, with_pixel_noise
from causal_cxr.fitting.precision import Precision, autocast
from causal_cxr.fitting.resumable import ResumableFit, cosine
from causal_cxr.graphs import CausalGraph
from causal_cxr.graphs.scm import SCM

#: images ``(n, 1, h, w)`` -> the attribute's distribution over its codes, batch shape ``(n,)``; differentiable
Predictor = Callable[[Tensor], Distribution]
LEAST_PRICE, MOST_PRICE = 1e-3, 10.0  #: of a nat of the bound, in nats of misreading
PRICE_RATE = 0.01  #: of the multiplier's ascent: it doubles in 70 steps while the bound is out of its slack
CALIBRATION = 16  #: batches on which the bound to keep is measured
AHEAD = 50  #: steps whose interventions are drawn at once: the attributes' SCM works on tables


def fine_tune(
    editor: SCMEditor,
    dataset: Dataset,
    rows: np.ndarray,
    predictors: Mapping[str, Predictor],
    *,
    targets: Literal["soft", "hard"] = "soft",
    steps: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    learning_rate: float = 3e-4,
    ema: float = 0.99,
    slack: float = 0.05,
    divergence_warm_up: int = 0,
    first_beta: float = 0.05,
    first_price: float = 0.1,
    last_price: float | None = None,
    attribute_weights: Mapping[str, float] | None = None,
    misreading: Mapping[str, float] | None = None,
    shift: int = 0,
    detail_only: bool = False,
    mixed_precision: Precision = "no",
    save_every: int = 200,
    checkpoint: Path | None = None,
) -> SCMEditor:
    """A new editor whose counterfactuals the predictors read as intended; the one given stays as it is.

    Each image of a batch gets an intervention on one attribute of ``predictors``, the value another row's; its
    descendants follow the graph's SCM. Predictors read the edits as the editor makes them, with ``residual`` of the
    pixel noise replayed: what that leaves of the factual shape is misread, too.

    Args:
        editor: a fitted one.
        dataset: that it was fitted on; images of one size.
        rows: those of the fit; rows that miss an attribute are left out.
        predictors: attribute -> predictor. They must not score the result: it learns what they see.
        targets: of the attributes that an intervention does not move: ``"soft"``, what the predictor says of the
            factual image, or ``"hard"``, their label (to measure what it does).
        steps: of ``batch_size`` images.
        seed: of batches, interventions and draws.
        slack: share by which the bound may grow worse.
        divergence_warm_up, first_beta: as in the fit: a ladder's fine latents are emptied, so that the coarse ones learn
            to make the edits, and filled again with the edits watched.
        first_price: Lagrange multiplier to begin with: of a nat of the bound, in nats of misreading.
        last_price: where given, the price goes from the first to this one, geometrically, whatever bound and readings
            are: a weighted sum of both in place of the constraint, by which the bound may grow better, too.
        attribute_weights: attribute -> weight of its misreading, 1 unless given. A sharp predictor's nats outnumber
            those of levels, which then need more weight.
        misreading: attribute -> nats, more than 0, by which its reading of edits may be worse than of factual images.
            While one is worse, the price falls whatever the bound is: these edits come first. ``None``: the bound does.
        shift: as in the fit, see :func:`fit_image_model`.
        detail_only: train the ladder from its finest latents on (:meth:`ImageModel.detail`). The coarser ones, which hold
            the shape, stay as they are: nats may be made cheap in the finest without the shape moving there.
        mixed_precision: as in the fit; predictors keep theirs.
        checkpoint: folder for resumable state, every ``save_every`` steps.

    Raises:
        ValueError: a predictor of what the editor does not draw, a weight or limit for what no predictor reads, a
            limit that is not above 0, limits and a ``last_price``, or ``detail_only`` of a model without a ladder.
    """
    from rich.progress import Progress

    graph = editor.scm.graph
    unknown = sorted(set(predictors) - (set(graph.labelled) & set(graph.image_parents)))
    if unknown or not predictors:
        shown = [name for name in graph.image_parents if name in graph.labelled]
        raise ValueError(f"Predictors are given for {unknown or 'nothing'}; the editor draws {shown}.")
    weights, limits = dict(attribute_weights or {}), dict(misreading or {})
    unread = sorted((set(weights) | set(limits)) - set(predictors))
    if unread:
        raise ValueError(
            f"attribute_weights or misreading name {unread}; predictors are given for {sorted(predictors)}."
        )
    if any(limit <= 0 for limit in limits.values()):
        raise ValueError(f"misreading is {limits}; give nats above 0.")
    if limits and last_price is not None:
        raise ValueError("misreading and last_price both say what an edit may cost; give one of them.")
    if detail_only and not editor.image_model.detail():
        raise ValueError(
            f"detail_only needs a ladder of latents, and {type(editor.image_model).__name__} has none: use a "
            "HierarchicalVAE, or train all of it."
        )
    rows, table = complete_rows(dataset, rows, graph)
    images = read(dataset, rows)
    model = copy.deepcopy(editor.image_model).to(memory_format=torch.channels_last)  # a sixth faster on a CPU
    trained = model.detail() if detail_only else dict(model.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    device = next(model.parameters()).device
    factual, shape = conditions(graph, table).to(device), (images.shape[-2], images.shape[-1])
    size = min(batch_size, len(rows))

    def batch(chosen: np.ndarray, step: int) -> Tensor:
        torch.manual_seed(seed * 1_000_003 + step)
        return shifted(images[chosen].float(), shift, np.random.default_rng([seed, step])).to(device)

    with torch.random.fork_rng(devices=[]):
        fit = ResumableFit(
            trained,
            torch.optim.AdamW(trained.values(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0),
            decay=ema,
            folder=checkpoint,
            recipe=(
                "fine-tuning", editor.fingerprint, dataset.fingerprint, rows.tolist(), sorted(predictors), targets, steps,
                seed, batch_size, learning_rate, ema, slack, divergence_warm_up,
                first_beta, first_price, last_price, weights, limits, shift, detail_only,
                mixed_precision,
            ),
        )  # fmt: skip
        if "keep" in fit.extra:
            keep, price = float(fit.extra["keep"]), float(fit.extra["price"])
        else:
            known = np.random.default_rng(seed).choice(len(rows), (CALIBRATION, size))
            with torch.no_grad():
                bounds = [
                    model.bound(batch(chosen, steps + i), factual[chosen]).value for i, chosen in enumerate(known)
                ]
            keep, price = float(torch.stack(bounds).mean()) * shape[0] * shape[1], first_price
        allowed = slack * abs(keep)
        if limits:
            unedited = _Plan.draw(editor.scm, table, sorted(predictors), size, [seed, 0])
            floors = []
            for i in range(CALIBRATION):
                chosen, _, _, moved = unedited.batch(i)
                codes, seen = _codes(graph, table.iloc[chosen], predictors), batch(chosen, steps + i)
                with torch.no_grad():
                    floors.append(_misread(predictors, seen, seen, codes, moved, targets))
            most = {
                name: limit + float(torch.stack([floor[name] for floor in floors]).mean())
                for name, limit in limits.items()
            }
        plan: _Plan | None = None
        with Progress(transient=True) as progress:
            task = progress.add_task("counterfactual fine-tuning", total=steps, completed=fit.step)
            for step in range(fit.step, steps):
                if plan is None or step % AHEAD == 0:
                    plan = _Plan.draw(editor.scm, table, sorted(predictors), size, [seed, step // AHEAD])
                chosen, target, codes, moved = plan.batch(step % AHEAD)
                seen = batch(chosen, step)
                beta = beta_at(step, divergence_warm_up, first_beta)
                with autocast(device, mixed_precision):
                    bound = model.bound(seen, factual[chosen], beta)
                    decoded = model.decode(bound.noise, target.to(device), shape)
                pixels = pixel_noise(seen, bound.location, bound.log_scale)
                edited = with_pixel_noise(*decoded, pixels, editor.residual)
                errors = _misread(predictors, seen, edited, codes, moved, targets)
                error = torch.stack([weights.get(name, 1.0) * each for name, each in errors.items()]).sum()
                excess = bound.value * shape[0] * shape[1] - keep - allowed
                if last_price is not None:
                    price = first_price * (last_price / first_price) ** (step / steps)
                fit.descend(error + price * excess, learning_rate * cosine(step, steps, WARM_UP))
                if beta == 1 and last_price is None:
                    wanted = excess.item() / max(allowed, 1e-6)
                    beyond = max(((errors[name].item() - most[name]) / limits[name] for name in limits), default=0.0)
                    wanted = -beyond if beyond > 0 else wanted
                    price *= math.exp(PRICE_RATE * float(np.clip(wanted, -1, 1)))
                    price = min(max(price, LEAST_PRICE), MOST_PRICE)
                progress.update(task, completed=step + 1, description=f"fine-tuning, misread {error.item():.2f} nats")
                if (step + 1) % save_every == 0:
                    fit.extra = {
                        "keep": torch.tensor(keep, dtype=torch.float64),
                        "price": torch.tensor(price, dtype=torch.float64),
                    }
                    fit.save()
    fit.smooth()
    return SCMEditor(
        editor.scm,
        model.requires_grad_(True),
        residual=editor.residual,
        fitted_on=editor.fitted_on,
        renderer_version=editor.renderer_version,
    )


@dataclass(frozen=True)
class _Plan:
    """The interventions of ``AHEAD`` steps, each of ``size`` rows.

    Attributes:
        rows: ``(AHEAD, size)``, of the table.
        target: ``(AHEAD * size, n_conditions)``.
        codes: attribute -> ``(AHEAD * size,)`` counterfactual codes.
        moved: attribute -> ``(AHEAD * size,)`` whether the intervention is on it or on a cause of it.
    """

    rows: np.ndarray
    target: Tensor
    codes: Mapping[str, Tensor]
    moved: Mapping[str, Tensor]

    @classmethod
    def draw(cls, scm: SCM, table: pd.DataFrame, names: Sequence[str], size: int, seed: Sequence[int]) -> "_Plan":
        rng = np.random.default_rng(seed)
        rows = np.stack([rng.choice(len(table), size, replace=False) for _ in range(AHEAD)])
        factual = table.iloc[rows.ravel()].reset_index(drop=True)
        chosen = rng.integers(len(names), size=len(factual))
        values = table.iloc[rng.integers(len(table), size=len(factual))]
        parts, moved = [], {name: torch.zeros(len(factual), dtype=torch.bool) for name in names}
        for i, name in enumerate(names):
            here = np.flatnonzero(chosen == i)
            if not len(here):
                continue
            parts.append(scm.counterfactual(factual.iloc[here], {name: values[name].to_numpy()[here]}, seed=i))
            for other in {name, *scm.graph.descendants(name)} & set(names):
                moved[other][here] = True
        target = pd.concat(parts).sort_index()
        return cls(rows, conditions(scm.graph, target), _codes(scm.graph, target, names), moved)

    def batch(self, step: int) -> tuple[np.ndarray, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Rows, conditions, codes and what is moved, of one of the steps."""
        size = self.rows.shape[1]
        here = slice(step * size, (step + 1) * size)
        codes, moved = ({name: each[here] for name, each in of.items()} for of in (self.codes, self.moved))
        return self.rows[step], self.target[here], codes, moved


def _codes(graph: CausalGraph, table: pd.DataFrame, names: Iterable[str]) -> dict[str, Tensor]:
    """Attribute -> ``(n,)`` codes."""
    return {name: torch.tensor(graph.attributes[name].encode(table[name]), dtype=torch.float32) for name in names}


def _misread(
    predictors: Mapping[str, Predictor],
    images: Tensor,
    edited: Tensor,
    codes: Mapping[str, Tensor],
    moved: Mapping[str, Tensor],
    targets: Literal["soft", "hard"],
) -> dict[str, Tensor]:
    """Attribute -> ``()``, nats an image by which its predictor reads the edited images as something else than intended."""
    errors = {}
    for name, predictor in predictors.items():
        said = predictor(edited)
        error = -said.log_prob(codes[name].to(edited.device))
        if targets == "soft":
            with torch.no_grad():
                before = predictor(images)
            error = torch.where(moved[name].to(edited.device), error, kl_divergence(before, said))
        errors[name] = error.mean()
    return errors
