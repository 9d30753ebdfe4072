"""The measurement store: a folder of shards, each written whole, that a killed run goes on from."""

import json
from collections.abc import Iterator, Mapping, Sequence
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


def write_parquet(frame: pd.DataFrame, file: Path) -> None:
    """A table, whole."""
    with whole_file(file) as partial:
        frame.to_parquet(partial, index=False)


def write_npz(arrays: Mapping[str, np.ndarray], file: Path) -> None:
    """Arrays, whole and unpacked: packing would add a seventh to what features cost."""
    with whole_file(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
