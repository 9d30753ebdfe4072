"""The demonstration: audit editors on a phantom world whose truth is known, and compare."""

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.audit import Audit
from causal_cxr.audits.fidelity import counterfactual_errors, error_ratios
from causal_cxr.audits.report import Report
from causal_cxr.audits.trials import Trials
from causal_cxr.data.phantom import Phantom
from causal_cxr.data.whole_file import write_json
from causal_cxr.editors.editor import Editor
from causal_cxr.graphs import default_contrasts
from causal_cxr.readers.reader import Reader

WORLD = "portable"
UNEDITED = 4_000  #: images of the unedited side
TRIALS = Trials(composed=16, reversed=8)  #: few: a demonstration is to be over soon
SCORED = 32  #: edited images scored against true counterfactuals
DEFAULT_EDITORS = ("diffusion", "scm")
FOUND = ("causes", "mediated")  #: true relations that the rival without an editor finds alike


def run_demo(out: Path, editors: Sequence[str] = DEFAULT_EDITORS, images: int = 256, seed: int = 0) -> dict[str, Any]:
    """Audit on the world ``portable`` and write the report and ``summary.json``.

    Args:
        out: run folder; a killed run goes on.
        editors: of ``oracle`` (the truth: validates the statistics), ``diffusion`` and ``scm`` (both shipped); the
            summary's figures of the first have plain names, those of others end in ``_<editor>``.
        images: to edit; the unedited side has :data:`UNEDITED`.
        seed: of the phantom and the audit.

    Returns:
        the summary: planted, found and false hidden edges by editor, counterfactual error ratios, composition.
    """
    from causal_cxr.readers import CLIPReader, ProbeReader

    begun = time.monotonic()
    phantom = Phantom(max(UNEDITED, images), WORLD, seed=seed)
    made: dict[str, Editor] = {name: _editor(name, phantom) for name in editors}
    readers: list[Reader] = [CLIPReader.from_shipped(), ProbeReader.from_shipped()]
    contrasts = default_contrasts(phantom.graph, phantom.world.content.shifts)
    truth = phantom.world.truth
    names = list(phantom.hidden.columns)
    audit = Audit(phantom.graph, readers, interventions=contrasts, n_edited=images, trials=TRIALS)
    report = audit.run(
        made, phantom, seed=seed, out=out,
        provenance={"title": f"Phantom world '{WORLD}'", "truth": truth.to_dict("records")},
    )  # fmt: skip
    auroc = pd.DataFrame({r.name: r.quality.concepts.loc[names, "auroc"] for r in readers})
    rows = np.array(report.provenance["specification"]["edited"])
    summary: dict[str, Any] = {
        "hidden_planted": int((truth["relation"] == "causes").sum()),
        "images": len(rows),
        "concepts": len(names),
        "reader_auroc_min": float(auroc.max(axis=1).min()),  # each concept is read by the reader that reads it best
        "reader_auroc_min_by_reader": {str(name): float(worst) for name, worst in auroc.min().items()},
    }
    for name, editor in made.items():
        scores = score_edges(report, truth, name)
        suffix = "" if name == editors[0] else f"_{name}"
        summary |= {f"{key}{suffix}": value for key, value in scores.items()}
        ratios = error_ratios(counterfactual_errors(editor, phantom, rows[:SCORED], contrasts, seed=seed)).round(4)
        summary[f"error_ratio{suffix}"] = ratios["ratio"].to_dict()
        summary[f"error_ratio_interval{suffix}"] = dict(
            zip(ratios.index, ratios[["low", "high"]].to_numpy().tolist(), strict=True)
        )
        composed = report.composition[report.composition["editor"] == name].set_index("cycles")["mae"]
        summary[f"composition_10{suffix}"] = float(composed[10])
    summary |= {"rival": score_rival(report, truth, editors[0]), "editors": list(editors)}
    summary["seconds"] = round(time.monotonic() - begun, 1)
    summary["peak_rss_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)
    write_json(out / "summary.json", summary)
    return summary


def score_edges(report: Report, truth: pd.DataFrame, editor: str) -> dict[str, int]:
    """Verdicts against the world's relations.

    ``hidden_found``: planted pairs called ``hidden``. ``hidden_false``: pairs called ``hidden`` that are neither
    planted nor reached through labelled mediators (those are right as ``mediated``, and counted as
    ``mediated_called_hidden`` otherwise).
    """
    mine = _beside(report, truth, editor)
    hidden = mine["verdict"] == "hidden"
    return {
        "hidden_found": int((hidden & (mine["relation"] == "causes")).sum()),
        "hidden_false": int((hidden & ~mine["relation"].isin(FOUND)).sum()),
        "mediated_called_hidden": int((hidden & (mine["relation"] == "mediated")).sum()),
        "undecided": int((mine["verdict"] == "undecided").sum()),
    }


def score_rival(report: Report, truth: pd.DataFrame, editor: str) -> dict[str, int]:
    """The strongest rival that needs no editor: adjusted associations alone, same readers, same correction.

    It cannot tell a hidden relation from a mediated one, so both count as found, apart.
    """
    mine = _beside(report, truth, editor)
    claimed = mine["rival_q"] <= report.provenance["specification"]["alpha"]
    relation = mine["relation"].where(claimed)
    return {
        "hidden_found": int((relation == "causes").sum()),
        "mediated_found": int((relation == "mediated").sum()),
        "false": int((claimed & ~mine["relation"].isin(FOUND)).sum()),
    }


def _beside(report: Report, truth: pd.DataFrame, editor: str) -> pd.DataFrame:
    """Edges of one editor with the true relations."""
    mine = report.edges[report.edges["editor"] == editor]
    return mine.merge(truth[["contrast", "concept", "relation"]], on=["contrast", "concept"], validate="one_to_one")


def _editor(name: str, phantom: Phantom) -> Editor:
    if name == "oracle":
        from causal_cxr.editors import OracleEditor

        return OracleEditor(phantom)
    if name == "diffusion":
        from causal_cxr.editors import DiffusionEditor

        return DiffusionEditor.from_shipped()
    if name == "scm":
        from causal_cxr.editors import SCMEditor

        return SCMEditor.from_shipped()
    raise ValueError(f"There is no demo editor {name!r}; choose from oracle, diffusion, scm.")
