"""The costly half of an audit: abduct every image once, edit it for each contrast, read the results, keep scores.

A shard is a pure function of (editor, readers, rows, targets, seed) and is written whole or not at all, so a run that is
killed goes on from its last shard to the same numbers. Beside each shard lies what was seen of the images themselves while
they were at hand, for the limits of the editor; edits in a row and edits at other doses are made of a bounded number of images.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.audits.cycles import NEUTRAL, distance, null_cycles, there_and_back
from causal_cxr.audits.looks import CHANGES, CYCLES, DOSES, LIKENESS, Looking, Looks, differing, likeness
from causal_cxr.data.dataset import Dataset, UnreadableImages
from causal_cxr.editors.editor import Edit, Editor
from causal_cxr.graphs import CausalGraph, Contrast
from causal_cxr.readers.reader import Reader

MANIFEST = "manifest.json"
FACTUAL = "factual"  #: folder of the unedited images' scores, beside one an editor
NULL_PHRASING = NEUTRAL  #: null edits say the same in other words
COMPOSITION_IMAGES = 32
COMPOSITION_CYCLES = (1, 2, 10)  #: two are what an edit and the edit back are held against
GALLERY_ROWS = 24
LOOKED_AT = 256  #: edited images whose features are kept for realism and identity
LETTERED = 32  #: of those, images whose lettering is looked for


class ManifestMismatch(Exception):  # noqa: N818 - reads as what it is
    """The folder holds measurements of another audit; nothing is mixed or overwritten."""


@dataclass(frozen=True)
class Target:
    """What one contrast asks for.

    Attributes:
        contrast: the question.
        total: labelled attributes of the edited rows under it, labelled descendants following the SCM.
        direct: the same with all else held; ``None`` where the attribute has no labelled descendant.
        orientation: ``(n,)`` +1 / -1 / 0 = not applicable.
    """

    contrast: Contrast
    total: pd.DataFrame
    direct: pd.DataFrame | None
    orientation: np.ndarray


@dataclass(frozen=True)
class Trials:
    """How much is tried of an editor beside the audit's own edits, to know its limits.

    Attributes:
        reversed: images, drawn by the seed, that are edited and edited back, a contrast.
        doses: strengths, multiples of the editor's own, at which images are edited too; none unless given.
        dosed: images, drawn by the seed, that are edited at other doses (and along the plan's ladders), a contrast.

    Raises:
        ValueError: a dose that is not above 0, or no image.
    """

    reversed: int = 32
    doses: tuple[float, ...] = ()
    dosed: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "doses", tuple(sorted({float(dose) for dose in self.doses})))
        if any(not dose > 0 for dose in self.doses):
            raise ValueError(f"Doses are multiples of the editor's own strength, above 0; got {list(self.doses)}.")
        if min(self.reversed, self.dosed) < 1:
            raise ValueError("Edit one image or more back, and at other doses.")


@dataclass(frozen=True)
class Plan:
    """All that a measurement depends on, besides the models and the images.

    Attributes:
        rows: dataset rows that are read unedited.
        edited: dataset rows that are edited.
        targets: one a contrast, aligned with ``edited``.
        seed: of the editors' own chance.
        batch_size: the partition into shards; fixed, since it changes rounding.
        ladders: for contrasts that shift a number, the same asked for other shifts: name of the contrast -> (the shift, as
            a multiple of the contrast's; what it asks for).
    """

    rows: np.ndarray
    edited: np.ndarray
    targets: tuple[Target, ...]
    seed: int
    batch_size: int
    ladders: Mapping[str, tuple[tuple[float, Target], ...]] = field(default_factory=dict)

    def sample(self, n: int) -> np.ndarray:
        """``n`` positions among the edited rows, or all, in a seeded order: a smaller sample begins a larger one."""
        return np.random.default_rng([self.seed, 2]).permutation(len(self.edited))[:n]

    def asking(self, contrasts: Collection[str]) -> "Plan":
        """The same, with the targets of these contrasts only."""
        return replace(self, targets=tuple(t for t in self.targets if t.contrast.name in contrasts))

    def shards(self, rows: np.ndarray) -> list[np.ndarray]:
        """The fixed partition."""
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]


class Stopping(Protocol):
    """What says how far a measurement goes, shard by shard; a function of what was measured, so that a resume repeats it."""

    def begin(self, factual: pd.DataFrame) -> None:
        """All unedited images have been read; this is their table."""
        ...

    def parts(self) -> Sequence[np.ndarray]:
        """Positions among the plan's edited rows, a shard each."""
        ...

    def asked(self, editor: str) -> Collection[str]:
        """Names of the contrasts to edit in this editor's next shard; none ends its edits."""
        ...

    def saw(self, editor: str, shard: pd.DataFrame) -> None:
        """A shard has been measured."""
        ...


def plan(
    graph: CausalGraph,
    dataset: Dataset,
    contrasts: Sequence[Contrast],
    edited: np.ndarray,
    scm: Any,
    *,
    seed: int,
    batch_size: int,
    steps: Sequence[float] = (),
) -> Plan:
    """Turn contrasts into target tables, once, through the graph's attribute SCM.

    Args:
        graph: whose labelled attributes the dataset has.
        dataset: to audit.
        contrasts: to carry out.
        edited: rows to edit; none of their labelled attributes is missing.
        scm: has ``counterfactual(table, do, seed)``.
        seed: of the SCM's abduction and the editors.
        batch_size: images a shard.
        steps: of ladders, multiples of the shifts, above 0.
    """  # fmt: skip
    table = graph.coerce(dataset.attributes)
    factual = table.iloc[edited]

    def asked(contrast: Contrast) -> Target:
        attribute = graph.attributes[contrast.attribute]
        support, orientation = contrast.apply(attribute, table[contrast.attribute])
        new, orientation = support.iloc[edited], orientation[edited]
        direct = factual.assign(**{contrast.attribute: new})
        if graph.descendants(contrast.attribute) & set(graph.labelled):
            total = scm.counterfactual(factual, {contrast.attribute: new}, seed=seed)
            return Target(contrast, total, direct, orientation)
        return Target(contrast, direct, None, orientation)

    ladders = {
        contrast.name: tuple((step, asked(replace(contrast, shift=step * contrast.shift))) for step in sorted(steps))
        for contrast in contrasts
        if contrast.shift is not None and steps
    }
    targets = tuple(asked(contrast) for contrast in contrasts)
    return Plan(np.arange(len(table)), edited, targets, seed, batch_size, ladders)


def measure(
    dataset: Dataset,
    editors: Mapping[str, Editor],
    readers: Sequence[Reader],
    plan: Plan,
    folder: Path,
    *,
    manifest: Mapping[str, Any],
    progress: Any = None,
    trials: Trials | None = None,
    stopping: Stopping | None = None,
) -> None:
    """Fill ``folder`` with shards: ``factual/``, ``<editor>/`` and their galleries and ledgers.

    Args:
        trials: how many images are edited back and at other doses; changing it on a resume does these trials anew, and
            nothing else. None: nothing is tried beside the edits themselves.
        manifest: what these measurements depend on; on a resume it must equal the folder's own.
        progress: called with a description and the number of images done, or ``None``.
        stopping: when to edit no further; everything is edited unless given.

    Raises:
        ManifestMismatch: the folder holds measurements of another audit.
    """  # fmt: skip
    _claim(folder, manifest)
    tell = progress or (lambda what, images: None)
    for i, rows in enumerate(plan.shards(plan.rows)):
        file = folder / FACTUAL / f"shard-{i:05d}.parquet"
        if not file.exists():
            _write_parquet(_factual_shard(dataset, readers, rows), file)
        tell("reading unedited images", len(rows))
    if stopping is not None:
        files = sorted((folder / FACTUAL).glob("shard-*.parquet"))
        stopping.begin(pd.concat(map(pd.read_parquet, files), ignore_index=True))
    parts = plan.shards(np.arange(len(plan.edited))) if stopping is None else stopping.parts()
    for name, editor in editors.items():
        for i, positions in enumerate(parts):
            asked = plan if stopping is None else plan.asking(stopping.asked(name))
            if stopping is not None and not asked.targets:
                break
            file = folder / name / f"shard-{i:05d}.parquet"
            if not file.exists():
                shard, gallery, evaluations, looks, features = _edited_shard(
                    dataset, name, editor, readers, asked, positions
                )
                if gallery:
                    _write_npz(gallery, file.with_suffix(".npz"))
                if features:
                    _write_npz(features, file.with_name(f"features-{i:05d}.npz"))
                _write_parquet(looks, file.with_name(f"looks-{i:05d}.parquet"))
                _write_json({"evaluations": evaluations}, file.with_suffix(".json"))
                _write_parquet(shard, file)  # last: its presence says that the shard is whole
            tell(f"editing with {name}", len(positions))
            if stopping is not None:
                stopping.saw(name, pd.read_parquet(file))
        if trials is None:
            continue
        _trial(folder / name / "cycles", {"reversed": trials.reversed}, partial(_cycles, dataset, editor, plan, trials))
        tell(f"composition of {name}", min(COMPOSITION_IMAGES, len(plan.edited)))
        ladders = {contrast: [step for step, _ in ladder] for contrast, ladder in plan.ladders.items()}
        doses = {"doses": list(trials.doses), "dosed": trials.dosed, "steps": ladders}
        if trials.doses or plan.ladders:
            _trial(folder / name / "doses", doses, partial(_doses, dataset, name, editor, readers, plan, trials))
            tell(f"doses of {name}", 0)
        file = folder / name / "likeness.parquet"
        if not file.exists():
            _write_parquet(_likeness(folder / name, dataset, plan), file)


def load_measurements(folder: Path) -> pd.DataFrame:
    """All shards of a folder as one table, in a fixed order."""
    files = sorted(folder.glob("*/shard-*.parquet"), key=lambda p: (p.parent.name != FACTUAL, p.parent.name, p.name))
    if not files:
        raise FileNotFoundError(f"{folder} holds no measurements; run Audit.run(..., out=...) first.")
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def load_composition(folder: Path) -> pd.DataFrame:
    """Columns editor, cycles, mae, n."""
    rows: list[dict[str, Any]] = []
    for editor in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        if (file := folder / editor / "cycles.parquet").exists():
            cycles = (
                pd.read_parquet(file).query("test == 'composition'").groupby("cycles")["distance"].agg(["mean", "size"])
            )
            rows += [{"editor": editor, "cycles": n, "mae": mae, "n": size} for n, mae, size in cycles.itertuples()]
        elif (file := folder / editor / "composition.json").exists():  # as older versions wrote it
            rows += [{"editor": editor, **entry} for entry in json.loads(file.read_text())["cycles"]]
    return pd.DataFrame(rows, columns=["editor", "cycles", "mae", "n"])


def load_looks(folder: Path) -> Looks:
    """What a measurement saw of the images themselves, see :class:`Looks`."""

    def frame(pattern: str, columns: Sequence[str]) -> pd.DataFrame:
        found = [pd.read_parquet(file).assign(editor=file.parent.name) for file in sorted(folder.glob(f"*/{pattern}"))]
        return (
            pd.concat(found, ignore_index=True)
            if found
            else pd.DataFrame(columns=list(dict.fromkeys((*columns, "editor"))))
        )

    refused: dict[str, dict[str, str]] = {}
    for file in sorted([*folder.glob("*/cycles.json"), *folder.glob("*/doses.json")]):
        refused.setdefault(file.parent.name, {}).update(json.loads(file.read_text())["refused"])
    return Looks(
        frame("looks-*.parquet", CHANGES), frame("cycles.parquet", CYCLES), frame("likeness.parquet", LIKENESS),
        frame("doses.parquet", DOSES), refused,
    )  # fmt: skip


def load_ledger(folder: Path) -> dict[str, int]:
    """Network evaluations (images x forward passes) an editor."""
    ledger: dict[str, int] = {}
    for file in sorted(folder.glob("*/*.json")):
        ledger[file.parent.name] = ledger.get(file.parent.name, 0) + int(json.loads(file.read_text())["evaluations"])
    return ledger


def load_gallery(folder: Path) -> Iterator[dict[str, Any]]:
    """One dict a picture: editor, contrast, attribute, row, factual, null, counterfactual (uint8)."""
    for file in sorted(folder.glob("*/shard-*.npz")):
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}  # each look at ``stored`` would unpack it anew
        for k, (contrast, attribute, row, position) in enumerate(json.loads(str(arrays["index"]))):
            yield {
                "editor": file.parent.name, "contrast": contrast, "attribute": attribute, "row": row,
                "factual": arrays["factual"][position], "null": arrays["null"][position],
                "counterfactual": arrays["counterfactual"][k],
            }  # fmt: skip


def _claim(folder: Path, manifest: Mapping[str, Any]) -> None:
    file = folder / MANIFEST
    wanted = json.loads(json.dumps(manifest))
    if file.exists():
        there = json.loads(file.read_text())
        differing = sorted(key for key in {*there, *wanted} if there.get(key) != wanted.get(key))
        if differing:
            raise ManifestMismatch(
                f"{folder} holds measurements of another audit; these differ: {', '.join(differing)}. Choose another "
                "out=, or delete that folder."
            )
        return
    _write_json(wanted, file)


def _read(readers: Sequence[Reader], images: Tensor, patients: pd.Series) -> dict[str, np.ndarray]:
    columns = {}
    for reader in readers:
        scores = reader.read(images, patients.astype(str).tolist()).numpy().astype(np.float32)
        for j, concept in enumerate(reader.concepts):
            columns[f"{reader.name}/{concept.name}"] = scores[:, j]
    return columns


def _frame(
    dataset: Dataset, rows: np.ndarray, scores: Mapping[str, np.ndarray], *, editor: str = "", contrast: str = "",
    attribute: str = "", kind: str, orientation: Any = 0, accepted: Any = True, reason: Any = "",
) -> pd.DataFrame:  # fmt: skip
    patients = dataset.patients.iloc[rows].astype(str).to_numpy()
    about = {
        "editor": editor, "row": rows.astype(np.int64), "patient": patients, "contrast": contrast, "attribute": attribute,
        "kind": kind, "orientation": np.broadcast_to(np.asarray(orientation, dtype=np.int8), len(rows)),
        "accepted": accepted, "reason": reason,
    }  # fmt: skip
    return pd.DataFrame(about | dict(scores))


def _readable(dataset: Dataset, rows: np.ndarray) -> tuple[Tensor, dict[int, str]]:
    """Those of the images that can be read, in order, and what is wrong with the others."""
    try:
        return dataset.images(rows), {}
    except UnreadableImages as error:
        good = _without(rows, error.problems)
        return dataset.images(good) if len(good) else torch.empty(0, 1, 1, 1), error.problems


def _without(rows: np.ndarray, problems: Mapping[int, str]) -> np.ndarray:
    return rows[np.array([int(row) not in problems for row in rows], dtype=bool)]


def _factual_shard(dataset: Dataset, readers: Sequence[Reader], rows: np.ndarray) -> pd.DataFrame:
    """Scores of unedited images; an unreadable one is a row with its reason and no scores."""
    images, problems = _readable(dataset, rows)
    good = _without(rows, problems)
    frame = _frame(
        dataset, good, _read(readers, images, dataset.patients.iloc[good]) if len(good) else {}, kind="factual"
    )
    if problems:
        bad = np.array(sorted(problems))
        reasons = [f"unreadable: {problems[int(row)]}" for row in bad]
        frame = pd.concat([frame, _frame(dataset, bad, {}, kind="factual", accepted=False, reason=reasons)])
    return frame


def _edited_shard(
    dataset: Dataset, name: str, editor: Editor, readers: Sequence[Reader], plan: Plan, positions: np.ndarray
) -> tuple[pd.DataFrame, dict[str, np.ndarray], int, pd.DataFrame, dict[str, np.ndarray]]:
    """Scores, pictures, evaluations, and what is seen of the images themselves: changes, and features of some."""
    images, problems = _readable(dataset, plan.edited[positions])  # the factual shard names what cannot be read
    rows = _without(plan.edited[positions], problems)
    if not len(rows):
        nothing = _frame(dataset, rows, {}, editor=name, kind="null")
        return nothing, {}, 0, nothing[[]], {}
    positions = positions[np.isin(plan.edited[positions], rows)]
    factual, patients = dataset.attributes.iloc[rows], dataset.patients.iloc[rows]
    seeds = row_seeds(plan, rows)
    abduction = editor.abduct(images, factual, seeds=seeds)
    evaluations = abduction.evaluations
    factual_targets = factual[list(plan.targets[0].total.columns)] if plan.targets else factual
    null = editor.edit(abduction, factual_targets, phrasing=NULL_PHRASING)
    evaluations += null.evaluations
    frames = [
        _frame(dataset, rows, _read(readers, null.images, patients), editor=name, kind="null", accepted=null.accepted,
               reason=list(null.reasons))
    ]  # fmt: skip
    looking = Looking(rows, patients.astype(str).to_numpy(), images, null,
                      [concept for reader in readers for concept in reader.concepts],
                      *(np.flatnonzero(np.isin(positions, plan.sample(n))) for n in (LOOKED_AT, LETTERED)))  # fmt: skip
    kept = np.flatnonzero(positions < GALLERY_ROWS)
    gallery: list[np.ndarray] = []
    index: list[tuple[str, str, int, int]] = []
    for target in plan.targets:
        total = target.total.iloc[positions]
        edit = editor.edit(abduction, total)
        evaluations += edit.evaluations
        about = {"editor": name, "contrast": target.contrast.name, "attribute": target.contrast.attribute,
                 "orientation": target.orientation[positions]}  # fmt: skip
        scores = _read(readers, edit.images, patients)
        looking.at(target.contrast, target.orientation[positions], factual, total, edit)
        accepted, reasons = edit.accepted.copy(), list(edit.reasons)
        frames.append(_frame(dataset, rows, scores, kind="total", accepted=accepted, reason=reasons, **about))
        for k in kept[target.orientation[positions][kept] != 0]:
            gallery.append(_bytes(edit.images[int(k), 0]))
            index.append((target.contrast.name, target.contrast.attribute, int(rows[k]), int(k)))
        if target.direct is None:
            continue
        direct = target.direct.iloc[positions]
        differs = np.flatnonzero(differing(total, direct).any(axis=1))
        scores = {column: values.copy() for column, values in scores.items()}
        if len(differs):  # where holding the descendants changes nothing, the same edit is scored for both
            again = editor.edit(_part(editor, images, factual, seeds, differs), direct.iloc[differs])
            evaluations += again.evaluations
            for column, values in _read(readers, again.images, patients.iloc[differs]).items():
                scores[column][differs] = values
            accepted[differs] = again.accepted
            for k, reason in zip(differs, again.reasons, strict=True):
                reasons[k] = reason
        frames.append(_frame(dataset, rows, scores, kind="direct", accepted=accepted, reason=reasons, **about))
    pictures: dict[str, np.ndarray] = {}
    if gallery:
        pictures = {
            "factual": _bytes(images[kept.tolist(), 0]), "null": _bytes(null.images[kept.tolist(), 0]),
            "counterfactual": np.stack(gallery), "index": np.array(json.dumps(index)),
        }  # fmt: skip
    looks, features = looking.seen()
    return pd.concat(frames, ignore_index=True), pictures, evaluations, looks, features


def edit_again(
    dataset: Dataset, editor: Editor, plan: Plan, target: Target, rows: np.ndarray
) -> tuple[Tensor, Tensor, Tensor]:
    """Factual images, null and total edits of some edited rows, as they were measured up to rounding."""
    at = pd.Series(np.arange(len(plan.edited)), index=plan.edited)[rows].to_numpy()
    images, factual = dataset.images(rows), dataset.attributes.iloc[rows]
    abduction = editor.abduct(images, factual, seeds=row_seeds(plan, rows))
    null = editor.edit(abduction, factual[list(target.total.columns)], phrasing=NULL_PHRASING)
    return images, null.images, editor.edit(abduction, target.total.iloc[at]).images


def row_seeds(plan: Plan, rows: np.ndarray, cycle: int = 0) -> np.ndarray:
    """One a row, whatever the batch; others for each further abduction in a row."""
    again = [cycle] if cycle else []
    states = [np.random.SeedSequence([plan.seed, int(row), *again]).generate_state(1)[0] for row in rows]
    return np.array(states, dtype=np.int64)


def _part(editor: Editor, images: Tensor, factual: pd.DataFrame, seeds: np.ndarray, part: np.ndarray) -> Any:
    """Abduction of a part of the batch. States are opaque, so it is made anew; editors are deterministic given seeds."""
    return editor.abduct(images[torch.as_tensor(part)], factual.iloc[part], seeds=seeds[part])


def _trial(stem: Path, settings: Mapping[str, Any], carry_out: Callable[[], "_Tried"]) -> None:
    """``<stem>.parquet`` and ``.json``, unless they are there with the same settings."""
    told = stem.with_suffix(".json")
    if told.exists() and json.loads(told.read_text())["settings"] == json.loads(json.dumps(settings)):
        return
    tried = carry_out()
    _write_parquet(tried.frame, stem.with_suffix(".parquet"))
    _write_json({"evaluations": tried.evaluations, "settings": settings, "refused": tried.refused}, told)  # last


@dataclass
class _Tried:
    frame: pd.DataFrame
    evaluations: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def _cycles(dataset: Dataset, editor: Editor, plan: Plan, trials: Trials) -> _Tried:
    """Null edits in a row, and edits edited back, image by image; see :mod:`causal_cxr.audits.cycles`."""
    tried, frames = _Tried(pd.DataFrame(columns=list(CYCLES))), []
    positions, images = _sampled(dataset, plan, np.sort(plan.sample(COMPOSITION_IMAGES)))
    if len(positions):
        about, factual = _about(dataset, plan.edited[positions]), dataset.attributes.iloc[plan.edited[positions]]
        try:
            distances, tried.evaluations = null_cycles(
                editor, images, factual, seeds=partial(row_seeds, plan, plan.edited[positions]), cycles=COMPOSITION_CYCLES,
                batch=plan.batch_size,
            )  # fmt: skip
            frames = [about.assign(test="composition", cycles=n, distance=d) for n, d in distances.items()]
        except ValueError as refusal:  # an editor may know no images but the dataset's own
            tried.refused["composition"] = str(refusal)
    for part in plan.shards(np.sort(plan.sample(trials.reversed))):
        positions, images = _sampled(dataset, plan, part)
        if not len(positions):
            continue
        try:
            found, evaluations = _reversals(dataset, editor, plan, positions, images)
        except ValueError as refusal:
            tried.refused["reversibility"] = str(refusal)
            break
        frames, tried.evaluations = [*frames, *found], tried.evaluations + evaluations
    if frames:
        tried.frame = pd.concat(frames, ignore_index=True).reindex(columns=list(CYCLES))
    return tried


def _reversals(
    dataset: Dataset, editor: Editor, plan: Plan, positions: np.ndarray, images: Tensor
) -> tuple[list[pd.DataFrame], int]:
    """Distances to the images of their accepted edits, edited back, a frame a contrast; and the evaluations spent."""
    rows, factual = plan.edited[positions], dataset.attributes.iloc[plan.edited[positions]]
    about, frames = _about(dataset, rows), []
    abduction = editor.abduct(images, factual, seeds=row_seeds(plan, rows))
    evaluations = abduction.evaluations
    for target in plan.targets:
        total, orientation = target.total.iloc[positions], target.orientation[positions]
        edit = editor.edit(abduction, total)
        at = np.flatnonzero((orientation != 0) & edit.accepted)
        evaluations += edit.evaluations
        if not len(at):
            continue
        chosen = torch.as_tensor(at)
        back, spent = there_and_back(
            editor, images[chosen], factual.iloc[at], edit.images[chosen], total.iloc[at],
            seeds=partial(row_seeds, plan, rows[at]), batch=plan.batch_size,
        )  # fmt: skip
        evaluations += spent
        of = {"contrast": target.contrast.name, "attribute": target.contrast.attribute, "orientation": orientation[at]}
        moved = distance(edit.images[chosen], images[chosen])
        frames.append(about.iloc[at].assign(**of, test="reversibility", cycles=1, distance=back, edit=moved))
    return frames, evaluations


def _about(dataset: Dataset, rows: np.ndarray) -> pd.DataFrame:
    patients = dataset.patients.iloc[rows].astype(str).to_numpy()
    nothing = {"contrast": "", "attribute": "", "orientation": 0, "edit": np.nan}
    return pd.DataFrame({"row": rows, "patient": patients, **nothing})


def _doses(
    dataset: Dataset, name: str, editor: Editor, readers: Sequence[Reader], plan: Plan, trials: Trials
) -> _Tried:
    """Scores of edits at other strengths, and of other shifts of a number, beside the null edit and the edit itself."""
    tried, frames = _Tried(pd.DataFrame(columns=list(DOSES))), []
    for part in plan.shards(np.sort(plan.sample(trials.dosed))):
        positions, images = _sampled(dataset, plan, part)
        if not len(positions):
            continue
        rows = plan.edited[positions]
        factual, patients = dataset.attributes.iloc[rows], dataset.patients.iloc[rows]
        abduction = editor.abduct(images, factual, seeds=row_seeds(plan, rows))
        null = editor.edit(abduction, factual[list(plan.targets[0].total.columns)], phrasing=NULL_PHRASING)
        tried.evaluations += abduction.evaluations + null.evaluations
        unchanged = _read(readers, null.images, patients)
        for target in plan.targets:
            total, orientation = target.total.iloc[positions], target.orientation[positions]
            itself = editor.edit(abduction, total)
            tried.evaluations += itself.evaluations
            whole = _read(readers, itself.images, patients)
            of = {"editor": name, "contrast": target.contrast.name, "attribute": target.contrast.attribute}

            def keep(
                along: str, dose: float, edit: Edit, orientation: np.ndarray, scores: dict[str, np.ndarray] | None = None,
                *, rows: np.ndarray = rows, patients: pd.Series = patients, null: Edit = null, itself: Edit = itself,
                of: dict[str, str] = of,
            ) -> None:  # fmt: skip
                frame = _frame(
                    dataset, rows, scores or _read(readers, edit.images, patients), kind="dose", orientation=orientation,
                    accepted=edit.accepted & null.accepted, reason=list(edit.reasons), **of,
                )  # fmt: skip
                frame.insert(0, "along", along)
                frame.insert(1, "dose", dose)
                frame.insert(2, "beyond", distance(edit.images, null.images))
                frame.insert(3, "step", distance(edit.images, itself.images))
                frames.append(frame[frame["orientation"] != 0])

            ladder = plan.ladders.get(target.contrast.name, ())
            for along, asked in (("strength", trials.doses), ("attribute", ladder)):
                if asked:
                    keep(along, 0.0, null, orientation, unchanged)
                    keep(along, 1.0, itself, orientation, whole)
            for dose in trials.doses if "doses" not in tried.refused else ():
                if dose != 1.0:
                    try:
                        edit = editor.edit(abduction, total, strength=dose)
                    except ValueError as refusal:  # an editor may know no strength but its own
                        tried.refused["doses"] = str(refusal)
                        break
                    tried.evaluations += edit.evaluations
                    keep("strength", dose, edit, orientation)
            for step, shifted in ladder:
                if step != 1.0:
                    edit = editor.edit(abduction, shifted.total.iloc[positions])
                    tried.evaluations += edit.evaluations
                    # one way for all steps of an image: those that would leave the support the other way are left out
                    keep(
                        "attribute", step, edit, np.where(shifted.orientation[positions] == orientation, orientation, 0)
                    )
    if "doses" in tried.refused:
        frames = [frame[frame["along"] != "strength"] for frame in frames]
    if frames:
        tried.frame = pd.concat(frames, ignore_index=True)
    return tried


def _sampled(dataset: Dataset, plan: Plan, positions: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """Those of the positions whose images can be read, and these."""
    images, problems = _readable(dataset, plan.edited[positions])
    return positions[~np.isin(plan.edited[positions], list(problems))], images


def _likeness(folder: Path, dataset: Dataset, plan: Plan) -> pd.DataFrame:
    """Whom edits look like, and how much they look made, from the features of all shards."""
    found: dict[str, list[np.ndarray]] = {}
    for file in sorted(folder.glob("features-*.npz")):
        with np.load(file, allow_pickle=False) as arrays:
            for key in arrays.files:
                found.setdefault(key, []).append(arrays[key])
    features = {key: np.concatenate(parts) for key, parts in found.items()}
    asked = {
        target.contrast.name: (target.contrast.attribute, target.total.set_axis(plan.edited)) for target in plan.targets
    }
    factual = dataset.attributes.iloc[plan.edited].set_axis(plan.edited)
    return likeness(features, dataset.patients, factual, asked, seed=plan.seed)


def _bytes(images: Tensor) -> np.ndarray:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _write_parquet(frame: pd.DataFrame, file: Path) -> None:
    _whole(file, lambda partial: frame.to_parquet(partial, index=False))


def _write_json(content: Mapping[str, Any], file: Path) -> None:
    _whole(file, lambda partial: partial.write_text(json.dumps(content, indent=1, sort_keys=True)))


def _write_npz(arrays: Mapping[str, np.ndarray], file: Path) -> None:
    def write(partial: Path) -> None:
        with partial.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    _whole(file, write)


def _whole(file: Path, write: Any) -> None:
    """Write beside, then rename: a file is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    write(partial)
    partial.rename(file)
