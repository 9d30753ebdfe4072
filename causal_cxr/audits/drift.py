"""Drift under editing: does a reader still read when the image comes out of an editor? On worlds, where the truth is known.

A reader is fitted and judged on real images and then used on edited ones. What is *true* of an edited image?

- ``null``: a null edit asks for what is. Everything is truly as it was, so all concepts are known. What a reader loses here, it
  loses to the editor's handwriting (blur, texture, lost detail).
- ``set``: the concept reads the attribute that was set, and the image is supposed to show what was asked for. What is lost here is
  the reader's drift and the editor's failure together; only readers of other kinds, or eyes, tell them apart.
- ``held``: the concept's true counterfactual is what it was: in the world's graph no path leads to it from the attribute that was
  set, save through labelled attributes, and these are held. What is lost here is drift, and what the editor changed unasked
  (its leak, :func:`~causal_cxr.audits.fidelity.leak`).
- ``moved``: a hidden sign that the set attribute truly causes. Whether it turns up in *this* image hangs on noise that an editor
  cannot know, so a fitted editor's image has no known truth and such cells are left empty, counted, and in no mean. The oracle
  draws with that noise: for it they are known like the others.

The same rows' real images are what edited ones are compared with, so differences are paired. An edit also breaks up what goes
together in real images: a reader that reads the view in a marker's place loses by that even if the edit is perfect. Therefore the
true counterfactual images are read too (``auroc_true``): ``auroc_true - auroc_real`` is lost to the new combinations,
``auroc_edited - auroc_true`` to the editor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import torch

from causal_cxr.audits.plans import NULL_PHRASING
from causal_cxr.data.phantom import Phantom
from causal_cxr.data.splits import batches
from causal_cxr.editors.editor import Editor
from causal_cxr.editors.oracle import OracleEditor
from causal_cxr.graphs import Contrast
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.concordance import (
    BINS,
    Z,
    bin_gaps,
    calibration_error,
    clustered_error,
    concordance,
    least_variance,
)
from causal_cxr.readers.quality import MIN_CELL
from causal_cxr.readers.reader import Reader

NULL = "null edit"  #: in the place of a contrast
KNOWN = ("set", "held")  #: kinds of cell that make up ``edits``
RESAMPLES = 500
OF_SLOPES = 4  #: the least variance of a slope over that of an AUROC: of scores 0 and 1 the slope is 2 AUROC - 1
PAIR = ("auroc", "slope", "ece")  #: each on real and on edited images
FIGURES = tuple(f"{name}_{side}" for name in PAIR for side in ("real", "edited", "drift", "low", "high"))
CELLS = (
    "reader",
    "contrast",
    "attribute",
    "concept",
    "kind",
    "n",
    "n_present",
    "n_present_real",
    "auroc_true",
    *FIGURES,
)
CONCEPTS = ("reader", "concept", "over", "n", "n_present", "n_present_real", *FIGURES)
SUMMARY = ("reader", "over", "drift", "low", "high", "concepts", "worst", "worst_concept", "without")


@dataclass(frozen=True)
class Drift:
    """What a reader's accuracy on edited images lacks of that on the real images of the same rows.

    In all frames ``*_drift`` is edited less real, with a paired patient-clustered 95% interval; slopes are ``J = E[score | present]
    - E[score | absent]``. Errors are no smaller than if one patient had gone wrong: that no image changes proves nothing of
    others. NaN: fewer than 10 images with or without the concept on one side.

    Attributes:
        cells: a row a reader, contrast (or null edit) and concept; see the module on ``kind`` and ``auroc_true``.
        concepts: a row a reader and concept, ``over`` all its ``edits`` with a known truth, and ``over`` null edits. AUROCs compare
            images of the same contrast only.
        summary: a row a reader and ``over`` (``edits``, ``set``, ``held``, ``null``): mean AUROC drift over ``concepts`` many,
            the worst, which that is, and how many concepts are ``without`` enough images.
        rejected: contrast -> share of edits that the editor did not stand by; they are left out, here and on the real side.
    """

    cells: pd.DataFrame
    concepts: pd.DataFrame
    summary: pd.DataFrame
    rejected: Mapping[str, float]


@dataclass(frozen=True)
class _Sample:
    """Paired images of one contrast or null edit: scores and truths are ``(n, k)``."""

    contrast: str
    attribute: str
    kinds: tuple[str, ...]
    groups: np.ndarray
    real: np.ndarray
    edited: np.ndarray
    true: np.ndarray
    truth_real: np.ndarray
    truth_edited: np.ndarray


def reader_drift(
    editor: Editor,
    readers: Sequence[Reader],
    phantom: Phantom,
    rows: np.ndarray,
    contrasts: Sequence[Contrast],
    *,
    batch_size: int = 64,
    seed: int = 0,
) -> Drift:
    """Read real, edited and truly counterfactual images of the same rows.

    Args:
        editor: whose edits are read; contrasts on what it cannot set are passed over.
        readers: concepts that the world knows nothing of are passed over.
        phantom: of a world; rows' patients are new to editor and readers.
        rows: to edit, at least some dozens.
        contrasts: each is carried out alone, other labelled attributes held.
        batch_size: images at a time.
        seed: of the abductions, one a row.

    Raises:
        ValueError: the editor or a reader was fitted on these patients; the editor can carry out no contrast; a reader has no
            concept that the world knows; a row lacks an attribute.
    """
    rows = np.asarray(rows)
    _refuse(editor, readers, phantom, rows)
    asked = [contrast for contrast in contrasts if contrast.attribute in editor.attributes]
    if not asked:
        raise ValueError(f"The editor sets {sorted(editor.attributes)}: none of the contrasts' attributes.")
    moves = {c.name: c.apply(phantom.graph.attributes[c.attribute], phantom.attributes[c.attribute]) for c in asked}
    scores, accepted = _read_all(editor, readers, phantom, rows, asked, moves, batch_size, seed)
    exact, rejected = isinstance(editor, OracleEditor), {}
    group = pd.factorize(phantom.patients.iloc[rows])[0]
    cells, concepts, summary = [], [], []
    factual = _table(phantom, phantom.attributes.iloc[rows])
    for r, reader in enumerate(readers):
        columns = [j for j, c in enumerate(reader.concepts) if (c.attribute or c.name) in factual]
        if not columns:
            raise ValueError(f"The world {phantom.world.name!r} knows none of the concepts of {reader.name!r}.")
        known = [reader.concepts[j] for j in columns]
        before = _truth(known, factual)
        samples = []
        for contrast in (None, *asked):
            name = NULL if contrast is None else contrast.name
            applies = np.ones(len(rows), bool) if contrast is None else moves[name][1][rows] != 0
            good = applies & accepted[name]
            rejected[name] = float(1 - good.sum() / max(applies.sum(), 1))
            if contrast is None:
                kinds, after = ("null",) * len(known), before
            else:
                kinds = tuple(_kind(phantom, contrast, c, exact) for c in known)
                after = _truth(known, _table(phantom, _target(phantom, rows, contrast, moves)))
            real, edited, true = (scores[side, r][np.ix_(good, columns)] for side in ("real", name, f"true {name}"))
            samples.append(_Sample(name, "" if contrast is None else contrast.attribute, kinds, group[good], real, edited, true,
                                   before[good], after[good]))  # fmt: skip
        cells += [_cell(reader.name, sample, j, c, seed) for sample in samples for j, c in enumerate(known)]
        for over in ("edits", "set", "held", "null"):
            rows_, line = _over(reader.name, over, samples, known, group, seed)
            concepts += rows_ if over in ("edits", "null") else []
            summary.append(line)
    return Drift(pd.DataFrame(cells, columns=list(CELLS)), pd.DataFrame(concepts, columns=list(CONCEPTS)),
                 pd.DataFrame(summary, columns=list(SUMMARY)), rejected)  # fmt: skip


def _refuse(editor: Editor, readers: Sequence[Reader], phantom: Phantom, rows: np.ndarray) -> None:
    patients = frozenset(phantom.patients.iloc[rows].astype(str))
    for name, fitted_on in (("editor", editor.fitted_on), *((f"reader {r.name!r}", r.fitted_on) for r in readers)):
        seen = sorted(patients & (fitted_on or frozenset()))
        if seen:
            raise ValueError(
                f"The {name} was fitted on {len(seen)} of the {len(patients)} patients of these rows, e.g. {seen[0]!r}; draw "
                "a phantom of another seed."
            )
    holes = phantom.attributes.iloc[rows].isna().any(axis=1)
    if holes.any():
        raise ValueError(
            f"Rows {rows[holes.to_numpy()][:3].tolist()} lack an attribute and cannot be edited; leave them out."
        )


def _target(
    phantom: Phantom, rows: np.ndarray, contrast: Contrast, moves: Mapping[str, tuple[pd.Series, np.ndarray]]
) -> pd.DataFrame:
    return phantom.attributes.iloc[rows].assign(**{contrast.attribute: moves[contrast.name][0].iloc[rows]})


def _read_all(
    editor: Editor, readers: Sequence[Reader], phantom: Phantom, rows: np.ndarray, asked: Sequence[Contrast],
    moves: Mapping[str, tuple[pd.Series, np.ndarray]], batch_size: int, seed: int,
) -> tuple[dict[tuple[str, int], np.ndarray], dict[str, np.ndarray]]:  # fmt: skip
    """Scores by (side, reader) and acceptance by contrast, batch after batch: only scores are kept."""
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    accepted: dict[str, list[np.ndarray]] = {}

    def keep(side: str, images: torch.Tensor, part: np.ndarray) -> None:
        patients = phantom.patients.iloc[part].astype(str).tolist()
        for r, reader in enumerate(readers):
            with torch.no_grad():
                found.setdefault((side, r), []).append(reader.read(images, patients).double().numpy())

    for part in batches(rows, batch_size):
        images, factual = phantom.images(part), phantom.attributes.iloc[part]
        keep("real", images, part)
        abduction = editor.abduct(images, factual, seeds=seed + part)
        wanted = {NULL: factual} | {c.name: _target(phantom, part, c, moves) for c in asked}
        for name, target in wanted.items():
            edit = editor.edit(abduction, target, phrasing=NULL_PHRASING if name == NULL else 0)
            keep(name, edit.images, part)
            accepted.setdefault(name, []).append(np.asarray(edit.accepted))
            keep(f"true {name}", images if name == NULL else phantom.counterfactual(target), part)
    return (
        {key: np.concatenate(parts) for key, parts in found.items()},
        {key: np.concatenate(parts) for key, parts in accepted.items()},
    )


def _table(phantom: Phantom, target: pd.DataFrame) -> pd.DataFrame:
    """The true attributes and hidden signs under a target, as concepts look them up; the records may err."""
    codes = phantom.counterfactual_codes(target)
    labelled = {name: phantom.graph.attributes[name].decode(codes[name]) for name in phantom.graph.labelled}
    return pd.concat([pd.DataFrame(labelled), phantom.world.presence(codes, phantom.world.hidden_signs)], axis=1)


def _truth(concepts: Sequence[Concept], table: pd.DataFrame) -> np.ndarray:
    return np.column_stack([concept.truth(table) for concept in concepts])


def _kind(phantom: Phantom, contrast: Contrast, concept: Concept, exact: bool) -> str:
    """What is known of a concept after an edit; see the module."""
    if concept.attribute == contrast.attribute:
        return "set"
    if concept.attribute is not None:  # a labelled attribute: held
        return "held"
    signs = {sign.name: sign.attribute for sign in phantom.world.hidden_signs}
    graph = phantom.world.graph
    free = nx.DiGraph()
    free.add_nodes_from(graph.attributes)
    free.add_edges_from(
        (cause, effect)
        for effect in graph.attributes
        for cause in graph.parents(effect)
        if effect not in phantom.graph.labelled
    )  # what is held hangs on nothing
    if not nx.has_path(free, contrast.attribute, signs[concept.name]):
        return "held"
    return "held" if exact else "moved"


def _cell(reader: str, sample: _Sample, j: int, concept: Concept, seed: int) -> list[Any]:
    head = [reader, sample.contrast, sample.attribute, concept.name, sample.kinds[j]]
    present, before = sample.truth_edited[:, j] == 1, sample.truth_real[:, j] == 1
    counts = [len(present), int(present.sum()), int(before.sum())]
    if sample.kinds[j] == "moved":
        return [*head, *counts, *[float("nan")] * (1 + len(FIGURES))]
    figures, _, _ = _compare(sample.real[:, j], before, sample.edited[:, j], present, sample.groups, None, seed)
    true = concordance(sample.true[:, j], present, sample.groups).value if not np.isnan(figures[0]) else float("nan")
    return [*head, *counts, true, *figures]


def _over(
    reader: str, over: str, samples: Sequence[_Sample], known: Sequence[Concept], group: np.ndarray, seed: int
) -> tuple[list[list[Any]], list[Any]]:
    """Every concept over some kinds of cell, and their mean."""
    kinds = KNOWN if over == "edits" else (over,)
    rows, drifts, influences, floors = [], {}, [], []
    asked = 0
    for j, concept in enumerate(known):
        mine = [(i, s) for i, s in enumerate(samples) if s.kinds[j] in kinds]
        if not mine:
            continue
        asked += 1
        real, edited, before, present, groups = (
            np.concatenate([getattr(s, name)[:, j] if name != "groups" else s.groups for _, s in mine])
            for name in ("real", "edited", "truth_real", "truth_edited", "groups")
        )
        strata = np.concatenate([np.full(len(s.groups), i) for i, s in mine])
        figures, influence, floor = _compare(real, before == 1, edited, present == 1, groups, strata, seed)
        rows.append([reader, concept.name, over, len(real), int(present.sum()), int(before.sum()), *figures])
        if not np.isnan(figures[0]):
            drifts[concept.name] = figures[2]
            influences.append(np.pad(influence, (0, int(group.max()) + 1 - len(influence))))
            floors.append(floor)
    if not drifts:
        return rows, [reader, over, *[float("nan")] * 3, 0, float("nan"), "", asked]
    mean, worst = float(np.mean(list(drifts.values()))), min(drifts, key=lambda name: drifts[name])
    mean_influence = np.mean(influences, axis=0)
    half = Z * _error(mean_influence, np.arange(len(mean_influence)), sum(floors) / len(floors) ** 2)
    return rows, [reader, over, mean, mean - half, mean + half, len(drifts), drifts[worst], worst, asked - len(drifts)]


def _compare(
    real: np.ndarray, before: np.ndarray, edited: np.ndarray, present: np.ndarray, groups: np.ndarray,
    strata: np.ndarray | None, seed: int,
) -> tuple[list[float], np.ndarray, float]:  # fmt: skip
    """AUROC, slope and calibration error on both sides and their paired differences; the AUROC difference's influence, a patient."""
    if min(before.sum(), (~before).sum(), present.sum(), (~present).sum()) < MIN_CELL:
        return [float("nan")] * len(FIGURES), np.zeros(0), 0.0
    sides = [concordance(s, u, groups, strata) for s, u in ((real, before), (edited, present))]
    influence, floor = sides[1].influence - sides[0].influence, max(side.least_variance for side in sides)
    figures = _differ(sides[0].value, sides[1].value, _error(influence, np.arange(len(influence)), floor))
    slopes = [s[u].mean() - s[~u].mean() for s, u in ((real, before), (edited, present))]
    parts = [
        np.where(u, (s - s[u].mean()) / u.sum(), -(s - s[~u].mean()) / (~u).sum())
        for s, u in ((real, before), (edited, present))
    ]
    figures += _differ(slopes[0], slopes[1], _error(parts[1] - parts[0], groups, OF_SLOPES * floor))
    errors = [calibration_error(s, u.astype(float)) for s, u in ((real, before), (edited, present))]
    figures += [
        *errors,
        errors[1] - errors[0],
        *_bootstrap(real, before, edited, present, groups, errors[1] - errors[0], seed),
    ]
    return figures, influence, floor


