"""Reports from a grammar: what a radiologist would dictate of any world, hidden things included, some left out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.graphs import Attribute, Continuous, Value

SEPARATOR = " . "  #: between a report's sentences
OLD = 60.0  #: years; an opening says whether a patient is over it
OPENING = ("view", "sex", "age")
Claim = Value | pd.Interval  #: what a sentence says of an attribute: its level, or the interval that its number lies in

_IS_THERE = frozenset({"present", "yes"})
_IS_NOT_THERE = frozenset({"absent", "no", "none"})


@dataclass(frozen=True)
class Mention:
    """How often a report speaks of an attribute whose value is known.

    Attributes:
        present: in [0, 1]; a thing that shows, or a level or number, is named this often.
        absent: in [0, 1]; an absence is remarked on this often. Absence is the 0 of a 0/1 attribute, or a level called
            ``absent``, ``no`` or ``none``.

    Raises:
        ValueError: a probability outside [0, 1].
    """

    present: float = 0.9
    absent: float = 0.3

    def __post_init__(self) -> None:
        for name in ("present", "absent"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Mention has {name}={getattr(self, name)}; give a probability in [0, 1].")


DEFAULT_MENTION = Mention()


class _Topic:
    """What one slot of a report can say: for each state of its attributes some wordings, and how often it is said.

    Args:
        wordings: one sequence a state; each of a state's is used alike.
        rates: probability that each state is spoken of.
    """

    def __init__(self, wordings: Sequence[Sequence[str]], rates: Sequence[float]) -> None:
        self.rates = np.array(rates, dtype=float)
        self._sentences = np.array([sentence for state in wordings for sentence in state], dtype=object)
        self._counts = np.array([len(state) for state in wordings])
        self._starts = np.cumsum(self._counts) - self._counts

    def say(self, states: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """``(n,)`` sentences for states (not negative); ``chance`` in [0, 1) picks among wordings."""
        return self._sentences[self._starts[states] + (chance * self._counts[states]).astype(int)]


class Grammar:
    """Writes a report for each row of a table: an opening of view, sex and age, then the other attributes in any order.

    Attributes that ``grammar.yaml`` knows by name have its synonyms; others, and levels it does not know, are spoken of
    by their own phrases. Openings tell view, sex (by their usual levels) and whether an age in years is over 60, always
    unless ``mentions`` names them. Numbers are rounded, to at most about a hundred different values.

    Args:
        attributes: of the world, labelled and hidden.
        mentions: by attribute name, how often each is spoken of.
        default: for the attributes that ``mentions`` leaves out.

    Raises:
        ValueError: two attributes of one name, an unknown name in ``mentions``, two values with the same words, or
            words that hold the full stop between sentences.

    >>> from causal_cxr.graphs import Binary
    >>> grammar = Grammar([Binary("view", levels=("PA", "AP")), Binary("mask")], default=Mention(1, 1))
    >>> grammar.write(pd.DataFrame({"view": ["AP", "PA"], "mask": [1, 0]}), np.random.default_rng(0)).tolist()
    ['AP view . mask', 'PA radiograph of the chest . no mask']
    """

    def __init__(
        self,
        attributes: Sequence[Attribute],
        mentions: Mapping[str, Mention] = {},
        default: Mention = DEFAULT_MENTION,
    ) -> None:
        self.attributes = {attribute.name: attribute for attribute in attributes}
        if len(self.attributes) != len(attributes):
            raise ValueError(f"Two attributes share a name: {[a.name for a in attributes]}; rename one.")
        unknown = [name for name in mentions if name not in self.attributes]
        if unknown:
            raise ValueError(f"`mentions` speaks of {unknown}; the attributes are {list(self.attributes)}.")
        self._sentences: list[str] = []
        self._claims: dict[str, dict[str, Claim]] = {}  # by sentence in lower case, which is all that tokenizers keep
        self._openers = _openers(attributes)
        self._opener_rates = {name: mentions.get(name, Mention(1, 1)).present for name, _ in self._openers.values()}
        self._opening = self._make_opening()
        self._topics = {
            name: self._make_topic(attribute, mentions.get(name, default))
            for name, attribute in self.attributes.items()
            if name not in self._opener_rates
        }

    def write(self, table: pd.DataFrame, rng: np.random.Generator) -> pd.Series:
        """One report a row, e.g. ``"AP view of a woman aged over 60 . no effusion . a pacemaker is seen"``.

        Chance does not depend on the values: with the same ``rng``, a table in which one attribute is changed has the
        same reports but for what is said of that attribute.

        Args:
            table: a column for each attribute; others are ignored. Missing values are not mentioned.
            rng: chooses wording, order and omissions.

        Returns:
            Series ``text`` of str, indexed as ``table``.

        Raises:
            ValueError: a column is missing, or holds a value that its attribute cannot take.
        """
        missing = [name for name in self.attributes if name not in table]
        if missing:
            raise ValueError(f"The table has no column {missing}; it has {list(table.columns)}.")
        n = len(table)
        # Row by row, so that the first reports do not depend on how many follow.
        mention, chance, order = rng.uniform(size=(n, 3, 1 + len(self._topics) + len(self._openers))).swapaxes(0, 1)
        said = np.empty((n, 1 + len(self._topics)), dtype=object)
        keys = np.full(said.shape, np.inf)  # inf: not said
        opening = np.zeros(n, dtype=int)
        for j, (name, states) in enumerate(self._openers.values(), start=1 + len(self._topics)):
            codes = _codes(self.attributes[name], table[name], banded=True)
            codes = np.where(mention[:, j] < self._opener_rates[name], codes, -1)
            opening = opening * (1 + len(states)) + 1 + codes
        said[:, 0], keys[:, 0] = self._opening.say(opening, chance[:, 0]), -1.0
        for j, (name, topic) in enumerate(self._topics.items(), start=1):
            codes = _codes(self.attributes[name], table[name])
            rows = np.flatnonzero((codes >= 0) & (mention[:, j] < topic.rates[codes]))
            said[rows, j] = topic.say(codes[rows], chance[rows, j])
            keys[rows, j] = order[rows, j]
        said = np.take_along_axis(said, np.argsort(keys, axis=1, kind="stable"), axis=1)
        lengths = np.isfinite(keys).sum(axis=1)
        texts = [SEPARATOR.join(row[:length]) for row, length in zip(said.tolist(), lengths.tolist(), strict=True)]
        return pd.Series(texts, index=table.index, name="text", dtype=str)

    def sentences(self) -> dict[str, dict[str, Claim]]:
        """Every sentence this grammar can say, with all that it asserts, by attribute.

        A levelled attribute has one of its levels; a number lies in a ``pandas.Interval``. Only openings speak of
        several attributes, or, where none is known, of none. No two values share a sentence.

        >>> from causal_cxr.graphs import Binary
        >>> [s for s, claims in Grammar([Binary("nodule")]).sentences().items() if claims == {"nodule": 0}]
        ['no lung nodule', 'no nodule is seen', 'there is no pulmonary nodule']
        """
        return {sentence: dict(self._claims[sentence.casefold()]) for sentence in self._sentences}

    def _make_opening(self) -> _Topic:
        templates = load_grammar()["openings"]["templates"]
        wordings = []
        # State 0 of each is "not told"; the last attribute's states run fastest, as in `write`.
        for told in product(*([None, *states] for _, states in self._openers.values())):
            known = {part: state for part, state in zip(self._openers, told, strict=True) if state is not None}
            words = {part: word for part, (word, _) in known.items()}
            claims = {self._openers[part][0]: claim for part, (_, claim) in known.items()}
            wordings.append([t.format(**words) for t in templates if placeholders(t) == set(words)])
            self._register(wordings[-1], claims)
        return _Topic(wordings, [1.0] * len(wordings))

    def _make_topic(self, attribute: Attribute, mention: Mention) -> _Topic:
        wordings, rates = [], []
        for value, claim in _states(attribute):
            sentences = list(dict.fromkeys(" ".join(s.split()) for s in _wordings(attribute, value)))
            self._register(sentences, {attribute.name: claim})
            wordings.append(sentences)
            rates.append(mention.absent if _is_absence(attribute, value) else mention.present)
        return _Topic(wordings, rates)

    def _register(self, sentences: Iterable[str], claims: dict[str, Claim]) -> None:
        for sentence in sentences:
            if not sentence or "." in sentence.split():
                raise ValueError(f"{next(iter(claims), 'An opening')!r} cannot be spoken of as {sentence!r}; "
                                 "give words, without a full stop that stands alone.")  # fmt: skip
            other = self._claims.get(sentence.casefold(), claims)
            joined = _join(other, claims)
            if joined is None:
                raise ValueError(f"{sentence!r} would say both {other} and {claims}; give one of them other phrases.")
            self._claims[sentence.casefold()] = joined
            self._sentences.append(sentence)


@cache
def load_grammar() -> dict[str, Any]:
    """The content of ``grammar.yaml``, keys as written."""
    from ruamel.yaml import YAML

    content: dict[str, Any] = YAML(typ="safe").load(Path(__file__).with_name("grammar.yaml").read_text("utf-8"))
    return content


def placeholders(template: str) -> set[str]:
    """The names in braces.

    >>> sorted(placeholders("{view} view of a {sex}"))
    ['sex', 'view']
    """
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def _spaced(name: Any) -> str:
    return " ".join(str(name).replace("_", " ").split())


def _look_up(entries: Mapping[str, Any], name: Any) -> Any:
    """The entry one of whose spellings is ``name``, capitals and underscores aside; ``None`` if there is none."""
    wanted = _spaced(name).casefold()
    return next((v for k, v in entries.items() if wanted in [_spaced(s).casefold() for s in k.split("|")]), None)


def _openers(attributes: Iterable[Attribute]) -> dict[str, tuple[str, list[tuple[str, Claim]]]]:
    """By part of an opening: the attribute that tells it, and the word and claim for each of its states."""
    words = load_grammar()["openings"]["words"]
    found: dict[str, tuple[str, list[tuple[str, Claim]]]] = {}
    for part, attribute in product(OPENING, attributes):
        if attribute.name.casefold() != part or part in found:
            continue
        if isinstance(attribute, Continuous):
            if part == "age" and attribute.unit == "years":
                bands = pd.Interval(-np.inf, OLD, closed="right"), pd.Interval(OLD, np.inf, closed="right")
                found[part] = attribute.name, [(words["age"]["under"], bands[0]), (words["age"]["over"], bands[1])]
        elif part != "age":
            spoken: list[tuple[str, Claim]] = [(_look_up(words[part], level), level) for level in attribute.levels]
            # Two levels of one word, such as "F" and "female", are no pair that an opening can tell apart.
            if None not in dict(spoken) and len(dict(spoken)) == len(spoken):
                found[part] = attribute.name, spoken
    return found


def _grid(attribute: Continuous) -> tuple[float, int, np.ndarray]:
    """Step, number (in steps) of the first value, and the rounded values, all within the attribute's range."""
    exponent = math.ceil(math.log10((attribute.high - attribute.low) / 100))
    step = 10.0**exponent
    first, last = (int(np.rint(end / step)) for end in (attribute.low, attribute.high))
    values = np.round(np.arange(first, last + 1) * step, max(0, -exponent)) + 0.0  # no negative zero
    return step, first, np.clip(values, attribute.low, attribute.high)


