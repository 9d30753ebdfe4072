"""The page of a report: one file that runs no script and fetches nothing. It renders; it decides nothing anew."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from causal_cxr.audits.cells import BLIND_SLOPE
from causal_cxr.audits.falsification import SMALLEST_CORRELATION
from causal_cxr.audits.gates import REFUSALS
from causal_cxr.audits.limits import KINDS, statement
from causal_cxr.audits.obedience import EFFECTIVE_RATIO
from causal_cxr.audits.report import pictures
from causal_cxr.audits.report.checks import checks, editor_null
from causal_cxr.audits.report.frames import records
from causal_cxr.audits.robustness import telling
from causal_cxr.audits.verdicts import MEANING
from causal_cxr.graphs.discovery.marks import MarkedEdge
from causal_cxr.readers.quality import blind_spots

if TYPE_CHECKING:
    from causal_cxr.audits.observational import ObservationalSide
    from causal_cxr.audits.report.report import GalleryItem, Report
    from causal_cxr.audits.table_search import Fusion

ORDER = ("hidden", "mediated", "contradicted", "confounded", "artifact", "declared", "missed", "unsupported", "spurious",
         "undecided", "none")  #: of verdicts on the page  # fmt: skip
PICTURED = ORDER[:5]  #: where the editor moved what nobody declared: worth a look
PER_CONTRAST = 3  #: gallery rows an editor x contrast: the first audited images that the contrast applies to
GALLERY_BYTES, PAGE_BYTES = 1_300_000, 1_950_000  #: where there are many galleries, each shows fewer images
MANY_REVEALED = 8  #: edges of one editor; beyond, their graph takes the whole width
MANY_CONTRASTS = 7  #: beyond, matrices stand below each other
#: Edges with their marks: a circle is an open end.
GLYPHS = {"-->": "→", "<--": "←", "<->": "↔", "o->": "o→", "<-o": "←o", "o-o": "o–o", "---": "—", "o--": "o—",
          "--o": "—o"}  # fmt: skip
OUTLINED = ".outlined { position: relative } .box { position: absolute; inset: 0; width: 100%; height: 100% }\n"
MOST_STATED = 12  #: limits of the editors, before the fold
MOST_DOSES = 40
MOST_ESTIMATES = 30  #: from unedited images, written out
MOST_FUSED = 12  #: disagreements of sources, and contradictions by the unedited images, before the fold
MOST_ROBUSTNESS = 40  #: means beside other summaries, written out
MOST_COMPARED = 20  #: differences between witnesses written out
MOST_CELLS = 250  #: cells written out, the findings first; the matrix and edges.csv have all


def page(report: "Report", shortcuts: str | None = None) -> str:
    """The whole page; every name from the data is escaped.

    Args:
        report: to be shown.
        shortcuts: link to the page of a shortcut audit beside it.
    """
    editors = _editors(report)
    style = (Path(__file__).parent / "page.css").read_text()
    for i in range(1, len(editors) + 1):
        style += f"body:has(#by-{i}:checked) .cell:not(.by-{i}) {{ display: none }}\n"
    style += OUTLINED if "unnamed" in report.provenance else ""
    cells, galleries = _cells(report), _galleries(report)
    context = {
        "provenance": report.provenance, "editors": editors, "meaning": MEANING, "order": ORDER, "pictures": pictures,
        "style": style, "style_hash": base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        "checks": checks(report), "nulls": editor_null(report),
        "cells": cells, "listed": cells[:MOST_CELLS], "matrices": {e: _matrix(report, cells, e) for e in editors},
        "wide_matrices": report.edges["contrast"].nunique() > MANY_CONTRASTS,
        "declared": report.graph.draw().svg, "drawings": {e: _drawing(report, e) for e in editors},
        "wide_graphs": any(len(report.revealed(e)) > MANY_REVEALED for e in editors),
        "per_contrast": PER_CONTRAST,
        "falsification": records(report.falsification), "smallest_correlation": SMALLEST_CORRELATION,
        "effectiveness": records(report.effectiveness), "effective_ratio": EFFECTIVE_RATIO,
        "leaks": {e: _leaks(report.leak[report.leak["editor"] == e]) for e in editors},
        "acceptance": _acceptance(report.acceptance),
        "composition": {e: records(report.composition[report.composition["editor"] == e]) for e in editors},
        "readers": {name: records(quality.concepts.reset_index()) for name, quality in report.quality.items()},
        "within": {name: _within(quality.within, quality.follows) for name, quality in report.quality.items()},
        "spots": {name: records(blind_spots(quality)) for name, quality in report.quality.items()},
        "refusals": _refusals(report.edges), "most_compared": MOST_COMPARED,
        "heterogeneity": records(report.heterogeneity.sort_values("difference", key=abs, ascending=False)),
        "reciprocal": records(report.reciprocal), "observational": report.observational,
        **_observational(report.observational), **_fused(report.fused),
        "robustness": records(telling(report.robustness)), "most_robustness": MOST_ROBUSTNESS, "shortcuts": shortcuts,
        **_limits(report.limits), **_doses(report.dose_responses),
        "blind_slope": BLIND_SLOPE, "unnamed": _unnamed(report, cells),
    }  # fmt: skip
    template = _environment().get_template("page.html")

    def rendered(shown: int) -> str:
        return template.render(context, galleries=[{**g, "rows": g["rows"][:shown]} for g in galleries], shown=shown)

    room = min(GALLERY_BYTES, PAGE_BYTES - len(rendered(0).encode()))
    sizes = [sum(g["rows"][n]["bytes"] for g in galleries if n < len(g["rows"])) for n in range(PER_CONTRAST)]
    return rendered(max(n for n in range(PER_CONTRAST + 1) if n == 0 or sum(sizes[:n]) <= room))


def notebook(report: "Report") -> str:
    """A few lines for a notebook cell: styled inline, so that nothing leaks into the notebook."""
    looks = [check for check in checks(report) if check.state == "look"]
    template = _environment().get_template("notebook.html")
    return template.render(
        provenance=report.provenance, editors=_editors(report), cells=_cells(report), looks=looks, pictures=pictures
    )


def signed(value: Any, digits: int = 2) -> str:
    """A number with its sign; an en dash if unknown.

    >>> signed(-0.481), signed(0.001), signed(float("nan"))
    ('−0.48', '0.00', '–')
    """
    text = number(value, digits)
    return text if text.startswith("−") or not text.strip("0.–") else f"+{text}"


def number(value: Any, digits: int = 2) -> str:
    """A number without sign, unless it is below 0.

    >>> number(0.5), number(3e-7, 4), number(None), number(-0.001)
    ('0.50', '< 0.0001', '–', '0.00')
    """
    if value is None or value != value:
        return "–"
    if digits > 2 and value == 0:
        return "0"
    if digits > 2 and 0 < abs(value) < 0.5 * 10**-digits:
        return f"< {10**-digits:.{digits}f}"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", "−")


def marks(sentence: Any) -> str:
    """The marks of edges as a page writes them.

    >>> marks("age o-> view in the table")
    'age o→ view in the table'
    """
    words = str(sentence).split(" ")
    return " ".join(GLYPHS.get(word, word) for word in words)


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("causal_cxr.audits.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"signed": signed, "number": number, "percent": lambda share: f"{share:.0%}",
                            "marks": marks, "arrow": lambda name: str(name).replace("->", "→")}  # fmt: skip
    return environment


def _editors(report: "Report") -> list[str]:
    return sorted(report.edges["editor"].unique()) if len(report.edges) else []


def _cells(report: "Report") -> list[dict[str, Any]]:
    """Edges as the page lists them: by verdict, the largest effects first, with what other readers and the truth say."""
    by_key: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for second in records(report.second_readings):
        by_key.setdefault((second["editor"], second["contrast"], second["concept"]), []).append(second)
    truth = {(t["attribute"], t["concept"]): t for t in report.provenance.get("truth") or ()}
    rows = records(report.edges)
    rows.sort(key=lambda r: (ORDER.index(r["verdict"]), -_size(r["editor_effect"]), r["attribute"], r["concept"]))
    return [
        {**row, "id": i, "seconds": by_key.get((row["editor"], row["contrast"], row["concept"]), []),
         "truth": truth.get((row["attribute"], row["concept"]))}
        for i, row in enumerate(rows)
    ]  # fmt: skip


def _size(effect: float) -> float:
    return abs(effect) if effect == effect else 0.0


def _refusals(edges: pd.DataFrame) -> list[tuple[str, int, str]]:
    """Types of ``undecided``, the most frequent first: how many there are, and what would mend them."""
    counts = edges.loc[edges["verdict"] == "undecided", "refusal"].value_counts()
    return [(str(kind), int(n), REFUSALS[str(kind)]) for kind, n in counts.items()]


def _limits(limits: pd.DataFrame) -> dict[str, Any]:
    """What is said of the editors, and the worst state of every kind of limit by contrast, over all patients."""
    said = statement(limits) if len(limits) else []
    open_ones = [sentence for sentence in said if sentence.startswith("Not shown")]
    everyone = limits[limits["group"] == ""]
    kinds = [kind for kind in KINDS if (everyone["kind"] == kind).any()]
    worst = everyone.assign(badness=everyone["state"].map({"limit": 0, "unknown": 1, "fine": 2}))
    worst = worst.sort_values("badness", kind="stable").drop_duplicates(["editor", "contrast", "kind"])
    cells = {(r["editor"], r["contrast"], r["kind"]): r for r in records(worst)}
    rows = everyone[["editor", "contrast"]].drop_duplicates().itertuples(index=False)
    return {
        "statements": {"limits": [s for s in said if s.startswith("Do not")], "open": open_ones},
        "limit_kinds": kinds, "most_stated": MOST_STATED,
        "limits": [{"editor": editor, "contrast": contrast, "cells": [cells.get((editor, contrast, k)) for k in kinds]}
                   for editor, contrast in rows],
    }  # fmt: skip


def _doses(responses: pd.DataFrame) -> dict[str, Any]:
    """Responses that are more than flat or undecided, the steepest first; of the others the number."""
    told = responses[~responses["response"].isin(["flat", "undecided"])]
    told = told.sort_values("slope", key=abs, ascending=False, kind="stable").head(MOST_DOSES)
    return {"doses": records(told), "more_doses": len(responses) - len(told)}


def _observational(side: "ObservationalSide | None") -> dict[str, Any]:
    """The largest estimates in standard errors, the refuters that did not pass first, and the rest by number."""
    if side is None:
        return {}
    size = (side.estimates["effect"] / side.estimates["se"]).abs().fillna(-1)
    pairs = side.estimates.assign(
        size=size.groupby([side.estimates["contrast"], side.estimates["concept"]]).transform("max")
    )
    ordered = pairs.sort_values("size", ascending=False, kind="stable")
    refuted = records(side.refutations)
    open_ones = [r for r in refuted if r["passes"] != "yes"]
    return {
        "estimates": records(ordered.head(MOST_ESTIMATES)), "more_estimates": max(0, len(ordered) - MOST_ESTIMATES),
        "refuted": open_ones, "passed": len(refuted) - len(open_ones),
        "sensitivity": records(side.sensitivity), "identification": records(side.identification),
    }  # fmt: skip


def _fused(fusion: "Fusion | None") -> dict[str, Any]:
    """The graph of all sources: each edge with what every source says of it, and the tests, the rejected ones first."""
    if fusion is None:
        return {"fused": None}
    edges, searched = records(fusion.graph.edges), set(fusion.discovered.variables)
    shares = {frozenset((row["a"], row["b"])): row["adjacent"] for row in records(fusion.frequencies)}
    rows = []
    for edge in edges:
        a, b, glyph = _causes_first(edge)
        pair, said = frozenset((a, b)), fusion.graph.evidence_of(a, b)
        edits = records(said[said["source"] == "revealed"])
        rows.append(
            {**edge, "a": a, "b": b, "glyph": glyph, "edits": edits,
             "declared": "declared" in edge["sources"], "discovered": "discovered" in edge["sources"],
             "share": shares.get(pair, 0.0) if pair <= searched else None,
             "several": len({r["contrast"] for r in edits}) > 1}
        )  # fmt: skip
    tests = [{**row, "said": fusion.said_of(row["a"], row["b"])} for row in records(fusion.falsification)]
    joined = {name for edge in edges for name in (edge["a"], edge["b"])}
    by_source = {s: sum(s in edge["sources"] for edge in edges) for s in ("declared", "discovered", "revealed")}
    return {
        "fused": fusion, "fused_edges": rows, "fused_drawing": fusion.graph.draw().svg, "joined": by_source,
        "alone": [name for name in fusion.graph.concepts if name not in joined],
        "disagreements": records(fusion.graph.conflicts), "most_fused": MOST_FUSED,
        "fused_tests": sorted(tests, key=lambda row: (not row["rejected"], -_size(row["correlation"]))),
    }  # fmt: skip


def _causes_first(edge: Mapping[str, Any]) -> tuple[str, str, str]:
    """The ends in the order in which the edge reads best, and its marks."""
    marked = MarkedEdge(edge["a"], edge["b"], edge["at_a"], edge["at_b"])
    if marked.at_a == "arrow" and marked.at_b != "arrow":
        marked = marked.turned()
    return marked.a, marked.b, GLYPHS[str(marked).removeprefix(marked.a).removesuffix(marked.b).strip()]


def _matrix(report: "Report", cells: list[dict[str, Any]], editor: str) -> dict[str, Any]:
    """One editor's cells, concepts (the controls last) by contrasts."""
    mine = report.edges[report.edges["editor"] == editor]
    heads = mine.drop_duplicates("contrast")[["attribute", "contrast"]].itertuples(index=False)
    concepts = mine.drop_duplicates("concept").sort_values("control", kind="stable")
    at = {(c["concept"], c["contrast"]): c for c in cells if c["editor"] == editor}
    contrasts = list(mine["contrast"].unique())
    return {
        "contrasts": [(a, str(c).removeprefix(str(a)).lstrip(": ")) for a, c in heads],
        "rows": [
            (concept, control, [at.get((concept, contrast)) for contrast in contrasts])
            for concept, control in concepts[["concept", "control"]].itertuples(index=False)
        ],
    }


