"""``Report``: a frozen record of an audit, saved whole and read back exactly."""

import base64
import hashlib
import html
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.verdicts import MEANING
from causal_cxr.graphs import CausalGraph
from causal_cxr.readers.quality import ReaderQuality

REVEALED = ("hidden", "mediated")  #: verdicts that draw an edge the graph does not have
PER_EDGE = 3  #: gallery rows a revealed edge: the first audited images that the contrast applies to
GALLERY_BYTES = 1_300_000  #: of the page; where there are many revealed edges, each shows fewer images
FRAMES = ("edges", "second_readings", "falsification", "effectiveness", "leak", "composition")


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
        effectiveness, leak, composition: the editors' limits.
        quality: by reader.
        gallery: of the first edited images.
        measurements: the table that every number can be recomputed from.
        provenance: specification and its hash, versions, fingerprints, seed, ledger, exclusions.
    """

    graph: CausalGraph
    edges: pd.DataFrame
    second_readings: pd.DataFrame
    falsification: pd.DataFrame
    effectiveness: pd.DataFrame
    leak: pd.DataFrame
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

        Each file is written beside and then renamed.
        """
        folder = Path(folder)
        shards = folder / "measurements"
        if not list(shards.glob("*/shard-*.parquet")):
            for kind, frame in self.measurements.groupby("editor", sort=False):
                target = shards / (str(kind) or "factual") / "shard-00000.parquet"
                _whole(target, _parquet(frame))
        content = {
            "graph": self.graph.to_dict(),
            **{name: getattr(self, name).to_dict("list") for name in FRAMES},
            "quality": {name: quality.to_dict() for name, quality in self.quality.items()},
            "provenance": dict(self.provenance),
        }
        if self.gallery:
            stacked = io.BytesIO()
            index = json.dumps([[g.editor, g.contrast, g.attribute, g.row] for g in self.gallery])
            arrays = {k: np.stack([getattr(g, k) for g in self.gallery]) for k in ("factual", "null", "counterfactual")}
            np.savez_compressed(stacked, index=np.array(index), **arrays)  # type: ignore[arg-type]
            _whole(folder / "gallery.npz", stacked.getvalue())
        else:  # that of an earlier report must not be read back with this one
            (folder / "gallery.npz").unlink(missing_ok=True)
        _whole(folder / "edges.csv", self.edges.to_csv(index=False).encode())
        _whole(folder / "graph.graphml", self.graph.to_graphml().encode())
        _whole(folder / "graph.dot", self.graph.to_dot().encode())
        _whole(folder / "report.html", self.to_html().encode())
        _whole(folder / "report.json", json.dumps(content, indent=1, default=_plain).encode())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Report":
        """Read back what :meth:`save` wrote.

        Raises:
            FileNotFoundError: the folder holds no report.
        """
        from causal_cxr.audits.measure import load_measurements

        folder = Path(folder)
        if not (folder / "report.json").is_file():
            raise FileNotFoundError(
                f"{folder} holds no report.json; was the audit killed? Run it again, it will go on."
            )
        content = json.loads((folder / "report.json").read_text())
        gallery: tuple[GalleryItem, ...] = ()
        if (folder / "gallery.npz").is_file():
            with np.load(folder / "gallery.npz", allow_pickle=False) as arrays:
                index: list[Any] = json.loads(str(arrays["index"]))
                gallery = tuple(
                    GalleryItem(
                        about[0],
                        about[1],
                        about[2],
                        about[3],
                        arrays["factual"][i],
                        arrays["null"][i],
                        arrays["counterfactual"][i],
                    )
                    for i, about in enumerate(index)
                )
        return cls(
            graph=CausalGraph.from_dict(content["graph"]),
            **{name: pd.DataFrame(content[name]) for name in FRAMES},
            quality={name: ReaderQuality.from_dict(q) for name, q in content["quality"].items()},
            gallery=gallery,
            measurements=load_measurements(folder / "measurements"),
            provenance=content["provenance"],
        )

    def to_html(self) -> str:
        """One self-contained page; every name from the data is escaped."""
        from jinja2 import Environment, PackageLoader

        environment = Environment(loader=PackageLoader("causal_cxr.audits.report", "."), autoescape=True)
        style = (Path(__file__).parent / "report.css").read_text()
        editors = sorted(self.edges["editor"].unique()) if len(self.edges) else []
        names = {e: self._drawing(e) for e in editors}
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        return environment.get_template("report.html").render(
            report=self, provenance=self.provenance, meaning=MEANING, style=style, style_hash=digest,
            declared=self.graph.draw().svg, drawings=names, editors=editors,
            edges=self.edges.sort_values(["editor", "verdict", "attribute", "concept"]).to_dict("records"),
            revealed={e: self.revealed(e).to_dict("records") for e in editors},
            counts={e: self.edges.loc[self.edges["editor"] == e, "verdict"].value_counts().to_dict() for e in editors},
            pictures=self._pictures, shown=self._shown(), per_edge=PER_EDGE, interval=_interval_svg, leaks=self._leaks(editors),
            effectiveness=self.effectiveness.to_dict("records"), composition=self.composition.to_dict("records"),
            readers={n: q.concepts.reset_index().to_dict("records") for n, q in self.quality.items()},
        )  # fmt: skip

    def _drawing(self, editor: str) -> str:
        found = [
            (r["attribute"], r["concept"], f"{r['editor_effect']:+.2f}")
            for r in self.revealed(editor).to_dict("records")
        ]
        return self.graph.draw(revealed=found).svg

    def _leaks(self, editors: list[str]) -> dict[str, Any]:
        tables = {}
        for editor in editors:
            mine = self.leak[self.leak["editor"] == editor]
            cells = mine.pivot_table(index="contrast", columns="concept", values="effect", sort=False)
            own = {(r["contrast"], r["concept"]) for r in mine.to_dict("records") if r["attribute"] == r["target"]}
            tables[editor] = {
                "columns": list(cells.columns),
                "rows": [
                    (c, [(v, min(5, round(abs(v) * 8)) if v == v else 0, (c, k) in own) for k, v in zip(cells.columns, row, strict=True)])
                    for c, row in zip(cells.index, cells.to_numpy(), strict=True)
                ],
            }  # fmt: skip
        return tables

    def _shown(self) -> int:
        """Gallery rows an edge, 0 to ``PER_EDGE``: as many as keep the page's pictures under ``GALLERY_BYTES``."""
        pairs = self.revealed()[["editor", "contrast"]].itertuples(index=False) if len(self.edges) else ()
        sizes = [
            [sum(len(v) for v in p.values() if isinstance(v, str)) for p in self._pictures(*pair)] for pair in pairs
        ]
        return max(n for n in range(PER_EDGE + 1) if sum(sum(rows[:n]) for rows in sizes) <= GALLERY_BYTES)

    def _pictures(self, editor: str, contrast: str, n: int = PER_EDGE) -> list[dict[str, Any]]:
        mine = [g for g in self.gallery if g.editor == editor and g.contrast == contrast][:n]
        return [
            {"row": g.row, "factual": _webp(g.factual), "null": _webp(g.null), "counterfactual": _webp(g.counterfactual),
             "difference": _webp(_difference(g.null, g.counterfactual))}
            for g in mine
        ]  # fmt: skip

    def _repr_html_(self) -> str:
        head = "<tr><th>editor<th>contrast<th>concept<th>verdict<th>editor<th>adjusted<th>q</tr>"
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(cell))}" for cell in (
                r["editor"], r["contrast"], r["concept"], r["verdict"], f"{r['editor_effect']:+.2f}",
                f"{r['adjusted_effect']:+.2f}", f"{r['q']:.1e}")) + "</tr>"
            for r in self.revealed().to_dict("records")
        )  # fmt: skip
        return f"<p>{len(self.edges)} cells, {len(self.revealed())} revealed edges</p><table>{head}{rows}</table>"


