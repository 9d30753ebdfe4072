"""Does an editor do what it is asked, and what else? As the readers of the labelled attributes see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.associations import Association
from causal_cxr.audits.effects import NOTHING, Effect, paired_effect
from causal_cxr.graphs import CausalGraph, Contrast
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality

EFFECTIVENESS = (
    "editor",
    "contrast",
    "attribute",
    "concept",
    "reader",
    "effect",
    "expected",
    "ratio",
    "low",
    "high",
    "n",
)
LEAK = ("editor", "contrast", "attribute", "concept", "reader", "target", "effect", "low", "high")
EFFECTIVE_RATIO = 0.3  #: an editor must move A's own reader by this share of what real images differ by


@dataclass(frozen=True)
class Obedience:
    """How much of what is asked of an attribute an edit does.

    Attributes:
        done: change of A's own reading over the difference of real images, by the reader that reads A best;
            :data:`~causal_cxr.audits.effects.NOTHING` where nothing reads it.
        column: of that reader's scores; empty without one.
        rows: of all readers of it, columns :data:`EFFECTIVENESS`.
    """

    done: Effect
    column: str
    rows: list[list[Any]]

    @property
    def effective(self) -> bool | None:
        """Whether it does enough of it; ``None`` where nothing reads it."""
        return self.done.value >= EFFECTIVE_RATIO if self.done.n else None

    def in_full(self, effect: Effect) -> Effect:
        """What the effect would be, were all done that is asked, in proportion; what the editor overdoes is not taken off.

        An edit that goes half the way shows half of what follows from it, or less: to say that it is too little to count, one
        has to say so of the whole. Where nothing reads the attribute nothing is known of the whole.
        """
        return effect.scaled(min(self.done.value, 1.0), self.done.se) if self.done.value > 0 and effect.n else NOTHING


def obedience_of(
    editor: str, contrast: Contrast, concepts: Mapping[str, Sequence[Concept]], quality: Mapping[str, ReaderQuality],
    paired: pd.DataFrame | None, seen: Mapping[str, Association],
) -> Obedience:  # fmt: skip
    """Whether A's own readers separate edited images as they separate real ones.

    Args:
        paired: oriented differences of accepted edits; ``None``: there are none.
        seen: what unedited images say, by column.
    """
    done: dict[str, Effect] = {}
    rows = []
    for reader, group in concepts.items():
        for concept in group:
            if concept.attribute != contrast.attribute or paired is None:
                continue
            column = f"{reader}/{concept.name}"
            effect = paired_effect(paired[column].to_numpy(), paired["patient"].to_numpy())
            expected = seen[column].marginal
            if not (effect.n and abs(expected.value) > 1e-3):
                continue
            ratio = share_of(effect, expected)
            done[column] = ratio
            rows.append([editor, contrast.name, contrast.attribute, concept.name, reader, effect.value, expected.value,
                         ratio.value, *ratio.interval(), effect.n])  # fmt: skip
    own = own_reader(contrast, best_readers(concepts, quality))
    column = "" if own is None else f"{own[0]}/{own[1].name}"
    column = column if column in done else next(iter(done), "")
    return Obedience(done.get(column, NOTHING), column, rows)


def share_of(effect: Effect, expected: Effect) -> Effect:
    """An effect over what real images differ by; other images say that, so the errors are independent."""
    return replace(effect, dof=min(effect.dof, expected.dof)).scaled(expected.value, expected.se)


def own_reader(contrast: Contrast, readers: Mapping[str, tuple[str, Concept]]) -> tuple[str, Concept] | None:
    """Who tells whether a contrast was carried out: the reader of the level that it goes to, else any of the attribute.

    Args:
        readers: of :func:`best_readers`.
    """
    mine = [one for one in readers.values() if one[1].attribute == contrast.attribute]
    exact = [one for one in mine if one[1].above is not None or one[1].level == contrast.level]
    return next(iter(exact or mine), None)


def leaks(
    editor: str, contrast: Contrast, concepts: Mapping[str, Sequence[Concept]], quality: Mapping[str, ReaderQuality],
    graph: CausalGraph, paired: pd.DataFrame | None,
) -> list[list[Any]]:  # fmt: skip
    """What a contrast moves of every labelled attribute, each read by the reader that reads it best, without what that is
    known to see of the contrast itself, where that is known.
    """
    rows = []
    for reader, concept in best_readers(concepts, quality).values() if paired is not None else ():
        assert paired is not None
        effect = paired_effect(paired[f"{reader}/{concept.name}"].to_numpy(), paired["patient"].to_numpy())
        slope: Any = quality[reader].concepts.loc[concept.name]
        if float(slope["slope_low"]) > 0:
            if concept.attribute != contrast.attribute:
                shift = quality[reader].shift_along(concept.name, contrast, graph.attributes[contrast.attribute])
                effect = effect if np.isnan(shift.value) else effect.less(shift.value, shift.se)
            effect = effect.scaled(float(slope["slope"]), float(slope["slope_se"]))
        rows.append([editor, contrast.name, contrast.attribute, concept.name, reader, concept.attribute, effect.value,
                     *effect.interval()])  # fmt: skip
    return rows


def best_readers(
    concepts: Mapping[str, Sequence[Concept]], quality: Mapping[str, ReaderQuality]
) -> dict[str, tuple[str, Concept]]:
    """Concept of a labelled attribute -> the reader whose slope has the highest lower end, and the concept."""
    best: dict[str, tuple[float, str, Concept]] = {}
    for reader, group in concepts.items():
        for concept in group:
            low: Any = quality[reader].concepts.loc[concept.name, "slope_low"]
            merit = -np.inf if np.isnan(low) else float(low)
            if concept.attribute is not None and (concept.name not in best or merit > best[concept.name][0]):
                best[concept.name] = (merit, reader, concept)
    return {name: (reader, concept) for name, (_, reader, concept) in best.items()}
