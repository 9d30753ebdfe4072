"""What is tried of an editor beside the audit's own edits: null edits in a row, edits edited back, other doses."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.audits.cycles import distance, null_cycles, there_and_back
from causal_cxr.audits.looks import CYCLES, DOSES
from causal_cxr.audits.plans import NULL_PHRASING, Plan, row_seeds
from causal_cxr.audits.readings import measured, read_scores, readable
from causal_cxr.audits.store import write_parquet
from causal_cxr.data.dataset import Dataset
from causal_cxr.data.whole_file import write_json
from causal_cxr.editors.editor import Edit, Editor
from causal_cxr.readers.reader import Reader

COMPOSITION_CYCLES = (1, 2, 10)  #: two are what an edit and the edit back are held against


@dataclass(frozen=True)
class Trials:
    """How much is tried of an editor beside the audit's own edits, to know its limits.

    Attributes:
        reversed: images, drawn by the seed, that are edited and edited back, a contrast.
        doses: strengths, multiples of the editor's own, at which images are edited too; none unless given.
        dosed: images, drawn by the seed, that are edited at other doses (and along the plan's ladders), a contrast.
        composed: images, drawn by the seed, that get ten null edits in a row.

    Raises:
        ValueError: a dose that is not above 0, or no image.
    """

    reversed: int = 32
    doses: tuple[float, ...] = ()
    dosed: int = 32
    composed: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "doses", tuple(sorted({float(dose) for dose in self.doses})))
        if any(not dose > 0 for dose in self.doses):
            raise ValueError(f"Doses are multiples of the editor's own strength, above 0; got {list(self.doses)}.")
        if min(self.composed, self.reversed, self.dosed) < 1:
            raise ValueError("Give null edits in a row to one image or more, edit as many back, and at other doses.")


DEFAULT = Trials()  #: what an audit tries unless told otherwise


def trial_settings(
    trials: Trials | None, ladders: Mapping[str, Sequence[tuple[float, Any]]]
) -> dict[str, dict[str, Any]]:
    """What is tried: name of a trial, and so of its files -> the settings that its results hang on.

    Args:
        trials: asked for; None: nothing is tried.
        ladders: of the plan.
    """
    if trials is None:
        return {}
    asked: dict[str, dict[str, Any]] = {
        "cycles": {"composed": trials.composed, "reversed": trials.reversed}, "likeness": {},
    }  # fmt: skip
    if trials.doses or ladders:
        steps = {contrast: [step for step, _ in ladder] for contrast, ladder in ladders.items()}
        asked["doses"] = {"doses": list(trials.doses), "dosed": trials.dosed, "steps": steps}
    return asked


def carry_out_once(stem: Path, settings: Mapping[str, Any], carry_out: Callable[[], "Tried"]) -> None:
    """``<stem>.parquet`` and ``.json``, unless they are there with the same settings."""
    told = stem.with_suffix(".json")
    if told.exists() and json.loads(told.read_text())["settings"] == json.loads(json.dumps(settings)):
        return
    tried = carry_out()
    write_parquet(tried.frame, stem.with_suffix(".parquet"))
    write_json(told, {"evaluations": tried.evaluations, "settings": settings, "refused": tried.refused})  # last


@dataclass
class Tried:
    frame: pd.DataFrame
    evaluations: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def tried_cycles(dataset: Dataset, editor: Editor, plan: Plan, trials: Trials) -> Tried:
    """Null edits in a row, and edits edited back, image by image; see :mod:`causal_cxr.audits.cycles`."""
    tried, frames = Tried(pd.DataFrame(columns=list(CYCLES))), []
    positions, images = _sampled(dataset, plan, np.sort(plan.sample(trials.composed)))
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


def tried_doses(
    dataset: Dataset, name: str, editor: Editor, readers: Sequence[Reader], plan: Plan, trials: Trials
) -> Tried:
    """Scores of edits at other strengths, and of other shifts of a number, beside the null edit and the edit itself."""
    tried, frames = Tried(pd.DataFrame(columns=list(DOSES))), []
    for part in plan.shards(np.sort(plan.sample(trials.dosed))):
        positions, images = _sampled(dataset, plan, part)
        if not len(positions):
            continue
        rows = plan.edited[positions]
        factual, patients = dataset.attributes.iloc[rows], dataset.patients.iloc[rows]
        abduction = editor.abduct(images, factual, seeds=row_seeds(plan, rows))
        null = editor.edit(abduction, factual[list(plan.targets[0].total.columns)], phrasing=NULL_PHRASING)
        tried.evaluations += abduction.evaluations + null.evaluations
        unchanged = read_scores(readers, null.images, patients)
        for target in plan.targets:
            total, orientation = target.total.iloc[positions], target.orientation[positions]
            itself = editor.edit(abduction, total)
            tried.evaluations += itself.evaluations
            whole = read_scores(readers, itself.images, patients)
            of = {"editor": name, "contrast": target.contrast.name, "attribute": target.contrast.attribute}

            def keep(
                along: str, dose: float, edit: Edit, orientation: np.ndarray, scores: dict[str, np.ndarray] | None = None,
                *, rows: np.ndarray = rows, patients: pd.Series = patients, null: Edit = null, itself: Edit = itself,
                of: dict[str, str] = of,
            ) -> None:  # fmt: skip
                frame = measured(
                    dataset, rows, scores or read_scores(readers, edit.images, patients), kind="dose", orientation=orientation,
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
    images, problems = readable(dataset, plan.edited[positions])
    return positions[~np.isin(plan.edited[positions], list(problems))], images
