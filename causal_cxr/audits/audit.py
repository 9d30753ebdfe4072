"""``Audit``: declare, intervene, read, measure, decide, report."""

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from causal_cxr.audits import unnamed as searching
from causal_cxr.audits.analyse import analyse
from causal_cxr.audits.anytime import Anytime, StoppingRule
from causal_cxr.audits.doses import dose_curves, dose_responses, ignored
from causal_cxr.audits.limits import limits
from causal_cxr.audits.measure import measure
from causal_cxr.audits.observational.study import observational_side
from causal_cxr.audits.plans import plan
from causal_cxr.audits.report import ComponentPicture, GalleryItem, Report
from causal_cxr.audits.robustness import robustness
from causal_cxr.audits.scales import Scale, smallest_that_counts
from causal_cxr.audits.store import FACTUAL, load_composition, load_gallery, load_ledger, load_looks, load_measurements
from causal_cxr.audits.table_search import TableSearch, refuse_unsearchable, search_and_fuse
from causal_cxr.audits.trials import DEFAULT, Trials, trial_settings
from causal_cxr.audits.unedited import Unedited
from causal_cxr.audits.unnamed import UnnamedSearch
from causal_cxr.data.dataset import Dataset
from causal_cxr.data.patients import all_known
from causal_cxr.editors.editor import Described, Editor
from causal_cxr.graphs import CausalGraph, Contrast, default_contrasts
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality
from causal_cxr.readers.reader import Reader
from causal_cxr.readers.redundancy import kinship

#: What verdicts hang on: change these, and nothing is measured again, but where an audit stops by its verdicts.
DECIDING = ("alpha", "smallest_effect", "concepts", "labelled_outcomes", "labels")
#: What is told beside them; of ``trials`` each is done anew where it changes, and nothing else.
ASIDE = ("may_touch", "observational", "discovery", "trials")


@runtime_checkable
class Movable(Protocol):
    """An editor or reader that can compute elsewhere than on the CPU; images come and go on the CPU all the same."""

    def to(self, device: str) -> Any:
        """Move the networks."""
        ...


