"""Guidance by directions: what each attribute's change adds to the prediction under the factual caption.

``base`` is the network's output under the factual caption, ``d_A`` that under the factual caption with A alone changed,
less ``base``. An edit is ``base + strength * sum_A w_A d_A``: attributes are weighed, dosed and disentangled one by one, where
one weight for the whole caption amplifies all that it names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Captioned, Condition, Denoiser, Field
from causal_cxr.editors.diffusion.guidance.changes import changes
from causal_cxr.editors.diffusion.guidance.guidance import Describe, Request
from causal_cxr.editors.diffusion.process import Prediction
from causal_cxr.graphs import Attribute, Continuous

SHIFT = 0.25  #: of a held number's range: how far it is changed to see what it does
NEGLIGIBLE = 1e-8  #: relative to the largest, what of the held directions' Gram matrix counts as nothing


@dataclass(frozen=True)
class PerAttribute:
    """Classifier-free guidance with a weight an attribute, led away from the factual caption.

    An image of which K attributes change costs K + 1 evaluations a point; of which one does, at a weight of 1, a single one.

    Attributes:
        weights: by attribute.
        default: the weight of the others; 1 = as the network says.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    default: float = 1.0

    def source(self, denoiser: Denoiser, describe: Describe, factual: pd.DataFrame) -> Field:
        """See :class:`Guidance`; not guided."""
        return Captioned(denoiser, describe(factual))

    def target(self, request: Request) -> Field:
        """See :class:`Guidance`; ``strength`` scales the directions."""
        base, branches = _branches(request, self.weights, self.default)
        if not branches:
            return _Directed(request.denoiser, base, branches)
        alone = torch.cat([branch.rows for branch in branches]).bincount(minlength=len(base)) == 1
        left = []
        for branch in branches:  # what alone changes by a weight of 1 is as its caption says: no direction is needed
            plain = alone[branch.rows] & (branch.weight == 1.0)
            base = base.changed(branch.rows[plain], branch.condition.at(plain))
            left.append(replace(branch, rows=branch.rows[~plain], condition=branch.condition.at(~plain)))
        return _Directed(request.denoiser, base, tuple(branch for branch in left if len(branch.rows)))


@dataclass(frozen=True)
class Orthogonal:
    """Per-attribute guidance whose directions are stripped of what changing a held attribute would do too.

    The sum of the changed attributes' directions is projected, image by image over all dimensions of the latent, onto
    the orthogonal complement of the held attributes' directions: each held attribute is changed alone, to each of its other
    levels, or, a number, by a quarter of its range. Within a :class:`Region` both are confined to it first, so what is
    made orthogonal is what acts. Attributes that an image's edit changes are not held in it.

    An image of which K attributes change and whose held attributes have L other values costs K + L + 1 evaluations a point.

    Attributes:
        attributes: all that captions name, by name: the editor's ``graph_attributes``.
        held: those to hold; ``None`` = all.
        weights, default: as of :class:`PerAttribute`.
    """

    attributes: Mapping[str, Attribute]
    held: tuple[str, ...] | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    default: float = 1.0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.held or ()) - set(self.attributes))
        if unknown:
            raise ValueError(f"Cannot hold {unknown}: the attributes are {sorted(self.attributes)}; correct the name.")

    def source(self, denoiser: Denoiser, describe: Describe, factual: pd.DataFrame) -> Field:
        """See :class:`Guidance`; not guided."""
        return Captioned(denoiser, describe(factual))

    def target(self, request: Request) -> Field:
        """See :class:`Guidance`; ``strength`` scales what is left of the directions."""
        base, branches = _branches(request, self.weights, self.default)
        changed = changes(request.factual, request.target)
        held = []
        for name in self.attributes if self.held is None else self.held:
            if name not in request.factual.columns:
                continue
            still = ~changed.get(name, np.zeros(len(request.factual), dtype=bool))
            for moved in _other_values(self.attributes[name], request.factual[name]):
                rows = np.flatnonzero(still & moved.notna().to_numpy())
                if len(rows) and branches:
                    held.append(_branch(request, name, moved, rows))
        return _Directed(request.denoiser, base, branches, tuple(held), request.region)


