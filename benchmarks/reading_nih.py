"""Reading real radiographs: what nobody wrote down, from a few hundred labels; ChestX-ray14, or any part of it.

    python benchmarks/reading_nih.py --data path/to/nih --json FILE

The folder has the release's layout and ``hidden_labels.csv``. Every reader is a probe, cross-fitted over patients: five folds,
each image read by heads that have not seen its patient, fitted with the labelled attributes balanced. What the features
learn, they learn from images of patients without labels. The figure is the AUROC *among AP images*: markers and wires go with
the view, whose column alone tells some of them well; that column's AUROC stands beside.

``chosen`` takes, for each concept, the reader that reads best within the other four folds (a cross-fit of their own), and
reads the fifth with it: no label of an image has a say in who reads it. ``measure`` has seen no label at all.
"""

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from record import record
from scipy.special import expit, logit
from torch import Tensor

from causal_cxr.data import Dataset, NIHChestXray14, Subset
from causal_cxr.graphs import Binary, CausalGraph, Continuous
from causal_cxr.readers import (
    Concept,
    Features,
    MeasureReader,
    OrientedGradients,
    PatchDictionary,
    Pixels,
    ProbeReader,
    ReaderQuality,
    assess,
)
from causal_cxr.readers.quality import MIN_CELL, auroc

FOLDS = 5
FEWEST = 30  #: patients that show a concept which is read
LEVEL = "AP"
TOGETHER, CHOSEN, UNTRAINED = "together", "chosen", "measure"
SURE = 1e-4  #: a probability is kept so far from 0 and 1 before its log odds are taken
RESAMPLES = 1_000
BATCH = 64
#: Which measure reads what, by the definition of both alone.
MEASURED = {"portable_text": "text_likeness", "ap_text": "text_likeness", "collimation_edge": "border_straightness"}


def graph() -> CausalGraph:
    """The table's attributes, which are balanced in the fits and within whose levels readers are judged."""
    return CausalGraph(
        [
            Continuous("age", unit="years", low=0, high=120),
            Binary("sex", levels=("M", "F")),
            Binary("view", levels=("PA", "AP")),
            Binary("pneumonia"),
        ]
    )


@dataclass(frozen=True)
class Labelled:
    """The labelled images of a release, and what is asked of them.

    Attributes:
        dataset: the whole release.
        rows: ``(n,)`` with any label.
        others: rows of patients without any.
        concepts: shown by 30 patients or more.
        truth: ``(n, k)`` 1 / 0 / NaN.
        left_out: concept -> why it is not read.
    """

    dataset: NIHChestXray14
    rows: np.ndarray
    others: np.ndarray
    concepts: tuple[Concept, ...]
    truth: np.ndarray
    left_out: dict[str, str]


def labelled(dataset: NIHChestXray14) -> Labelled:
    """Take stock of a release.

    Raises:
        ValueError: it has no ``hidden_labels.csv``, or labels nothing often enough.
    """
    if dataset.hidden is None:
        raise ValueError("The folder has no hidden_labels.csv: nothing to judge readers by.")
    rows = np.flatnonzero(dataset.hidden.notna().any(axis=1))
    patients = dataset.patients.iloc[rows]
    table = dataset.hidden.iloc[rows]
    count = {name: patients[table[name] == 1].nunique() for name in table}
    left_out = {name: f"shown by {n} patients, fewer than {FEWEST}" for name, n in count.items() if n < FEWEST}
    names = [name for name in table if name not in left_out]
    if not names:
        raise ValueError(f"No concept is shown by {FEWEST} labelled patients: {count}.")
    words = {name: name.replace("_", " ") for name in names}
    concepts = tuple(Concept(name, (words[name],), (f"no {words[name]}",)) for name in names)
    others = np.flatnonzero(~dataset.patients.isin(set(patients)))
    return Labelled(dataset, rows, others, concepts, table[names].to_numpy(dtype=float), left_out)


def features(data: Labelled, seed: int) -> dict[str, Features]:
    """What the probes stand on, by name; those that learn do so from patients without labels."""
    size = data.dataset.images(data.rows[:1]).shape[-1]
    faint = {"stark": False, "faint": True}
    return {
        "pixels 64": Pixels(64),
        "oriented gradients 64": OrientedGradients(64),
        "oriented gradients 128": OrientedGradients(128, 16),
        **{
            f"{kind} patches {size}": PatchDictionary.fit(
                data.dataset, data.others, size=size, unit_length=unit_length, seed=seed
            )
            for kind, unit_length in faint.items()
        },
        f"measures {size}": MeasureReader.from_reference(data.dataset, data.others),
    }


