"""What an editor should not be used for: its limits by attribute and group of patients, with no truth at hand.

A limit is claimed where a whole 95% interval lies beyond the threshold; "fine" where it lies on the right side; anything else is
not known, which is said and is not the same as fine. Patients are the clusters of every interval. Intervals are each for
itself: of many questions asked some limits near their threshold will be by chance.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from causal_cxr.audits.acceptance import patient_groups
from causal_cxr.audits.associations import marginal_association
from causal_cxr.audits.changes import GUARDED, REST
from causal_cxr.audits.differences import paired_differences
from causal_cxr.audits.effects import Effect, paired_effect, paired_ratio
from causal_cxr.audits.looks import Looks
from causal_cxr.audits.obedience import EFFECTIVE_RATIO, best_readers, own_reader, share_of
from causal_cxr.audits.scales import Scale
from causal_cxr.graphs import CausalGraph, Continuous, Contrast
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.concordance import concordance
from causal_cxr.readers.quality import ReaderQuality

DRIFT_ONE = 0.02  #: of an intensity, after one null edit: five grey levels, that no one sees
DRIFT_TEN = 0.05  #: after ten: half of what two patients of the phantoms differ by
STAYS = 0.5  #: of an edit's change, when it is edited back: more than half of it was not the edit's to undo
STRANGER = 1.0  #: of the distance to another patient's image: an edit that goes so far has not kept the patient
SPILL = 0.5  #: of the change inside the declared region, outside it, a pixel
ARTEFACT = 1.0  #: of the change of the rest, in corners, border or markers: no attribute of the body shows there more
UNSEEN = 1 / 255  #: mean change of a region: less than one grey level is none
LETTERS = 0.05  #: of the side: a word of three letters
TOLD = 0.8  #: AUROC: of five pairs of a made and a real image, four are told apart
RECOGNISED = 0.5  #: of edits, nearest to their own patient of up to 256: the true counterfactuals of phantoms reach 0.75 in these features
ACCEPTED = 0.9  #: of edits, that the editor stands by; one in ten left out can turn a difference between groups
BANDS = 3  #: of a number's groups
STILL = 1e-4  #: mean change of an edit, below which there is nothing to undo

State = Literal["fine", "limit", "unknown"]
KINDS = ("effectiveness", "composition", "reversibility", "minimality", "place", "artefacts", "realism", "identity", "leak",
         "acceptance")  # fmt: skip
COLUMNS = ("editor", "attribute", "contrast", "kind", "about", "group", "level", "value", "low", "high", "sense",
           "threshold", "n", "patients", "state", "why")  # fmt: skip


@dataclass(frozen=True)
class _Found:
    """A number with its interval; ``why`` it is unknown whatever the interval, if it is; ``fine`` whatever it is."""

    value: float
    low: float
    high: float
    n: int
    patients: int
    why: str = ""
    fine: bool = False


def limits(
    measurements: pd.DataFrame,
    looks: Looks,
    attributes: pd.DataFrame,
    graph: CausalGraph,
    contrasts: Sequence[Contrast],
    concepts: Mapping[str, Sequence[Concept]],
    quality: Mapping[str, ReaderQuality],
    *,
    smallest_effect: float = 0.10,
    may_touch: Mapping[str, Collection[str]] | None = None,
) -> pd.DataFrame:
    """Limits of every editor, by contrast, kind of limit and group of patients.

    Args:
        measurements, looks: as :mod:`causal_cxr.audits.measure` wrote them.
        attributes: the dataset's labelled table, index = its rows.
        graph: the declared one; groups are the levels of its labelled attributes, and thirds of numbers.
        contrasts: as measured.
        concepts, quality: by reader name.
        smallest_effect: threshold of leaks, a risk difference.
        may_touch: attribute -> guarded regions (``corners``, ``border``, ``markers``, ``lettering``) that it may change, as a view
            may the border; ``{}``: none may any. Unless given it is not known, and a change there is told, but no limit.

    Returns:
        One row an editor x contrast x kind x group (``group`` and ``level`` are empty for all patients; ``contrast`` for null
        edits), ``about`` what within the kind. ``value`` with its 95% patient-clustered interval ``low`` to ``high``; ``sense``
        (``at least``, ``at most``, ``within`` +-) and ``threshold`` say what is wanted; ``n`` images of ``patients``;
        ``state``, and ``why`` it is unknown where the interval is not the reason.

        - ``effectiveness``: change of the attribute's own reading over the difference of real images of the group;
        - ``composition``: mean absolute change after 1 and 10 null edits (Monteiro et al., ICLR 2023);
        - ``reversibility``: of the change that an edit makes, what an edit back leaves, beyond two null edits;
        - ``minimality``: change beyond the null edit over the distance to another patient's image;
        - ``place``: change a pixel outside the declared region of all that moves over that inside;
        - ``artefacts``: change of corners, border and marker boxes over that of the rest; of lines of letters, of the side. Where
          other attributes move along with the set one, images are left out;
        - ``realism``: AUROC of made against real images with like attributes (:mod:`causal_cxr.audits.likeness`);
        - ``identity``: share of edits whose nearest patient is their own;
        - ``leak``: change of a labelled attribute that the set one does not cause, as read;
        - ``acceptance``: share of edits that the editor accepts.
    """
    table = graph.coerce(attributes)
    rows: list[tuple[Any, ...]] = []
    for editor in sorted(measurements.loc[measurements["kind"] == "null", "editor"].unique()):
        mine = measurements[measurements["editor"] == editor]
        edited = np.sort(mine.loc[mine["kind"] == "null", "row"].unique())
        groups = [("", "", edited), *patient_groups(table.loc[edited], graph, BANDS)]
        judge = _Judge(editor, mine, looks, table, graph, concepts, quality, smallest_effect, may_touch, measurements)
        for group, level, members in groups:
            for key, sense, threshold, found in judge.of(contrasts, group, members):
                state = _state(found, sense, threshold)
                why = found.why or ("" if np.isfinite(found.low) or state != "unknown" else "too few patients")
                rows.append((editor, *key, group, level, found.value, found.low, found.high, sense, threshold, found.n,
                             found.patients, state, why))  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _state(found: _Found, sense: str, threshold: float) -> State:
    if found.fine:
        return "fine"
    if found.why or np.isnan(found.low) or np.isnan(found.high):
        return "unknown"
    if sense == "at least":
        return "fine" if found.low >= threshold else "limit" if found.high < threshold else "unknown"
    if sense == "at most":
        return "fine" if found.high <= threshold else "limit" if found.low > threshold else "unknown"
    inside = -threshold <= found.low and found.high <= threshold
    return "fine" if inside else "limit" if found.low > threshold or found.high < -threshold else "unknown"


Asked = tuple[tuple[str, str, str, str], str, float, _Found]  # (attribute, contrast, kind, about), sense, threshold


class _Judge:
    """One editor's numbers, asked for group by group."""

    def __init__(
        self, editor: str, mine: pd.DataFrame, looks: Looks, table: pd.DataFrame, graph: CausalGraph,
        concepts: Mapping[str, Sequence[Concept]], quality: Mapping[str, ReaderQuality], smallest_effect: float,
        may_touch: Mapping[str, Collection[str]] | None, measurements: pd.DataFrame,
    ) -> None:  # fmt: skip
        self.table, self.graph = table, graph
        self.quality, self.smallest_effect, self.may_touch = quality, smallest_effect, may_touch
        self.refused = looks.refused.get(editor, {})
        self.readers = best_readers(concepts, quality)
        self.columns = [f"{reader}/{concept.name}" for reader, concept in self.readers.values()]
        patients = pd.Index(measurements["patient"].unique())

        def light(frame: pd.DataFrame) -> pd.DataFrame:
            """Without the texts, which cost the most when parts are taken; patients are numbered alike in all frames."""
            numbered = frame.assign(patient=patients.get_indexer(frame["patient"]))
            return numbered.drop(columns=["editor", "attribute", "kind", "test", "reason"], errors="ignore")

        unedited = measurements[(measurements["kind"] == "factual") & measurements["accepted"]]
        self.unedited = light(unedited.set_index("row").sort_index())[["patient", *self.columns]]
        self.mine, self.null = mine, mine[mine["kind"] == "null"].set_index("row")
        changes, cycles, alike = (
            frame[frame["editor"] == editor] for frame in (looks.changes, looks.cycles, looks.likeness)
        )
        stood_by = changes[changes["accepted"].astype(bool)]
        known = alike.merge(stood_by[["row", "contrast"]], on=["row", "contrast"]) if len(alike) else alike
        self.changes = _by(light(stood_by), "contrast")
        self.made = _by(light(known[known["made"].astype(bool)]), "contrast")
        self.real = _by(light(alike[~alike["made"].astype(bool)]), "contrast")
        composed = _by(light(cycles[cycles["test"] == "composition"]), "cycles")
        self.composed = {number: composed(number).set_index("row") for number in (1, 2, 10)}
        self.reversed = _by(light(cycles[cycles["test"] == "reversibility"]), "contrast")
        self.asked = _by(light(mine[(mine["kind"] == "total") & (mine["orientation"] != 0)]), "contrast")
        self.another = changes.loc[changes["kind"] == "null"].set_index("row")["another"]
        self.scales: dict[tuple[str, str], tuple[Scale, str]] = {}
        self.paired: dict[str, pd.DataFrame | None] = {}

    def of(self, contrasts: Sequence[Contrast], group: str, members: np.ndarray) -> Iterator[Asked]:
        """All that is asked of a group of images."""
        yield from self._null(members)
        for contrast in contrasts:
            about = (contrast.attribute, contrast.name)
            for kind, what, sense, threshold, found in (
                *self._effectiveness(contrast, group, members), *self._reversibility(contrast, members),
                *self._changes(contrast, members), *self._likeness(contrast, group, members),
                *self._leaks(contrast, group, members), *self._acceptance(contrast, members),
            ):  # fmt: skip
                yield (*about, kind, what), sense, threshold, found

    def _null(self, members: np.ndarray) -> Iterator[Asked]:
        for number, words, most in ((1, "one null edit", DRIFT_ONE), (10, "ten null edits", DRIFT_TEN)):
            one = self.composed[number]
            one = one[one.index.isin(members)]
            found = _mean(one["distance"], one["patient"], refused=self.refused.get("composition", ""))
            yield ("", "", "composition", words), "at most", most, found
        yield ("", "", "realism", "null edits"), "at most", TOLD, self._told("", "", members)
        mine = self._whom("", members)
        yield ("", "", "identity", "null edits"), "at least", RECOGNISED, _share(mine["recognised"], mine["patient"])

    def _edits(self, contrast: Contrast) -> pd.DataFrame | None:
        if contrast.name not in self.paired:
            self.paired[contrast.name] = paired_differences(self.mine, self.null, contrast, "total", self.columns)
        return self.paired[contrast.name]

    def _effectiveness(self, contrast: Contrast, group: str, members: np.ndarray) -> Iterator[Any]:
        paired = self._edits(contrast)
        own = own_reader(contrast, self.readers)
        if own is None or paired is None:
            why = "no reader reads it" if own is None else "no edit was accepted"
            yield "effectiveness", "", "at least", EFFECTIVE_RATIO, _Found(*NONE, why)
            return
        reader, name = own[0], own[1].name
        column = f"{reader}/{name}"
        here = paired[paired.index.isin(members)]
        effect = paired_effect(here[column].to_numpy(), here["patient"].to_numpy())
        # Within a level of the attribute itself real images do not differ by it: there all of them say how far they would.
        alike = self.table.index if group in ("", contrast.attribute) else self._like(group, members)
        unedited = self.unedited[self.unedited.index.isin(alike)]
        if not len(unedited) or not effect.n:
            yield "effectiveness", name, "at least", EFFECTIVE_RATIO, _Found(*NONE)
            return
        real = marginal_association(self.graph, self.table, unedited, column, contrast, here.index.to_numpy())
        yield "effectiveness", name, "at least", EFFECTIVE_RATIO, _over(effect, real)

    def _like(self, group: str, members: np.ndarray) -> pd.Index:
        """Rows of the dataset, edited or not, within the values of a group."""
        values, inside = self.table[group], self.table.loc[members, group]
        if isinstance(self.graph.attributes[group], Continuous):
            return self.table.index[values.between(inside.min(), inside.max())]
        return self.table.index[values.isin(inside.unique())]

    def _reversibility(self, contrast: Contrast, members: np.ndarray) -> Iterator[Any]:
        twice, back = self.composed[2]["distance"], _within(self.reversed(contrast.name), members)
        refused = self.refused.get("reversibility", "")
        if not refused and len(back) and back["edit"].mean() < STILL:
            refused = "its edits change nothing, so there is nothing to undo"
        beyond = back["distance"] - twice.reindex(back["row"]).fillna(twice.mean()).fillna(0.0).to_numpy()
        yield "reversibility", "", "at most", STAYS, _ratio(beyond, back["edit"], back["patient"], refused)

    def _changes(self, contrast: Contrast, members: np.ndarray) -> Iterator[Any]:
        mine = _within(self.changes(contrast.name), members)
        who = mine["patient"]
        strangers = mine["row"].map(self.another).fillna(self.another.mean())
        yield "minimality", "", "at most", STRANGER, _ratio(mine["beyond"], strangers, who)
        placed = mine[mine["inside"].notna()]
        if len(placed):
            yield "place", "", "at most", SPILL, _ratio(placed["outside"], placed["inside"], placed["patient"])
        alone = mine[mine["alone"].astype(bool)]
        may = () if self.may_touch is None else self.may_touch.get(contrast.attribute, ())
        for region in GUARDED:
            if region not in may and mine[region].notna().any():
                unseen = bool(_mean(alone[region], alone["patient"]).high <= UNSEEN)
                found = _ratio(alone[region], alone[REST], alone["patient"])
                yield "artefacts", region, "at most", ARTEFACT, self._touching(found, ARTEFACT, region, unseen)
        if "lettering" not in may:
            found = _mean(alone["lettering"], alone["patient"])
            yield "artefacts", "lettering", "at most", LETTERS, self._touching(found, LETTERS, "lettering", False)

    def _touching(self, found: _Found, most: float, region: str, unseen: bool) -> _Found:
        why = ""
        if self.may_touch is None and found.low > most:
            why = f"it is beyond {most:g}, but whether it may change the {region} is not declared"
        return _Found(*_numbers(found), why, unseen)

    def _whom(self, contrast: str, members: np.ndarray) -> pd.DataFrame:
        return _within(self.made(contrast), members)

    def _likeness(self, contrast: Contrast, group: str, members: np.ndarray) -> Iterator[Any]:
        # Real images of the group the edits are of; if it is of the attribute that is set, the edits have left it.
        of = "" if group == contrast.attribute else group
        yield "realism", "", "at most", TOLD, self._told(contrast.name, of, members)
        mine = self._whom(contrast.name, members)
        yield "identity", "", "at least", RECOGNISED, _share(mine["recognised"], mine["patient"])

    def _told(self, contrast: str, group: str, members: np.ndarray) -> _Found:
        real = self.real(contrast)
        if group or not contrast:
            real = _within(real, members)
        both = pd.concat([self._whom(contrast, members), real])
        both = both[both["suspicion"].notna()]
        if not len(both):
            return _Found(*NONE)
        groups = pd.factorize(both["patient"])[0]
        strata = pd.factorize(both["stratum"])[0]
        auroc = concordance(both["suspicion"].to_numpy(dtype=float), both["made"].to_numpy(dtype=bool), groups, strata)
        return _Found(auroc.value, *auroc.interval(), len(both), int(groups.max()) + 1)

    def _leaks(self, contrast: Contrast, group: str, members: np.ndarray) -> Iterator[Any]:
        paired = self._edits(contrast)
        if paired is None:
            return
        here = paired[paired.index.isin(members)]
        meant = {contrast.attribute, *self.graph.descendants(contrast.attribute)}
        for name, (reader, concept) in self.readers.items():
            # Within a level of what is read, the reader's errors at that level would pass for a leak.
            if concept.attribute in meant or concept.attribute == group:
                continue
            judged = self.quality[reader]
            effect = paired_effect(here[f"{reader}/{name}"].to_numpy(), here["patient"].to_numpy())
            scale, why = self._scale(judged, name, contrast)
            effect = scale.effect(effect)
            yield "leak", name, "within", self.smallest_effect, _of(effect.unsettled(), why)

    def _scale(self, quality: ReaderQuality, name: str, contrast: Contrast) -> tuple[Scale, str]:
        """What a reading is worth under the contrast, and why it tells nothing of a leak; the same for all groups."""
        key = (name, contrast.name)
        if key not in self.scales:
            about = contrast.attribute
            scale = Scale.of(quality, name, contrast, self.graph.attributes[about], self.smallest_effect)
            why = "" if scale.readable else f"no reading of {name} is known to work"
            if scale.following.unknown:
                why = f"whether the reading of {name} follows {about} itself is not known"
            if scale.following.far:
                why = f"the reading of {name} follows {about} itself"
            self.scales[key] = scale, why
        return self.scales[key]

    def _acceptance(self, contrast: Contrast, members: np.ndarray) -> Iterator[Any]:
        here = _within(self.asked(contrast.name), members)
        yield "acceptance", "", "at least", ACCEPTED, _share(here["accepted"], here["patient"])


