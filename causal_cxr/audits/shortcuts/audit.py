"""``ShortcutAudit``: which attributes of an image a classifier relies on that it should not."""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.audits.audit import Audit, named_editors
from causal_cxr.audits.measure import measure
from causal_cxr.audits.plans import Plan, plan
from causal_cxr.audits.report import Report
from causal_cxr.audits.shortcuts.alone import FOLDER, edited_alone
from causal_cxr.audits.shortcuts.analysis import Question
from causal_cxr.audits.shortcuts.carriers import declared_carriers
from causal_cxr.audits.shortcuts.decisions import Rule
from causal_cxr.audits.shortcuts.gains import (
    with_probabilities,
)
from causal_cxr.audits.shortcuts.leaks import manifestation_readings
from causal_cxr.audits.shortcuts.predictors import NAME, Predictions, Predictor, as_predictor
from causal_cxr.audits.shortcuts.report import ShortcutReport
from causal_cxr.audits.store import load_ledger, load_measurements
from causal_cxr.data.dataset import Dataset, UnreadableImages
from causal_cxr.data.patients import all_known
from causal_cxr.editors.editor import Editor
from causal_cxr.graphs import Binary, CausalGraph, Contrast
from causal_cxr.readers.reader import Reader

SEEN = 16  #: images whose scores are a model's fingerprint
MEASUREMENTS = "shortcut-measurements"  #: in the run folder, where an audit may have its ``measurements`` beside it


