"""The costly half of an audit: abduct every image once, edit it for each contrast, read the results, keep scores.

A shard is a pure function of (editor, readers, rows, targets, seed) and is written whole or not at all, so a run that is
killed goes on from its last shard to the same numbers.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.data.dataset import Dataset, UnreadableImages
from causal_cxr.editors.editor import Editor
from causal_cxr.graphs import CausalGraph, Contrast
from causal_cxr.readers.reader import Reader

MANIFEST = "manifest.json"
FACTUAL = "factual"  #: folder of the unedited images' scores, beside one an editor
NULL_PHRASING = 1  #: null edits say the same in other words
COMPOSITION_IMAGES, COMPOSITION_CYCLES = 32, (1, 10)
GALLERY_ROWS = 24


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
class Plan:
    """All that a measurement depends on, besides the models and the images.

    Attributes:
        rows: dataset rows that are read unedited.
        edited: dataset rows that are edited.
        targets: one a contrast, aligned with ``edited``.
        seed: of the editors' own chance.
        batch_size: the partition into shards; fixed, since it changes rounding.
    """

    rows: np.ndarray
    edited: np.ndarray
    targets: tuple[Target, ...]
    seed: int
    batch_size: int

    def shards(self, rows: np.ndarray) -> list[np.ndarray]:
        """The fixed partition."""
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]


def plan(
    graph: CausalGraph,
    dataset: Dataset,
    contrasts: Sequence[Contrast],
    edited: np.ndarray,
    scm: Any,
    *,
    seed: int,
    batch_size: int,
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
    """  # fmt: skip
    table = graph.coerce(dataset.attributes)
    factual = table.iloc[edited]
    targets = []
    for contrast in contrasts:
        attribute = graph.attributes[contrast.attribute]
        support, orientation = contrast.apply(attribute, table[contrast.attribute])
        new, orientation = support.iloc[edited], orientation[edited]
        direct = factual.assign(**{contrast.attribute: new})
        labelled_descendants = graph.descendants(contrast.attribute) & set(graph.labelled)
        if labelled_descendants:
            total = scm.counterfactual(factual, {contrast.attribute: new}, seed=seed)
            targets.append(Target(contrast, total, direct, orientation))
        else:
            targets.append(Target(contrast, direct, None, orientation))
    return Plan(np.arange(len(table)), edited, tuple(targets), seed, batch_size)


