"""Missing attributes: their posterior given the observed ones of the same row.

Rows are taken together by which attributes they lack. Missing levels are enumerated and shared latents summed: exact.
With a missing number, or more than ``MOST_COMBINATIONS`` combinations of levels, it is importance sampling: missing
attributes and latents are proposed from their mechanisms in causal order, weighted by the likelihood of the observed
ones, and resampled. It is the same as ``pyro.infer.Importance`` on ``pyro.condition(scm.model, ...)``, for all rows at
once. Rows must be missing at random: whether a value is missing may depend on observed attributes of the row only.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from causal_cxr.graphs.attributes import Continuous
from causal_cxr.graphs.scm.structure import Structure, grid

MOST_COMBINATIONS = 256  #: of missing levels that are enumerated
PROPOSALS = 200  #: a row where it is sampled
MORE_PROPOSALS = 4000  #: for rows that had fewer than ``LEAST_EFFECTIVE`` effective ones
LEAST_EFFECTIVE = 20
_CELLS = 2_000_000  # numbers in one array at a time


@dataclass(frozen=True)
class Completion:
    """Rows whose missing attributes were drawn from their posterior.

    Attributes:
        codes: name -> ``(draws, n)``; observed values as they were.
        log_evidence: ``(n,)`` log density of the observed part.
        effective: ``(n,)`` effective number of proposals; infinite where the posterior is exact.
    """

    codes: dict[str, Tensor]
    log_evidence: Tensor
    effective: Tensor


def complete(
    structure: Structure, weights: Mapping[str, Tensor], codes: Mapping[str, Tensor], *, draws: int = 1, seed: int
) -> Completion:
    """Draw what is NaN in ``(n,)`` codes from its posterior, ``draws`` times a row."""
    n = len(next(iter(codes.values())))
    made = Completion(
        {name: code.repeat(draws, 1) for name, code in codes.items()},
        torch.zeros(n, dtype=torch.float64),
        torch.full((n,), torch.inf, dtype=torch.float64),
    )
    with torch.random.fork_rng(devices=[]):
        # Its own stream: an abduction with the same seed must not see the same numbers.
        torch.manual_seed(int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]))
        for missing, rows in _patterns(codes):
            kinds = [structure.attributes[name] for name in missing]
            levels = [len(kind.levels) for kind in kinds if not isinstance(kind, Continuous)]
            if len(levels) == len(missing) and np.prod(levels) <= MOST_COMBINATIONS:
                for part in _parts(structure, rows, int(np.prod(levels))):
                    _enumerate(structure, weights, codes, missing, levels, part, made, draws)
                continue
            for part in _parts(structure, rows, PROPOSALS):
                _resample(structure, weights, codes, missing, PROPOSALS, part, made, draws)
            for part in _parts(structure, rows[made.effective[rows] < LEAST_EFFECTIVE], MORE_PROPOSALS):
                _resample(structure, weights, codes, missing, MORE_PROPOSALS, part, made, draws)
    return made


def _patterns(codes: Mapping[str, Tensor]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Which attributes are missing, and the rows that lack exactly those."""
    holes = torch.stack([code.isnan() for code in codes.values()], 1)
    patterns, which = holes.unique(dim=0, return_inverse=True)
    order = which.argsort(stable=True)
    for pattern, rows in zip(patterns, order.split(which.bincount().tolist()), strict=True):
        yield tuple(name for name, hole in zip(codes, pattern.tolist(), strict=True) if hole), rows


def _parts(structure: Structure, rows: Tensor, width: int) -> tuple[Tensor, ...]:
    """The rows in parts, so that no array is much larger than ``_CELLS``."""
    widest = max(len(grid(len(structure.shared(*district)))[1]) for district in structure.districts)
    return rows.split(max(1, _CELLS // (widest * width))) if len(rows) else ()


def _enumerate(
    structure: Structure,
    weights: Mapping[str, Tensor],
    codes: Mapping[str, Tensor],
    missing: tuple[str, ...],
    levels: list[int],
    rows: Tensor,
    made: Completion,
    draws: int,
) -> None:
    choices = torch.tensor(list(itertools.product(*map(range, levels))), dtype=torch.float64)  # (combinations, missing)
    given = {name: codes[name][rows] for name in structure.order}
    given |= {name: choices[:, i, None] for i, name in enumerate(missing)}
    total = torch.zeros(len(choices), len(rows), dtype=torch.float64)
    for district in structure.districts:
        total = total + structure.joint(district, given, len(rows), weights).logsumexp(0)
    made.log_evidence[rows] = total.logsumexp(0)
    if missing:
        drawn = torch.multinomial(total.softmax(0).T, draws, replacement=True).T
        for i, name in enumerate(missing):
            made.codes[name][:, rows] = choices[drawn, i]


def _resample(
    structure: Structure,
    weights: Mapping[str, Tensor],
    codes: Mapping[str, Tensor],
    missing: tuple[str, ...],
    proposals: int,
    rows: Tensor,
    made: Completion,
    draws: int,
) -> None:
    given = {name: codes[name][rows] for name in structure.order if name not in missing}
    nodes, log_weights = grid(1)
    for latent in structure.latents:
        picked = torch.distributions.Categorical(logits=log_weights).sample((proposals, len(rows)))
        given[latent] = nodes[picked, 0]
    log_weight = torch.zeros(proposals, len(rows), dtype=torch.float64)
    for name in structure.order:
        if name in missing:
            law = structure.distribution(name, given, len(rows), weights)
            several = () if len(law.batch_shape) == 2 else (proposals,)
            given[name] = law.sample(several).to(torch.float64)
        else:
            log_weight = log_weight + structure.log_prob(name, given, len(rows), weights)
    total = log_weight.logsumexp(0)
    made.log_evidence[rows] = total - np.log(proposals)
    made.effective[rows] = torch.exp(2 * total - (2 * log_weight).logsumexp(0))
    drawn = torch.multinomial(log_weight.softmax(0).T, draws, replacement=True).T
    for name in missing:
        made.codes[name][:, rows] = given[name].gather(0, drawn)
