"""The cheap half of a shortcut audit: measured scores in, frames out. Pure and repeatable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.associations import Association, associations
from causal_cxr.audits.cells import BLIND_SLOPE
from causal_cxr.audits.differences import asked_edits, paired_differences
from causal_cxr.audits.effects import NOTHING, Effect
from causal_cxr.audits.obedience import Obedience, obedience_of
from causal_cxr.audits.report import Report
from causal_cxr.audits.report.frames import records
from causal_cxr.audits.shortcuts import carriers as carrying
from causal_cxr.audits.shortcuts import leaks
from causal_cxr.audits.shortcuts.decisions import Rule, threshold_of
from causal_cxr.audits.shortcuts.gains import (
    association_given_target,
    effect_of,
    gain_of,
    logit_column,
    score_column,
    told,
)
from causal_cxr.audits.shortcuts.shortfalls import DataSide, Reliability, Shortfall, reliability
from causal_cxr.audits.shortcuts.subgroups import performance
from causal_cxr.audits.shortcuts.verdicts import decide, leak_in_words, rank, sentence
from causal_cxr.graphs import Binary, CausalGraph, Continuous, Contrast
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.reader import Reader

LABEL = "label"  #: column of the target's labels beside the scores

#: Of ``reliance``, in this order.
COLUMNS = (
    "editor", "model", "attribute", "contrast", "verdict", "reason", "q", "rank", "score", "sentence", "legitimate", "ancestor",
    "edit", "n", "n_patients", "rejected", "delta", "threshold", "gain", "gain_low", "gain_high", "p_yes", "p_no", "gain_logit",
    "gain_logit_low", "gain_logit_high", "total_gain", "total_gain_low", "total_gain_high", "gain_up", "gain_down",
    "flips_up", "flips_up_low", "flips_up_high", "flips_down", "flips_down_low", "flips_down_high", "absolute", "absolute_low",
    "absolute_high", "moved", "moved_low", "moved_high", "effectiveness", "leak", "leak_concept", "leak_effect", "leak_low",
    "leak_high", "beyond", "beyond_low", "beyond_high", "bound_low", "bound_high", "missing", "missing_low", "missing_high",
    "made_up", "made_up_low", "made_up_high", "missing_shown", "missing_why", "data_marginal", "data_marginal_low",
    "data_marginal_high", "data_adjusted", "data_adjusted_low", "data_adjusted_high", "association", "association_low",
    "association_high", "association_p", "prevalence", "amount", "confidence", "p_zero", "q_moves", "p_unmoved",
    "patients_needed",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What a shortcut audit asks, as checked by :class:`~causal_cxr.audits.shortcuts.ShortcutAudit`, where it is explained.

    Attributes:
        read_target: manifestation, the target among them -> who reads it.
        carriers: attribute -> hidden attributes that may carry its reliance.
    """

    graph: CausalGraph
    target: str
    readers: tuple[Reader, ...]
    manifestations: tuple[str, ...]
    interventions: tuple[Contrast, ...]
    read_target: Mapping[str, Sequence[tuple[Reader, Concept]]]
    carriers: Mapping[str, tuple[Binary, ...]]
    alpha: float
    smallest_effect: float
    largest_leak: float
    threshold: float | Rule | Mapping[str, float]
    prevalence: float | None

    def to_dict(self) -> dict[str, Any]:
        """What the analysis alone depends on; change it, and nothing is measured again but new carriers."""
        return {
            "target": self.target,
            "manifestations": list(self.manifestations),
            "alpha": self.alpha,
            "smallest_effect": self.smallest_effect,
            "largest_leak": self.largest_leak,
            "threshold": dict(self.threshold) if isinstance(self.threshold, Mapping) else self.threshold,
            "prevalence": self.prevalence,
            "carriers": {name: [carrier.name for carrier in group] for name, group in self.carriers.items()},
        }

    def answer(
        self,
        measurements: pd.DataFrame,
        attributes: pd.DataFrame,
        able: Mapping[str, frozenset[str]],
        models: Sequence[str],
        alone: Mapping[str, Mapping[str, pd.DataFrame]],
        report: Report | None,
    ) -> dict[str, pd.DataFrame]:
        """The frames of a :class:`~causal_cxr.audits.shortcuts.ShortcutReport`.

        Args:
            measurements: of :mod:`causal_cxr.audits.measure`, with the models' probabilities.
            attributes: the dataset's table, index = its rows.
            able: editor -> what it can set.
            models: their names.
            alone: editor -> concept -> scores, see :func:`~causal_cxr.audits.shortcuts.alone.edited_alone`.
            report: whose revealed edges name candidate carriers.
        """
        factual = measurements[(measurements["kind"] == "factual") & measurements["accepted"]]
        factual = factual.set_index("row").sort_index()
        table = self.graph.coerce(attributes)
        known = table.loc[factual.index]
        present = self.graph.attributes[self.target].encode(known[self.target])
        factual = factual.assign(**{LABEL: present})
        thresholds = self._thresholds(factual, models)
        edited = np.sort(measurements.loc[measurements["kind"] == "null", "row"].unique())
        seen = {c.name: self._observe(c, table, factual, edited, list(models)) for c in self.interventions}
        reliance, readings, carried = [], [], []
        for name, settable in able.items():
            mine = measurements[measurements["editor"] == name]
            rows, read, moved = self._by_editor(name, settable, mine, thresholds, seen, alone[name], report)
            reliance += rows
            readings += read
            carried += moved
        others = [name for name in self.graph.labelled if name != self.target]
        subgroups, gaps = performance(factual, known, present, self.graph, others, thresholds)
        return {
            "reliance": pd.DataFrame(reliance, columns=list(COLUMNS)).reset_index(drop=True),
            "manifestations": pd.DataFrame(readings, columns=list(leaks.COLUMNS)),
            "carriers": pd.DataFrame(carried, columns=list(carrying.COLUMNS)),
            "subgroups": subgroups,
            "gaps": gaps,
        }

    def _thresholds(self, factual: pd.DataFrame, models: Sequence[str]) -> dict[str, float]:
        if isinstance(self.threshold, Mapping):
            return {name: float(self.threshold[name]) for name in models}
        if not isinstance(self.threshold, str):
            return {name: float(self.threshold) for name in models}
        labelled = factual[factual[LABEL].notna()]
        present = (labelled[LABEL] == 1).to_numpy()
        return {
            name: threshold_of(labelled[score_column(name)].to_numpy(), present, self.threshold, self.prevalence)
            for name in models
        }

    def _observe(
        self, contrast: Contrast, table: pd.DataFrame, factual: pd.DataFrame, edited: np.ndarray, models: list[str]
    ) -> dict[str, Any]:
        """What unedited images say: the attribute's own reading, the label, and each model's score given the label."""
        own = {
            f"{r.name}/{c.name}": c.attribute
            for r in self.readers
            for c in r.concepts
            if c.attribute == contrast.attribute
        }
        found: dict[str, Any] = {"own": associations(self.graph, table, factual, own, contrast, edited)}
        if contrast.attribute != self.target:
            labelled = factual[factual[LABEL].notna()]
            outcome: dict[str, str | None] = {LABEL: self.target}
            found["label"] = associations(self.graph, table, labelled, outcome, contrast, edited)[LABEL]
            known = table.loc[factual.index]
            rival = association_given_target(
                factual, self.graph.attributes[contrast.attribute], contrast, known[contrast.attribute], known[self.target],
                [score_column(m) for m in models],
            )  # fmt: skip
            found["rival"] = dict(zip(models, rival, strict=True))
            signs = {
                f"{reader.name}/{concept.name}": self._reliability(factual, reader, concept)
                for reader, concept in self._readable(None)
            }
            found["data_side"] = DataSide(
                self.graph, table, factual, contrast, signs, [score_column(m) for m in models]
            )
        found["prevalence"] = self._prevalence(contrast, table.loc[factual.index], factual["patient"])
        return found

    def _prevalence(self, contrast: Contrast, known: pd.DataFrame, patients: pd.Series) -> float:
        """Share of the patients' images at the level that the contrast goes to, or that its shift moves."""
        attribute, values = self.graph.attributes[contrast.attribute], known[contrast.attribute]
        applies = (
            contrast.apply(attribute, values)[1] != 0 if isinstance(attribute, Continuous)
            else (values == contrast.level).to_numpy(dtype=bool)
        )  # fmt: skip
        there = pd.Series(applies.astype(float))[values.notna().to_numpy()]
        return float(there.groupby(patients[values.notna().to_numpy()].to_numpy()).mean().mean())

    def _by_editor(
        self, name: str, settable: frozenset[str], mine: pd.DataFrame, thresholds: Mapping[str, float], seen: Mapping[str, Any],
        alone: Mapping[str, pd.DataFrame], report: Report | None,
    ) -> tuple[list[dict[str, Any]], list[list[Any]], list[list[Any]]]:  # fmt: skip
        null = mine[mine["kind"] == "null"].set_index("row")
        columns = [f"{r.name}/{c.name}" for r in self.readers for c in r.concepts]
        columns += [column for m in thresholds for column in (logit_column(m), score_column(m))]
        concepts, quality = {r.name: r.concepts for r in self.readers}, {r.name: r.quality for r in self.readers}
        total = {c.name: paired_differences(mine, null, c, "total", columns) for c in self.interventions}
        held = {c.name: paired_differences(mine, null, c, "direct", columns) for c in self.interventions}
        paired = {c: total[c] if held[c] is None else held[c] for c in total}
        by_target = next((paired[c.name] for c in self.interventions if c.attribute == self.target), None)
        alone = {concept: carrying.own_differences(frame, thresholds) for concept, frame in alone.items()}
        rows: dict[str, list[dict[str, Any]]] = {model: [] for model in thresholds}
        readings: list[list[Any]] = []
        carried: list[list[Any]] = []
        for contrast in self.interventions:
            frame, about = paired[contrast.name], seen[contrast.name]
            obedience = obedience_of(name, contrast, concepts, quality, frame, about["own"])
            legitimate = contrast.attribute in (self.target, *self.manifestations)
            read: tuple[leaks.Reading, ...] = ()
            if frame is not None and not legitimate:
                read = leaks.read_leaks(
                    frame,
                    self.read_target,
                    contrast,
                    self.graph.attributes[contrast.attribute],
                    delta=self.largest_leak,
                    alpha=self.alpha,
                )
                readings += leaks.frame_of(name, contrast.name, contrast.attribute, read)
            common = {
                "editor": name, "attribute": contrast.attribute, "contrast": contrast.name, "legitimate": legitimate,
                "ancestor": self.graph.has_directed_path(contrast.attribute, self.target),
                "edit": "" if frame is None else "total" if held[contrast.name] is None else "others held",
                "delta": self.smallest_effect, "effectiveness": obedience.done.value,
                "rejected": _rejected(mine, null, contrast), "prevalence": about["prevalence"],
                "settable": contrast.attribute in settable, "effective": obedience.effective,
                **_data(about.get("label")), **_leak(read),
            }  # fmt: skip
            candidates = self._candidates(contrast.attribute, report)
            short: Mapping[str, Shortfall] = {}
            if frame is not None and not legitimate and self._holds_others(contrast, held[contrast.name]):
                short = about["data_side"].shortfalls(frame)
            for model, threshold in thresholds.items():
                missing = short.get(score_column(model))
                row = self._row(
                    model, frame, total[contrast.name], threshold, read, by_target, missing, obedience, common
                )
                rows[model].append(row | _rival(about.get("rival", {}).get(model)))
                if frame is not None and not legitimate and candidates:
                    of_these = {c: f for c, f in alone.items() if c in {k.name for _, k in candidates}}
                    carried += carrying.carried(
                        name,
                        model,
                        contrast,
                        frame,
                        candidates,
                        of_these,
                        delta=self.smallest_effect,
                        alpha=self.alpha,
                        declared=contrast.attribute in self.carriers,
                    )
        decided: list[dict[str, Any]] = []
        for model_rows in rows.values():
            judged = rank(decide(pd.DataFrame(model_rows), self.alpha))
            decided += records(judged.assign(sentence=[sentence(row) for _, row in judged.iterrows()]))
        return decided, readings, carried

    def _row(
        self, model: str, frame: pd.DataFrame | None, total: pd.DataFrame | None, threshold: float,
        read: tuple[leaks.Reading, ...], by_target: pd.DataFrame | None, short: Shortfall | None, obedience: Obedience,
        common: Mapping[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        delta, column = self.smallest_effect, score_column(model)
        gain, numbers = gain_of(frame, total, model, threshold, delta)
        up, down = (effect_of(frame, column, sign).unsettled() for sign in (1, -1))
        opposed = up.value * down.value < 0 and max(up.p_yes(delta), down.p_yes(delta)) <= self.alpha
        beyond, p_beyond = NOTHING, np.nan
        if frame is not None and read:
            left = [leaks.explained(column, frame, by_target, r, alpha=self.alpha) for r in read]
            beyond = min((e for e in left if e.n), key=lambda e: e.value * np.sign(gain.value), default=NOTHING)
            p_beyond = max(self._p_beyond(e, gain, r) for e, r in zip(left, read, strict=True))
        attribute = common["attribute"]
        missing = self._missing(short, gain, common["contrast"])
        shows = attribute in self.graph.image_parents
        whole = (
            obedience.in_full(gain) if shows and obedience.effective else gain
        )  # what is not effective is refused below
        gate = (
            f"the editor cannot set {attribute}" if not common["settable"]
            else "no edit was accepted" if frame is None
            else "fewer than three patients" if not gain.n
            else f"editor not effective on {attribute}" if common["effective"] is False and shows
            else "asymmetric: the two directions have opposite signs" if opposed
            else ""
        )  # fmt: skip
        bars = (
            f"nothing reads {attribute}, so that it was set is not shown" if common["effective"] is None and shows
            else "the edit moves what the target shows as, which may cancel a reliance" if common["leak"] == "moved"
            else missing["missing_why"] if missing["missing_shown"] and missing["made_up_p_no"] > self.alpha
            else ""
        )  # fmt: skip
        ends = [*gain.interval(), *(beyond.interval() if beyond.n else ())] if gain.n else [np.nan]
        return {
            "model": model, **common, **numbers, "n": gain.n, "n_patients": gain.patients, "threshold": threshold,
            "p_yes": gain.p_yes(delta), "p_no": whole.p_no(delta), "p_zero": gain.p_yes(0.0), **told("beyond", beyond),
            "p_beyond": p_beyond, **missing,
            "bound_low": min(ends), "bound_high": max(ends), "gate": gate, "bars_invariant": bars,
            "needed_gain": (gain if abs(gain.value) > delta else whole).patients_needed(delta, self.alpha),
        }  # fmt: skip

    def _p_beyond(self, beyond: Effect, gain: Effect, reading: leaks.Reading) -> float:
        """p of "what a movement of a manifestation does not explain is too little to count".

        Where that cannot be told, as no edit moves the target, a movement may explain as much of the gain as it is large, if the
        reading tells: a score moves by no more than 1 where the manifestation does.
        """
        if not beyond.n:
            most = abs(reading.effect.value) * np.sign(gain.value)
            beyond = gain.less(float(most), reading.effect.se) if reading.state == "unmoved" else gain
        return beyond.p_yes(self.smallest_effect) if beyond.value * gain.value > 0 else 1.0

    @staticmethod
    def _reliability(factual: pd.DataFrame, reader: Reader, concept: Concept) -> Reliability:
        q: Any = reader.quality.concepts.loc[concept.name]
        scores = factual[f"{reader.name}/{concept.name}"].to_numpy(dtype=float)
        prevalence = reader.quality.prevalence(concept.name, float(scores.mean()))
        return reliability(scores, prevalence, float(q["slope"]), float(q["slope_se"]))

    def _holds_others(self, contrast: Contrast, held: pd.DataFrame | None) -> bool:
        """Whether the edits that gains are told of leave the other labelled attributes as they were."""
        others = set(self.graph.labelled) - {contrast.attribute}
        return held is not None or not any(self.graph.has_directed_path(contrast.attribute, name) for name in others)

    def _missing(self, short: Shortfall | None, gain: Effect, contrast: str) -> dict[str, Any]:
        """What the gain misses where the edit does not move signs as far as the data do, and the gain with that made up."""
        whole = NOTHING if short is None or not gain.n else short.made_up
        missing = NOTHING if short is None or not gain.n else short.missing
        shown = short is not None and missing.n > 0 and missing.p_yes(0.0) <= self.alpha
        why = ""
        if shown and short is not None:
            read = {
                f"{reader.name}/{concept.name}": concept.name for reader in self.readers for concept in reader.concepts
            }
            name, (low, high) = read[short.most], whole.interval()
            why = (
                f"{contrast} moves the reading of {name} by {short.edited:+.2f}, in unedited images it goes with {short.data:+.2f}; "
                f"with that made up the gain would be {whole.value:+.3f} [{low:+.3f}, {high:+.3f}]"
            )
        return {
            **told("missing", missing), **told("made_up", whole), "missing_shown": shown, "missing_why": why,
            "made_up_p_zero": whole.p_yes(0.0), "made_up_p_no": whole.p_no(self.smallest_effect),
        }  # fmt: skip

    def _candidates(self, attribute: str, report: Report | None) -> list[tuple[Reader, Any]]:
        """Concepts that may carry an attribute's reliance."""
        wanted: set[str] | None = None
        if attribute in self.carriers:
            wanted = {carrier.name for carrier in self.carriers[attribute]}
        elif report is not None:
            revealed = report.revealed()
            wanted = set(revealed.loc[revealed["attribute"] == attribute, "concept"])
        return self._readable(wanted)

    def _readable(self, wanted: set[str] | None) -> list[tuple[Reader, Any]]:
        """Concepts that no column has, each by the reader with the highest lower bound of its slope.

        Args:
            wanted: by name; all but controls unless given.
        """
        best: dict[str, tuple[float, Reader, Any]] = {}
        for reader in self.readers:
            for concept in reader.concepts:
                if concept.attribute is not None or (concept.control if wanted is None else concept.name not in wanted):
                    continue
                if concept.name in self.read_target:
                    continue
                low: Any = reader.quality.concepts.loc[concept.name, "slope_low"]
                merit = -1.0 if np.isnan(low) else float(low)
                if concept.name not in best or merit > best[concept.name][0]:
                    best[concept.name] = (merit, reader, concept)
        return [(reader, concept) for merit, reader, concept in best.values() if merit >= BLIND_SLOPE]


def _rejected(mine: pd.DataFrame, null: pd.DataFrame, contrast: Contrast) -> float:
    asked = asked_edits(mine, null, contrast, [])
    return np.nan if asked is None else 1 - float((asked["accepted"] & asked["accepted@null"]).mean())


def _data(label: Association | None) -> dict[str, float]:
    """In the data: how the target's label differs with the attribute, not adjusted and adjusted by the declared graph."""
    sides = (NOTHING, NOTHING) if label is None else (label.marginal, label.adjusted)
    return told("data_marginal", sides[0]) | told("data_adjusted", sides[1])


def _rival(effect: Effect | None) -> dict[str, float]:
    """What needs no editor: the score's association with the attribute, given the label."""
    effect = NOTHING if effect is None else effect
    return {**told("association", effect), "association_p": effect.p_yes(0.0) if effect.n else np.nan}


def _leak(read: tuple[leaks.Reading, ...]) -> dict[str, Any]:
    """In the editor: the manifestation that decides whether the target was left as it was."""
    if not read:
        return {"leak": "", "leak_concept": "", "leak_why": "", "p_unmoved": np.nan, "needed_leak": np.nan,
                **told("leak_effect", NOTHING)} | {"leak_low": np.nan, "leak_high": np.nan}  # fmt: skip
    first = leaks.worst(read)
    low, high = first.effect.interval() if first.effect.n else (np.nan, np.nan)
    tell = [r for r in read if r.state != "unmoved"] or [first]
    return {
        "leak": first.state, "leak_concept": first.concept, "leak_effect": first.effect.value, "leak_low": low,
        "leak_high": high, "leak_why": leak_in_words(tell), "p_unmoved": max(r.p_unmoved for r in read),
        "needed_leak": max((r.patients_needed for r in read if r.state == "open"), default=np.nan),
    }  # fmt: skip
