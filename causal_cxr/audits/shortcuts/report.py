"""``ShortcutReport``: what a classifier relies on, as frames, a page, and files. It renders; it decides nothing anew."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from causal_cxr.audits.report import page as pages
from causal_cxr.audits.report import pictures
from causal_cxr.audits.report.frames import frame_from_json, frame_to_json, strict
from causal_cxr.audits.shortcuts.carriers import percent
from causal_cxr.audits.shortcuts.verdicts import MEANING, ORDER
from causal_cxr.data.whole_file import whole_file

FRAMES = ("reliance", "manifestations", "carriers", "subgroups", "gaps")
FORMAT = 1  #: of shortcuts.json
#: verdict -> the class of an audit's verdict, in the style sheet that the pages share, that looks as it should.
TONE = {"reliance": "hidden", "reliance confounded by leak": "mediated", "invariant": "none", "legitimate": "declared",
        "undecided": "undecided"}  # fmt: skip
METRIC = {"auroc": "AUROC", "sensitivity": "sensitivity", "specificity": "specificity"}
AUDIT_PAGE = "report.html"  #: of an audit in the same folder
CONFIDENT = ("reliance", "reliance confounded by leak")  #: verdicts of something that a model was shown to rely on
MOST_ROWS = 200  #: reliance rows that the page writes out, the first of the ranking first; shortcuts.csv has all


@dataclass(frozen=True)
class ShortcutReport:
    """What a shortcut audit found.

    Attributes:
        reliance: one row an editor x model x contrast. ``verdict``, ``reason``, ``q``, ``sentence``, ``rank`` (1 = look here first;
            0 = legitimate) and ``score``, its amount x prevalence x confidence; ``gain`` (probability, others held), ``gain_logit``,
            ``total_gain``, ``flips_up``, ``flips_down``, ``absolute``, ``moved``, with intervals; *in the model*. ``leak`` and
            ``leak_effect``: what the edit does to the target's manifestations; ``beyond``: gain that this does not explain, and
            ``bound_low``, ``bound_high``, which hold the gain and it; *in the editor*. ``data_marginal``, ``data_adjusted``: how the
            target's label differs with the attribute; *in the data*. ``association``: of the score with the attribute given
            the label, which needs no editor.
        manifestations: one row an editor x contrast x manifestation, read before and after.
        carriers: one row a concept that an attribute's edit moves, and what it carries of the gain.
        subgroups, gaps: performance by level, and how far the worst level falls behind.
        provenance: specification and its hash, versions, fingerprints, seed, ledger, exclusions.
    """

    reliance: pd.DataFrame
    manifestations: pd.DataFrame
    carriers: pd.DataFrame
    subgroups: pd.DataFrame
    gaps: pd.DataFrame
    provenance: Mapping[str, Any]

    def ranked(self, model: str | None = None, editor: str | None = None) -> pd.DataFrame:
        """What is not legitimate, the first to look at first."""
        rows = self.reliance[self.reliance["rank"] > 0]
        for column, wanted in (("model", model), ("editor", editor)):
            rows = rows if wanted is None else rows[rows[column] == wanted]
        return rows.sort_values(["editor", "model", "rank"], kind="stable").reset_index(drop=True)

    def relied_on(self, model: str | None = None, editor: str | None = None) -> pd.DataFrame:
        """Of :meth:`ranked` what a model was shown to rely on, leak or no leak."""
        rows = self.ranked(model, editor)
        return rows[rows["verdict"].isin(CONFIDENT)].reset_index(drop=True)

    def about(self, attribute: str, model: str | None = None, editor: str | None = None) -> pd.Series:
        """The one row of an attribute.

        Raises:
            ValueError: there is none, or several (levels, models or editors).
        """
        rows = self.reliance[self.reliance["attribute"] == attribute]
        for column, wanted in (("model", model), ("editor", editor)):
            rows = rows if wanted is None else rows[rows[column] == wanted]
        if len(rows) != 1:
            raise ValueError(
                f"There are {len(rows)} rows about {attribute!r}; attributes: {sorted(self.reliance['attribute'].unique())}, "
                f"models: {sorted(self.reliance['model'].unique())}. Select among .reliance."
            )
        return rows.iloc[0]

    def save(self, folder: str | Path) -> Path:
        """Write ``shortcuts.html``, ``shortcuts.json`` and a CSV a frame: ``shortcuts.csv``, ``shortcut-carriers.csv``, ...

        Each file is written beside and then renamed. ``shortcuts.json`` is strict JSON. Where the folder holds an audit's
        report, the page links to it.
        """
        folder = Path(folder)
        audited = (folder / "report.json").is_file()  # written after the page
        content = {
            "format": FORMAT,
            **{name: frame_to_json(getattr(self, name)) for name in FRAMES},
            "provenance": strict(self.provenance),
        }
        files = {
            "shortcuts.csv" if name == "reliance" else f"shortcut-{name}.csv": getattr(self, name).to_csv(index=False)
            for name in FRAMES
        }
        files["shortcuts.html"] = self.to_html(audit=AUDIT_PAGE if audited else None)
        files["shortcuts.json"] = json.dumps(content, indent=1, allow_nan=False)  # last: it is what is read back
        for name, text in files.items():
            with whole_file(folder / name) as partial:
                partial.write_text(text)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "ShortcutReport":
        """Read back what :meth:`save` wrote.

        Raises:
            FileNotFoundError: the folder holds no such report, or one of another version.
        """
        file = Path(folder) / "shortcuts.json"
        content = json.loads(file.read_text()) if file.is_file() else {}
        if content.get("format") != FORMAT:
            raise FileNotFoundError(
                f"{file} is missing or not of format {FORMAT}; run the ShortcutAudit with out= again."
            )
        return cls(**{name: frame_from_json(content[name]) for name in FRAMES}, provenance=content["provenance"])

    def to_html(self, *, audit: str | None = None) -> str:
        """One self-contained page that runs no script; every name from the data is escaped.

        Args:
            audit: relative address of the page of an audit of the same data, to link to.
        """
        style = (Path(pages.__file__).parent / "page.css").read_text()
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        return _environment().get_template("page.html").render(
            provenance=self.provenance, section=self.section(), style=style, style_hash=digest, audit=audit,
            carriers=len(self.carriers),
        )  # fmt: skip

    def section(self) -> str:
        """The page's content, to be put into another page that has the same style sheet."""
        ranked = pages.records(self.ranked().sort_values(["rank", "score"], ascending=[True, False], kind="stable"))
        ranked = [{**row, "id": i} for i, row in enumerate(ranked)]
        found = sorted((r for r in ranked if r["verdict"] in CONFIDENT), key=lambda r: CONFIDENT.index(r["verdict"]))
        legitimate = pages.records(self.reliance[self.reliance["legitimate"]])
        whole = self.subgroups["attribute"] == ""
        return _environment().get_template("section.html").render(
            provenance=self.provenance, ranked=ranked[:MOST_ROWS], more=max(len(ranked) - MOST_ROWS, 0), legitimate=legitimate,
            found=found, plot=_plot, tone=TONE, metric=METRIC, meaning=MEANING, verdicts=self._counts(),
            manifestations=pages.records(self.manifestations), carriers=pages.records(self.carriers),
            whole=pages.records(self.subgroups[whole]), subgroups=pages.records(self.subgroups[~whole]),
            gaps=pages.records(self.gaps[self.gaps["levels"] > 0]), specification=self.provenance["specification"],
        )  # fmt: skip

    def _repr_html_(self) -> str:
        shown = pages.records(self.relied_on())
        return _environment().get_template("notebook.html").render(
            provenance=self.provenance, shown=shown[:20], more=max(len(shown) - 20, 0), counts=self._counts()
        )  # fmt: skip

    def _counts(self) -> list[tuple[str, int]]:
        return [(verdict, int((self.reliance["verdict"] == verdict).sum())) for verdict in ORDER]


def _plot(row: Mapping[str, Any]) -> str:
    """Gain, and the association that needs no editor, with the band of gains that do not count."""
    marks = [
        (colour, float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"]))
        for colour, name in (("editor", "gain"), ("marginal", "association"))
    ]
    return pictures.intervals(marks, band=(-row["delta"], row["delta"]))


def change(value: float, digits: int) -> str:
    """With its sign and all its digits; an en dash if unknown.

    >>> change(0.0004, 3), change(-0.25, 2), change(float("nan"), 2)
    ('0.000', '−0.25', '–')
    """
    if value is None or value != value:
        return "–"
    text = f"{value:+.{digits}f}"
    return text[1:] if not text.strip("+-0.") else text.replace("-", "−")


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("causal_cxr.audits.shortcuts", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"signed": pages.signed, "number": pages.number, "change": change,
                            "percent": lambda share: "–" if share != share else percent(share).replace("-", "−"),
                            "arrow": lambda name: str(name).replace("->", "→")}  # fmt: skip
    return environment
