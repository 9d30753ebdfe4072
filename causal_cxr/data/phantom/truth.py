"""What an audit of a world should find: relations read off the true graph, effects computed by Monte Carlo."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
from scipy.stats import t
from sklearn.preprocessing import SplineTransformer

from causal_cxr.data.phantom.world import Sign, World
from causal_cxr.graphs import CausalGraph, Continuous, Contrast, default_contrasts
from causal_cxr.graphs.separation import SELECTION, explicit_dag, selection

BATCHES = 10  #: the Monte Carlo interval comes from so many independent parts
KNOTS = 6  #: of the spline in which a continuous covariate enters the g-formula
RARE = 0.2  #: below this prevalence delta is half the prevalence
POSITIVE, NEGATIVE = 2.0, 0.2  #: times delta: at least, and at most, so large; between is grey

#: True relation of (A, U) -> the verdicts that are right for an observational and for a structural editor.
RIGHT: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "causes": (("hidden",), ("hidden",)),
    "mediated": (("mediated",), ("mediated",)),
    # where U acts on A only through what is adjusted for, the effects say so, and it is spurious
    "caused by": (("hidden", "confounded", "spurious"), ("missed", "spurious")),
    "undeclared common cause": (("hidden",), ("missed",)),
    "selection": (("hidden",), ("missed",)),
    "declared common cause": (("confounded", "spurious"), ("spurious",)),
    "none": (("none",), ("none",)),
}
#: What must be so of the true effects for a verdict to be right.
_NEEDS: Mapping[str, Mapping[str, str]] = {
    "hidden": {"total": "yes", "direct": "yes", "adjusted": "yes"},
    "mediated": {"total": "yes", "direct": "no", "adjusted": "yes"},
    "missed": {"total": "no", "adjusted": "yes"},
    "spurious": {"total": "no", "adjusted": "no", "marginal": "yes"},
    "confounded": {"total": "no", "adjusted": "no", "marginal": "yes"},
    "none": {"total": "no", "adjusted": "no", "marginal": "no"},
}
#: The same where an observational editor moves U for what goes with A without being its effect.
_CO_OCCURS: Mapping[str, str] = {"total": "no", "adjusted": "yes"}
#: Of :func:`truth_of`.
COLUMNS = [
    "attribute", "contrast", "concept", "of", "relation", "adjustment", "prevalence", "delta",
    *(f"{side}{end}" for side in ("total", "direct", "marginal", "adjusted") for end in ("", "_low", "_high")),
    "observational", "structural", "edge_observational", "edge_structural",
]  # fmt: skip
#: Relations that leave nothing between A and U once the other labelled attributes are given, colliders aside.
BLOCKED = ("mediated", "declared common cause", "none")
TAILS = (0.005, 0.995)  #: quantiles between which a continuous attribute is well seen
GREY = "grey"  #: neither clearly there nor clearly absent: not scored, but shown in power curves


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo mean with its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, parts: np.ndarray) -> "Estimate":
        """From the means of independent parts of equal size."""
        parts = parts[~np.isnan(parts)]
        if not len(parts):
            return cls(float("nan"), float("nan"), float("nan"))
        mean = float(parts.mean())
        spread = float(parts.std(ddof=1)) / np.sqrt(len(parts)) if len(parts) > 1 else float("nan")
        half = float(t.ppf(0.975, max(len(parts) - 1, 1))) * spread
        return cls(mean, mean - half, mean + half)


NOUGHT = Estimate(0.0, 0.0, 0.0)


def truth_of(
    world: World,
    contrasts: Iterable[Contrast] | None = None,
    *,
    signs: Iterable[Sign] | None = None,
    draws: int = 200_000,
    smallest_effect: float = 0.10,
    seed: int = 0,
) -> pd.DataFrame:
    """The true relation and effects of every (labelled attribute, hidden attribute) pair, and the verdicts that are right.

    All effects are risk differences of the sign being there, over collected images, under the audit's contrast:

    - ``total``: do(attribute), labelled and hidden descendants following, oriented a1 - a0;
    - ``direct``: the same with all other labelled attributes held;
    - ``adjusted``: the g-formula over the declared graph's adjustment set, on the table as recorded (label noise and gaps
      included), by regression on splines within each level;
    - ``marginal``: the same without adjustment.

    Args:
        world: whose truth is asked.
        contrasts: the audit's; the default ones with the world's shifts unless given.
        signs: what is looked for; the world's hidden signs unless given.
        draws: images of the Monte Carlo.
        smallest_effect: delta, a risk difference; for a sign of prevalence q < 0.2 delta is q/2, at least 0.01.
        seed: of the Monte Carlo.

    Returns:
        One row a contrast x sign: ``attribute``, ``contrast``, ``concept`` (the sign's name), ``of`` (the attribute it is
        about), ``relation`` (a key of :data:`RIGHT`), ``adjustment`` (comma-separated; ``None`` where no set identifies the
        effect), ``prevalence``, ``delta``; ``total``, ``direct``, ``adjusted``, ``marginal``, each with ``_low`` and
        ``_high``, the Monte Carlo 95% interval, exactly 0 where the graph says so; ``observational`` and ``structural``: the
        right verdicts, joined by ``|``, :data:`GREY` where an effect is neither >= 2 delta nor <= delta / 5;
        ``edge_observational`` and ``edge_structural``: whether such an editor should find a hidden edge (True, False, or NA:
        grey, see :func:`hidden_edge`).
    """
    contrasts = tuple(contrasts or default_contrasts(world.declared, world.content.shifts))
    signs = world.hidden_signs if signs is None else tuple(signs)
    graph = world.declared
    noise, codes, _ = world.population(draws, seed + 990_001, iid=True)
    recorded = {name: codes[name] for name in graph.labelled}
    if world.content.missing or world.content.label_noise:
        table = world.recorded(codes, np.random.default_rng([seed, 990_002]))
        recorded = {name: graph.attributes[name].encode(table[name]) for name in graph.labelled}
    there = world.presence(codes, signs).to_numpy(dtype=float)
    part = np.arange(draws) % BATCHES
    rows = []
    for contrast in contrasts:
        effects = _interventions(world, contrast, noise, codes, signs, part)
        adjustment = graph.adjustment_set(contrast.attribute)
        effects["marginal"] = _g_formula(graph, contrast, recorded, there, frozenset(), part)
        effects["adjusted"] = (
            np.full((BATCHES, len(signs)), np.nan) if adjustment is None
            else _g_formula(graph, contrast, recorded, there, adjustment, part)
        )  # fmt: skip
        for j, sign in enumerate(signs):
            if sign.attribute == contrast.attribute:
                continue
            prevalence = float(there[:, j].mean())
            delta = smallest_effect if prevalence >= RARE else max(prevalence / 2, 0.01)
            estimates = {side: Estimate.of(values[:, j]) for side, values in effects.items()}
            relation = relation_of(world, contrast.attribute, sign.attribute, adjustment)
            estimates |= dict.fromkeys(_zero_by_graph(world, contrast.attribute, sign.attribute, adjustment), NOUGHT)
            row: dict[str, Any] = {
                "attribute": contrast.attribute, "contrast": contrast.name, "concept": sign.name, "of": sign.attribute,
                "relation": relation, "adjustment": None if adjustment is None else ", ".join(sorted(adjustment)),
                "prevalence": prevalence, "delta": delta,
            }  # fmt: skip
            for side, e in estimates.items():
                row |= {side: e.value, f"{side}_low": e.low, f"{side}_high": e.high}
            values = {side: e.value for side, e in estimates.items()}
            row["observational"], row["structural"] = (right_verdict(relation, values, delta, i) for i in (0, 1))
            edges: list[Any] = [hidden_edge(relation, values, delta, editor) for editor in (0, 1)]
            if relation in BLOCKED and _moves_with_all_else(world, contrast.attribute, sign.attribute):
                row["observational"], edges[0] = GREY, pd.NA
            row["edge_observational"], row["edge_structural"] = edges
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(COLUMNS[-2:], "boolean"))


def _zero_by_graph(world: World, attribute: str, hidden: str, adjustment: frozenset[str] | None) -> list[str]:
    """The sides on which there is no effect whatever the mechanisms."""
    dag, always = explicit_dag(world.graph), selection(world.graph)
    zero = []
    if nx.is_d_separator(dag, {attribute}, {hidden}, always) and not world.content.missing:
        zero.append("marginal")  # wrong labels go with nothing else
    if world.content.missing or world.content.label_noise or adjustment is None or hidden in adjustment:
        return zero  # what is recorded adjusts for something else
    if nx.is_d_separator(dag, {attribute}, {hidden}, adjustment | always):
        zero.append("adjusted")
    return zero


def _moves_with_all_else(world: World, attribute: str, hidden: str) -> bool:
    """Whether A and U go together given every other column, as an editor that is told them all learns it."""
    dag, always = explicit_dag(world.graph), selection(world.graph)
    others = set(world.graph.labelled) - {attribute, hidden}
    return not nx.is_d_separator(dag, {attribute}, {hidden}, others | always)


def relation_of(world: World, attribute: str, hidden: str, adjustment: frozenset[str] | None) -> str:
    """The true relation of a labelled attribute A and an attribute U, by the true graph.

    Args:
        adjustment: the declared graph's adjustment set of A; the parents of A stand in where there is none.

    Returns:
        ``causes`` (a directed path A ~> U that avoids other labelled attributes), ``mediated`` (only through those),
        ``caused by`` (U ~> A), else what connects them: ``undeclared common cause`` (still connected given the adjustment
        set), ``selection`` (so connected only among what was collected), ``declared common cause`` (the adjustment set
        separates them), or ``none``.
    """
    truth = world.graph
    labelled = set(truth.labelled)
    if truth.has_directed_path(attribute, hidden):
        dag = explicit_dag(truth)
        around = dag.subgraph(set(dag) - (labelled - {attribute, hidden}))
        return "causes" if nx.has_path(around, attribute, hidden) else "mediated"
    if truth.has_directed_path(hidden, attribute):
        return "caused by"
    dag, always = explicit_dag(truth), selection(truth)
    given = set(truth.parents(attribute) & labelled if adjustment is None else adjustment) - {hidden}
    if nx.is_d_separator(dag, {attribute}, {hidden}, always):
        return "none"
    if nx.is_d_separator(dag, {attribute}, {hidden}, given | always):
        return "declared common cause"
    if always and nx.is_d_separator(dag.subgraph(set(dag) - {SELECTION}), {attribute}, {hidden}, given):
        return "selection"
    return "undeclared common cause"


def right_verdict(relation: str, effects: Mapping[str, float], delta: float, editor: int) -> str:
    """The right verdicts for an observational (0) or structural (1) editor, joined by ``|``, or :data:`GREY`.

    Args:
        relation: a key of :data:`RIGHT`.
        effects: true ``total``, ``direct``, ``adjusted`` and ``marginal`` effects.
        delta: the smallest effect that counts.
    """

    def call(value: float) -> str:
        return "yes" if abs(value) >= POSITIVE * delta else "no" if abs(value) <= NEGATIVE * delta else GREY

    calls = {side: call(value) for side, value in effects.items()}
    same_sign = effects["total"] * effects["adjusted"] > 0

    def fits(verdict: str) -> bool:
        causal = relation in ("causes", "mediated")
        needs = _CO_OCCURS if verdict == "hidden" and not causal else _NEEDS[verdict]
        return (same_sign or not causal) and all(calls[side] == wanted for side, wanted in needs.items())

    right = [verdict for verdict in RIGHT[relation][editor] if fits(verdict)]
    if right:
        return "|".join(right)
    return "none" if all(calls[side] == "no" for side in ("total", "adjusted", "marginal")) else GREY


def hidden_edge(relation: str, effects: Mapping[str, float], delta: float, editor: int) -> Any:
    """Whether an observational (0) or structural (1) editor should find a hidden edge: True, False, or ``pd.NA`` (grey).

    An edge is there where A acts on U past the other labelled attributes with effects >= 2 delta of one sign (``total``,
    ``direct``, ``adjusted``), and for an observational editor also where U acts on A, or something undeclared on both, with an
    adjusted effect >= 2 delta. None is there where that effect is <= delta / 5, and where the relation is another: an
    effect through labelled attributes only, or an association that adjustment takes away, is no edge however strong.
    """
    if relation == "causes":
        sides = [effects[side] for side in ("total", "direct", "adjusted")]
        if abs(effects["direct"]) <= NEGATIVE * delta:
            return False
        there = min(map(abs, sides)) >= POSITIVE * delta and len({value > 0 for value in sides}) == 1
        return True if there else pd.NA
    if relation in BLOCKED or editor == 1:
        return False
    adjusted = abs(effects["adjusted"])
    return True if adjusted >= POSITIVE * delta else False if adjusted <= NEGATIVE * delta else pd.NA


def _interventions(
    world: World,
    contrast: Contrast,
    noise: Any,
    codes: Mapping[str, np.ndarray],
    signs: tuple[Sign, ...],
    part: np.ndarray,
) -> dict[str, np.ndarray]:
    """``total`` and ``direct``: ``(BATCHES, signs)`` means of the oriented differences."""
    attribute = world.graph.attributes[contrast.attribute]
    moved, sign = contrast.apply(attribute, attribute.decode(codes[contrast.attribute]))
    do = {contrast.attribute: attribute.encode(moved)}
    held = {name: codes[name] for name in world.graph.labelled} | do
    before = world.presence(codes, signs).to_numpy(dtype=float)
    found = {}
    for kind, given in (("total", do), ("direct", held)):
        after = world.presence(world.evaluate(noise, given, codes), signs).to_numpy(dtype=float)
        difference = (after - before) * sign[:, None]
        found[kind] = np.stack([difference[(part == b) & (sign != 0)].mean(0) for b in range(BATCHES)])
    return found


def _g_formula(
    graph: CausalGraph, contrast: Contrast, codes: Mapping[str, np.ndarray], there: np.ndarray, adjustment: frozenset[str],
    part: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """``(BATCHES, signs)`` standardised differences: E[U | a1, Z] - E[U | a0, Z] averaged over the images."""
    attribute = graph.attributes[contrast.attribute]
    known = ~np.isnan(np.column_stack([codes[name] for name in (contrast.attribute, *adjustment)])).any(1)
    a = codes[contrast.attribute]
    covariates = _basis(graph, {name: codes[name] for name in sorted(adjustment)}, known, len(a))
    if isinstance(attribute, Continuous):
        spline = _spline(a[known])
        least, most = np.nanquantile(a, TAILS)  # beyond, there are too few images to say what is expected
        up = a + contrast.shift <= most
        ends = [np.where(up, a, a - contrast.shift), np.where(up, a + contrast.shift, a)]

        def design(values: np.ndarray) -> np.ndarray:
            inside = np.clip(np.nan_to_num(values, nan=np.nanmean(a)), np.nanmin(a), np.nanmax(a))
            basis = np.column_stack([np.ones(len(inside)), spline.transform(inside[:, None])])
            slope = (inside - np.nanmean(a)) / np.nanstd(a)
            return np.column_stack([basis, covariates[:, 1:], covariates[:, 1:] * slope[:, None]])

        X, low, high = design(a), design(ends[0]), design(ends[1])
        inside = known & (ends[0] >= least) & (ends[1] <= most)
        found = []
        for b in range(BATCHES):
            fit, ask = known & (part == b), inside & (part == b)
            beta = np.linalg.lstsq(X[fit], there[fit], rcond=None)[0]
            found.append((high[ask].mean(0) - low[ask].mean(0)) @ beta)
        return np.stack(found)
    level, reference = (attribute.levels.index(attribute.check(v)) for v in (contrast.level, contrast.reference))
    found = []
    for b in range(BATCHES):
        mine = known & (part == b)
        ask = mine & np.isin(a, (level, reference))
        means = []
        for value in (reference, level):
            fit = mine & (a == value)
            if not fit.any():  # no such image, no answer
                means.append(np.full(there.shape[1], np.nan))
                continue
            beta = np.linalg.lstsq(covariates[fit], there[fit], rcond=None)[0]
            means.append(covariates[ask].mean(0) @ beta)
        found.append(means[1] - means[0])
    return np.stack(found)


def _spline(values: np.ndarray) -> SplineTransformer:
    """A cubic with knots at quantiles, straight beyond the tails; so no piece of it hangs on a few images."""
    knots = np.unique(np.quantile(values, np.linspace(*TAILS, KNOTS)))[:, None]
    return SplineTransformer(degree=3, knots=knots, extrapolation="linear", include_bias=False).fit(values[:, None])


def _basis(graph: CausalGraph, codes: Mapping[str, np.ndarray], known: np.ndarray, n: int) -> np.ndarray:
    """``(n, p)``: intercept, every pattern of the levelled covariates, splines of the numbers and their products with levels."""
    columns = [np.ones((n, 1))]
    levelled = {name: code for name, code in codes.items() if not isinstance(graph.attributes[name], Continuous)}
    patterns = np.zeros((n, 0))
    if levelled:
        table = np.column_stack([np.nan_to_num(code) for code in levelled.values()])
        _, pattern = np.unique(table, axis=0, return_inverse=True)
        frequent = np.flatnonzero(np.bincount(pattern.ravel()) >= 200)[1:]
        dummies = np.column_stack([code == k for code in levelled.values() for k in np.unique(code[known])[1:]]).astype(
            float
        )
        crossed = (pattern.ravel()[:, None] == frequent).astype(float)
        patterns = np.column_stack([dummies, crossed])
        columns.append(patterns)
    for name in set(codes) - set(levelled):
        spline = _spline(codes[name][known])
        basis = spline.transform(np.nan_to_num(codes[name], nan=np.nanmean(codes[name]))[:, None])
        centred = (codes[name] - np.nanmean(codes[name])) / np.nanstd(codes[name])
        columns += [basis, patterns * np.nan_to_num(centred)[:, None]]
    return np.hstack(columns)
