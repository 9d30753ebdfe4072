"""Attributes: the named properties of patient, disease and acquisition that a causal graph is about.

All have ``phrase``, ``check``, ``coerce``, ``encode``, ``decode`` and ``to_dict``. ``Binary`` and ``Categorical``
columns are pandas categoricals whose categories are the levels in order (ordered categoricals where the attribute is
``ordered``); ``Continuous`` columns are float64. Missing stays missing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

Value = str | int | float
Phrases = Mapping[Value, str | tuple[str, ...]]


def _wordings(phrases: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    return (phrases,) if isinstance(phrases, str) else tuple(phrases)


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ValueError(f"An attribute needs a printable name, got {name!r}; give a word such as 'view'.")


def _plain(value: Any) -> Any:
    """A numpy scalar as the Python number it is, so that it can be written as JSON."""
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class _Levelled:
    """What ``Binary`` and ``Categorical`` share: a name, levels, and a phrase for each."""

    name: str
    levels: tuple[Value, ...] = (0, 1)
    phrases: Phrases = field(default_factory=dict, hash=False)
    hidden: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)
        object.__setattr__(self, "levels", tuple(_plain(level) for level in self.levels))
        if len(set(self.levels)) != len(self.levels) or len(self.levels) < 2:
            raise ValueError(f"{self.name!r} has levels {list(self.levels)}; give two or more different ones.")
        unknown = [level for level in self.phrases if level not in self.levels]
        if unknown:
            raise ValueError(f"{self.name!r} has phrases for {unknown}; its levels are {list(self.levels)}.")
        empty = [level for level, words in self.phrases.items() if not words]
        if empty:
            raise ValueError(f"{self.name!r} has no words for {empty}; give a phrase or leave the level out.")

    def phrase(self, value: Value, phrasing: int = 0) -> str:
        """The words that name a value; ``phrasing`` picks among paraphrases, round and round."""
        words = _wordings(self.phrases.get(self.check(value), f"{self.name} {value}"))
        return words[phrasing % len(words)]

    def check(self, value: Any) -> Value:
        """The level equal to ``value``; raises ValueError naming what is allowed."""
        if pd.api.types.is_scalar(value) and not pd.isna(value):
            for level in self.levels:
                if level == value:
                    return level
        raise ValueError(f"{self.name!r} cannot be {value!r}; choose from {list(self.levels)}.")

    def coerce(self, series: pd.Series) -> pd.Series:
        """Typed as pandas categorical with this attribute's levels; missing stays missing, other values raise."""
        # Each distinct value is checked once: tables have many rows and few levels. Missing ones are -1, and so the last of all.
        which, values = pd.factorize(series)
        codes = np.array([*(self.levels.index(self.check(value)) for value in values), -1])[which]
        return pd.Series(pd.Categorical.from_codes(codes, dtype=self._dtype()), index=series.index, name=self.name)

    def encode(self, series: pd.Series) -> np.ndarray:
        """``(n,)`` float64 level codes ``0..k-1``; NaN where missing."""
        codes = self.coerce(series).cat.codes.to_numpy().astype(float)
        return np.where(codes < 0, np.nan, codes)

    def decode(self, codes: np.ndarray) -> pd.Series:
        """Inverse of :meth:`encode`."""
        codes = np.asarray(codes, dtype=float)
        indices = np.where(np.isnan(codes), -1, codes).astype(int)
        return pd.Series(pd.Categorical.from_codes(indices, dtype=self._dtype()), name=self.name)

    def _dtype(self) -> pd.CategoricalDtype:
        return pd.CategoricalDtype(list(self.levels))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for YAML and JSON; :func:`attribute_from_dict` reads it back."""
        phrases = [[level, list(p) if isinstance(p, tuple) else p] for level, p in self.phrases.items()]
        data: dict[str, Any] = {"name": self.name, "type": type(self).__name__.lower(), "levels": list(self.levels)}
        if phrases:
            data["phrases"] = phrases
        if self.hidden:
            data["hidden"] = True
        return data


@dataclass(frozen=True)
class Binary(_Levelled):
    """Two levels; effects are oriented from the first to the second.

    >>> Binary("view", levels=("PA", "AP")).phrase("AP")
    'view AP'
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.levels) != 2:
            raise ValueError(f"{self.name!r} is Binary but has {len(self.levels)} levels; use Categorical.")


