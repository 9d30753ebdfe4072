"""The measurement store: a folder of shards, each written whole, that a killed run goes on from."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.looks import CHANGES, CYCLES, DOSES, LIKENESS, Looks
from causal_cxr.data.whole_file import whole_file, write_json

MANIFEST = "manifest.json"
FACTUAL = "factual"  #: folder of the unedited images' scores, beside one an editor


class ManifestMismatch(Exception):  # noqa: N818 - reads as what it is
    """The folder holds measurements of another audit; nothing is mixed or overwritten."""


def claim(folder: Path, manifest: Mapping[str, Any]) -> None:
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
    write_json(file, wanted)


def load_measurements(folder: Path) -> pd.DataFrame:
    """All shards of a folder as one table, in a fixed order."""
    files = sorted(folder.glob("*/shard-*.parquet"), key=lambda p: (p.parent.name != FACTUAL, p.parent.name, p.name))
    if not files:
        raise FileNotFoundError(f"{folder} holds no measurements; run Audit.run(..., out=...) first.")
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


TrialSettings = Mapping[str, Mapping[str, Any]]  #: name of a trial -> its settings, as :func:`trial_settings` has them


def load_composition(folder: Path, tried: TrialSettings) -> pd.DataFrame:
    """Columns editor, cycles, mae, n; no row where no composition was asked for."""
    rows: list[dict[str, Any]] = []
    for told in _carried_out(folder, "cycles", tried):
        cycles = pd.read_parquet(told.with_suffix(".parquet")).query("test == 'composition'")
        found = cycles.groupby("cycles")["distance"].agg(["mean", "size"])
        rows += [
            {"editor": told.parent.name, "cycles": n, "mae": mae, "n": size} for n, mae, size in found.itertuples()
        ]
    return pd.DataFrame(rows, columns=["editor", "cycles", "mae", "n"])


def load_looks(folder: Path, tried: TrialSettings) -> Looks:
    """What a measurement saw of the images themselves, see :class:`Looks`.

    Args:
        folder: of the measurement.
        tried: the trials that are asked for. What others left behind, in an earlier run in this folder, is not read.
    """

    def frame(files: Iterable[Path], columns: Sequence[str]) -> pd.DataFrame:
        found = [pd.read_parquet(file).assign(editor=file.parent.name) for file in files]
        return (
            pd.concat(found, ignore_index=True)
            if found
            else pd.DataFrame(columns=list(dict.fromkeys((*columns, "editor"))))
        )

    told = {name: _carried_out(folder, name, tried) for name in ("cycles", "doses")}
    refused: dict[str, dict[str, str]] = {}
    for file in sorted([*told["cycles"], *told["doses"]]):
        refused.setdefault(file.parent.name, {}).update(json.loads(file.read_text())["refused"])
    cycles, doses = ([file.with_suffix(".parquet") for file in told[name]] for name in ("cycles", "doses"))
    alike = sorted(folder.glob("*/likeness.parquet")) if "likeness" in tried else []
    return Looks(
        frame(sorted(folder.glob("*/looks-*.parquet")), CHANGES), frame(cycles, CYCLES), frame(alike, LIKENESS),
        frame(doses, DOSES), refused,
    )  # fmt: skip


def load_ledger(folder: Path, tried: TrialSettings) -> dict[str, int]:
    """Network evaluations (images x forward passes) an editor: of its shards, and of the trials that are asked for."""
    ledger: dict[str, int] = {}
    trials = [file for name in ("cycles", "doses") for file in _carried_out(folder, name, tried)]
    for file in (*sorted(folder.glob("*/shard-*.json")), *trials):
        ledger[file.parent.name] = ledger.get(file.parent.name, 0) + int(json.loads(file.read_text())["evaluations"])
    return ledger


def _carried_out(folder: Path, name: str, tried: TrialSettings) -> list[Path]:
    """What was told of a trial, an editor, with just the settings that are asked for."""
    return [
        file
        for file in sorted(folder.glob(f"*/{name}.json"))
        if name in tried and json.loads(file.read_text())["settings"] == tried[name]
    ]


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


def write_parquet(frame: pd.DataFrame, file: Path) -> None:
    """A table, whole."""
    with whole_file(file) as partial:
        frame.to_parquet(partial, index=False)


def write_npz(arrays: Mapping[str, np.ndarray], file: Path) -> None:
    """Arrays, whole and unpacked: packing would add a seventh to what features cost."""
    with whole_file(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
