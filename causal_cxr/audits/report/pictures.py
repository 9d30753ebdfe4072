"""Small pictures for a page: intervals and dots as SVG, radiographs as WebP. Numbers only: nothing to escape.

Colours are the page's custom properties, with a default for pages that have none (notebooks).
"""

import base64
import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

COLOURS = {
    "editor": "var(--editor, #c2410c)",
    "adjusted": "var(--adjusted, #1d6fb8)",
    "marginal": "var(--marginal, #8a94a0)",
    "ink": "currentColor",
}
_BAND, _ZERO = "var(--band, #8883)", "var(--line, #8888)"


def intervals(
    marks: Iterable[tuple[str, float, float, float]],
    *,
    span: tuple[float, float] = (-1.0, 1.0),
    band: tuple[float, float] = (0.0, 0.0),
    at: float = 0.0,
) -> str:
    """Estimates with intervals, one a line, on one axis.

    Args:
        marks: (colour, value, low, high); those that are not known are left out.
        span: the axis; what lies beyond is drawn at its end.
        band: shaded: effects in it do not count.
        at: where the axis has its mark.
    """
    x = _scale(span)
    lines, y = [], 7
    for colour, value, low, high in marks:
        if all(math.isfinite(v) for v in (value, low, high)):
            lines.append(f'<g stroke="{COLOURS[colour]}" fill="{COLOURS[colour]}"><path d="M{x(low)} {y}H{x(high)}"/>'
                         f'<circle cx="{x(value)}" cy="{y}" r="2.5"/></g>')  # fmt: skip
        y += 9
    return _axis(x, band, at, y - 2, f'<g stroke-width="2">{"".join(lines)}</g>')


def strip(values: Iterable[float], colour: str, *, delta: float) -> str:
    """Many effects on one axis from -1 to 1, a translucent dot each."""
    x = _scale((-1.0, 1.0))
    dots = "".join(f'<circle cx="{x(value)}" cy="8" r="4"/>' for value in values if math.isfinite(value))
    return _axis(x, (-delta, delta), 0.0, 16, f'<g fill="{COLOURS[colour]}" fill-opacity=".5">{dots}</g>')


def estimates(row: Mapping[str, Any]) -> str:
    """An edge's three estimates, with the band of effects that do not count."""
    delta = float(row["delta"])
    marks = [
        (side, float(row[f"{side}_effect"]), float(row[f"{side}_low"]), float(row[f"{side}_high"]))
        for side in ("editor", "adjusted", "marginal")
    ]
    return intervals(marks, band=(-delta, delta))


def difference(null: np.ndarray, counterfactual: np.ndarray) -> np.ndarray:
    """Signed difference on a diverging scale: white 0, red brighter, blue darker; full colour at half the range."""
    d = np.clip((counterfactual.astype(float) - null.astype(float)) / 128.0, -1, 1)[..., None]
    red, blue = np.array([178.0, 24.0, 43.0]), np.array([33.0, 102.0, 172.0])
    return (255 + np.where(d > 0, d * (red - 255), -d * (blue - 255))).astype(np.uint8)


def webp(image: np.ndarray, side: int = 160) -> str:
    """A data URL."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC).save(stream, "WEBP", quality=78)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def _scale(span: tuple[float, float]) -> Any:
    low, high = span
    return lambda value: round(4 + 192 * (min(max(value, low), high) - low) / (high - low), 1)


def _axis(x: Any, band: tuple[float, float], at: float, height: int, content: str) -> str:
    return (
        f'<svg class="axis" viewBox="0 0 200 {height}" width="200" height="{height}" aria-hidden="true">'
        f'<path fill="{_BAND}" d="M{x(band[0])} 0H{x(band[1])}V{height}H{x(band[0])}z"/>'
        f'<path stroke="{_ZERO}" d="M{x(at)} 0V{height}"/>{content}</svg>'
    )
