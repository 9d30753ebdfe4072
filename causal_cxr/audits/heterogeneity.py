"""Do two witnesses tell the same effect? Editors compared on the same images, and readers on the same edits.

An editor and a reader are one witness. Two of them saw the same patients, so their effects are no independent studies: Cochran's Q
and I-squared, which take them for such, would be wrong. What is estimated here is the difference itself, image by image.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.cells import BLIND_SLOPE
from causal_cxr.audits.effects import Effect, benjamini_yekutieli, paired_effect
from causal_cxr.graphs import Contrast
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality

COLUMNS = ("contrast", "concept", "between", "held", "one", "other", "one_effect", "other_effect", "difference", "low",
           "high", "p", "q", "n")  # fmt: skip

Differences = Mapping[
    tuple[str, str], pd.DataFrame | None
]  #: by editor and contrast, as ``paired_differences`` gives them


def heterogeneity(
    differences: Differences,
    contrasts: Sequence[Contrast],
    concepts: Mapping[str, Sequence[Concept]],
    quality: Mapping[str, ReaderQuality],
) -> pd.DataFrame:
    """Every two editors with one reader, and every two readers with one editor, on the images that both have.

    Args:
        differences: of the total effect.
        contrasts: as measured.
        concepts, quality: by reader name; readers whose slope may lie under :data:`causal_cxr.audits.cells.BLIND_SLOPE` are left out.

    Returns:
        One row a contrast, concept and pair: ``between`` (``editors`` or ``readers``), the reader or editor that was ``held``,
        both names and effects on the scale of the concept, their difference with its 95% interval, ``p`` of "no
        difference" (patients as clusters; both slopes' errors carried along, as if independent) and ``q``, Benjamini-Yekutieli over all rows.
    """
    editors = sorted({editor for editor, _ in differences})
    rows = []
    for contrast in contrasts:
        by_editor = {e: frame for e in editors if (frame := differences.get((e, contrast.name))) is not None}
        for name, readings in _readings(concepts, quality, contrast).items():
            for reader, slope, slope_se in readings:
                column = f"{reader}/{name}"
                for one, other in combinations(by_editor, 2):
                    a, b = by_editor[one], by_editor[other]
                    both = a.index.intersection(b.index)
                    sides = (a.loc[both, column], b.loc[both, column])
                    # One slope for both: its error is that of their difference alone.
                    row = _compared(sides, a.loc[both, "patient"], (slope, slope), slope_se, shared_slope=True)
                    rows.append([contrast.name, name, "editors", reader, one, other, *row])
            for editor, frame in by_editor.items():
                for (one, *j), (other, *k) in combinations(readings, 2):
                    sides = (frame[f"{one}/{name}"], frame[f"{other}/{name}"])
                    row = _compared(sides, frame["patient"], (j[0], k[0]), (j[1], k[1]), shared_slope=False)
                    rows.append([contrast.name, name, "readers", editor, one, other, *row])
    found = pd.DataFrame([[*row[:-1], np.nan, row[-1]] for row in rows], columns=list(COLUMNS))
    return found.assign(q=benjamini_yekutieli(found["p"].to_numpy(dtype=float)))


def _readings(
    concepts: Mapping[str, Sequence[Concept]], quality: Mapping[str, ReaderQuality], contrast: Contrast
) -> dict[str, list[tuple[str, float, float]]]:
    """Concept -> the readers that see it well enough, with slope and its error; none that reads the attribute itself."""
    found: dict[str, list[tuple[str, float, float]]] = {}
    for reader, group in concepts.items():
        for concept in group:
            q: Any = quality[reader].concepts.loc[concept.name]
            if concept.attribute != contrast.attribute and float(q["slope_low"]) >= BLIND_SLOPE:
                found.setdefault(concept.name, []).append((reader, float(q["slope"]), float(q["slope_se"])))
    return found


def _compared(
    sides: tuple[pd.Series, pd.Series],
    patients: pd.Series,
    slopes: tuple[float, float],
    errors: Any,
    *,
    shared_slope: bool,
) -> list[float]:
    values = [side.to_numpy(dtype=float) / slope for side, slope in zip(sides, slopes, strict=True)]
    one, other = (float(v.mean()) if len(v) else np.nan for v in values)
    effect: Effect = paired_effect(values[0] - values[1], patients.to_numpy())
    if not effect.n:
        return [one, other, *[np.nan] * 4, len(values[0])]
    if shared_slope:
        spread = abs(effect.value) * errors / slopes[0]
    else:
        spread = float(np.hypot(one * errors[0] / slopes[0], other * errors[1] / slopes[1]))
    effect = effect.less(0.0, spread).unsettled()
    return [one, other, effect.value, *effect.interval(), effect.p_yes(0.0), effect.n]


def reciprocal_edits(leak: pd.DataFrame) -> pd.DataFrame:
    """What editing A moves of B beside what editing B moves of A: a description, from which no direction follows.

    The larger of the two is no arrowhead: it reflects prevalence, guidance and the readers as well.

    Args:
        leak: of :func:`causal_cxr.audits.analyse.analyse`.

    Returns:
        One row an editor and pair of contrasts on two labelled attributes that both are read: ``a`` and ``b``, the contrasts, and the effects
        of either on the other's concept with their intervals.
    """
    return pd.DataFrame(
        list(_both_ways(leak)),
        columns=["editor", "a", "b", "contrast_a", "contrast_b", "a_on_b", "a_on_b_low", "a_on_b_high", "b_on_a", "b_on_a_low",
                 "b_on_a_high"],
    )  # fmt: skip


def _both_ways(leak: pd.DataFrame) -> Iterator[list[Any]]:
    merged = leak.merge(leak, left_on=["editor", "attribute", "target"], right_on=["editor", "target", "attribute"])
    first = {name: i for i, name in enumerate(leak["attribute"].unique())}
    for row in merged.to_dict("records"):
        a, b = row["attribute_x"], row["target_x"]
        if first.get(a, len(first)) < first.get(b, len(first)):
            forth, back = ([row[f"{key}_{side}"] for key in ("effect", "low", "high")] for side in ("x", "y"))
            yield [row["editor"], a, b, row["contrast_x"], row["contrast_y"], *forth, *back]
