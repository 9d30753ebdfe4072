"""Fit the weights: penalised maximum likelihood, and Monte-Carlo EM where attributes are missing."""

from collections.abc import Mapping

import torch
from torch import Tensor

from causal_cxr.graphs.attributes import Continuous
from causal_cxr.graphs.scm.missing import complete
from causal_cxr.graphs.scm.structure import Structure

ROUNDS = 30  #: of EM at most
TOLERANCE = 3e-3  #: EM ends when no weight changes by more
DRAWS = 20_000  #: imputed rows a round: each incomplete row is drawn ``DRAWS // rows`` times, once to 20 times


def fit(structure: Structure, codes: Mapping[str, Tensor], seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Weights of all mechanisms, from ``(n,)`` codes with NaN where missing; each attribute is observed somewhere.

    Also ``(n,)``: how many effective proposals the last imputation of each row rested on, infinite where exact.

    The fit of the complete rows is where EM starts; without any, missing values are first drawn from their columns.
    Each round imputes incomplete rows from their posterior, with the same random numbers, and refits: its limit is a
    point, not a cloud (Wei & Tanner, JASA 1990).
    """
    holes = torch.stack([code.isnan() for code in codes.values()]).any(0)
    observed = {name: code[~holes] for name, code in codes.items()}
    incomplete = {name: code[holes] for name, code in codes.items()}
    n, k = int((~holes).sum()), int(holes.sum())
    start = {name: structure.start(name) for name in structure.order}
    weights = maximise(structure, observed if n else _scattered(codes, seed), start)
    effective = torch.full(holes.shape, torch.inf, dtype=torch.float64)
    if not k:
        return weights, effective
    draws = min(20, max(1, DRAWS // k))
    shares = torch.cat([torch.ones(n, dtype=torch.float64), torch.full((k * draws,), 1 / draws, dtype=torch.float64)])
    for _ in range(ROUNDS):
        drawn = complete(structure, weights, incomplete, draws=draws, seed=seed)
        effective[holes] = drawn.effective
        everything = {name: torch.cat([observed[name], drawn.codes[name].flatten()]) for name in structure.order}
        before, weights = weights, maximise(structure, everything, weights, shares)
        if max(float((weights[name] - before[name]).abs().max()) for name in weights) < TOLERANCE:
            break
    return weights, effective


def maximise(
    structure: Structure, codes: Mapping[str, Tensor], start: Mapping[str, Tensor], shares: Tensor | None = None
) -> dict[str, Tensor]:
    """The weights of highest posterior density given complete rows, by L-BFGS, district after district; deterministic.

    Args:
        structure: the equations.
        codes: name -> ``(n,)``.
        start: weights to begin with.
        shares: ``(n,)``, how much each row counts; one each unless given.

    Raises:
        ValueError: weights ran away, as where numbers fill a small part of their declared range; the attributes are named.
    """
    found: dict[str, Tensor] = {}
    for district in structure.districts:
        found |= _maximise_district(structure, district, codes, start, shares)
    return found


def _maximise_district(
    structure: Structure,
    district: tuple[str, ...],
    codes: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    shares: Tensor | None,
) -> dict[str, Tensor]:
    weights = {name: start[name].clone().requires_grad_() for name in district}
    optimiser = torch.optim.LBFGS(list(weights.values()), max_iter=200, line_search_fn="strong_wolfe")
    rows = len(next(iter(codes.values())))
    n = rows if shares is None else float(shares.sum())

    def loss() -> Tensor:
        optimiser.zero_grad()
        density = structure.joint(district, codes, rows, weights).logsumexp(0)
        fit = density.mean() if shares is None else (shares * density).sum() / n
        value = sum(structure.penalty(name, weight) for name, weight in weights.items()) / n - fit
        value.backward()
        return value

    try:
        optimiser.step(loss)
    except ValueError as problem:  # torch names the parameter of a distribution, and neither attribute nor cause
        told = []
        for name in dict.fromkeys(name for own in district for name in (own, *structure.parents[own])):
            if isinstance(attribute := structure.attributes[name], Continuous):
                seen = f"{float(codes[name].min()):g} to {float(codes[name].max()):g}"
                told.append(f"{name!r} is declared {attribute.low:g} to {attribute.high:g} and seen {seen}")
        raise ValueError(
            f"The equations of {list(district)} could not be fitted: their numbers ran away. {'; '.join(told) or problem}. "
            "Declare low= and high= near what is seen."
        ) from problem
    return {name: weight.detach() for name, weight in weights.items()}


def _scattered(codes: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Missing values drawn from the observed ones of their column."""
    generator = torch.Generator().manual_seed(seed)
    filled = {}
    for name, code in codes.items():
        known = code[~code.isnan()]
        drawn = known[torch.randint(len(known), (len(code),), generator=generator)]
        filled[name] = torch.where(code.isnan(), drawn, code)
    return filled
