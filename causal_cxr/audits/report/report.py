"""``Report``: a frozen record of an audit, saved whole and read back exactly."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.report.frames import frame_from_json, frame_to_json, strict
from causal_cxr.graphs import CausalGraph
from causal_cxr.readers.quality import ReaderQuality

REVEALED = ("hidden", "mediated")  #: verdicts that draw an edge the graph does not have
FRAMES = ("edges", "second_readings", "falsification", "effectiveness", "leak", "acceptance", "composition")
PICTURES = ("factual", "null", "counterfactual")  #: of a gallery item
FORMAT = 3  #: of report.json


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
class Report:
    """What an audit found, and how to reproduce it.

    Attributes:
        graph: the declared graph.
        edges: one row an editor x contrast x concept; see :func:`causal_cxr.audits.analyse.analyse`.
        second_readings: what the readers that were not chosen say of the same edges.
        falsification: the graph's implied independences, tested on the table.
        effectiveness, leak, acceptance, composition: the editors' limits.
        quality: by reader.
        gallery: of the first edited images.
        measurements: the table that every number can be recomputed from.
        provenance: specification and its hash, versions, fingerprints, seed, ledger, exclusions. Optional: ``left_out``
            (file or concept -> why it took no part) and ``truth`` (a world's relations).
    """

    graph: CausalGraph
    edges: pd.DataFrame
    second_readings: pd.DataFrame
    falsification: pd.DataFrame
    effectiveness: pd.DataFrame
    leak: pd.DataFrame
    acceptance: pd.DataFrame
    composition: pd.DataFrame
    quality: Mapping[str, ReaderQuality]
    gallery: tuple[GalleryItem, ...]
    measurements: pd.DataFrame
    provenance: Mapping[str, Any]

    def revealed(self, editor: str | None = None) -> pd.DataFrame:
        """Edges that the declared graph does not have."""
        found = self.edges[self.edges["verdict"].isin(REVEALED)]
        return found if editor is None else found[found["editor"] == editor]

    def save(self, folder: str | Path) -> Path:
        """Write ``report.html``, ``report.json``, ``edges.csv``, ``graph.graphml``, ``graph.dot``, ``measurements/``.

        Each file is written beside and then renamed. ``report.json`` is strict JSON: what is not finite is null.

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
        }
        if self.gallery:
            stacked = io.BytesIO()
            index = json.dumps([[g.editor, g.contrast, g.attribute, g.row] for g in self.gallery])
            arrays = {k: np.stack([getattr(g, k) for g in self.gallery]) for k in PICTURES}
            np.savez_compressed(stacked, index=np.array(index), **arrays)  # type: ignore[arg-type]
            _whole(folder / "gallery.npz", stacked.getvalue())
        else:  # that of an earlier report must not be read back with this one
            (folder / "gallery.npz").unlink(missing_ok=True)
        _whole(folder / "edges.csv", self.edges.to_csv(index=False).encode())
        _whole(folder / "graph.graphml", self.graph.to_graphml().encode())
        _whole(folder / "graph.dot", self.graph.to_dot().encode())
        _whole(folder / "report.html", self.to_html().encode())
        _whole(folder / "report.json", json.dumps(content, indent=1, allow_nan=False).encode())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Report":
        """Read back what :meth:`save` wrote.

        Raises:
            FileNotFoundError: the folder holds no report, or one that an earlier version wrote.
        """
        from causal_cxr.audits.measure import load_measurements

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
        gallery: tuple[GalleryItem, ...] = ()
        if (folder / "gallery.npz").is_file():
            with np.load(folder / "gallery.npz", allow_pickle=False) as arrays:
                about = json.loads(str(arrays["index"]))
                factual, null, counterfactual = (arrays[name] for name in PICTURES)
                gallery = tuple(
                    GalleryItem(editor, contrast, attribute, row, factual[i], null[i], counterfactual[i])
                    for i, (editor, contrast, attribute, row) in enumerate(about)
                )
        return cls(
            graph=CausalGraph.from_dict(content["graph"]),
            **{name: frame_from_json(content[name]) for name in FRAMES},
            quality={name: _quality_from_json(q) for name, q in content["quality"].items()},
            gallery=gallery,
            measurements=load_measurements(folder / "measurements"),
            provenance=content["provenance"],
        )

    def _save_measurements(self, folder: Path) -> None:
        """Keep what :func:`causal_cxr.audits.measure.measure` has written there, else write one shard an editor."""
        from causal_cxr.audits.measure import FACTUAL, load_measurements

        if list(folder.glob("*/shard-*.parquet")):
            if not load_measurements(folder).equals(self.measurements):
                raise ValueError(f"{folder} holds the measurements of another audit; save this report elsewhere.")
            return
        for kind, frame in self.measurements.groupby("editor", sort=False):
            _whole(folder / (str(kind) or FACTUAL) / "shard-00000.parquet", _parquet(frame))

    def to_html(self) -> str:
        """One self-contained page; every name from the data is escaped."""
        from causal_cxr.audits.report.page import page

        return page(self)

    def _repr_html_(self) -> str:
        from causal_cxr.audits.report.page import notebook

        return notebook(self)


def _quality_to_json(quality: ReaderQuality) -> dict[str, Any]:
    return {
        "concepts": frame_to_json(quality.concepts.reset_index()),
        "within": frame_to_json(quality.within),
        "follows": frame_to_json(quality.follows),
    }


def _quality_from_json(content: Mapping[str, Any]) -> ReaderQuality:
    frames = {name: frame_from_json(frame) for name, frame in content.items()}
    return ReaderQuality(frames["concepts"].set_index("concept"), frames["within"], frames["follows"])


def _parquet(frame: pd.DataFrame) -> bytes:
    stream = io.BytesIO()
    frame.to_parquet(stream, index=False)
    return stream.getvalue()


def _whole(file: Path, content: bytes) -> None:
    """Write beside, then rename: a file is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(content)
    partial.rename(file)
