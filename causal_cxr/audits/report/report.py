"""``Report``: a frozen record of an audit, saved whole and read back exactly."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.falsification import GraphTest
from causal_cxr.audits.fusion import Fused
from causal_cxr.audits.observational.study import ObservationalSide
from causal_cxr.audits.report.frames import frame_from_json, frame_to_json, strict
from causal_cxr.audits.table_search import Fusion
from causal_cxr.data.whole_file import whole_file
from causal_cxr.graphs import CausalGraph
from causal_cxr.graphs.discovery.discovered import Discovered
from causal_cxr.readers.quality import ReaderQuality

REVEALED = ("hidden", "mediated")  #: verdicts that draw an edge the graph does not have
FRAMES = ("edges", "second_readings", "falsification", "effectiveness", "leak", "acceptance", "composition", "heterogeneity",
          "reciprocal", "limits", "dose_responses", "dose_curves", "robustness")  # fmt: skip
PICTURES = ("factual", "null", "counterfactual")  #: of a gallery item
SHORTCUTS = "shortcuts.html"  #: a shortcut audit's page, where one lies in the same folder
FORMAT = 5  #: of report.json


@dataclass(frozen=True)
class GalleryItem:
    """One edited image beside its original and its null edit, ``(h, w)`` uint8 each."""

    editor: str
    contrast: str
    attribute: str
    row: int
    factual: np.ndarray
    null: np.ndarray
    counterfactual: np.ndarray


@dataclass(frozen=True)
class ComponentPicture:
    """An edit in which a component without a name changed most, ``(h, w)`` uint8 each; its scores in null edit and edit."""

    component: str
    editor: str
    contrast: str
    row: int
    before: float
    after: float
    factual: np.ndarray
    null: np.ndarray
    counterfactual: np.ndarray


@dataclass(frozen=True)
class Report:
    """What an audit found, and how to reproduce it.

    Attributes:
        graph: the declared graph.
        edges: one row an editor x contrast x concept; see :func:`causal_cxr.audits.analyse.analyse`.
        second_readings: what the readers that were not chosen say of the same edges.
        falsification: the graph's implied independences, tested on the table.
        effectiveness, leak, acceptance, composition: the editors' limits.
        heterogeneity: whether editors, and readers, tell the same effects; reciprocal: editing A and reading B, and the
            other way round (:mod:`causal_cxr.audits.heterogeneity`).
        limits: of the editors, by attribute and group of patients (:func:`causal_cxr.audits.limits.limits`).
        dose_responses, dose_curves: :mod:`causal_cxr.audits.doses`; empty unless doses were asked for.
        robustness: other summaries of the same edits (:func:`causal_cxr.audits.robustness.robustness`).
        quality: by reader.
        gallery: of the first edited images.
        measurements: the table that every number can be recomputed from.
        provenance: specification and its hash, versions, fingerprints, seed, ledger, exclusions. Optional: ``left_out``
            (file or concept -> why it took no part), ``truth`` (a world's relations) and ``unnamed`` (what a search for
            concepts without a name found).
        pictures: of these.
        observational: more of what unedited images say, where it was asked for.
        fused: declaration, table and edits in one graph, where the table was searched.
    """

    graph: CausalGraph
    edges: pd.DataFrame
    second_readings: pd.DataFrame
    falsification: pd.DataFrame
    effectiveness: pd.DataFrame
    leak: pd.DataFrame
    acceptance: pd.DataFrame
    composition: pd.DataFrame
    heterogeneity: pd.DataFrame
    reciprocal: pd.DataFrame
    limits: pd.DataFrame
    dose_responses: pd.DataFrame
    dose_curves: pd.DataFrame
    robustness: pd.DataFrame
    quality: Mapping[str, ReaderQuality]
    gallery: tuple[GalleryItem, ...]
    measurements: pd.DataFrame
    provenance: Mapping[str, Any]
    pictures: tuple[ComponentPicture, ...] = ()
    observational: ObservationalSide | None = None
    fused: Fusion | None = None

    def revealed(self, editor: str | None = None) -> pd.DataFrame:
        """Edges that the declared graph does not have."""
        found = self.edges[self.edges["verdict"].isin(REVEALED)]
        return found if editor is None else found[found["editor"] == editor]

    def save(self, folder: str | Path) -> Path:
        """Write ``report.html``, ``report.json``, ``edges.csv``, ``graph.graphml``, ``graph.dot``, ``measurements/``.

        ``fused.graphml`` too, where the table was searched. Each file is written beside and then renamed. ``report.json`` is strict JSON: what is not finite is null.

        Raises:
            ValueError: the folder holds the measurements of another audit.
        """
        folder = Path(folder)
        self._save_measurements(folder / "measurements")
        content = {
            "format": FORMAT,
            "graph": self.graph.to_dict(),
            **{name: frame_to_json(getattr(self, name)) for name in FRAMES},
            "quality": {name: _quality_to_json(quality) for name, quality in self.quality.items()},
            "provenance": strict(self.provenance),
            "observational": None if self.observational is None else _observational_to_json(self.observational),
            "fused": None if self.fused is None else _fused_to_json(self.fused),
        }
        optional = {
            "gallery.npz": _stacked(self.gallery) if self.gallery else None,
            "unnamed.npz": _stacked(self.pictures) if self.pictures else None,
            "fused.graphml": None if self.fused is None else self.fused.graph.to_graphml().encode(),
        }
        for name, written in optional.items():
            if written is not None:
                _whole(folder / name, written)
            else:  # that of an earlier report must not be taken for this one's
                (folder / name).unlink(missing_ok=True)
        _whole(folder / "edges.csv", self.edges.to_csv(index=False).encode())
        _whole(folder / "graph.graphml", self.graph.to_graphml().encode())
        _whole(folder / "graph.dot", self.graph.to_dot().encode())
        beside = SHORTCUTS if (folder / SHORTCUTS).is_file() else None
        _whole(folder / "report.html", self.to_html(shortcuts=beside).encode())
        _whole(folder / "report.json", json.dumps(content, indent=1, allow_nan=False).encode())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Report":
        """Read back what :meth:`save` wrote.

        Raises:
            FileNotFoundError: the folder holds no report, or one that an earlier version wrote.
        """
        from causal_cxr.audits.store import load_measurements

        folder = Path(folder)
        if not (folder / "report.json").is_file():
            raise FileNotFoundError(
                f"{folder} holds no report.json; was the audit killed? Run it again, it will go on."
            )
        content = json.loads((folder / "report.json").read_text())
        if content.get("format") != FORMAT:
            raise FileNotFoundError(
                f"{folder}/report.json has format {content.get('format', 1)}, this version reads {FORMAT}; run the audit "
                "again with this out=: what was measured is kept."
            )
        return cls(
            graph=CausalGraph.from_dict(content["graph"]),
            **{name: frame_from_json(content[name]) for name in FRAMES},
            quality={name: _quality_from_json(q) for name, q in content["quality"].items()},
            gallery=tuple(GalleryItem(*item) for item in _items(folder / "gallery.npz")),
            measurements=load_measurements(folder / "measurements"),
            provenance=content["provenance"],
            pictures=tuple(ComponentPicture(*item) for item in _items(folder / "unnamed.npz")),
            observational=(
                None if content["observational"] is None else _observational_from_json(content["observational"])
            ),
            fused=None if content["fused"] is None else _fused_from_json(content["fused"]),
        )

    def _save_measurements(self, folder: Path) -> None:
        """Keep what :func:`causal_cxr.audits.measure.measure` has written there, else write one shard an editor."""
        from causal_cxr.audits.store import FACTUAL, load_measurements

        if list(folder.glob("*/shard-*.parquet")):
            if not load_measurements(folder).equals(self.measurements):
                raise ValueError(f"{folder} holds the measurements of another audit; save this report elsewhere.")
            return
        for kind, frame in self.measurements.groupby("editor", sort=False):
            _whole(folder / (str(kind) or FACTUAL) / "shard-00000.parquet", _parquet(frame))

    def to_html(self, *, shortcuts: str | None = None) -> str:
        """One self-contained page; every name from the data is escaped.

        Args:
            shortcuts: link to the page of a shortcut audit, in the navigation.
        """
        from causal_cxr.audits.report.page import page

        return page(self, shortcuts)

    def _repr_html_(self) -> str:
        from causal_cxr.audits.report.page import notebook

        return notebook(self)


def _stacked(items: Sequence[GalleryItem] | Sequence[ComponentPicture]) -> bytes:
    """Pictures as arrays, and all else about them as JSON, in the order of the fields."""
    about = [[getattr(item, f.name) for f in fields(item) if f.name not in PICTURES] for item in items]
    arrays = {k: np.stack([getattr(item, k) for item in items]) for k in PICTURES}
    stream = io.BytesIO()
    np.savez_compressed(stream, index=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def _items(file: Path) -> Iterator[list[Any]]:
    """Inverse of :func:`_stacked`: the fields of each item, in order; nothing where there is no file."""
    if file.is_file():
        with np.load(file, allow_pickle=False) as arrays:
            shots = [arrays[name] for name in PICTURES]
            for i, about in enumerate(json.loads(str(arrays["index"]))):
                yield [*about, *(stack[i] for stack in shots)]


def _quality_to_json(quality: ReaderQuality) -> dict[str, Any]:
    return {
        "concepts": frame_to_json(quality.concepts.reset_index()),
        "within": frame_to_json(quality.within),
        "follows": frame_to_json(quality.follows),
    }


def _quality_from_json(content: Mapping[str, Any]) -> ReaderQuality:
    frames = {name: frame_from_json(frame) for name, frame in content.items()}
    return ReaderQuality(frames["concepts"].set_index("concept"), frames["within"], frames["follows"])


OBSERVATIONAL = ("identification", "estimates", "refutations", "sensitivity")  #: frames


def _observational_to_json(side: ObservationalSide) -> dict[str, Any]:
    test = {f.name: getattr(side.graph_test, f.name) for f in fields(side.graph_test)}
    test["contradicted"] = [[a, b, sorted(given)] for a, b, given in side.graph_test.contradicted]
    return {
        **{name: frame_to_json(getattr(side, name)) for name in OBSERVATIONAL},
        "graph_test": strict({**test, "edges": frame_to_json(side.graph_test.edges)}),
        "unrefuted": side.unrefuted,
    }


def _observational_from_json(content: Mapping[str, Any]) -> ObservationalSide:
    test = dict(content["graph_test"])
    test["edges"], test["untested"] = frame_from_json(test["edges"]), tuple(test["untested"])
    test["contradicted"] = tuple((a, b, frozenset(given)) for a, b, given in test["contradicted"])
    for name in ("p", "p_same"):  # null where nothing could be tested
        test[name] = float("nan") if test[name] is None else test[name]
    frames = {name: frame_from_json(content[name]) for name in OBSERVATIONAL}
    return ObservationalSide(**frames, graph_test=GraphTest(**test), unrefuted=content["unrefuted"])


FUSED = ("edges", "evidence", "conflicts")  #: frames of the graph


def _fused_to_json(fusion: Fusion) -> dict[str, Any]:
    return {
        "graph": fusion.graph.graph.to_dict(),
        **{name: frame_to_json(getattr(fusion.graph, name)) for name in FUSED},
        "discovered": strict(fusion.discovered.to_dict()),
        "frequencies": frame_to_json(fusion.frequencies),
        "falsification": frame_to_json(fusion.falsification),
        "untested": fusion.untested,
    }


def _fused_from_json(content: Mapping[str, Any]) -> Fusion:
    graph = Fused(CausalGraph.from_dict(content["graph"]), **{name: frame_from_json(content[name]) for name in FUSED})
    return Fusion(
        graph=graph,
        discovered=Discovered.from_dict(content["discovered"]),
        frequencies=frame_from_json(content["frequencies"]),
        falsification=frame_from_json(content["falsification"]),
        untested=content["untested"],
    )


def _parquet(frame: pd.DataFrame) -> bytes:
    stream = io.BytesIO()
    frame.to_parquet(stream, index=False)
    return stream.getvalue()


def _whole(file: Path, content: bytes) -> None:
    with whole_file(file) as partial:
        partial.write_bytes(content)