def _codes(attribute: Attribute, column: pd.Series, *, banded: bool = False) -> np.ndarray:
    """``(n,)`` int state of each row, -1 where missing; ``banded`` splits a number at 60."""
    codes = attribute.encode(column)
    if isinstance(attribute, Continuous):
        if banded:
            codes = np.where(np.isnan(codes), np.nan, codes > OLD)
        else:
            step, first, _ = _grid(attribute)
            codes = np.rint(codes / step) - first
    return np.where(np.isnan(codes), -1, codes).astype(int)


def _states(attribute: Attribute) -> list[tuple[Value, Claim]]:
    """Each value that can be named, and what naming it asserts."""
    if not isinstance(attribute, Continuous):
        return [(level, level) for level in attribute.levels]
    step, first, values = _grid(attribute)
    half = step * (0.5 + 1e-6)  # a number in the middle rounds either way
    centres = np.arange(first, first + len(values)) * step
    return [(v, pd.Interval(c - half, c + half, closed="both")) for v, c in zip(values.tolist(), centres, strict=True)]


def _join(one: dict[str, Claim], other: dict[str, Claim]) -> dict[str, Claim] | None:
    """What a sentence says that stands for both: the same, or an interval around two; ``None`` where it cannot."""
    if one.keys() == other.keys() and len(one) == 1:
        (name, a), (_, b) = *one.items(), *other.items()
        if isinstance(a, pd.Interval) and isinstance(b, pd.Interval):
            return {name: pd.Interval(min(a.left, b.left), max(a.right, b.right), closed="both")}
    return one if one == other else None


