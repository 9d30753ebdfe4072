"""Worlds of a few attributes, for tests that know the answer by hand."""

from typing import Any

from causal_cxr.data.phantom.world import World


def small(
    mechanisms: dict[str, Any], *, hidden: tuple[str, ...] = (), types: dict[str, Any] | None = None, **keys: Any
):
    """A world of the attributes that have mechanisms, 0/1 unless ``types`` has their levels or their (low, high).

    A control dot, that nothing goes with, is always there, so that something shows.
    """
    attributes = []
    for name in mechanisms:
        kind = (types or {}).get(name, [0, 1])
        entry: dict[str, Any] = {"name": name, "hidden": name in hidden}
        if isinstance(kind, tuple):
            entry |= {"type": "continuous", "unit": "units", "low": kind[0], "high": kind[1]}
        else:
            entry |= {"type": "binary" if len(kind) == 2 else "categorical", "levels": kind}
        attributes.append(entry)
    attributes.append({"name": "control_dot", "type": "binary", "hidden": True})
    return World.from_dict(
        {
            "name": "small",
            "graph": {"attributes": attributes, **keys.pop("graph", {})},
            "mechanisms": {**mechanisms, "control_dot": {"probability": 0.5}},
            **keys,
        }
    )


def logistic(bias: float = 0.0, **weights: Any) -> dict[str, Any]:
    """A logistic mechanism."""
    return {"logistic": {"bias": bias, "weights": weights}}


def linear(intercept: float = 0.0, sd: float = 1.0, **weights: Any) -> dict[str, Any]:
    """A linear-Gaussian mechanism."""
    return {"linear": {"intercept": intercept, "sd": sd, "weights": weights}}