def _by(frame: pd.DataFrame, key: str) -> Callable[[Any], pd.DataFrame]:
    """The part of a frame with a value of ``key``; parts are made once."""
    nothing = frame.iloc[:0].drop(columns=key)
    parts = {value: part.drop(columns=key) for value, part in frame.groupby(key, sort=False)}
    return lambda value: parts.get(value, nothing)


def _within(frame: pd.DataFrame, members: np.ndarray) -> pd.DataFrame:
    return frame[frame["row"].isin(members)]


NONE = (float("nan"), float("nan"), float("nan"), 0, 0)


def _numbers(found: _Found) -> tuple[float, float, float, int, int]:
    return found.value, found.low, found.high, found.n, found.patients


def _of(effect: Effect, why: str = "") -> _Found:
    return _Found(effect.value, *effect.interval(), effect.n, effect.patients, why) if effect.n else _Found(*NONE, why)


def _mean(values: pd.Series, patients: pd.Series, refused: str = "") -> _Found:
    known = values.notna().to_numpy()
    return _of(paired_effect(values.to_numpy(dtype=float)[known], patients.to_numpy()[known]), refused)


def _share(values: pd.Series, patients: pd.Series) -> _Found:
    """Of a yes or no: where all are alike the error is that of one patient more who is not."""
    effect = paired_effect(values.to_numpy(dtype=float), patients.to_numpy()).unsettled()
    found = _of(effect)
    return _Found(found.value, max(found.low, 0.0), min(found.high, 1.0), found.n, found.patients)