def _is_absence(attribute: Attribute, value: Value) -> bool:
    if isinstance(attribute, Continuous):
        return False
    return (set(attribute.levels) == {0, 1} and value == 0) or str(value).casefold() in _IS_NOT_THERE


def _is_presence(attribute: Attribute, value: Value) -> bool:
    if isinstance(attribute, Continuous):
        return False
    return (set(attribute.levels) == {0, 1} and value == 1) or str(value).casefold() in _IS_THERE


def _wordings(attribute: Attribute, value: Value) -> list[str]:
    """The sentences for a value: the file's for it, else the attribute's own, else the file's for any, else plain."""
    entry = _look_up(load_grammar()["attributes"], attribute.name) or {}
    absent, present = _is_absence(attribute, value), _is_presence(attribute, value)
    known = _look_up(entry.get("levels", {}), value)
    known = known or (entry.get("absent") if absent else entry.get("present") if present else None)
    if known and not isinstance(attribute, Continuous):
        return list(known)
    own = attribute.phrases if isinstance(attribute, Continuous) else attribute.phrases.get(value)
    if own:
        return [attribute.phrase(value, i) for i in range(1 if isinstance(own, str) else len(own))]
    name, word = _spaced(attribute.name), f"{value:g}" if isinstance(attribute, Continuous) else str(value)
    if "any" in entry:
        return [template.format(level=word) for template in entry["any"]]
    if absent or present:
        return [f"no {name}" if absent else name]
    return [f"{name} {word} {attribute.unit}" if isinstance(attribute, Continuous) else f"{name} {word}"]
