"""Concepts without a name in an audit: found on one half of the patients, frozen, tested on the other half only."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.audits.measure import edit_again
from causal_cxr.audits.plans import Plan
from causal_cxr.audits.report import ComponentPicture
from causal_cxr.audits.store import FACTUAL
from causal_cxr.data.dataset import Dataset
from causal_cxr.editors.editor import Editor
from causal_cxr.graphs import CausalGraph, Continuous
from causal_cxr.readers.changes import Changes
from causal_cxr.readers.component_search import Found, find_components
from causal_cxr.readers.component_settings import ComponentSearch
from causal_cxr.readers.components import Component, ComponentReader, Region
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.features import Features, Joined, OrientedGradients
from causal_cxr.readers.quality import ReaderQuality
from causal_cxr.readers.reader import Reader

NAME, COLUMNS = "unnamed", "features"
SHOWN = 3  #: images a component
COMPARED = (
    12  #: edited images in which a component appears or goes, and as many in which it stays, behind phrases and regions
)
BLANK = (64, 64)  #: an image that tells how many features there are
BLUR = 0.03  #: of the map of changes, as a share of the image's side
BORDER = 0.5  #: of the map's maximum, where a region ends
SURE, REGIONS = 3.0, 4  #: Welch's t of a region beside the surest one; how many at most


class Phrases(Protocol):
    """What names images in words: a :class:`~causal_cxr.readers.CLIPReader`."""

    concepts: tuple[Concept, ...]

    def margins(self, images: Tensor) -> Tensor:
        """``(n, 1, h, w)`` -> ``(n, k)``, how much better each concept's phrases fit than its negative ones."""
        ...


class LocalFeatures(Features, Protocol):
    """Features that lie somewhere: :class:`~causal_cxr.readers.OrientedGradients`."""

    def places(self) -> list[np.ndarray]:
        """Columns of each place."""
        ...


@dataclass(frozen=True)
class UnnamedSearch:
    """That an audit looks for signs which nobody has named.

    Attributes:
        features: frozen, in which edited and null edits are compared; embeddings that were trained on radiographs and text
            serve best.
        local: features that belong to places of the image, beside them: what is small is found there, place by place.
            ``None`` to look in ``features`` alone.
        search: settings.
        phrases: names the nearest phrases of each component; no part of the search.
        without: concepts whose names are withheld, as if the vocabulary lacked them: neither do their scores mark a
            component as known, nor their phrases name it.
    """

    features: Features
    search: ComponentSearch = field(default_factory=ComponentSearch)
    phrases: Phrases | None = None
    without: Collection[str] = ()
    local: LocalFeatures | None = field(default_factory=OrientedGradients)

    @cached_property
    def compared(self) -> Features:
        """All features, those of places last."""
        return self.features if self.local is None else Joined(self.features, self.local)

    def places(self) -> list[np.ndarray]:
        """Columns of :attr:`compared` that belong to each place."""
        if self.local is None:
            return []
        before = _width(self.features)
        return [before + columns for columns in self.local.places()]

    def columns(self) -> Reader:
        """What reads the features in the same pass as the concepts; see :class:`FeatureColumns`."""
        return FeatureColumns(self.compared, _width(self.compared))

    def describe(self) -> dict[str, Any]:
        """For the frozen specification."""
        return {"features": self.compared.fingerprint, "search": asdict(self.search), "without": sorted(self.without)}


class FeatureColumns:
    """Features in the measurement table: one column each, beside the concepts' scores."""

    name = COLUMNS

    def __init__(self, features: Features, width: int) -> None:
        self._features, self.fitted_on = features, features.fitted_on
        self.fingerprint = features.fingerprint
        self.concepts = tuple(Concept(f"{i:04d}", ("high",), ("low",)) for i in range(width))
        self.quality = ReaderQuality.unknown(self.concepts)

    def read(self, images: Tensor, patients: Sequence[str] | None = None) -> Tensor:
        """``(n, d)``; features are no scores, so they may lie outside [0, 1]."""
        return self._features.features(images)