def _differ(real: float, edited: float, error: float) -> list[float]:
    gap = edited - real
    return [float(real), float(edited), float(gap), float(gap - Z * error), float(gap + Z * error)]


def _error(influence: np.ndarray, groups: np.ndarray, floor: float) -> float:
    """Patient-clustered; where both sides (nearly) separate, or no image changes, it goes to 0, which proves nothing."""
    return float(np.sqrt(max(clustered_error(influence, groups) ** 2, floor)))


def _bootstrap(
    real: np.ndarray,
    before: np.ndarray,
    edited: np.ndarray,
    present: np.ndarray,
    groups: np.ndarray,
    gap: float,
    seed: int,
) -> tuple[float, float]:
    """Basic patient bootstrap of the difference of two calibration errors (its bias is much the same on both sides).

    It reaches no less far than if one patient more had gone wrong.
    """
    who = np.unique(groups, return_inverse=True)[1]
    patients = int(who.max()) + 1
    drawn = np.random.default_rng([seed, 5]).multinomial(patients, np.full(patients, 1 / patients), RESAMPLES)
    errors = []
    for s, u in ((real, before), (edited, present)):
        sums = np.zeros((patients, BINS))
        np.add.at(sums, who, bin_gaps(s, u.astype(float)))
        errors.append(np.abs(drawn @ sums).sum(axis=1) / (drawn @ np.bincount(who)))
    low, high = np.quantile(errors[1] - errors[0], [0.025, 0.975])
    least = Z * np.sqrt(least_variance(patients))
    return float(gap - max(high - gap, least)), float(gap + max(gap - low, least))
