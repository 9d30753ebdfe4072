"""What edits changed, out of the measurement table: oriented differences, edited minus matched null."""

import numpy as np
import pandas as pd

from causal_cxr.audits.effects import Effect, rejection_bounds
from causal_cxr.graphs import Contrast

PRESENT = 0.5  #: score from which a concept counts as shown, for ``gained`` and ``lost``


def paired_differences(
    mine: pd.DataFrame, null: pd.DataFrame, contrast: Contrast, kind: str, columns: list[str]
) -> pd.DataFrame | None:
    """Oriented differences edited minus matched null, the null's scores as ``<column>@null``, patient, orientation.

    ``None`` if the contrast was not measured.
    """
    edits = mine[
        (mine["kind"] == kind) & (mine["contrast"] == contrast.name) & (mine["orientation"] != 0) & mine["accepted"]
    ]
    edits = edits[edits["row"].isin(null.index[null["accepted"]])]
    if edits.empty:
        return None
    sign = edits["orientation"].to_numpy(dtype=float)[:, None]
    before = null.loc[edits["row"], columns].to_numpy(dtype=float)
    values = (edits[columns].to_numpy(dtype=float) - before) * sign
    frame = pd.DataFrame(
        np.hstack([values, before]), columns=[*columns, *(f"{c}@null" for c in columns)], index=edits["row"].to_numpy()
    )
    return frame.assign(patient=edits["patient"].to_numpy(), orientation=edits["orientation"].to_numpy())


def asked_edits(mine: pd.DataFrame, null: pd.DataFrame, contrast: Contrast, columns: list[str]) -> pd.DataFrame | None:
    """All edits that the contrast asked for, accepted or not: orientation, patient, scores, and the null edits' likewise.

    ``None`` if it was not measured.
    """
    edits = mine[(mine["kind"] == "total") & (mine["contrast"] == contrast.name) & (mine["orientation"] != 0)]
    edits = edits[edits["row"].isin(null.index)]
    if edits.empty:
        return None
    kept = [*columns, "accepted"]
    before = null.loc[edits["row"], kept].set_axis(edits.index).add_suffix("@null")
    return pd.concat([edits[[*kept, "orientation", "patient"]], before], axis=1)


def edit_bounds(asked: pd.DataFrame, column: str) -> tuple[Effect, Effect]:
    return rejection_bounds(
        asked[column].to_numpy(dtype=float), asked[f"{column}@null"].to_numpy(dtype=float),
        asked["orientation"].to_numpy(), asked["accepted"].to_numpy(dtype=bool),
        asked["accepted@null"].to_numpy(dtype=bool), asked["patient"].to_numpy(),
    )  # fmt: skip


def crossings(frame: pd.DataFrame | None, column: str) -> tuple[float, float]:
    """Shares gained (of images without the concept at a0) and lost (of those with it); NaN without such images."""
    if frame is None:
        return np.nan, np.nan
    null, sign = frame[f"{column}@null"].to_numpy(), frame["orientation"].to_numpy()
    edited = null + sign * frame[column].to_numpy()
    before, after = (np.where(sign == s, null, edited) >= PRESENT for s in (1, -1))
    gained = float(after[~before].mean()) if (~before).any() else np.nan
    return gained, float((~after)[before].mean()) if before.any() else np.nan