@dataclass(frozen=True)
class _Branch:
    """The condition of some rows' captions with one attribute changed."""

    rows: Tensor
    condition: Condition
    weight: float = 1.0


@dataclass(frozen=True)
class _Directed:
    """The field ``base + sum of weighted directions``, off the held ones."""

    denoiser: Denoiser
    base: Condition
    changed: tuple[_Branch, ...]
    held: tuple[_Branch, ...] = ()
    region: Tensor | None = None

    def __call__(self, x: Tensor, t: float, own: Tensor | None = None) -> Prediction:
        branches = (*self.changed, *self.held)
        rows = torch.cat([torch.arange(len(x)), *(branch.rows for branch in branches)]).to(x.device)
        condition = Condition.cat([self.base, *(branch.condition for branch in branches)])
        base, *said = self.denoiser.output(x[rows], t, condition).split([len(x), *(len(b.rows) for b in branches)])
        edit = torch.zeros_like(base)
        held = [torch.zeros_like(base) for _ in self.held]
        for branch, output in zip(self.changed, said, strict=False):
            edit[branch.rows] += branch.weight * (output - base[branch.rows])
        for branch, output, direction in zip(self.held, said[len(self.changed) :], held, strict=True):
            direction[branch.rows] = output - base[branch.rows]
        if held:
            within = torch.ones_like(base[:, :1]) if self.region is None else self.region
            confined = torch.stack([(within * direction).flatten(1) for direction in held], dim=2)
            edit = without((within * edit).flatten(1), confined).view_as(base)
        return self.denoiser.process.split(base + edit, x, t)


def without(edit: Tensor, held: Tensor) -> Tensor:
    """The part of ``edit`` ``(n, d)`` that is orthogonal to each of ``held`` ``(n, d, k)``, row by row.

    By the normal equations in float64; directions that others already span, or that are 0, make no difference.

    >>> without(torch.tensor([[3.0, 4.0]]), torch.tensor([[[1.0, 2.0], [0.0, 0.0]]])).round(decimals=4)
    tensor([[0., 4.]])
    """
    vector, basis = edit.double()[:, :, None], held.double()
    basis = basis / basis.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    gram = torch.linalg.pinv(basis.mT @ basis, rtol=NEGLIGIBLE, hermitian=True)
    return (vector - basis @ (gram @ (basis.mT @ vector)))[:, :, 0].to(edit.dtype)


def _branches(request: Request, weights: Mapping[str, float], default: float) -> tuple[Condition, tuple[_Branch, ...]]:
    """The base, and a branch for each attribute that changes anywhere, in the rows where it does."""
    unknown = sorted(set(weights) - {str(name) for name in request.factual.columns})
    if unknown:
        raise ValueError(
            f"There are weights for {unknown}, which the images' table does not have; it has "
            f"{list(request.factual.columns)}."
        )
    branches = tuple(
        _branch(request, name, request.target[name], np.flatnonzero(rows),
                request.strength * weights.get(name, default))
        for name, rows in changes(request.factual, request.target).items()
    )  # fmt: skip
    return request.caption(request.factual), branches


def _branch(request: Request, name: str, values: pd.Series, rows: np.ndarray, weight: float = 1.0) -> _Branch:
    table = request.factual.iloc[rows].assign(**{name: values.iloc[rows]})
    return _Branch(torch.as_tensor(rows), request.caption(table), weight)


def _other_values(attribute: Attribute, now: pd.Series) -> list[pd.Series]:
    """What each image's value could be instead, a series an alternative; missing stays missing."""
    codes = attribute.encode(now)
    if isinstance(attribute, Continuous):
        shift = SHIFT * (attribute.high - attribute.low)
        moved = [np.where(codes + shift <= attribute.high, codes + shift, codes - shift)]
    else:
        moved = [(codes + k) % len(attribute.levels) for k in range(1, len(attribute.levels))]
    return [attribute.decode(values).set_axis(now.index) for values in moved]
