"""The cheap half of an audit: the measurement table and the graph in, edges out. Pure and repeatable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.acceptance import acceptance_rates
from causal_cxr.audits.effects import (
    NOTHING,
    Effect,
    benjamini_yekutieli,
    covariate_columns,
    design_matrix,
    g_computation,
    paired_effect,
    rejection_bounds,
)
from causal_cxr.audits.falsification import independence_tests, rejected_at
from causal_cxr.audits.verdicts import MEANING, TABLE, conjunction_p, verdict_of
from causal_cxr.graphs import CausalGraph, Continuous, Contrast
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality

SIDES = ("editor", "adjusted", "marginal")
BLIND_SLOPE = 0.3  #: a reader whose slope may lie below this cannot say "no"
EFFECTIVE_RATIO = 0.3  #: an editor must move A's own reader by this share of what real images differ by
RARE = 0.2  #: below this prevalence delta is half the prevalence
OVERLAP_SHARE, OVERLAP_LOW = 0.05, 0.02  #: at most this share of edited images may have a propensity beyond
FOLLOW_SHARE = 0.5  #: a reader may follow A by this share of delta
FEWEST_EXPECTED = (
    10  #: images with the concept, and without, at the rarer level, were it as frequent there as elsewhere
)
FEASIBLE = 100  #: times the patients at hand; beyond that no number is told
AGREE, DIFFER, OPEN = "agree", "differ", "open"
PRESENT = 0.5  #: score from which a concept counts as shown, for ``gained`` and ``lost``


@dataclass(frozen=True)
class Analysis:
    """Edges, what else readers say of them, and the limits of editors and graph, as frames (see :func:`analyse`)."""

    edges: pd.DataFrame
    second_readings: pd.DataFrame
    falsification: pd.DataFrame
    effectiveness: pd.DataFrame
    leak: pd.DataFrame
    acceptance: pd.DataFrame


@dataclass(frozen=True)
class _Observed:
    """Estimates from unedited images for one contrast and one column of scores; or why there is none."""

    adjustment: frozenset[str] | None
    overlap: bool
    fewest: int  #: images at the rarer of the two levels; all images for a continuous attribute
    adjusted: Effect
    marginal: Effect


def analyse(
    measurements: pd.DataFrame,
    attributes: pd.DataFrame,
    graph: CausalGraph,
    contrasts: Sequence[Contrast],
    concepts: Mapping[str, Sequence[Concept]],
    quality: Mapping[str, ReaderQuality],
    *,
    alpha: float = 0.05,
    smallest_effect: float = 0.10,
    labelled_outcomes: bool = False,
) -> Analysis:
    """Effects, gates, tests, verdicts.

    Args:
        measurements: as :mod:`causal_cxr.audits.measure` writes them.
        attributes: the dataset's labelled table, index = its rows.
        graph: the declared one.
        contrasts: as measured.
        concepts, quality: by reader name.
        alpha: of every test, and of the false-discovery rate of each verdict kind.
        smallest_effect: delta, a risk difference.
        labelled_outcomes: whether what an attribute does to the other labelled attributes is asked too, as the images
            show them (by the concepts that read them); it widens the families that the error control is over.

    Returns:
        ``edges``: one row an editor x contrast x concept outside the graph (with ``labelled_outcomes``: or reading another
        labelled attribute), read by the reader that reads the concept
        best, with the three estimates (editor, adjusted, marginal; direct where labelled mediators exist), their calls,
        the verdict, its q and a sentence. ``gained`` and ``lost``: share of images in which the concept appears, of
        those without it, and disappears, of those with it, when the attribute goes from a0 to a1 (a score of 0.5 is
        the border). ``rejected``: share of the edits, or of their null edits, that the editor rejected;
        they enter no estimate, and whatever they would have shown, the estimate from all edits lies between ``bound_low`` and
        ``bound_high`` (:func:`causal_cxr.audits.effects.rejection_bounds`; on the scale of the concept, so beyond [-1, 1] where the
        reader's slope is low), with 95% confidence between ``bound_low_95`` and ``bound_high_95``. ``rival_q``: q of "the adjusted association is there", which needs no editor. ``agreement``: what
        the other readers that read it well enough say. ``second_readings``: the estimates and calls of the readers
        that were not chosen. ``falsification``: the graph's implied independences among labelled attributes, tested
        (:func:`causal_cxr.audits.falsification.independence_tests`). ``acceptance``: how many edits were accepted, in each
        group of patients (:func:`causal_cxr.audits.acceptance.acceptance_rates`).

    Raises:
        ValueError: no concept is a candidate hidden attribute.
    """
    if not any(concept.attribute is None for group in concepts.values() for concept in group):
        raise ValueError("No concept is a candidate hidden attribute; give a reader at least one without attribute=...")
    factual = measurements[(measurements["kind"] == "factual") & measurements["accepted"]].set_index("row").sort_index()
    outcomes = {
        f"{reader}/{concept.name}": concept.attribute for reader, group in concepts.items() for concept in group
    }
    columns = list(outcomes)
    table = graph.coerce(attributes)
    edited = np.sort(measurements.loc[measurements["kind"] == "null", "row"].unique())
    observed = {c.name: _observe(graph, table, factual, outcomes, c, edited) for c in contrasts}
    falsification = independence_tests(graph, table.loc[factual.index], factual["patient"].to_numpy(), alpha=alpha)

    rows, effectiveness, leak = [], [], []
    for editor in sorted(measurements.loc[measurements["kind"] == "null", "editor"].unique()):
        mine = measurements[measurements["editor"] == editor]
        null = mine[mine["kind"] == "null"].set_index("row")
        for contrast in contrasts:
            paired = {kind: _paired(mine, null, contrast, kind, columns) for kind in ("total", "direct")}
            seen = observed[contrast.name]
            asked = _asked(mine, null, contrast, columns)
            effective, own = _effectiveness(editor, contrast, concepts, paired["total"], seen)
            effectiveness += own
            leak += _leak(editor, contrast, concepts, quality, paired["total"])
            for reader, group in concepts.items():
                for concept in group:
                    if concept.attribute is None or (labelled_outcomes and concept.attribute != contrast.attribute):
                        rows.append(_cell(editor, contrast, reader, concept, quality[reader], paired, asked,
                                          seen[f"{reader}/{concept.name}"], factual, effective, graph, alpha,
                                          smallest_effect))  # fmt: skip
    cells = pd.DataFrame(rows)
    chosen = _best_reader(cells)
    others = cells[~chosen]
    cells = cells[chosen].assign(agreement=_agreement(cells[chosen], others)).reset_index(drop=True)
    for attribute, statement in rejected_at(falsification).items():
        cells.loc[(cells["attribute"] == attribute) & (cells["gate"] == ""), "gate"] = f"graph falsified: {statement}"
    cells.loc[(cells["agreement"] == DIFFER) & (cells["gate"] == ""), "gate"] = "readers differ"
    return Analysis(
        _decide(cells, alpha),
        others.drop(columns=["gate", "blind", "follows"]).reset_index(drop=True),
        falsification,
        pd.DataFrame(effectiveness, columns=["editor", "contrast", "attribute", "concept", "reader", "effect", "expected",
                                             "ratio", "low", "high", "n"]),
        pd.DataFrame(leak, columns=["editor", "contrast", "attribute", "concept", "reader", "target", "effect", "low", "high"]),
        acceptance_rates(measurements, table, graph),
    )  # fmt: skip


def _paired(
    mine: pd.DataFrame, null: pd.DataFrame, contrast: Contrast, kind: str, columns: list[str]
) -> pd.DataFrame | None:
    """Oriented differences edited minus matched null, the null's scores as ``<column>@null``, patient, orientation.

    ``None`` if the contrast was not measured.
    """
    edits = mine[
        (mine["kind"] == kind) & (mine["contrast"] == contrast.name) & (mine["orientation"] != 0) & mine["accepted"]
    ]
    edits = edits[edits["row"].isin(null.index[null["accepted"]])]
    if edits.empty:
        return None
    sign = edits["orientation"].to_numpy(dtype=float)[:, None]
    before = null.loc[edits["row"], columns].to_numpy(dtype=float)
    values = (edits[columns].to_numpy(dtype=float) - before) * sign
    frame = pd.DataFrame(
        np.hstack([values, before]), columns=[*columns, *(f"{c}@null" for c in columns)], index=edits["row"].to_numpy()
    )
    return frame.assign(patient=edits["patient"].to_numpy(), orientation=edits["orientation"].to_numpy())


def _asked(mine: pd.DataFrame, null: pd.DataFrame, contrast: Contrast, columns: list[str]) -> pd.DataFrame | None:
    """All edits that the contrast asked for, accepted or not: orientation, patient, scores, and the null edits' likewise.

    ``None`` if it was not measured.
    """
    edits = mine[(mine["kind"] == "total") & (mine["contrast"] == contrast.name) & (mine["orientation"] != 0)]
    edits = edits[edits["row"].isin(null.index)]
    if edits.empty:
        return None
    kept = [*columns, "accepted"]
    before = null.loc[edits["row"], kept].set_axis(edits.index).add_suffix("@null")
    return pd.concat([edits[[*kept, "orientation", "patient"]], before], axis=1)


def _bounds(asked: pd.DataFrame, column: str) -> tuple[Effect, Effect]:
    return rejection_bounds(
        asked[column].to_numpy(dtype=float), asked[f"{column}@null"].to_numpy(dtype=float),
        asked["orientation"].to_numpy(), asked["accepted"].to_numpy(dtype=bool),
        asked["accepted@null"].to_numpy(dtype=bool), asked["patient"].to_numpy(),
    )  # fmt: skip


def _observe(
    graph: CausalGraph,
    table: pd.DataFrame,
    factual: pd.DataFrame,
    outcomes: Mapping[str, str | None],
    contrast: Contrast,
    edited: np.ndarray,
) -> dict[str, _Observed]:
    """Adjusted and marginal effects in unedited images, standardised to the edited ones, by column.

    Args:
        outcomes: column of scores -> the labelled attribute that it reads; ``None``: what the graph does not have.
    """
    by_set: dict[frozenset[str] | None, list[str]] = {}
    for column, outcome in outcomes.items():
        own = (
            outcome == contrast.attribute
        )  # its own reader tells how far real images differ; there is nothing to adjust
        adjustment = graph.adjustment_set(contrast.attribute, None if own else outcome)
        by_set.setdefault(adjustment, []).append(column)
    found: dict[str, _Observed] = {}
    for adjustment, columns in by_set.items():
        known = adjustment or frozenset()  # both sides of the same images
        marginal, _, fewest = _standardised(graph, table, factual, columns, contrast, edited, known, frozenset())
        adjusted, overlap, _ = (
            (dict.fromkeys(columns, NOTHING), False, 0) if adjustment is None
            else _standardised(graph, table, factual, columns, contrast, edited, known, adjustment)
        )  # fmt: skip
        found |= {c: _Observed(adjustment, overlap, fewest, adjusted[c], marginal[c]) for c in columns}
    return found


def _standardised(
    graph: CausalGraph, table: pd.DataFrame, factual: pd.DataFrame, columns: list[str], contrast: Contrast,
    edited: np.ndarray, complete: frozenset[str], adjustment: frozenset[str],
) -> tuple[Mapping[str, Effect], bool, int]:  # fmt: skip
    """Effect on each column by g-computation over ``adjustment``, whether the overlap allows one, and the rarer level's images.

    Images that miss one of ``complete`` are left out.
    """
    attribute = graph.attributes[contrast.attribute]
    known = table.loc[factual.index]
    codes = attribute.encode(known[contrast.attribute])
    continuous = isinstance(attribute, Continuous)
    if continuous:
        assert contrast.shift
        treatment = (codes - np.nanmean(codes)) / contrast.shift
        keep = ~np.isnan(codes)
    else:
        assert not isinstance(attribute, Continuous)
        level, reference = (attribute.levels.index(attribute.check(v)) for v in (contrast.level, contrast.reference))
        treatment = (codes == level).astype(float)
        keep = (codes == level) | (codes == reference)
    for name in complete:
        keep &= known[name].notna().to_numpy()
    scores, patients = factual.loc[keep, columns].to_numpy(dtype=float), factual.loc[keep, "patient"].to_numpy()
    treatment, known = treatment[keep], known[keep]
    standard = known.index.isin(edited)
    fewest = len(treatment) if continuous else int(min((treatment == 1).sum(), (treatment == 0).sum()))
    if not standard.any() or len(np.unique(treatment)) < 2:
        return dict.fromkeys(columns, NOTHING), False, fewest
    if not _overlaps(graph, known, treatment, adjustment, standard, continuous):
        return dict.fromkeys(columns, NOTHING), False, fewest
    covariates: dict[str, np.ndarray] = {}
    for name in sorted(adjustment):
        covariates |= covariate_columns(known[name], graph.attributes[name].encode(known[name]))
    design = design_matrix(treatment, covariates, continuous)
    at = {name: column[standard] for name, column in covariates.items()}
    if continuous:
        high, low = _shifted(treatment)
        low, high = low[standard], high[standard]
    else:
        low, high = np.zeros(int(standard.sum())), np.ones(int(standard.sum()))
    design_low, design_high = (design_matrix(values, at, continuous) for values in (low, high))
    effects = g_computation(scores, patients, design, design_low, design_high, patients[standard])
    return dict(zip(columns, effects, strict=True)), True, fewest


def _shifted(treatment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a1 and a0 of a unit shift inside the observed support: up where that stays inside, else from below."""
    up = treatment + 1 <= treatment.max()
    return np.where(up, treatment + 1, treatment), np.where(up, treatment, treatment - 1)


def _overlaps(
    graph: CausalGraph,
    known: pd.DataFrame,
    treatment: np.ndarray,
    adjustment: frozenset[str],
    standard: np.ndarray,
    continuous: bool,
) -> bool:
    """Whether nearly every edited image could have had either value, given the adjustment set.

    Levels: by a logistic propensity. Numbers: both ends of the shift lie among the residuals that are seen.
    """
    covariates: dict[str, np.ndarray] = {}
    for name in sorted(adjustment):
        covariates |= covariate_columns(known[name], graph.attributes[name].encode(known[name]))
    if not covariates:
        return True
    X = np.column_stack(list(covariates.values()))
    if continuous:
        expected = treatment.mean() + X @ np.linalg.lstsq(X, treatment - treatment.mean(), rcond=None)[0]
        lowest, highest = np.quantile(treatment - expected, [OVERLAP_LOW / 2, 1 - OVERLAP_LOW / 2])
        high, low = _shifted(treatment)
        outside = (high - expected > highest) | (low - expected < lowest)
        return bool(outside[standard].mean() <= OVERLAP_SHARE)

    from sklearn.linear_model import LogisticRegression

    propensity = LogisticRegression(C=10.0, max_iter=1000).fit(X, treatment).predict_proba(X)[standard, 1]
    beyond = (propensity < OVERLAP_LOW) | (propensity > 1 - OVERLAP_LOW)
    return bool(beyond.mean() <= OVERLAP_SHARE)


def _effectiveness(
    editor: str,
    contrast: Contrast,
    concepts: Mapping[str, Sequence[Concept]],
    paired: pd.DataFrame | None,
    seen: Mapping[str, _Observed],
) -> tuple[bool | None, list[list[Any]]]:
    """Whether A's own reader separates edited images as it separates real ones; ``None`` without such a reader."""
    rows, ratios = [], []
    for reader, group in concepts.items():
        for concept in group:
            if concept.attribute != contrast.attribute or paired is None:
                continue
            column = f"{reader}/{concept.name}"
            effect = paired_effect(paired[column].to_numpy(), paired["patient"].to_numpy())
            expected = seen[column].marginal.value
            if not abs(expected) > 1e-3:
                continue
            low, high = sorted(bound / expected for bound in effect.interval())
            ratios.append(effect.value / expected)
            rows.append([editor, contrast.name, contrast.attribute, concept.name, reader, effect.value, expected,
                         effect.value / expected, low, high, effect.n])  # fmt: skip
    return (max(ratios) >= EFFECTIVE_RATIO if ratios else None), rows


def _leak(
    editor: str, contrast: Contrast, concepts: Mapping[str, Sequence[Concept]], quality: Mapping[str, ReaderQuality],
    paired: pd.DataFrame | None,
) -> list[list[Any]]:  # fmt: skip
    """What a contrast moves of every labelled attribute, each read by the reader that reads it best."""
    best: dict[str, tuple[float, str, Concept]] = {}
    for reader, group in concepts.items():
        for concept in group:
            low: Any = quality[reader].concepts.loc[concept.name, "slope_low"]
            merit = -np.inf if np.isnan(low) else float(low)
            if concept.attribute is not None and (concept.name not in best or merit > best[concept.name][0]):
                best[concept.name] = (merit, reader, concept)
    rows = []
    for merit, reader, concept in best.values() if paired is not None else ():
        assert paired is not None
        effect = paired_effect(paired[f"{reader}/{concept.name}"].to_numpy(), paired["patient"].to_numpy())
        if merit > 0:
            slope: Any = quality[reader].concepts.loc[concept.name]
            effect = effect.scaled(float(slope["slope"]), float(slope["slope_se"]))
        rows.append([editor, contrast.name, contrast.attribute, concept.name, reader, concept.attribute, effect.value,
                     *effect.interval()])  # fmt: skip
    return rows


def _cell(
    editor: str, contrast: Contrast, reader: str, concept: Concept, quality: ReaderQuality,
    paired: Mapping[str, pd.DataFrame | None], asked: pd.DataFrame | None, seen: _Observed, factual: pd.DataFrame, effective: bool | None,
    graph: CausalGraph, alpha: float, smallest_effect: float,
) -> dict[str, Any]:  # fmt: skip
    column = f"{reader}/{concept.name}"
    q: Any = quality.concepts.loc[concept.name]
    slope, slope_se, slope_low = (float(q[key]) for key in ("slope", "slope_se", "slope_low"))
    readable = slope_low > 0
    blind = not slope_low >= BLIND_SLOPE
    # The mean score is linear in prevalence with slope J; a calibrated reader's mean is right on its labelled patients.
    mean, labelled = float(factual[column].mean()), float(q["prevalence"])
    prevalence = float(np.clip(labelled + (mean - labelled) / slope if readable else mean, 0, 1))
    delta = smallest_effect if not prevalence < RARE else max(prevalence / 2, 0.01)

    def of(kind: str, orientation: int | None = None) -> Effect:
        frame = paired[kind]
        if frame is None:
            return NOTHING
        if orientation is not None:
            frame = frame[frame["orientation"] == orientation]
        return paired_effect(frame[column].to_numpy(), frame["patient"].to_numpy())

    raw = {"editor": of("total"), "adjusted": seen.adjusted, "marginal": seen.marginal, "direct": of("direct"),
           "up": of("total", 1), "down": of("total", -1)}  # fmt: skip
    effects = {side: (e.scaled(slope, slope_se) if readable else e).unsettled() for side, e in raw.items()}
    row: dict[str, Any] = {
        "editor": editor, "attribute": contrast.attribute, "contrast": contrast.name, "concept": concept.name,
        "reader": reader, "control": concept.control, "delta": delta, "slope": slope, "slope_low": slope_low,
        "declared_path": graph.has_directed_path(contrast.attribute, concept.attribute or concept.name),
        "adjustment": None if seen.adjustment is None else ", ".join(sorted(seen.adjustment)),
        "n_edited": raw["editor"].n, "n_patients": raw["editor"].patients, "n_unedited": raw["marginal"].n,
        "prevalence": prevalence,
    }  # fmt: skip
    for side in (*SIDES, "direct"):
        e = effects[side]
        low, high = e.interval() if e.n else (np.nan, np.nan)
        p_yes, p_no = e.p_yes(delta), e.p_no(delta)
        call = "" if not e.n else "yes" if p_yes <= alpha else "no" if p_no <= alpha and not blind else "undecided"
        row |= {f"{side}_effect": e.value, f"{side}_se": e.se, f"{side}_low": low, f"{side}_high": high,
                f"{side}_p_yes": p_yes, f"{side}_p_no": 1.0 if blind else p_no, f"{side}_call": call}  # fmt: skip
    row |= {"up_effect": effects["up"].value, "down_effect": effects["down"].value}
    row["gained"], row["lost"] = _crossings(paired["total"], column)
    if asked is None:
        row |= dict.fromkeys(("rejected", "bound_low", "bound_high", "bound_low_95", "bound_high_95"), np.nan)
    else:
        least, most = (b.scaled(slope, slope_se) if readable else b for b in _bounds(asked, column))
        row |= {"rejected": 1 - float((asked["accepted"] & asked["accepted@null"]).mean()),
                "bound_low": least.value, "bound_high": most.value,
                "bound_low_95": least.interval()[0], "bound_high_95": most.interval()[1]}  # fmt: skip
    # Where editor and adjusted agree, only the direct effect is left to tell "hidden" from "mediated".
    shown = row["editor_call"] == row["adjusted_call"] == "yes"
    unsettled = [effects[s] for s in (("direct",) if shown else SIDES) if row[f"{s}_call"] == "undecided"]
    needed = max((e.patients_needed(delta, alpha) for e in unsettled), default=np.nan)
    row["patients_needed"] = needed if np.isfinite(needed) else np.nan

    follow = quality.follows[
        (quality.follows["concept"] == concept.name) & (quality.follows["attribute"] == contrast.attribute)
    ]
    follows = inseparable = False
    for low, high in follow[["low", "high"]].to_numpy(dtype=float) / slope if readable else ():
        inseparable |= bool(np.isnan(low))  # of several levels one is enough
        follows |= bool(low > FOLLOW_SHARE * delta or high < -FOLLOW_SHARE * delta or np.isnan(low))
    up, down = effects["up"], effects["down"]
    opposed = up.n and down.n and up.value * down.value < 0 and max(up.p_yes(delta), down.p_yes(delta)) <= alpha
    row["gate"] = (
        "no reading of this concept is known to work" if not readable
        else "too few labelled images to tell the reader from one of " + contrast.attribute if inseparable
        else "reader follows " + contrast.attribute if follows
        else "editor not effective on " + contrast.attribute
        if effective is False and contrast.attribute in graph.image_parents
        else "declared as a cause of " + contrast.attribute
        if concept.attribute is not None and graph.has_directed_path(concept.attribute, contrast.attribute)
        else "not identifiable: a latent common cause" if seen.adjustment is None
        else "no overlap" if not seen.overlap
        else f"too few images to show it at both levels of {contrast.attribute}"
        if min(prevalence, 1 - prevalence) * seen.fewest < FEWEST_EXPECTED
        else "asymmetric: the two directions have opposite signs" if opposed
        else ""
    )  # fmt: skip
    row |= {"blind": blind, "follows": follows}
    return row


def _best_reader(cells: pd.DataFrame) -> np.ndarray:
    """``(n,)`` bool: of an edge's readers the one with the highest lower bound of its slope; ones that follow A come last.

    Only what was known before any edit was read decides, so that choosing biases nothing.
    """
    merit = cells["slope_low"].fillna(-np.inf) - 10.0 * cells["follows"]
    order = cells.assign(merit=merit).sort_values("merit", ascending=False, kind="stable")
    best = order.drop_duplicates(["editor", "contrast", "concept"]).index
    return cells.index.isin(best)


def _agreement(edges: pd.DataFrame, others: pd.DataFrame) -> list[str]:
    """Of each edge, whether the other readers that are neither blind nor following A make the same calls.

    ``differ``: one says yes where another says no, or yes with the other sign. ``agree``: all share every call that the
    chosen reader makes on the editor's and the adjusted side. ``open``: neither. Empty: no other reader.
    """
    able = others[~others["blind"] & ~others["follows"]].groupby(["editor", "contrast", "concept"])
    groups = {key: group.to_dict("records") for key, group in able}
    said = []
    for edge in edges.to_dict("records"):
        seconds = groups.get((edge["editor"], edge["contrast"], edge["concept"]), [])
        pairs: list[tuple[Any, Any, str]] = [
            (edge, second, side) for second in seconds for side in ("editor", "adjusted")
        ]
        if any(_opposed(*pair) for pair in pairs):
            said.append(DIFFER)
        elif not pairs:
            said.append("")
        else:
            shared = all(a[f"{s}_call"] in (b[f"{s}_call"], "undecided", "") for a, b, s in pairs)
            said.append(AGREE if shared else OPEN)
    return said


def _opposed(a: Mapping[str, Any], b: Mapping[str, Any], side: str) -> bool:
    calls = {a[f"{side}_call"], b[f"{side}_call"]}
    return calls == {"yes", "no"} or (calls == {"yes"} and a[f"{side}_effect"] * b[f"{side}_effect"] < 0)


def _crossings(frame: pd.DataFrame | None, column: str) -> tuple[float, float]:
    """Shares gained (of images without the concept at a0) and lost (of those with it); NaN without such images."""
    if frame is None:
        return np.nan, np.nan
    null, sign = frame[f"{column}@null"].to_numpy(), frame["orientation"].to_numpy()
    edited = null + sign * frame[column].to_numpy()
    before, after = (np.where(sign == s, null, edited) >= PRESENT for s in (1, -1))
    gained = float(after[~before].mean()) if (~before).any() else np.nan
    return gained, float((~after)[before].mean()) if before.any() else np.nan


def _decide(cells: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Verdicts: one family a verdict kind over all cells, BY on the conjunction p."""
    sides = {side: cells[[f"{side}_p_yes", f"{side}_p_no", f"{side}_effect"]].to_numpy() for side in SIDES}
    verdicts, reasons, qs = (
        np.full(len(cells), "undecided", dtype=object),
        cells["gate"].to_list(),
        np.full(len(cells), np.nan),
    )
    for rule in TABLE:
        p = np.array(
            [
                conjunction_p(
                    rule,
                    {s: _or_one(v[i, 0]) for s, v in sides.items()},
                    {s: _or_one(v[i, 1]) for s, v in sides.items()},
                    {s: float(np.sign(v[i, 2])) for s, v in sides.items()},
                    bool(cells["declared_path"].iloc[i]),
                )
                for i in range(len(cells))
            ]
        )
        p[cells["gate"].to_numpy() != ""] = 1.0
        families = {rule.verdict: p}
        if rule.verdict == "hidden":
            # Where labelled mediators exist, the direct effect must be shown too, there or absent: "hidden" for want
            # of a "no" would be a verdict made from a failure to reject.
            families = {
                "hidden": np.maximum(p, cells["direct_p_yes"].where(cells["direct_call"] != "", 0.0).to_numpy()),
                "mediated": np.maximum(p, cells["direct_p_no"].where(cells["direct_call"] != "", 1.0).to_numpy()),
            }
        for verdict, conjunction in families.items():
            q = benjamini_yekutieli(conjunction)
            taken = q <= alpha
            verdicts[taken], qs[taken] = verdict, q[taken]
    cells = cells.assign(verdict=verdicts, q=qs)
    # The strongest rival needs no editor, so its family is the cells of one.
    cells["rival_q"] = cells.groupby("editor")["adjusted_p_yes"].transform(lambda p: benjamini_yekutieli(p.to_numpy()))
    cells["reason"] = [
        "" if v != "undecided" else gate or _why(row)
        for v, gate, (_, row) in zip(cells["verdict"], reasons, cells.iterrows(), strict=True)
    ]
    cells["sign"] = np.sign(cells["editor_effect"]).where(cells["verdict"] != "undecided", 0).fillna(0).astype(int)
    cells["sentence"] = [_sentence(row) for _, row in cells.iterrows()]
    first = ["editor", "attribute", "contrast", "concept", "reader", "verdict", "reason", "q", "sentence"]
    return cells[[*first, *[c for c in cells.columns if c not in (*first, "gate", "blind", "follows")]]]


def _or_one(p: float) -> float:
    return 1.0 if np.isnan(p) else float(p)


def _why(row: pd.Series) -> str:
    if row["blind"]:
        return f"reader blind (slope {row['slope']:.2f}, may lie below {BLIND_SLOPE}); it cannot say 'no'"
    open_sides = [side for side in SIDES if row[f"{side}_call"] == "undecided"]
    shown = row["editor_call"] == row["adjusted_call"] == "yes"
    if shown and not row["declared_path"] and row["direct_call"] == "undecided":
        open_sides = ["direct"]  # hidden or mediated; the marginal effect has no say in either
    if not open_sides:
        calls = {side: row[f"{side}_call"] for side in SIDES}
        signs = {side: float(np.sign(row[f"{side}_effect"])) for side in SIDES}
        if verdict_of(calls, signs, bool(row["declared_path"])) == "undecided":
            return "the editor and the unadjusted association have opposite signs"
        return "not after correction for the number of cells"
    more = ""
    if row["patients_needed"] > FEASIBLE * row["n_patients"]:
        more = "; the estimate lies on the border of what counts, no feasible number of patients would decide"
    elif np.isfinite(row["patients_needed"]):
        more = f"; about {row['patients_needed']:,.0f} patients would decide"
    return f"{' and '.join(open_sides)} undecided{more}"


def _sentence(row: pd.Series) -> str:
    numbers = "; ".join(
        f"{side} {row[f'{side}_effect']:+.2f} [{row[f'{side}_low']:+.2f}, {row[f'{side}_high']:+.2f}]" for side in SIDES
    )
    reason = f" ({row['reason']})" if row["reason"] else ""
    return f"{row['contrast']} on {row['concept']}: {row['verdict']}{reason}: {MEANING[row['verdict']]}; {numbers}."