class Audit:
    """An audit's frozen specification; :meth:`run` carries it out.

    Args:
        graph: what the user declares about the labelled attributes.
        readers: what reads images; names are unique.
        interventions: contrasts; every labelled attribute's default one unless given.
        alpha: of each test and of each verdict kind's false-discovery rate.
        smallest_effect: delta, the risk difference that matters.
        concepts: names of those to decide about, of what the readers read; all unless given. All are measured.
        n_edited: edit at most this many images, of as many patients as there can be (seeded); every image serves the unedited side.
        labelled_outcomes: whether what an attribute does to the other labelled attributes is decided about too, where a
            concept reads them.
        trials: how many images are edited back and at other doses, which tells the editors' limits and whether effects grow
            with the dose; None: nothing is tried, and limits that rest on it are unknown.
        steps: of continuous attributes, other shifts to ask for, as multiples of the contrast's.
        may_touch: attribute -> regions of the image (``corners``, ``border``, ``markers``, ``lettering``) that its edit may
            change; elsewhere such a change is a limit of the editor (:func:`causal_cxr.audits.limits.limits`).
        observational: whether estimators are set side by side, refuted and doubted on unedited images
            (:func:`causal_cxr.audits.observational_side`); takes some seconds a pair of contrast and concept.
        discovery: searches the unedited images' table, joins what is found with the declaration and what edits reveal, and
            falsifies the whole (:class:`causal_cxr.audits.TableSearch`, which tells what it costs); nothing unless given.
        stopping: makes no more edits than the verdicts need: patients in random order, evidence that may be looked at any time
            (:mod:`causal_cxr.audits.anytime`). All edits are made unless given.
        unnamed: looks for concepts without a name, too: on one half of the patients, frozen, decided about on the other
            half only, in families of their own. Features are measured in the same pass.

    Raises:
        ValueError: no reader, two readers of one name, a concept that none reads, a contrast asked for twice, both of ``stopping`` and ``unnamed``, or
            a ``discovery`` with too little to search.
    """

    def __init__(
        self,
        graph: CausalGraph,
        readers: Sequence[Reader],
        *,
        interventions: Sequence[Contrast] | None = None,
        alpha: float = 0.05,
        smallest_effect: float = 0.10,
        n_edited: int | None = None,
        concepts: Sequence[str] | None = None,
        labelled_outcomes: bool = False,
        unnamed: UnnamedSearch | None = None,
        trials: Trials | None = DEFAULT,
        steps: Sequence[float] = (),
        may_touch: Mapping[str, Collection[str]] | None = None,
        observational: bool = False,
        discovery: TableSearch | None = None,
        stopping: Anytime | None = None,
    ) -> None:
        names = [reader.name for reader in readers]
        taken = sorted({searching.NAME, searching.COLUMNS} & set(names))
        if unnamed is not None and taken:
            raise ValueError(f"A search for unnamed concepts takes the names {taken}; call the readers otherwise.")
        if not names or len(set(names)) != len(names):
            raise ValueError(f"An audit needs readers with different names, got {names}.")
        known = {concept.name for reader in readers for concept in reader.concepts}
        unknown = sorted(set(concepts or ()) - known)
        if unknown:
            raise ValueError(f"No reader reads {unknown}; they read {sorted(known)}.")
        asked = [contrast.name for contrast in interventions or ()]
        twice = sorted({name for name in asked if asked.count(name) > 1})
        if twice:
            raise ValueError(f"interventions= asks for {twice} more than once; give each contrast once.")
        if stopping is not None and unnamed is not None:
            raise ValueError("A search for unnamed concepts needs every edit; leave out unnamed= or stopping=.")
        if discovery is not None:
            hidden = {concept.name for reader in readers for concept in reader.concepts if concept.attribute is None}
            refuse_unsearchable(graph, hidden & set(concepts or known), discovery)
        self.graph, self.readers = graph, tuple(readers)
        self.concepts = None if concepts is None else frozenset(concepts)
        self.interventions = tuple(interventions or default_contrasts(graph))
        self.alpha, self.smallest_effect, self.n_edited = alpha, smallest_effect, n_edited
        self.labelled_outcomes, self.unnamed, self.stopping = labelled_outcomes, unnamed, stopping
        self.trials, self.steps = trials, tuple(steps)
        self.may_touch, self.observational, self.discovery = may_touch, observational, discovery

    def run(
        self,
        editor: Editor | Mapping[str, Editor],
        dataset: Dataset,
        *,
        seed: int = 0,
        device: str | None = None,
        batch_size: int = 64,
        out: str | Path | None = None,
        scm: Any = None,
        labels: pd.DataFrame | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Report:
        """Measure and analyse.

        Args:
            editor: one, or several by name; several are one family and one report.
            dataset: to audit; patients that an editor or reader was fitted on are refused.
            seed: the only source of chance.
            device: such as ``"cuda"``: editors and readers that can be moved (:class:`Movable`) compute there.
            batch_size: images a shard; part of the specification, since it changes rounding.
            out: run folder; a killed run with the same specification goes on from its last shard. A temporary folder
                unless given.
            scm: attribute SCM of the graph; fitted to the dataset's table unless given.
            labels: what is known of concepts in some of the images: a row an image of the dataset, a column a concept that a
                reader reads, 0 or 1 (or a share between), NaN where nobody looked. Adjusted and marginal effects on these concepts
                are then prediction-powered: the labels correct the reader on the audited images themselves. Which
                images are labelled must not hang on the concept; best they are drawn at random.
            provenance: more to record in the report.

        Raises:
            ManifestMismatch: ``out`` holds another audit.
            ValueError: an editor can set no attribute that is asked about; audited patients overlap with those of a fit; labels of what no reader reads, of other rows, out of
                range, or of an audit that stops.
        """
        editors = named_editors(editor)
        self._check_settable(editors)
        self._check_labels(labels, dataset)
        self.refuse_overlap(editors, dataset)
        if device is not None:
            for model in (*editors.values(), *self.readers):
                if isinstance(model, Movable):
                    model.to(device)
        if scm is None:
            from causal_cxr.graphs.scm import SCM

            scm = SCM(self.graph).fit(dataset.attributes)
        edited, excluded = self.edited_rows(dataset, seed)
        made = plan(
            self.graph, dataset, self.interventions, edited, scm, seed=seed, batch_size=batch_size, steps=self.steps
        )
        specification: dict[str, Any] = {
            "graph": self.graph.to_dict(),
            "interventions": [c.name for c in self.interventions],
            "targets": hashlib.sha256(
                b"".join(pd.util.hash_pandas_object(t.total).to_numpy().tobytes() for t in made.targets)
            ).hexdigest()[:16],
            "concepts": None if self.concepts is None else sorted(self.concepts),
            "alpha": self.alpha,
            "smallest_effect": self.smallest_effect,
            "labelled_outcomes": self.labelled_outcomes,
            "trials": None if self.trials is None else {**asdict(self.trials), "doses": list(self.trials.doses)},
            "steps": list(self.steps),
            "may_touch": None if self.may_touch is None else {k: sorted(v) for k, v in self.may_touch.items()},
            "observational": self.observational,
            "discovery": None if self.discovery is None else asdict(self.discovery),
            "labels": None if labels is None else {str(name): _digest(labels[name]) for name in labels},
            "editors": {name: e.fingerprint for name, e in editors.items()},
            "readers": {r.name: r.fingerprint for r in self.readers},
            "dataset": dataset.fingerprint,
            "rows": len(dataset.attributes),
            "edited": [int(row) for row in edited],
            "seed": seed,
            "batch_size": batch_size,
        }
        readers = self.readers
        if self.unnamed is not None:
            readers = (*readers, self.unnamed.columns())
            specification["readers"][searching.COLUMNS] = readers[-1].fingerprint
        quality = {r.name: r.quality for r in self.readers}
        asked = {r.name: self._asked(r) for r in self.readers}
        rule: StoppingRule | None = None
        again: tuple[str, ...] = (*DECIDING, *ASIDE)
        if self.stopping is not None:
            rule = StoppingRule(
                self.stopping, made, tuple(editors), dataset.patients, dataset.attributes, self.graph, self.interventions,
                asked, quality, alpha=self.alpha, smallest_effect=self.smallest_effect,
                labelled_outcomes=self.labelled_outcomes,
            )  # fmt: skip
            specification["stopping"], again = asdict(self.stopping), ASIDE
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(out or temporary) / "measurements"
            images = len(made.rows) + len(editors) * (len(edited) + (self.trials.composed if self.trials else 0))
            with _Progress(images) as progress:
                analysis_free = {k: v for k, v in specification.items() if k not in again}
                measure(
                    dataset, editors, readers, made, folder, manifest=analysis_free, progress=progress,
                    trials=self.trials, stopping=rule,
                )  # fmt: skip
            measurements = load_measurements(folder)
            tried = trial_settings(self.trials, made.ladders)
            composition, ledger = load_composition(folder, tried), load_ledger(folder, tried)
            looks = load_looks(folder, tried)
            gallery = tuple(GalleryItem(**item) for item in load_gallery(folder))
        kin = [kinship(one, other) for one, other in combinations(self.readers, 2)]
        apart = {frozenset((k.reader, k.other)) for k in kin if k.apart}
        options: dict[str, Any] = {"alpha": self.alpha, "smallest_effect": self.smallest_effect, "apart": apart}
        analysis = rule.analysis(measurements) if rule is not None else analyse(
            measurements, dataset.attributes, self.graph, self.interventions, asked, quality,
            labelled_outcomes=self.labelled_outcomes, labels=labels, **options,
        )  # fmt: skip
        edges, pictures, more = analysis.edges, tuple[ComponentPicture, ...](), dict[str, Any]()
        if rule is not None:
            more["stopping"] = rule.record(measurements)
        judged = (self.graph, self.interventions, asked, quality)
        limited = limits(
            measurements,
            looks,
            dataset.attributes,
            *judged,
            smallest_effect=self.smallest_effect,
            may_touch=self.may_touch,
        )
        responses = dose_responses(looks.doses, asked, quality, smallest_effect=self.smallest_effect, alpha=self.alpha)
        curves = dose_curves(looks.doses, asked, quality)
        more["refused_trials"] = {name: dict(said) for name, said in looks.refused.items() if said}
        more["doses_ignored"] = ignored(looks.doses)
        described = robustness(
            measurements, analysis.edges, self.interventions, quality, alpha=self.alpha, seed=seed,
            stopped=rule is not None,
        )  # fmt: skip
        if self.unnamed is not None:
            found = searching.search(measurements, dataset, self.graph, made, self.readers, self.unnamed, seed=seed)
            specification["unnamed"] = searching.specification(self.unnamed, found)
            other = searching.on_others(measurements, found)
            if found.reader.components:
                labelled = {name: tuple(c for c in group if c.attribute is not None) for name, group in asked.items()}
                both = {**quality, searching.NAME: found.reader.quality}
                components = analyse(other, dataset.attributes, self.graph, self.interventions,
                                     {**labelled, searching.NAME: found.reader.concepts}, both, **options)  # fmt: skip
                edges, quality = pd.concat([edges, components.edges], ignore_index=True), both
                found, pictures = searching.illustrate(found, other, dataset, editors, made, self.unnamed)
            more["unnamed"] = found.record()
            if out is not None:
                found.reader.save(Path(out) / searching.NAME)
        unreadable = measurements[(measurements["kind"] == "factual") & ~measurements["accepted"]]
        record = {
            "title": "Audit",
            "specification": specification,
            "specification_hash": hashlib.sha256(json.dumps(specification, sort_keys=True).encode()).hexdigest()[:16],
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "seed": seed,
            "dataset": {"images": len(dataset.attributes), "patients": int(dataset.patients.nunique())},
            "edited": len(edited),
            "editors": {
                name: {"fingerprint": e.fingerprint, "semantics": e.semantics,
                       "fitted_on": len(e.fitted_on) if all_known(e.fitted_on) else None,
                       "method": e.method if isinstance(e, Described) else None}
                for name, e in editors.items()
            },
            "kinship": [{"readers": [k.reader, k.other], "apart": k.apart, "why": list(k.why)} for k in kin],
            "ledger": ledger,
            "excluded": excluded,
            "unreadable": {str(row): why for row, why in zip(unreadable["row"], unreadable["reason"], strict=True)},
            "rejected": int((~measurements.loc[measurements["kind"] != "factual", "accepted"]).sum()),
            "versions": {name: version(name) for name in ("causal_cxr", "torch", "numpy", "pandas", "statsmodels", "dowhy")},
            **more,
            **(provenance or {}),
        }  # fmt: skip
        seen = Unedited.of_audit(dataset, measurements, edges, self.readers)
        report = Report(
            graph=self.graph, edges=edges, second_readings=analysis.second_readings,
            falsification=analysis.falsification, effectiveness=analysis.effectiveness, leak=analysis.leak,
            acceptance=analysis.acceptance, composition=composition, heterogeneity=analysis.heterogeneity,
            reciprocal=analysis.reciprocal, limits=limited, dose_responses=responses, dose_curves=curves, robustness=described, quality=quality, gallery=gallery, measurements=measurements,
            provenance=record, pictures=pictures,
            observational=observational_side(
                self.graph, seen.table, seen.patients.to_numpy(), seen.scores, self.interventions, reads=seen.reads,
                scales=self._scales(seen, quality), delta=self.smallest_effect, alpha=self.alpha, seed=seed,
            ) if self.observational else None,
            fused=None if self.discovery is None else search_and_fuse(
                self.graph, seen, edges, self.discovery, alpha=self.alpha, seed=seed
            ),
        )  # fmt: skip
        if out is not None:
            report.save(out)
        return report

    def _scales(self, seen: Unedited, quality: Mapping[str, ReaderQuality]) -> dict[tuple[str, str], Scale]:
        """Contrast and concept -> what the scores of who reads it best are worth, as in the cells."""
        found = {}
        for contrast in self.interventions:
            for concept, reader in seen.readers.items():
                prevalence = quality[reader].prevalence(concept, float(seen.scores[concept].mean()))
                found[contrast.name, concept] = Scale.of(
                    quality[reader], concept, contrast, self.graph.attributes[contrast.attribute],
                    smallest_that_counts(prevalence, self.smallest_effect),
                )  # fmt: skip
        return found

    def _asked(self, reader: Reader) -> tuple[Concept, ...]:
        """Concepts to decide about, and those that show labelled attributes: they judge the editor."""
        chosen = self.concepts
        return tuple(c for c in reader.concepts if chosen is None or c.name in chosen or c.attribute is not None)

    def _check_settable(self, editors: Mapping[str, Editor]) -> None:
        asked = {contrast.attribute for contrast in self.interventions}
        for name, editor in editors.items():
            if not asked & editor.attributes:
                raise ValueError(
                    f"Editor {name!r} can set {sorted(editor.attributes)}, and none of {sorted(asked)}, which the audit asks "
                    "about; give one that can, or other interventions=."
                )

    def _check_labels(self, labels: pd.DataFrame | None, dataset: Dataset) -> None:
        if labels is None:
            return
        if self.stopping is not None:
            raise ValueError("Labels of concepts serve fixed-n estimates; leave out labels= or stopping=.")
        hidden = {c.name for reader in self.readers for c in reader.concepts if c.attribute is None}
        unknown = sorted(set(map(str, labels)) - hidden)
        if unknown:
            raise ValueError(f"labels: {unknown} are concepts that no reader reads; they read {sorted(hidden)}.")
        if not labels.index.equals(pd.RangeIndex(len(dataset.attributes))):
            raise ValueError(
                f"labels: need a row for each of the {len(dataset.attributes)} images, in their order and numbered from 0, NaN "
                "where nobody looked; use labels.reindex(range(n))."
            )
        beyond = [str(name) for name in labels if not labels[name].dropna().astype(float).between(0, 1).all()]
        if beyond:
            raise ValueError(f"labels: {beyond} have values outside [0, 1]; write 1 for present and 0 for absent.")

    def edited_rows(self, dataset: Dataset, seed: int) -> tuple[np.ndarray, dict[str, int]]:
        """Rows to edit: none with a missing labelled attribute; of as many patients as there can be, in a seeded order.

        A second image of a patient costs as much as a first one of another, and tells less: nobody is edited twice before
        everybody is once.
        """
        table = self.graph.coerce(dataset.attributes)
        missing = table.isna().any(axis=1).to_numpy()
        excluded = {f"missing {name}": int(n) for name, n in table.isna().sum().items() if n}
        rows = np.flatnonzero(~missing)
        if self.stopping is not None:
            return self.stopping.order(rows, dataset.patients.to_numpy()[rows], self.n_edited, seed), excluded
        if self.n_edited is not None and self.n_edited < len(rows):
            patients = dataset.patients.to_numpy()[rows]
            rng = np.random.default_rng([seed, 1])
            order = rng.permutation(pd.unique(patients))
            rank = pd.Series(np.arange(len(order)), index=order)[patients].to_numpy()
            turn = pd.Series(rng.uniform(size=len(rows))).groupby(rank).rank().to_numpy()
            rows = rows[np.lexsort((rank, turn))][: self.n_edited]
        return np.sort(rows), excluded

    def refuse_overlap(self, editors: Mapping[str, Editor], dataset: Dataset) -> None:
        audited = frozenset(dataset.patients.astype(str))
        models: dict[str, Editor | Reader] = {
            **{f"editor {n!r}": e for n, e in editors.items()},
            **{f"reader {r.name!r}": r for r in self.readers},
            **({"the features of the unnamed": self.unnamed.columns()} if self.unnamed else {}),
        }
        for name, model in models.items():
            shared = audited & (model.fitted_on or frozenset())
            if shared:
                raise ValueError(
                    f"{len(shared)} audited patients ({sorted(shared)[0]!r}, ...) were used to fit {name}; audit patients "
                    "that no model has seen: Subset(dataset, rows)."
                )


def named_editors(editor: Editor | Mapping[str, Editor]) -> dict[str, Editor]:
    """Editors by name; one alone is ``editor``.

    Raises:
        ValueError: a name that no folder can have.
    """
    editors = dict(editor) if isinstance(editor, Mapping) else {"editor": editor}
    bad = [name for name in editors if not re.fullmatch(r"[\w][\w .-]*", name) or name == FACTUAL]
    if bad:
        raise ValueError(
            f"Editors cannot be called {bad}: names are folders, so use letters, digits, '_', '-', '.', not first a "
            f"dot, and not {FACTUAL!r}."
        )
    return editors


def _digest(column: pd.Series) -> str:
    return hashlib.sha256(column.to_numpy(dtype=float).tobytes()).hexdigest()[:16]


class _Progress:
    """A bar on a terminal; silence elsewhere."""

    def __init__(self, images: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=images)

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, what: str, images: int) -> None:
        self._bar.update(self._task, advance=images, description=what)
