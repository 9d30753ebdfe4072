"""Does an editor do what it is asked, and what else? As the readers of the labelled attributes see it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.associations import Association
from causal_cxr.audits.effects import paired_effect
from causal_cxr.graphs import Contrast
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


def effectiveness_of(
    editor: str,
    contrast: Contrast,
    concepts: Mapping[str, Sequence[Concept]],
    paired: pd.DataFrame | None,
    seen: Mapping[str, Association],
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


def leaks(
    editor: str, contrast: Contrast, concepts: Mapping[str, Sequence[Concept]], quality: Mapping[str, ReaderQuality],
    paired: pd.DataFrame | None,
) -> list[list[Any]]:  # fmt: skip
    """What a contrast moves of every labelled attribute, each read by the reader that reads it best."""
    rows = []
    for reader, concept in best_readers(concepts, quality).values() if paired is not None else ():
        assert paired is not None
        effect = paired_effect(paired[f"{reader}/{concept.name}"].to_numpy(), paired["patient"].to_numpy())
        slope: Any = quality[reader].concepts.loc[concept.name]
        if float(slope["slope_low"]) > 0:
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
