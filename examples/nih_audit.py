"""Audit real radiographs: ChestX-ray14, or any part of it in the release's layout.

    python examples/nih_audit.py --data path/to/nih --out runs/nih

Fine-tunes the shipped diffusion editor of phantoms and fits a deep SCM on some patients, and audits others, whom neither
has seen; ``--editors scm`` leaves the diffusion editor out. Of a few hundred radiographs a diffusion editor learns what an
attribute looks like only in part: some of the patients are not fitted on, and choose how much each attribute is guided
(``--no-calibrate`` leaves them to the fit). The readers of the hidden attributes in ``hidden_labels.csv``
are cross-fitted: each patient is read by heads fitted on other patients. Faint
marks and a placebo attribute, independent of everything, are spiked in before anything is fitted.
"""

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from causal_cxr.audits import Audit, Report
from causal_cxr.audits.validation import Validation
from causal_cxr.data import MARKS, PLACEBO, NIHChestXray14, Subset, WithControls, split_patients
from causal_cxr.data.whole_file import write_json
from causal_cxr.editors import Editor
from causal_cxr.editors.diffusion import DiffusionEditor, calibrated
from causal_cxr.editors.diffusion.inversion import Coupled
from causal_cxr.editors.finetune import Joint, finetune
from causal_cxr.editors.scm import HierarchicalVAE, fit_image_model
from causal_cxr.graphs import Binary, CausalGraph, Continuous, default_contrasts
from causal_cxr.readers import Concept, OrientedGradients, Pixels, ProbeReader

SHIFT_YEARS = 20.0
FOLDS = 5
WEIGHED = 0.15  #: of the patients who are not audited: they choose the weights of guidance
MINUTES_A_STEP, REST = 0.0075, 3.0  #: of the diffusion editor, and minutes of all else; measured on 2 CPU cores at 64
#: A ladder whose coarsest latents have one position at 64 pixels and four at 128.
LADDER = ((4, 32, 2, 4), (8, 64, 2, 0), (16, 96, 2, 0), (64, 128, 2, 32))
IMAGE_MODELS = {"cvae": None, "hvae": partial(HierarchicalVAE, stages=LADDER, prior="mediator")}
RECIPES: dict[str, dict[str, float]] = {"cvae": {}, "hvae": {"divergence_warm_up": 500, "learning_rate": 1e-3}}
#: What the audit can read of the attributes that the table has: for effectiveness and leak.
LABELLED = (
    Concept("AP view", ("AP view",), ("PA view",), attribute="view", level="AP"),
    Concept("female", ("woman",), ("man",), attribute="sex", level="F"),
    Concept("aged over 45", ("aged over 45",), ("aged 45 or under",), attribute="age", above=45.0),
    Concept("pneumonia", ("pneumonia",), ("no pneumonia",), attribute="pneumonia", level=1),
)


def declared_graph() -> CausalGraph:
    """Age and sex act on pneumonia; age and pneumonia on the view, as who is sicker is imaged in bed.

    The thousand were picked by pneumonia, and not by view alone: both are declared as selected on. The words are short, as
    the shipped base takes captions of 32 tokens, and spells what it has no word for.
    """
    return CausalGraph(
        [
            Continuous("age", unit="years", low=0, high=120, phrases=("{value:.0f} year", "aged {value:.0f}")),
            Binary("sex", levels=("M", "F"), phrases={"M": ("man", "male"), "F": ("woman", "female")}),
            Binary("view", levels=("PA", "AP"), phrases={"PA": "PA", "AP": "AP"}),
            Binary("pneumonia", phrases={0: "no pneumonia", 1: "pneumonia"}),
        ],
        edges=[("age", "pneumonia"), ("sex", "pneumonia"), ("age", "view"), ("pneumonia", "view")],
        selected_on=["pneumonia", "view"],
        tiers=[["age", "sex"], ["pneumonia"], ["view"]],
    )  # fmt: skip


