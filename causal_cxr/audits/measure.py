"""The costly half of an audit: abduct every image once, edit it for each contrast, read the results, keep scores.

A shard is a pure function of (editor, readers, rows, targets, seed) and is written whole or not at all, so a run that is
killed goes on from its last shard to the same numbers. Beside each shard lies what was seen of the images themselves while
they were at hand, for the limits of the editor; edits in a row and edits at other doses are made of a bounded number of images.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.audits.looks import Looking, differing, likeness
from causal_cxr.audits.plans import NULL_PHRASING, Plan, Target, row_seeds
from causal_cxr.audits.readings import measured, read_scores, readable, without
from causal_cxr.audits.store import FACTUAL, claim, write_npz, write_parquet
from causal_cxr.audits.trials import Trials, carry_out_once, trial_settings, tried_cycles, tried_doses
from causal_cxr.data.dataset import Dataset
from causal_cxr.data.whole_file import write_json
from causal_cxr.editors.editor import Editor
from causal_cxr.readers.reader import Reader

GALLERY_ROWS = 24
LOOKED_AT = 256  #: edited images whose features are kept for realism and identity
LETTERED = 32  #: of those, images whose lettering is looked for


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
    claim(folder, manifest)
    tell, tried = progress or (lambda what, images: None), trial_settings(trials, plan.ladders)
    for i, rows in enumerate(plan.shards(plan.rows)):
        file = folder / FACTUAL / f"shard-{i:05d}.parquet"
        if not file.exists():
            write_parquet(_factual_shard(dataset, readers, rows), file)
        tell("reading unedited images", len(rows))
    if stopping is not None:
        files = sorted((folder / FACTUAL).glob("shard-*.parquet"))
        stopping.begin(pd.concat(map(pd.read_parquet, files), ignore_index=True))
    parts = plan.shards(np.arange(len(plan.edited))) if stopping is None else stopping.parts()
    for name, editor in editors.items():
        able = plan.within(editor)
        for i, positions in enumerate(parts):
            asked = able if stopping is None else able.asking(stopping.asked(name))
            if stopping is not None and not asked.targets:
                break
            file = folder / name / f"shard-{i:05d}.parquet"
            if not file.exists():
                shard, gallery, evaluations, looks, features = _edited_shard(
                    dataset, name, editor, readers, asked, positions
                )
                if gallery:
                    write_npz(gallery, file.with_suffix(".npz"))
                if features:
                    write_npz(features, file.with_name(f"features-{i:05d}.npz"))
                write_parquet(looks, file.with_name(f"looks-{i:05d}.parquet"))
                write_json(file.with_suffix(".json"), {"evaluations": evaluations})
                write_parquet(shard, file)  # last: its presence says that the shard is whole
            tell(f"editing with {name}", len(positions))
            if stopping is not None:
                stopping.saw(name, pd.read_parquet(file))
        if trials is None:
            continue
        carry_out_once(folder / name / "cycles", tried["cycles"], partial(tried_cycles, dataset, editor, able, trials))
        tell(f"composition of {name}", min(trials.composed, len(plan.edited)))
        if "doses" in tried:
            carry_out_once(
                folder / name / "doses", tried["doses"],
                partial(tried_doses, dataset, name, editor, readers, able, trials),
            )  # fmt: skip
            tell(f"doses of {name}", 0)
        file = folder / name / "likeness.parquet"
        if not file.exists():
            write_parquet(_likeness(folder / name, dataset, able), file)


def _factual_shard(dataset: Dataset, readers: Sequence[Reader], rows: np.ndarray) -> pd.DataFrame:
    """Scores of unedited images; an unreadable one is a row with its reason and no scores."""
    images, problems = readable(dataset, rows)
    good = without(rows, problems)
    frame = measured(
        dataset, good, read_scores(readers, images, dataset.patients.iloc[good]) if len(good) else {}, kind="factual"
    )
    if problems:
        bad = np.array(sorted(problems))
        reasons = [f"unreadable: {problems[int(row)]}" for row in bad]
        frame = pd.concat([frame, measured(dataset, bad, {}, kind="factual", accepted=False, reason=reasons)])
    return frame


def _edited_shard(
    dataset: Dataset, name: str, editor: Editor, readers: Sequence[Reader], plan: Plan, positions: np.ndarray
) -> tuple[pd.DataFrame, dict[str, np.ndarray], int, pd.DataFrame, dict[str, np.ndarray]]:
    """Scores, pictures, evaluations, and what is seen of the images themselves: changes, and features of some."""
    images, problems = readable(dataset, plan.edited[positions])  # the factual shard names what cannot be read
    rows = without(plan.edited[positions], problems)
    if not len(rows):
        nothing = measured(dataset, rows, {}, editor=name, kind="null")
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
        measured(dataset, rows, read_scores(readers, null.images, patients), editor=name, kind="null", accepted=null.accepted,
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
        scores = read_scores(readers, edit.images, patients)
        looking.at(target.contrast, target.orientation[positions], factual, total, edit)
        accepted, reasons = edit.accepted.copy(), list(edit.reasons)
        frames.append(measured(dataset, rows, scores, kind="total", accepted=accepted, reason=reasons, **about))
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
            for column, values in read_scores(readers, again.images, patients.iloc[differs]).items():
                scores[column][differs] = values
            accepted[differs] = again.accepted
            for k, reason in zip(differs, again.reasons, strict=True):
                reasons[k] = reason
        frames.append(measured(dataset, rows, scores, kind="direct", accepted=accepted, reason=reasons, **about))
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


def _part(editor: Editor, images: Tensor, factual: pd.DataFrame, seeds: np.ndarray, part: np.ndarray) -> Any:
    """Abduction of a part of the batch. States are opaque, so it is made anew; editors are deterministic given seeds."""
    return editor.abduct(images[torch.as_tensor(part)], factual.iloc[part], seeds=seeds[part])


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
