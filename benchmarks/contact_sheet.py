"""A contact sheet of editors beside the truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from causal_cxr.audits.fidelity import Question

SCALE, GAP, TEXT = 2, 4, 14
EACH = 2  #: images of each direction of a contrast


def contact_sheet(file: Path, asked: Sequence[Question], made: Mapping[str, Sequence[Tensor]]) -> None:
    """Rows: images under a contrast. Columns: as it is, a true counterfactual, each editor's.

    Args:
        file: PNG.
        asked: contrasts and their truth.
        made: editor -> an answer to each.
    """
    heads = ["factual", "true", *made]
    rows = []
    for k, one in enumerate(asked):
        for sign in (1, -1):
            for i in np.flatnonzero(one.sign == sign)[:EACH]:
                images = [one.images[i], one.redraw[i], *(answered[k][i] for answered in made.values())]
                rows.append((f"{one.contrast.name}{'' if sign == 1 else ', back'}", images))
    side = SCALE * asked[0].images.shape[-1]
    sheet = Image.new("L", (len(heads) * (side + GAP), TEXT + len(rows) * (side + TEXT)))
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        draw.text((column * (side + GAP), 0), head, fill=255)
    for row, (words, images) in enumerate(rows):
        top = TEXT + row * (side + TEXT)
        draw.text((0, top), words, fill=255)
        for column, image in enumerate(images):
            pixels = Image.fromarray((255 * image[0].clamp(0, 1).numpy()).round().astype(np.uint8))
            sheet.paste(pixels.resize((side, side), Image.Resampling.NEAREST), (column * (side + GAP), top + TEXT))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
