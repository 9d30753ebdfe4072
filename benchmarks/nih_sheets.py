"""Contact sheets: edits to be looked at, and made images beside the nearest that the editor was fitted on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from torch import Tensor

from causal_cxr.audits.report.pictures import difference

SHOWN, GAP, TEXT = 8, 4, 14


def contact_sheet(
    file: Path,
    factual: Tensor,
    table: pd.DataFrame,
    made: Mapping[str, Mapping[str, Tensor]],
    changes: Mapping[str, Any],
) -> None:
    """One row an image: itself, then for each change its edits by each editor, the first with its difference.

    Args:
        file: PNG.
        factual: ``(n, 1, h, w)``; the first :data:`SHOWN` are drawn.
        table: ``n`` rows of attributes, written under each image.
        made: by editor, by change: ``(n, 1, h, w)``.
        changes: their names, in order.
    """
    heads, columns = ["factual"], [_tiles(factual)]
    for change in changes:
        for i, (editor, edits) in enumerate(made.items()):
            heads.append(f"{change}|{editor}")
            columns.append(_tiles(edits[change]))
            if i == 0:
                heads.append("difference")
                columns.append([difference(a[..., 0], b[..., 0]) for a, b in zip(columns[0], columns[-1], strict=True)])
    notes = [
        f"{row.age:.0f} {row.sex} {row.view}{' pneumonia' if row.pneumonia == 1 else ''}" for row in table.itertuples()
    ]
    _write(file, heads, columns, notes)


def neighbour_sheet(file: Path, made: Mapping[str, Tensor], nearest: Mapping[str, np.ndarray], fitted: Tensor) -> None:
    """Made images, each with the fitted image that is nearest to it.

    Args:
        file: PNG.
        made: by name, ``(n, 1, h, w)``.
        nearest: by name, ``(n,)`` index into ``fitted``.
        fitted: images that the editor was fitted on.
    """
    heads, columns = [], []
    for name, images in made.items():
        for part in (0, 1):
            mine = slice(part * SHOWN, (part + 1) * SHOWN)
            if len(images[mine]):
                heads += [name, "nearest fitted"]
                columns += [_tiles(images[mine]), _tiles(fitted[nearest[name][mine].tolist()])]
    _write(file, heads, columns, [""] * SHOWN)


def _tiles(images: Tensor) -> list[np.ndarray]:
    grey = (images[:SHOWN, 0].numpy() * 255).round().astype(np.uint8)
    return [np.repeat(image[..., None], 3, axis=2) for image in grey]


def _write(file: Path, heads: list[str], columns: list[list[np.ndarray]], notes: list[str]) -> None:
    side = max(96, columns[0][0].shape[0])
    step, rows = side + GAP, max(len(column) for column in columns)
    sheet = Image.new("RGB", (len(columns) * step, 2 * TEXT + rows * (step + TEXT)), "white")
    pen = ImageDraw.Draw(sheet)
    for j, (head, column) in enumerate(zip(heads, columns, strict=True)):
        pen.multiline_text((j * step, 0), head.replace("|", "\n"), fill="black", font_size=11, spacing=1)
        for i, tile in enumerate(column):
            top = 2 * TEXT + i * (step + TEXT)
            picture = Image.fromarray(tile).resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(picture, (j * step, top))
    for i, note in enumerate(notes[:rows]):
        pen.text((0, 2 * TEXT + i * (step + TEXT) + side), note, fill="black", font_size=11)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