def _difference(null: np.ndarray, counterfactual: np.ndarray) -> np.ndarray:
    """Signed difference on a diverging scale: white 0, red brighter, blue darker; full colour at half the range."""
    d = np.clip((counterfactual.astype(float) - null.astype(float)) / 128.0, -1, 1)[..., None]
    red, blue = np.array([178.0, 24.0, 43.0]), np.array([33.0, 102.0, 172.0])
    return (255 + np.where(d > 0, d * (red - 255), -d * (blue - 255))).astype(np.uint8)


def _webp(image: np.ndarray, side: int = 128) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC).save(stream, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def _interval_svg(row: Mapping[str, Any]) -> str:
    """Three estimates on one axis from -1 to 1, with the band of +-delta. Numbers only: nothing to escape."""

    def x(value: float) -> float:
        return 60 + 58 * max(-1.0, min(1.0, value))

    delta = float(row["delta"])
    parts = [f'<rect x="{x(-delta):.1f}" y="0" width="{x(delta) - x(-delta):.1f}" height="30" class="band"/>',
             '<line x1="60" x2="60" y1="0" y2="30" class="zero"/>']  # fmt: skip
    for i, side in enumerate(("editor", "adjusted", "marginal")):
        value, low, high = (row[f"{side}_{k}"] for k in ("effect", "low", "high"))
        if value is not None and value == value:
            y = 6 + 9 * i
            parts.append(f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}" class="{side}"/>'
                         f'<circle cx="{x(value):.1f}" cy="{y}" r="3" class="{side}"/>')  # fmt: skip
    label = "; ".join(f"{s} {row[f'{s}_effect']:.2f}" for s in ("editor", "adjusted", "marginal"))
    return f'<svg viewBox="0 0 120 30" width="200" height="50" role="img" aria-label="{label}">{"".join(parts)}</svg>'


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


def _plain(value: Any) -> Any:
    """numpy scalars as JSON."""
    return value.item()
