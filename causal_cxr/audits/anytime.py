"""An audit that stops: patients in random order, and no more edits than its verdicts need.

The editor's side of every cell is tested by betting (:mod:`causal_cxr.audits.effects.betting`), so one may look after every
shard. The unedited images are all read whatever the editor does: nothing stops there, and their p-values become e-values by a
calibrator that is fixed beforehand. A verdict has the least e-value of its conjuncts, and e-BH decides, one family a verdict
kind over all cells, as without stopping. No p-value or interval that supposes a fixed number of patients is left in what comes out.

What is taken as given, because it is known before the first edit: the order and the sizes of patients, the unedited images and
the readers. Patients are taken as independent draws, and their images as one draw each. A reader's slope J is known with error, and so is
what it sees of the attribute in the concept's place, and how far real images differ by the attribute: what means are compared with is hedged
against (:func:`causal_cxr.audits.effects.hedged`; estimates are taken as normal, as everywhere). "No" is
said of the whole that was asked: a mean is compared with delta, and with delta times what the edits do of it, image by image. A
reader that follows the attribute is not heard, nor is a second one to bear it out. As without stopping, delta itself is taken as
known where a rare concept's prevalence sets it.

Each cell stops at its own time, the first at which e-BH claims it; its evidence is that of this time, so that no later patient
takes a verdict back. The edits of a contrast end when each of its cells has a verdict, or could have none if all that is still
to be edited spoke for it without end.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from causal_cxr.audits.agreement import DIFFER, best_reader, reader_agreement
from causal_cxr.audits.analyse import Analysis, analyse
from causal_cxr.audits.associations import associations
from causal_cxr.audits.cells import EDITED, NO_EDITS, SIDES, cell, decided_about
from causal_cxr.audits.decisions import INTERNAL, sentence
from causal_cxr.audits.differences import asked_edits, paired_differences
from causal_cxr.audits.effects import (
    NOTHING,
    ClusteredSums,
    benjamini_yekutieli,
    benjamini_yekutieli_calibrator,
    confidence_sequence,
    e_bh,
    e_needed,
    hedged,
    log_e_above,
    log_e_no,
    log_e_yes,
    spared,
)
from causal_cxr.audits.falsification import independence_tests, rejected_at
from causal_cxr.audits.gates import Gate
from causal_cxr.audits.obedience import Obedience, best_readers, obedience_of, own_reader
from causal_cxr.audits.plans import Plan
from causal_cxr.audits.verdicts import Evidence, families
from causal_cxr.graphs import CausalGraph, Contrast
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality

LEVEL = 0.95  #: of confidence sequences, the reader's slope included
#: Of the range of scores: what counts, the shift, the error of both; and what counts on the concept's own scale.
ABOUT = ("counts", "seen_of_it", "counts_error", "delta")
SLOPE_SHARE = 0.2  #: of a confidence sequence's error, what is the slope's, and the shift's


@dataclass(frozen=True)
class Anytime:
    """How an audit stops.

    Attributes:
        check_every: look after so many shards.
        images_per_patient: edit at most so many images a patient, drawn at random; ``None`` for all. Bets are made on whole
            patients, and each is as small as the patient with the most images needs, so that a second image tells little
            for what it costs. With 1, the effect is that on an image drawn at random from a patient drawn at random, on all three
            sides.
    """

    check_every: int = 1
    images_per_patient: int | None = 1

    def __post_init__(self) -> None:
        if self.check_every < 1 or (self.images_per_patient is not None and self.images_per_patient < 1):
            raise ValueError(f"Anytime counts shards and images from 1, got {self}.")

    def order(self, rows: np.ndarray, patients: np.ndarray, most: int | None, seed: int) -> np.ndarray:
        """Rows to edit, whole patients in a seeded random order.

        Args:
            rows: ``(n,)`` that may be edited.
            patients: ``(n,)`` theirs.
            most: images in all, or ``None``; the last patient is kept whole where that stays within.
            seed: of the order.
        """
        rng = np.random.default_rng([seed, 1])
        order = rng.permutation(pd.unique(patients))
        frame = pd.DataFrame({"row": rows, "patient": patients, "chance": rng.uniform(size=len(rows))})
        frame["rank"] = pd.Series(np.arange(len(order)), index=order)[patients].to_numpy()
        if self.images_per_patient is not None:
            frame = frame[frame.groupby("rank")["chance"].rank() <= self.images_per_patient]
        frame = frame.sort_values(["rank", "row"], kind="stable")
        if most is not None and most < len(frame):
            inside = frame.groupby("rank")["row"].transform("size").to_numpy()
            ends = pd.Series(np.arange(1, len(frame) + 1), index=frame.index).groupby(frame["rank"]).transform("max")
            whole = frame[ends.to_numpy() <= most]
            frame = whole if len(whole) else frame[: int(inside[0])]
        return frame["row"].to_numpy()


class StoppingRule:
    """What an audit has seen so far, and which contrasts it still edits; :func:`causal_cxr.audits.measure.measure` asks it.

    Args:
        settings: how to stop.
        made: the plan; its edited rows come in random order, whole patients together.
        editors: names, in the order in which they are measured.
        patients: ``(rows of the dataset,)`` ids.
        attributes, graph, contrasts, concepts, quality, alpha, smallest_effect, labelled_outcomes: as for
            :func:`causal_cxr.audits.analyse`.

    Raises:
        ValueError: no concept is a candidate hidden attribute.
    """

    def __init__(
        self,
        settings: Anytime,
        made: Plan,
        editors: Sequence[str],
        patients: pd.Series,
        attributes: pd.DataFrame,
        graph: CausalGraph,
        contrasts: Sequence[Contrast],
        concepts: Mapping[str, Sequence[Concept]],
        quality: Mapping[str, ReaderQuality],
        *,
        alpha: float = 0.05,
        smallest_effect: float = 0.10,
        labelled_outcomes: bool = False,
    ) -> None:
        if not any(concept.attribute is None for group in concepts.values() for concept in group):
            raise ValueError(
                "No concept is a candidate hidden attribute; give a reader at least one without attribute=..."
            )
        self._settings, self._plan, self._editors = settings, made, tuple(editors)
        self._patients = patients.iloc[made.edited].astype(str).to_numpy()
        self._graph, self._table = graph, graph.coerce(attributes)
        self._contrasts = {contrast.name: contrast for contrast in contrasts}
        self._concepts, self._quality = concepts, quality
        self._alpha, self._delta, self._labelled_outcomes = alpha, smallest_effect, labelled_outcomes
        self._columns = {
            f"{reader}/{concept.name}": (reader, concept) for reader, group in concepts.items() for concept in group
        }
        own = {contrast.name: own_reader(contrast, best_readers(concepts, quality)) for contrast in contrasts}
        #: Contrast -> column that tells how much of it was done.
        self._own = {name: f"{one[0]}/{one[1].name}" for name, one in own.items() if one is not None}
        self._mediated = {t.contrast.name for t in made.targets if t.direct is not None}
        self._largest = {t.contrast.name: _largest(self._patients, t.orientation) for t in made.targets}
        self._parts = self._whole_patients()
        self._shards: dict[str, list[pd.DataFrame]] = {name: [] for name in editors}
        self._asked = {name: tuple(self._contrasts) for name in editors}
        self._looked: set[str] = set()
        self._cells = pd.DataFrame()

    def parts(self) -> list[np.ndarray]:
        """Positions among the edited rows, a shard each."""
        return self._parts

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Rows of the dataset at these positions."""
        return self._plan.edited[positions]

    def asked(self, editor: str) -> Collection[str]:
        """Names of the contrasts that are still to be edited; of all for the first shard, which is to judge the editor."""
        return self._asked[editor] if self._shards[editor] else tuple(self._contrasts)

    def begin(self, factual: pd.DataFrame) -> None:
        """Take in the unedited images; contrasts that no edit can decide are struck out.

        Args:
            factual: their measurements, accepted or not.
        """
        factual = factual[factual["accepted"]].set_index("row").sort_index()
        outcomes = {column: concept.attribute for column, (_, concept) in self._columns.items()}
        edited = np.sort(self._plan.edited[np.isin(self._plan.edited, factual.index)])
        self._factual = factual
        self._observed = {
            name: associations(self._graph, self._table, factual, outcomes, contrast, edited)
            for name, contrast in self._contrasts.items()
        }
        self._falsification = independence_tests(
            self._graph, self._table.loc[factual.index], factual["patient"].to_numpy(), alpha=self._alpha
        )
        scores = factual[list(self._columns)]
        self._low, self._high = scores.min(), scores.max()
        cells = self._described({})
        cells["chosen"] = best_reader(cells)
        tests = int(cells["chosen"].sum())
        self._most = float(e_needed(tests, 1, self._alpha))  # what a single claim needs
        for side in ("adjusted", "marginal"):
            for call in ("yes", "no"):
                p = cells[f"{side}_p_{call}"].to_numpy(dtype=float)
                cells[f"{side}_e_{call}"] = benjamini_yekutieli_calibrator(p, tests, self._alpha)
            cells[f"{side}_call"] = _calls(cells, side, self._alpha)
        contradicted = rejected_at(self._falsification)
        cells["gates"] = [tuple(gate for gate in gates if gate.kind != NO_EDITS) for gates in cells["gates"]]
        cells["gates"] = [
            (*gates, Gate("graph falsified", f"graph falsified: {contradicted[name]}")) if name in contradicted else gates
            for gates, name in zip(cells["gates"], cells["attribute"], strict=True)
        ]  # fmt: skip
        cells["direct_call"] = np.where(cells["contrast"].isin(self._mediated), "undecided", "")
        mine = cells["reader"] + "/" + cells["concept"]
        cells["range"] = (self._high - self._low)[mine].to_numpy()
        slopes = [
            self._quality[r].concepts.loc[c, "slope_se"] for r, c in zip(cells["reader"], cells["concept"], strict=True)
        ]
        cells["slope_se"] = np.array(slopes, dtype=float)
        cells["counts"] = cells["delta"] * cells["slope"] / cells["range"]
        cells["seen_of_it"] = cells["shift_removed"] / cells["range"]
        cells["counts_error"] = np.hypot(cells["delta"] * cells["slope_se"], cells["shift_se"]) / cells["range"]
        unread = cells["attribute"].isin(self._graph.image_parents) & ~cells["contrast"].isin(self._own)
        cells["mute"] = cells["blind"] | unread
        for side in EDITED:
            cells[[f"{side}_e_yes", f"{side}_e_no"]] = 1.0
        cells["editor_call"] = "undecided"
        cells["editor_sign"] = 0
        cells["editor_gates"] = [()] * len(cells)
        cells["verdict"], cells["e"], cells["at_patients"], cells["frozen"] = "undecided", np.nan, 0, False
        self._cells = cells
        for editor in self._editors:
            self._strike_out(editor)

    def saw(self, editor: str, shard: pd.DataFrame) -> None:
        """Take in the next shard of an editor, and look whether that is enough."""
        shards = self._shards[editor]
        shards.append(shard)
        if len(shards) % self._settings.check_every == 0 or len(shards) == len(self._parts):
            self._look(editor)

    def analysis(self, measurements: pd.DataFrame) -> Analysis:
        """What came out, from all that was measured until the audit stopped.

        Args:
            measurements: the whole table.

        Returns:
            as :func:`causal_cxr.audits.analyse`, but: ``{side}_e_yes`` and ``{side}_e_no`` in the place of p, e-values as they were when the
            cell got its verdict (``at_patients``) or its contrast stopped; ``e``, the verdict's own; ``editor_low`` to
            ``editor_high`` and ``direct_low`` to ``direct_high`` are confidence sequences; ``q``, ``editor_se``, ``direct_se``, ``editor_mde`` and the bounds of other tables are NaN. ``rival_q`` needs no edit
            and stays.
        """
        self._claim(pd.Series(True, index=self._cells.index))  # all editors are one family
        frames = {editor: self._clipped(editor) for editor in self._editors}
        described = self._described({e: f for e, f in frames.items() if f is not None})
        mine = self._cells.reset_index(drop=True)
        evidence = [c for c in mine.columns if c.endswith(("_e_yes", "_e_no", "_call"))]
        cells = described.assign(**{c: mine[c] for c in [*evidence, "verdict", "e", "at_patients", "frozen"]})
        fixed = [*(f"{side}_se" for side in EDITED), "editor_mde", "bound_low_95", "bound_high_95"]
        cells[fixed] = np.nan
        self._bound(cells, frames)
        unedited = [tuple(gate for gate in gates if gate.kind == NO_EDITS) for gates in cells["gates"]]
        cells["gates"] = [(*a, *b, *c) for a, b, c in zip(mine["gates"], mine["editor_gates"], unedited, strict=True)]
        cells["patients_needed"], cells["witness"] = np.nan, ""
        p = [f"{side}_p_{call}" for side in (*SIDES, "direct") for call in ("yes", "no")]
        chosen = mine["chosen"].to_numpy()
        others = cells[~chosen].drop(columns=[*p, "verdict", "e", "frozen", "witness"])
        edges = cells[chosen].assign(agreement=reader_agreement(cells[chosen], cells[~chosen])).reset_index(drop=True)
        edges["q"] = np.nan
        edges["rival_q"] = edges.groupby("editor")["adjusted_p_yes"].transform(
            lambda p: benjamini_yekutieli(p.to_numpy())
        )
        why = [Gate("", "") if row["frozen"] else self._why(row) for _, row in edges.iterrows()]
        edges["refusal"], edges["reason"] = [gate.kind for gate in why], [gate.reason for gate in why]
        edges["path_unsupported"] = edges["declared_path"].astype(bool) & (edges["adjusted_call"] == "no")
        edges["sign"] = np.sign(edges["editor_effect"]).where(edges["frozen"], 0).fillna(0).astype(int)
        strength = [f"e = {e:.3g} after {n:,} patients" for e, n in zip(edges["e"], edges["at_patients"], strict=True)]
        edges["sentence"] = [
            sentence(row, row["reason"] or said) for (_, row), said in zip(edges.iterrows(), strength, strict=True)
        ]
        first = ["editor", "attribute", "contrast", "concept", "reader", "verdict", "refusal", "reason", "q", "e",
                 "sentence"]  # fmt: skip
        hidden = (*INTERNAL, *p, "frozen")
        whole = analyse(
            measurements, self._table, self._graph, list(self._contrasts.values()), self._concepts, self._quality,
            alpha=self._alpha, smallest_effect=self._delta, labelled_outcomes=self._labelled_outcomes,
        )  # fmt: skip
        return replace(
            whole,
            edges=edges[[*first, *[c for c in edges.columns if c not in (*first, *hidden)]]],
            second_readings=others.drop(columns=list(INTERNAL)).reset_index(drop=True),
            falsification=self._falsification,
            effectiveness=_estimates_only(whole.effectiveness),
            leak=_estimates_only(whole.leak),
            heterogeneity=_estimates_only(whole.heterogeneity),
            reciprocal=_estimates_only(whole.reciprocal),
        )

    def record(self, measurements: pd.DataFrame) -> dict[str, Any]:
        """How many edits were made, of how many that were planned, null edits included; and of which contrasts."""
        edits = measurements[measurements["kind"].isin(["null", "total"])]
        by_contrast = edits[edits["kind"] == "total"].groupby(["editor", "contrast"]).size()
        planned = len(self._plan.edited) * (1 + len(self._contrasts)) * len(self._editors)
        return {
            "edits": len(edits), "planned": planned,
            "by_contrast": {e: {c: int(by_contrast.get((e, c), 0)) for c in self._contrasts} for e in self._editors},
        }  # fmt: skip

    # --- what has been seen

    def _whole_patients(self) -> list[np.ndarray]:
        """Shards of whole patients, until they have a batch of images: where one ends depends on nothing still to be seen."""
        count = len(self._patients)
        ends = [*np.flatnonzero(self._patients[1:] != self._patients[:-1]) + 1, count]
        parts, begin = [], 0
        for end in ends:
            if end - begin >= self._plan.batch_size or end == count > begin:
                parts.append(np.arange(begin, end))
                begin = end
        return parts

    def _clipped(self, editor: str) -> pd.DataFrame | None:
        """All shards of an editor, scores within the range of unedited images: what lies beyond is as much as can be."""
        if not self._shards[editor]:
            return None
        seen = pd.concat(self._shards[editor], ignore_index=True)
        columns = list(self._columns)
        return seen.assign(**seen[columns].clip(self._low, self._high, axis=1))

    def _pairs(self, seen: pd.DataFrame, contrast: Contrast) -> dict[str, pd.DataFrame | None]:
        null = seen[seen["kind"] == "null"].set_index("row")
        return {
            kind: paired_differences(seen, null, contrast, kind, list(self._columns)) for kind in ("total", "direct")
        }

    def _described(self, frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """Cells as :func:`causal_cxr.audits.cells.cell` describes them, of all readers; without edits where there are none."""
        rows = []
        for editor in self._editors:
            for name, contrast in self._contrasts.items():
                paired: dict[str, pd.DataFrame | None] = {"total": None, "direct": None}
                asked, obedience, seen = None, Obedience(NOTHING, "", []), self._observed[name]
                if editor in frames:
                    mine = frames[editor]
                    paired = self._pairs(mine, contrast)
                    obedience = self._obedience(editor, contrast, paired["total"])
                    asked = asked_edits(
                        mine, mine[mine["kind"] == "null"].set_index("row"), contrast, list(self._columns)
                    )
                for column, (reader, concept) in self._columns.items():
                    if decided_about(contrast, concept, self._labelled_outcomes):
                        rows.append(cell(editor, contrast, reader, concept, self._quality[reader], paired, asked, seen[column],
                                         self._factual, obedience, self._graph, self._alpha, self._delta, 1))  # fmt: skip
        return pd.DataFrame(rows)

    def _obedience(self, editor: str, contrast: Contrast, total: pd.DataFrame | None) -> Obedience:
        return obedience_of(editor, contrast, self._concepts, self._quality, total, self._observed[contrast.name])

    def _shares(self, frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
        """``(n, k)`` oriented differences as shares of each column's range."""
        width = (self._high - self._low)[list(columns)].to_numpy()
        return frame[list(columns)].to_numpy(dtype=float) / np.where(width > 0, width, 1.0)

    def _sums(
        self, frame: pd.DataFrame, columns: Sequence[str], contrast: str, sign: int | None = None
    ) -> ClusteredSums:
        """Oriented differences as shares of each column's range, by patient."""
        if sign is not None:
            frame = frame[frame["orientation"] == sign]
        return ClusteredSums.of(self._shares(frame, columns), frame["patient"].to_numpy(), self._largest[contrast])

    def _above(
        self, seen: ClusteredSums, border: np.ndarray, error: np.ndarray, delta: np.ndarray, *, scale: float | np.ndarray = 1.0, sides: int = 1
    ) -> np.ndarray:  # fmt: skip
        """Log e-values against "the mean is at most the border", which is known with this error; both to be divided by ``scale``.

        Where nothing changes, "no" takes about ``log(most) / counts`` images, of one of which it loses what the border lies further
        away. In the place of what counts stands half of delta, which owes nothing to the estimates that are hedged against.
        """
        cost = np.log(self._most) * error / (delta / 2)
        return hedged(lambda far: log_e_above(seen, (border + far) / scale), error, self._most, cost=cost, sides=sides)

    def _log_e_yes(self, sums: ClusteredSums, about: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """:func:`~causal_cxr.audits.effects.log_e_yes` of a border that is known with error."""
        counts, shift, error, delta = (about[c].to_numpy() for c in ABOUT)
        return log_e_yes(sums, counts, shift, partial(self._above, error=error, delta=delta, sides=2))

    def _log_e_no(
        self, frame: pd.DataFrame, columns: Sequence[str], contrast: Contrast, about: pd.DataFrame
    ) -> np.ndarray:
        """Log e-values against ``|mean - shift| >= border``, and against ``|mean - shift| >= border r`` with r the share that the
        edits do of what is asked, where the attribute shows itself: the smallest.

        ``mean - shift <= border r`` is a claim about one mean, of an image's change less ``border`` times its share, so r needs no
        estimate.
        """
        counts, shift, error, delta = (about[c].to_numpy() for c in ABOUT)
        sums = self._sums(frame, columns, contrast.name)
        found = [log_e_no(sums, counts, shift, partial(self._above, error=error, delta=delta))]
        if contrast.attribute in self._graph.image_parents:
            own = self._own[contrast.name]
            real = self._observed[contrast.name][own].marginal
            width = float(self._high[own] - self._low[own])
            if not (width > 0 and abs(real.value) > 0):
                return np.full(len(columns), -np.inf)
            # How far real images differ is known with error, too, which counts by what it is multiplied by.
            error = np.hypot(error, counts * real.se / abs(real.value))
            share = counts * width / abs(real.value)
            part = self._shares(frame, [own]) * np.sign(real.value) * share
            values, who, largest = (
                self._shares(frame, columns),
                frame["patient"].to_numpy(),
                self._largest[contrast.name],
            )
            for way in (-1, 1):
                both = ClusteredSums.of((part + way * values) / (1 + share), who, largest)
                found.append(self._above(both, way * shift, error, delta, scale=1 + share))
        return np.min(found, axis=0)

    # --- looking

    def _look(self, editor: str) -> None:
        seen = self._clipped(editor)
        if seen is None:
            return
        for name in self._asked[editor] if editor in self._looked else self._contrasts:
            self._weigh(editor, self._contrasts[name], seen)
        self._looked.add(editor)
        self._compare_readers(editor)
        self._claim(self._cells["editor"] == editor)
        self._strike_out(editor)

    def _weigh(self, editor: str, contrast: Contrast, seen: pd.DataFrame) -> None:
        """Evidence of the contrast's cells that have no verdict, from all edits so far."""
        cells = self._cells
        mine = cells.index[(cells["editor"] == editor) & (cells["contrast"] == contrast.name) & ~cells["frozen"]]
        paired = self._pairs(seen, contrast)
        total = paired["total"]
        if not len(mine) or total is None:
            return
        columns = (cells.loc[mine, "reader"] + "/" + cells.loc[mine, "concept"]).to_list()
        asked = cells.loc[mine, list(ABOUT)].to_numpy(dtype=float)
        known = np.isfinite(asked).all(axis=1) & (asked[:, 0] > 0)  # the slope is, and scores are not all the same
        mute = ~known | cells.loc[mine, "mute"].to_numpy(dtype=bool)
        about = pd.DataFrame(np.where(known[:, None], asked, [1.0, 0.0, 0.0, 1.0]), columns=list(ABOUT))
        for side, kind in zip(EDITED, ("total", "direct"), strict=True):
            frame = paired[kind]
            if frame is None:
                continue
            sums = self._sums(frame, columns, contrast.name)
            log_yes, sign = self._log_e_yes(sums, about)
            cells.loc[mine, f"{side}_e_yes"] = np.where(known, spared(log_yes, self._most), 0.0)
            log_no = np.full(len(mine), -np.inf) if mute.all() else self._log_e_no(frame, columns, contrast, about)
            cells.loc[mine, f"{side}_e_no"] = np.where(mute, 0.0, spared(log_no, self._most))
            calls = _calls(cells.loc[mine], side, self._alpha)
            cells.loc[mine, f"{side}_call"] = calls
            if side == "editor":
                cells.loc[mine, "editor_sign"] = sign
        ways = []
        for way in (1, -1):
            one = self._sums(total, columns, contrast.name, way)
            log_yes, sign = self._log_e_yes(one, about)
            ways.append(sign * (spared(log_yes, self._most) >= 1 / self._alpha))
        opposed = ways[0] * ways[1] < 0
        gates: list[Gate] = []
        if (
            self._obedience(editor, contrast, total).effective is False
            and contrast.attribute in self._graph.image_parents
        ):
            gates = [Gate("editor not effective", f"editor not effective on {contrast.attribute}")]
        asymmetric = Gate("asymmetric", "asymmetric: the two directions have opposite signs")
        found = [(*gates, *([asymmetric] if both else [])) for both in opposed]
        cells.loc[mine, "editor_gates"] = pd.Series(found, index=mine, dtype=object)
        cells.loc[mine, "at_patients"] = total["patient"].nunique()

    def _compare_readers(self, editor: str) -> None:
        """Where readers differ, no claim is made."""
        cells = self._cells
        mine = cells["editor"] == editor
        chosen = cells[mine & cells["chosen"] & ~cells["frozen"]]
        gate = Gate("readers differ", "readers differ")
        said = reader_agreement(chosen, cells[mine & ~cells["chosen"]])
        found = [
            (*gates, gate) if word == DIFFER and gate not in gates else gates
            for gates, word in zip(chosen["editor_gates"], said, strict=True)
        ]
        cells.loc[chosen.index, "editor_gates"] = pd.Series(found, index=chosen.index, dtype=object)

    def _claim(self, witnesses: pd.Series) -> None:
        """Verdicts that e-BH gives now stay.

        Args:
            witnesses: ``(cells,)`` bool, whose evidence is counted; that of the others is nothing. While one editor's edits are
                made, only its own is: when its cells stop must not depend on what another editor showed of patients to come.
        """
        rows = self._cells[self._cells["chosen"]]
        counted = witnesses[rows.index].to_numpy()
        for verdict, of_all in _families(rows).items():
            e = np.where(counted, of_all, 0.0)
            claimed = rows.index[e_bh(e, self._alpha) & ~self._cells.loc[rows.index, "frozen"].to_numpy()]
            self._cells.loc[claimed, "verdict"] = verdict
            self._cells.loc[claimed, "e"] = pd.Series(e, index=rows.index)[claimed]
            self._cells.loc[claimed, "frozen"] = True

    def _strike_out(self, editor: str) -> None:
        """Ask no more for contrasts whose cells all have a verdict, or cannot have one any more.

        Nothing can change for a cell that e-BH would not claim even if the edits to come brought evidence without end for
        whatever its unedited images allow, in it, in every other cell that is still open, and in all of other editors.
        """
        rows = self._cells[self._cells["chosen"]]
        mine = (rows["editor"] == editor).to_numpy()
        still = mine & rows["contrast"].isin(self._asked[editor]).to_numpy() & ~rows["frozen"].to_numpy()
        reachable = np.zeros(len(rows), dtype=bool)
        for e in _families(rows, still | ~mine).values():
            reachable |= e_bh(e, self._alpha)
        left = set(rows.loc[reachable & still, "contrast"])
        self._asked[editor] = tuple(name for name in self._asked[editor] if name in left)

    # --- what came out

    def _bound(self, cells: pd.DataFrame, frames: Mapping[str, pd.DataFrame | None]) -> None:
        """Confidence sequences of the edited sides, on the scale of the concept."""
        error = (1 - LEVEL) * SLOPE_SHARE
        quantile = float(stats.norm.isf(error / 4))  # half of it for the slope, half for the shift
        half = quantile * self._cells["slope_se"].to_numpy()
        slope = self._cells["slope"].to_numpy()
        for (editor, name), group in cells.groupby(["editor", "contrast"], sort=False):
            seen = frames[str(editor)]
            paired = self._pairs(seen, self._contrasts[str(name)]) if seen is not None else {}
            for side, kind in zip(EDITED, ("total", "direct"), strict=True):
                frame = paired.get(kind)
                if frame is None:
                    cells.loc[group.index, [f"{side}_low", f"{side}_high"]] = np.nan
                    continue
                columns = (group["reader"] + "/" + group["concept"]).to_list()
                bounds = confidence_sequence(self._sums(frame, columns, str(name)), LEVEL + error)
                width = (self._high - self._low)[columns].to_numpy()
                steep, flat = (slope + way * half for way in (1, -1))
                flat = np.where(flat > 0, flat, np.nan)[group.index]
                steep = steep[group.index]
                off = quantile * group["shift_se"].to_numpy()
                low, high = (
                    bound * width - group["shift_removed"].to_numpy() + way * off
                    for bound, way in zip(bounds, (-1, 1), strict=True)
                )
                cells.loc[group.index, f"{side}_low"] = np.minimum(low / steep, low / flat)
                cells.loc[group.index, f"{side}_high"] = np.maximum(high / steep, high / flat)

    def _why(self, row: pd.Series) -> Gate:
        """Why a cell has no verdict."""
        if row["gates"]:
            return row["gates"][0]
        if row["blind"]:
            return Gate("reader blind", f"reader blind (slope {row['slope']:.2f}); it cannot say 'no'")
        after = f"stopped: after {row['at_patients']:,} patients"
        unread = [side for side in ("adjusted", "marginal") if row[f"{side}_call"] == "undecided"]
        if row["contrast"] in self._asked[row["editor"]]:
            best = max(row["editor_e_yes"], row["editor_e_no"])
            return Gate("more patients", f"stopped: all edits are made; the editor's e is {best:.3g}")
        if unread:
            return Gate(
                "more patients",
                f"{after}, as no edit can decide what unedited images leave open ({' and '.join(unread)})",
            )
        return Gate("correction", f"{after}, as no edit can decide after correction for the number of cells")


def replay(rule: StoppingRule, measurements: pd.DataFrame) -> tuple[Analysis, pd.DataFrame]:
    """What would have come out, had a finished audit been one that stops; its plan was made in random order.

    Args:
        rule: that has seen nothing yet.
        measurements: of all edits.

    Returns:
        the analysis, and the measurements that it needed.
    """
    factual = measurements[measurements["kind"] == "factual"]
    rule.begin(factual)
    used = [factual]
    for editor, mine in measurements[measurements["kind"] != "factual"].groupby("editor", sort=False):
        for positions in rule.parts():
            asked = rule.asked(str(editor))
            if not asked:
                break
            shard = mine[mine["row"].isin(rule.rows(positions)) & mine["contrast"].isin(["", *asked])]
            rule.saw(str(editor), shard)
            used.append(shard)
    kept = pd.concat(used, ignore_index=True)
    return rule.analysis(kept), kept


def _largest(patients: np.ndarray, orientation: np.ndarray) -> int:
    """Images of one patient to which a contrast applies, at most."""
    return int(pd.Series(patients[orientation != 0]).value_counts().max()) if (orientation != 0).any() else 1


def _calls(cells: pd.DataFrame, side: str, alpha: float) -> np.ndarray:
    """What one side says by itself."""
    yes, no = (cells[f"{side}_e_{call}"] >= 1 / alpha for call in ("yes", "no"))
    said = np.where(yes, "yes", np.where(no & ~cells["mute" if side in EDITED else "blind"], "no", "undecided"))
    known = cells[f"{side}_call"] != "" if f"{side}_call" in cells else True
    return np.where(known, said, "")


def _families(rows: pd.DataFrame, hopeful: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Verdict -> ``(n,)`` e-values: the least of its conjuncts'. ``hopeful`` cells as if the edited sides said all they could.

    A cell whose gate failed has 0. An e-value enters as its inverse, a p-value, which turns the least into the largest; what
    the edits of a hopeful cell will say, signs and gates included, is free.
    """
    hopeful = np.zeros(len(rows), dtype=bool) if hopeful is None else hopeful
    cells = [_evidence(row, bool(free)) for row, free in zip(rows.to_dict("records"), hopeful, strict=True)]
    with np.errstate(divide="ignore"):
        return {verdict: np.where(p >= 1, 0.0, 1 / p) for verdict, p in families(cells).items()}


def _evidence(row: Mapping[Any, Any], free: bool) -> Evidence:
    p = {call: {s: _inverse(row[f"{s}_e_{call}"]) for s in (*SIDES, "direct")} for call in ("yes", "no")}
    signs: dict[str, float | None] = {s: float(np.sign(row[f"{s}_effect"])) for s in ("adjusted", "marginal")}
    if free:
        p["yes"] |= dict.fromkeys(EDITED, 0.0)
        p["no"] |= dict.fromkeys(EDITED, 1.0 if row["mute"] else 0.0)
    signs["editor"] = None if free else float(row["editor_sign"])
    refused = bool(row["gates"]) or (not free and bool(row["editor_gates"]))
    return Evidence(p["yes"], p["no"], signs, bool(row["declared_path"]), row["direct_call"] != "", refused)


def _inverse(e: float) -> float:
    return 1 / e if e > 1 else 1.0


def _estimates_only(frame: pd.DataFrame) -> pd.DataFrame:
    """Without p, q and bounds that suppose a fixed number of patients."""
    return frame.assign(**dict.fromkeys([c for c in ("low", "high", "p", "q") if c in frame], np.nan))
