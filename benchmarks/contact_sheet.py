"""A contact sheet of editors beside the truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from causal_cxr.audits.fidelity import Question

SCALE, GAP, TEXT = 2, 4, 14
EACH = 1  #: image of each direction of a contrast
ACROSS = 2  #: contrasts side by side


def contact_sheet(file: Path, asked: Sequence[Question], made: Mapping[str, Sequence[Tensor]]) -> None:
    """A block a contrast. Its rows: images, edited there and back. Its columns: as it is, a true counterfactual, each editor's.

    Args:
        file: PNG or JPEG.
        asked: contrasts and their truth.
        made: editor -> an answer to each.
    """
    blocks = [_block(one, {name: answered[k] for name, answered in made.items()}) for k, one in enumerate(asked)]
    wide, high = (max(block.size[axis] for block in blocks) for axis in (0, 1))
    sheet = Image.new("L", (ACROSS * wide + (ACROSS - 1) * 4 * GAP, -(-len(blocks) // ACROSS) * high))
    for k, block in enumerate(blocks):
        sheet.paste(block, (k % ACROSS * (wide + 4 * GAP), k // ACROSS * high))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


def _block(one: Question, made: Mapping[str, Tensor]) -> Image.Image:
    heads, side = ["factual", "true", *made], SCALE * one.images.shape[-1]
    rows = [
        (f"{one.contrast.name}{'' if sign == 1 else ', back'}", i)
        for sign in (1, -1)
        for i in np.flatnonzero(one.sign == sign)[:EACH]
    ]
    block = Image.new("L", (len(heads) * (side + GAP), len(rows) * (side + TEXT)))
    draw = ImageDraw.Draw(block)
    for row, (words, i) in enumerate(rows):
        top = row * (side + TEXT)
        images = [one.images[i], one.redraw[i], *(answered[i] for answered in made.values())]
        for column, (head, image) in enumerate(zip(heads, images, strict=True)):
            left = column * (side + GAP)
            draw.text((left, top), words if column == 0 else head, fill=255)
            pixels = Image.fromarray((255 * image[0].clamp(0, 1).numpy()).round().astype(np.uint8))
            block.paste(pixels.resize((side, side), Image.Resampling.NEAREST), (left, top + TEXT))
    return block
