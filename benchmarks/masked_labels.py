"""Does an audit say of a hidden attribute what its column says? Real radiographs: ChestX-ray14, or any part of it.

    python benchmarks/masked_labels.py --data path/to/nih --folder weights --json benchmarks/results/masked_labels.json

A study hides a column (``view``, then ``sex``) from graph, editors and captions, and audits it as a concept that only a reader
sees; the reader's labels are the column, of patients other than those it reads. The column then judges: for each
contrast the same functional, adjusted and marginal, is computed from the column itself on the same unedited images. ``labels``
hides nothing: it asks which of the attributes of ``hidden_labels.csv`` do(view) moves, beside the labels' own word.

``agrees``: the audit's estimate less the column's, with a 95% interval; for ``adjusted`` and ``marginal`` image by image. The
editor's is held against the column's adjusted effect, as an editor that learnt what goes together should show it.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nih_editing import CONCEPTS, declared_graph
from record import record

from causal_cxr.audits import Audit, Report
from causal_cxr.audits.associations import Association, associations
from causal_cxr.audits.effects import NOTHING, Effect
from causal_cxr.data import NIHChestXray14, Subset, split_patients
from causal_cxr.editors import Editor
from causal_cxr.editors.diffusion import DiffusionEditor
from causal_cxr.editors.finetune import Joint, finetune
from causal_cxr.editors.scm import fit_image_model
from causal_cxr.graphs import CausalGraph, Contrast, default_contrasts
from causal_cxr.readers import Concept, OrientedGradients, ProbeReader

SHIFTS = {"age": 20.0}
FOLDS = 5
STUDIES = ("view", "sex", "labels")
SIDES = ("adjusted", "marginal")


@dataclass(frozen=True)
class Study:
    """One question put to the audit.

    Attributes:
        name: of :data:`STUDIES`.
        graph: what the audit is told.
        fitted, audited: rows of other patients each.
        concepts: hidden ones, with the truth of each in a column of ``truth``; NaN where it is not known.
        truth: a row an image of the release.
    """

    name: str
    graph: CausalGraph
    fitted: np.ndarray
    audited: np.ndarray
    concepts: tuple[Concept, ...]
    truth: pd.DataFrame


def told() -> CausalGraph:
    """What is declared: with the tiers, and that the thousand were picked by pneumonia and not by view alone."""
    declared = declared_graph().to_dict()
    tiers = [["age", "sex"], ["pneumonia"], ["view"]]
    return CausalGraph.from_dict({**declared, "selected_on": ["pneumonia", "view"], "tiers": tiers})


def study(name: str, release: NIHChestXray14, good: np.ndarray, seed: int) -> Study:
    """The rows and the hidden truth of a study.

    Raises:
        ValueError: the folder has no hidden labels.
    """
    graph = told()
    if name == "labels":
        if release.hidden is None:
            raise ValueError("The release's folder has no hidden_labels.csv; leave out --studies labels.")
        labelled = set(release.patients[release.hidden.notna().any(axis=1)])
        audited = release.patients.iloc[good].isin(labelled).to_numpy()
        concepts = tuple(
            Concept(column, (column.replace("_", " "),), (f"no {column.replace('_', ' ')}",))
            for column in release.hidden
        )
        return Study(name, graph, good[~audited], good[audited], concepts, release.hidden)
    shown = next(concept for concept in CONCEPTS if concept.attribute == name)
    hidden = Concept(shown.name, shown.positive, shown.negative)
    truth = pd.DataFrame({hidden.name: shown.truth(release.attributes)})
    fit, audit = split_patients(Subset(release, good), [0.5, 0.5], seed=seed)
    return Study(name, graph.without([name]), good[fit], good[audit], (hidden,), truth)


def fitted_editors(asked: Study, release: NIHChestXray14, args: argparse.Namespace) -> dict[str, Editor]:
    """Editors that were told the study's graph alone, kept in ``--folder``."""
    told_only = Telling(release, asked.graph)
    folder = args.folder / f"{asked.name}-{args.size}-{args.seed}"
    editors: dict[str, Editor] = {}
    if "diffusion" in args.editors:
        start = DiffusionEditor.from_shipped("diffusion-base").using(attributes=asked.graph.attributes)
        editors["diffusion"] = finetune(
            start, told_only, asked.fitted, what=Joint(), steps=args.steps, seed=args.seed, learning_rate=3e-4,
            checkpoint=folder / "diffusion", device=args.device,
        ).to(args.device)  # fmt: skip
    if "scm" in args.editors:
        editors["scm"] = fit_image_model(
            told_only, asked.fitted, asked.graph, steps=args.scm_steps, seed=args.seed, checkpoint=folder / "scm",
        )  # fmt: skip
    return editors