class Extracted:
    """Features of images in the place of the images, so that they are computed once for all fits.

    Args:
        source: what computes them.
        dataset: of the images.
        rows: ``(n,)``, which become rows ``0..n-1``.
    """

    texts = None

    def __init__(self, source: Features, dataset: Dataset, rows: np.ndarray) -> None:
        part = Subset(dataset, rows)
        self.attributes, self.patients = part.attributes, part.patients
        self.fingerprint, self.fitted_on = f"{source.fingerprint}|{part.fingerprint}", source.fitted_on
        starts = range(0, len(rows), BATCH)
        batches = [np.arange(start, min(start + BATCH, len(rows))) for start in starts]
        self._features = torch.cat([source.features(part.images(batch)) for batch in batches])

    def images(self, rows: np.ndarray) -> Tensor:
        """``(n, 1, 1, d)``."""
        return self._features[torch.as_tensor(rows)][:, None, None]

    def features(self, images: Tensor) -> Tensor:
        """``(n, d)``: as they are."""
        return images.flatten(1)


def cross_fitted(
    extracted: Extracted, rows: np.ndarray, truth: np.ndarray, concepts: tuple[Concept, ...], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Out-of-fold scores ``(n, k)`` of some rows, and the fold ``(n,)`` of each, which hangs on patients and seed alone."""
    probe = ProbeReader.fit(Subset(extracted, rows), np.arange(len(rows)), truth, concepts, graph=graph(), features=extracted,
                            n_folds=FOLDS, seed=seed)  # fmt: skip
    patients = extracted.patients.iloc[rows].astype(str).tolist()
    scores = probe.read(extracted.images(rows), patients).numpy()
    return scores, np.array([probe.folds[patient] for patient in patients])


def together(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """``(n, k)`` mean log odds of all readers, as scores."""
    odds = [logit(np.clip(s, SURE, 1 - SURE)) for s in scores.values()]
    return expit(np.mean(odds, axis=0))


def choose(
    extracted: Mapping[str, Extracted], data: Labelled, outer: Mapping[str, np.ndarray], fold: np.ndarray, seed: int
) -> tuple[np.ndarray, dict[str, Counter[str]]]:
    """Let the other folds choose who reads each fold.

    Args:
        extracted: reader -> its features of the labelled images.
        data: their labels.
        outer: reader -> ``(n, k)`` out-of-fold scores; readers that ``extracted`` lacks are the others together.
        fold: ``(n,)``.
        seed: of the inner folds.

    Returns:
        ``(n, k)`` scores and, by concept, how many folds chose whom.
    """
    among = (data.dataset.attributes["view"].iloc[data.rows] == LEVEL).to_numpy()
    scores, chosen = np.empty_like(data.truth), {concept.name: Counter[str]() for concept in data.concepts}
    for f in np.unique(fold):
        inside = np.flatnonzero(fold != f)
        inner = {
            name: cross_fitted(features_, inside, data.truth[inside], data.concepts, seed + 1 + int(f))[0]
            for name, features_ in extracted.items()
        }
        inner[TOGETHER] = together(inner)
        for j, concept in enumerate(data.concepts):
            truth = data.truth[inside, j]
            known = ~np.isnan(truth) & among[inside]
            if min((truth[known] == 1).sum(), (truth[known] == 0).sum()) < MIN_CELL:
                known = ~np.isnan(truth)
            found = {name: auroc(s[known, j], truth[known] == 1) for name, s in inner.items()}
            best = max(found, key=lambda name: found[name])
            chosen[concept.name][best] += 1
            scores[fold == f, j] = outer[best][fold == f, j]
    return scores, chosen


def untrained(data: Labelled, reader: MeasureReader) -> np.ndarray:
    """``(n, k)`` ranks of the measures that read a concept by its definition; NaN for other concepts."""
    scores = np.full_like(data.truth, np.nan)
    names = [concept.name for concept in data.concepts]
    for start in range(0, len(data.rows), BATCH):
        read = reader.read(data.dataset.images(data.rows[start : start + BATCH])).numpy()
        for concept, measure in MEASURED.items():
            if concept in names:
                scores[start : start + BATCH, names.index(concept)] = read[:, reader.measures.index(measure)]
    return scores


@dataclass(frozen=True)
class Judged:
    """One reader's figures among AP images.

    Attributes:
        table: index concept: ``auroc``, ``slope`` and their ``_low``, ``_high``; NaN where there are too few of a kind.
        mean: AUROC over the concepts that can be judged; NaN where none can.
        interval: 95%, patients resampled.
        quality: on all labelled images.
    """

    table: pd.DataFrame
    mean: float
    interval: tuple[float, float]
    quality: ReaderQuality


def judge(data: Labelled, scores: np.ndarray, seed: int) -> Judged:
    """Judge ``(n, k)`` scores; concepts whose column is NaN are left out."""
    read = [j for j in range(scores.shape[1]) if not np.isnan(scores[:, j]).any()]
    concepts = [data.concepts[j] for j in read]
    scores, truth = scores[:, read], data.truth[:, read]
    attributes = data.dataset.attributes.iloc[data.rows].reset_index(drop=True)
    patients = data.dataset.patients.iloc[data.rows].reset_index(drop=True)
    quality = assess(scores, truth, attributes, patients, graph(), concepts)
    among = np.flatnonzero(attributes["view"] == LEVEL)
    table = assess(
        scores[among], truth[among], attributes.iloc[among], patients.iloc[among], graph(), concepts
    ).concepts
    judged = [j for j, concept in enumerate(concepts) if not np.isnan(table.loc[concept.name, "auroc"])]
    members = [np.asarray(rows) for rows in pd.Series(among).groupby(patients.iloc[among].to_numpy()).agg(list)]
    if not judged:
        return Judged(table, float("nan"), (float("nan"), float("nan")), quality)
    rng, draws = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        picked = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        values = []
        for j in judged:
            known = picked[~np.isnan(truth[picked, j])]
            values.append(auroc(scores[known, j], truth[known, j] == 1))
        draws.append(np.nanmean(values))
    low, high = np.quantile(draws, [0.025, 0.975])
    return Judged(table, float(table["auroc"].mean()), (float(low), float(high)), quality)


def reading_nih(root: Path, seed: int = 0) -> dict[str, object]:
    """All readers' figures as a summary for :func:`record.record`: ``nih_auroc`` and what belongs to it."""
    data = labelled(NIHChestXray14(root, graph=graph()))
    sources = features(data, seed)
    extracted = {name: Extracted(source, data.dataset, data.rows) for name, source in sources.items()}
    everything = np.arange(len(data.rows))
    fitted = {name: cross_fitted(e, everything, data.truth, data.concepts, seed) for name, e in extracted.items()}
    scores, fold = {name: s for name, (s, _) in fitted.items()}, next(iter(fitted.values()))[1]
    scores[TOGETHER] = together(scores)
    best, chosen = choose(extracted, data, scores, fold, seed)
    measures = next(source for source in sources.values() if isinstance(source, MeasureReader))
    scores |= {CHOSEN: best, UNTRAINED: untrained(data, measures)}
    return summarise(data, {name: judge(data, s, seed) for name, s in scores.items()}, chosen)


def summarise(data: Labelled, judged: Mapping[str, Judged], chosen: Mapping[str, Counter[str]]) -> dict[str, object]:
    """Plain numbers, rounded; concepts that cannot be judged among AP images are named in ``nih_left_out``.

    A reader that reads none of the others is left out; a mean is given only to readers of all of them.
    """
    counts = judged[CHOSEN].table
    every = {name for name, one in judged.items() if one.table["auroc"].count() == counts["auroc"].count()}
    few = counts.index[counts["auroc"].isna()]
    left_out = data.left_out | {
        name: f"among AP images {counts.loc[name, 'n_present']:.0f} show it and {counts.loc[name, 'n_absent']:.0f} do not; "
        f"{MIN_CELL} of each are needed"
        for name in few
    }

    def by_reader(*columns: str) -> dict[str, dict[str, object]]:
        said: dict[str, dict[str, object]] = {}
        for name, one in judged.items():
            rows = one.table.loc[one.table["auroc"].notna(), list(columns)].round(4)
            said[name] = {
                str(concept): values[0] if len(columns) == 1 else values
                for concept, values in zip(rows.index, rows.to_numpy().tolist(), strict=True)
            }
        return said

    view = judged[CHOSEN].quality.within.query("attribute == 'view'").drop_duplicates("concept").set_index("concept")
    judged = {name: one for name, one in judged.items() if not np.isnan(one.mean)}
    return {
        "nih_auroc": by_reader("auroc"),
        "nih_auroc_interval": by_reader("auroc_low", "auroc_high"),
        "nih_auroc_mean": {name: round(one.mean, 4) for name, one in judged.items() if name in every},
        "nih_auroc_mean_interval": {
            name: [round(end, 4) for end in one.interval] for name, one in judged.items() if name in every
        },
        "nih_slope": by_reader("slope"),
        "nih_slope_interval": by_reader("slope_low", "slope_high"),
        "nih_auroc_all_views": {
            name: one.quality.concepts["auroc"].dropna().round(4).to_dict() for name, one in judged.items()
        },
        "nih_view_column_auroc": view["attribute_auroc"].astype(float).round(4).to_dict(),
        "nih_chosen": {concept: dict(count) for concept, count in chosen.items()},
        "nih_counts": counts[["n_present", "n_absent"]].astype(int).to_dict("index"),
        "nih_left_out": left_out,
    }


def table(summary: Mapping[str, object]) -> str:
    """The figures for people: readers down, concepts across, the view's own column last."""
    found = pd.DataFrame(summary["nih_auroc"]).T
    found.insert(0, "mean", pd.Series(summary["nih_auroc_mean"]))
    slopes = pd.DataFrame(summary["nih_slope"]).T
    view = pd.DataFrame({"view column, all views": summary["nih_view_column_auroc"]}).T.reindex(columns=found.columns)
    return (
        f"AUROC among {LEVEL} images\n{pd.concat([found, view]).round(2).to_string(na_rep='')}\n\n"
        f"slope J among {LEVEL} images\n{slopes.round(2).to_string(na_rep='')}"
    )


def main() -> None:
    """Fit, judge, print and record."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the release's layout, with hidden_labels.csv")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    summary = reading_nih(args.data, args.seed)
    print(table(summary))
    for name, why in dict(summary["nih_left_out"]).items():  # type: ignore[call-overload]
        print(f"left out: {name}: {why}")
    record(args.json, seed=args.seed, summary=summary)


if __name__ == "__main__":
    main()
