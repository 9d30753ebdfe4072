"""Small drawings for letters, words and arrows, as rows of points."""

import torch
from torch import Tensor

_FONT = {
    "P": "##. #.# ##. #.. #..",
    "O": "### #.# #.# #.# ###",
    "R": "##. #.# ##. #.# #.#",
    "T": "### .#. .#. .#. .#.",
    "A": ".#. #.# ### #.# #.#",
    "B": "##. #.# ##. #.# ##.",
    "L": "#.. #.. #.. #.. ###",
    "E": "### #.. ##. #.. ###",
    " ": "... ... ... ... ...",
}


def _points(rows: str) -> Tensor:
    return torch.tensor([[float(point == "#") for point in row] for row in rows.split()])


def word(text: str) -> Tensor:
    """``(5, 4 len(text) - 1)`` points of a word in capitals."""
    letters = [torch.nn.functional.pad(_points(_FONT[letter]), (0, 1)) for letter in text]
    return torch.cat(letters, 1)[:, :-1]


LETTER_L = _points("##... ##... ##... ##... ##... ##### #####")
ARROW = _points("...#... ..###.. .#####. ####### ...#... ...#... ...#... ...#... ...#...")
PORTABLE = torch.cat([word("PORTABLE"), torch.zeros(2, 31), torch.nn.functional.pad(word("AP"), (0, 24))])