class Telling:
    """The release with the columns of one graph only: what is hidden is not there to be told."""

    texts = None

    def __init__(self, release: NIHChestXray14, graph: CausalGraph) -> None:
        self.attributes = graph.coerce(release.attributes[list(graph.labelled)])
        self.patients, self.images = release.patients, release.images
        self.fingerprint = f"{release.fingerprint}|{'|'.join(graph.labelled)}"


def audit(
    asked: Study, release: NIHChestXray14, editors: Mapping[str, Editor], args: argparse.Namespace
) -> dict[str, Any]:
    """Audit, and lay each pair beside the column's own word."""
    audited = Subset(Telling(release, asked.graph), asked.audited)
    hidden = asked.truth.iloc[asked.audited].reset_index(drop=True)
    shown = [concept for concept in CONCEPTS if concept.attribute in asked.graph.labelled]
    concepts, refused = [*shown], {}
    for concept in asked.concepts:
        patients = [int(audited.patients[hidden[concept.name] == kind].nunique()) for kind in (0, 1)]
        if min(patients) < 2 * FOLDS:
            refused[concept.name] = f"present in {patients[1]} and absent in {patients[0]} labelled patients"
        else:
            concepts.append(concept)
    table = pd.concat([audited.attributes, hidden], axis=1)
    columns = [hidden[c.name] if c.attribute is None else c.truth(table) for c in concepts]
    reader = ProbeReader.fit(
        audited, np.arange(len(audited)), np.column_stack(columns), concepts, graph=asked.graph, shifts=SHIFTS,
        features=OrientedGradients(args.size), n_folds=FOLDS, seed=args.seed,
    )  # fmt: skip
    contrasts = default_contrasts(asked.graph, SHIFTS)
    if asked.name == "labels":
        contrasts = tuple(contrast for contrast in contrasts if contrast.attribute == "view")
    report = Audit(asked.graph, [reader], interventions=contrasts).run(
        dict(editors), audited, seed=args.seed, out=args.folder / f"audit-{asked.name}-{args.size}-{args.seed}"
    )
    return {
        "images": {"fitted": len(asked.fitted), "audited": len(audited)},
        "not_read": refused,
        "auroc": {c.name: _number(reader.quality.concepts.loc[c.name, "auroc"]) for c in concepts},
        **beside_the_column(report, audited.attributes, hidden, contrasts),
    }


