"""Captions: a table of attributes in words, through the graph's own phrases and a template.

A template is text with slots and optional parts:

- ``{name}``: the words of that attribute;
- ``{}``: the words of all attributes that have no slot of their own, in order, joined by `` , ``;
- ``{findings}``: the same, joined by ``, ``; of attributes that give phrases to some of their levels only, the other
  levels go unsaid (a finding that is absent, say);
- ``[...]``: left out where none of the slots in it has words. Parts may hold parts.

A missing value has no words, nor has an attribute that the table lacks; spaces that this leaves side by side become one.
A template stays grammatical if the words around each slot that may be empty are in brackets with it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from causal_cxr.graphs import Attribute, Continuous

TEMPLATE = "chest x-ray , {}"
ALL, FINDINGS = "", "findings"  #: slots of whatever has no slot of its own
PARAPHRASES = 8  #: of a value, at most, that are looked at for words that a model has read
_JOINED = {ALL: " , ", FINDINGS: ", "}
_PIECES = re.compile(r"(\[|\]|\{[^{}\[\]]*\})")

Parts = list["str | tuple[str] | Parts"]  #: text, slots, optional parts


def captions(
    table: pd.DataFrame, attributes: Mapping[str, Attribute], phrasing: int = 0, template: str = TEMPLATE
) -> list[str]:
    """One caption a row, e.g. ``"chest x-ray , 63 year old , woman , AP view , cardiomegaly , no effusion"``.

    Args:
        table: has a column for each attribute that is named; a missing value is left out of the caption.
        attributes: in the order in which the caption names them.
        phrasing: 0 is the default wording, 1 the neutral paraphrase of null edits.
        template: see the module.

    Raises:
        ValueError: a template that cannot be read, or a value that an attribute cannot have.

    >>> from causal_cxr.graphs import Binary
    >>> graph = {"sex": Binary("sex", levels=("male", "female"), phrases={"male": "male", "female": "female"}),
    ...          "effusion": Binary("effusion", phrases={1: "pleural effusion"})}
    >>> template = "Chest X-ray[ of a {sex} subject][ with {findings}]."
    >>> captions(pd.DataFrame({"sex": ["female", None], "effusion": [0, 1]}), graph, template=template)
    ['Chest X-ray of a female subject.', 'Chest X-ray with pleural effusion.']
    """
    worded = Worded(table, attributes, phrasing, template)
    return [worded.caption(i, worded.columns) for i in range(len(table))]


class Worded:
    """The words of a table's values, to make captions of; the arguments are those of :func:`captions`.

    Attributes:
        columns: attribute -> the words of its values, empty where there are none.
    """

    def __init__(
        self, table: pd.DataFrame, attributes: Mapping[str, Attribute], phrasing: int = 0, template: str = TEMPLATE
    ) -> None:
        self._parts, self._slots = _parsed(template, attributes)
        here = {name: attribute for name, attribute in attributes.items() if name in table.columns}
        self.columns = {name: _words(table[name], attribute, phrasing) for name, attribute in here.items()}
        self._joint = self._slots & {ALL, FINDINGS} - set(attributes)
        rest = [name for name in here if name not in self._slots] if FINDINGS in self._joint else []
        self._unsaid = {name: _unsaid(table[name], here[name]) for name in rest}

    def caption(self, i: int, named: Iterable[str]) -> str:
        """Of row ``i``, naming those of the attributes, in this order."""
        said = {name: self.columns[name][i] for name in named}
        words = {name: word for name, word in said.items() if name in self._slots}
        for slot in self._joint:
            rest = [word for name, word in said.items() if word and name not in self._slots
                    and (slot == ALL or not self._unsaid[name][i])]  # fmt: skip
            words[slot] = _JOINED[slot].join(rest)
        return re.sub(" {2,}", " ", _filled(self._parts, words)[0])


def named(attributes: Mapping[str, Attribute], template: str = TEMPLATE) -> frozenset[str]:
    """The attributes that a caption can name: what an edit through it can change.

    Raises:
        ValueError: a template that cannot be read.
    """
    _, slots = _parsed(template, attributes)
    everything = bool(slots & {ALL, FINDINGS} - set(attributes))
    return frozenset(name for name in attributes if everything or name in slots)


def _words(column: pd.Series, attribute: Attribute, phrasing: int) -> list[str]:
    """Each distinct value is put into words once: tables have many rows and few values."""
    phrases = {value: attribute.phrase(value, phrasing) for value in column.dropna().unique()}
    return ["" if pd.isna(value) else phrases[value] for value in column]


def _unsaid(column: pd.Series, attribute: Attribute) -> list[bool]:
    if isinstance(attribute, Continuous) or not attribute.phrases:
        return [False] * len(column)
    return [pd.isna(value) or attribute.check(value) not in attribute.phrases for value in column]


def _parsed(template: str, attributes: Mapping[str, Attribute]) -> tuple[Parts, frozenset[str]]:
    open_parts: list[Parts] = [[]]
    slots = set()
    for piece in _PIECES.split(template):
        if piece == "[":
            open_parts.append([])
        elif piece == "]":
            if len(open_parts) == 1:
                raise ValueError(f"The template {template!r} closes a bracket that it has not opened.")
            closed = open_parts.pop()
            open_parts[-1].append(closed)
        elif piece.startswith("{") and piece.endswith("}"):
            slot = piece[1:-1]
            if slot not in attributes and slot not in _JOINED:
                raise ValueError(
                    f"The template {template!r} has a slot {piece} for no attribute; there are {sorted(attributes)}, "
                    "{findings} for the others and {} for all."
                )
            slots.add(slot)
            open_parts[-1].append((slot,))
        elif "{" in piece or "}" in piece:
            raise ValueError(f"The template {template!r} has a brace without its counterpart at {piece!r}.")
        else:
            open_parts[-1].append(piece)
    if len(open_parts) > 1:
        raise ValueError(f"The template {template!r} opens a bracket that it does not close.")
    return open_parts[0], frozenset(slots)


def _filled(parts: Parts, words: Mapping[str, str]) -> tuple[str, bool]:
    """The text, and whether a slot in it has words."""
    text, said = "", False
    for part in parts:
        if isinstance(part, str):
            text += part
        elif isinstance(part, tuple):
            word: Any = words.get(part[0], "")
            text, said = text + word, said or bool(word)
        else:
            inner, inner_said = _filled(part, words)
            text, said = text + (inner if inner_said else ""), said or inner_said
    return text, said


def strangely_worded(
    attributes: Mapping[str, Attribute], read: Mapping[str, Attribute]
) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Attributes that share a name with one whose words a model has read, and have other words for it.

    Args:
        attributes: what captions are to name.
        read: what the captions named with which the model was fitted.

    Returns:
        attribute -> the default words of one of its values, and the words that were read of that value.

    >>> from causal_cxr.graphs import Binary
    >>> strangely_worded({"heart": Binary("heart")}, {"heart": Binary("heart", phrases={0: "normal", 1: "enlarged"})})
    {'heart': ('heart 1', ('enlarged',))}
    """
    strange = {}
    for name, ours in attributes.items():
        if name not in read:
            continue
        theirs = read[name]
        for value in (theirs.high,) if isinstance(theirs, Continuous) else theirs.levels:
            try:
                said = ours.phrase(value)
            except ValueError:  # no value of ours
                continue
            known = tuple(dict.fromkeys(theirs.phrase(value, i) for i in range(PARAPHRASES)))
            if said not in known:
                strange[name] = said, known
    return strange