def _drawing(report: "Report", editor: str) -> str | None:
    """The declared graph with what the editor revealed; None if that is nothing."""
    found = report.revealed(editor)
    labels = [signed(effect) for effect in found["editor_effect"]]
    edges = list(zip(found["attribute"], found["concept"], labels, strict=True))
    return report.graph.draw(revealed=edges).svg if edges else None


def _leaks(leak: pd.DataFrame) -> dict[str, Any]:
    """Contrasts x labelled attributes' own concepts: (effect, colour step from -5 to 5, whether it is what was asked)."""
    asked = dict(zip(leak["contrast"], leak["attribute"], strict=True))
    order = {attribute: i for i, attribute in enumerate(asked.values())}
    columns = sorted(
        set(zip(leak["target"], leak["concept"], strict=True)), key=lambda c: (order.get(c[0], len(order)), c)
    )
    effect = leak.set_index(["contrast", "target", "concept"])["effect"].to_dict()

    def cell(contrast: str, column: tuple[str, str]) -> tuple[float, int, bool]:
        value = effect.get((contrast, *column), float("nan"))
        return value, max(-5, min(5, round(value * 6))) if value == value else 0, column[0] == asked[contrast]

    return {
        "columns": columns,
        "rows": [(contrast, [cell(contrast, column) for column in columns]) for contrast in asked],
    }


