"""Does an edit leave the target itself as it was? Read off the target's manifestations; the gate before reliance is claimed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from causal_cxr.audits.cells import BLIND_SLOPE
from causal_cxr.audits.effects import NOTHING, Effect, paired_effect
from causal_cxr.audits.scales import Scale
from causal_cxr.audits.shortcuts.moments import product_ratio
from causal_cxr.graphs import Attribute, Contrast
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality, Shift
from causal_cxr.readers.reader import Reader

State = Literal["unmoved", "moved", "open", "reader blind", "reader follows"]
#: The worst of several manifestations decides; in this order.
WORST: tuple[State, ...] = ("moved", "reader blind", "reader follows", "open", "unmoved")
COLUMNS = ("editor", "contrast", "attribute", "manifestation", "concept", "reader", "effect", "low", "high", "state",
           "p_moved", "p_unmoved", "patients_needed")  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """What an edit does to one manifestation of the target.

    Attributes:
        manifestation: an attribute or a concept that was declared to be one, or the target.
        concept, reader: that read it.
        effect: beyond the null edit, in units of the manifestation (the reader's slope corrected for).
        state: ``unmoved`` and ``moved`` are each a rejection; ``open`` is neither; or why the reader cannot tell.
        p_moved, p_unmoved: of ``|effect| <= delta`` and of ``|effect| >= delta``; the second is 1 where the reader cannot tell.
        patients_needed: to decide, NaN where it is decided or cannot be.
        shift: of the reading with the attribute that is set, in scores; it is no movement of the manifestation.
    """

    manifestation: str
    concept: str
    reader: str
    effect: Effect
    state: State
    p_moved: float
    p_unmoved: float
    patients_needed: float
    shift: Shift

    @property
    def column(self) -> str:
        """Of the measurement table."""
        return f"{self.reader}/{self.concept}"


def manifestation_readings(
    readers: Sequence[Reader], target: str, manifestations: Sequence[str]
) -> dict[str, list[tuple[Reader, Concept]]]:
    """Manifestation -> who reads it; the target is its own, where a reader reads it.

    Raises:
        ValueError: no reader reads a manifestation that was declared, or there is none at all.
    """
    found: dict[str, list[tuple[Reader, Concept]]] = {}
    for name in (target, *manifestations):
        mine = [(r, c) for r in readers for c in r.concepts if name in (c.attribute, c.name)]
        if mine:
            found[name] = mine
        elif name != target:
            raise ValueError(
                f"No reader reads {name!r}, declared as a manifestation of {target!r}; they read "
                f"{sorted({c.name for r in readers for c in r.concepts})}. Add a reader of it, or do not declare it."
            )
    if not found:
        raise ValueError(
            f"No reader reads {target!r} or a manifestation of it, so no edit can be shown to leave it as it was; add a "
            f"reader, or declare what it shows as: manifestations={{{target!r}: [...]}}."
        )
    return found


def read_leaks(
    paired: pd.DataFrame, about: Mapping[str, Sequence[tuple[Reader, Concept]]], contrast: Contrast, attribute: Attribute, *,
    delta: float, alpha: float,
) -> tuple[Reading, ...]:  # fmt: skip
    """Each manifestation by the reader that reads it best, chosen by what was known before any edit.

    Args:
        paired: oriented differences (:func:`causal_cxr.audits.differences.paired_differences`).
        about: of :func:`manifestation_readings`.
        contrast: that was carried out.
        attribute: that was set. What a reader is known to see of it in the manifestation's place is taken off, with its error;
            a reader that may see too much of it cannot tell.
        delta: smallest movement that counts.
        alpha: of each test. That *all* are unmoved needs all rejections, so no correction for their number.
    """
    readings = []
    for name, options in about.items():
        judged = [(*_standing(r.quality, c, contrast, attribute, delta), r, c) for r, c in options]
        follows, merit, scale, reader, concept = max(judged, key=lambda one: (one[1] - 10.0 * one[0], one[3].name))
        raw = paired_effect(paired[f"{reader.name}/{concept.name}"].to_numpy(), paired["patient"].to_numpy())
        effect = scale.effect(raw).unsettled() if scale.readable else raw
        blind = not merit >= BLIND_SLOPE
        p_moved, p_unmoved = (1.0 if np.isnan(p) else p for p in (effect.p_yes(delta), effect.p_no(delta)))
        state: State = (
            "reader follows" if follows
            else "moved" if p_moved <= alpha and scale.readable
            else "reader blind" if blind
            else "unmoved" if p_unmoved <= alpha
            else "open"
        )  # fmt: skip
        needed = effect.patients_needed(delta, alpha) if state == "open" else np.nan
        readings.append(
            Reading(name, concept.name, reader.name, effect, state, p_moved, 1.0 if blind or follows else p_unmoved, needed, scale.shift)
        )  # fmt: skip
    return tuple(readings)


def worst(readings: Sequence[Reading]) -> Reading:
    """The one that decides whether the target was left as it was."""
    return min(readings, key=lambda r: (WORST.index(r.state), -r.p_unmoved, r.manifestation))


def explained(
    score: str, paired: pd.DataFrame, by_target: pd.DataFrame | None, reading: Reading, *, alpha: float
) -> Effect:
    """What of a gain is beyond what the movement of a manifestation explains.

    The score's slope on the manifestation is taken from edits of the *target*: how far the score and the reading move there.
    (Among unedited images it would be confounded by the very shortcut.)

    Args:
        score: column of the score.
        paired: differences under the edit in question.
        by_target: differences under the edit of the target; ``None`` = not asked.
        reading: of ``paired``.
        alpha: the target's edit must move the reading at this level, else no slope can be told.

    Returns:
        ``gain - slope * movement``, without what of the movement is the reader's own; :data:`~causal_cxr.audits.effects.NOTHING` where it cannot be estimated.
    """
    if by_target is None:
        return NOTHING
    patients = by_target["patient"].to_numpy()
    moved = by_target[reading.column].to_numpy()
    if not paired_effect(moved, patients).p_yes(0.0) <= alpha:
        return NOTHING
    slope = product_ratio([by_target[score].to_numpy()], [moved], patients)
    if not slope.n:
        return NOTHING
    mine, movement = paired["patient"].to_numpy(), paired[reading.column].to_numpy()
    left = paired_effect(paired[score].to_numpy() - slope.value * movement, mine)
    if not left.n:
        return NOTHING
    seen = reading.shift
    error = np.hypot(abs(float(movement.mean()) - seen.value) * slope.se, slope.value * seen.se)
    return left.less(-slope.value * seen.value, float(error))


def frame_of(editor: str, contrast: str, attribute: str, readings: Sequence[Reading]) -> list[list[Any]]:
    """Rows of :data:`COLUMNS`."""
    return [
        [editor, contrast, attribute, r.manifestation, r.concept, r.reader, r.effect.value, *r.effect.interval(), r.state,
         r.p_moved, r.p_unmoved, r.patients_needed]
        for r in readings
    ]  # fmt: skip


def _standing(
    quality: ReaderQuality, concept: Concept, contrast: Contrast, attribute: Attribute, delta: float
) -> tuple[bool, float, Scale]:
    """Whether the reader may follow the attribute too far, the lower end of its slope (-1 = unknown), and the scale."""
    q: Any = quality.concepts.loc[concept.name]
    low, scale = float(q["slope_low"]), Scale.of(quality, concept.name, contrast, attribute, delta)
    return scale.following.unknown or scale.following.far, -1.0 if np.isnan(low) else low, scale