@dataclass(frozen=True)
class Categorical(_Levelled):
    """Two or more levels; effects compare each with ``reference`` (the first level unless given).

    ``ordered``: the levels are given from least to most, as "none", "mild", "severe".

    >>> Categorical("edema", levels=("none", "mild", "severe"), ordered=True).coerce(pd.Series(["mild"])).max()
    'mild'
    """

    reference: Value | None = None
    ordered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reference", self.levels[0] if self.reference is None else self.check(self.reference))

    def to_dict(self) -> dict[str, Any]:
        data = {**super().to_dict(), "reference": self.reference}
        if self.ordered:
            data["ordered"] = True
        return data

    def _dtype(self) -> pd.CategoricalDtype:
        return pd.CategoricalDtype(list(self.levels), ordered=self.ordered)


@dataclass(frozen=True)
class Continuous:
    """A number with a unit, within ``[low, high]``.

    >>> Continuous("age", unit="years", low=18, high=100, phrases="{value:.0f}-year-old").phrase(63.0)
    '63-year-old'
    """

    name: str
    unit: str
    low: float
    high: float
    phrases: str | tuple[str, ...] = ()  # templates over ``value``
    hidden: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"{self.name!r} has low={self.low} and high={self.high}; give numbers with low below high."
            )
        if isinstance(self.phrases, list):
            object.__setattr__(self, "phrases", tuple(self.phrases))
        for template in _wordings(self.phrases):
            try:
                template.format(value=float(self.low))
            except (KeyError, IndexError, ValueError, AttributeError) as error:
                raise ValueError(
                    f"{self.name!r} has the phrase {template!r}, which cannot be filled in ({error!r}); "
                    "write the value as {value:.0f}."
                ) from None

    def phrase(self, value: Value, phrasing: int = 0) -> str:
        """The words that name a value; ``phrasing`` picks among paraphrases, round and round."""
        number = self.check(value)
        words = _wordings(self.phrases)
        return words[phrasing % len(words)].format(value=number) if words else f"{self.name} {number:g} {self.unit}"

    def check(self, value: Any) -> float:
        """``value`` as a float within the range; raises ValueError otherwise."""
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not self.low <= number <= self.high:
            allowed = f"[{self.low:g}, {self.high:g}]"
            raise ValueError(f"{self.name!r} cannot be {value!r}; give a number of {self.unit} in {allowed}.")
        return number

    def coerce(self, series: pd.Series) -> pd.Series:
        """Typed float64; missing stays missing, values outside the range raise."""
        numbers = pd.to_numeric(series, errors="coerce").astype("float64")
        wrong = series[series.notna() & ~numbers.between(self.low, self.high)]
        if len(wrong):
            self.check(wrong.iloc[0])
        return numbers.rename(self.name)

    def encode(self, series: pd.Series) -> np.ndarray:
        """``(n,)`` float64; NaN where missing."""
        return self.coerce(series).to_numpy()

    def decode(self, codes: np.ndarray) -> pd.Series:
        """Inverse of :meth:`encode`."""
        return pd.Series(np.asarray(codes, dtype=float), name=self.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for YAML and JSON; :func:`attribute_from_dict` reads it back."""
        data: dict[str, Any] = {"name": self.name, "type": "continuous", "unit": self.unit}
        data |= {"low": _plain(self.low), "high": _plain(self.high)}
        if self.phrases:
            data["phrases"] = list(self.phrases) if isinstance(self.phrases, tuple) else self.phrases
        if self.hidden:
            data["hidden"] = True
        return data


Attribute = Binary | Categorical | Continuous


def attribute_from_dict(data: Mapping[str, Any]) -> Attribute:
    """The attribute that ``to_dict`` wrote.

    Phrases may be a mapping (as users write YAML) or a list of pairs (as ``to_dict`` writes, so that levels which are
    numbers stay numbers in JSON).
    """
    if not isinstance(data, Mapping):
        raise ValueError(
            f"An attribute is written as a mapping, got {data!r}; write {{name: view, type: binary, ...}}."
        )
    kinds: dict[str, Any] = {"binary": Binary, "categorical": Categorical, "continuous": Continuous}
    given = dict(data)
    kind = given.pop("type", None)
    if kind not in kinds:
        raise ValueError(f"Attribute {data.get('name')!r} has type {kind!r}; choose from {sorted(kinds)}.")
    given.setdefault("name", None)
    if "levels" in given:
        given["levels"] = tuple(given["levels"])
    phrases = given.get("phrases")
    if kind != "continuous" and phrases is not None:
        pairs = phrases.items() if isinstance(phrases, Mapping) else phrases
        given["phrases"] = {level: tuple(p) if isinstance(p, list) else p for level, p in pairs}
    try:
        return kinds[kind](**given)
    except TypeError as error:
        raise ValueError(f"Attribute {data.get('name')!r}: {error}") from None
