"""Frames as rows for a page, and as strict JSON (RFC 8259: no NaN, no Infinity), read back with the same values and dtypes."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def frame_to_json(frame: pd.DataFrame) -> dict[str, Any]:
    """Plain data, a column at a time; the index is not kept.

    What JSON cannot say is null. Where null does not tell which it was (an infinity; NaN rather than None among
    objects), ``special`` says so by position.
    """
    return {str(name): _column_to_json(frame[name]) for name in frame.columns}


def frame_from_json(content: Mapping[str, Any]) -> pd.DataFrame:
    """Inverse of :func:`frame_to_json`.

    >>> frame_from_json(frame_to_json(pd.DataFrame({"q": [0.5, np.nan, -np.inf]})))["q"].tolist()
    [0.5, nan, -inf]
    """
    return pd.DataFrame({name: _column_from_json(column) for name, column in content.items()}, columns=list(content))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows by column name."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def strict(value: Any) -> Any:
    """Nested data as JSON can hold it: numpy scalars as Python's, what is not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def _column_to_json(column: pd.Series) -> dict[str, Any]:
    values = column.tolist()
    objects = column.dtype == object  # elsewhere null can only have been NaN
    special = {
        str(i): repr(float(v))
        for i, v in enumerate(values)
        if isinstance(v, float) and not math.isfinite(v) and (objects or math.isinf(v))
    }
    return {"dtype": str(column.dtype), "values": strict(values), **({"special": special} if special else {})}


def _column_from_json(content: Mapping[str, Any]) -> pd.Series:
    values = list(content["values"])
    for position, number in content.get("special", {}).items():
        values[int(position)] = float(number)
    return pd.Series(values, dtype=content["dtype"])