def _acceptance(acceptance: pd.DataFrame) -> list[dict[str, Any]]:
    """One row an editor x contrast with rejected edits, with the groups in which fewest and most were accepted."""
    total = acceptance[acceptance["kind"] != "direct"]
    rows = []
    for row in records(total[(total["group"] == "") & (total["accepted"] < total["n"])]):
        mine = total[
            (total["editor"] == row["editor"]) & (total["contrast"] == row["contrast"]) & (total["group"] != "")
        ]
        groups = records(mine.sort_values("rate", kind="stable"))
        rows.append({**row, "ends": groups[:: len(groups) - 1] if len(groups) > 1 else groups})
    return rows


def _within(within: pd.DataFrame, follows: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a concept x attribute: AUROC within each level, the attribute's own, and how far the reader follows it."""
    shifts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for shift in records(follows):
        shifts.setdefault((shift["concept"], shift["attribute"]), []).append(shift)
    groups: Any = within.groupby(["concept", "attribute"], sort=False)
    return [
        {"concept": concept, "attribute": attribute, "levels": records(levels),
         "own": levels["attribute_auroc"].iloc[0], "follows": shifts.get((concept, attribute), [])}
        for (concept, attribute), levels in groups
    ]  # fmt: skip


def _galleries(report: "Report") -> list[dict[str, Any]]:
    """One an editor x contrast that moved what nobody declared, with the concepts that it moved."""
    shown = report.edges[report.edges["verdict"].isin(PICTURED)]
    measured = report.measurements[report.measurements["row"].isin({item.row for item in report.gallery})]
    galleries = []
    for (editor, contrast), edges in shown.groupby(["editor", "contrast"], sort=False):
        items = [g for g in report.gallery if (g.editor, g.contrast) == (editor, contrast)][:PER_CONTRAST]
        cells = records(edges)
        rows = [_pictures(item, cells, measured) for item in items]
        galleries.append({"editor": editor, "contrast": contrast, "edges": cells, "rows": rows})
    return galleries


def _unnamed(report: "Report", cells: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the search for concepts without a name found: a panel a component; None without a search."""
    searched = report.provenance.get("unnamed")
    if searched is None:
        return None
    components = []
    for component in searched["components"]:
        rows = []
        for item in report.pictures:
            if item.component == component["name"]:
                images = {"factual": item.factual, "null edit": item.null, "counterfactual": item.counterfactual,
                          "difference": pictures.difference(item.null, item.counterfactual)}  # fmt: skip
                urls = {what: pictures.webp(image) for what, image in images.items()}
                rows.append({"row": item.row, "images": urls, "before": item.before, "after": item.after})
        mine = [
            cell for cell in cells if cell["concept"] == component["name"] and cell["contrast"] == component["contrast"]
        ]
        names = component["phrases"]
        lead = abs(names[0][1]) - abs(names[1][1]) if len(names) > 1 else None
        components.append({**component, "rows": rows, "cells": mine, "lead": lead, "box": _boxes(component["regions"])})
    return {**searched, "components": components}


def _boxes(regions: Sequence[Sequence[float]]) -> str | None:
    """Outlines over a picture, as SVG on a square of 100."""
    if not regions:
        return None
    drawn = ""
    for region in regions:
        top, left, bottom, right = (100 * float(value) for value in region)
        drawn += (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" fill="none" '
            'stroke="var(--accent)" stroke-width="1.5" vector-effect="non-scaling-stroke"/>'
        )
    return f'<svg class="box" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'


def _pictures(item: "GalleryItem", edges: list[dict[str, Any]], measured: pd.DataFrame) -> dict[str, Any]:
    """An edit's four pictures, its direction, and how strongly each moved concept shows before and after."""
    images = {
        "factual": item.factual, "null edit": item.null, "counterfactual": item.counterfactual,
        "difference": pictures.difference(item.null, item.counterfactual),
    }  # fmt: skip
    urls = {name: pictures.webp(image) for name, image in images.items()}
    about: Mapping[str, Any] = {"row": item.row, "images": urls, "bytes": sum(len(url) for url in urls.values())}
    mine = measured[(measured["row"] == item.row) & (measured["editor"] == item.editor)]
    null, edit = mine[mine["kind"] == "null"], mine[(mine["kind"] == "total") & (mine["contrast"] == item.contrast)]
    if null.empty or edit.empty:
        return {**about, "scores": []}
    columns = {e["concept"]: f"{e['reader']}/{e['concept']}" for e in edges}
    return {
        **about, "reversed": edit["orientation"].iloc[0] < 0, "rejected": "" if edit["accepted"].iloc[0] else edit["reason"].iloc[0],
        "scores": [(c, null[name].iloc[0], edit[name].iloc[0]) for c, name in columns.items() if name in measured],
    }  # fmt: skip