def measure(
    dataset: Dataset,
    editors: Mapping[str, Editor],
    readers: Sequence[Reader],
    plan: Plan,
    folder: Path,
    *,
    manifest: Mapping[str, Any],
    progress: Any = None,
) -> None:
    """Fill ``folder`` with shards: ``factual/``, ``<editor>/`` and their galleries and ledgers.

    Args:
        manifest: what these measurements depend on; on a resume it must equal the folder's own.
        progress: called with a description and the number of images done, or ``None``.

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
    for name, editor in editors.items():
        for i, positions in enumerate(plan.shards(np.arange(len(plan.edited)))):
            file = folder / name / f"shard-{i:05d}.parquet"
            if not file.exists():
                shard, gallery, evaluations = _edited_shard(dataset, name, editor, readers, plan, positions)
                if gallery:
                    _write_npz(gallery, file.with_suffix(".npz"))
                _write_json({"evaluations": evaluations}, file.with_suffix(".json"))
                _write_parquet(shard, file)  # last: its presence says that the shard is whole
            tell(f"editing with {name}", len(positions))
        file = folder / name / "composition.json"
        if not file.exists():
            _write_json(_composition(dataset, editor, plan), file)
        tell(f"composition of {name}", min(COMPOSITION_IMAGES, len(plan.edited)))


def load_measurements(folder: Path) -> pd.DataFrame:
    """All shards of a folder as one table, in a fixed order."""
    files = sorted(folder.glob("*/shard-*.parquet"), key=lambda p: (p.parent.name != FACTUAL, p.parent.name, p.name))
    if not files:
        raise FileNotFoundError(f"{folder} holds no measurements; run Audit.run(..., out=...) first.")
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def load_composition(folder: Path) -> pd.DataFrame:
    """Columns editor, cycles, mae, n."""
    rows = [
        {"editor": file.parent.name, **entry}
        for file in sorted(folder.glob("*/composition.json"))
        for entry in json.loads(file.read_text())["cycles"]
    ]
    return pd.DataFrame(rows, columns=["editor", "cycles", "mae", "n"])


def load_ledger(folder: Path) -> dict[str, int]:
    """Network evaluations (images x forward passes) an editor."""
    ledger: dict[str, int] = {}
    for file in sorted(folder.glob("*/*.json")):
        ledger[file.parent.name] = ledger.get(file.parent.name, 0) + int(json.loads(file.read_text())["evaluations"])
    return ledger


def load_gallery(folder: Path) -> Iterator[dict[str, Any]]:
    """One dict a picture: editor, contrast, attribute, row, factual, null, counterfactual (uint8)."""
    for file in sorted(folder.glob("*/shard-*.npz")):
        with np.load(file, allow_pickle=False) as arrays:
            index = json.loads(str(arrays["index"]))
            for k, (contrast, attribute, row, position) in enumerate(index):
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
    frame = pd.DataFrame(
        {
            "editor": editor, "row": rows.astype(np.int64), "patient": dataset.patients.iloc[rows].astype(str).to_numpy(),
            "contrast": contrast, "attribute": attribute, "kind": kind, "orientation": orientation,
            "accepted": accepted, "reason": reason,
        }
    )  # fmt: skip
    frame["orientation"] = frame["orientation"].astype(np.int8)
    return frame.assign(**scores)


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
) -> tuple[pd.DataFrame, dict[str, np.ndarray], int]:
    images, problems = _readable(dataset, plan.edited[positions])  # the factual shard names what cannot be read
    rows = _without(plan.edited[positions], problems)
    if not len(rows):
        return _frame(dataset, rows, {}, editor=name, kind="null"), {}, 0
    positions = positions[np.isin(plan.edited[positions], rows)]
    factual, patients = dataset.attributes.iloc[rows], dataset.patients.iloc[rows]
    seeds = _seeds(plan, rows)
    abduction = editor.abduct(images, factual, seeds=seeds)
    evaluations = abduction.evaluations
    factual_targets = factual[list(plan.targets[0].total.columns)] if plan.targets else factual
    null = editor.edit(abduction, factual_targets, phrasing=NULL_PHRASING)
    evaluations += null.evaluations
    frames = [
        _frame(dataset, rows, _read(readers, null.images, patients), editor=name, kind="null", accepted=null.accepted,
               reason=list(null.reasons))
    ]  # fmt: skip
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
        accepted, reasons = edit.accepted.copy(), list(edit.reasons)
        frames.append(_frame(dataset, rows, scores, kind="total", accepted=accepted, reason=reasons, **about))
        for k in kept[target.orientation[positions][kept] != 0]:
            gallery.append(_bytes(edit.images[int(k), 0]))
            index.append((target.contrast.name, target.contrast.attribute, int(rows[k]), int(k)))
        if target.direct is None:
            continue
        direct = target.direct.iloc[positions]
        differs = np.flatnonzero(
            [not a.equals(b) for (_, a), (_, b) in zip(total.iterrows(), direct.iterrows(), strict=True)]
        )
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
    return pd.concat(frames, ignore_index=True), pictures, evaluations


def edit_again(
    dataset: Dataset, editor: Editor, plan: Plan, target: Target, rows: np.ndarray
) -> tuple[Tensor, Tensor, Tensor]:
    """Factual images, null and total edits of some edited rows, as they were measured up to rounding."""
    at = pd.Series(np.arange(len(plan.edited)), index=plan.edited)[rows].to_numpy()
    images, factual = dataset.images(rows), dataset.attributes.iloc[rows]
    abduction = editor.abduct(images, factual, seeds=_seeds(plan, rows))
    null = editor.edit(abduction, factual[list(target.total.columns)], phrasing=NULL_PHRASING)
    return images, null.images, editor.edit(abduction, target.total.iloc[at]).images


def _seeds(plan: Plan, rows: np.ndarray) -> np.ndarray:
    """One a row, whatever the batch."""
    states = [np.random.SeedSequence([plan.seed, int(row)]).generate_state(1)[0] for row in rows]
    return np.array(states, dtype=np.int64)


def _part(editor: Editor, images: Tensor, factual: pd.DataFrame, seeds: np.ndarray, part: np.ndarray) -> Any:
    """Abduction of a part of the batch. States are opaque, so it is made anew; editors are deterministic given seeds."""
    return editor.abduct(images[torch.as_tensor(part)], factual.iloc[part], seeds=seeds[part])


def _composition(dataset: Dataset, editor: Editor, plan: Plan) -> dict[str, Any]:
    """Mean absolute change after null cycles, each abducted anew (composition axiom; Monteiro et al., ICLR 2023)."""
    rows = plan.edited[:COMPOSITION_IMAGES]
    images, problems = _readable(dataset, rows)
    rows, original = _without(rows, problems), images
    if not len(rows):
        return {"evaluations": 0, "cycles": []}
    factual = dataset.attributes.iloc[rows]
    evaluations, cycles = 0, []
    for cycle in range(1, max(COMPOSITION_CYCLES) + 1):
        abduction = editor.abduct(images, factual, seeds=np.arange(len(rows)))
        edit = editor.edit(abduction, factual)
        images, evaluations = edit.images, evaluations + abduction.evaluations + edit.evaluations
        if cycle in COMPOSITION_CYCLES:
            cycles.append({"cycles": cycle, "mae": float((images - original).abs().mean()), "n": len(rows)})
    return {"evaluations": evaluations, "cycles": cycles}


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
