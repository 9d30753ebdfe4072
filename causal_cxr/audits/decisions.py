"""From cells to verdicts: one family a verdict kind, and every verdict in a sentence."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from causal_cxr.audits.cells import BLIND_SLOPE, EDITED, SIDES
from causal_cxr.audits.effects import benjamini_yekutieli
from causal_cxr.audits.gates import Gate
from causal_cxr.audits.verdicts import MEANING, Evidence, families, verdict_of

INTERNAL = ("gates", "blind", "follows", "shift_known")  #: columns of cells that no report shows
AS_ASKED = 0.8  #: an edit that does less of what is asked is said to, where it misses something
FEASIBLE = 100  #: times the patients at hand; beyond that no number is told


def decide(cells: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Verdicts: one family a verdict kind over all cells, BY on the conjunction p."""
    verdicts, qs = np.full(len(cells), "undecided", dtype=object), np.full(len(cells), np.nan)
    for verdict, conjunction in families([_evidence(row) for row in cells.to_dict("records")]).items():
        q = benjamini_yekutieli(conjunction)
        taken = q <= alpha
        verdicts[taken], qs[taken] = verdict, q[taken]
    cells = cells.assign(verdict=verdicts, q=qs)
    # The strongest rival needs no editor, so its family is the cells of one.
    cells["rival_q"] = cells.groupby("editor")["adjusted_p_yes"].transform(lambda p: benjamini_yekutieli(p.to_numpy()))
    why = [
        Gate("", "") if row["verdict"] != "undecided" else row["gates"][0] if row["gates"] else _why(row)
        for _, row in cells.iterrows()
    ]
    cells["refusal"], cells["reason"] = [gate.kind for gate in why], [gate.reason for gate in why]
    # The data speak against a declared path, whatever the editor does.
    cells["path_unsupported"] = cells["declared_path"].astype(bool) & (cells["adjusted_call"] == "no")
    cells["sign"] = np.sign(cells["editor_effect"]).where(cells["verdict"] != "undecided", 0).fillna(0).astype(int)
    cells["sentence"] = [sentence(row, row["reason"] or _doubt(row)) for _, row in cells.iterrows()]
    first = ["editor", "attribute", "contrast", "concept", "reader", "verdict", "refusal", "reason", "q", "sentence"]
    return cells[[*first, *[c for c in cells.columns if c not in (*first, *INTERNAL)]]]


def _doubt(row: pd.Series) -> str:
    """Why "the editor does not move it" may say little: what was asked of the attribute itself was done by half."""
    if row["verdict"] != "missed" or not row.get("effectiveness", np.nan) < AS_ASKED:
        return ""
    return _by_half(row)


def _by_half(row: pd.Series) -> str:
    if np.isnan(row["effectiveness"]):
        return f"nothing reads {row['attribute']}, so how much of it the edit does is not known"
    return f"of what was asked of {row['attribute']} itself the edit does {row['effectiveness']:.2f}"


def _evidence(row: Mapping[Any, Any]) -> Evidence:
    p = {call: {s: _or_one(row[f"{s}_p_{call}"]) for s in (*SIDES, "direct")} for call in ("yes", "no")}
    signs = {side: float(np.sign(row[f"{side}_effect"])) for side in SIDES}
    return Evidence(p["yes"], p["no"], signs, bool(row["declared_path"]), row["direct_call"] != "", bool(row["gates"]))


def _or_one(p: float) -> float:
    return 1.0 if np.isnan(p) else float(p)


def _why(row: pd.Series) -> Gate:
    if row["blind"]:
        reason = f"reader blind (slope {row['slope']:.2f}, may lie below {BLIND_SLOPE}); it cannot say 'no'"
        return Gate("reader blind", reason)
    open_sides = [side for side in SIDES if row[f"{side}_call"] == "undecided"]
    shown = row["editor_call"] == row["adjusted_call"] == "yes"
    if shown and not row["declared_path"] and row["direct_call"] == "undecided":
        open_sides = ["direct"]  # hidden or mediated; the marginal effect has no say in either
    if not open_sides:
        calls = {side: row[f"{side}_call"] for side in SIDES}
        signs = {side: float(np.sign(row[f"{side}_effect"])) for side in SIDES}
        if verdict_of(calls, signs, bool(row["declared_path"])) == "undecided":
            return Gate("opposite signs", "the editor and the unadjusted association have opposite signs")
        return Gate("correction", "not after correction for the number of cells")
    still = f"{' and '.join(open_sides)} undecided"
    if set(open_sides) & set(EDITED) and not row["effectiveness"] >= AS_ASKED:
        still += f"; {_by_half(row)}"
    if row["patients_needed"] > FEASIBLE * row["n_patients"]:
        border = "; the estimate lies on the border of what counts, no feasible number of patients would decide"
        return Gate("border", still + border)
    if np.isfinite(row["patients_needed"]):
        still += f"; about {row['patients_needed']:,.0f} patients would decide, if the estimates stood still"
    return Gate("more patients", still)


def _estimate(row: pd.Series, side: str) -> str:
    if np.isnan(row[f"{side}_effect"]):
        return "not known"
    bounds = "" if np.isnan(row[f"{side}_low"]) else f" [{row[f'{side}_low']:+.2f}, {row[f'{side}_high']:+.2f}]"
    return f"{row[f'{side}_effect']:+.2f}{bounds}"


def sentence(row: pd.Series, aside: str) -> str:
    """A verdict with its three numbers; ``aside`` (a reason, how strong the evidence is) in brackets."""
    numbers = "; ".join(f"{side} {_estimate(row, side)}" for side in SIDES)
    if row.get("labelled"):
        numbers += f"; adjusted and marginal rest on {row['labelled']:.0f} labels of the concept, too"
    if row["selected_through"]:
        numbers += (
            f"; what {row['attribute']} does by way of {row['selected_through']}, selected on, shows only as it is left "
            "among the collected"
        )
    said = f" ({aside})" if aside else ""
    return f"{row['contrast']} on {row['concept']}: {row['verdict']}{said}: {MEANING[row['verdict']]}; {numbers}."
