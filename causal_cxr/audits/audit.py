"""``Audit``: declare, intervene, read, measure, decide, report."""

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from causal_cxr.audits import unnamed as searching
from causal_cxr.audits.analyse import analyse
from causal_cxr.audits.measure import (
    FACTUAL,
    load_composition,
    load_gallery,
    load_ledger,
    load_measurements,
    measure,
    plan,
)
from causal_cxr.audits.report import ComponentPicture, GalleryItem, Report
from causal_cxr.audits.unnamed import UnnamedSearch
from causal_cxr.data.dataset import Dataset
from causal_cxr.editors.editor import Editor
from causal_cxr.graphs import CausalGraph, Contrast, default_contrasts
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.reader import Reader
from causal_cxr.readers.redundancy import kinship

ANALYSIS_ONLY = (
    "alpha",
    "smallest_effect",
    "concepts",
    "labelled_outcomes",
)  #: change these, and nothing is measured again


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
        n_edited: edit at most this many images (drawn by patient, seeded); every image serves the unedited side.
        labelled_outcomes: whether what an attribute does to the other labelled attributes is decided about too, where a
            concept reads them.
        unnamed: looks for concepts without a name, too: on one half of the patients, frozen, decided about on the other
            half only, in families of their own. Features are measured in the same pass.

    Raises:
        ValueError: no reader, two readers of one name, or a concept that none reads.
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
        self.graph, self.readers = graph, tuple(readers)
        self.concepts = None if concepts is None else frozenset(concepts)
        self.interventions = tuple(interventions or default_contrasts(graph))
        self.alpha, self.smallest_effect, self.n_edited = alpha, smallest_effect, n_edited
        self.labelled_outcomes, self.unnamed = labelled_outcomes, unnamed

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
            provenance: more to record in the report.

        Raises:
            ManifestMismatch: ``out`` holds another audit.
            ValueError: audited patients overlap with those of a fit.
        """
        editors = dict(editor) if isinstance(editor, Mapping) else {"editor": editor}
        bad = [name for name in editors if not re.fullmatch(r"[\w][\w .-]*", name) or name == FACTUAL]
        if bad:
            raise ValueError(
                f"Editors cannot be called {bad}: names are folders, so use letters, digits, '_', '-', '.', not first a "
                f"dot, and not {FACTUAL!r}."
            )
        self._refuse_overlap(editors, dataset)
        if device is not None:
            for model in (*editors.values(), *self.readers):
                if isinstance(model, Movable):
                    model.to(device)
        if scm is None:
            from causal_cxr.graphs.scm import SCM

            scm = SCM(self.graph).fit(dataset.attributes)
        edited, excluded = self._edited(dataset, seed)
        made = plan(self.graph, dataset, self.interventions, edited, scm, seed=seed, batch_size=batch_size)
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
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(out or temporary) / "measurements"
            images = len(made.rows) + len(editors) * (len(edited) + 32)
            with _Progress(images) as progress:
                analysis_free = {k: v for k, v in specification.items() if k not in ANALYSIS_ONLY}
                measure(dataset, editors, readers, made, folder, manifest=analysis_free, progress=progress)
            measurements = load_measurements(folder)
            composition, ledger = load_composition(folder), load_ledger(folder)
            gallery = tuple(GalleryItem(**item) for item in load_gallery(folder))
        quality = {r.name: r.quality for r in self.readers}
        asked = {r.name: self._asked(r) for r in self.readers}
        kin = [kinship(one, other) for one, other in combinations(self.readers, 2)]
        apart = {frozenset((k.reader, k.other)) for k in kin if k.apart}
        options: dict[str, Any] = {"alpha": self.alpha, "smallest_effect": self.smallest_effect, "apart": apart}
        analysis = analyse(
            measurements, dataset.attributes, self.graph, self.interventions, asked, quality,
            labelled_outcomes=self.labelled_outcomes, **options,
        )  # fmt: skip
        edges, pictures, more = analysis.edges, tuple[ComponentPicture, ...](), dict[str, Any]()
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
                       "fitted_on": None if e.fitted_on is None else len(e.fitted_on)}
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
        report = Report(
            graph=self.graph, edges=edges, second_readings=analysis.second_readings,
            falsification=analysis.falsification, effectiveness=analysis.effectiveness, leak=analysis.leak,
            acceptance=analysis.acceptance, composition=composition, heterogeneity=analysis.heterogeneity,
            reciprocal=analysis.reciprocal, quality=quality, gallery=gallery, measurements=measurements,
            provenance=record, pictures=pictures,
        )  # fmt: skip
        if out is not None:
            report.save(out)
        return report

    def _asked(self, reader: Reader) -> tuple[Concept, ...]:
        """Concepts to decide about, and those that show labelled attributes: they judge the editor."""
        chosen = self.concepts
        return tuple(c for c in reader.concepts if chosen is None or c.name in chosen or c.attribute is not None)

    def _edited(self, dataset: Dataset, seed: int) -> tuple[np.ndarray, dict[str, int]]:
        """Rows to edit: none with a missing labelled attribute; whole patients in a seeded order."""
        table = self.graph.coerce(dataset.attributes)
        missing = table.isna().any(axis=1).to_numpy()
        excluded = {f"missing {name}": int(n) for name, n in table.isna().sum().items() if n}
        rows = np.flatnonzero(~missing)
        if self.n_edited is not None and self.n_edited < len(rows):
            patients = dataset.patients.to_numpy()[rows]
            order = np.random.default_rng([seed, 1]).permutation(pd.unique(patients))
            rank = pd.Series(np.arange(len(order)), index=order)
            rows = rows[np.argsort(rank[patients].to_numpy(), kind="stable")][: self.n_edited]
        return np.sort(rows), excluded

    def _refuse_overlap(self, editors: Mapping[str, Editor], dataset: Dataset) -> None:
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
