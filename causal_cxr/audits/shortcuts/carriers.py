"""Which revealed edge carries the reliance: what of a gain runs through a concept that the edit moves along."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from causal_cxr.audits.effects import NOTHING, Effect, benjamini_yekutieli, paired_effect
from causal_cxr.audits.shortcuts.alone import ABSENT
from causal_cxr.audits.shortcuts.gains import effect_of, logit_column, score_column, told
from causal_cxr.audits.shortcuts.moments import product_ratio
from causal_cxr.graphs import Binary, CausalGraph, Contrast
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.reader import Reader

EDITED, REGRESSED = "edited alone", "regression, a description"
COLUMNS = ("editor", "model", "attribute", "contrast", "concept", "reader", "how", "moved", "moved_low", "moved_high", "own_gain",
           "own_gain_low", "own_gain_high", "share", "share_low", "share_high", "sentence")  # fmt: skip


def declared_carriers(
    carriers: Mapping[str, Sequence[str | Binary]], graph: CausalGraph, readers: Sequence[Reader]
) -> dict[str, tuple[Binary, ...]]:
    """Attribute -> its carriers; a name alone is an attribute of the graph, or one that is 0 or 1.

    Raises:
        ValueError: an attribute that is not labelled, a carrier that is, that is no ``Binary``, or that no reader reads.
    """
    read = {concept.name for reader in readers for concept in reader.concepts}
    found = {}
    for attribute, names in carriers.items():
        if attribute not in graph.labelled:
            raise ValueError(f"carriers: {attribute!r} is no labelled attribute; those are {list(graph.labelled)}.")
        mine = []
        for given in names:
            name = given if isinstance(given, str) else given.name
            declared = given if not isinstance(given, str) else graph.attributes.get(name, Binary(name, hidden=True))
            if name in graph.labelled or not isinstance(declared, Binary):
                raise ValueError(
                    f"carriers: {name!r} of {attribute!r} has a column or more than two levels; a carrier is a hidden Binary "
                    "attribute. What a labelled attribute carries its own row tells."
                )
            if name not in read:
                raise ValueError(f"carriers: no reader reads {name!r}; they read {sorted(read)}.")
            mine.append(declared)
        found[attribute] = tuple(mine)
    return found


def own_differences(alone: pd.DataFrame, models: Iterable[str]) -> pd.DataFrame:
    """``patient``, and the models' probabilities with the concept present less those with it absent.

    Args:
        alone: of :func:`~causal_cxr.audits.shortcuts.alone.edited_alone`, which has log odds.
        models: their names.
    """
    columns = {
        score_column(m): expit(alone[logit_column(m)].to_numpy())
        - expit(alone[f"{logit_column(m)}{ABSENT}"].to_numpy())
        for m in models
    }
    return pd.DataFrame({"patient": alone["patient"], **columns}, index=alone.index)


def carried(
    editor: str,
    model: str,
    contrast: Contrast,
    paired: pd.DataFrame,
    concepts: Sequence[tuple[Reader, Concept]],
    alone: Mapping[str, pd.DataFrame],
    *,
    delta: float,
    alpha: float,
    declared: bool = False,
) -> list[list[Any]]:
    """Rows of :data:`COLUMNS` for those concepts that the attribute's edit moves, where there is a gain to carry.

    Where a concept was edited alone: its own direct gain g (absent to present), how far the attribute's edit moves it, m (a risk
    difference), and the share ``m * g / gain`` that it carries, were scores additive (delta method, patient-clustered; the
    reader's slope included). Else the share is from a regression of the score's changes on the concepts' changes across images:
    a description, without an interval, since what changes along in an image need not act.

    Args:
        paired: differences under the attribute's edit.
        concepts: candidates, and who reads them.
        alone: concept -> differences when it is edited alone, see :func:`own_differences`.
        delta: the gain that must be shown, or there are no rows.
        alpha: of that test, and of "the concept moves" (BY among the concepts).
        declared: the concepts were declared as carriers: all are told of, moved or not.
    """
    score, rows = score_column(model), list[list[Any]]()
    gain = effect_of(paired, score)
    if not gain.p_yes(delta) <= alpha:
        return rows
    moved = {concept.name: _moved(paired, reader, concept) for reader, concept in concepts}
    q = benjamini_yekutieli(np.array([effect.p_yes(0.0) for effect in moved.values()]))
    shown = {name for name, value in zip(moved, q, strict=True) if value <= alpha}
    shares = _regressed(paired, score, [(r, c) for r, c in concepts if c.name in shown])
    for reader, concept in concepts:
        name = concept.name
        if name not in shown and not declared:
            continue
        own, share, how = NOTHING, NOTHING, EDITED if name in alone else REGRESSED
        if name in alone:
            own, share = _of_its_own(paired, alone[name], score, f"{reader.name}/{name}", _relative(reader, name))
        values = (
            told("share", share)
            if name in alone
            else {"share": shares.get(name, np.nan), "share_low": np.nan, "share_high": np.nan}
        )
        numbers = told("moved", moved[name]) | told("own_gain", own) | values
        rows.append([editor, model, contrast.attribute, contrast.name, name, reader.name, how, *numbers.values(),
                     _sentence(model, contrast, name, how, numbers)])  # fmt: skip
    return rows


def _moved(paired: pd.DataFrame, reader: Reader, concept: Concept) -> Effect:
    raw = paired_effect(paired[f"{reader.name}/{concept.name}"].to_numpy(), paired["patient"].to_numpy())
    q: Any = reader.quality.concepts.loc[concept.name]
    return raw.scaled(float(q["slope"]), float(q["slope_se"])) if q["slope_low"] > 0 else raw


def _relative(reader: Reader, name: str) -> tuple[float, float]:
    """The reader's slope and its relative error; 1 and 0 where nothing is known."""
    q: Any = reader.quality.concepts.loc[name]
    return (float(q["slope"]), float(q["slope_se"] / q["slope"])) if q["slope_low"] > 0 else (1.0, 0.0)


def _of_its_own(
    paired: pd.DataFrame, alone: pd.DataFrame, score: str, read: str, slope: tuple[float, float]
) -> tuple[Effect, Effect]:
    """The concept's own gain over all images, and its share of the attribute's over those with both."""
    gain = paired_effect(alone[score].to_numpy(), alone["patient"].to_numpy())
    rows = paired.index.intersection(alone.index)
    mine = paired.loc[rows]
    share = product_ratio(
        [alone.loc[rows, score].to_numpy(), mine[read].to_numpy() / slope[0]], [mine[score].to_numpy()],
        mine["patient"].to_numpy(), relative_se=slope[1],
    )  # fmt: skip
    return gain, share


def _regressed(paired: pd.DataFrame, score: str, concepts: Sequence[tuple[Reader, Concept]]) -> dict[str, float]:
    """Share of the mean change of the score that goes with each concept's change across images (least squares)."""
    if not concepts:
        return {}
    changes = np.column_stack([paired[f"{reader.name}/{concept.name}"].to_numpy() for reader, concept in concepts])
    change = paired[score].to_numpy()
    fit = np.linalg.lstsq(np.column_stack([np.ones(len(change)), changes]), change, rcond=None)[0][1:]
    mean = change.mean()
    return {
        concept.name: float(slope * moved / mean) if mean else float("nan")
        for (_, concept), slope, moved in zip(concepts, fit, changes.mean(axis=0), strict=True)
    }


def _sentence(model: str, contrast: Contrast, name: str, how: str, numbers: Mapping[str, float]) -> str:
    moved = f"{contrast.name} moves {name} by {numbers['moved']:+.2f}"
    if np.isnan(numbers["share"]):
        return f"{model}: {moved}; what it carries of the gain cannot be told."
    if how == REGRESSED:
        return f"{model}: {moved}; {percent(numbers['share'])} of the gain goes with that change across images (a description)."
    return (
        f"{model}: {moved}; set alone it moves the score by {numbers['own_gain']:+.3f}, which carries {percent(numbers['share'])} "
        f"[{percent(numbers['share_low'])}, {percent(numbers['share_high'])}] of the gain."
    )


def percent(share: float) -> str:
    """Without a sign on nothing.

    >>> percent(-0.001), percent(0.754)
    ('0%', '75%')
    """
    return f"{round(100 * share) + 0}%"