def beside_the_column(
    report: Report, attributes: pd.DataFrame, hidden: pd.DataFrame, contrasts: Sequence[Contrast]
) -> dict[str, Any]:
    """Every cell of the report about a hidden attribute, beside what the attribute's own column says.

    Args:
        report: of the audit.
        attributes: the labelled table that it was told.
        hidden: truth by concept, a row an audited image; NaN where unknown.
        contrasts: as audited.
    """
    measured = report.measurements
    factual = measured[measured["kind"] == "factual"].set_index("row").sort_index()
    table = report.graph.coerce(attributes)
    edited = np.sort(measured.loc[measured["kind"] == "null", "row"].unique())
    cells: dict[str, Any] = {}
    for edge in report.edges.to_dict("records"):
        name, contrast = edge["concept"], next(c for c in contrasts if c.name == edge["contrast"])
        known = hidden[name].notna().to_numpy()[factual.index]
        rows = factual[known]
        quality: Any = report.quality[edge["reader"]].concepts.loc[name]
        slope, slope_se = float(quality["slope"]), float(quality["slope_se"])
        column = hidden[name].to_numpy(dtype=float)[rows.index]
        read = rows[f"{edge['reader']}/{name}"].to_numpy(dtype=float) / slope
        frame = rows[["patient"]].assign(column=column, off=read - column)
        both = associations(
            report.graph, table, frame, {"column": None, "off": None}, contrast, np.intersect1d(edited, rows.index)
        )
        said: dict[str, Any] = {"n_labelled": int(known.sum()), "delta": _number(edge["delta"])}
        for side in SIDES:
            truth, off = (_side(both[key], side) for key in ("column", "off"))
            off = off.less(edge["shift_removed"] / slope, edge["shift_se"] / slope)
            off = off.less(0.0, abs(truth.value + off.value) * slope_se / slope)
            said[side] = {"column": _estimate(truth), "audit": _edge(edge, side), "agrees": _estimate(off)}
        truth = _side(both["column"], "adjusted")
        made = Effect(edge["editor_effect"], edge["editor_se"], truth.dof, edge["n_edited"], edge["n_patients"])
        gap = made.less(truth.value, truth.se)
        said["editor"] = {"audit": _edge(edge, "editor"), "agrees": _estimate(gap)}
        cells[f"{edge['editor']}: {edge['contrast']} on {name}"] = {
            **said, "verdict": edge["verdict"], "reason": edge["reason"],
            "column_says": {side: _call(_side(both["column"], side), edge["delta"]) for side in SIDES},
        }  # fmt: skip
    return {"cells": cells, "agreement": agreement(cells)}


def agreement(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, list[int]]:
    """In how many comparisons, of how many, the interval of the difference from the column holds 0, by side.

    What unedited images say does not hang on the editor, so that it counts once.
    """
    held: dict[str, dict[str, bool]] = {side: {} for side in ("editor", *SIDES)}
    for name, said in cells.items():
        for side, found in held.items():
            low, high = said[side]["agrees"][1:]
            if low is not None and high is not None:
                found[name if side == "editor" else name.split(": ", 1)[1]] = low <= 0 <= high
    return {side: [sum(found.values()), len(found)] for side, found in held.items()}


def _side(found: Association, side: str) -> Effect:
    return found.adjusted if side == "adjusted" else found.marginal


def _call(effect: Effect, delta: float, alpha: float = 0.05) -> str:
    if not effect.n:
        return ""
    return "yes" if effect.p_yes(delta) <= alpha else "no" if effect.p_no(delta) <= alpha else "undecided"


def _estimate(effect: Effect) -> list[float | None]:
    return [_number(value) for value in (effect.value, *(effect.interval() if effect.n else NOTHING.interval()))]


def _edge(edge: Mapping[Any, Any], side: str) -> list[float | None]:
    return [_number(edge[f"{side}_{part}"]) for part in ("effect", "low", "high")]


def _number(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else round(float(value), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="has Data_Entry_2017_v2020.csv and the images")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--editors", nargs="+", choices=("diffusion", "scm"), default=["diffusion", "scm"])
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--steps", type=int, default=700, help="of 64 images, for the diffusion editor")
    parser.add_argument("--scm-steps", type=int, default=1_500, help="of 32 images, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, required=True, help="where weights fitted to patients stay")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    args = parser.parse_args()
    release = NIHChestXray14(args.data, size=args.size, graph=told())
    good = np.flatnonzero(release.attributes.notna().all(axis=1).to_numpy())
    good = np.setdiff1d(good, list(release.check()))
    summary: dict[str, Any] = {}
    for name in args.studies:
        begun = time.monotonic()
        asked = study(name, release, good, args.seed)
        found = audit(asked, release, fitted_editors(asked, release, args), args)
        summary[name] = {**found, "seconds": round(time.monotonic() - begun, 1)}
        for cell, said in found["cells"].items():
            print(f"{name}: {cell}: {said['verdict']}{' (' + said['reason'] + ')' if said['reason'] else ''}")
            print(f"   editor {said['editor']['audit']}, adjusted {said['adjusted']['audit']}, by the column {said['adjusted']['column']};"
                  f" marginal {said['marginal']['audit']}, by the column {said['marginal']['column']}", flush=True)  # fmt: skip
        print(f"{name}: the column lies in the interval of the difference, by side: {found['agreement']}", flush=True)
        if args.json:
            record(args.json, seed=args.seed, summary=summary)


if __name__ == "__main__":
    main()