class ShortcutAudit:
    """What one target's classifiers rely on; :meth:`run` carries it out.

    The gain of a contrast is the paired change of the model's probability, edited minus matched null edit, with all other
    labelled attributes held (what the attribute does by way of labelled descendants is theirs; the total is told beside it).
    Which attributes *may* move the score is declared: diagnosis from images is anticausal (the disease causes the image), so
    no arrow decides it, and an ancestor of the target is a reliance to justify like any other. "Invariant" is counterfactual
    invariance (Veitch et al., NeurIPS 2021) on average, concluded by two one-sided tests only; ``absolute`` and ``moved`` tell
    of changes that cancel out.

    Args:
        graph: what the user declares; its attribute ``target`` is a labelled ``Binary``, present at the second level.
        target: that the models predict.
        readers: what reads the target or its manifestations, to show that an edit leaves them as they were; the other
            attributes, to show that an edit does what it should; and candidate carriers.
        manifestations: target -> attributes or concepts that it shows as: they are legitimate.
        interventions: contrasts; every labelled attribute's default one unless given. With the target's among them the score's
            slope on a manifestation can be told.
        alpha: of each test and of each verdict kind's false-discovery rate.
        smallest_effect: delta, a change of the predicted probability that counts.
        largest_leak: a change of a manifestation (a risk difference) that counts.
        threshold: of the decision: a probability, one a model, ``"youden"`` or ``"prevalence"``, see
            :func:`~causal_cxr.audits.shortcuts.decisions.threshold_of`. The last two are found on the audited images, which makes
            sensitivity and specificity look a little better than they are.
        prevalence: declared, of the target, for ``"prevalence"``.
        carriers: attribute -> hidden concepts that may carry its reliance. They are edited alone by editors that can set
            them. For other attributes all concepts that the readers read, that are no controls and that the edit moves.
        n_edited: edit at most this many images, of as many patients as there can be (seeded).

    Raises:
        ValueError: the target is no labelled ``Binary``; what is declared is not there or cannot be read; a number is out of
            range.
    """

    def __init__(
        self,
        graph: CausalGraph,
        target: str,
        readers: Sequence[Reader],
        *,
        manifestations: Mapping[str, Sequence[str]] | None = None,
        interventions: Sequence[Contrast] | None = None,
        alpha: float = 0.05,
        smallest_effect: float = 0.05,
        largest_leak: float = 0.10,
        threshold: float | Rule | Mapping[str, float] = "youden",
        prevalence: float | None = None,
        carriers: Mapping[str, Sequence[str | Binary]] | None = None,
        n_edited: int | None = None,
    ) -> None:
        refuse_target(graph, target)
        wrong = sorted(set(manifestations or {}) - {target})
        if wrong:
            raise ValueError(f"manifestations: {wrong} are not the target {target!r}; one audit has one target.")
        numbers = {"alpha": alpha, "smallest_effect": smallest_effect, "largest_leak": largest_leak}
        if prevalence is not None:
            numbers["prevalence"] = prevalence
        if isinstance(threshold, float | int):
            numbers["threshold"] = threshold
        elif isinstance(threshold, Mapping):
            numbers |= {f"threshold of {name}": value for name, value in threshold.items()}
        elif threshold not in ("youden", "prevalence"):
            raise ValueError(f"threshold is {threshold!r}; give a probability, 'youden' or 'prevalence'.")
        for name, value in numbers.items():
            if not 0 < value < 1:
                raise ValueError(f"{name} is {value}; it must lie between 0 and 1.")
        if any(reader.name == NAME for reader in readers):
            raise ValueError(f"No reader may be called {NAME!r}: that is the audited models; call it otherwise.")
        self._audit = Audit(graph, readers, interventions=interventions, n_edited=n_edited)
        strangers = [c.name for c in self._audit.interventions if c.attribute not in graph.labelled]
        if strangers:
            raise ValueError(f"interventions: {strangers} set no labelled attribute; those are {list(graph.labelled)}.")
        shown_as = tuple((manifestations or {}).get(target, ()))
        self.question = Question(
            graph=graph, target=target, readers=tuple(readers), manifestations=shown_as,
            interventions=self._audit.interventions, read_target=manifestation_readings(readers, target, shown_as),
            carriers=declared_carriers(carriers or {}, graph, readers), alpha=alpha, smallest_effect=smallest_effect,
            largest_leak=largest_leak, threshold=threshold, prevalence=prevalence,
        )  # fmt: skip

    def run(
        self,
        model: Any,
        editor: Editor | Mapping[str, Editor],
        dataset: Dataset,
        *,
        seed: int = 0,
        out: str | Path | None = None,
        batch_size: int = 64,
        scm: Any = None,
        report: Report | None = None,
    ) -> ShortcutReport:
        """Measure and decide.

        Args:
            model: anything that :func:`~causal_cxr.audits.shortcuts.predictors.as_predictor` takes, or several by name: images are
                edited once for all of them. Each is a family of its own.
            editor: one, or several by name.
            dataset: labelled images that neither editors, readers nor models were fitted on.
            seed: the only source of chance.
            out: run folder: the report is saved there, and a killed run goes on from its last shard. It may be an audit's:
                the page then links to the audit's.
            batch_size: images a shard; part of the specification, since it changes rounding.
            scm: attribute SCM of the graph; fitted to the dataset's table unless given.
            report: of an audit of these data, whose revealed edges name the candidate carriers in place of all concepts.

        Raises:
            ManifestMismatch: ``out`` holds another audit.
            ValueError: audited patients were used in a fit; a model's answer is of no use; no image can be edited.
        """
        asked = self.question
        editors = named_editors(editor)
        models = dict(model) if isinstance(model, Mapping) else {"model": model}
        if not models:
            raise ValueError("There is no model to audit; pass one, or {name: model}.")
        predictors = {name: as_predictor(m, asked.target) for name, m in models.items()}
        if isinstance(asked.threshold, Mapping) and set(asked.threshold) != set(predictors):
            raise ValueError(f"threshold names {sorted(asked.threshold)}; the models are {sorted(predictors)}.")
        self._audit.refuse_overlap(editors, dataset)
        self._refuse_trained_on(predictors, dataset)
        edited, excluded = self._audit.edited_rows(dataset, seed)
        if not len(edited):
            raise ValueError(
                f"No image has all labelled attributes {list(asked.graph.labelled)}, so none can be edited."
            )
        if scm is None:
            from causal_cxr.graphs.scm import SCM

            scm = SCM(asked.graph).fit(dataset.attributes)
        scored = Predictions(predictors, _first_images(dataset, edited))
        plans = {name: self._plan(e, dataset, edited, scm, seed, batch_size) for name, e in editors.items()}
        specification = self._specification(editors, dataset, edited, seed, batch_size, scored, plans)
        specification["audit"] = None if report is None else report.provenance.get("specification_hash")
        readers: tuple[Any, ...] = (*asked.readers, scored)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(out or temporary) / MEASUREMENTS
            measured = {k: v for k, v in specification.items() if k not in ("analysis", "audit")}
            for name, e in editors.items():
                measure(dataset, {name: e}, readers, plans[name], folder, manifest=measured)
            measurements, ledger = with_probabilities(load_measurements(folder), predictors), load_ledger(folder, {})
            readable = measurements.loc[(measurements["kind"] == "factual") & measurements["accepted"], "row"]
            rows = edited[np.isin(edited, readable)]
            alone = {
                name: edited_alone(
                    dataset, name, e, self._settable(e), readers, plans[name], rows, folder.parent / FOLDER
                )
                for name, e in editors.items()
            }
        able = {name: frozenset(e.attributes) for name, e in editors.items()}
        found = asked.answer(measurements, dataset.attributes, able, list(predictors), alone, report)
        provenance = {
            "title": f"Shortcuts of {', '.join(predictors) if len(predictors) <= 3 else f'{len(predictors)} models'}",
            "target": asked.target,
            "manifestations": list(asked.manifestations),
            "specification": specification,
            "specification_hash": hashlib.sha256(json.dumps(specification, sort_keys=True).encode()).hexdigest()[:16],
            "seed": seed,
            "dataset": {"images": len(dataset.attributes), "patients": int(dataset.patients.nunique())},
            "edited": len(edited),
            "excluded": excluded,
            "editors": {name: {"fingerprint": e.fingerprint, "semantics": e.semantics} for name, e in editors.items()},
            "models": {
                name: {"scale": p.scale, "trained_on": len(p.fitted_on) if all_known(p.fitted_on) else None}
                for name, p in predictors.items()
            },
            "ledger": ledger,
            "versions": {name: version(name) for name in ("causal_cxr", "torch", "numpy", "pandas", "statsmodels")},
        }
        made = ShortcutReport(**found, provenance=provenance)
        if out is not None:
            made.save(out)
        return made

    # -- measuring -----------------------------------------------------------------------------------------------------
    def _plan(self, editor: Editor, dataset: Dataset, edited: np.ndarray, scm: Any, seed: int, batch_size: int) -> Plan:
        """What one editor is asked: the contrasts that it can carry out."""
        able = [c for c in self.question.interventions if c.attribute in editor.attributes]
        if not able:
            raise ValueError(
                f"The editor can set {sorted(editor.attributes)}, and none of what is asked: "
                f"{sorted({c.attribute for c in self.question.interventions})}."
            )
        return plan(self.question.graph, dataset, able, edited, scm, seed=seed, batch_size=batch_size)

    def _settable(self, editor: Editor) -> list[Binary]:
        every = {attribute.name: attribute for group in self.question.carriers.values() for attribute in group}
        return [attribute for name, attribute in every.items() if name in editor.attributes]

    def _specification(
        self, editors: Mapping[str, Editor], dataset: Dataset, edited: np.ndarray, seed: int, batch_size: int,
        scored: Predictions, plans: Mapping[str, Plan],
    ) -> dict[str, Any]:  # fmt: skip
        asked = {
            name: {t.contrast.name: hashlib.sha256(pd.util.hash_pandas_object(t.total).to_numpy().tobytes()).hexdigest()[:16]
                   for t in made.targets}
            for name, made in plans.items()
        }  # fmt: skip
        return {
            "graph": self.question.graph.to_dict(),
            "targets": asked,
            "editors": {name: e.fingerprint for name, e in editors.items()},
            "readers": {r.name: r.fingerprint for r in self.question.readers},
            "models": {"names": list(scored.predictors), "scores": scored.fingerprint},
            "dataset": dataset.fingerprint,
            "rows": len(dataset.attributes),
            "edited": [int(row) for row in edited],
            "seed": seed,
            "batch_size": batch_size,
            "analysis": self.question.to_dict(),
        }

    def _refuse_trained_on(self, predictors: Mapping[str, Predictor], dataset: Dataset) -> None:
        audited = frozenset(dataset.patients.astype(str))
        for name, predictor in predictors.items():
            shared = sorted(audited & (predictor.fitted_on or frozenset()))
            if shared:
                raise ValueError(
                    f"The model {name!r} was trained on {len(shared)} of the audited patients ({shared[0]!r}, ...); audit "
                    "patients that it has not seen: Subset(dataset, rows)."
                )


def refuse_target(graph: CausalGraph, target: str) -> None:
    """Refuse what no classifier of an audit can predict.

    Raises:
        ValueError: no labelled ``Binary`` attribute of the graph.
    """
    if target not in graph.labelled or not isinstance(graph.attributes[target], Binary):
        binary = [name for name in graph.labelled if isinstance(graph.attributes[name], Binary)]
        raise ValueError(f"The target {target!r} is no labelled Binary attribute of the graph; those are {binary}.")


def _first_images(dataset: Dataset, rows: np.ndarray) -> Tensor:
    """Of the first :data:`SEEN` rows those that can be read; the measurement tells of the others."""
    rows = rows[:SEEN]
    try:
        return dataset.images(rows)
    except UnreadableImages as error:
        good = rows[~np.isin(rows, list(error.problems))]
        return dataset.images(good) if len(good) else torch.empty(0, 1, 1, 1)