def _ratio(above: pd.Series, below: pd.Series, patients: pd.Series, why: str = "") -> _Found:
    found = paired_ratio(above.to_numpy(dtype=float), below.to_numpy(dtype=float), patients.to_numpy())
    return _Found(found.value, found.low, found.high, found.n, found.patients, why)


def _over(effect: Effect, expected: Effect) -> _Found:
    """What an edit does of what real images differ by, where those are shown to differ."""
    if not effect.n or not expected.n:
        return _Found(*NONE)
    low, high = expected.interval()
    if not low * high > 0:
        return _Found(*NONE, "real images do not differ clearly by it, as read")
    return _of(share_of(effect, expected))


# -- in words ------------------------------------------------------------------------------------------------------------
def statement(limits: pd.DataFrame) -> list[str]:
    """Plain sentences: what an editor should not be used for, and what it is not shown to be safe for.

    Args:
        limits: of :func:`limits`.

    Returns:
        First one sentence a limit (of a group only where it is not one of all patients), then one a contrast of what is not
        known, editor by editor; or that no limit was found.
    """
    said: list[str] = []
    several = len(set(limits["editor"])) > 1
    for editor, mine in limits.groupby("editor", sort=True):
        which = f"editor {editor}" if several else "this editor"
        everyone = mine[mine["group"] == ""].set_index(["contrast", "kind", "about"])["state"].to_dict()
        found = mine[mine["state"] == "limit"]
        for _, row in found.iterrows():
            if not row["group"] or everyone[row["contrast"], row["kind"], row["about"]] != "limit":
                said.append(f"Do not use {which} for: {_use(row)}: {_evidence(row)}.")
        if found.empty:
            said.append(f"No limit of {which} was found in {len(mine)} questions asked.")
        for contrast, rows in mine[mine["state"] == "unknown"].groupby("contrast", sort=False):
            said.append(f"Not shown to be safe for: {_do(str(contrast))}, with {which}: {_open(rows, everyone)}.")
    return said