@dataclass(frozen=True)
class Unnamed:
    """What a search left behind.

    Attributes:
        reader: the frozen components; none if none was found.
        found: all candidates, with the reason why each was not kept.
        searched: patients they were found on.
        tested: the others.
    """

    reader: ComponentReader
    found: tuple[Found, ...]
    searched: frozenset[str]
    tested: frozenset[str]

    def record(self) -> dict[str, Any]:
        """For the report's provenance."""
        return {
            "fingerprint": self.reader.fingerprint,
            "searched": len(self.searched), "tested": len(self.tested),
            "components": [asdict(component) for component in self.reader.components],
            "left": [{"contrast": f.contrast, "effect": f.effect, "selection": f.selection, "why": f.verdict}
                     for f in self.found if f.verdict],
        }  # fmt: skip


def _width(features: Features) -> int:
    return int(features.features(torch.zeros(1, 1, *BLANK)).shape[1])


def halves(patients: pd.Series, edited: np.ndarray, seed: int) -> tuple[frozenset[str], frozenset[str]]:
    """Patients in two halves, those with edited images and the others halved apart.

    >>> first, second = halves(pd.Series(["a", "a", "b", "c", "d"]), np.array([0, 2]), seed=0)
    >>> len(first), len(second), first & second
    (2, 2, frozenset())
    """
    ids = patients.astype(str).to_numpy()
    first: set[str] = set()
    inside = np.unique(ids[edited])
    rng = np.random.default_rng([seed, 2])
    for group in (inside, np.setdiff1d(np.unique(ids), inside)):
        first |= {str(p) for p in rng.permutation(group)[: (len(group) + 1) // 2]}
    return frozenset(first), frozenset(str(p) for p in ids) - first


def search(
    measurements: pd.DataFrame,
    dataset: Dataset,
    graph: CausalGraph,
    plan: Plan,
    readers: Sequence[Reader],
    unnamed: UnnamedSearch,
    *,
    seed: int = 0,
) -> Unnamed:
    """Find components on one half of the patients and freeze them.

    Args:
        measurements: with the columns of :class:`FeatureColumns`.
        dataset, graph, plan: as measured.
        readers: whose scores say what is known already.
        unnamed: what to look in, and how.
        seed: of the halves and the search.

    Raises:
        ValueError: too few images to look in.
    """
    first, second = halves(dataset.patients, plan.edited, seed)
    mine = measurements[measurements["patient"].isin(first) & measurements["accepted"]]
    columns = [str(c) for c in measurements if str(c).startswith(f"{COLUMNS}/")]
    factual = mine[mine["kind"] == FACTUAL].set_index("row").sort_index()
    table = graph.coerce(dataset.attributes).iloc[plan.rows]
    factual = factual[table.loc[factual.index].notna().all(axis=1).to_numpy()]
    tables = [table.loc[factual.index], table.iloc[plan.edited], *(target.total for target in plan.targets)]
    attributes, before, *after = _numbers(graph, tables, table)
    changes = _changes(mine, plan, [moved - before for moved in after], columns)
    looks, named = _known(factual, readers, unnamed.without)
    features = factual[columns].to_numpy(dtype=float)
    patients = factual["patient"].to_numpy()
    found = find_components(
        changes,
        features,
        attributes,
        patients,
        unnamed.search,
        places=unnamed.places(),
        looks=looks,
        named=named,
        seed=seed,
    )
    reader = ComponentReader.from_found(
        found, unnamed.compared, features, sorted(first), image_patients=patients.tolist(), name=NAME
    )
    return Unnamed(reader, found, first, second)


def on_others(measurements: pd.DataFrame, unnamed: Unnamed) -> pd.DataFrame:
    """Measurements of the other half alone, with the components' scores in place of the features."""
    columns = [str(c) for c in measurements if str(c).startswith(f"{COLUMNS}/")]
    mine = measurements[measurements["patient"].isin(unnamed.tested)]
    scores = unnamed.reader.read_features(mine[columns].to_numpy(dtype=float))
    names = [f"{NAME}/{component.name}" for component in unnamed.reader.components]
    return mine.drop(columns=columns).assign(**dict(zip(names, scores.T, strict=True)))


def illustrate(
    unnamed: Unnamed,
    scores: pd.DataFrame,
    dataset: Dataset,
    editors: Mapping[str, Editor],
    plan: Plan,
    search: UnnamedSearch,
) -> tuple[Unnamed, tuple[ComponentPicture, ...]]:
    """Pictures, regions and nearest phrases of each component, from images of the other half that are edited again.

    Args:
        unnamed: frozen.
        scores: of :func:`on_others`.
        dataset, editors, plan: as measured.
        search: with the phrases, if any.
    """
    components, pictures = [], list[ComponentPicture]()
    for component in unnamed.reader.components:
        strongest = _strongest(scores, component)
        if strongest is None:
            components.append(component)
            continue
        editor, moved, still = strongest
        target = next(t for t in plan.targets if t.contrast.name == component.contrast)
        rows = np.array([*moved["row"], *still["row"]], dtype=np.int64)
        images, null, edited = edit_again(dataset, editors[editor], plan, target, rows)
        # A sign that goes is there before; where it stays, the edit is turned the way in which it would have appeared.
        turned = np.r_[np.sign(moved["change"]), still["orientation"] * np.sign(component.effect)]
        change = (edited - null)[:, 0].numpy() * turned[:, None, None]
        component = replace(
            component,
            regions=regions_of(change, len(moved)),
            phrases=_phrases(search, null, edited, turned, len(moved)),
        )
        components.append(component)
        for k, row in enumerate(moved.head(SHOWN).to_dict("records")):
            shots = ((x[k, 0].clamp(0, 1) * 255).round().byte().numpy() for x in (images, null, edited))
            pictures.append(
                ComponentPicture(component.name, editor, component.contrast, int(row["row"]), float(row["before"]),
                                 float(row["after"]), *shots)
            )  # fmt: skip
    return replace(unnamed, reader=unnamed.reader.described(components)), tuple(pictures)


def _numbers(graph: CausalGraph, tables: Sequence[pd.DataFrame], reference: pd.DataFrame) -> list[np.ndarray]:
    """The labelled attributes as numbers, ``(n, p)`` a table: standardised by the reference, or indicators of levels."""
    columns: list[list[np.ndarray]] = [[] for _ in tables]
    for name in graph.labelled:
        attribute = graph.attributes[name]
        codes = attribute.encode(reference[name].dropna())
        for own, table in zip(columns, tables, strict=True):
            mine = attribute.encode(table[name])
            if isinstance(attribute, Continuous):
                own.append((mine - codes.mean()) / (codes.std() or 1.0))
            else:
                levels = range(1, len(attribute.levels))
                own += [(mine == k).astype(float) - float((codes == k).mean()) for k in levels]
    return [np.column_stack(own) if own else np.empty((len(t), 0)) for own, t in zip(columns, tables, strict=True)]


def _changes(mine: pd.DataFrame, plan: Plan, moved: Sequence[np.ndarray], columns: list[str]) -> Changes:
    """Pairs of accepted edits and their null edits, of all editors and interventions."""
    position = pd.Series(np.arange(len(plan.edited)), index=plan.edited)
    null = mine[mine["kind"] == "null"].set_index(["editor", "row"])
    parts = []
    for target, change in zip(plan.targets, moved, strict=True):
        edits = mine[
            (mine["kind"] == "total") & (mine["contrast"] == target.contrast.name) & (mine["orientation"] != 0)
        ]
        keys = pd.MultiIndex.from_frame(edits[["editor", "row"]])
        edits, keys = edits[keys.isin(null.index)], keys[keys.isin(null.index)]
        at = position[edits["row"]].to_numpy()
        parts.append(
            Changes(
                null.loc[keys, columns].to_numpy(dtype=float), edits[columns].to_numpy(dtype=float), change[at],
                edits["contrast"].to_numpy(dtype=str), edits["attribute"].to_numpy(dtype=str),
                edits["orientation"].to_numpy(dtype=float), edits["patient"].to_numpy(dtype=str),
            )
        )  # fmt: skip
    return Changes(*(np.concatenate([getattr(part, name) for part in parts]) for name in Changes.__dataclass_fields__))


def _known(
    factual: pd.DataFrame, readers: Sequence[Reader], without: Collection[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Scores of what the readers read: of labelled attributes, and by name of all else."""
    looks, named = [], {}
    for reader in readers:
        for concept in reader.concepts:
            scores = factual[f"{reader.name}/{concept.name}"].to_numpy(dtype=float)
            if concept.attribute is not None:
                looks.append(scores)
            elif concept.name not in without:
                named[f"{concept.name} ({reader.name})"] = scores
    return np.column_stack(looks) if looks else np.empty((len(factual), 0)), named


def _strongest(scores: pd.DataFrame, component: Component) -> tuple[str, pd.DataFrame, pd.DataFrame] | None:
    """The editor that moves a component most, and edits in which it changes most and least: row, before, after, change."""
    column = f"{NAME}/{component.name}"
    edits = scores[
        (scores["kind"] == "total") & (scores["contrast"] == component.contrast) & (scores["orientation"] != 0)
    ]
    null = scores[scores["kind"] == "null"].set_index(["editor", "row"])[column]
    edits = edits[edits["accepted"]]
    keys = pd.MultiIndex.from_frame(edits[["editor", "row"]])
    edits, keys = edits[keys.isin(null.index)], keys[keys.isin(null.index)]
    if edits.empty:
        return None
    pairs = pd.DataFrame({"editor": edits["editor"].to_numpy(), "row": edits["row"].to_numpy(),
                          "orientation": edits["orientation"].to_numpy(), "before": null.loc[keys].to_numpy(),
                          "after": edits[column].to_numpy()})  # fmt: skip
    pairs["change"] = pairs["after"] - pairs["before"]
    editor = str(pairs["change"].abs().groupby(pairs["editor"]).mean().idxmax())
    pairs = pairs[pairs["editor"] == editor]
    order = pairs["change"].abs().to_numpy().argsort(kind="stable")
    count = min(COMPARED, len(pairs) // 2)
    if not count:
        return None
    return editor, pairs.iloc[order[::-1][:count]], pairs.iloc[order[:count]]


def regions_of(change: np.ndarray, moved: int) -> tuple[Region, ...]:
    """Where the first images, in which the sign appears, differ most surely (Welch's t) from others under the same edit.

    Args:
        change: ``(n, h, w)`` edited less null edit, turned the way in which the sign appears.
        moved: in how many it does.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.measure import label, regionprops

    height, width = change.shape[1:]
    smooth = gaussian_filter(change, (0, BLUR * height, BLUR * width))
    if min(moved, len(change) - moved) < 2 or not np.ptp(smooth) > 0:
        return ()
    floor = 0.1 * smooth.std()  # where hardly anything changes, a small spread is no evidence
    one, other = smooth[:moved], smooth[moved:]
    size = np.abs(one.mean(0) - other.mean(0))
    surely = size / np.sqrt(one.var(0) / len(one) + other.var(0) / len(other) + floor**2 / len(one))
    parts = regionprops(label(surely >= BORDER * surely.max()), intensity_image=np.stack([surely, size], axis=-1))
    parts.sort(key=lambda part: -float(part.intensity_max[0]))
    # Of a thing on either side each half shows in some of the images only: less surely, but not by less.
    least = np.array([SURE, BORDER * size.max()])
    also = [part.bbox for part in parts[1:] if (part.intensity_max >= least).all()]
    # What goes from edge to edge is another exposure.
    also = [
        (top, left, bottom, right)
        for top, left, bottom, right in also
        if bottom - top < height and right - left < width
    ]
    shown = [parts[0].bbox, *also][:REGIONS]
    return tuple((top / height, left / width, bottom / height, right / width) for top, left, bottom, right in shown)


def _phrases(
    search: UnnamedSearch, null: Tensor, edited: Tensor, turned: np.ndarray, moved: int
) -> tuple[tuple[str, float], ...]:
    """The five phrases that change most where the sign appears, beyond what they change with the intervention alone."""
    if search.phrases is None:
        return ()
    kept = [j for j, c in enumerate(search.phrases.concepts) if c.attribute is None and c.name not in search.without]
    if not kept:
        return ()
    before, after = (search.phrases.margins(images).numpy()[:, kept] for images in (null, edited))
    change = (after - before) / np.maximum(np.concatenate([before, after]).std(0), 1e-9) * turned[:, None]
    growth = change[:moved].mean(0) - change[moved:].mean(0)
    order = np.argsort(-np.abs(growth), kind="stable")[:5]
    return tuple((search.phrases.concepts[kept[j]].name, float(growth[j])) for j in order)


def specification(search: UnnamedSearch, unnamed: Unnamed) -> dict[str, Any]:
    """What the frozen specification says: how, on whom, and the hash of what was found before anyone else was looked at."""
    patients = hashlib.sha256("\n".join(sorted(unnamed.searched)).encode()).hexdigest()[:16]
    return {**search.describe(), "searched": patients, "components": unnamed.reader.fingerprint}