def left_out(release: NIHChestXray14) -> dict[str, str]:
    """Files that take no part, and why: none is skipped in silence."""
    problems = {release.names[row]: why for row, why in release.check().items()}
    return problems | dict.fromkeys(release.unlisted, "no row of the table names it")


def split(release: NIHChestXray14, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit the editors on and rows to audit: the patients with hidden labels, or a third, are audited."""
    if release.hidden is None:
        fit, audit = split_patients(Subset(release, good), [0.67, 0.33], seed=0)
        return good[fit], good[audit]
    labelled = set(release.patients[release.hidden.notna().any(axis=1)])
    audited = release.patients.iloc[good].isin(labelled).to_numpy()
    return good[~audited], good[audited]


def fit_readers(audited: Subset, hidden: pd.DataFrame, graph: CausalGraph) -> tuple[list[ProbeReader], dict[str, str]]:
    """Two cross-fitted probes of different features; what has too few labels to be fitted is named."""
    table = pd.concat([audited.attributes, hidden], axis=1)
    asked = [*LABELLED, *(Concept(name, (name.replace("_", " "),), (f"no {name.replace('_', ' ')}",), control=name in MARKS)
                          for name in hidden)]  # fmt: skip
    concepts, refused = [], {}
    for concept in asked:
        truth = concept.truth(table)
        patients = [audited.patients[truth == kind].nunique() for kind in (0, 1)]
        if min(patients) < 2 * FOLDS:
            refused[concept.name] = f"not read: present in {patients[1]} and absent in {patients[0]} labelled patients"
        else:
            concepts.append(concept)
    truth = np.column_stack([concept.truth(table) for concept in concepts])
    features = {"gradients": OrientedGradients(64), "pixels": Pixels(64)}
    return [
        ProbeReader.fit(audited, np.arange(len(audited)), truth, concepts, graph=graph, shifts={"age": SHIFT_YEARS},
                        features=kind, n_folds=FOLDS, name=name)
        for name, kind in features.items()
    ], refused  # fmt: skip


def fit_diffusion_editor(
    dataset: WithControls, rows: np.ndarray, graph: CausalGraph, args: argparse.Namespace
) -> DiffusionEditor:
    """The shipped base, fine-tuned; then guided as much as each attribute needs, as patients left out of the fit are read."""
    start = DiffusionEditor.from_shipped("diffusion-base").using(
        attributes=graph.attributes, inversion=Coupled(steps=args.edit_steps)
    )
    fitted, weighed = split_patients(Subset(dataset, rows), [1 - WEIGHED, WEIGHED], seed=args.seed)
    if not args.calibrate:
        fitted, weighed = np.arange(len(rows)), fitted[:0]
    editor = finetune(
        start, dataset, rows[fitted], what=Joint(), steps=args.steps, seed=args.seed, learning_rate=3e-4,
        checkpoint=args.out / "checkpoints" / "diffusion", device=args.device,
    ).to(args.device)  # fmt: skip
    if not args.calibrate:
        return editor
    known = Subset(dataset, rows[fitted])
    readers, _ = fit_readers(known, pd.DataFrame(index=range(len(known))), graph)
    contrasts = default_contrasts(graph, {"age": SHIFT_YEARS})
    read = {concept.attribute for reader in readers for concept in reader.concepts}
    asked = [contrast for contrast in contrasts if contrast.attribute in read]
    editor = calibrated(editor, Validation(readers, dataset, rows[weighed], graph, asked, seed=args.seed))
    print(f"guidance, as {len(weighed)} images of other patients are read: {editor.guidance}", flush=True)
    return editor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="has Data_Entry_2017_v2020.csv and the images")
    parser.add_argument("--size", type=int, default=64, help="pixels a side, a multiple of 16")
    parser.add_argument("--editors", choices=("diffusion", "scm"), nargs="+", default=["diffusion", "scm"])
    parser.add_argument("--image-model", choices=tuple(IMAGE_MODELS), default="cvae", help="of the deep SCM")
    parser.add_argument("--steps", type=int, default=1000, help="of 64 images, for the diffusion editor")
    parser.add_argument(
        "--edit-steps", type=int, default=Coupled.steps, help="evaluations an edit by the diffusion editor"
    )
    parser.add_argument(
        "--calibrate", action=argparse.BooleanOptionalAction, default=True, help="the diffusion editor's guidance"
    )
    parser.add_argument("--scm-steps", type=int, default=1500, help="of 32 images, at most, for the deep SCM")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="for the diffusion editor: cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/nih"))
    args = parser.parse_args()
    begun = time.monotonic()
    minutes = (REST + args.steps * MINUTES_A_STEP * ("diffusion" in args.editors)) * (args.size / 64) ** 2
    print(f"expected: about {minutes:.0f} minutes on 2 CPU cores; same seed, same report", flush=True)

    graph = declared_graph()
    release = NIHChestXray14(args.data, size=args.size, graph=graph)
    without = left_out(release)
    good = np.flatnonzero(~pd.Series(release.names).isin(without).to_numpy())
    fit_rows, audit_rows = split(release, good)
    dataset = WithControls(release, seed=args.seed)
    graph = graph.with_placebo(replace(PLACEBO, phrases={"heads": "heads", "tails": "tails"}))
    audited = Subset(dataset, audit_rows)
    print(f"{len(fit_rows)} images for the editors, {len(audit_rows)} of other patients to audit, "
          f"{len(without)} left out", flush=True)  # fmt: skip

    hidden = pd.concat([release.hidden, dataset.marks], axis=1) if release.hidden is not None else dataset.marks
    readers, refused = fit_readers(audited, hidden.iloc[audit_rows].reset_index(drop=True), graph)
    editors: dict[str, Editor] = {}
    if "diffusion" in args.editors:
        editors["diffusion"] = fit_diffusion_editor(dataset, fit_rows, graph, args)
    if "scm" in args.editors:
        editors["scm"] = fit_image_model(
            dataset, fit_rows, graph, IMAGE_MODELS[args.image_model], steps=args.scm_steps, seed=args.seed,
            checkpoint=args.out / "checkpoints" / "scm", **RECIPES[args.image_model],
        )  # fmt: skip
    audit = Audit(graph, readers, interventions=default_contrasts(graph, {"age": SHIFT_YEARS}))
    report = audit.run(
        editors, audited, seed=args.seed, out=args.out,
        provenance={"title": "ChestX-ray14", "left_out": {**without, **refused}},
    )  # fmt: skip
    summary = summarise(report, readers) | {"seconds": round(time.monotonic() - begun, 1)}
    write_json(args.out / "summary.json", summary)
    print(json.dumps(summary, indent=1))
    for sentence in report.revealed()["sentence"]:
        print(sentence)
    print(f"report: {args.out / 'report.html'}")


def summarise(report: Report, readers: list[ProbeReader]) -> dict[str, object]:
    """AUROC of the better reader of each concept, and effectiveness by editor and attribute, with 95% intervals."""
    quality = pd.concat([reader.quality.concepts.assign(reader=reader.name) for reader in readers])
    best = quality.sort_values("auroc").groupby(level=0).tail(1)
    made = report.effectiveness[report.effectiveness["reader"] == readers[0].name]
    return {
        "reader_auroc": {name: round(float(row["auroc"]), 3) for name, row in best.iterrows()},
        "reader_auroc_interval": {
            name: [round(float(row["auroc_low"]), 3), round(float(row["auroc_high"]), 3)]
            for name, row in best.iterrows()
        },
        "effectiveness": {f"{r.editor}/{r.attribute}": round(float(r.ratio), 3) for r in made.itertuples()},
        "effectiveness_interval": {
            f"{r.editor}/{r.attribute}": [round(float(r.low), 3), round(float(r.high), 3)] for r in made.itertuples()
        },
        "verdicts": {
            str(editor): {str(k): int(v) for k, v in group["verdict"].value_counts().items()}
            for editor, group in report.edges.groupby("editor")
        },
    }


if __name__ == "__main__":
    main()