def _do(contrast: str) -> str:
    return f"do({contrast})" if contrast else "null edits"


def _use(row: pd.Series) -> str:
    return f"{_do(row['contrast'])}{_among(row)}"


def _among(row: pd.Series) -> str:
    if not row["group"]:
        return ""
    number = row["level"].startswith(("up to ", "over ")) or " to " in row["level"]
    return f" in patients with {row['group']}{' ' if number else ' = '}{row['level']}"


def _open(rows: pd.DataFrame, everyone: Mapping[Any, str]) -> str:
    parts = []
    for (kind, about), some in rows.groupby(["kind", "about"], sort=False):
        what = f"{kind} ({about})" if about and kind != "effectiveness" else str(kind)
        whole = some[some["group"] == ""]
        if len(whole):
            why = whole["why"].iloc[0].rstrip(".")
            parts.append(f"{what}{f', {why}' if why else ''}")
        elif everyone.get((some["contrast"].iloc[0], kind, about)) != "limit":
            parts.append(f"{what} in {'; '.join(_among(row).removeprefix(' in ') for _, row in some.iterrows())}")
    return " | ".join(parts) or "groups of patients in what is a limit already"


def _evidence(row: pd.Series) -> str:
    shares = row["kind"] in ("identity", "acceptance")
    value, low, high, threshold = (f"{row[k]:.0%}" if shares else f"{row[k]:.2g}" for k in ("value", "low", "high", "threshold"))  # fmt: skip
    number, about = f"{value} [{low}, {high}]", row["about"]
    return {
        "effectiveness": f"its edits are read back at {number} of the real difference (needs {threshold})",
        "composition": f"{about} change an image by {number} of the full range (at most {threshold})",
        "reversibility": f"edited back, {number} of the change stays (at most {threshold})",
        "minimality": f"it goes {number} of the way to another patient's image (at most {threshold})",
        "place": f"outside the declared region it changes {number} times as much as inside (at most {threshold})",
        "artefacts": f"it changes lines of letters by {number} of the side (at most {threshold})" if about == "lettering"
        else f"it changes the {about} {number} times as much as the rest (at most {threshold})",
        "realism": f"its images are told from real ones with an AUROC of {number} (at most {threshold})",
        "identity": f"{number} of its images are nearest to their own patient (needs {threshold})",
        "leak": f"it moves {about} by {number} (within {threshold} either way)",
        "acceptance": f"it accepts {number} of these edits (needs {threshold})",
    }[row["kind"]]  # fmt: skip
