"""One cell of an audit: a contrast, a concept, one reader of it; three effects, what each says, and the gates."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.associations import Association
from causal_cxr.audits.differences import crossings, edit_bounds
from causal_cxr.audits.effects import (
    NOTHING,
    Effect,
    benjamini_yekutieli_level,
    minimum_detectable_effect,
    paired_effect,
)
from causal_cxr.audits.gates import Gate
from causal_cxr.audits.obedience import Obedience
from causal_cxr.audits.scales import Scale, smallest_that_counts
from causal_cxr.graphs import CausalGraph, Contrast
from causal_cxr.graphs.identification import selected_effects
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality

SIDES = ("editor", "adjusted", "marginal")
DATA = ("adjusted", "marginal")  #: sides of unedited images: of labels, where there are some
BLIND_SLOPE = 0.3  #: a reader whose slope may lie below this cannot say "no"
EDITED = ("editor", "direct")  #: sides of edits, which may do less than they are asked
FOLLOWS = "reader follows"
NO_EDITS = "no edits"
FEWEST_EXPECTED = (
    10  #: images with the concept, and without, at the rarer level, were it as frequent there as elsewhere
)


def cell(
    editor: str, contrast: Contrast, reader: str, concept: Concept, quality: ReaderQuality,
    paired: Mapping[str, pd.DataFrame | None], asked: pd.DataFrame | None, seen: Association, factual: pd.DataFrame, obedience: Obedience,
    graph: CausalGraph, alpha: float, smallest_effect: float, tests: int,
) -> dict[str, Any]:  # fmt: skip
    column = f"{reader}/{concept.name}"
    q: Any = quality.concepts.loc[concept.name]
    slope, slope_low = float(q["slope"]), float(q["slope_low"])
    prevalence = quality.prevalence(concept.name, float(factual[column].mean()))
    delta = smallest_that_counts(prevalence, smallest_effect)
    scale = Scale.of(quality, concept.name, contrast, graph.attributes[contrast.attribute], delta)
    readable = scale.readable
    shift, inseparable, follows = scale.following
    blind = not slope_low >= BLIND_SLOPE

    def of(kind: str, orientation: int | None = None) -> Effect:
        frame = paired[kind]
        if frame is None:
            return NOTHING
        if orientation is not None:
            frame = frame[frame["orientation"] == orientation]
        return paired_effect(frame[column].to_numpy(), frame["patient"].to_numpy())

    shows = contrast.attribute in graph.image_parents
    raw = {"editor": of("total"), "adjusted": seen.adjusted, "marginal": seen.marginal, "direct": of("direct"),
           "up": of("total", 1), "down": of("total", -1)}  # fmt: skip
    by_label = DATA if seen.labelled else ()  # on the concept's own scale: what a reader gets wrong is in them no more
    effects = {side: (e if side in by_label else scale.effect(e)).unsettled() for side, e in raw.items()}
    row: dict[str, Any] = {
        "editor": editor, "attribute": contrast.attribute, "contrast": contrast.name, "concept": concept.name,
        "reader": reader, "control": concept.control, "delta": delta, "slope": slope, "slope_low": slope_low,
        "declared_path": graph.has_directed_path(contrast.attribute, concept.attribute or concept.name),
        "selected_through": ", ".join(selected_effects(graph, contrast.attribute)),
        "adjustment": None if seen.adjustment is None else ", ".join(sorted(seen.adjustment)),
        "n_edited": raw["editor"].n, "n_patients": raw["editor"].patients, "n_unedited": raw["marginal"].n,
        "prevalence": prevalence, "labelled": seen.labelled, "labels_unused": seen.unused,
    }  # fmt: skip
    # "No" is said of the whole of what was asked, not of what was done of it.
    whole = {side: obedience.in_full(e) if side in EDITED and shows else e for side, e in effects.items()}
    for side in (*SIDES, "direct"):
        e = effects[side]
        low, high = e.interval() if e.n else (np.nan, np.nan)
        mute = blind and side not in by_label
        p_yes, p_no = e.p_yes(delta), whole[side].p_no(delta)
        call = "" if not e.n else "yes" if p_yes <= alpha else "no" if p_no <= alpha and not mute else "undecided"
        row |= {f"{side}_effect": e.value, f"{side}_se": e.se, f"{side}_low": low, f"{side}_high": high,
                f"{side}_p_yes": p_yes, f"{side}_p_no": 1.0 if mute else p_no, f"{side}_call": call}  # fmt: skip
    for side in ("editor", "adjusted"):
        e = effects[side]
        row[f"{side}_mde"] = minimum_detectable_effect(e, delta, alpha=alpha) if e.se > 0 else np.nan
    row |= {"up_effect": effects["up"].value, "down_effect": effects["down"].value}
    row["gained"], row["lost"] = crossings(paired["total"], column)
    if asked is None:
        row |= dict.fromkeys(("rejected", "bound_low", "bound_high", "bound_low_95", "bound_high_95"), np.nan)
    else:
        least, most = (scale.effect(bound) for bound in edit_bounds(asked, column))
        row |= {"rejected": 1 - float((asked["accepted"] & asked["accepted@null"]).mean()),
                "bound_low": least.value, "bound_high": most.value,
                "bound_low_95": least.interval()[0], "bound_high_95": most.interval()[1]}  # fmt: skip
    # Where editor and adjusted agree, only the direct effect is left to tell "hidden" from "mediated".
    shown = row["editor_call"] == row["adjusted_call"] == "yes"
    open_sides = [s for s in (("direct",) if shown else SIDES) if row[f"{s}_call"] == "undecided"]
    unsettled = [e if abs(e.value) > delta else whole[s] for s, e in effects.items() if s in open_sides]
    needed = max((e.patients_needed(delta, benjamini_yekutieli_level(tests, alpha)) for e in unsettled), default=np.nan)
    row["patients_needed"] = needed if np.isfinite(needed) else np.nan

    up, down = effects["up"], effects["down"]
    opposed = up.n and down.n and up.value * down.value < 0 and max(up.p_yes(delta), down.p_yes(delta)) <= alpha
    declared_cause = concept.attribute is not None and graph.has_directed_path(concept.attribute, contrast.attribute)
    about, fewest = contrast.attribute, min(prevalence, 1 - prevalence) * seen.fewest
    tried: tuple[tuple[Any, str, str], ...] = (
        (not readable, "reader unknown", "no reading of this concept is known to work"),
        (inseparable, "reader inseparable", _inseparable(quality, concept.name, about)),
        (follows, FOLLOWS, f"reader follows {about}"),
        (not raw["editor"].n, NO_EDITS, _no_edits(about, asked, paired["total"])),
        (obedience.effective is False and shows, "editor not effective", f"editor not effective on {about}"),
        (declared_cause, "declared cause", f"declared as a cause of {about}"),
        (seen.adjustment is None, "not identifiable", "not identifiable: a latent common cause"),
        (not seen.overlap, "no overlap", "no overlap"),
        (fewest < FEWEST_EXPECTED, "too few", f"too few images to show it at both levels of {about}"),
        (opposed, "asymmetric", "asymmetric: the two directions have opposite signs"),
    )  # fmt: skip
    gates = tuple(Gate(kind, reason) for failed, kind, reason in tried if failed)
    row |= {"gates": gates, "blind": blind, "follows": follows or inseparable, "shift_known": shift.known,
            "shift_removed": shift.value, "shift_se": shift.se, "effectiveness": obedience.done.value}  # fmt: skip
    return row


def _inseparable(quality: ReaderQuality, concept: str, about: str) -> str:
    if not len(quality.follow_bounds(concept, about)):
        return f"the reader was never judged along {about}, which it may read in the concept's place"
    return f"too few labelled images to tell the reader from one of {about}"


def _no_edits(about: str, asked: pd.DataFrame | None, paired: pd.DataFrame | None) -> str:
    if asked is None:
        return f"the editor cannot set {about}, or there was no image to set it in"
    return (
        f"no edit of {about} was accepted"
        if paired is None
        else f"accepted edits of {about} are of fewer than three patients"
    )


def decided_about(contrast: Contrast, concept: Concept, labelled_outcomes: bool) -> bool:
    """Whether a verdict is given about what the contrast does to the concept: it is hidden, or another labelled one is asked for."""
    return concept.attribute is None or (labelled_outcomes and concept.attribute != contrast.attribute)
